"""Runs: made from a config, or restored from a work directory."""

import math
import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections
import yaml

from experiments import data
from experiments._utils import launch
from experiments.records import checkpoints
from experiments.records import workdir as workdirs
from experiments.training import memory
from experiments.training import meshes
from experiments.training import methods
from experiments.training import slimming
from experiments.training import steps
from jaxsparse import recipes

PyTree = Any

_INT32 = 2 ** 31 - 1
# What a key of `configs/default.py` may be: least and most.
_WHOLE = dict(
    steps=(1, _INT32), batch_size=(1, _INT32), log_every=(1, _INT32),
    save_every=(1, _INT32), seed=(0, 2 ** 32 - 1), context=(1, _INT32),
    test_examples=(1, _INT32), image_size=(1, _INT32),
    permute_budget=(0, _INT32))
_NUMBERS = dict(learning_rate=(0., math.inf), weight_decay=(0., math.inf),
                momentum=(0., 1.))


# What makes a config one of a run.
_KEYS = ('method', 'dataset', 'model', 'init_from', 'init_slim', 'mesh',
         *_WHOLE, *_NUMBERS)


class Restored(NamedTuple):
  """A run that was saved."""
  config: ml_collections.ConfigDict
  run: steps.Steps
  dataset: data.Dataset
  state: steps.State


class First(NamedTuple):
  """The state that a run starts from."""
  state: steps.State
  weights: str | None = None  # Their fingerprint, if another run gave them.


def check(config: ml_collections.ConfigDict):
  """Finds mistakes in the keys that every config has.

  Raises:
    ValueError: if there is one.
  """
  if missing := [key for key in _KEYS if key not in config]:
    raise ValueError(
        f'the config of a run needs {", ".join(missing[:3])}: start from '
        'experiments/configs/default.py. Use configs of sweeps with '
        'experiments.sweep, and those of pruned networks with '
        'experiments.prune')
  if config.init_slim and not config.init_from:
    raise ValueError('config.init_slim removes channels from config.init_from: '
                     'write --config.init_from=WORKDIR with the --workdir of a '
                     'finished run')
  if config.init_slim and config.method == 'chase':
    raise ValueError('config.init_slim needs a method that does not prune '
                     'channels, such as dense; chase needs the channels of the '
                     'original model')
  for key, (least, most) in {**_WHOLE, **_NUMBERS}.items():
    if not least <= config[key] <= most:  # NaN is in no range.
      upto = f' and at most {most:,}' if most != math.inf else ''
      raise ValueError(f'config.{key} must be at least {least:g}{upto}, got '
                       f'{_short(config[key])}')
  for key, value in config.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise ValueError(f'config.{key} must be a finite number, got {value}')


def doubts(config: ml_collections.ConfigDict) -> list[str]:
  """Returns warnings about settings that are valid, but rarely intended."""
  end = config.get('end')
  if isinstance(end, int) and end > config.steps:
    return [f'config.end={end:,} is after the last step, {config.steps:,}, so '
            'pruning does not reach its target']
  return []


def create(config: ml_collections.ConfigDict,
           mesh: jax.sharding.Mesh | None = None
           ) -> tuple[steps.Steps, data.Dataset]:
  """Returns the steps of a run, and the data set that it trains on.

  Args:
    config: of the run; on which devices it ran does not matter.
    mesh: the devices to run on; `None` is one.

  Raises:
    ValueError: if the config names a method, a model or a data set that does
      not exist, or three that do not fit each other.
  """
  dataset = data.load(config)
  memory.check(config, dataset)
  tx = methods.create(config, lambda: steps.ties(config, dataset))
  return steps.create(config, tx, dataset, mesh), dataset


def first(config: ml_collections.ConfigDict, run: steps.Steps, *,
          dataset: data.Dataset, path: pathlib.Path,
          mesh: jax.sharding.Mesh | None = None) -> First:
  """Returns the state that a run starts from: new, or of `config.init_from`.

  A run with a checkpoint needs only a state to restore it into. So it does not
  read `config.init_from`, which may be gone.

  Args:
    config: of the run.
    run: its steps.
    dataset: what it trains on.
    path: its work directory, which may be missing.
    mesh: the devices that they run on.

  Raises:
    ValueError: if `config.init_from` holds no checkpoint.
  """
  if not config.init_from:
    return First(run.init(None))
  if not (saved := checkpoints.shapes(path / workdirs.CHECKPOINTS)):
    given = _on_one_device(config.init_from, mesh)
    return First(run.init(_variables(given, slim=config.init_slim)),
                 checkpoints.digest(_variables(given))[:12])
  # Compiled, methods do not look at weights, which here are not those pruned.
  init = run.init if mesh else jax.jit(run.init)
  variables = steps.new_variables(config, dataset, seed=config.seed)
  return First(init(
      _cut(variables, saved) if config.init_slim else variables))


def restore(workdir: str, mesh: jax.sharding.Mesh | None = None) -> Restored:
  """Returns a run as it was at its last checkpoint.

  Args:
    workdir: of the run.
    mesh: the devices to go on with it; they need not be those it ran on.

  Raises:
    ValueError: if `workdir` holds no checkpoint.
  """
  path = pathlib.Path(workdir)
  config = workdirs.read_config(path)
  run, dataset = create(config, mesh)
  step, state = checkpoints.restore(
      path / workdirs.CHECKPOINTS,
      first(config, run, dataset=dataset, path=path, mesh=mesh).state)
  if not step:
    raise ValueError(f'{path} must hold a checkpoint, but has none. Give the '
                     '--workdir of a run that has made a step')
  return Restored(config, run, dataset, state)


def load(workdir: str, *, slim: bool = False,
         mesh: jax.sharding.Mesh | None = None) -> PyTree:
  """Returns the variables at the last checkpoint of a run, params sparse.

  Args:
    workdir: of the run.
    slim: whether to cut out the channels that are of no effect.
    mesh: the devices to read it with; the result is on one.

  Raises:
    ValueError: if `workdir` holds no checkpoint.
  """
  return _variables(_on_one_device(workdir, mesh), slim=slim)


def keep_recipe(path: pathlib.Path, made: recipes.Recipe):
  """Writes a recipe, defaults included, or finds that it is there already.

  Args:
    path: the work directory of a run.
    made: the recipe of its config.

  Raises:
    ValueError: if a file that the config names has changed since.
  """
  file, ours = path / workdirs.RECIPE, recipes.to_recipe(made)
  if not file.exists():
    recipes.to_recipe(made, file)
    return
  try:
    theirs = dict(yaml.safe_load(file.read_text()))
  except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
    raise ValueError(f'cannot read {file}: {launch.one_line(error)}. Remove '
                     'it, and it is written anew.') from error
  if changed := [f'{key} is {theirs.get(key)!r} there and {value!r} here'
                 for key, value in ours.items() if theirs.get(key) != value]:
    raise ValueError(f'{file} is the recipe of another run: '
                     f'{"; ".join(changed)}. Give another --workdir.')


def _on_one_device(workdir, mesh):
  found = restore(workdir, mesh)
  return found._replace(state=meshes.on_one_device(found.state, mesh))


def _variables(restored, *, slim=False):
  config, run, dataset, state = restored
  if slim:
    return slimming.slim(
        slimming.create(config, run, state, dataset), state).variables
  return steps.variables(steps.sparse(state))


def _cut(variables, saved):
  """Variables of the shapes that were saved, after channels were cut out."""
  def one(path, leaf):
    name = jax.tree_util.keystr(path)
    shape = saved.get(f'.params{name}', saved.get(f'.averages{name}', ()))
    return leaf[tuple(map(slice, shape))]
  return jax.tree.map_with_path(one, variables)


def _short(number):
  """A number as it was written, but no line full of digits."""
  text = str(number)
  return text if len(text) < 24 else f'{text[:20]}... ({len(text)} digits)'
