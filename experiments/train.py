r"""Trains one model with one method; start it again to continue.

  python -m experiments.train --config=experiments/configs/digits/rigl_90.py \
      --workdir=runs/digits/rigl_90 --config.model=vit --config.seed=1

The command writes to the work directory: config.json, dataset.json,
metrics.jsonl, checkpoints/, recipe.yaml if the method is a recipe, and, at the
end, summary.txt and pictures. A run that was killed continues from its last
checkpoint, and ends with the same bits as an uninterrupted run.

--config.mesh='data:2,model:4' divides the work among eight devices, see
`training/meshes.py`. Several processes, on one or several hosts, share a run if
each gets the same command and an address of the others. On SLURM:

  srun --ntasks=2 python -m experiments.train ... --config.mesh=data:16 \
      --coordinator=auto

Write the same in every worker of a TPU pod. Elsewhere give each process
--coordinator=HOST:PORT --processes=2, and --process=0 or --process=1. All
processes need access to the same work directory; only the first one writes.

An error in the command is reported in one line; --traceback shows where in the
code it was raised.
"""

import collections
from collections.abc import Sequence
import contextlib
import functools
import pathlib
from typing import NamedTuple

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags
import tqdm

from experiments._utils import launch
from experiments._utils import processes
from experiments._utils import stopping
from experiments.records import metrics
from experiments.records import owner
from experiments.records import workdir as workdirs
from experiments.reporting import charts
from experiments.reporting import journal as journals
from experiments.reporting import report
from experiments.training import channels
from experiments.training import dry_run as dry_runs
from experiments.training import meshes
from experiments.training import methods
from experiments.training import profiling
from experiments.training import runs
from experiments.training import slimming
from experiments.training import steps
import jaxsparse

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A config file, such as those in experiments/configs.')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'The directory for results; one with a run of the same '
    'config continues that run.')
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of the first of several processes. On '
    'SLURM, TPU pods and Open MPI, "auto" finds it, --processes and '
    '--process.')
_PROCESSES = flags.DEFINE_integer(
    'processes', None, 'The number of processes of the run.')
_PROCESS = flags.DEFINE_integer(
    'process', None, 'The index of this process, from 0.')
_DRY_RUN = flags.DEFINE_bool(
    'dry_run', False, 'Prints the config, the sparse parameters with reasons, '
    'and the cost of a step; does not train or write files.')
_CHARTS = flags.DEFINE_list(
    'charts', [], 'Additional charts of metrics: tensorboard, wandb.')
_PROFILE = flags.DEFINE_string(
    'profile', '', 'FIRST:LAST, the first and last step of a profile for '
    'TensorBoard, written to the work directory.')
flags.DEFINE_bool(
    'traceback', False, 'Whether errors show where in the code they were '
    'raised.')


# Steps that Python may be ahead of the device. More would let a signal wait for
# all of them, 32 on CPUs, and make the bar of slow steps say what is not so.
_AHEAD = 2


class Result(NamedTuple):
  """The results of a run."""
  state: steps.State
  rows: list[metrics.Row]
  summary: str
  signal: int | None = None  # One that asked to stop when all steps were done.


class Options(NamedTuple):
  """Options that do not change the results of a run."""
  charts: Sequence[str] = ()  # Names of `charts.CHARTS`.
  profile: str = ''  # 'A:B': the first and last step of a profile.


_NO_OPTIONS = Options()


def train(config: ml_collections.ConfigDict, workdir: str,
          options: Options = _NO_OPTIONS) -> Result:
  """Trains from scratch, or continues the run in `workdir`.

  With several processes, all of them call it with the same arguments.

  Args:
    config: the config, such as those in `experiments/configs`.
    workdir: a new directory, or the directory of a run with the same config.
    options: options for charts and profiles.

  Returns:
    The last state, all rows of metrics and, in the first process, the summary.

  Raises:
    ValueError: if the config, its data, the directory or its checkpoint is
      wrong, or another process trains in the directory.
    OSError: if the directory cannot be written to.
    stopping.Stopped: if a signal asked the process to stop; the step is saved.
  """
  runs.check(config)
  charts.check(options.charts)
  path = pathlib.Path(workdir)
  profile = profiling.of(options.profile, path / workdirs.PROFILE, config.steps)
  mesh = meshes.create(config)  # None: on one device.
  run, dataset = runs.create(config, mesh)
  state, weights = runs.first(
      config, run, dataset=dataset, path=path, mesh=mesh)
  here = functools.partial(meshes.on_one_device, mesh=mesh)
  # Channels are looked for on one device.
  whole = here(state) if config.slim or config.permute_budget else state
  slim = slimming.create(config, run, whole, dataset) if config.slim else None
  permuting = channels.create(config, run, whole, dataset)
  del whole

  with processes.watch() as watch, contextlib.ExitStack() as stack:
    processes.first(lambda: _claim(stack, path, config, dataset, weights))
    journal = journals.Journal(path, config, state, options.charts)
    state = journal.state
    batches = meshes.divide(dataset, mesh)
    running = collections.deque()  # Losses of steps that may be under way.
    bar = tqdm.tqdm(
        range(journal.start + 1, config.steps + 1), initial=journal.start,
        total=config.steps, disable=processes.hide_bars())
    stack.callback(profile.close)
    for step in bar:
      profile.before(step)
      batch = batches.train(config.seed, step, config.batch_size)
      kept = {}
      if step == permuting.step:
        state, kept = permuting.permute(here(state))
        state = run.place(state)
      state, loss = run.train(state, batch)
      running.append(loss)
      if len(running) > _AHEAD:
        running.popleft().block_until_ready()
      profile.after(step, loss)
      if step % config.log_every == 0 or step in (
          permuting.step, config.steps):
        row = {'step': step, 'loss': float(loss), **kept,
               **run.measure(state, batches.test())}
        if slim:
          row['channels'] = slimming.channels(slim, here(state))
        if slim and step == config.steps:
          row |= slimming.costs(slim, here(state))
        journal.add(row)
        _show(bar, row)
      watch.can_save = True
      signal = processes.asked_to_stop(watch, step)
      if step % config.save_every == 0 or step == config.steps or signal:
        journal.save(step, state)
      if signal and step < config.steps:
        raise stopping.Stopped(
            f'{stopping.stopped_by(signal)} after step {step:,}, which is '
            f'saved; {stopping.AGAIN}', signal)

    journal.close()
    params, masks = here(
        (steps.sparse(state).params, jaxsparse.get_masks(state.opt_state)))
    summary = report.write(path, config, journal.rows, params, masks
                           ) if processes.is_first() else ''
    return Result(state, journal.rows, summary, watch.number)


def dry_run(config: ml_collections.ConfigDict) -> str:
  """Returns a report of a run and its cost, without training or writing.

  Raises:
    ValueError: if the config or its data are wrong.
  """
  runs.check(config)
  run, dataset = runs.create(config)
  return dry_runs.report(config, run, dataset)


def main(argv: list[str]):
  logging.set_verbosity(logging.WARNING)  # Orbax logs a lot.
  del argv
  with launch.mistakes_in_one_line():
    processes.connect(_COORDINATOR.value, count=_PROCESSES.value,
                      index=_PROCESS.value)
    if _DRY_RUN.value:
      print(dry_run(_CONFIG.value))
      return
    result = train(_CONFIG.value, launch.workdir(_WORKDIR.value),
                   Options(_CHARTS.value, _PROFILE.value))
  if processes.is_first():
    print(f'\n{result.summary}\n{report.locations(_WORKDIR.value)}')


def _claim(stack, path, config, dataset, weights):
  """Claims the directory for this process, until the stack ends."""
  path.mkdir(parents=True, exist_ok=True)
  stack.enter_context(owner.hold(path))
  workdirs.claim(str(path), config, dataset=config.dataset,
                 fingerprint=dataset.fingerprint, weights=weights)
  for doubt in runs.doubts(config):
    launch.warn(doubt)
  if recipe := methods.recipe(config):
    runs.keep_recipe(path, recipe)
    for message in recipe.messages:
      print(f'recipe: {message}', flush=True)
  logging.info('dataset %s, %s', config.dataset, dataset.fingerprint)


def _show(bar, row):
  if not processes.is_first():
    return
  if bar.disable:
    print(f'step {row["step"]:>6,}  {metrics.describe(row)}', flush=True)
  else:
    bar.set_postfix_str(metrics.describe(row))


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=launch.parse)
