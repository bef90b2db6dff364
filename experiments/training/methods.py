"""A table of methods, and their functions in jaxsparse.

A row names the function that makes the method's rule and flow, and the config
keys that are its arguments. A method's own config file sets the keys that
`configs/default.py` does not have.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections
import optax

from experiments import models
from experiments._utils import names
from experiments.training import mask_logits
from experiments.training import optimizers
import jaxsparse
from jaxsparse import methods
from jaxsparse import recipes
from jaxsparse import schedules
from jaxsparse import units

Config = ml_collections.ConfigDict
Optimizer = optax.GradientTransformationExtraArgs
Patterns = dict[str, jaxsparse.Pattern | None]
Sparsify = Callable[[optax.GradientTransformation, Any], Optimizer]


class Row(NamedTuple):
  """One method: a function, and the config keys that it is called with.

  Attributes:
    function: makes a `jaxsparse.Method`, that is a rule and a flow.
    by_place: keys of the config, or of `_DERIVED`, in the order of arguments.
    by_name: keys that keyword arguments are named after.
    fixed: keyword arguments that no config changes.
    sparsify: joins what `function` made to the dense optimizer.
  """
  function: Callable[..., Any]
  by_place: tuple[str, ...] = ()
  by_name: tuple[str, ...] = ()
  fixed: dict[str, Any] = {}
  sparsify: Sparsify = jaxsparse.sparsify


def create(config: Config, ties: Callable[[], units.Ties]) -> Optimizer:
  """Returns the optimizer that trains with the config's method.

  Args:
    config: its `method`, and the keys that the method's row names.
    ties: tells which channels the model has; called where a row asks for them.

  Raises:
    ValueError: if there is no such method, the config lacks one of its keys, or
      a value is wrong.
  """
  row = names.lookup(METHODS, config.method, kind='method')
  if config.transposable and 'nm_patterns' not in row.by_place:
    raise ValueError("config.transposable needs an N:M method, such as "
                     f"'sr_ste', got config.method={config.method!r}")
  derived = {**_DERIVED, 'ties': lambda config: ties()}

  def value(key):
    return derived[key](config) if key in derived else getattr(config, key)

  try:
    made = row.function(*map(value, row.by_place), **row.fixed,
                        **{key: value(key) for key in row.by_name})
  except AttributeError as error:
    if not isinstance(error.args[0], KeyError):  # Those of configs hold one.
      raise
    raise ValueError(
        f'method {config.method!r} needs a key that this config does not set: '
        f'{error.args[0].args[0]}') from error
  tx = row.sparsify(optimizers.optimizer(config), made)
  return jaxsparse.observe(tx) if config.observe else tx


def nm_patterns(config: Config) -> Patterns:
  """Returns which parameters are to be N:M."""
  return _patterns(config, jaxsparse.nm(
      config.n, config.m, transposable=config.transposable))


def pattern(config: Config) -> jaxsparse.Pattern | None:
  """Returns the pattern of the config's method; `None` if it has none alone.
  """
  row = names.lookup(METHODS, config.method, kind='method')
  found = [value for key in row.by_place if key in _DERIVED
           and key.endswith('_patterns')
           for value in _DERIVED[key](config).values() if value is not None]
  return found[0] if found else None


def recipe(config: Config) -> recipes.Recipe | None:
  """Returns what `config.recipe` describes, if the method is a recipe."""
  if config.method != 'recipe':
    return None
  described = config.recipe
  if not isinstance(described, str):  # The path of a file.
    described = {'names': config.sparse or models.sparse_leaves(config.model),
                 **described.to_dict()}
  return jaxsparse.from_recipe(described, total_steps=config.steps)


def prune_step(config: Config) -> int:
  """Returns the step that makes the masks, once and for all.

  Raises:
    ValueError: if the method makes them at other times, or makes none.
  """
  if config.method != 'train_prune_retrain':
    raise ValueError(
        'config.permute_budget needs a method that makes N:M masks once, at '
        f'a known step, got config.method={config.method!r}. Write '
        '--config.method=train_prune_retrain or --config.permute_budget=0.')
  return config.steps // 2


def _patterns(config, pattern):
  sparse = config.sparse or models.sparse_leaves(config.model)
  return {sparse: pattern, '.*': None}


# Arguments that are made of several keys, or of the model.
_DERIVED = {
    'nm_patterns': nm_patterns,
    'free_patterns': lambda config: _patterns(config, jaxsparse.unstructured()),
    'balanced_patterns': lambda config: _patterns(
        config, jaxsparse.unstructured(balanced=True)),
    'block_patterns': lambda config: _patterns(
        config, jaxsparse.block(tuple(config.block))),
    'prune_step': prune_step,
    'schedule': optimizers.learning_rate,
    'config': lambda config: config,
}


def _dense():
  return jaxsparse.Method(jaxsparse.prune({'.*': None}), jaxsparse.hard())


def _gradual(patterns, sparsity, *, begin, end, every, score, distribution):
  rule = jaxsparse.prune(
      patterns, score=score(), distribution=distribution(sparsity),
      schedule=schedules.cubic(begin, end),
      when=schedules.every(every, begin=begin, end=end))
  return jaxsparse.Method(rule, jaxsparse.hard())


def _lock(init_from):
  if not init_from:
    raise ValueError(
        'method \'lock\' keeps the zeros of a finished run: write '
        '--config.init_from=WORKDIR with the --workdir of that run')
  return jaxsparse.Method(jaxsparse.lock(), jaxsparse.hard())


def _step(patterns, steps, schedule, weight_decay):
  """Dense for a quarter of training, and N:M from then on."""
  switch = max(steps // 4, 1)
  adam = optax.chain(
      methods.scale_by_frozen_adam(freeze_at=switch),
      optax.add_decayed_weights(weight_decay),
      optax.scale_by_learning_rate(schedule))
  return jaxsparse.sparsify(
      adam, methods.step(patterns, steps, switch=switch))


def _elsa_nm(patterns, steps, *, every, penalty):
  return methods.elsa(
      patterns, jaxsparse.uniform(), steps, every=every, penalty=penalty)


def _learned_masks(patterns, config, *, share=1.):
  """Trains masks for a share of training, and the kept weights afterwards."""
  learning = round(share * config.steps)

  def optimizer(steps):
    phase = config.copy_and_resolve_references()
    phase.steps = steps
    return optimizers.optimizer(phase)
  return mask_logits.learn(
      methods.learned_masks(patterns, learning), optimizer(learning),
      jaxsparse.prune(patterns), steps=learning, seed=config.seed,
      tune=optimizer(config.steps - learning) if share < 1 else None)


def _sensitivity(ties, sparsity, steps):
  """Sums importance up over a tenth of training, and prunes in the middle."""
  middle = steps // 2
  rule = units.prune_units(
      _units(ties), importance=units.saliency(), sparsity=sparsity,
      begin=middle - steps // 10,
      when=schedules.every(1, begin=middle, end=middle))
  return jaxsparse.Method(rule, jaxsparse.hard())


def _group_lasso(ties, alpha, schedule):
  removable = _units(ties)
  shrink = units.prox_group_lasso(alpha, removable, schedule)
  rule = units.prune_units(
      removable, importance=units.root_mean_square(), threshold=0.,
      when=schedules.every(10))
  return jaxsparse.Method(rule, jaxsparse.hard()._replace(
      around=lambda inner: optax.chain(inner, shrink)))


def _as_it_is(inner, made):
  """Of methods that have optimizers of their own."""
  del inner
  return made


def _units(ties):
  return units.heads(ties) + units.neurons(ties)


_GRADUAL = ('begin', 'end', 'every')
_NM = ('nm_patterns', 'steps')
_FREE = ('free_patterns', 'sparsity', 'steps')
_MOVING = ('every', 'seed')

METHODS = {
    'dense': Row(_dense),

    # Pruned along a cubic, https://arxiv.org/abs/1710.01878: single weights,
    # whole blocks, or by a running sum of |weight * gradient|.
    'magnitude': Row(
        _gradual, ('free_patterns', 'sparsity'), _GRADUAL,
        dict(score=jaxsparse.magnitude, distribution=jaxsparse.erk)),
    'block': Row(
        _gradual, ('block_patterns', 'sparsity'), _GRADUAL,
        dict(score=jaxsparse.magnitude, distribution=jaxsparse.uniform)),
    'snip_momentum': Row(
        _gradual, ('free_patterns', 'sparsity'), _GRADUAL,
        dict(score=jaxsparse.snip_momentum, distribution=jaxsparse.uniform)),

    # N:M with gradients straight through the mask.
    'ste': Row(methods.ste, _NM),
    # The same, with pruned weights decayed, https://arxiv.org/abs/2102.04010.
    'sr_ste': Row(methods.sr_ste, _NM, ('decay',)),
    # The decay bypasses the optimizer, as AdamW's weight decay does.
    'sr_ste_decoupled': Row(
        methods.sr_ste, _NM, ('decay',), dict(decoupled=True)),
    # Kept weights shrink by the largest pruned, https://arxiv.org/abs/2409.09099.
    's_ste': Row(methods.s_ste, _NM),
    # Pruned weights of a trained network decay ever faster,
    # https://arxiv.org/abs/2509.25996.
    'cast': Row(methods.cast, _NM, ('decay', 'every', 'rescale')),
    # Pruned weights fade out; https://arxiv.org/abs/2402.04744, and the next.
    'mdgf_linear': Row(methods.mdgf_linear, _NM),
    'mdgf_exponential': Row(methods.mdgf_exponential, _NM),
    # N falls step by step, or N and M fall together: ever smaller groups.
    'sdgf_stepwise': Row(methods.sdgf_stepwise, _NM),
    'sdgf_geometric': Row(methods.sdgf_geometric, _NM, fixed={'frames': None}),
    # More weights are trained than used, https://arxiv.org/abs/2106.03517.
    'top_kast': Row(methods.top_kast, _NM),
    # Dense, then N:M with Adam's second moment frozen,
    # https://arxiv.org/abs/2302.01172; `config.optimizer` has no say.
    'step': Row(_step, (*_NM, 'schedule', 'weight_decay'),
                sparsify=_as_it_is),
    # Pruned once, in the middle, https://arxiv.org/abs/2104.08378.
    'train_prune_retrain': Row(
        methods.train_prune_retrain, _NM, ('prune_step',)),
    # Pruned before the first step: for trained networks.
    'prune_retrain': Row(
        methods.train_prune_retrain, _NM, fixed={'prune_step': 0}),
    # Masks are learned, weights stay, https://arxiv.org/abs/2409.17481; or the
    # kept weights are trained in the second half.
    'learned_masks': Row(
        _learned_masks, ('nm_patterns', 'config'), sparsify=_as_it_is),
    'learned_masks_retrain': Row(
        _learned_masks, ('nm_patterns', 'config'), fixed={'share': 0.5},
        sparsify=_as_it_is),

    # Random connections grow, https://arxiv.org/abs/1707.04780.
    'set': Row(methods.set_training, _FREE, _MOVING),
    # Layers share by what survives, https://arxiv.org/abs/1902.05967.
    'dsr': Row(methods.dsr, _FREE, _MOVING),
    # Connections grow where gradients last, https://arxiv.org/abs/1907.04840.
    'snfs': Row(methods.snfs, _FREE, _MOVING),
    # Connections grow where gradients are large,
    # https://arxiv.org/abs/1911.11134, or that in longer periods,
    # https://arxiv.org/abs/2102.02887.
    'rigl': Row(methods.rigl, _FREE, _MOVING),
    'rigl_itop': Row(methods.rigl_itop, _FREE, _MOVING),
    # The same with one fan-in for all neurons of a layer,
    # https://arxiv.org/abs/2305.02299.
    'srigl': Row(methods.srigl, ('balanced_patterns', 'sparsity', 'steps'),
                 (*_MOVING, 'ties')),
    # More weights are held than in the end, https://arxiv.org/abs/2110.14032.
    'mest': Row(methods.mest, _FREE, _MOVING),
    # Whole channels die on the way, https://arxiv.org/abs/2305.19454.
    'chase': Row(methods.chase, _FREE, (
        *_MOVING, 'ties', 'channel_sparsity', 'floor', 'multiple',
        'prune_every', 'prune_skip')),

    # Ever sparser, and connections grow back, https://arxiv.org/abs/2106.10404.
    'granet': Row(methods.granet, _FREE, _MOVING),

    # Dense and sparse phases take turns, https://arxiv.org/abs/2106.12379.
    'ac_dc': Row(methods.ac_dc, _FREE),

    # Weights are drawn to a sparse copy, https://arxiv.org/abs/2510.01650.
    'elsa': Row(methods.elsa, _FREE, ('every', 'penalty')),
    'elsa_nm': Row(_elsa_nm, _NM, ('every', 'penalty')),

    # The zeros of the run in `config.init_from` stay.
    'lock': Row(_lock, ('init_from',)),
    # A dict or a YAML file says it all.
    'recipe': Row(recipe, ('config',),
                  sparsify=lambda inner, made: made.sparsify(inner)),

    # Whole heads and neurons are pruned once, https://arxiv.org/abs/2010.13382,
    # or shrink until they vanish, and stay so.
    'sensitivity': Row(_sensitivity, ('ties', 'sparsity', 'steps')),
    'group_lasso': Row(_group_lasso, ('ties', 'alpha', 'schedule')),
}
