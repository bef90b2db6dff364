"""The positions of planar and tiled weights: words from bits, and back.

They are four bits a group, bit j for its row j, of which two are set. A tile of
256 rows has 64 groups in 8 words: group `2 * (8 * s + r) + h` is in word r,
from bit `16 * h + 4 * s` on. So `words >> 4 * s` for s = 0..3, one under the
other, have the bits of neighbouring groups in the two halves of a word, as a
TPU's registers have neighbouring rows of bfloat16. The rest of K makes a
smaller tile, of `R < 8` words, whose group `2 * (R * s + r) + h` is in word r;
groups that are not there have no bits. Where K is a multiple of 256 there is no
rest.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse.packed import _groups

# From which bit of a word on the group of s and h is, as told above.
_SHIFTS = np.array(
    [[16 * h + 4 * s for h in range(2)] for s in range(4)], np.uint32)


def to_words(bits: jax.Array) -> jax.Array:
  """`[..., G, N]` with four bits each to `[..., G / 8, N]`, int32."""
  *leading, groups, n = bits.shape

  def words(first: int, last: int, rows: int) -> jax.Array:
    part = _groups.padded(
        bits[..., first:last, :], bits.ndim - 2,
        _groups.round_up(last - first, 8 * rows))
    tiles = part.reshape(*leading, -(-(last - first) // (8 * rows)), 4, rows, 2,
                         n)
    packed: Any = sum(
        tiles[..., s, :, h, :] << _SHIFTS[s, h]
                for s in range(4) for h in range(2))
    return packed.reshape(*leading, part.shape[-2] // 8, n)
  return lax.bitcast_convert_type(
      _joined([words(*part) for part in _tiles(groups)], bits), jnp.int32)


def to_bits(words: jax.Array, groups: int) -> jax.Array:
  """The inverse of `to_words`, for so many groups."""
  words = lax.bitcast_convert_type(words, jnp.uint32)
  *leading, _, n = words.shape
  shifts = _SHIFTS.reshape((1,) * len(leading) + (1, 4, 1, 2, 1))

  def bits(first: int, last: int, rows: int) -> jax.Array:
    part = words[..., first // 8:-(-last // 8), :]
    tiles = part.reshape(*leading, part.shape[-2] // rows, 1, rows, 1, n)
    unpacked = (tiles >> shifts) & np.uint32(15)
    return unpacked.reshape(
        *leading, 8 * part.shape[-2], n)[..., :last - first, :]
  return _joined([bits(*part) for part in _tiles(groups)], words)


def _tiles(groups: int) -> list[tuple[int, int, int]]:
  """Groups in whole tiles, then the rest: first, last, and words of a tile."""
  whole = groups // 64 * 64
  parts = [(0, whole, 8), (whole, groups, -(-(groups - whole) // 8))]
  return [part for part in parts if part[0] < part[1]]


def _joined(parts: list[jax.Array], empty: jax.Array) -> jax.Array:
  """Parts along the axis of groups; of no groups there are none."""
  if len(parts) == 2:
    return jnp.concatenate(parts, -2)
  return parts[0] if parts else empty
