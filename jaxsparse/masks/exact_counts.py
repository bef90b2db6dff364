"""Exact counts of mask entries, inside of jit, beyond the range of 32 bits.

A whole tree, or one leaf of stacked layers, may have more than 2^32 entries,
while JAX computes in 32 bits by default. A `Count` holds an integer below 2^48
as two uint32 words. The library makes every decision about numbers of weights
with counts, because float32 is off by 14 at 2^30.
"""

import math
from typing import NamedTuple, Sequence

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsparse._utils import numerics

_U32 = jnp.uint32
_LOW = 0xFFFF


class Count(NamedTuple):
  """The integer `hi * 2**16 + lo`, with `lo < 2**16`; arrays of one shape."""
  hi: jax.Array
  lo: jax.Array


def exactly(n: int) -> Count:
  """The count that is the Python integer `n`."""
  return Count(*(jnp.array(word, _U32) for word in _words(n)))


def exactly_each(ns: Sequence[int]) -> Count:
  """Python integers as one vector."""
  table = [_words(n) for n in ns]
  return Count(*(jnp.array([row[i] for row in table], _U32) for i in (0, 1)))


def _words(n: int) -> tuple[int, int]:
  if not 0 <= n < 2**48:
    raise ValueError(f'A count must be in [0, 2**48), got {n}.')
  return n >> 16, n & _LOW


def add(a: Count, b: Count) -> Count:
  lo = a.lo + b.lo
  return Count(a.hi + b.hi + (lo >> 16), lo & _LOW)


def subtract(a: Count, b: Count) -> Count:
  """`a - b`; it requires `a >= b`."""
  lo = a.lo - b.lo  # Wraps below zero, which sets the top bit: the borrow.
  return Count(a.hi - b.hi - (lo >> 31), lo & _LOW)


def less_equal(a: Count, b: Count) -> jax.Array:
  return (a.hi < b.hi) | ((a.hi == b.hi) & (a.lo <= b.lo))


def where(condition: jax.Array, a: Count, b: Count) -> Count:
  return Count(*(jnp.where(condition, x, y) for x, y in zip(a, b)))


def minimum(a: Count, b: Count) -> Count:
  return where(less_equal(a, b), a, b)


def maximum(a: Count, b: Count) -> Count:
  return where(less_equal(a, b), b, a)


def stack(counts: Sequence[Count]) -> Count:
  """Single counts as one vector."""
  return Count(*(jnp.stack([v.reshape(()) for v in words])
                 for words in zip(*counts)))


def unstack(a: Count) -> list[Count]:
  """A vector as single counts, the inverse of `stack`."""
  return [Count(a.hi[i], a.lo[i]) for i in range(len(a.hi))]


def from_uint32(n: jax.Array) -> Count:
  """The counts that are uint32 numbers."""
  return Count(n >> 16, n & _LOW)


def to_uint32(a: Count) -> jax.Array:
  """Counts below 2^32 as numbers."""
  return a.hi << 16 | a.lo


def in_turn(wanted: Count, total: Count) -> Count:
  """Shares a total in order: each entry gets `wanted` until the total is used.
  """
  sums = minimum(lax.associative_scan(add, wanted), total)
  return subtract(sums, Count(
      *(jnp.concatenate([jnp.zeros_like(v[:1]), v[:-1]]) for v in sums)))


def in_proportion(total: Count, weights: jax.Array, room: Count) -> Count:
  """Shares a total in proportion to weights, with an upper bound per entry.

  If a share exceeds the room of its entry, the other entries share the excess
  in proportion, too. Shares are rounded down, and the remaining units go to the
  largest remainders, one each. So the whole total is shared, unless the room is
  too small.

  Args:
    total: a single count.
    weights: float `[n]`, not negative. A weight that is not finite counts as 0;
      if all are 0, all count as 1.
    room: the upper bounds, counts `[n]`.

  Returns:
    Counts `[n]`.
  """
  weights = jnp.where(jnp.isfinite(weights), jnp.maximum(weights, 0.), 0.)
  top = weights.max()
  # Into the middle of the range: the inverse of a large float is zero.
  weights *= jnp.where(top > 1e18, 1e-19, jnp.where(top < 1e-18, 1e19, 1.))
  none = jax.tree.map(jnp.zeros_like, room)

  def shares(full):
    """The total without the full entries, and the shares of the others."""
    left = subtract(total, minimum(total, sum_few(where(full, room, none))))
    mine = jnp.where(full, 0., weights)
    mine = jnp.where(mine.sum() > 0, mine, (~full).astype(mine.dtype))
    return left, mine / jnp.where(mine.sum() > 0, mine.sum(), 1.)

  def fill(_, full):
    left, mine = shares(full)
    return full | (to_float(left) * mine >= to_float(room))

  full = (room.hi | room.lo) == 0
  # Every iteration but the last fills an entry.
  full = lax.fori_loop(0, weights.size, fill, full)
  left, mine = shares(full)
  given = in_turn(
      where(full, room, minimum(floor_of(left, mine), room)), total)
  remainders = jnp.where(
      less_equal(room, given), -jnp.inf, to_float(left) * mine
      - to_float(given))
  rank = jnp.argsort(jnp.argsort(-remainders, stable=True)).astype(_U32)
  missing = subtract(total, sum_few(given))
  one = ~less_equal(room, given) & ~less_equal(
      missing, from_uint32(rank))
  given = add(given, Count(jnp.zeros_like(rank), one.astype(_U32)))
  return add(given, in_turn(
      subtract(room, given), subtract(total, sum_few(given))))


def sum_few(a: Count) -> Count:
  """The sum of a vector of up to 2^16 counts."""
  return sum_along(a, 0)


def sum_along(a: Count, axis: int) -> Count:
  """Sums up to 2^16 counts along an axis."""
  lo = a.lo.sum(axis, dtype=_U32)
  return Count(a.hi.sum(axis, dtype=_U32) + (lo >> 16), lo & _LOW)


def to_float(a: Count) -> jax.Array:
  """A float32 near the count; for estimates and reports only."""
  return a.hi.astype(jnp.float32) * 65536. + a.lo.astype(jnp.float32)


def _multiply(a: Count, fraction: ArrayLike
              ) -> tuple[Count, jax.Array, jax.Array, jax.Array]:
  """`a * fraction`: its integer part, and the size of its fractional part.

  Schoolbook multiplication in 16-bit digits. `fraction` in [0, 1] is read as a
  fixed point number with 64 bits after the point, all of a float32 above 2^-40.

  Returns:
    The integer part, whether the fractional part is above a half, whether it is
    exactly a half, and whether it is within a thousandth of 1.
  """
  rest = jnp.clip(jnp.asarray(fraction, jnp.float32), 0., 1.)
  places = []  # Digits after the point; the first may be 65536, for 1.
  for _ in range(4):
    rest = rest * 65536.
    places.append(jnp.floor(rest).astype(_U32))
    rest = rest - jnp.floor(rest)
  digits = [jnp.zeros_like(a.lo + places[0]) for _ in range(8)]
  for i, x in enumerate((a.lo, a.hi & _LOW, a.hi >> 16)):
    for j, y in enumerate(reversed(places)):
      product = x * y  # At most 65535 * 65536, below 2^32.
      digits[i + j] += product & _LOW
      digits[i + j + 1] += product >> 16
  for i in range(7):
    digits[i + 1] += digits[i] >> 16
    digits[i] &= _LOW
  whole = Count(digits[5] + (digits[6] << 16), digits[4])
  more = (digits[0] | digits[1] | digits[2]) > 0
  top = digits[3]
  return (whole, (top > 0x8000) | ((top == 0x8000) & more),
          (top == 0x8000) & ~more, top >= 0xFFC0)


def floor_of(a: Count, fraction: ArrayLike) -> Count:
  """`floor(a * fraction)` for a fraction in [0, 1]."""
  return _multiply(a, fraction)[0]


def share_of(a: Count, fraction: ArrayLike) -> Count:
  """`floor(a * fraction)` with a tolerance: 70% of 10 are 7.

  The float32 0.7 is less than 0.7, so a product within a thousandth below a
  whole number counts as that number.
  """
  whole, _, _, near = _multiply(a, fraction)
  return minimum(a, add(whole, Count(jnp.zeros_like(whole.hi),
                                     near.astype(_U32))))


def remaining(a: Count, part: Count, fraction: ArrayLike) -> Count:
  """`round(a - part * fraction)`, halves to even; it requires `part <= a`."""
  whole, above, half, _ = _multiply(part, fraction)
  kept = subtract(a, whole)
  down = above | (half & (kept.lo % 2 == 1))
  return subtract(kept, Count(jnp.zeros_like(kept.hi), down.astype(_U32)))


def divide(a: Count, n: jax.Array) -> Count:
  """`floor(a / n)` of vectors, bit by bit; `n` is uint32 in [1, 2^31)."""
  def turn(i, carry):
    quotient, rest = carry
    bit = jnp.where(i < 32, a.hi >> (31 - jnp.minimum(i, 31)),
                    a.lo >> (47 - jnp.maximum(i, 32))) & 1
    rest = rest << 1 | bit
    fits = rest >= n
    twice = add(quotient, quotient)
    return (Count(twice.hi, twice.lo | fits.astype(_U32)),
            jnp.where(fits, rest - n, rest))
  none = Count(*(jnp.zeros_like(a.lo),) * 2), jnp.zeros_like(a.lo)
  none = numerics.varying_as(none, lambda: turn(_U32(0), none))
  return lax.fori_loop(_U32(0), _U32(48), turn, none)[0]


def part_of(size: int, most: int) -> int:
  """The largest part of an axis, up to `most`, that keeps shardings valid.

  The axis divided by this part has all factors of 2 up to 32 that the axis has.
  So an array that is sharded along the axis can be cut into such parts without
  moving entries between devices.

  >>> part_of(4096, 32), part_of(512, 32), part_of(3, 32)
  (32, 16, 3)
  """
  free = size // math.gcd(size, 32)
  return max(d for d in range(1, min(free, max(most, 1)) + 1) if free % d == 0)


def _sum_on_cpu(mask: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """A sum that XLA's CPU backend fuses with the comparison before it.

  Large integer reductions are rewritten there into windows that no longer fuse,
  and a 32-bit copy of the mask appears (25 ms instead of 3 for 4096 x 4096). A
  first sum of up to 32 neighbours in 8 bits avoids that.
  """
  axis = max(axes, key=lambda a: part_of(mask.shape[a], 32))
  part = part_of(mask.shape[axis], 32)
  if part > 1:
    mask = mask.reshape(
        mask.shape[:axis] + (-1, part) + mask.shape[axis + 1:]).sum(
            axis + 1, dtype=jnp.uint8)
  return mask.sum(axes, dtype=_U32, keepdims=True)


def total_below_32_bits(masks: Sequence[jax.Array],
                        axes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
  """The number of true entries along axes of each array, kept as size 1.

  The numbers are plain uint32, for arrays with fewer than 2^32 entries.
  """
  def plain(mask, axes):
    return mask.sum(axes, dtype=_U32, keepdims=True)

  def each(sum_of):
    return lambda *masks: [
        sum_of(m, a) if m.size and a else plain(m, a)
        for m, a in zip(masks, axes)]
  return lax.platform_dependent(
      *masks, cpu=each(_sum_on_cpu), default=each(plain))


def total(mask: jax.Array, axes: tuple[int, ...]) -> Count:
  """The number of true entries of an array along `axes`, kept as size 1."""
  if math.prod(mask.shape[a] for a in axes) < 2**32:
    small, = total_below_32_bits([mask], [axes])
    return from_uint32(small)
  longest = max(axes, key=lambda a: mask.shape[a])
  rows = mask.sum(longest, dtype=_U32, keepdims=True)
  return sum_wide(rows, tuple(a for a in axes if a != longest))


def sum_wide(rows: jax.Array, axes: tuple[int, ...]) -> Count:
  """Sums uint32 numbers exactly, byte by byte and axis by axis.

  Each axis may have up to 2^24 entries.
  """
  found = from_uint32(rows)
  for axis in axes:
    b0, b1, b2 = (part.sum(axis, dtype=_U32, keepdims=True) for part in (
        found.lo & 0xFF, found.lo >> 8, found.hi))
    b1 += b0 >> 8
    found = Count(b2 + (b1 >> 8), ((b1 & 0xFF) << 8) + (b0 & 0xFF))
  return found


def total_each(masks: Sequence[jax.Array]) -> Count:
  """The number of true entries of each of several bool arrays, as vectors."""
  axes = [tuple(range(m.ndim)) for m in masks]
  if not masks:
    return exactly_each([])
  if all(m.size < 2**32 for m in masks):
    small = jnp.stack([n.reshape(()) for n in total_below_32_bits(masks, axes)])
    return from_uint32(small)
  return stack([total(m, a) for m, a in zip(masks, axes)])
