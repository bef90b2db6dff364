r"""Trains one model with one method; start it again and it goes on.

  python -m experiments.train --config=experiments/configs/digits/rigl_90.py \
      --workdir=runs/digits/rigl_90 --config.model=vit --config.seed=1

The work directory receives config.json, dataset.json, metrics.jsonl,
checkpoints/, recipe.yaml if the method is a recipe, and, at the end,
summary.txt and pictures. A run that was killed continues from its last
checkpoint and ends with the very bits it would have ended with.

A mistake in the command is told in one line; --traceback shows where in the
code it was noticed.
"""

from typing import NamedTuple

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags
import tqdm

from experiments._utils import launch
from experiments.records import checkpoints
from experiments.records import metrics
from experiments.records import workdir as workdirs
from experiments.reporting import report
from experiments.training import channels
from experiments.training import methods
from experiments.training import runs
from experiments.training import slimming
from experiments.training import steps
import jaxsparse

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A file of experiments/configs.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Where the results go.')
flags.DEFINE_bool(
    'traceback', False, 'Whether an error shows where in the code it arose.')


class Result(NamedTuple):
  """How a run ended."""
  state: steps.State
  rows: list[metrics.Row]
  summary: str


def train(config: ml_collections.ConfigDict, workdir: str) -> Result:
  """Trains from scratch, or goes on with the run that `workdir` holds.

  Args:
    config: what to train, from `experiments/configs`.
    workdir: a new directory, or that of a run with the same config.

  Returns:
    The last state and all that was measured.

  Raises:
    ValueError: if the config, its data, the directory or its checkpoint is
      wrong.
    OSError: if the directory cannot be written to.
  """
  runs.check(config)
  run, dataset = runs.create(config)
  state = runs.first_state(config, run)
  slim = slimming.create(config, run, state, dataset) if config.slim else None
  permuting = channels.create(config, run, state, dataset)

  path = workdirs.claim(workdir, config, fingerprint=dataset.fingerprint)
  if recipe := methods.recipe(config):
    runs.keep_recipe(path, recipe)
    for message in recipe.messages:
      print(f'recipe: {message}', flush=True)
  logging.info('dataset %s, %s', config.dataset, dataset.fingerprint)
  log = path / workdirs.METRICS
  saved = path / workdirs.CHECKPOINTS
  start, state = checkpoints.restore(saved, state)
  metrics.truncate(log, start)
  bar = tqdm.tqdm(range(start + 1, config.steps + 1), initial=start,
                  total=config.steps, disable=None)  # None: on terminals.
  for step in bar:
    batch = dataset.train(config.seed, step, config.batch_size)
    kept = {}
    if step == permuting.step:
      state, kept = permuting.permute(state)
    state, loss = run.train(state, batch)
    if step % config.log_every == 0 or step in (permuting.step, config.steps):
      row = {'step': step, 'loss': float(loss), **kept,
             **run.measure(state, dataset.test())}
      if slim:
        row['channels'] = slimming.channels(slim, state)
      if slim and step == config.steps:
        row |= slimming.costs(slim, state)
      metrics.append(log, row)
      _show(bar, row)
    if step % config.save_every == 0 or step == config.steps:
      checkpoints.save(saved, step, state)

  rows = metrics.read(log)
  params = steps.sparse(state).params
  masks = jaxsparse.get_masks(state.opt_state)
  return Result(state, rows, report.write(path, config, rows, params, masks))


def main(argv: list[str]):
  logging.set_verbosity(logging.WARNING)  # Orbax tells a lot.
  del argv
  with launch.mistakes_in_one_line():
    result = train(_CONFIG.value, _WORKDIR.value)
  print(f'\n{result.summary}\n{report.locations(_WORKDIR.value)}')


def _show(bar, row):
  if bar.disable:
    print(f'step {row["step"]:>6,}  {metrics.describe(row)}', flush=True)
  else:
    bar.set_postfix_str(metrics.describe(row))


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=launch.parse)
