r"""Prunes one trained network with every method at every target, in one shot.

  pip install -e '.[data]'
  python -m experiments.prune --config=experiments/configs/magika/one_shot.py \
      --workdir=runs/magika/one_shot

The network is one that a Python package ships, or a run of `experiments.train`:

  python -m experiments.prune \
      --config=experiments/configs/digits/one_shot_resnet.py \
      --workdir=runs/digits/one_shot --config.run=runs/digits/dense_small_resnet

The command writes to the work directory: table.md, a picture, cells.jsonl (one
line for each pruned network), results.jsonl (the same as a sweep tells it, for
`experiments.render`) and, in cells/METHOD/TARGET/SEED/pruned, params and masks
as Orbax checkpoints. Start the command again to continue: measured
networks are not pruned again, and an interrupted one continues after its last
kernel. Methods, targets and seeds may be added later. table.md and
results.jsonl tell what the last command asked for; a command that asks for less
than the one before says so. If a network cannot be pruned, the others are still
pruned; the command reports it at the end, with exit code 1.

Lists are overridden as in `experiments.sweep`: --config.seeds=0,1,
--config.methods=wanda,sparsegpt, --config.targets="'50%,2:4'". --quick tries
all methods with few examples, one seed and one target.
"""

import itertools
import operator
import pathlib
import shlex
import sys
from typing import NamedTuple

from absl import app
from absl import flags
from absl import logging
import ml_collections
import tqdm

from experiments import train  # noqa: F401  # Defines flags of this command.
from experiments._utils import launch
from experiments._utils import stopping
from experiments.pruning import cells
from experiments.pruning import networks
from experiments.pruning import plan
from experiments.pruning import report
from experiments.records import environment
from experiments.records import metrics
from experiments.records import owner
from experiments.records import workdir as workdirs
from experiments.reporting import results

CACHE = 'cache'


class Pruned(NamedTuple):
  """The results of a call of `prune`."""
  table: str
  failures: list[str]  # A line for each network that could not be pruned.


def prune(config: ml_collections.ConfigDict, workdir: str, *, command: str = ''
          ) -> Pruned:
  """Prunes and measures the networks that are missing, and writes the table.

  Args:
    config: the config, see `experiments/configs/one_shot.py`.
    workdir: a new directory, or one with results of the same config.
    command: the command that repeats the results, for the table.

  Raises:
    ValueError: if the config, the network or the directory is wrong, or nothing
      can be pruned.
    OSError: if the directory cannot be written to.
  """
  config = plan.checked(config)
  network = networks.load(config, config.seeds[0])
  path = pathlib.Path(workdir)
  path.mkdir(parents=True, exist_ok=True)
  with owner.hold(path):
    _claim(path, config, network)
    return _prune(config, path, network, command)


def _prune(config, path, network, command):
  """Prunes in a directory that this process has claimed."""
  log = path / workdirs.CELLS
  rows = _measured(log)
  done = {*map(plan.cell, rows)}
  planned = plan.cells(config)
  if {*planned} - done:
    environment.keep(path, len(rows))
  if warning := results.left_out(path, {
      (cell.row, cell.target, cell.seed) for cell in planned}):
    launch.warn(warning)
  here = environment.brief(path)

  def write():
    return report.write(path, metrics.read(log), config, title=network.title,
                        data=network.data, command=command)

  failures = []
  with tqdm.tqdm(total=len(planned), initial=len(done & {*planned}),
                 unit='network', disable=None) as bar:
    for seed, group in itertools.groupby(
        planned, operator.attrgetter('seed')):
      waiting = [cell for cell in group if cell not in done]
      if waiting and plan.has_networks(config):
        network = networks.load(config, seed)
        _check_weights(rows, seed, network)
      bench = cells.prepare(network, seed) if waiting else None
      for cell in waiting:
        try:
          row = cells.measure(bench, cell, path / cell.folder,
                              save=config.save_pruned)
        except ValueError as error:  # For example, a pattern that does not fit.
          failures.append(f'{cell}: {launch.one_line(error)}')
          _say(bar, f'n/a: {failures[-1]}')
          continue
        metrics.append(log, row | {'environment': here})
        cells.forget_progress(path / cell.folder)
        bar.update()
        key = metrics.judged_by(row)
        _say(bar, f'{cell}: {metrics.METRICS[key].show(row[key])}')
        write()
  return Pruned(write(), failures)


def main(argv: list[str]):
  logging.set_verbosity(logging.WARNING)  # Orbax logs a lot.
  del argv
  command = ['python', '-m', 'experiments.prune', *sys.argv[1:]]
  with launch.mistakes_in_one_line(), stopping.raised():
    launch.check_flags(['config', 'workdir'], 'one process prunes')
    path = pathlib.Path(launch.workdir(flags.FLAGS.workdir))
    launch.keep_programs(str(path / CACHE))  # Networks share compilations.
    pruned = prune(flags.FLAGS.config, str(path),
                   command=shlex.join(command))
  print(f'\n{pruned.table}')
  print(*sorted(file for file in path.iterdir() if file.is_file()), sep='\n')
  if pruned.failures:
    sys.exit('\n'.join(['error: not all could be pruned:', *pruned.failures]))


def _measured(log):
  """The rows, one a cell; wrong and repeated rows are dropped."""
  found, problems = metrics.examine(log)
  rows = {}
  for row in found:
    if {*plan.Cell._fields} <= {*row} and plan.cell(row) not in rows:
      rows[plan.cell(row)] = row
  if problems or len(rows) < len(found):
    why = problems[0] if problems else 'a row is wrong, or there twice'
    launch.warn(f'{log} is damaged: {why}. Networks without a row are pruned '
                'again.')
  metrics.rewrite(log, [*rows.values()])  # Without half a row.
  return [*rows.values()]


def _check_weights(rows, seed, network):
  """Refuses to compare methods on networks that only share a directory."""
  theirs = {row['weights'] for row in rows if row['seed'] == seed}
  if theirs - {network.weights}:
    raise ValueError(
        f'seed {seed} was pruned from the weights {", ".join(theirs)}, and its '
        f'run now has {network.weights}. Results compare only on the same '
        'network. Give another --workdir')


def _claim(path, config, network):
  if (path / workdirs.CONFIG).exists() and (
      'calibration' not in workdirs.read_config(path)):
    raise ValueError(f'{path} must be a directory of experiments.prune, but '
                     'holds a run of experiments.train. Give another '
                     '--workdir.')
  fingerprint = network.data
  if not plan.has_networks(config):  # Else each row tells its network.
    fingerprint += f'-{network.weights}'
  workdirs.claim(str(path), config, dataset=f'{network.title} and its weights',
                 fingerprint=fingerprint, free=plan.FREE)
  workdirs.write(path / workdirs.CONFIG, config.to_json(indent=2) + '\n')


def _say(bar, text):
  if bar.disable:
    print(text, flush=True)
  else:
    bar.write(text)


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=launch.parse)
