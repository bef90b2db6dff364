"""The k highest of every group, exactly and without sorting.

A threshold is found by counting: each round compares all scores with one
candidate and moves one end of a bracket. A round communicates only counts, so a
sharded array needs scalar all-reduces and no weight ever moves. The array is
read ten to forty times, while a sort would move it for seconds. Candidates are
ordered by their bits, which makes the search exact for every float type (if the
backend flushes subnormal numbers to zero, they are equal to zero). Comparisons
are made on the floats themselves: NaN compares false, so it is pruned first,
and the two zeros are equal.
"""

import math
from typing import Any, Callable, NamedTuple, Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import numerics
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks.exact_counts import Count

_KEYS = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


class Bracket(NamedTuple):
  """Two neighbouring candidates around the k-th highest score, and counts.

  `below` entries are at least `lo`, `above` are at least `hi`, and
  `above <= k < below` (or `above == k`). `lo` and `hi` are floats as ordered
  bits, see `_float_of`.
  """
  lo: jax.Array
  hi: jax.Array
  below: Count
  above: Count


def _ends(dtype) -> tuple[int, int]:
  """Keys just below -inf ("everything, NaN too") and just above +inf."""
  bits = np.dtype(_KEYS[jnp.dtype(dtype).itemsize]).itemsize * 8
  infinity = int(np.array(np.inf, dtype).view(np.dtype(f'uint{bits}')))
  sign = 1 << (bits - 1)
  # Negative floats order by the complement of their bits.
  return (2 * sign - 1 - (infinity | sign)) - 1, (infinity | sign) + 1


def _float_of(key: jax.Array, dtype) -> jax.Array:
  """The float whose place in the order of all floats is `key`."""
  sign = key.dtype.type(1 << (key.dtype.itemsize * 8 - 1))
  return lax.bitcast_convert_type(
      jnp.where(key >= sign, key ^ sign, ~key), dtype)


def key_of(value: jax.Array) -> jax.Array:
  """The inverse of `_float_of`."""
  bits = lax.bitcast_convert_type(value, _KEYS[value.dtype.itemsize])
  sign = bits.dtype.type(1 << (bits.dtype.itemsize * 8 - 1))
  return jnp.where(bits >= sign, ~bits, bits | sign)


def at_least(x: jax.Array, key: jax.Array) -> jax.Array:
  """Whether each score of `x` is at or above the candidate `key`."""
  return (x >= _float_of(key, x.dtype)) | (key <= _ends(x.dtype)[0])


def searched_as(dtype: Any, found: Bracket) -> Any:
  """The float dtype of a search over mixed dtypes."""
  wide = {4: jnp.float32, 8: jnp.float64}
  size = found.lo.dtype.itemsize
  return dtype if jnp.dtype(dtype).itemsize == size else jnp.dtype(wide[size])


def start(dtype, size: int) -> Bracket:
  """The widest bracket, for groups of `size` scores."""
  lo, hi = (jnp.array(end, _KEYS[jnp.dtype(dtype).itemsize])
            for end in _ends(dtype))
  return Bracket(lo, hi, counts.exactly(size), counts.exactly(0))


class _Trail(NamedTuple):
  """The variables of interpolation beside the bracket."""
  low_is_new: jax.Array  # Whether `lo` is the end that moved last.
  old: jax.Array         # The end that the last move replaced.
  error: jax.Array       # The count at the old end, less k.
  known: jax.Array       # Whether an old end exists.


def search(count: Callable[[jax.Array], Count], k: Count, bracket: Bracket,
           guesses: tuple[jax.Array, ...] = ()) -> Bracket:
  """Narrows a bracket until the k highest scores are found.

  Then the k highest scores are all scores at or above `hi`, and as many of the
  (equal) scores between `lo` and `hi` as are needed. Candidates come from
  inverse quadratic interpolation on the counts where it is reliable, otherwise
  from bisection (Chandrupatla, "A new hybrid quadratic/bisection algorithm for
  finding the zero of a nonlinear function without using derivatives", 1997).
  All decisions use exact counts.

  Args:
    count: a function from a candidate to the number of scores at or above it.
    k: the number of scores to keep, in the shape of the bracket's arrays.
    bracket: the initial bracket.
    guesses: candidates to try first.

  Returns:
    The final bracket.
  """
  # If k is the size of the group, `lo` is already the threshold.
  everything = counts.less_equal(bracket.below, k)
  bracket = bracket._replace(
      hi=jnp.where(everything, bracket.lo, bracket.hi),
      above=counts.where(everything, bracket.below, bracket.above))

  def is_open(b: Bracket) -> jax.Array:
    return (b.hi > b.lo + 1) & ~counts.less_equal(k, b.above)

  def error(c: Count) -> jax.Array:
    return jnp.where(
        counts.less_equal(k, c), counts.to_float(counts.subtract(c, k)),
        -counts.to_float(counts.subtract(k, c)))

  def narrow(b: Bracket, trail: _Trail, key: jax.Array):
    c = count(key)
    inside = is_open(b) & (key > b.lo) & (key < b.hi)
    high = counts.less_equal(c, k)
    up, down = inside & ~high, inside & high
    trail = _Trail(
        jnp.where(inside, up, trail.low_is_new),
        jnp.where(up, b.lo, jnp.where(down, b.hi, trail.old)),
        jnp.where(up, error(b.below),
                  jnp.where(down, error(b.above), trail.error)),
        trail.known | inside)
    b = Bracket(
        jnp.where(up, key, b.lo), jnp.where(down, key, b.hi),
        counts.where(up, c, b.below), counts.where(down, c, b.above))
    return b, trail

  def candidate(b: Bracket, trail: _Trail) -> jax.Array:
    ends = (b.lo, error(b.below)), (b.hi, error(b.above))
    (x1, f1), (x2, f2) = (
        (jnp.where(trail.low_is_new, p, q), jnp.where(trail.low_is_new, f, g))
        for (p, f), (q, g) in (ends, ends[::-1]))
    x3, f3 = trail.old, trail.error
    # Ratios of distances and of errors, as in the paper's notation.
    xi = _ratio(_difference(x1, x2), _difference(x3, x2))
    phi = _ratio(f1 - f2, f3 - f2)
    trusted = trail.known & (phi**2 < xi) & ((1. - phi)**2 < 1. - xi)
    quadratic = (
        _ratio(f1, f2 - f1) * _ratio(f3, f2 - f3)
        + _ratio(_difference(x3, x1), _difference(x2, x1))
        * _ratio(f1, f3 - f1) * _ratio(f2, f3 - f2))
    t = jnp.where(trusted, quadratic, .5)  # From the newest end to the other.
    t = jnp.clip(jnp.where(trail.low_is_new, t, 1. - t), 0., 1.)
    width = b.hi - b.lo
    jump = jnp.where(trusted, (t * width.astype(t.dtype)).astype(width.dtype),
                     width // 2)
    return b.lo + jnp.clip(jump, 1, jnp.maximum(width, 2) - 1)

  def body(carry):
    i, b, trail = carry
    key = candidate(b, trail)
    for j, known in enumerate(guesses):
      key = jnp.where(i == j, known, key)
    return i + 1, *narrow(b, trail, key)

  zero = jnp.zeros_like(error(k))
  trail = _Trail(zero > 0, bracket.lo, zero, zero > 0)
  return lax.while_loop(
      lambda carry: is_open(carry[1]).any(), body,
      (jnp.int32(0), *numerics.varying_as(
          (bracket, trail), lambda: narrow(bracket, trail, bracket.lo))))[1]


def _difference(a: jax.Array, b: jax.Array) -> jax.Array:
  """`a - b` of two unsigned keys as a float."""
  return jnp.where(a >= b, (a - b).astype(jnp.float32),
                   -(b - a).astype(jnp.float32))


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
  """`a / b`, with 0 for a division by zero."""
  return jnp.where(b == 0, 0., a / jnp.where(b == 0, 1., b))


def keep_highest(x: jax.Array, k: Count, axes: tuple[int, ...]) -> jax.Array:
  """Marks the k highest of each group; ties go to the lower index.

  Args:
    x: floating scores. NaN counts as lower than everything.
    k: the number of entries to keep in each group, a count of scalars.
    axes: the axes along which entries compete, in index order.

  Returns:
    A bool array of the shape of `x`.
  """
  size = math.prod(x.shape[a] for a in axes)
  k, bracket = jax.tree.map(
      lambda v: _per_group(v, x, axes), (k, start(x.dtype, size)))
  found = search(
      lambda key: counts.total(at_least(x, key), axes), k, bracket)
  return _cut_at(x, found, counts.subtract(k, found.above), axes)


def stack(found: Sequence[Bracket]) -> Bracket:
  """Single brackets as one of vectors."""
  lo, hi, below, above = zip(*found)
  return Bracket(jnp.stack(lo), jnp.stack(hi), counts.stack(below),
                 counts.stack(above))


def _per_group(scalar: jax.Array, x: jax.Array, axes: tuple[int, ...]
               ) -> jax.Array:
  """One copy of a scalar for each group."""
  groups = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
  value = jnp.broadcast_to(scalar, groups)
  if len(axes) == x.ndim:
    return value
  # Explicitly sharded groups: laid out as `x` is, and groups over devices.
  return value + jnp.zeros_like(x.max(axes, keepdims=True), value.dtype)


def _cut_at(x: jax.Array, found: Bracket, quota: Count, axes: tuple[int, ...]
            ) -> jax.Array:
  """The mask of a finished search: all scores above, and the first ties.

  The place of the last kept tie is found by the same search, which ends at once
  if none or all of the ties are kept. Places have 32 bits; in a larger group
  the row is found first, then the place within that row.
  """
  above = at_least(x, found.hi)
  ties = at_least(x, found.lo) & ~above
  many = counts.subtract(found.below, found.above)
  none = jax.tree.map(jnp.zeros_like, many)
  wide = math.prod(x.shape[a] for a in axes) >= 2**32 - 1
  kept = above
  for level in ([axes[:-1], axes[-1:]] if wide else [axes]):
    n = math.prod(x.shape[a] for a in level)
    last = search(
        lambda key, ties=ties, level=level: counts.total(
            ties & _reached(key, x.shape, level), axes), quota,
        Bracket(none.lo, none.lo + jnp.uint32(n + 1), many, none))
    kept = kept | (ties & _reached(last.hi, x.shape, level))
    if wide:
      ties = (ties & _reached(last.lo, x.shape, level)
              & ~_reached(last.lo + 1, x.shape, level))
      quota = counts.subtract(quota, last.above)
      many = counts.subtract(last.below, last.above)
  return kept


def _reached(key: jax.Array, shape: tuple[int, ...], axes: tuple[int, ...]
             ) -> jax.Array:
  """Whether the place of each entry is at least `key`.

  Places count down in row-major order along `axes`, from their number at the
  first entry to 1 at the last. Digits of the place are compared axis by axis:
  XLA would keep an array of places, as large as the scores, beside a loop.
  """
  n = math.prod(shape[a] for a in axes)
  index = jnp.uint32(n) - key  # Of the last entry that is reached.
  reached = jnp.bool_(True)
  for i in reversed(range(len(axes))):
    axis = axes[i]
    digit = index // jnp.uint32(max(
        math.prod(shape[a] for a in axes[i + 1:]), 1))
    if i:
      digit = digit % jnp.uint32(shape[axis])
    here = indices(shape, axis, jnp.uint32)
    reached = (here < digit) | ((here == digit) & reached)
  return reached & (key <= jnp.uint32(n))


def indices(shape: tuple[int, ...], axis: int, dtype) -> jax.Array:
  """Indices along one axis of an array of `shape`, size 1 along the others."""
  return lax.broadcasted_iota(
      dtype, tuple(n if a == axis else 1 for a, n in enumerate(shape)), axis)


def keep_highest_of_few(x: jax.Array, k: jax.Array, axis: int) -> jax.Array:
  """`keep_highest` along one short axis, by comparing all pairs.

  An entry is kept if fewer than `k` others are higher. XLA fuses the
  comparisons into one kernel without a temporary; the work grows with the
  square of the axis.
  """
  x, n = without_nan(x), x.shape[axis]
  mine, other = jnp.expand_dims(x, axis + 1), jnp.expand_dims(x, axis)
  pairs = x.shape[:axis] + (n, n) + x.shape[axis + 1:]
  i, j = (indices(pairs, a, jnp.int32) for a in (axis, axis + 1))
  beaten = (other > mine) | ((other == mine) & (j < i))
  return beaten.sum(axis + 1, dtype=jnp.uint8) < jnp.asarray(k, jnp.uint8)


def keep_best(x: jax.Array, axis: int) -> jax.Array:
  """`keep_highest` with k = 1: an argmax within chunks, then among them."""
  x, n = without_nan(x), x.shape[axis]
  chunk = max(c for c in range(1, min(n, 16) + 1) if n % c == 0)
  x = x.reshape(x.shape[:axis] + (n // chunk, chunk) + x.shape[axis + 1:])
  inner = jnp.argmax(x, axis + 1, keepdims=True)
  outer = jnp.argmax(x.max(axis + 1, keepdims=True), axis, keepdims=True)
  i, j = (indices(x.shape, a, inner.dtype) for a in (axis, axis + 1))
  kept = (i == outer) & (j == inner)
  return kept.reshape(kept.shape[:axis] + (n,) + kept.shape[axis + 2:])


def without_nan(x: jax.Array) -> jax.Array:
  """Replaces NaN by -inf and -inf by the lowest float, so that all compare."""
  lowest = jnp.finfo(x.dtype).min
  return jnp.where(jnp.isnan(x), -jnp.inf, jnp.maximum(x, lowest))
