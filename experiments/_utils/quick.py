"""--quick: a try of a command in minutes, whose numbers say nothing."""

import ml_collections

from experiments._utils import grids

_STEPS = 40  # Of a training.
_LEAST = 2  # So that what happens every few steps is not in all of them.
# Keys that count steps. They shrink with the training.
_COUNTS = ('every', 'begin', 'end', 'prune_every', 'frequency')
_FIRST = ('seeds', 'targets')  # Lists of which one entry is enough.
_EXAMPLES = {'calibration': 32, 'judged': 128}  # Of networks that are pruned.


def shrink(config: ml_collections.ConfigDict):
  """Makes a config of any command small, in place.

  A training has 40 steps, and is measured twice. A sweep has its first seed and
  its first target, tunes nothing, and keeps all its rows.

  Args:
    config: of `experiments.train`, of a sweep, or of `experiments.prune`.

  >>> config = ml_collections.ConfigDict({
  ...     'seeds': (0, 1), 'methods': ('set', 'rigl'), 'base': {
  ...         'steps': 400, 'every': 25, 'log_every': 50, 'save_every': 50}})
  >>> shrink(config)
  >>> config.seeds, config.methods, config.base.steps, config.base.every
  ((0,), ('set', 'rigl'), 40, 2)
  """
  if 'targets' in config:
    grids.split(config, ['targets'])
  for key in _FIRST:
    if key in config:
      config[key] = config[key][:1]
  if 'tune' in config:
    del config.tune
  if 'plot_target' in config and config.targets:
    config.plot_target, = config.targets
  for key, most in _EXAMPLES.items():
    if key in config:
      config[key] = min(config[key], most)
  base = config.get('base', config)
  if 'steps' not in base:
    return
  share = min(1, _STEPS / base.steps)
  for settings in (base, *config.get('only', {}).values()):
    _scale(settings, share)
  base.log_every = base.save_every = max(base.steps // 2, 1)


def _scale(settings, share):
  for key in ('steps', *_COUNTS):
    if settings.get(key):
      settings[key] = min(settings[key], max(
          _LEAST, round(share * settings[key])))
  recipe = settings.get('recipe')
  if isinstance(recipe, ml_collections.ConfigDict):  # Else a file's name.
    _scale(recipe, share)
