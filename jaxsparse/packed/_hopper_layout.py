"""Hopper's layout of packed 2:4 weights, as arrays.

A block of positions ...
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse.packed import _groups

COLUMNS = 128  # Columns that a block of the Hopper kernel has.
DTYPES = (jnp.bfloat16, jnp.float16)


def hopper_values(values: jax.Array) -> jax.Array:
  """`[2, G, N]` as the Hopper layout has them, `[N', 2 * G]`."""
  *leading, _, g, n = values.shape
  columns = _round_up(n, COLUMNS)
  values = jnp.moveaxis(values, -3, -1).swapaxes(-3, -2)  # [N, G, 2]
  return padded(values, len(leading), columns).reshape(
      *leading, columns, 2 * g)


def _to_hopper(packed: Packed24) -> tuple[jax.Array, jax.Array]:
  values = hopper_values(packed.values)
  *leading, columns, _ = values.shape
  g, n = packed.values.shape[-2:]
  groups = places(packed)
  index = _pair(groups, [jnp.full_like(groups, i) for i in range(4)])
  code = index[..., 0, :, :] | (index[..., 1, :, :] << 2)
  # A padding column keeps its first two.
  code = jnp.pad(code, [(0, 0)] * (code.ndim - 1) + [(0, columns - n)],
                 constant_values=np.uint32(4))
  # Columns are (block, w, half, g), groups (tile, step, c, four).
  code = code.mT.reshape(
      *leading, columns // 64, 4, 2, 8, g // 32, 2, 4, 4)
  words = sum(code[..., :, :, half, :, :, :, :, i] << (16 * half + 4 * i)
              for half in range(2) for i in range(4))
  # [block, w, g, tile, step, c] -> [block, tile, w, g, c, step]
  lead = tuple(range(len(leading)))
  words = words.transpose(*lead, *(len(lead) + a for a in (0, 3, 1, 2, 5, 4)))
  return values, lax.bitcast_convert_type(
      words.reshape(*leading, columns // 64, g // 32, TILE), jnp.int32)


def _from_hopper(packed: Packed24) -> tuple[jax.Array, jax.Array]:
  *leading, columns, half_k = packed.values.shape
  g, n = half_k // 2, math.prod(packed.features)
  values = packed.values.reshape(*leading, columns, g, 2)[..., :n, :, :]
  values = jnp.moveaxis(values.swapaxes(-3, -2), -1, -3)
  words = lax.bitcast_convert_type(packed.positions, jnp.uint32).reshape(
      *leading, columns // 64, g // 32, 4, 8, 4, 2)
  lead = tuple(range(len(leading)))
  words = words.transpose(*lead, *(len(lead) + a for a in (0, 2, 3, 1, 5, 4)))
  fours = lambda half: jnp.stack(
      [(words >> (16 * half + 4 * i)) & np.uint32(15) for i in range(4)], -1)
  # [block, w, g, tile, step, c, four] -> [block, w, half, g, ...]
  code = jnp.stack([fours(0), fours(1)], len(leading) + 2)
  code = code.reshape(*leading, columns, g)[..., :n, :].mT
  bits = (np.uint32(1) << (code & 3)) | (np.uint32(1) << (code >> 2))
  return values, _words(bits)
