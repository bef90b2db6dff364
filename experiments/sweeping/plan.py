"""The runs of a sweep: method x target x seed, and the runs that tune.

A target is 'N:M' or a sparsity, such as '90%'. A method may have several
variants: `config.only` maps their names to their method and settings. If the
settings have all keys that their methods read, the sweep needs no targets.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections

from experiments import data
from experiments._utils import grids
from experiments._utils import names
from experiments.records import metrics
from experiments.records import workdir as workdirs
from experiments.reporting import tables
from experiments.training import methods
from experiments.training import steps

Config = ml_collections.ConfigDict

# Keys that the sweep itself sets.
_TARGET = ('n', 'm', 'sparsity')
_PLANNED = ('method', *_TARGET, 'seed')


class Planned(NamedTuple):
  """One run: what it trains and where."""
  method: str  # Or a variant of one.
  target: str | None  # 'N:M' or 'S%'; None for dense.
  seed: int
  config: Config
  path: pathlib.Path
  value: Any = None  # Of the key that is tuned.


def judged(config: Config, path: pathlib.Path,
           chosen: Mapping[str, Any] | None = None) -> list[Planned]:
  """Returns the runs that the table is made of, seed after seed.

  Args:
    config: that of the sweep.
    path: its work directory.
    chosen: the tuned value of each method; methods without one have no runs.
      None if nothing was tuned.
  """
  key = config.tune.key if chosen is not None else None
  return [
      _planned(config, path / 'runs', method, target, seed,
               **({key: chosen[method]} if key else {}))
      for seed in config.seeds for method in config.methods
      if chosen is None or method in chosen
      for target in (
          config.targets if tables.has_targets(config)
          and not tables.is_dense(method) else (None,))]


def tuning(config: Config, path: pathlib.Path) -> list[Planned]:
  """Returns the runs by which each method's value is chosen, if any.

  Args:
    config: that of the sweep.
    path: its work directory.
  """
  if not tunes(config):
    return []
  tune = config.tune
  return [
      _planned(config, path / 'tuning' / f'{tune.key}_{value}', method,
               None if tables.is_dense(method) else tune.target, seed,
               **{tune.key: value})._replace(value=value)
      for seed in tune.seeds for method in config.methods
      for value in tune['values']]


def method_of(config: Config, name: str) -> str:
  """Returns the method that a row of the sweep is a variant of.

  Args:
    config: that of the sweep.
    name: one of its `methods`.
  """
  return config.get('only', {}).get(name, {}).get('method', name)


def tunes(config: Config) -> bool:
  """Returns whether the sweep tunes; no values, no tuning."""
  return bool(config.get('tune') and config.tune['values'])


def build(planned: Planned):
  """Builds model, optimizer and state of a run, without computing anything.

  Raises:
    ValueError: if that is impossible.
  """
  config = planned.config
  dataset = data.load(config)
  tx = methods.create(config, lambda: steps.ties(config, dataset))
  jax.eval_shape(lambda: steps.create(config, tx, dataset).init(None))


def ended(planned: Planned) -> bool:
  """Returns whether a run has ended; it writes its summary last.

  A run with damaged rows has not ended; started again, it repairs them.
  """
  if not (planned.path / workdirs.SUMMARY).exists():
    return False
  rows, problems = metrics.examine(planned.path / workdirs.METRICS)
  return not problems and bool(rows) and (
      rows[-1].get('step') == planned.config.steps)


def differences(config: Config, base: Config) -> dict[str, Any]:
  """Returns what a run's config has otherwise than the sweep's base.

  Args:
    config: that of the run.
    base: `config.base` of the sweep.
  """
  return {key: value for key, value in config.to_dict().items()
          if key not in _PLANNED
          and (key not in base or base[key] != value)}


def checked(config: Config) -> Config:
  """Returns a sweep's config with its references and lists resolved.

  Raises:
    ValueError: if there is a mistake in it.
  """
  config = config.copy_and_resolve_references()
  grids.split(config, ('methods', 'targets'))
  if not config.targets and all(
      tables.is_dense(name) or name in config.get('only', {})
      for name in config.methods):
    config.targets = (tables.ALL,)
  grids.check(config, {'methods': 'ste,sr_ste', 'targets': '2:4'})
  for name in (*config.methods, *config.get('only', {})):
    names.lookup(methods.METHODS, method_of(config, name), kind='method')
  for name, settings in config.get('only', {}).items():
    own = {'method'} if tables.has_targets(config) else {'method', *_TARGET}
    if fixed := sorted({*settings} & {*_PLANNED} - own):
      raise ValueError(f'config.only.{name} must not set {fixed}. Write it in '
                       'config.targets or config.seeds')
  if tables.has_targets(config):
    grids.check_targets(config.targets, 'targets')
  if tunes(config):
    _check_tuning(config)
  return config


def check_directories(runs: list[Planned]):
  """Finds runs of other configs where these runs would go.

  Raises:
    ValueError: if there are any.
  """
  for run in runs:
    if not (run.path / workdirs.CONFIG).exists():
      continue
    theirs = workdirs.read_config(run.path).to_dict()
    ours = json.loads(run.config.to_json())
    for key in sorted({*theirs, *ours} - workdirs.FREE):
      if theirs.get(key) != ours.get(key):
        raise ValueError(
            f'{run.path} holds a run of another config: {key} is '
            f'{theirs.get(key)!r} there and {ours.get(key)!r} here. Give '
            'another --workdir.')


def _planned(config, path, method, target, seed, **settings):
  run = config.base.copy_and_resolve_references()
  with run.unlocked():
    for key in {*_TARGET} & {*run}:
      del run[key]  # A method that needs another kind of target then raises.
    run.update(grids.of_target(target) if target else {})
    run.update(config.get('only', {}).get(method, {}))
    run.update(settings, method=method_of(config, method), seed=seed)
  place = grids.folder(target) if target else 'all'
  return Planned(method, target, seed, run,
                 path / method / place / f'seed_{seed}')


def _check_tuning(config):
  tune = config.tune
  grids.check_targets([tune.target], 'tune.target')
  if not tune.seeds:
    raise ValueError('config.tune.seeds must not be empty. Write e.g. '
                     '--config.tune.seeds=1000')
  if shared := sorted({*tune.seeds} & {*config.seeds}):
    raise ValueError(
        'config.tune.seeds and config.seeds must differ, because values look '
        'too good on the seeds by which they were chosen; both have '
        f'{shared}. Write e.g. --config.tune.seeds=1000')
  if tune.key in _PLANNED or tune.key not in config.base:
    raise ValueError('config.tune.key must be a key of config.base, such as '
                     f"'learning_rate', got {tune.key!r}")
  for method, settings in config.get('only', {}).items():
    if tune.key in settings:
      raise ValueError(
          f'config.only.{method} sets {tune.key}, which config.tune chooses. '
          'Write it in one place only')
