"""Packed 2:4 weights: nothing is lost, and every bit is where the docs say.

The oracles read the two layouts in numpy, word by word, from the words of
`packing`'s docstring alone.
"""

import copy
import dataclasses
import math
import pickle
import re

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxsparse
from jaxsparse.packed import layout24

_DTYPES = ['float32', 'bfloat16', 'float16', 'int8', 'float8_e4m3fn',
           'float8_e5m2']
_SHAPES = [(1, 1), (7, 2), (260, 3)]


# One compilation for a shape rather than one for every operation.
unpack = jax.jit(layout24.unpack)
with_layout = jax.jit(layout24.with_layout, static_argnums=1)


def raw(x):
  """The bits of an array; NaN, of which there are many, is always the same."""
  x = np.asarray(x)
  bits = x.view(f'uint{8 * x.dtype.itemsize}')
  with np.errstate(invalid='ignore'):
    return np.where(x != x, -1, np.int64(bits))


def bits(x):
  """The same, and -0.0 has the bits of 0.0."""
  with np.errstate(invalid='ignore'):
    return np.where(np.asarray(x) == 0, 0, raw(x))


def normal(*shape, seed=0, dtype=np.float32):
  x = np.random.default_rng(seed).standard_normal(shape, np.float32)
  return (40 * x).astype(dtype) if dtype == 'int8' else x.astype(dtype)


def prune(w, axis=-2, seed=0):
  """Of every four along an axis 0, 1 or 2 stay, wherever these are."""
  w = np.moveaxis(w, axis, -1)
  groups = (*w.shape[:-1], -(-w.shape[-1] // 4))
  rng = np.random.default_rng(seed)
  rank = rng.permuted(np.broadcast_to(np.arange(4), (*groups, 4)), axis=-1)
  kept = rank < rng.integers(0, 3, groups)[..., None]
  kept = kept.reshape(*groups[:-1], 4 * groups[-1])[..., :w.shape[-1]]
  return np.moveaxis(np.where(kept, w, np.zeros((), w.dtype)), -1, axis)


def two_way(*shape, seed=0, dtype=np.float32):
  """2:4 along both of the last axes: 4 x 4 tiles with their rows permuted."""
  *leading, k, n = shape
  rows, columns = -(-k // 4), -(-n // 4)
  rng = np.random.default_rng(seed)
  order = rng.permuted(np.broadcast_to(
      np.arange(4), (*leading, rows, columns, 4)), axis=-1)
  kept = (order[..., None] + np.arange(4)) % 4 < 2
  kept = kept.swapaxes(-3, -2).reshape(*leading, 4 * rows, 4 * columns)
  return np.where(kept[..., :k, :n], normal(*shape, seed=seed, dtype=dtype),
                  np.zeros((), dtype))


def read_planar(packed):
  """`[K', N]` from one planar weight; every group must have two bits."""
  values = np.asarray(packed.values)
  words = np.asarray(packed.positions).view(np.uint32)
  two, groups, n = values.shape
  assert (two, groups % 64) == (2, 0)
  assert words.shape == (groups // 8, n)
  w = np.zeros((4 * groups, n), values.dtype)
  for tile in range(groups // 64):
    for s in range(4):
      for r in range(8):
        for h in range(2):
          group = 64 * tile + 2 * (8 * s + r) + h
          for column in range(n):
            word = int(words[8 * tile + r, column])
            four = word >> (16 * h + 4 * s) & 15
            rows = [j for j in range(4) if four >> j & 1]
            assert len(rows) == 2
            w[[4 * group + row for row in rows], column] = values[
                :, group, column]
  return w


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


def assert_same(a, b):
  """Two packed weights are the same, bit for bit, static fields included."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(bits(x), bits(y))


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
  np.testing.assert_array_equal(
      raw(unpacked), bits(w))


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
def test_planar_arrays_are_as_documented(w):
  packed = layout24.pack(w)
  dense = read_planar(packed)
  k = -(-w.shape[0] // 256) * 256
  assert (packed.layout, dense.shape) == ('planar', (k, w.shape[1]))
  assert packed.positions.dtype == np.int32
  np.testing.assert_array_equal(bits(dense[:len(w)]), bits(w))
  assert not bits(dense[len(w):]).any()


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
  hopper = with_layout(planar, 'hopper')
  assert hopper.layout == 'hopper' and hopper.shape == shape
  assert layout24.with_layout(planar, 'planar') is planar
  assert_same(with_layout(hopper, 'planar'), planar)
  assert_same(with_layout(
      with_layout(hopper, 'planar'), 'hopper'), hopper)
  np.testing.assert_array_equal(bits(unpack(hopper)), bits(w))


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
  joined = axis if isinstance(axis, tuple) else (axis,)
  first = joined[0] % len(shape)
  w = prune(normal(*shape[:first], math.prod(contracted),
                   *shape[first + len(joined):]), first).reshape(shape)
  packed = layout24.pack(w, axis=axis)
  assert (packed.contracted, packed.features) == (contracted, features)
  assert packed.shape == shape and packed.ndim == len(shape)
  np.testing.assert_array_equal(unpack(packed), w)
  leading = packed.values.shape[:-3]
  assert packed.values.shape[-3:] == (2, 64, math.prod(features))
  assert packed.positions.shape == (*leading, 8, math.prod(features))
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
  # K counts as padded to 256, and in Hopper's layout N to 128.
  assert layout24.pack(jnp.zeros((4, 8), dtype)).nbytes == (
      ratio * 256 * 8 * jnp.dtype(dtype).itemsize)
  if ratio == 0.5625:
    hopper = with_layout(layout24.pack(jnp.zeros((4, 8), dtype)),
                                 'hopper')
    assert hopper.nbytes == ratio * 256 * 128 * 2


@pytest.mark.parametrize('entry', [np.nan, np.inf, 1e-45, -1e-40])
def test_what_is_not_zero_counts_however_small(entry):
  w = np.zeros((8, 1), np.float32)
  w[[4, 5, 7]] = entry
  with pytest.raises(ValueError, match='4:8'):
    layout24.pack(w)
  assert not layout24.is_24(w)


def test_zeros_of_both_signs_do_not_count():
  w = jnp.array([[0.], [-0.], [1.], [-0.]])
  assert layout24.is_24(w)
  np.testing.assert_array_equal(
      np.signbit(unpack(layout24.pack(w))), False)


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


def largest_two(w):
  """The oracle for `jit`: of every four the two largest, the first of ties."""
  kept = np.zeros(w.shape, bool)
  for g in range(0, len(w), 4):
    for column in range(w.shape[1]):
      sizes = np.abs(np.float64(w[g:g + 4, column]))
      kept[g + np.argsort(-sizes, kind='stable')[:2], column] = True
  return np.where(kept, w, np.zeros((), w.dtype))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16', 'int8'])
def test_within_jit_the_two_largest_stay_and_the_first_of_ties(dtype):
  w = np.round(2 * normal(64, 9)).astype(dtype)  # Of few values: many ties.
  w[:4, 0] = [-128, 1, 127, 2] if dtype == 'int8' else [1, -1, -1, 1]
  packed = jax.jit(layout24.pack)(w)
  np.testing.assert_array_equal(
      np.asarray(unpack(packed)), largest_two(w))
  pruned = largest_two(w)
  assert_same(jax.jit(layout24.pack)(pruned), layout24.pack(pruned))


def test_within_jit_nan_is_the_largest():
  w = jnp.array([[1., jnp.inf], [jnp.nan, 1.], [2., jnp.nan], [3., -jnp.inf]])
  np.testing.assert_array_equal(
      unpack(jax.jit(layout24.pack)(w)),
      [[0., jnp.inf], [jnp.nan, 0.], [0., jnp.nan], [3., 0.]])


def test_vmap_over_leading_axes_is_the_same_as_packing_them_together():
  w = prune(normal(2, 3, 12, 5))
  together = layout24.pack(w)
  assert together.shape == w.shape
  mapped = jax.vmap(jax.vmap(layout24.pack))(jnp.asarray(w))
  assert_same(mapped, together)
  np.testing.assert_array_equal(jax.vmap(layout24.unpack)(together), w)
  shapes = []
  jax.vmap(lambda one: shapes.append(one.shape) or one.values)(together)
  assert shapes == [(3, 12, 5)]


@pytest.mark.parametrize('layout', ['planar', 'hopper'])
def test_scan_takes_layers_off(layout):
  w = prune(normal(3, 8, 4, dtype=jnp.bfloat16))
  packed = with_layout(layout24.pack(w), layout)
  step = lambda i, one: (i + 1, unpack(one))
  count, layers = lax.scan(step, 0, packed)
  assert count == 3
  np.testing.assert_array_equal(bits(layers), bits(w))


@pytest.mark.parametrize('layout', ['planar', 'hopper'])
def test_jit_sees_two_arrays_and_the_rest_is_static(layout):
  packed = with_layout(
      layout24.pack(prune(normal(8, 3, dtype=jnp.bfloat16))), layout)
  assert len(jax.tree.leaves(packed)) == 2
  paths = [jax.tree_util.keystr(path)
           for path, _ in jax.tree.leaves_with_path(packed)]
  assert paths == ['.values', '.positions']
  same = jax.jit(lambda p: p)(packed)
  assert_same(same, packed)
  twice = jax.jit(lambda p: jax.tree.map(lambda x: 2 * x, p))(packed)
  np.testing.assert_array_equal(twice.values, 2 * packed.values)


def test_donated_weights_are_used_up():
  packed = layout24.pack(prune(normal(256, 8)))
  negate = jax.jit(lambda p: dataclasses.replace(p, values=-p.values),
                   donate_argnums=0)
  expected = -np.asarray(unpack(packed))
  negated = negate(packed)
  assert packed.values.is_deleted()
  np.testing.assert_array_equal(unpack(negated), expected)


def test_eval_shape_knows_shape_and_dtype():
  w = jax.ShapeDtypeStruct((3, 300, 5), jnp.bfloat16)
  packed = jax.eval_shape(layout24.pack, w)
  assert (packed.shape, packed.dtype, packed.ndim) == (w.shape, w.dtype, 3)
  assert packed.nbytes == layout24.pack(jnp.zeros(w.shape, w.dtype)).nbytes
  assert jax.eval_shape(unpack, packed) == w


def test_copies_and_pickles_are_the_same():
  packed = layout24.pack(two_way(8, 4), transposed=True)
  for same in (copy.copy(packed), copy.deepcopy(packed),
               pickle.loads(pickle.dumps(packed)), jax.device_get(packed),
               jax.tree.map(np.asarray, packed)):
    assert_same(same, packed)
    np.testing.assert_array_equal(
        unpack(same), unpack(packed))


def test_weights_of_numpy_are_packed_and_numpy_arrays_unpacked():
  w = prune(normal(8, 3, dtype=jnp.bfloat16))
  host = jax.device_get(with_layout(layout24.pack(w), 'hopper'))
  assert isinstance(host.values, np.ndarray)
  np.testing.assert_array_equal(bits(unpack(host)), bits(w))


@pytest.mark.parametrize('layout', ['planar', 'hopper'])
def test_orbax_brings_it_back(layout, tmp_path):
  packed = with_layout(layout24.pack(
      two_way(2, 8, 4, dtype=jnp.bfloat16), transposed=True), layout)
  tree = {'layer': {'kernel': packed, 'bias': jnp.ones(4)}}
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'state', tree)
  with ocp.StandardCheckpointer() as checkpointer:
    restored = checkpointer.restore(
        tmp_path / 'state', jax.tree.map(jnp.zeros_like, tree))
  assert_same(restored['layer']['kernel'], packed)
  np.testing.assert_array_equal(restored['layer']['bias'], np.ones(4))


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


def test_transposed_has_the_layout_too():
  w = two_way(8, 12, dtype=jnp.bfloat16)
  planar = layout24.pack(w, transposed=True)
  hopper = with_layout(planar, 'hopper')
  assert hopper.transposed.layout == 'hopper'
  np.testing.assert_array_equal(bits(unpack(hopper.transposed)),
                                bits(w))
  assert_same(with_layout(hopper, 'planar'), planar)


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


def test_gather_takes_the_entries_where_kept_ones_are():
  w = prune(normal(12, 3))
  packed = layout24.pack(w)
  dense = normal(12, 3, seed=1)
  ones = dataclasses.replace(packed, values=jnp.ones_like(packed.values))
  kept = np.asarray(unpack(ones)) == 1
  picked = dataclasses.replace(
      packed, values=layout24.gather(dense, layout24.places(packed)))
  np.testing.assert_array_equal(unpack(picked), np.where(kept, dense, 0))


@pytest.mark.parametrize('layout', ['colums', None, ''])
def test_a_layout_that_is_none_is_an_error(layout):
  with pytest.raises(ValueError, match='planar.*hopper'):
    with_layout(layout24.pack(jnp.zeros((4, 4))), layout)


@pytest.mark.parametrize('dtype', ['float32', 'int8', 'float8_e4m3fn'])
def test_what_hopper_does_not_read_stays_planar(dtype):
  with pytest.raises(ValueError, match=f'{dtype}.*bfloat16'):
    with_layout(layout24.pack(jnp.zeros((4, 4), dtype)), 'hopper')


def test_what_is_not_packed_is_refused_by_name():
  with pytest.raises(ValueError, match='pack'):
    layout24.unpack(jnp.zeros((4, 4)))


@pytest.mark.parametrize('axes', [P('x'), P(None, 'x'), P('x', 'y')], ids=str)
@pytest.mark.parametrize('kind', ['Auto', 'Explicit'])
def test_sharded_weights_are_packed_and_unpacked(axes, kind):
  kind = getattr(jax.sharding.AxisType, kind)
  mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(kind,) * 2)
  w = prune(normal(512, 8))
  with jax.set_mesh(mesh):
    sharded = jax.device_put(w, NamedSharding(mesh, axes))
    packed = layout24.pack(sharded)
    np.testing.assert_array_equal(unpack(packed), w)
    replicated = jax.device_put(packed, NamedSharding(mesh, P()))
    assert_same(jax.device_get(replicated), layout24.pack(w))


def test_gradients_go_through_pack_and_unpack():
  w, dy = two_way(8, 4), jnp.asarray(normal(8, 4, seed=1))
  dw = jax.grad(lambda w: (unpack(layout24.pack(w)) * dy).sum())(w)
  kept = unpack(jax.tree.map(
      lambda x: jnp.ones_like(x) if x.dtype == w.dtype else x,
      layout24.pack(w)))
  np.testing.assert_array_equal(dw, dy * kept)
