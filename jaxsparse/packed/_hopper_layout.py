"""Hopper's layout of packed 2:4 weights: arrays from groups, and back.

Arrays are in the order in which `wgmma.mma_async.sp` reads its operands. K is
padded to whole tiles, K'. `values` are `[N', K'/2]`, N padded to 128: a row for
each column of the weight. `positions` are `[N'/64, K'/128, 256]`, int32. For a
64 x 64 part of the transposed weight, thread `32 * w + 4 * g + c` has one word:
the groups of rows `16 * w + g` (low half) and `16 * w + g + 8` from column
`16 * c` on, four bits each: the index of the first kept entry, then of the
second. A block of 256 words has two such parts, with the words of a thread side
by side.

`_planar_layout` describes the planar layout, and `_groups` the bits of groups,
which connect the two.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse.packed import _groups

COLUMNS = 128  # Columns that a block of the Hopper kernel has.
DTYPES = (jnp.bfloat16, jnp.float16)


def to_values(values: jax.Array) -> jax.Array:
  """`[..., 2, G, N]` as this layout has them, `[..., N', 2 * G]`."""
  *leading, _, g, n = values.shape
  columns = _groups.round_up(n, COLUMNS)
  values = jnp.moveaxis(values, -3, -1).swapaxes(-3, -2)  # [N, G, 2]
  return _groups.padded(values, len(leading), columns).reshape(
      *leading, columns, 2 * g)


def from_groups(values: jax.Array, bits: jax.Array
                ) -> tuple[jax.Array, jax.Array]:
  """Values and positions of `[..., 2, G, N]` entries and `[..., G, N]` bits.

  Of whole tiles.
  """
  g, n = values.shape[-2:]
  values = to_values(values)
  *leading, columns, _ = values.shape
  rows = _groups.kept_rows(bits)
  code = rows[..., 0, :, :] | (rows[..., 1, :, :] << 2)
  # A padding column keeps its first two.
  code = jnp.pad(code, [(0, 0)] * (code.ndim - 1) + [(0, columns - n)],
                 constant_values=np.uint32(4))
  # Columns are (block, w, half, g), groups (tile, step, c, four).
  code = code.mT.reshape(
      *leading, columns // 64, 4, 2, 8, g // 32, 2, 4, 4)
  words: Any = sum(
      code[..., :, :, half, :, :, :, :, i] << (16 * half + 4 * i)
              for half in range(2) for i in range(4))
  # [block, w, g, tile, step, c] -> [block, tile, w, g, c, step]
  lead = tuple(range(len(leading)))
  words = words.transpose(*lead, *(len(lead) + a for a in (0, 3, 1, 2, 5, 4)))
  return values, lax.bitcast_convert_type(
      words.reshape(*leading, columns // 64, g // 32, _groups.TILE), jnp.int32)


def from_values(values: jax.Array, n: int) -> jax.Array:
  """The inverse of `to_values`, for a weight of N columns."""
  *leading, columns, half_k = values.shape
  values = values.reshape(*leading, columns, half_k // 2, 2)[..., :n, :, :]
  return jnp.moveaxis(values.swapaxes(-3, -2), -1, -3)


def to_bits(positions: jax.Array, n: int) -> jax.Array:
  """The bits of groups, for a weight of N columns."""
  *leading, blocks, tiles, _ = positions.shape
  words = lax.bitcast_convert_type(positions, jnp.uint32).reshape(
      *leading, blocks, tiles, 4, 8, 4, 2)
  lead = tuple(range(len(leading)))
  words = words.transpose(*lead, *(len(lead) + a for a in (0, 2, 3, 1, 5, 4)))
  fours = lambda half: jnp.stack(
      [(words >> (16 * half + 4 * i)) & np.uint32(15) for i in range(4)], -1)
  # [block, w, g, tile, step, c, four] -> [block, w, half, g, ...]
  code = jnp.stack([fours(0), fours(1)], len(leading) + 2)
  code = code.reshape(*leading, 64 * blocks, 32 * tiles)[..., :n, :].mT
  return (np.uint32(1) << (code & 3)) | (np.uint32(1) << (code >> 2))
