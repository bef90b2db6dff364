"""The k highest of whole weights, many weights in one search.

Every weight has one kernel that counts, in one loop for all; so a program does
not grow with the number of weights more than an optimizer's does. Scores are
made again in each turn, see `remade`.

Weights that tie at the threshold are kept from the lowest index on. The place
of the last one is found in two passes, whatever the number of ties: ties are
counted in blocks of neighbours, and then the one block is looked into where the
quota ends. Blocks of a sharded array are cut so that no entry moves.
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

_BLOCK = 2**15  # The most entries of a block; all but odd axes allow it.


def keep_highest_each(xs: Remade, k: Count) -> list[jax.Array]:
  """Marks the k highest of each of several arrays; ties go to the lower index.

  The candidates of all arrays are tried in turns together. That takes as many
  turns as the slowest array, but compiles once instead of array by array.

  Args:
    xs: floating scores of one dtype. NaN counts as lower than everything.
    k: how many to keep of each; vectors.

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
  """How many scores of each array are at or above a candidate, its own."""
  made, keys = xs.within(keys)
  return counts.total_each([
      topk.at_least(x, key) for x, key in zip(made, keys)])


class _Blocks(NamedTuple):
  """How an array is cut into blocks of neighbours, in row-major order.

  Attributes:
    shape: of the array with some axes in two or three.
    split: how many axes come before those of a block.
  """
  shape: tuple[int, ...]
  split: int

  @classmethod
  def of(cls, shape: tuple[int, ...]) -> '_Blocks':
    """Whole minor axes, and a part of the next.

    There are about a thousand blocks in a large array. Axes that tell blocks
    apart are cut to a length of 32, up to which XLA's CPU backend reduces along
    them in one kernel.
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
          'multiple of 1,024, or store it in several parts.')
    return way

  @property
  def outer(self) -> tuple[int, ...]:
    """The axes that tell blocks apart."""
    return tuple(range(self.split))

  @property
  def inner(self) -> tuple[int, ...]:
    """The axes of a block."""
    return tuple(range(self.split, len(self.shape)))

  @property
  def number(self) -> int:
    """How many blocks there are."""
    return math.prod(self.shape[:self.split])

  @property
  def size(self) -> int:
    """How many entries a block has."""
    return math.prod(self.shape[self.split:])


def cut_each(xs: Remade, found: topk.Bracket, quota: Count
             ) -> list[jax.Array]:
  """The masks of a finished search: all above, and the first of the ties.

  Args:
    xs: the scores.
    found: the bracket of each, as vectors.
    quota: how many ties of each are kept; vectors.
  """
  ways = [_Blocks.of(x.shape) for x in xs.shapes]
  places = numerics.places(len(ways))
  compared = functools.partial(_compared, ways, places)
  outer, inner = zip(*((way.outer, way.inner) for way in ways))

  def pieces():
    """All scores in blocks: which are above, and which tie."""
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
  """The block of each array in which its quota ends, and what is left there."""
  number = jnp.array([t.size for t in ties], jnp.uint32)
  table = numerics.as_rows(ties)
  place = jnp.arange(table.shape[1], dtype=jnp.uint32)[None]

  def before(block):
    here = jnp.where(place < block[:, None], table, 0)
    return _vector(counts.sum_wide(here, (1,)))
  block, passed = _furthest(before, table.shape[1], quota)
  return jnp.minimum(block, number), counts.subtract(quota, passed)


def _last_entry(ties: Sequence[jax.Array], left: Count) -> jax.Array:
  """How many entries of a block go by until what is left is used up."""
  table = numerics.as_rows(ties) > 0
  place = jnp.arange(table.shape[1], dtype=jnp.uint32)[None]

  def before(entry):
    return _vector(counts.total(table & (place < entry[:, None]), (1,)))
  return _furthest(before, table.shape[1], left)[0]


def _furthest(before: Callable[[jax.Array], Count], size: int, limit: Count
              ) -> tuple[jax.Array, Count]:
  """The last place before which there are no more than a limit, bit by bit.

  Args:
    before: how many there are before each of a vector of places.
    size: of places from 0 on.
    limit: vectors.

  Returns:
    The places, and how many there are before them.
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
  """The entries of one block, by reductions: a slice would gather a weight.

  First along the last axis that tells blocks apart, which XLA's CPU backend
  vectorises; along all of them at once it takes a hundred times as long. Sum
  and maximum, because two of a kind would be joined.
  """
  if not way.split:
    return ties.astype(jnp.uint8)
  return (ties & here).sum(
      way.split - 1, dtype=jnp.uint8, keepdims=True).max(way.outer)


def _compared(ways: Sequence[_Blocks], places: Sequence[jax.Array],
              axes: Sequence[tuple[int, ...]],
              compare: Callable[..., jax.Array], index: jax.Array
              ) -> list[jax.Array]:
  """How row-major indices along some axes compare with one; 1 elsewhere.

  The comparisons are one table for all arrays, so that the kernels of each have
  none to make.
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
