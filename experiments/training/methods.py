"""How each method is spelled in jaxsparse.

A method is a function from the config, the patterns' regex and a dense optax
optimizer to a sparse optax optimizer. What a method reads from the config
beyond `configs/default.py`, its own config file sets.
"""

from collections.abc import Callable

import ml_collections
import optax

from experiments import models
from experiments import names
import jaxsparse
from jaxsparse import dynamic
from jaxsparse import recipe_files
from jaxsparse import recipes

Config = ml_collections.ConfigDict
Optimizer = optax.GradientTransformationExtraArgs
Patterns = dict[str, jaxsparse.Pattern | None]


def create(config: Config, ties: Callable[[], jaxsparse.Ties]) -> Optimizer:
  """Returns the optimizer that trains with the config's method.

  Args:
    config: its `method`, and whatever that reads.
    ties: tells which channels the model has, where a method asks for it.
  """
  method = names.lookup(METHODS, config.method, kind='method')
  more = [ties()] if config.method in _OF_CHANNELS else []
  try:
    tx = method(config, optimizer(config), *more)
  except AttributeError as error:
    if not isinstance(error.args[0], KeyError):
      raise
    raise ValueError(
        f'method {config.method!r} reads a key that this config does not set: '
        f'{error.args[0].args[0]}') from error
  return jaxsparse.observe(tx) if config.observe else tx


def optimizer(config: Config) -> Optimizer:
  """Returns the dense optimizer that methods make sparse.

  `adamw` decays weights apart from their gradients, `sgd` as an L2 penalty
  would.
  """
  schedule, decay = learning_rate(config), config.weight_decay
  return names.lookup({
      'adamw': lambda: optax.adamw(schedule, weight_decay=decay),
      'sgd': lambda: optax.chain(
          optax.add_decayed_weights(decay),
          optax.sgd(schedule, momentum=config.momentum)),
  }, config.optimizer, kind='optimizer')()


def learning_rate(config: Config) -> optax.Schedule:
  """Returns the config's learning rate by step.

  That of `steps` falls to a tenth after one half and again after three quarters
  of training.
  """
  peak, end = config.learning_rate, config.steps
  return names.lookup({
      'warmup_cosine': lambda: optax.warmup_cosine_decay_schedule(
          0., peak, end // 10, end),
      'steps': lambda: optax.piecewise_constant_schedule(
          peak, {end // 2: 0.1, end * 3 // 4: 0.1}),
  }, config.learning_rate_schedule, kind='learning rate schedule')()


def recipe(config: Config) -> recipe_files.Plan | None:
  """Returns what `config.recipe` describes, if the method is a recipe."""
  if config.method != 'recipe':
    return None
  described = config.recipe
  if not isinstance(described, str):  # The path of a file.
    described = {'names': config.sparse or models.sparse_leaves(config.model),
                 **described.to_dict()}
  return jaxsparse.from_recipe(described, total_steps=config.steps)


def nm_patterns(config: Config) -> Patterns:
  """Returns which parameters are to be N:M."""
  return _patterns(config, jaxsparse.nm(
      config.n, config.m, transposable=config.transposable))


def prune_step(config: Config) -> int:
  """Returns the step that makes the masks, once and for all.

  Raises:
    ValueError: if the method makes them at other times, or makes none.
  """
  if config.method != 'train_prune_retrain':
    raise ValueError(
        'config.permute_budget is for a method that makes N:M masks once, at '
        f'a known step; {config.method!r} does not. Use '
        '--config.method=train_prune_retrain or --config.permute_budget=0.')
  return config.steps // 2


def dense(config, inner):
  del config
  return jaxsparse.sparsify(inner, jaxsparse.prune({'.*': None}))


def magnitude(config, inner):
  """Gradual magnitude pruning, https://arxiv.org/abs/1710.01878."""
  return _gradual(config, inner, jaxsparse.unstructured(),
                  score=jaxsparse.magnitude(),
                  distribution=jaxsparse.erk(config.sparsity))


def block(config, inner):
  """The same, but whole blocks live or die."""
  return _gradual(config, inner, jaxsparse.block(tuple(config.block)),
                  score=jaxsparse.magnitude(),
                  distribution=jaxsparse.uniform(config.sparsity))


def snip_momentum(config, inner):
  """The same, by a running sum of |weight * gradient|."""
  return _gradual(config, inner, jaxsparse.unstructured(),
                  score=jaxsparse.snip_momentum(),
                  distribution=jaxsparse.uniform(config.sparsity))


def ste(config, inner):
  """N:M with gradients straight through the mask."""
  return _recipe(config, inner, recipes.ste)


def sr_ste(config, inner):
  """The same, with pruned weights decayed, https://arxiv.org/abs/2102.04010."""
  return _recipe(config, inner, recipes.sr_ste, decay=config.decay)


def mdgf_linear(config, inner):
  """Pruned weights fade out linearly, https://arxiv.org/abs/2402.04744."""
  return _recipe(config, inner, recipes.mdgf_linear)


def mdgf_exponential(config, inner):
  """The same, exponentially."""
  return _recipe(config, inner, recipes.mdgf_exponential)


def sdgf_stepwise(config, inner):
  """N falls step by step, https://arxiv.org/abs/2402.04744."""
  return _recipe(config, inner, recipes.sdgf_stepwise)


def sdgf_geometric(config, inner):
  """The same, but N and M fall together: ever smaller groups."""
  return _recipe(config, inner, recipes.sdgf_geometric, frames=None)


def top_kast(config, inner):
  """Trains more weights than it uses, https://arxiv.org/abs/2106.03517."""
  return _recipe(config, inner, recipes.top_kast)


def train_prune_retrain(config, inner):
  """Prunes once, in the middle, https://arxiv.org/abs/2104.08378."""
  return _recipe(config, inner, recipes.train_prune_retrain,
                 prune_step=prune_step(config))


def set_(config, inner):
  """Drops small weights, grows random ones, https://arxiv.org/abs/1707.04780."""
  return _dynamic(config, inner, dynamic.set_)


def dsr(config, inner):
  """Lets layers share by what survives, https://arxiv.org/abs/1902.05967."""
  return _dynamic(config, inner, dynamic.dsr)


def snfs(config, inner):
  """Grows where gradients last, https://arxiv.org/abs/1907.04840."""
  return _dynamic(config, inner, dynamic.snfs)


def rigl(config, inner):
  """Drops small weights, grows large gradients, https://arxiv.org/abs/1911.11134."""
  return _dynamic(config, inner, dynamic.rigl)


def rigl_itop(config, inner):
  """The same at longer periods, https://arxiv.org/abs/2102.02887."""
  return _dynamic(config, inner, dynamic.rigl_itop)


def mest(config, inner):
  """Holds more weights than it ends with, https://arxiv.org/abs/2110.14032."""
  return _dynamic(config, inner, dynamic.mest)


def chase(config, inner, ties):
  """Lets whole channels die on the way, https://arxiv.org/abs/2305.19454."""
  return _dynamic(
      config, inner, dynamic.chase, ties=ties,
      channel_sparsity=config.channel_sparsity, floor=config.floor,
      prune_every=config.prune_every, prune_skip=config.prune_skip)


def lock(config, inner):
  """Keeps the zeros that the parameters of `config.init_from` have."""
  if not config.init_from:
    raise ValueError(
        'method \'lock\' keeps the zeros of a run that has ended: give its '
        '--workdir as --config.init_from')
  return jaxsparse.sparsify(inner, jaxsparse.lock())


def from_recipe(config, inner):
  """What a dict or a YAML file describes, see `jaxsparse.from_recipe`."""
  return recipe(config).sparsify(inner)


def sensitivity(config, inner, ties):
  """Prunes whole heads and neurons once, https://arxiv.org/abs/2010.13382.

  Their importance is summed up over a tenth of training, before the middle.
  """
  middle = config.steps // 2
  rule = jaxsparse.prune_units(
      _units(ties), sparsity=config.sparsity,
      begin=middle - config.steps // 10,
      when=jaxsparse.every(1, begin=middle, end=middle))
  return jaxsparse.sparsify(inner, rule, jaxsparse.hard())


def group_lasso(config, inner, ties):
  """Shrinks whole heads and neurons until they vanish, and keeps them so."""
  units = _units(ties)
  shrinking = optax.chain(inner, jaxsparse.prox_group_lasso(
      config.alpha, units, learning_rate(config)))
  rule = jaxsparse.prune_vanished(units, when=jaxsparse.every(10))
  return jaxsparse.sparsify(shrinking, rule, jaxsparse.hard())


METHODS = {
    'dense': dense,
    'magnitude': magnitude,
    'block': block,
    'snip_momentum': snip_momentum,
    'ste': ste,
    'sr_ste': sr_ste,
    'mdgf_linear': mdgf_linear,
    'mdgf_exponential': mdgf_exponential,
    'sdgf_stepwise': sdgf_stepwise,
    'sdgf_geometric': sdgf_geometric,
    'top_kast': top_kast,
    'train_prune_retrain': train_prune_retrain,
    'set': set_,
    'dsr': dsr,
    'snfs': snfs,
    'rigl': rigl,
    'rigl_itop': rigl_itop,
    'mest': mest,
    'chase': chase,
    'lock': lock,
    'recipe': from_recipe,
    'sensitivity': sensitivity,
    'group_lasso': group_lasso,
}
# These are told which channels there are.
_OF_CHANNELS = ('chase', 'sensitivity', 'group_lasso')


def _patterns(config, pattern):
  sparse = config.sparse or models.sparse_leaves(config.model)
  return {sparse: pattern, '.*': None}


def _units(ties):
  return [*jaxsparse.heads(ties), *jaxsparse.neurons(ties)]


def _recipe(config, inner, method, **options):
  return jaxsparse.sparsify(
      inner, *method(nm_patterns(config), config.steps, **options))


def _gradual(config, inner, pattern, *, score, distribution):
  rule = jaxsparse.prune(
      _patterns(config, pattern), score=score, distribution=distribution,
      schedule=jaxsparse.cubic(config.begin, config.end),
      when=jaxsparse.every(config.every, begin=config.begin, end=config.end))
  return jaxsparse.sparsify(inner, rule, jaxsparse.hard())


def _dynamic(config, inner, method, **options):
  return jaxsparse.sparsify(inner, *method(
      _patterns(config, jaxsparse.unstructured()), config.sparsity,
      config.steps, every=config.every, seed=config.seed, **options))
