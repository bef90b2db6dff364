"""How each method is spelled in jaxsparse.

A method is a function from the config, the patterns' regex and a dense optax
optimizer to a sparse optax optimizer. What a method reads from the config
beyond `configs/default.py`, its own config file sets.
"""

import ml_collections
import optax

from experiments import models
from experiments import names
import jaxsparse
from jaxsparse import recipes

Config = ml_collections.ConfigDict
Optimizer = optax.GradientTransformationExtraArgs
Patterns = dict[str, jaxsparse.Pattern | None]


def create(config: Config) -> Optimizer:
  """Returns the optimizer that trains with the config's method."""
  method = names.lookup(METHODS, config.method, kind='method')
  try:
    tx = method(config, optimizer(config))
  except AttributeError as error:
    if not isinstance(error.args[0], KeyError):
      raise
    raise ValueError(
        f'method {config.method!r} reads a key that this config does not set: '
        f'{error.args[0].args[0]}') from error
  return jaxsparse.observe(tx) if config.observe else tx


def optimizer(config: Config) -> Optimizer:
  """Returns the dense optimizer that methods make sparse."""
  return optax.adamw(
      optax.warmup_cosine_decay_schedule(
          0., config.learning_rate, config.steps // 10, config.steps),
      weight_decay=config.weight_decay)


def nm_patterns(config: Config) -> Patterns:
  """Returns which parameters are to be N:M."""
  return _patterns(config, jaxsparse.nm(config.n, config.m))


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


def rigl(config, inner):
  """Drops small weights, grows large gradients, https://arxiv.org/abs/1911.11134."""
  return _drop_and_grow(
      config, inner, grow=jaxsparse.gradient(),
      fraction=optax.cosine_decay_schedule(config.fraction, config.end))


def set_(config, inner):
  """Drops small weights, grows random ones, https://arxiv.org/abs/1707.04780."""
  return _drop_and_grow(
      config, inner, grow=jaxsparse.random(config.seed),
      fraction=optax.constant_schedule(config.fraction))


def lock(config, inner):
  """Keeps the zeros that the parameters of `config.init_from` have."""
  if not config.init_from:
    raise ValueError(
        'method \'lock\' keeps the zeros of a run that has ended: give its '
        '--workdir as --config.init_from')
  return jaxsparse.sparsify(inner, jaxsparse.lock())


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
    'rigl': rigl,
    'set': set_,
    'lock': lock,
}


def _patterns(config, pattern):
  sparse = config.sparse or models.sparse_leaves(config.model)
  return {sparse: pattern, '.*': None}


def _recipe(config, inner, recipe, **options):
  return jaxsparse.sparsify(
      inner, *recipe(nm_patterns(config), config.steps, **options))


def _gradual(config, inner, pattern, *, score, distribution):
  rule = jaxsparse.prune(
      _patterns(config, pattern), score=score, distribution=distribution,
      schedule=jaxsparse.cubic(config.begin, config.end),
      when=jaxsparse.every(config.every, begin=config.begin, end=config.end))
  return jaxsparse.sparsify(inner, rule, jaxsparse.hard())


def _drop_and_grow(config, inner, *, grow, fraction):
  rule = jaxsparse.prune_and_grow(
      _patterns(config, jaxsparse.unstructured()),
      sparsity=jaxsparse.erk(config.sparsity), grow=grow, fraction=fraction,
      when=jaxsparse.every(config.every, end=config.end),
      init=jaxsparse.random(config.seed))
  return jaxsparse.sparsify(inner, rule, jaxsparse.hard())
