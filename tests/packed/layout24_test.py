"""Packed 2:4 weights: nothing is lost, and every bit is where the docs say.

The oracle reads the planar layout in numpy, word by word, from the words of
`_planar_layout`'s docstring alone.
"""

import math
import re

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

import jaxsparse
from jaxsparse.packed import layout24
from tests._lib.packed import bits
from tests._lib.packed import normal
from tests._lib.packed import prune
from tests._lib.packed import pruned_along
from tests._lib.packed import raw
from tests._lib.packed import two_way
from tests._lib.packed import unpack
from tests._lib.packed import with_layout

_DTYPES = ['float32', 'bfloat16', 'float16', 'int8', 'float8_e4m3fn',
           'float8_e5m2']
_SHAPES = [(1, 1), (7, 2), (260, 3), (300, 2)]


def read_planar(packed):
  """`[4 * G, N]` of a planar or tiled weight; every group has two bits."""
  values = np.asarray(packed.values)
  words = np.asarray(packed.positions).view(np.uint32)
  two, groups, n = values.shape
  assert two == 2 and words.shape == (-(-groups // 8), n)
  w = np.zeros((4 * groups, n), values.dtype)
  for tile in range(-(-groups // 64)):
    size = min(8, len(words) - 8 * tile)
    for s in range(4):
      for r in range(size):
        for h in range(2):
          group = 64 * tile + 2 * (size * s + r) + h
          for column in range(n):
            word = int(words[8 * tile + r, column])
            if group >= groups:
              assert not word >> (16 * h + 4 * s) & 15
              continue
            four = word >> (16 * h + 4 * s) & 15
            rows = [j for j in range(4) if four >> j & 1]
            assert len(rows) == 2
            w[[4 * group + row for row in rows], column] = values[
                :, group, column]
  return w


@st.composite
def weights(draw):
  """2:4 weights `[K, N]` of any bits: NaN, infinities, subnormals, -0.0."""
  dtype = np.dtype(jnp.dtype(draw(st.sampled_from(_DTYPES))))
  shape = draw(st.sampled_from(_SHAPES))
  drawn = draw(hnp.arrays(f'uint{8 * dtype.itemsize}', shape))
  return prune(drawn, seed=draw(st.integers(0, 9))).view(dtype)


@settings(max_examples=40, deadline=None)
@given(weights())
def test_round_trip_is_exact_for_any_bits(w):
  packed = layout24.pack(w)
  assert (packed.shape, packed.ndim, packed.dtype) == (w.shape, 2, w.dtype)
  unpacked = unpack(packed)
  assert (unpacked.shape, unpacked.dtype) == (w.shape, w.dtype)
  np.testing.assert_array_equal(raw(unpacked), bits(w))


@pytest.mark.parametrize('dtype', _DTYPES)
def test_special_values_come_back_and_minus_zero_does_not(dtype):
  w = np.zeros((16, 1), jnp.dtype(dtype))
  if dtype == 'int8':
    w[[1, 2, 4, 7], 0] = -128, 127, -1, 1
  else:
    info = jnp.finfo(dtype)
    w[:, 0] = -0.0
    w[[0, 3, 5, 6, 8, 11, 13], 0] = np.array(
        [np.nan, -np.inf if dtype != 'float8_e4m3fn' else -448, info.max,
         info.smallest_subnormal, -info.smallest_subnormal, info.tiny, 1],
        np.float32).astype(w.dtype)
  packed = layout24.pack(w)
  np.testing.assert_array_equal(
      raw(unpack(packed)), bits(w))
  for x in (packed.values, unpack(packed)):
    np.testing.assert_array_equal(raw(x), bits(x))


@pytest.mark.parametrize('dtype', [
    'float8_e4m3fnuz', 'float8_e5m2fnuz', 'float8_e4m3b11fnuz'])
def test_where_minus_zero_is_nan_nan_comes_back_or_is_refused(dtype):
  w = np.zeros((4, 1), jnp.dtype(dtype))
  w[2] = np.nan
  try:
    packed = layout24.pack(w)
  except ValueError as error:
    assert dtype in str(error)
  else:
    np.testing.assert_array_equal(
        np.float32(unpack(packed)), np.float32(w))


@pytest.mark.parametrize('dtype', [
    'int32', 'uint8', 'int4', 'bool', 'complex64', 'float4_e2m1fn',
    'float8_e8m0fnu'])
def test_other_dtypes_are_refused_by_name(dtype):
  with pytest.raises(ValueError, match=dtype):
    layout24.pack(jnp.zeros((4, 1), jnp.int8).astype(dtype))


@settings(max_examples=15, deadline=None)
@given(weights())
def test_planar_and_tiled_arrays_are_as_documented(w):
  for layout, tile in (('planar', 4), ('tiled', 256)):
    packed = with_layout(layout24.pack(w), layout)
    dense = read_planar(packed)
    k = -(-w.shape[0] // tile) * tile
    assert (packed.layout, dense.shape) == (layout, (k, w.shape[1]))
    assert packed.positions.dtype == np.int32
    np.testing.assert_array_equal(bits(dense[:len(w)]), bits(w))
    assert not bits(dense[len(w):]).any()


@pytest.mark.parametrize('shape', [
    (0, 4), (4, 0), (0, 0), (3, 0, 4), (0, 8, 4)], ids=str)
def test_empty_weights_are_packed(shape):
  w = unpack(layout24.pack(jnp.zeros(shape)))
  assert w.shape == shape


@pytest.mark.parametrize('shape, axis, contracted, features', [
    ((8, 3), -2, (8,), (3,)),
    ((8, 3), 0, (8,), (3,)),
    ((3, 8), -1, (8,), (3,)),
    ((3, 8), 1, (8,), (3,)),
    ((8, 3, 2), -3, (8,), (3, 2)),
    ((8, 3, 2), 0, (8,), (3, 2)),
    ((2, 6, 5), (-3, -2), (2, 6), (5,)),
    ((2, 6, 5), (0, 1), (2, 6), (5,)),
    ((5, 2, 6), (-2, -1), (2, 6), (5,)),
    ((2, 8, 3), -2, (8,), (3,)),
    ((2, 8, 3), 1, (8,), (3,)),
    ((2, 5, 3, 8), -1, (8,), (3,)),
    ((3, 2, 6, 5), (-3, -2), (2, 6), (5,)),
    ((2, 8, 3, 2), -3, (8,), (3, 2)),
], ids=str)
def test_every_form_of_axis(shape, axis, contracted, features):
  w = pruned_along(axis, *shape)
  packed = layout24.pack(w, axis=axis)
  assert (packed.contracted, packed.features) == (contracted, features)
  assert packed.shape == shape and packed.ndim == len(shape)
  np.testing.assert_array_equal(unpack(packed), w)
  leading = packed.values.shape[:-3]
  groups = -(-math.prod(contracted) // 4)
  assert packed.values.shape[-3:] == (2, groups, math.prod(features))
  assert packed.positions.shape == (*leading, 1, math.prod(features))
  assert math.prod(leading + contracted + features) == w.size


def test_groups_of_joined_axes_span_their_borders():
  w = np.zeros((2, 6, 1), np.float32)
  w[0, [2, 3, 4]] = 1.  # Of rows 0 to 3 two, of 4 to 7 one and row 6.
  w[1, 0] = 1.
  np.testing.assert_array_equal(
      unpack(layout24.pack(w, axis=(-3, -2))), w)
  w[0, 5] = 1.
  with pytest.raises(ValueError, match='inputs 4:8, output 0'):
    layout24.pack(w, axis=(-3, -2))


@pytest.mark.parametrize('shape, axis', [
    ((), -2), ((4,), -2), ((4,), 0), ((2, 4, 8), 3), ((2, 4, 8), 5),
    ((2, 4, 8), -4), ((2, 4, 8), ()), ((2, 4, 8), (-1, -2)),
    ((2, 4, 8), (-3, -1)), ((2, 4, 8), (-2, -2)), ((2, 4, 8), (2, 3)),
    ((4, 8), (-2, -1)), ((4, 8), (0, 1)), ((2, 4, 8), (0, -1))], ids=str)
def test_an_axis_that_is_none_is_an_error_that_shows_it(shape, axis):
  with pytest.raises(ValueError, match=re.escape(f'axis={axis}')) as error:
    layout24.pack(jnp.zeros(shape), axis=axis)
  assert str(shape) in str(error.value)


@pytest.mark.parametrize('dtype, ratio', [
    ('bfloat16', 0.5625), ('float16', 0.5625), ('float32', 1.0625 / 2),
    ('int8', 0.625)])
def test_bytes(dtype, ratio):
  for shape in ((512, 3), (2, 256, 8)):
    packed = layout24.pack(jnp.zeros(shape, dtype))
    dense = math.prod(shape) * jnp.dtype(dtype).itemsize
    assert packed.nbytes == ratio * dense
    assert packed.nbytes == sum(
        np.asarray(x).nbytes for x in jax.tree.leaves(packed))
  # A kernel's K counts as padded to 256.
  assert with_layout(layout24.pack(jnp.zeros((4, 8), dtype)), 'tiled'
                     ).nbytes == ratio * 256 * 8 * jnp.dtype(dtype).itemsize


def test_whole_tiles_are_planar_and_tiled_alike():
  packed = layout24.pack(two_way(512, 256), transposed=True)
  tiled = layout24.with_layout(packed, 'tiled')
  assert tiled.layout == tiled.transposed.layout == 'tiled'
  # No array is made.
  assert all(a is b for a, b in zip(
      jax.tree.leaves(packed), jax.tree.leaves(tiled), strict=True))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8'])
@pytest.mark.parametrize('k', [4, 8, 12, 16, 64, 100, 128, 256, 300])
def test_bytes_are_half_of_the_values_and_two_bits_for_each(k, dtype):
  size = jnp.dtype(dtype).itemsize
  packed = layout24.pack(jnp.zeros((k, 8), dtype))
  # Positions come in words for 32 inputs.
  assert packed.nbytes == 8 * (k // 2 * size + 4 * -(-k // 32))
  least = {'float32': 4, 'bfloat16': 8, 'int8': 12}[dtype]
  assert (packed.nbytes < 8 * k * size) == (k >= least)


@pytest.mark.parametrize('shape, axis, at, named', [
    ((12, 3), -2, (slice(4, 7), 1), ('4:8', 'output 1', 'axis=-2')),
    ((3, 12), -1, (1, slice(9, 12)), ('8:12', 'output 1', 'axis=-1')),
    ((12, 3, 2), -3, (slice(0, 4), 2, 1), ('0:4', 'output 5', 'axis=-3')),
    ((3, 4, 2), (-3, -2), (2, slice(1, 4), 0),
     ('8:12', 'output 0', r'axis=\(-3, -2\)')),
    # The tail of K makes a group of its own.
    ((7, 2), -2, (slice(4, 7), 0), ('4:8', 'output 0', 'axis=-2')),
], ids=str)
def test_the_first_group_that_is_full_is_named(shape, axis, at, named):
  w = np.zeros(shape, np.float32)
  w[at] = 7.
  with pytest.raises(ValueError) as error:
    layout24.pack(w, axis=axis)
  for expected in (*named, r'nm\(2, 4', '7.0', re.escape(str(shape))):
    assert re.search(expected, str(error.value)), expected
  assert not layout24.is_24(w, axis)


def test_of_several_full_groups_the_first_is_named():
  w = np.ones((12, 3), np.float32)
  w[:4] = 0.
  w[4:8, :2] = 0.
  with pytest.raises(ValueError, match='inputs 4:8, output 2'):
    layout24.pack(w)


@pytest.mark.parametrize('spec', [
    P('data'), P('data', 'model'), P(None, 'model', 'data')], ids=str)
def test_the_first_full_group_of_an_explicitly_sharded_weight_is_named(spec):
  mesh = jax.make_mesh((2, 4), ('data', 'model'),
                       axis_types=(AxisType.Explicit,) * 2)
  w = np.zeros((2, 64, 16), np.float32)
  w[1, 20:23, 9] = w[1, 24:28, 2] = 1.
  w = jax.device_put(w, NamedSharding(mesh, spec))
  with pytest.raises(
      ValueError, match=r'\[1.0, 1.0, 1.0, 0.0\] at inputs 20:24, output 9 of '
      'weight 1'):
    layout24.pack(w)


def test_the_layer_of_a_full_group_is_named():
  w = np.zeros((5, 8, 3), np.float32)
  w[4, 4:, 2] = 1.
  with pytest.raises(ValueError) as error:
    layout24.pack(w)
  message = str(error.value)
  assert re.search(r'inputs 4:8, output 2\b', message), message
  assert re.search(r'(weight|layer|index)\D* \(?4\b', message), message


def test_what_the_error_says_to_write_works():
  w = normal(8, 4)
  with pytest.raises(ValueError) as error:
    layout24.pack(w)
  line, = re.findall('`(mask = .*?)`', str(error.value))
  names = {'jaxsparse': jaxsparse, 'jnp': jnp, 'w': jnp.asarray(w)}
  exec(line, names)  # What a reader would do with it.
  pruned = jnp.where(names['mask'], w, 0)
  np.testing.assert_array_equal(unpack(layout24.pack(pruned)), pruned)


@pytest.mark.parametrize('shape, axis', [((8, 12), -2), ((3, 8, 12), -1)],
                         ids=str)
def test_transposed_is_the_same_weight_packed_along_its_outputs(shape, axis):
  w = two_way(*shape)
  packed = layout24.pack(w, axis=axis, transposed=True)
  other = packed.transposed
  assert other.transposed is None
  assert (other.contracted, other.features) == (
      packed.features, packed.contracted)
  assert other.shape == shape
  np.testing.assert_array_equal(unpack(other), w)
  along = layout24.pack(w, axis=-3 - axis)
  np.testing.assert_array_equal(other.values, along.values)
  np.testing.assert_array_equal(other.positions, along.positions)
  assert packed.nbytes == layout24.pack(w, axis=axis).nbytes + other.nbytes


def test_transposed_of_attention_is_packed_along_heads_and_dims():
  w = two_way(8, 12).reshape(8, 3, 4)
  other = layout24.pack(w, axis=-3, transposed=True).transposed
  assert (other.contracted, other.features) == ((3, 4), (8,))
  np.testing.assert_array_equal(unpack(other), w)


def test_transposed_needs_both_ways_and_the_error_says_so():
  w = np.zeros((8, 4), np.float32)
  w[0, :3] = 1.  # 2:4 along -2, not along -1.
  layout24.pack(w)
  with pytest.raises(ValueError, match='transposable=True'):
    layout24.pack(w, transposed=True)


def test_is_24_along_any_axis():
  w = np.zeros((8, 4), np.float32)
  w[0, :3] = 1.
  assert layout24.is_24(w) and layout24.is_24(w.T, -1)
  assert not layout24.is_24(w, -1) and not layout24.is_24(w.T, -2)
  assert isinstance(layout24.is_24(jnp.zeros((4, 4))), bool)


@pytest.mark.parametrize('layout', ['colums', None, ''])
def test_a_layout_that_is_none_is_an_error(layout):
  with pytest.raises(ValueError, match='planar.*hopper'):
    with_layout(layout24.pack(jnp.zeros((4, 4))), layout)


def test_what_is_not_packed_is_refused_by_name():
  with pytest.raises(ValueError, match='pack'):
    layout24.unpack(jnp.zeros((4, 4)))
