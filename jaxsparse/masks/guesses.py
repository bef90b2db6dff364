"""Initial candidates of a search, from a sample of the scores.

A quantile of 2^14 scores is within a hundredth of the true one, so the first
two iterations of a search leave a narrow range. Exact counts make all
decisions; a bad guess costs only two iterations.
"""

import math
from typing import Callable, Sequence

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import numerics
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import topk
from jaxsparse.masks.exact_counts import Count
from jaxsparse.masks.remade import Remade

_SAMPLED = 2**16  # A sample of a smaller weight saves nothing.


def each(xs: Remade, k: Count, first: topk.Bracket
         ) -> tuple[jax.Array, ...]:
  """Two candidates for each array that likely enclose its k-th score closely.

  A guess at an end of the bracket is skipped.
  """
  sizes = [math.prod(x.shape) for x in xs.shapes]
  large = [i for i, size in enumerate(sizes) if size >= _SAMPLED]
  if not large:
    return first.lo, first.lo
  at = jnp.array(large)

  def samples():
    made = xs()
    return [_sample(made[i], sizes[i]) for i in large]

  def guess(parts):
    for_large = _around([*map(_flat, parts)], Count(k.hi[at], k.lo[at]),
                        [sizes[i] for i in large])
    return tuple(first.lo.at[at].set(key) for key in for_large)
  return _if_any(k, samples, guess, (first.lo, first.lo))


def together(xs: Remade, k: Count) -> tuple[jax.Array, ...]:
  """Two such candidates for several arrays taken together."""
  sizes = [math.prod(x.shape) for x in xs.shapes]
  lowest = topk.start(xs.shapes[0].dtype, sum(sizes)).lo

  def guess(parts):
    keys = _around([jnp.concatenate([*map(_flat, parts)])],
                   Count(*(v.reshape(1) for v in k)), [sum(sizes)])
    return tuple(key.reshape(()) for key in keys)
  return _if_any(k, lambda: [_sample(x, sum(sizes)) for x in xs()], guess,
                 (lowest, lowest))


def _if_any(k: Count, samples: Callable[[], list[jax.Array]],
            guess: Callable[..., tuple[jax.Array, ...]],
            otherwise: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
  """A guess from samples if anything is kept at all.

  The branches separate computations for XLA. Without the first branch, XLA
  would compute the scores once for the guess and for the last reading, and hold
  them in memory. Without the second one, the CPU backend would copy all scores
  into the layout of the samples that it gathers from many devices.
  """
  some = ((k.hi | k.lo) > 0).any()
  otherwise = numerics.varying_as(
      otherwise, lambda: guess(samples()))
  return lax.cond(
      some, lambda: lax.cond(some, guess, lambda _: otherwise, samples()),
      lambda: otherwise)


def _sample(x: jax.Array, size: int) -> jax.Array:
  """The part of `x` in a sample of about 2^14 of `size` evenly spaced scores.

  Sampling by strides moves no entry of a sharded array. Along an explicitly
  sharded axis the stride divides the size of a shard, as JAX requires.
  """
  surplus = size >> 14
  strides = [1] * x.ndim
  shards = numerics.shards(x)
  for axis in sorted(range(x.ndim), key=lambda a: -x.shape[a]):
    stride = max(1, min(surplus, x.shape[axis] >> 4))
    while shards[axis] > 1 and x.shape[axis] // shards[axis] % stride:
      stride -= 1
    strides[axis] = stride
    surplus //= stride
  return lax.slice(x, (0,) * x.ndim, x.shape, strides)


def _flat(part: jax.Array) -> jax.Array:
  return numerics.replicated(part).reshape(-1)


def _around(samples: Sequence[jax.Array], k: Count, sizes: Sequence[int]
            ) -> tuple[jax.Array, ...]:
  """Two candidates that likely enclose the k-th highest of each array closely.

  The candidates are quantiles of a sample, three standard errors to either
  side.

  Args:
    samples: a sample of each array, vectors.
    k: the number of entries to keep of each array; vectors.
    sizes: the sizes of the arrays.
  """
  # One sort for all: the padding of rows sorts behind all quantiles.
  values = jnp.sort(topk.without_nan(numerics.as_rows(samples, jnp.inf)))
  m = jnp.array([x.size for x in samples], jnp.float32)
  share = counts.to_float(k) / jnp.array(sizes, jnp.float32)
  error = 3. * jnp.sqrt(m * share * (1. - share)) + 1.

  def key_at(ranks):
    ranks = jnp.clip(ranks.astype(jnp.int32), 0, m.astype(jnp.int32) - 1)
    return topk.key_of(jnp.take_along_axis(values, ranks[:, None], 1)[:, 0])
  ranks = (1. - share) * m
  return key_at(ranks - error), key_at(ranks + error) + 1
