r"""Trains a network dense and sparse, and compares them side by side.

  python -m experiments.side_by_side \
      --config=experiments/configs/mnist/srigl_90.py --workdir=runs/side_by_side

The command trains the config in WORKDIR/pruned, and the same config without
pruning in WORKDIR/dense. The table at the end has a row for the dense network
and for each form of the sparse one: masked, and what is smaller, see
`training/forms.py`. The columns are the test accuracy, the weights kept, the
bytes of the parameters as they are stored, and the time of a forward pass. All
forms are timed in turns in one process. Before, the outputs of the smaller
forms are compared with those of the masked network. The table is in
side_by_side.md, and its numbers are in side_by_side.json.

Start the command again to continue. To compare runs of `experiments.train` that
have ended, give their directories. The table is written to that of --pruned,
and it has no dense row without --dense:

  python -m experiments.side_by_side --pruned=runs/digits/rigl_90 \
      --dense=runs/digits/dense
"""

from collections.abc import Sequence
import math
import pathlib

from absl import app
from absl import flags
from absl import logging
import jax
import ml_collections

from experiments import train
from experiments._utils import launch
from experiments._utils import stopping
from experiments.benchmarks import timing
from experiments.records import metrics
from experiments.records import workdir as workdirs
from experiments.reporting import forms_table
from experiments.reporting import report
from experiments.reporting import tables
from experiments.training import forms
from experiments.training import runs
from experiments.training import steps
import jaxsparse

_PRUNED = flags.DEFINE_string(
    'pruned', None, 'A finished run of a method that prunes; instead of '
    '--config and --workdir.')
_DENSE = flags.DEFINE_string(
    'dense', None, 'A finished run of the same model without pruning, to '
    'compare --pruned with.')
_BATCHES = flags.DEFINE_list('batch_sizes', ['1', '32'], 'Examples at once.')
_REPEATS = flags.DEFINE_integer(
    'passes', 101, 'Timed forward passes of each form.', lower_bound=1)


def train_both(config: ml_collections.ConfigDict, workdir: str
               ) -> tuple[pathlib.Path, pathlib.Path]:
  """Trains a config, and the same without pruning; returns both directories.

  Args:
    config: of a method that prunes.
    workdir: a new directory, or the directory of the same two runs.

  Raises:
    ValueError: if the config or the directory is wrong, as for `train.train`.
    OSError: if the directory cannot be written to.
  """
  path = pathlib.Path(workdir)
  if config.method == tables.DENSE:
    raise ValueError(
        'experiments.side_by_side needs a method that prunes, and trains the '
        "dense network itself, got config.method='dense'. Write e.g. "
        '--config=experiments/configs/mnist/srigl_90.py')
  if (path / workdirs.CONFIG).exists():
    raise ValueError(
        f'{path} must be a new directory, but holds a single run. Give another '
        f'--workdir, or compare this run: --pruned={path}')
  twin = config.copy_and_resolve_references()
  twin.update(method=tables.DENSE, permute_budget=0, slim=False,
              transposable=False)
  folders = path / 'pruned', path / 'dense'
  # First the one whose config may have mistakes.
  for i, (folder, one) in enumerate(zip(folders, (config, twin))):
    print(f'{i + 1} of 2: {one.method}, in {folder}', flush=True)
    stopping.check(train.train(one, str(folder)).signal)
  return folders


def compare(pruned: str | pathlib.Path, dense: str | pathlib.Path | None = None,
            *, batches: Sequence[int] = (1, 32), repeats: int = 101
            ) -> forms_table.Comparison:
  """Returns what was measured of each form of a network, dense first.

  Args:
    pruned: the directory of a run that has ended.
    dense: that of a dense run of the same model; `None`: there is no such row.
    batches: the numbers of examples at once.
    repeats: the timed forward passes of each form.

  Raises:
    ValueError: if a run has not ended or prunes nothing, if the two do not
      compare, or if a smaller form computes something else.
  """
  restored = _restore(pruned)
  dataset = restored.dataset
  masks = jax.tree.leaves(jaxsparse.get_masks(restored.state.opt_state))
  if not masks:
    raise ValueError(
        f'the run in {pruned} must have pruned weights, got '
        f'config.method={restored.config.method!r}. Give the --workdir of '
        'another run')
  total = sum(mask.size for mask in masks)
  made = forms.forms(restored)
  if dense:
    twin = _restore(dense)
    if twin.dataset.fingerprint != dataset.fingerprint:
      raise ValueError(
          f'the runs in {pruned} and {dense} must have the same data, got '
          f'{restored.config.dataset} and {twin.config.dataset}')
    if not restored.config.init_slim and _shapes(restored) != _shapes(twin):
      raise ValueError(
          f'the runs in {pruned} and {dense} must have the same network, got '
          f'{_size(restored)} and {_size(twin)}')
    made = {'dense': forms.Form(
        twin.run.apply, steps.variables(steps.sparse(twin.state)), total),
            **made}
  masked = timing.Form(*made['masked'][:2])
  timed = {
      name: timing.Form(form.apply, form.variables,
                        None if name in ('dense', 'masked') else masked)
      for name, form in made.items()}
  times = timing.forms(
      timed, lambda batch: dataset.train(0, 1, batch).inputs, batches, repeats)
  rows = []
  for name, form in made.items():
    (metric, judged), = steps.judging(form.apply, dataset.task)(
        form.variables, dataset.test()).items()
    rows.append(forms_table.Row(
        name, judged, form.kept, 1 - form.kept / total, timed[name].nbytes,
        dict(zip(batches, times[name]))))
  return forms_table.Comparison(metric, rows, repeats, timing.describe())


def main(argv: list[str]):
  logging.set_verbosity(logging.WARNING)  # Orbax logs a lot.
  del argv
  with launch.mistakes_in_one_line(), stopping.raised():
    launch.check_flags(['config', 'workdir'], 'one process compares')
    batches = _batches(_BATCHES.value)
    path, pruned, dense = _runs()
    text = forms_table.write(pathlib.Path(path), compare(
        pruned, dense, batches=batches, repeats=_REPEATS.value))
  print(f'\n{text}\nforms        {pathlib.Path(path) / forms_table.TABLE}\n'
        f'{report.locations(pruned)}')


def _runs():
  """The directory of the table, and those of the runs, after training."""
  config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
  if _PRUNED.value and config is None and workdir is None:
    return _PRUNED.value, _PRUNED.value, _DENSE.value
  if _PRUNED.value or _DENSE.value or config is None or workdir is None:
    raise ValueError(
        'experiments.side_by_side needs either --config and --workdir, to '
        'train, or --pruned and perhaps --dense, two runs that have ended')
  return workdir, *train_both(config, launch.workdir(workdir))


def _batches(texts):
  try:
    batches = [int(text) for text in texts]
  except ValueError:
    batches = []
  if not batches or min(batches) < 1:
    raise ValueError('--batch_sizes must be numbers of examples, such as '
                     f'--batch_sizes=1,32, got {",".join(texts)!r}')
  return batches


def _shapes(restored):
  params = steps.sparse(restored.state).params
  return {jax.tree_util.keystr(path): x.shape for path, x
          in jax.tree_util.tree_leaves_with_path(params)}


def _size(restored):
  total = sum(map(math.prod, _shapes(restored).values()))
  return f'{restored.config.model} with {total:,} parameters'


def _restore(workdir):
  path = pathlib.Path(workdir)
  metrics.ended(path / workdirs.METRICS, workdirs.read_config(path).steps)
  return runs.restore(workdir)


if __name__ == '__main__':
  app.run(main, flags_parser=launch.parse)
