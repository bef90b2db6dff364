"""Scores: the importance of each weight. The lowest scores are pruned first.

A score is an `optax.GradientTransformation` whose "updates" are scores:

  scores, state = score.update(grads, state, params)

`grads` is the dense gradient at the sparse point, dL/dw~. A score of your own
must handle two cases:

* `params` are the weights that the new masks belong to: the current weights or,
  if the rule acts at every step, the weights *after* the optimizer's step. The
  weights at which `grads` were taken are the extra argument `point`. If `point`
  is missing, they are `params`.
* `tx.init` has no gradients and passes `grads=None`. A score that needs
  gradients returns `(None, state)` then, and the rule prunes nothing until the
  first update.

Rules call `update` once for the new state and once for the scores, and XLA
drops the unused result of each call. So an accumulator costs one multiply-add a
step, and other scores cost nothing at steps that make no mask.
"""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
import optax

from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils.tables import brief
from jaxsparse._utils.typing import ArrayTree

__all__ = [
    'adaptive_threshold', 'gradient', 'magnitude', 'magnitude_and_gradient',
    'momentum', 'MomentumState', 'random', 'RandomState', 'saliency',
    'Score', 'signed_magnitude', 'snip_momentum', 'SnipMomentumState',
    'ThresholdState',
]

Score = optax.GradientTransformationExtraArgs
_FACTOR = arguments.number(0)
# The check of arguments: a score may be any transformation of optax.
SCORE = arguments.transformation(
    'a score', 'jaxsparse.magnitude(), with its parentheses')


def _stateless(f: Callable[..., ArrayTree | None]) -> Score:
  """A score without a state, from `f(grads, params, point)`."""
  def update(grads, state, params=None, *, point=None, **extra_args):
    del extra_args
    return f(grads, params, params if point is None else point), state
  return Score(lambda params: optax.EmptyState(), update)


def magnitude() -> Score:
  """Scores weights by `|w|`.

  Returns:
    A score, an `optax.GradientTransformationExtraArgs`.

  References:
    Han et al., `Learning both Weights and Connections for Efficient Neural
    Networks <https://arxiv.org/abs/1506.02626>`_, 2015

  >>> import jax.numpy as jnp
  >>> score = magnitude()
  >>> w = jnp.array([-2., 1.])
  >>> scores, _ = score.update(None, score.init(w), w)
  >>> print(scores)
  [2. 1.]
  """
  return _stateless(
      lambda grads, params, point: jax.tree.map(jnp.abs, params))


def signed_magnitude() -> Score:
  """Scores weights by their signed values, for the scope `scopes.per_sign`.

  Returns:
    A score, an `optax.GradientTransformationExtraArgs`.
  """
  return _stateless(lambda grads, params, point: params)


def gradient() -> Score:
  """Scores weights by `|g|`, the dense gradient at the sparse point.

  This is the growth criterion of RigL.

  Returns:
    A score.

  References:
    Evci et al., `Rigging the Lottery: Making All Tickets Winners
    <https://arxiv.org/abs/1911.11134>`_, 2020
  """
  return _stateless(
      lambda grads, params, point: jax.tree.map(jnp.abs, grads))


def saliency() -> Score:
  """Scores weights by `|w * g|`, the first-order change of the loss (SNIP).

  `w` are the weights at which `g` was taken.

  Returns:
    A score.

  References:
    Lee et al., `SNIP: Single-shot Network Pruning based on Connection
    Sensitivity <https://arxiv.org/abs/1810.02340>`_, 2019
  """
  return _stateless(lambda grads, params, point: _products(grads, point))


@arguments.checked()
def magnitude_and_gradient(scale: float = 0.01) -> Score:
  """Scores weights by `|w| + scale * |g|`, the criterion of MEST.

  Args:
    scale: the factor of gradients, the paper's lambda.

  Returns:
    A score.

  References:
    Yuan et al., `MEST: Accurate and Fast Memory-Economic Sparse Training
    Framework on the Edge <https://arxiv.org/abs/2110.14032>`_, 2021
  """
  def score(grads, params, point):
    if grads is None:
      return None
    return jax.tree.map(
        lambda w, g: jnp.abs(numerics.wide(w)) + scale * jnp.abs(
            numerics.wide(g)), params, grads)
  return _stateless(score)


def _products(grads: ArrayTree, point: ArrayTree) -> ArrayTree:
  if grads is None:
    return None
  # In float16 most products would be zero.
  return jax.tree.map(
      lambda w, g: jnp.abs(numerics.wide(w) * numerics.wide(g)), point, grads)


def _accumulator(dtype: DTypeLike | None) -> Callable[[Any], Any]:
  """The dtype of a weight's sum: `dtype`, or by default at least float32."""
  if dtype is None:
    return numerics.at_least_float32
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
        f'The dtype of a score must be a float dtype, got {brief(dtype)}. '
        "Write e.g. dtype='bfloat16', or None for float32.")
  return lambda _: jnp.dtype(dtype)


def _sum(a: float, old: jax.Array, b: float, new: jax.Array) -> jax.Array:
  """`a * old + b * new` in float32 or wider, rounded once to the dtype of old.
  """
  wide = numerics.at_least_float32(old.dtype)
  return (a * old.astype(wide) + b * new.astype(wide)).astype(old.dtype)


class SnipMomentumState(NamedTuple):
  """The accumulated scores, a tree like the params."""
  accumulated: ArrayTree


@arguments.checked(decay=_FACTOR, scale=_FACTOR)
def snip_momentum(decay: float = 1.0, scale: float = 0.9, *,
                  dtype: DTypeLike | None = None) -> Score:
  """Accumulates the saliency of every step: `S <- decay * S + scale * |w * g|`.

  Args:
    decay: the factor of the old sum at each step. Decay 1.0 with scale 0.9 is
      the documented formula of Neural Compressor; its released code swaps the
      two numbers, `snip_momentum(0.9, 1.0)`.
    scale: the factor of the newest product.
    dtype: the dtype of the sums and of the scores; float32 or wider by default.
      'bfloat16' needs half the memory. After 100 steps of noise, the highest
      tenth of weights by 'bfloat16' and by float32 had 99% in common. With a
      decay of 1, bfloat16 sums stop growing after some 500 steps; use a lower
      decay for longer training.

  Returns:
    A score; its state holds one number per weight.

  Raises:
    ValueError: if `dtype` is not floating.

  References:
    Intel, `Neural Compressor, pruning criteria
    <https://github.com/intel/neural-compressor>`_

  >>> import jax.numpy as jnp
  >>> score = snip_momentum()
  >>> w = jnp.array([2., 1.])
  >>> state = score.init(w)
  >>> for g in (jnp.array([1., -1.]), jnp.array([0., 1.])):
  ...   scores, state = score.update(g, state, w)
  >>> print(scores)
  [1.8 1.8]
  """
  kept_in = _accumulator(dtype)

  def init(params):
    return SnipMomentumState(jax.tree.map(
        lambda w: jnp.zeros_like(w, kept_in(jnp.abs(w).dtype)), params))

  def update(grads, state, params=None, *, point=None, **extra_args):
    del extra_args
    if grads is None:
      return None, state
    accumulated = jax.tree.map(
        lambda s, p: _sum(decay, s, scale, p), state.accumulated,
        _products(grads, params if point is None else point))
    accumulated = numerics.if_finite(grads, accumulated, state.accumulated)
    return accumulated, SnipMomentumState(accumulated)

  return Score(init, update)


class MomentumState(NamedTuple):
  """The running mean of gradients, a tree like the params."""
  mean: ArrayTree


@arguments.checked(decay=_FACTOR)
def momentum(decay: float = 0.9, *, dtype: DTypeLike | None = None) -> Score:
  """Scores weights by `|M|`, with `M <- decay * M + (1 - decay) * g`.

  This is the growth criterion of SNFS. The score needs the dense gradient of
  every step.

  Args:
    decay: the decay of the running mean.
    dtype: the dtype of the mean and of the scores; float32 or wider by default,
      see `snip_momentum`.

  Returns:
    A score; its state holds one number per weight.

  Raises:
    ValueError: if `dtype` is not floating.

  References:
    Dettmers and Zettlemoyer, `Sparse Networks from Scratch: Faster Training
    without Losing Performance <https://arxiv.org/abs/1907.04840>`_, 2019

  >>> import jax.numpy as jnp
  >>> score, w = momentum(0.5), jnp.zeros(2)
  >>> state = score.init(w)
  >>> for g in (jnp.array([2., 4.]), jnp.array([2., -4.])):
  ...   scores, state = score.update(g, state, w)
  >>> print(scores)
  [1.5 1. ]
  """
  kept_in = _accumulator(dtype)

  def init(params):
    return MomentumState(jax.tree.map(
        lambda w: jnp.zeros_like(w, kept_in(w.dtype)), params))

  def update(grads, state, params=None, **extra_args):
    del params, extra_args
    if grads is None:
      return None, state
    mean = jax.tree.map(
        lambda m, g: _sum(decay, m, 1. - decay, g), state.mean, grads)
    mean = numerics.if_finite(grads, mean, state.mean)
    return jax.tree.map(jnp.abs, mean), MomentumState(mean)

  return Score(init, update)


class ThresholdState(NamedTuple):
  """The number of updates made, and the threshold, a float32 scalar."""
  count: jax.Array
  threshold: jax.Array


@arguments.checked()
def adaptive_threshold(initial: float = 1e-3, *, fraction: float,
                       when: Callable[[jax.Array], bool | jax.Array],
                       tolerance: float = 0.1) -> Score:
  """Scores weights by `|w| / H` with an adaptive threshold `H`.

  Whenever `when(step)` holds, `H` changes after the scores of that step are
  made. If more than `(1 + tolerance) * fraction` of the active weights were
  below `H`, it is halved; if fewer than `(1 - tolerance) * fraction` were below
  `H`, it is doubled.

  Args:
    initial: the first `H`.
    fraction: the share of active weights that should be below `H`.
    when: a function from step to bool, true at the steps that may change `H`;
      the `when` of the rule.
    tolerance: the relative deviation of the share that leaves `H` unchanged.

  Returns:
    A score; see `scopes.above_one`.

  References:
    Mostafa and Wang, `Parameter Efficient Training of Deep Convolutional Neural
    Networks by Dynamic Sparse Reparameterization
    <https://arxiv.org/abs/1902.05967>`_, 2019
  """
  def init(params):
    return ThresholdState(jnp.zeros((), jnp.int32), numerics.varying_as(
        jnp.asarray(initial, jnp.float32), lambda: params))

  def update(grads, state, params=None, *, masks=None, step=None, **extra_args):
    del grads, extra_args
    scores = jax.tree.map(
        lambda w: jnp.abs(w).astype(jnp.float32) / state.threshold, params)
    count = state.count + 1
    # In a later stage, the steps of a rule are not those of its scores.
    step = count if step is None else step

    def adapted():
      active = scores if masks is None else masks
      pairs = [(s, jnp.ones_like(m, bool) if masks is None else m) for s, m
               in zip(jax.tree.leaves(scores), jax.tree.leaves(active))]
      total, below = (sum(x.sum(dtype=jnp.float32) for x in column)
                      for column in ([m for _, m in pairs],
                                     [m & (s < 1.) for s, m in pairs]))
      share = below / jnp.maximum(total, 1.)
      factor = jnp.where(share > (1. + tolerance) * fraction, 0.5, jnp.where(
          share < (1. - tolerance) * fraction, 2., 1.))
      # Clipped to a range from which halving and doubling still recover.
      return jnp.clip(state.threshold * factor, 1e-30, 1e30)

    threshold = numerics.either(
        when(step), adapted, lambda: state.threshold)
    return scores, ThresholdState(count, threshold)

  return Score(init, update)


class RandomState(NamedTuple):
  """The key, as uint32 data, and the number of draws of scores.

  The key is in the state, so all seeds share one compiled step.
  """
  key: jax.Array
  count: jax.Array


@arguments.checked()
def random(seed: int) -> Score:
  """Scores weights by random numbers, uniform in [0, 1).

  Args:
    seed: the seed; the same seed gives the same scores at the same step.

  Returns:
    A score with new numbers at every step.
  """
  def init(params):
    del params
    return RandomState(jax.random.key_data(jax.random.key(seed)),
                       jnp.zeros((), jnp.int32))

  def update(grads, state, params=None, **extra_args):
    del grads, extra_args
    key = jax.random.fold_in(
        jax.random.wrap_key_data(state.key), state.count)
    leaves, structure = jax.tree.flatten(params)
    words = jax.random.bits(key, (max(len(leaves), 1), 2), jnp.uint32)
    rows = numerics.rows_at(words, numerics.places(len(leaves)))
    scores = [numerics.uniform_like(w, row) for w, row in zip(leaves, rows)]
    return structure.unflatten(scores), state._replace(count=state.count + 1)

  return Score(init, update)
