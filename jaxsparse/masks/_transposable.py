"""Transposable N:M: the best mask with N of 4 in every row and every column.

Such a mask is N:4 along both axes of a matrix. So the product with the matrix
and the product with its transpose, which computes the gradient of the inputs,
can both run packed. A 4 x 4 tile has 90 masks with two entries in every row and
column; the mask whose entries have the highest total wins. There are two ways
to find it:

* by halves, where elementwise work is cheap: the two upper rows determine how
  many entries of each column the lower rows keep. The best lower half is found
  once for each of 19 such demands, and then the best of the 36 upper halves;
* by a product of tiles and masks, and an argmax, on TPUs.

Scores are rounded to whole multiples of a step, and are so few that every sum
is exact. So neither the order of summation, nor the device, nor the way changes
a mask. Of masks with equal totals, the one that keeps the lower index in
row-major order wins.

References:
  Hubara et al., `Accelerated Sparse Neural Training: A Provable and Efficient
  Method to Find N:M Transposable Masks <https://arxiv.org/abs/2102.08124>`_,
  2021 (there as a linear program, or greedily up to a factor of 2)
"""

import collections
import functools
import itertools
from typing import Iterable

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse.patterns import SIDE

_Row = tuple[int, ...]


def keep_highest(x: jax.Array, k: jax.Array, n: int) -> jax.Array:
  """Marks k entries of every tile, and n in each row and column if k is 4n.

  Entries are ranked as follows: first the entries of the best mask with n in
  every row and column, then all others, both by their scores and then by index.
  So a mask with a smaller k is a subset of a mask with a larger k.

  Args:
    x: floating scores `[g1, t1, g2, t2, ...]`, a grid of tiles
      `[t1, t2, ...]` of 16 entries, of which four consecutive ones are a row.
    k: the number of entries to keep in each tile, a scalar.
    n: the number of entries to keep in each row and column: 1, 2 or 3.

  Returns:
    A bool array of the shape of `x`.
  """
  best = keep_best(x, n)
  return lax.cond(
      k == SIDE * n, lambda: best, lambda: _keep_in_order(x, best, k))


def keep_best(x: jax.Array, n: int) -> jax.Array:
  """Marks the mask with n entries in every row and column and highest total.

  Scores are rounded to steps of `2^-19` of the power of two below the highest
  magnitude of their tile. In a tile with infinities or NaN, the mask keeps as
  few NaN as possible, then as many infinities as possible (one of -inf cancels
  one of inf), and other scores are rounded to steps of `2^-11`.

  Args:
    x: floating scores, see `keep_highest`.
    n: the number of entries to keep in each row and column: 1, 2 or 3.

  Returns:
    A bool array of the shape of `x`.
  """
  x = x.astype(jnp.float32)
  return lax.platform_dependent(
      x, tpu=functools.partial(by_products, n=n),
      default=functools.partial(by_halves, n=n))


def _rows(n: int) -> list[_Row]:
  """All rows that keep n entries, rows that keep lower indices first."""
  return [tuple(int(j in kept) for j in range(SIDE))
          for kept in itertools.combinations(range(SIDE), n)]


def _masks(n: int) -> np.ndarray:
  """All masks `[masks, 16]`; of equal totals, the earlier mask wins."""
  return np.array([sum(rows, ()) for rows in itertools.product(
      _rows(n), repeat=SIDE) if all(sum(c) == n for c in zip(*rows))])


# The values of NaN and infinities. Sums of twelve are below 2^24, and so exact
# in float32; each value outweighs any difference of fifteen lesser ones.
_NAN, _INFINITE = -2.**20, 2.**16
_STEPS, _STEPS_BESIDE = 19, 11


def _in_steps(x: jax.Array, top: jax.Array, finite: jax.Array) -> jax.Array:
  """Scores as whole numbers, given the tile's highest finite magnitude."""
  top = jnp.maximum(top, jnp.finfo(jnp.float32).tiny)
  exponent = (lax.bitcast_convert_type(top, jnp.int32) >> 23) - 127
  steps = jnp.where(finite, _STEPS, _STEPS_BESIDE) - exponent
  end = jnp.where(finite, -_NAN, _INFINITE)

  def power(exponent):
    return lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)
  # In two factors: one may be beyond what a float32 holds.
  x = x * power(steps >> 1) * power(steps - (steps >> 1))
  x = lax.round(jnp.clip(x, -end, end), lax.RoundingMethod.TO_NEAREST_EVEN)
  return jnp.where(jnp.isnan(x), _NAN, x)


def _finite(x: jax.Array) -> jax.Array:
  return jnp.where(jnp.isfinite(x), jnp.abs(x), 0.)


def by_halves(x: jax.Array, n: int) -> jax.Array:
  """`keep_best` by elementwise arithmetic on the 16 places of all tiles."""
  places = _places(x)
  top = functools.reduce(jnp.maximum, map(_finite, places))
  finite = functools.reduce(jnp.logical_and, map(jnp.isfinite, places))
  places = [_in_steps(p, top, finite) for p in places]
  rows = _rows(n)

  def halves(first):
    """Totals, kept columns and bits of all pairs of rows, in order of ties."""
    totals = [{row: functools.reduce(
        lax.add, itertools.compress(places[SIDE * i:], row)) for row in rows}
              for i in (first, first + 1)]
    for upper, lower in itertools.product(rows, repeat=2):
      bits = sum(bit << i for i, bit in enumerate(upper + lower))
      yield (totals[0][upper] + totals[1][lower],
             tuple(a + b for a, b in zip(upper, lower)),
             jnp.int32(bits << SIDE * first))

  below = collections.defaultdict(list)
  for total, kept, bits in halves(2):
    below[tuple(n - c for c in kept)].append((total, bits))
  best = {kept: _first_highest(half) for kept, half in below.items()}
  _, bits = _first_highest(
      (total + best[kept][0], best[kept][1] | bits)
      for total, kept, bits in halves(0) if kept in best)
  return _woven([(bits >> i) & 1 == 1 for i in range(SIDE**2)], x.shape[1::2])


def by_products(x: jax.Array, n: int) -> jax.Array:
  """`keep_best` by a matrix product of all masks with all tiles."""
  tile, within = x.shape[1::2], tuple(range(1, x.ndim, 2))
  x = _in_steps(x, _finite(x).max(within, keepdims=True),
                jnp.isfinite(x).all(within, keepdims=True))
  masks = jnp.asarray(_masks(n).reshape(-1, *tile), jnp.float32)
  totals = jnp.tensordot(
      masks, x, (tuple(range(1, masks.ndim)), within),
      precision=lax.Precision.HIGHEST)
  first = jax.nn.one_hot(
      jnp.argmax(totals, 0), len(masks), axis=0, dtype=jnp.bfloat16)
  # Looked up by another product: [g1, g2, ..., t1, t2, ...].
  kept = jnp.tensordot(first, masks.astype(first.dtype), (0, 0))
  return _interleaved(kept > 0.5)


def _first_highest(candidates: Iterable[tuple[jax.Array, jax.Array]]
                   ) -> tuple[jax.Array, jax.Array]:
  """The highest total, and the bits of the first candidate that has it."""
  def higher(best, new):
    return (jnp.maximum(best[0], new[0]),
            jnp.where(new[0] > best[0], new[1], best[1]))
  return functools.reduce(higher, candidates)


def _places(x: jax.Array) -> list[jax.Array]:
  """`[g1, t1, g2, t2, ...]` as a list of `[g1, g2, ...]` for every place."""
  parts = [x]
  for axis in range(x.ndim // 2):  # The axes before have lost their tile.
    parts = [lax.index_in_dim(part, i, axis + 1, keepdims=False)
             for part in parts for i in range(part.shape[axis + 1])]
  return parts


def _woven(places: list[jax.Array], tile: tuple[int, ...]) -> jax.Array:
  """The inverse of `_places`."""
  for axis in reversed(range(len(tile))):
    places = [jnp.stack(places[i:i + tile[axis]], axis + 1)
              for i in range(0, len(places), tile[axis])]
  return places[0]


def _flat(x: jax.Array) -> jax.Array:
  """`[g1, t1, g2, t2, ...]` as `[g1, g2, ..., 16]`."""
  x = x.transpose(*range(0, x.ndim, 2), *range(1, x.ndim, 2))
  return x.reshape(x.shape[:x.ndim // 2] + (-1,))


def _interleaved(x: jax.Array) -> jax.Array:
  """`[g1, g2, ..., t1, t2, ...]` as `[g1, t1, g2, t2, ...]`."""
  rank = x.ndim // 2
  return x.transpose([a for i in range(rank) for a in (i, rank + i)])


def _keep_in_order(x: jax.Array, best: jax.Array, k: jax.Array) -> jax.Array:
  """Marks k entries of each tile: entries of `best` first, then the highest."""
  tile = x.shape[1::2]
  x = jnp.where(jnp.isnan(x), -jnp.inf,
                jnp.maximum(x, jnp.finfo(x.dtype).min))
  x, best = _flat(x), _flat(best)
  mine, other = x[..., :, None], x[..., None, :]
  chosen, rival = best[..., :, None], best[..., None, :]
  pairs = x.shape + x.shape[-1:]
  i, j = (lax.broadcasted_iota(jnp.int32, pairs, len(pairs) - a)
          for a in (2, 1))
  ahead = (other > mine) | ((other == mine) & (j < i))
  ahead = (rival & ~chosen) | ((rival == chosen) & ahead)
  kept = ahead.sum(-1, dtype=jnp.uint8) < jnp.asarray(k, jnp.uint8)
  return _interleaved(kept.reshape(kept.shape[:-1] + tile))
