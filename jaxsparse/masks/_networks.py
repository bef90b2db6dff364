"""The k highest of every group of up to 128, by a sorting network.

A network of minima and maxima (K. E. Batcher, "Sorting networks and their
applications", 1968) sorts all groups at once, elementwise: one kernel reads the
scores and writes the k-th highest of each group. A second kernel finds the
place of the last equal score that is kept, and a third one compares. Between
the kernels only arrays with one number for each group are stored, nothing moves
on a mesh, and k may be traced.
"""

from typing import Iterator, Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# A kernel of more than 4000 operations is not vectorized by XLA on CPUs.
LARGEST = 128
_INTS = {2: np.int16, 4: np.int32, 8: np.int64}


def keep_highest(x: jax.Array, k: jax.Array, axis: int) -> jax.Array:
  """Marks the k highest of each group; ties go to the lower index.

  Args:
    x: floating scores of 16 bits or more. NaN counts as lower than everything.
    k: the number of entries to keep in each group; a scalar.
    axis: the axis of a group, with at most `LARGEST` entries.

  Returns:
    A bool array of the shape of `x`.
  """
  k = k.astype(jnp.int32)
  entries = _entries(x, axis)
  threshold, zero = _stored(
      _one(_kth_highest([_ordered(v) for v in entries], k), x, axis))
  # Written differently from the expressions above, because XLA stores arrays
  # that two kernels share.
  keys = [_ordered(v, zero) for v in entries]
  tied, _ = _stored(_one(
      _tied_ahead(keys, _everywhere(threshold, entries[0], axis), k), x, axis))
  place = lax.broadcasted_iota(
      threshold.dtype,
      tuple(n if a == axis else 1 for a, n in enumerate(x.shape)), axis)
  # At or above the threshold in integers is above the threshold less one.
  return _ordered(x) > threshold - (place < tied).astype(threshold.dtype)


def _ordered(x: jax.Array, zero: jax.Array | None = None) -> jax.Array:
  """Floats as integers of the same order: NaN first, both zeros are 0."""
  bits = lax.bitcast_convert_type(x, _INTS[x.dtype.itemsize])
  if zero is not None:
    bits = bits ^ zero
  lowest = np.iinfo(bits.dtype).min
  infinity = np.array(np.inf, x.dtype).view(bits.dtype)
  signed = jnp.where(bits < 0, lowest - bits, bits)
  # One above the lowest, so that one less is an integer, too.
  return jnp.where((bits & ~lowest) > infinity, lowest + 1, signed)


def _entries(x: jax.Array, axis: int) -> list[jax.Array]:
  """Arrays that have the i-th entry of each group at place 0 of the group.

  Plain slices would be correct, but XLA stores an array of which more than
  fifteen slices are read. XLA does not count reversals, which keep the shape.
  So a group is cut into an odd number of slices, and the parts of a slice are
  found at place 0 after reversing axes of size two, those whose bit in `j` is
  one. Other places hold other entries and are never computed.
  """
  size = x.shape[axis]
  digits = (size & -size).bit_length() - 1
  odd = size >> digits
  x = x.reshape(
      x.shape[:axis] + (odd,) + (2,) * digits + x.shape[axis + 1:])
  reversed_axes = [
      [axis + 1 + d for d in range(digits) if j >> digits - 1 - d & 1]
      for j in range(1 << digits)]
  return [lax.rev(part, axes)
          for part in (lax.slice_in_dim(x, i, i + 1, axis=axis)
                       for i in range(odd)) for axes in reversed_axes]


def _one(entry: jax.Array, x: jax.Array, axis: int) -> jax.Array:
  """Place 0 of each group, as an axis of one."""
  end = axis + 1 + entry.ndim - x.ndim
  entry = lax.slice(
      entry, (0,) * entry.ndim,
      entry.shape[:axis] + (1,) * (end - axis) + entry.shape[end:])
  return entry.reshape(entry.shape[:axis] + (1,) + entry.shape[end:])


def _everywhere(x: jax.Array, entry: jax.Array, axis: int) -> jax.Array:
  """The inverse of `_one`: the same number at all places of a group."""
  x = x.reshape(x.shape[:axis] + (1,) * (1 + entry.ndim - x.ndim)
                + x.shape[axis + 1:])
  return x + jnp.zeros_like(entry, x.dtype)


def _rounds(n: int) -> Iterator[list[tuple[int, int]]]:
  """Batcher's odd-even merges: pairs to compare, round by round."""
  run = 1
  while run < n:
    pairs, step = [], run
    while step:
      for j in range(step % run, n - step, 2 * step):
        for i in range(j, min(j + step, n - step)):
          if i // (2 * run) == (i + step) // (2 * run):
            pairs.append((i, i + step))
      step //= 2
    yield pairs
    run *= 2


def _kth_highest(xs: Sequence[jax.Array], k: jax.Array) -> jax.Array:
  """The k-th highest of integers, elementwise; the highest for k = 0."""
  xs = list(xs)
  zero = (k >> 30).astype(xs[0].dtype)  # A zero that XLA cannot fold.
  for i, pairs in enumerate(_rounds(len(xs))):
    if i > 4:
      # LLVM spends seconds on simplifying nested minima; this stops it.
      xs = [x ^ zero for x in xs]
    for a, b in pairs:
      xs[a], xs[b] = lax.max(xs[a], xs[b]), lax.min(xs[a], xs[b])
  index = jnp.maximum(k - 1, 0)
  while len(xs) > 1:
    odd = index & 1 == 1
    pairs = [lax.select_n(odd, a, b) for a, b in zip(xs[::2], xs[1::2])]
    xs, index = pairs + xs[2 * len(pairs):], index >> 1
  return xs[0]


def _tied_ahead(xs: Sequence[jax.Array], threshold: jax.Array, k: jax.Array
                ) -> jax.Array:
  """The number of entries up to the last kept tie; 0 if no tie is kept."""
  number = lambda x: x.astype(threshold.dtype)
  missing = number(k) - sum(number(x > threshold) for x in xs)
  seen = jnp.zeros_like(threshold)
  last = number(missing > 0)
  for x in xs:
    seen += number(x == threshold)
    last += number(seen < missing)
  return last


def _stored(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`x` and a zero, written so that XLA computes them once and stores them.

  Otherwise XLA puts a whole network into each kernel that reads its result; an
  `optimization_barrier` does not help, because XLA removes it earlier. The loop
  never runs, because no `x` is the lowest integer.
  """
  add = lambda carry: jax.tree.map(lambda v: v + v.dtype.type(1), carry)
  lowest = np.iinfo(x.dtype).min
  return lax.while_loop(
      lambda carry: carry[0].min() == lowest, add,
      (x, jnp.zeros_like(x, shape=())))
