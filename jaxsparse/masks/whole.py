"""The k highest of whole weights, many weights in one search.

One loop serves all weights, with one counting kernel for each; so the program
grows with the number of weights no more than an optimizer's does. Scores are
recomputed in each iteration, see `remade`.

Scores that equal the threshold are kept from the lowest index on. The place of
the last kept one is found in two passes, whatever the number of ties: ties are
counted in blocks of neighbours, and then the block in which the quota ends is
searched. Blocks of a sharded array are cut so that no entry moves.
"""

import functools
import math
from typing import Callable, NamedTuple, Sequence

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import numerics
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import guesses
from jaxsparse.masks import topk
from jaxsparse.masks.exact_counts import Count
from jaxsparse.masks.remade import Remade

_BLOCK = 2**15  # The largest size of a block; long odd axes exceed it.


def keep_highest_each(xs: Remade, k: Count) -> list[jax.Array]:
  """Marks the k highest of each of several arrays; ties go to the lower index.

  Each iteration tries one candidate for every array. The loop takes as many
  iterations as the slowest array, but compiles once instead of once per array.

  Args:
    xs: floating scores of one dtype. NaN counts as lower than everything.
    k: the number of entries to keep of each array; vectors.

  Returns:
    A bool array for each.
  """
  first = topk.stack([topk.start(x.dtype, math.prod(x.shape))
                      for x in xs.shapes])
  places = numerics.places(len(xs.shapes))
  found = topk.search(
      lambda keys: at_least_each(xs, numerics.rows_at(keys, places)), k, first,
      guesses.each(xs, k, first))
  return cut_each(xs, found, counts.subtract(k, found.above))


def at_least_each(xs: Remade, keys: Sequence[jax.Array]) -> Count:
  """The number of scores of each array at or above its candidate in `keys`."""
  made, keys = xs.within(keys)
  return counts.total_each([
      topk.at_least(x, key) for x, key in zip(made, keys)])


class _Blocks(NamedTuple):
  """The division of an array into blocks of neighbours, in row-major order.

  Attributes:
    shape: the shape of the array with some axes split in two or three.
    split: the number of axes before the axes of a block.
  """
  shape: tuple[int, ...]
  split: int

  @classmethod
  def of(cls, shape: tuple[int, ...]) -> '_Blocks':
    """Blocks of whole minor axes and a part of the next axis.

    A large array has about a thousand blocks. The axes that index blocks are
    cut to a length of 32, because up to this length XLA's CPU backend reduces
    along them in one kernel.
    """
    most = max(_BLOCK, math.prod(shape) >> 10)
    inner, axis = 1, len(shape)
    while axis and inner * shape[axis - 1] <= most:
      axis -= 1
      inner *= shape[axis]
    outer, block = [*shape[:axis]], [*shape[axis:]]
    if outer:
      part = counts.part_of(outer[-1], most // inner)
      if part == 1 and inner == 1:
        part = outer[-1]  # One long odd axis is a block.
      block = [part, *block]
      outer[-1] //= part
    cut = []
    for n in outer:
      part = counts.part_of(n, 32) if n > 32 else 1
      cut += [n // part, part] if part > 1 else [n]
    way = cls(shape, 0) if math.prod(cut) > 2**24 else cls(
        (*cut, *block), len(cut))
    if way.size >= 2**32:  # Places in a block are 32 bits.
      raise ValueError(
          f'A weight of shape {shape} has 2^32 entries or more along axes that '
          'cannot be cut into blocks of equal size. Pad its longest axis to a '
          'multiple of 1,024, or store the weight in several parts.')
    return way

  @property
  def outer(self) -> tuple[int, ...]:
    """The axes that index blocks."""
    return tuple(range(self.split))

  @property
  def inner(self) -> tuple[int, ...]:
    """The axes of a block."""
    return tuple(range(self.split, len(self.shape)))

  @property
  def number(self) -> int:
    """The number of blocks."""
    return math.prod(self.shape[:self.split])

  @property
  def size(self) -> int:
    """The number of entries in a block."""
    return math.prod(self.shape[self.split:])


def cut_each(xs: Remade, found: topk.Bracket, quota: Count
             ) -> list[jax.Array]:
  """The masks of a finished search: all scores above, and the first ties.

  Args:
    xs: the scores.
    found: the bracket of each array, as vectors.
    quota: the number of kept ties of each array; vectors.
  """
  ways = [_Blocks.of(x.shape) for x in xs.shapes]
  places = numerics.places(len(ways))
  compared = functools.partial(_compared, ways, places)
  outer, inner = zip(*((way.outer, way.inner) for way in ways))

  def pieces():
    """All scores in blocks: whether they are above, and whether they tie."""
    made = [x.reshape(way.shape) for x, way in zip(xs(), ways)]
    lows, highs = (numerics.rows_at(ends, places)
                   for ends in (found.lo, found.hi))
    above = [topk.at_least(x, hi) for x, hi in zip(made, highs)]
    return above, [topk.at_least(x, lo) & ~a
                   for x, lo, a in zip(made, lows, above)]

  blocks = jnp.array([way.number for way in ways], jnp.uint32)
  many = counts.subtract(found.below, found.above)
  partly = ~counts.less_equal(many, quota) & ((quota.hi | quota.lo) > 0)

  def look():
    ties = pieces()[1]
    in_blocks = counts.total_below_32_bits(ties, inner)
    block, left = _last_block([*map(_flat, in_blocks)], quota)
    inside = [_of_block(t, way, here) for t, way, here in zip(
        ties, ways, compared(outer, jnp.equal, block))]
    return block, _last_entry([*map(_flat, inside)], left)

  none = jnp.where((quota.hi | quota.lo) > 0, blocks, jnp.uint32(0))
  block, entries = lax.cond(
      partly.any(), look, lambda: (none, jnp.zeros_like(none)))
  # Ties in earlier blocks are kept, and the first ones of that block.
  return [(a | (t & (earlier | (here & first)))).reshape(x.shape)
          for x, a, t, earlier, here, first in zip(
              xs.shapes, *pieces(), compared(outer, jnp.less, block),
              compared(outer, jnp.equal, block),
              compared(inner, jnp.less, entries))]


def _flat(x: jax.Array) -> jax.Array:
  return numerics.replicated(x).reshape(-1)


def _last_block(ties: Sequence[jax.Array], quota: Count
                ) -> tuple[jax.Array, Count]:
  """The block of each array where its quota ends, and the quota left there."""
  number = jnp.array([t.size for t in ties], jnp.uint32)
  table = numerics.as_rows(ties)
  place = jnp.arange(table.shape[1], dtype=jnp.uint32)[None]

  def before(block):
    here = jnp.where(place < block[:, None], table, 0)
    return _vector(counts.sum_wide(here, (1,)))
  block, passed = _furthest(before, table.shape[1], quota)
  return jnp.minimum(block, number), counts.subtract(quota, passed)


def _last_entry(ties: Sequence[jax.Array], left: Count) -> jax.Array:
  """The number of entries of a block up to the end of its quota."""
  table = numerics.as_rows(ties) > 0
  place = jnp.arange(table.shape[1], dtype=jnp.uint32)[None]

  def before(entry):
    return _vector(counts.total(table & (place < entry[:, None]), (1,)))
  return _furthest(before, table.shape[1], left)[0]


def _furthest(before: Callable[[jax.Array], Count], size: int, limit: Count
              ) -> tuple[jax.Array, Count]:
  """The last place with at most `limit` entries before it, found bit by bit.

  Args:
    before: a function from a vector of places to the number of entries before
      each of them.
    size: the number of places, which count from 0.
    limit: the limits, vectors.

  Returns:
    The places, and the number of entries before them.
  """
  bits = size.bit_length()

  def turn(i, place, passed):
    further = place | (jnp.uint32(1) << (bits - 1 - i))
    count = before(further)
    fits = (further <= jnp.uint32(size)) & counts.less_equal(count, limit)
    return (jnp.where(fits, further, place),
            counts.where(fits, count, passed))
  none = jnp.zeros_like(limit.lo), jax.tree.map(jnp.zeros_like, limit)
  none = numerics.varying_as(none, lambda: turn(jnp.uint32(0), *none))
  return lax.fori_loop(jnp.uint32(0), jnp.uint32(bits),
                       lambda i, carry: turn(i, *carry), none)


def _vector(count: Count) -> Count:
  return Count(*(v.reshape(-1) for v in count))


def _of_block(ties: jax.Array, way: _Blocks, here: jax.Array) -> jax.Array:
  """The entries of one block, by reductions; a slice would gather the weight.

  The first reduction is along the last axis that indexes blocks, which XLA's
  CPU backend vectorises; a reduction along all of them at once takes a hundred
  times as long. One reduction is a sum and one a maximum, because XLA would
  join two of the same kind.
  """
  if not way.split:
    return ties.astype(jnp.uint8)
  return (ties & here).sum(
      way.split - 1, dtype=jnp.uint8, keepdims=True).max(way.outer)


def _compared(ways: Sequence[_Blocks], places: Sequence[jax.Array],
              axes: Sequence[tuple[int, ...]],
              compare: Callable[..., jax.Array], index: jax.Array
              ) -> list[jax.Array]:
  """Compares row-major indices along some axes with one index.

  The other axes have size 1. All arrays share one table of comparisons, so that
  their kernels make none.
  """
  sizes = [math.prod(way.shape[a] for a in some)
           for way, some in zip(ways, axes)]
  table = compare(jnp.arange(max(sizes), dtype=jnp.uint32)[None],
                  index[:, None])
  return [
      numerics.everywhere(row[:size]).reshape(tuple(
          n if a in some else 1 for a, n in enumerate(way.shape)))
      for row, way, some, size in zip(
          numerics.rows_at(table, places), ways, axes, sizes)]
