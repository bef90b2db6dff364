"""The table of the contract suite: methods, optimizers and trees.

A new method is one row of `METHODS`.
"""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import optax

import jaxsparse
from jaxsparse import schedules

_KERNELS = '.*kernel|0/0|1'  # What the trees below call their weights.
_FREE = {_KERNELS: jaxsparse.unstructured()}
_NM = {_KERNELS: jaxsparse.nm(2, 4)}
_BALANCED = {_KERNELS: jaxsparse.unstructured(balanced=True)}


def _prune(patterns, **options):
  return functools.partial(jaxsparse.prune, patterns, **options)


def _standard_schedule(schedule):
  """optax itself needs standard promotion; the library around it is strict."""
  def wrapped(step):
    with jax.numpy_dtype_promotion('standard'):
      return schedule(step)
  return wrapped


def _recipes(*names, **options):
  """Rows of recipes for a training of four steps."""
  every = dict.fromkeys(('top_kast', 'cast'), {'every': 2})
  made = {name: functools.partial(
      getattr(jaxsparse.methods, name), _NM, 4, **options,
      **every.get(name, {})) for name in names}
  return {name: ((lambda f=f: f().rule), (lambda f=f: f().flow), False)
          for name, f in made.items()}


def _dynamic(name, patterns=_FREE, **options):
  """A row of `jaxsparse.methods` for a training of six steps."""
  options = {'every': 2 if name != 'dsr' else 1, **options}
  make = functools.partial(
      getattr(jaxsparse.methods, name), patterns, 0.5, 6, **options)
  return (lambda: make().rule), (lambda: make().flow), False


def _alternating(**options):
  """Sparse from step 1, dense from step 2 and sparse from step 4 of 6."""
  make = functools.partial(
      jaxsparse.methods.ac_dc, _FREE, 0.5, 6, **options)
  return (lambda: make().rule), (lambda: make().flow), False


def _elsa(patterns, sparsity, **options):
  make = functools.partial(
      jaxsparse.methods.elsa, patterns, sparsity, 5, every=2, **options)
  return (lambda: make().rule), (lambda: make().flow), False


_TIE = jaxsparse.units.Tie(8, (
    jaxsparse.units.Member('block/fc/kernel', 1, role='makes'),
    jaxsparse.units.Member('block/fc/bias', 0, role='beside'),
    jaxsparse.units.Member('head/kernel', 0, role='reads')))


_RECIPE = functools.partial(jaxsparse.from_recipe, {
    'sparsity': 0.75, 'initial_sparsity': 0.25, 'pattern': '2x4',
    'criterion': 'snip_momentum', 'scope': 'global', 'names': _KERNELS},
                            total_steps=6)

# name -> (rule, flow, whether masks are those of the newest magnitudes)
METHODS = {
    'one_shot': (
        _prune(_FREE, distribution=jaxsparse.uniform(0.75)), jaxsparse.hard,
        True),
    'gradual': (
        _prune(_FREE, distribution=jaxsparse.erk(0.75),
               schedule=schedules.cubic(1, 5), when=schedules.every(2)),
        jaxsparse.hard, False),
    'global': (
        _prune(_FREE, distribution=jaxsparse.global_threshold(0.6)),
        jaxsparse.hard, True),
    'block': (
        _prune({_KERNELS: jaxsparse.block((4, 2))},
               distribution=jaxsparse.uniform(0.5)), jaxsparse.hard, True),
    'channel': (
        _prune({_KERNELS: jaxsparse.channel(-1, sparsity=0.5)}),
        jaxsparse.hard, True),
    'snip': (
        _prune(_FREE, score=jaxsparse.saliency(),
               distribution=jaxsparse.global_threshold(0.5),
               when=schedules.every(1, begin=1, end=1)), jaxsparse.hard,
        False),
    'snip_momentum': (
        _prune(_FREE, score=jaxsparse.snip_momentum(),
               distribution=jaxsparse.uniform(0.5),
               when=schedules.every(2, begin=2)), jaxsparse.hard, False),
    'lock': (jaxsparse.lock, jaxsparse.hard, False),
    'rigl': (
        functools.partial(
            jaxsparse.prune_and_grow, _FREE, sparsity=0.75,
            grow=jaxsparse.gradient(), when=schedules.every(2, end=4),
            fraction=_standard_schedule(optax.cosine_decay_schedule(0.5, 6))),
        jaxsparse.hard, False),
    'set': (
        functools.partial(
            jaxsparse.prune_and_grow, _FREE, sparsity=jaxsparse.erk(0.75),
            grow=jaxsparse.scores.random(1), when=schedules.every(2)),
        jaxsparse.hard, False),
    'set_by_sign': _dynamic('set_training', by_sign=True),
    'dsr': _dynamic('dsr', threshold=0.5),
    'snfs': _dynamic('snfs'),
    'rigl_replacing_steps': _dynamic('rigl'),
    'rigl_itop': _dynamic('rigl_itop'),
    'srigl': _dynamic('srigl', _BALANCED, ties=[_TIE], gamma=0.9),
    'mest': _dynamic('mest'),
    'mest_em': _dynamic('mest', soft_bound=False),
    'chase': _dynamic('chase', ties=[_TIE], prune_every=1, surplus=0.2),
    'granet': _dynamic('granet', initial_sparsity=.25, end=5),
    'ac_dc': _alternating(period=1, warm_up=1, fine_tune=2),
    'progressive': (
        lambda: jaxsparse.rules.progressive(
            jaxsparse.prune({_KERNELS: jaxsparse.block((4, 2), sparsity=0.5)},
                            when=schedules.every(3, begin=1)),
            steps=2, every=1), jaxsparse.hard, False),
    'combined': (
        lambda: jaxsparse.combine(
            jaxsparse.prune({'.*head.*|1': None, **_NM}),
            jaxsparse.prune({'.*(block|inner).*|0/0': None, **_FREE},
                            distribution=jaxsparse.uniform(0.5),
                            when=schedules.every(2))),
        jaxsparse.hard, False),
    'recipe': (
        lambda: _RECIPE().rule, lambda: _RECIPE().flow, False),
    'sensitivity': (
        functools.partial(
            jaxsparse.units.prune_units, [_TIE], count=5,
            importance=jaxsparse.units.saliency(), when=schedules.every(2)),
        jaxsparse.hard, False),
    'group_lasso': (
        functools.partial(
            jaxsparse.units.prune_units, [_TIE], threshold=0.9,
            importance=jaxsparse.units.root_mean_square()),
        jaxsparse.hard, False),
    'ste': (_prune(_NM), jaxsparse.ste, True),
    'sr_ste': (_prune(_NM), jaxsparse.sr_ste, True),
    'transposable': (
        _prune({_KERNELS: jaxsparse.nm(2, 4, transposable=True)},
               schedule=schedules.linear(0, 3)), jaxsparse.sr_ste, False),
    'mdgf': (
        _prune(_NM), lambda: jaxsparse.mdgf(optax.linear_schedule(1., 0., 4)),
        True),
    'mdgf_gated': (
        _prune(_NM), lambda: jaxsparse.mdgf(
            optax.linear_schedule(1., 0., 4), straight_through=False), True),
    'sr_ste_decoupled': (
        _prune(_NM), lambda: jaxsparse.sr_ste(1e-3, decoupled=True), True),
    **_recipes(
        'mdgf_linear', 'mdgf_exponential', 'sdgf_stepwise', 'top_kast',
        'train_prune_retrain', 's_ste', 'cast'),
    **_recipes('sdgf_geometric', frames=2),
    **_recipes('step', switch=2),
    'elsa': _elsa(_FREE, 0.5),
    'elsa_nm': _elsa(_NM, jaxsparse.uniform(), fisher=0.9),
}


MASKED_BIASES = ('lock', 'sensitivity', 'group_lasso')


def _standard(tx):
  tx = optax.with_extra_args_support(tx)

  def update(*args, **kwargs):
    with jax.numpy_dtype_promotion('standard'):
      return tx.update(*args, **kwargs)
  return optax.GradientTransformationExtraArgs(tx.init, update)


def wrap(inner, rule, flow=None):
  return jaxsparse.sparsify(_standard(inner), rule, flow)


# name -> f(rule, flow), the whole optimizer
OPTIMIZERS = {
    'adamw': lambda r, f: wrap(optax.adamw(1e-2), r, f),
    'sgd': lambda r, f: wrap(optax.sgd(1e-2, momentum=0.9), r, f),
    'adafactor': lambda r, f: wrap(
        optax.adafactor(1e-2, min_dim_size_to_factor=4), r, f),
    'lion': lambda r, f: wrap(optax.lion(1e-3), r, f),
    'multi_steps_inside': lambda r, f: wrap(
        optax.MultiSteps(optax.adam(1e-2), 2), r, f),
    'multi_steps_outside': lambda r, f: _standard(
        optax.MultiSteps(wrap(optax.adam(1e-2), r, f), 2)),
    'inject_hyperparams': lambda r, f: _standard(optax.inject_hyperparams(
        lambda rate: wrap(optax.adam(rate), r, f))(rate=1e-2)),
    'observed': lambda r, f: jaxsparse.observe(wrap(optax.adam(1e-2), r, f)),
    'clip': lambda r, f: optax.chain(
        _standard(optax.clip_by_global_norm(1.)),
        wrap(optax.adam(1e-2), r, f)),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Net:
  kernel: jax.Array
  bias: jax.Array


class _Module(nnx.Module):
  def __init__(self, rngs):
    self.inner = nnx.Linear(16, 8, rngs=rngs)
    self.outer = nnx.Linear(8, 4, rngs=rngs)


def _normal(i, *shape, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(i), shape, dtype)


def _nested(dtype):
  normal = functools.partial(_normal, dtype=dtype)
  return {
      'block': {'fc': {'kernel': normal(0, 16, 8), 'bias': normal(1, 8)}},
      'head': {'kernel': normal(2, 8, 4), 'bias': normal(3, 4),
               'empty': ()}}


TREES = {
    'nested': lambda: _nested(jnp.float32),
    'bf16': lambda: _nested(jnp.bfloat16),
    'tuple': lambda: ((_normal(0, 16, 8), _normal(1, 8)), _normal(2, 8, 4)),
    'dataclass': lambda: {'a': Net(_normal(0, 16, 8), _normal(1, 8)),
                          'b': [Net(_normal(2, 8, 4), _normal(3, 4)), None]},
    'nnx': lambda: nnx.split(_Module(nnx.Rngs(0)), nnx.Param, ...)[1],
}
