r"""Trains one model with one method; start it again and it goes on.

  python -m experiments.train --config=experiments/configs/rigl_90.py \
      --workdir=runs/rigl_90 --config.model=vit --config.seed=1

The work directory receives config.json, dataset.json, metrics.jsonl,
checkpoints/, recipe.yaml if the method is a recipe, and, at the end,
summary.txt and pictures. A run that was killed continues from its last
checkpoint and ends with the very bits it would have ended with.

A mistake in the command is told in one line; --traceback shows where in the
code it was noticed.
"""

import pathlib
from typing import Any, NamedTuple

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags
import tqdm
import yaml

from experiments import channels
from experiments import checkpoints
from experiments import data
from experiments import launch
from experiments import methods
from experiments import metrics
from experiments import report
from experiments import slimming as slimmer
from experiments import steps
from experiments import workdir as workdirs
import jaxsparse
from jaxsparse.recipes import building as recipe_files

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A file of experiments/configs.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Where the results go.')
flags.DEFINE_bool(
    'traceback', False, 'Whether an error shows where in the code it arose.')

PyTree = Any


class Restored(NamedTuple):
  """A run that was saved."""
  config: ml_collections.ConfigDict
  run: steps.Steps
  dataset: data.Dataset
  state: steps.State


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
  _check(config)
  run, dataset = _run(config)
  state = _first_state(config, run)
  slimming = slimmer.create(
      config, run, state, dataset) if config.slim else None
  permuting = channels.create(config, run, state, dataset)

  path = workdirs.claim(workdir, config, fingerprint=dataset.fingerprint)
  if recipe := methods.recipe(config):
    keep_recipe(path, recipe)
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
      if slimming:
        row['channels'] = slimmer.channels(slimming, state)
      if slimming and step == config.steps:
        row |= slimmer.costs(slimming, state)
      metrics.append(log, row)
      _show(bar, row)
    if step % config.save_every == 0 or step == config.steps:
      checkpoints.save(saved, step, state)

  rows = metrics.read(log)
  params = steps.sparse(state).params
  masks = jaxsparse.get_masks(state.opt_state)
  return Result(state, rows, report.write(path, config, rows, params, masks))


def keep_recipe(path: pathlib.Path, made: recipe_files.Recipe):
  """Writes a recipe into a work directory, all of it, or finds that it is it.

  Raises:
    ValueError: if a file that the config names has changed since.
  """
  file, ours = path / workdirs.RECIPE, jaxsparse.recipes.to_recipe(made)
  if not file.exists():
    jaxsparse.recipes.to_recipe(made, file)
    return
  theirs = yaml.safe_load(file.read_text())
  if changed := [f'{key} is {theirs.get(key)!r} there and {value!r} here'
                 for key, value in ours.items() if theirs.get(key) != value]:
    raise ValueError(f'{file} is the recipe of another run: '
                     f'{"; ".join(changed)}. Give another --workdir.')


def load(workdir: str, *, slim: bool = False) -> PyTree:
  """Returns the variables at the last checkpoint of a run, params sparse.

  Args:
    workdir: of the run.
    slim: whether to cut out the channels that are of no effect.

  Raises:
    ValueError: if it holds no checkpoint.
  """
  config, run, dataset, state = restore(workdir)
  if slim:
    return slimmer.slim(
        slimmer.create(config, run, state, dataset), state).variables
  return steps.variables(steps.sparse(state))


def restore(workdir: str) -> Restored:
  """Returns a run as it was at its last checkpoint.

  Raises:
    ValueError: if it holds none.
  """
  path = pathlib.Path(workdir)
  config = workdirs.read_config(path)
  run, dataset = _run(config)
  step, state = checkpoints.restore(
      path / workdirs.CHECKPOINTS, _first_state(config, run))
  if not step:
    raise ValueError(f'{path} holds no checkpoint')
  return Restored(config, run, dataset, state)


def main(argv: list[str]):
  logging.set_verbosity(logging.WARNING)  # Orbax tells a lot.
  del argv
  with launch.mistakes_in_one_line():
    result = train(_CONFIG.value, _WORKDIR.value)
  print(f'\n{result.summary}\n{report.locations(_WORKDIR.value)}')


def _first_state(config, run):
  """The state that a run starts from, if it does not go on."""
  if not config.init_from:
    return run.init(None)
  return run.init(load(config.init_from, slim=config.init_slim))


def _run(config):
  """The steps of a run, and what it trains on."""
  dataset = data.load(config)
  tx = methods.create(config, lambda: steps.ties(config, dataset))
  return steps.create(config, tx, dataset), dataset


def _check(config):
  if config.init_slim and not config.init_from:
    raise ValueError('config.init_slim cuts channels out of config.init_from: '
                     'give the --workdir of a run that has ended')
  if config.init_slim and config.method == 'chase':
    raise ValueError('config.init_slim is for methods that keep the channels '
                     'that are left, such as dense; chase reads them from the '
                     'model as it was')
  least = dict(steps=1, batch_size=1, log_every=1, save_every=1, seed=0,
               context=1, test_examples=1, image_size=1, permute_budget=0)
  for key, value in least.items():
    if config[key] < value:
      raise ValueError(
          f'config.{key} must be at least {value}, got {config[key]}')


def _show(bar, row):
  if bar.disable:
    print(f'step {row["step"]:>6,}  {metrics.describe(row)}', flush=True)
  else:
    bar.set_postfix_str(metrics.describe(row))


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=launch.parse)
