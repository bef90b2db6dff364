"""A flow whose forward pass shrinks the weights that are kept."""

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
  """What the forward pass of `soft_threshold` needs beside masks.

  Attributes:
    scales: like the params; of a sparse weight its scale, as a float32 array of
      the shape of a group, such as `[4, 1]`, which so says what a group is.
  """
  scales: ArrayTree

  def sparse(self, weights: Sequence[jax.Array], masks: Sequence[jax.Array],
             gain: jax.Array) -> list[jax.Array]:
    """The sparse weights in turn, as the forward pass sees them."""
    del gain
    return [_shrunk(w, m, scale.shape) * scale.ravel()[0].astype(w.dtype)
            for w, m, scale in zip(weights, masks, jax.tree.leaves(self.scales),
                                   strict=True)]


@arguments.checked()
def soft_threshold(patterns: Mapping[str, patterns_lib.Pattern | None], *,
                   rescale: bool = True) -> kinds.Flow:
  """Soft thresholding: kept weights shrink by the largest that is pruned.

    w~ = scale * sign(w) * max(|w| - t, 0),  t = max |w| of the group's pruned

  The forward pass is continuous in `w`: a weight that is about to be pruned
  has come to zero already, so masks that change cause no jump. The gradient at
  `w~` goes straight through to `w`. `sparse_params` gives these weights, and so
  it is they that are evaluated, packed and deployed; a mask times `w` are
  others.

  Args:
    patterns: those of the rule, N:M; each group has a threshold of its own.
    rescale: whether each weight has a scale, that of the least squared distance
      from `w`, `<w, S(w)> / <S(w), S(w)>`, found at `init` and kept. Without it
      the scale is 1.

  Returns:
    A flow. Where weights of a group have the magnitude of its threshold they
    are zero, though the mask keeps them.

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
        f'{path}: soft_threshold needs the patterns of the rule, nm(...) '
        f'without transposable=True, got {pattern}.')
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
  """`<w, S(w)> / <S(w), S(w)>`, or 1 if nothing is left."""
  if not math.prod(w.shape):
    return jnp.ones((), jnp.float32)
  wide, shrunk = (x.astype(jnp.float32)
                  for x in (w, _shrunk(w, mask, tile)))
  square, product = jnp.sum(shrunk * shrunk), jnp.sum(wide * shrunk)
  return jnp.where(square > 0, product / jnp.where(
      square > 0, square, jnp.ones_like(square)), 1.).astype(jnp.float32)
