"""Hopper's layout: every bit is where the docs say, and nothing is lost.

The oracle reads it in numpy, thread by thread, from the words of
`_hopper_layout`'s docstring alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.packed import _groups
from jaxsparse.packed import _hopper_layout
from jaxsparse.packed import layout24
from tests._lib.packed import assert_same
from tests._lib.packed import bits
from tests._lib.packed import normal
from tests._lib.packed import prune
from tests._lib.packed import two_way
from tests._lib.packed import unpack
from tests._lib.packed import with_layout


def read_hopper(packed):
  """`[K', N']` as `wgmma.mma_async.sp` would see it, transposed."""
  values = np.asarray(packed.values)
  words = np.asarray(packed.positions).view(np.uint32)
  n, half_k = values.shape
  assert (n % 128, half_k % 128) == (0, 0)
  assert words.shape == (n // 64, half_k // 64, 256)
  wt = np.zeros((n, 2 * half_k), values.dtype)
  for (block, tile, at), word in np.ndenumerate(words):
    thread, step = divmod(at, 2)
    warp, lane = divmod(thread, 32)
    g, c = divmod(lane, 4)
    for half in range(2):
      row = 64 * block + 16 * warp + g + 8 * half
      for four in range(4):
        column = 128 * tile + 64 * step + 16 * c + 4 * four
        code = int(word) >> (16 * half + 4 * four) & 15
        first, second = code & 3, code >> 2
        assert first < second
        wt[row, [column + first, column + second]] = values[
            row, column // 2:column // 2 + 2]
  return wt.T


@pytest.mark.parametrize('shape', [(256, 3), (300, 130)], ids=str)
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_hopper_arrays_are_in_the_order_of_the_instruction(shape, dtype):
  w = prune(normal(*shape, dtype=jnp.dtype(dtype)))
  packed = with_layout(layout24.pack(w), 'hopper')
  dense = read_hopper(packed)
  assert dense.shape == tuple(
      -(-n // tile) * tile for n, tile in zip(shape, (256, 128)))
  assert packed.positions.dtype == np.int32
  k, n = shape
  np.testing.assert_array_equal(bits(dense[:k, :n]), bits(w))
  assert not dense[k:].any() and not dense[:, n:].any()
  assert packed.shape == shape


@pytest.mark.parametrize('shape', [(4, 1), (2, 300, 130), (0, 4), (8, 0)],
                         ids=str)
def test_layouts_there_and_back_change_nothing(shape):
  w = prune(normal(*shape, dtype=jnp.bfloat16))
  planar = layout24.pack(w)
  tiled = with_layout(planar, 'tiled')
  assert_same(with_layout(tiled, 'planar'), planar)
  assert_same(with_layout(tiled, 'hopper'), with_layout(planar, 'hopper'))
  assert_same(with_layout(with_layout(planar, 'hopper'), 'tiled'), tiled)
  hopper = with_layout(planar, 'hopper')
  assert hopper.layout == 'hopper' and hopper.shape == shape
  assert layout24.with_layout(planar, 'planar') is planar
  assert_same(with_layout(hopper, 'planar'), planar)
  assert_same(with_layout(
      with_layout(hopper, 'planar'), 'hopper'), hopper)
  np.testing.assert_array_equal(bits(unpack(hopper)), bits(w))


def test_transposed_has_the_layout_too():
  w = two_way(8, 12, dtype=jnp.bfloat16)
  planar = layout24.pack(w, transposed=True)
  hopper = with_layout(planar, 'hopper')
  assert hopper.transposed.layout == 'hopper'
  np.testing.assert_array_equal(bits(unpack(hopper.transposed)),
                                bits(w))
  assert_same(with_layout(hopper, 'planar'), planar)


@pytest.mark.parametrize('dtype', ['float32', 'int8', 'float8_e4m3fn'])
def test_what_hopper_does_not_read_stays_planar(dtype):
  with pytest.raises(ValueError, match=f'{dtype}.*bfloat16'):
    with_layout(layout24.pack(jnp.zeros((4, 4), dtype)), 'hopper')


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_columns_count_as_padded_to_128(dtype):
  packed = with_layout(layout24.pack(jnp.zeros((4, 8), dtype)), 'hopper')
  assert packed.nbytes == 0.5625 * 256 * 128 * 2


@pytest.mark.parametrize('n', [1, 130])
def test_groups_there_and_back_are_the_same(n):
  @jax.jit
  def there_and_back(w, key):
    occupancy = _groups.largest_two(key)
    values = _groups.gather(w, occupancy)
    made = _hopper_layout.from_groups(values, occupancy)
    return ((values, occupancy), (_hopper_layout.from_values(made[0], n),
                                  _hopper_layout.to_bits(made[1], n)),
            (made[0], _hopper_layout.to_values(values)))
  w = normal(512, n, dtype=jnp.bfloat16)
  given, back, (made, values) = there_and_back(w, normal(512, n, seed=1))
  for x, y in ((given[0], back[0]), (made, values)):
    np.testing.assert_array_equal(bits(x), bits(y))
  np.testing.assert_array_equal(given[1], back[1])
