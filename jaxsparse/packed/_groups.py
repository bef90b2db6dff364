"""Groups of four along K: the kept two of each, packing and unpacking.

Here a weight is a matrix `w[..., K, N]`, padded with zeros to G whole groups.
Four bits (uint32) for each group say which of its rows are kept, bit j for row
j. Each layout decides where to store these bits, and how many groups of padding
to add.
"""

from typing import Any, Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import numerics

TILE = 256  # Rows of K in a tile, as kernels read them.


def round_up(n: int, multiple: int) -> int:
  """The least multiple that is `n` or more."""
  return -(-n // multiple) * multiple


def padded(x: jax.Array, axis: int, size: int) -> jax.Array:
  """With zeros at the end of an axis, up to a size."""
  if x.shape[axis] == size:
    return x
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, size - x.shape[axis])
  return jnp.pad(x, widths)


def count(rows: int, multiple: int = 4) -> int:
  """The number of groups that rows take, padded to a multiple of rows."""
  return round_up(rows, multiple) // 4


def split_groups(matrix: jax.Array, groups: int | None = None) -> jax.Array:
  """`[..., K, N] -> [..., G, 4, N]`, padded with zeros; the least G of all."""
  if groups is None:
    groups = count(matrix.shape[-2])
  whole = _in_tiles(padded(matrix, matrix.ndim - 2, 4 * groups))
  return whole.reshape(*whole.shape[:-2], groups, 4, whole.shape[-1])


def _in_tiles(matrix: jax.Array) -> jax.Array:
  """The same, on devices that have whole tiles of it.

  The compiler sees to that, but for explicitly sharded axes.
  """
  if matrix.shape[-2] % (TILE * numerics.shards(matrix)[-2]) == 0:
    return matrix
  return numerics.whole_along(matrix, -2)


def _as_bits(x: jax.Array) -> jax.Array:
  """As integers: compilers may let floats lose their subnormal numbers."""
  return lax.bitcast_convert_type(x, np.dtype(f'uint{8 * x.dtype.itemsize}'))


def magnitudes(x: jax.Array) -> jax.Array:
  """Integers in the order of magnitudes; 0 for the two zeros alone.

  Unlike among floats NaN has a place. For floats and int8.
  """
  if x.dtype == jnp.int8:
    return jnp.abs(x.astype(jnp.int32))
  bits = _as_bits(x)
  return bits & bits.dtype.type((1 << (8 * x.dtype.itemsize - 1)) - 1)


def are_full(groups: jax.Array) -> jax.Array:
  """Whether a group has more than two entries that are not zero."""
  return (magnitudes(groups) != 0).sum(-2) > 2


def largest_two(matrix: jax.Array) -> jax.Array:
  """The bits of the two largest of every four, `[..., G, N]`.

  Of equal ones the first is kept.
  """
  keys = split_groups(magnitudes(matrix))
  key = [keys[..., i, :] for i in range(4)]
  kept: list[Any] = [
      sum(((other >= mine) if j < i else (other > mine)).astype(jnp.uint8)
              for j, other in enumerate(key) if j != i) < 2
          for i, mine in enumerate(key)]
  bits: Any = sum(k.astype(jnp.uint32) << i for i, k in enumerate(kept))
  return bits


@jax.custom_jvp
def keep(matrix: jax.Array, bits: jax.Array) -> jax.Array:
  """The kept entries of `[..., K, N]`, `[..., 2, G, N]`; 0.0 for -0.0."""
  whole = jnp.where(magnitudes(matrix) == 0, 0, _as_bits(matrix))
  return lax.bitcast_convert_type(gather(whole, bits), matrix.dtype)


@keep.defjvp
def _(primals, tangents):
  return keep(*primals), gather(tangents[0], primals[1])


@jax.jit
def gather(matrix: jax.Array, bits: jax.Array) -> jax.Array:
  """The entries of `[..., K, N]` at the kept places, `[..., 2, G, N]`."""
  groups = split_groups(matrix, bits.shape[-2])
  return _pair(bits, [groups[..., i, :] for i in range(4)])


def kept_rows(bits: jax.Array) -> jax.Array:
  """Which two rows of its four a group keeps, in order: `[..., 2, G, N]`."""
  return _pair(bits, [jnp.full_like(bits, i) for i in range(4)])


def _pair(bits: jax.Array, four: Sequence[jax.Array]) -> jax.Array:
  """The two of four that are kept, in order: `[..., 2, G, N]`."""
  pick = lambda i, then, otherwise: jnp.where(
      (bits >> i) & 1 != 0, then, otherwise)
  a, b, c, d = four
  return jnp.stack([pick(0, a, pick(1, b, c)), pick(3, d, pick(2, c, b))], -3)


@jax.custom_jvp
def spread(values: jax.Array, bits: jax.Array) -> jax.Array:
  """The inverse of `keep`: `[..., 2, G, N] -> [..., 4 * G, N]`."""
  return lax.bitcast_convert_type(_four(_as_bits(values), bits), values.dtype)


@spread.defjvp
def _(primals, tangents):
  return spread(*primals), _four(tangents[0], primals[1])


def _four(values: jax.Array, bits: jax.Array) -> jax.Array:
  """`[..., 2, G, N] -> [..., 4 * G, N]`, zeros where nothing was kept."""
  first, second = values[..., 0, :, :], values[..., 1, :, :]
  is_kept = lambda i: (bits >> i) & 1 != 0
  zero = jnp.zeros((), values.dtype)
  four = jnp.stack([
      jnp.where(is_kept(0), first, zero),
      jnp.where(is_kept(1), jnp.where(is_kept(0), second, first), zero),
      jnp.where(is_kept(2), jnp.where(is_kept(3), first, second), zero),
      jnp.where(is_kept(3), second, zero)], -2)
  return four.reshape(*four.shape[:-3], 4 * four.shape[-3], four.shape[-1])
