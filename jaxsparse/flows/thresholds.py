"""`soft_threshold`: a flow whose forward pass shrinks the kept weights."""

import math
from typing import Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from jaxsparse import patterns as patterns_lib
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.flows import kinds


class SoftThreshold(NamedTuple):
  """The part of the state that the forward pass of `soft_threshold` reads.

  Attributes:
    scales: a tree like the params. The entry of a sparse weight is a float32
      array filled with the weight's scale. Its shape is the shape of a group,
      such as `[4, 1]`.
  """
  scales: ArrayTree

  def sparse(self, weights: Sequence[jax.Array], masks: Sequence[jax.Array],
             gain: jax.Array) -> list[jax.Array]:
    """The weights of the forward pass, in the order of `weights`."""
    del gain
    return [_shrunk(w, m, scale.shape) * scale.ravel()[0].astype(w.dtype)
            for w, m, scale in zip(weights, masks, jax.tree.leaves(self.scales),
                                   strict=True)]


@arguments.checked()
def soft_threshold(patterns: Mapping[str, patterns_lib.Pattern | None], *,
                   rescale: bool = True) -> kinds.Flow:
  """Soft thresholding: kept weights shrink by the largest pruned magnitude.

    w~ = scale * sign(w) * max(|w| - t, 0)

  The threshold `t` is the largest magnitude among the pruned weights of the
  group. The forward pass is continuous in `w`: a weight that is about to be
  pruned is already zero there, so a change of masks causes no jump. The
  gradient at `w~` goes straight through to `w`. `sparse_params` returns `w~`:
  evaluate, pack and deploy these weights. They differ from the mask times `w`.

  Args:
    patterns: the N:M patterns of the rule; each group has its own threshold.
    rescale: whether each parameter has a scale. With `S(w)` the shrunk weights
      at scale 1, the scale `<w, S(w)> / <S(w), S(w)>` minimises the squared
      distance from `w`. It is computed at `init` and stays fixed. With `False`
      the scale is 1.

  Returns:
    A flow. A kept weight whose magnitude equals the threshold of its group is
    zero in the forward pass.

  Raises:
    ValueError: from `init`, if a pattern is not N:M, or is transposable.

  References:
    Hu et al., `S-STE: Continuous Pruning Function for Efficient 2:4 Sparse
    Pre-Training <https://arxiv.org/abs/2409.09099>`_, 2024

  >>> import optax
  >>> from jaxsparse import nm, prune, sparse_params, sparsify
  >>> patterns = {'w': nm(2, 4, axis=-1)}
  >>> tx = sparsify(optax.sgd(1.), prune(patterns),
  ...               soft_threshold(patterns, rescale=False))
  >>> params = {'w': jnp.array([1., -4., 3., 2.])}
  >>> print(sparse_params(params, tx.init(params))['w'])
  [ 0. -2.  1.  0.]
  """
  def forward(params, masks):
    def scale(path, w, mask, pattern):
      if trees.is_dense(mask):
        return None
      tile = _tile(path, w.shape, pattern)
      return jnp.full(tile, _scale(w, mask, tile) if rescale else 1.,
                      jnp.float32)
    return SoftThreshold(trees.map_with_path(
        scale, params, masks, trees.match_rules(patterns, params)))
  return kinds.ste()._replace(forward=forward)


def _tile(path: str, shape: tuple[int, ...],
          pattern: patterns_lib.Pattern | None) -> tuple[int, ...]:
  if (pattern is None or not patterns_lib.is_nm(pattern)
      or patterns_lib.is_transposable(pattern)):
    raise ValueError(
        f'{trees.named(path)}: '
        'soft_threshold needs the N:M patterns of the rule, without '
        f'transposable=True, got {pattern}. Write e.g. '
        "soft_threshold({'.*kernel': jaxsparse.nm(2, 4)}).")
  return pattern.group_tile(shape)


def _shrunk(w: jax.Array, mask: jax.Array, tile: tuple[int, ...]) -> jax.Array:
  """`S(w)`; the threshold is the largest magnitude that is pruned."""
  within = tuple(range(1, 2 * w.ndim, 2))
  size, kept = (numerics.split_axes(x, tile) for x in (jnp.abs(w), mask))
  pruned = jnp.where(kept, jnp.zeros_like(size), size)
  threshold = jnp.max(pruned, within, keepdims=True, initial=0.)
  left = jnp.maximum(size - threshold, jnp.zeros_like(size))
  left = numerics.join_axes(jnp.where(kept, left, jnp.zeros_like(left)))
  return (jnp.sign(w) * left).astype(w.dtype)


def _scale(w: jax.Array, mask: jax.Array, tile: tuple[int, ...]) -> jax.Array:
  """`<w, S(w)> / <S(w), S(w)>`, or 1 if `S(w)` is zero."""
  if not math.prod(w.shape):
    return jnp.ones((), jnp.float32)
  wide, shrunk = (x.astype(jnp.float32)
                  for x in (w, _shrunk(w, mask, tile)))
  square, product = jnp.sum(shrunk * shrunk), jnp.sum(wide * shrunk)
  return jnp.where(square > 0, product / jnp.where(
      square > 0, square, jnp.ones_like(square)), 1.).astype(jnp.float32)
