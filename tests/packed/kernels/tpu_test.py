"""The TPU kernels, interpreted, against dense products in numpy.

`InterpretParams` fills what lies outside of an array with NaN: a block that
reaches over an edge must not let it in.
"""

import functools

import jax
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.packed import layout24
from jaxsparse.packed.kernels import tpu

_NAN = pltpu.InterpretParams(
    out_of_bounds_reads='uninitialized', uninitialized_memory='nan')
# Of the sum of the magnitudes of all products; the result is rounded once.
_TOLERANCE = {jnp.bfloat16: 2 ** -8, jnp.float32: 2 ** -20}
_PRODUCTS = {'x @ w': tpu.matmul, 'dy @ w.T': tpu.matmul_transposed}


def _sparse(rng, k, n):
  """`[k, n]` with at most two of every four that are not zero."""
  order = rng.random((k // 4, 4, n)).argsort(1)
  kept = (order < 2) & (rng.random(order.shape) < 0.9)
  return (rng.standard_normal(order.shape) * kept).reshape(k, n)


def _pack(w):
  """The planar format, group by group, as `_planar_layout` tells it."""
  k, n = w.shape
  values = np.zeros((2, k // 4, n), w.dtype)
  words = np.zeros((k // 32, n), np.uint32)
  for group in range(k // 4):
    tile, place = divmod(group, 64)
    pair, half = divmod(place, 2)
    slot, row = divmod(pair, 8)
    for column in range(n):
      four = w[4 * group:4 * group + 4, column]
      # Of zeros the last are taken, which a kernel must not notice.
      kept = sorted(sorted(range(4), key=lambda i: four[i] == 0)[:2])
      values[:, group, column] = four[kept]
      bits = sum(1 << i for i in kept) << (16 * half + 4 * slot)
      words[8 * tile + row, column] |= np.uint32(bits)
  return jnp.asarray(values), jnp.asarray(words.view(np.int32))


def _operands(product, t, n, k, dtype=jnp.bfloat16):
  """The left operand, the right one dense in float64, and packed."""
  rng = np.random.default_rng(t + n + k)
  w = jnp.asarray(_sparse(rng, k, n), dtype)
  packed = layout24.pack(w)
  dense = np.asarray(w, np.float64)
  if product == 'dy @ w.T':
    dense = dense.T
  left = jnp.asarray(rng.standard_normal((t, dense.shape[0])), dtype)
  return left, dense, packed.values, packed.positions


def _assert_close(y, left, dense, dtype):
  left = np.asarray(left, np.float64)
  assert y.shape == (left.shape[0], dense.shape[1]) and y.dtype == dtype
  bound = _TOLERANCE[dtype] * (abs(left) @ abs(dense))
  assert (abs(np.asarray(y, np.float64) - left @ dense) <= bound).all()


@pytest.mark.parametrize('product', _PRODUCTS)
def test_products_are_those_of_the_dense_weight_in_a_packing_by_hand(product):
  _, dense, *_ = _operands(product, 1, 5, 512, jnp.float32)
  w = dense if product == 'x @ w' else dense.T
  left = np.random.default_rng(0).standard_normal((2, dense.shape[0]))
  left = jnp.asarray(left, jnp.float32)
  for dtype in _TOLERANCE:
    rounded = np.asarray(jnp.asarray(w, dtype), np.float64)
    y = _PRODUCTS[product](
        left.astype(dtype), *_pack(np.asarray(jnp.asarray(w, dtype))),
        interpret=True)
    _assert_close(y, left.astype(dtype),
                  rounded if product == 'x @ w' else rounded.T, dtype)


# Several blocks of K from 2048 on, of N from 512, of T from 512; edges of K
# where the blocks are not even.
@pytest.mark.parametrize('product', _PRODUCTS)
@pytest.mark.parametrize('t, n, k, dtype', [
    (1, 1, 256, jnp.bfloat16),
    (3, 100, 768, jnp.bfloat16),
    (8, 640, 512, jnp.bfloat16),
    (16, 128, 2304, jnp.bfloat16),
    (129, 100, 1280, jnp.bfloat16),
    (514, 130, 256, jnp.bfloat16),
    (1, 640, 2304, jnp.float32),
    (3, 1, 512, jnp.float32),
])
def test_products_are_those_of_the_dense_weight_and_no_edge_gets_in(
    product, t, n, k, dtype):
  left, dense, values, positions = _operands(product, t, n, k, dtype)
  y = _PRODUCTS[product](left, values, positions, interpret=_NAN)
  _assert_close(y, left, dense, dtype)


@pytest.mark.parametrize('product', _PRODUCTS)
def test_sums_are_float32_and_results_may_be(product):
  left, dense, values, positions = _operands(product, 4, 96, 512)
  y = _PRODUCTS[product](left, values, positions, out_dtype=jnp.float32,
                         interpret=True)
  _assert_close(y, left, dense, jnp.float32)


@pytest.mark.parametrize('product', _PRODUCTS)
def test_infinity_and_nan_reach_no_other_column(product):
  left, dense, values, positions = _operands(product, 2, 40, 256)
  k, n = dense.shape if product == 'x @ w' else dense.shape[::-1]
  w = np.zeros((k, n), np.float32)
  w[5, 7], w[6, 7], w[9, 3] = np.nan, 1., np.inf
  values, positions = _pack(w)
  y = np.asarray(_PRODUCTS[product](
      jnp.ones(left.shape, jnp.float32), values, positions, interpret=True))
  with np.errstate(invalid='ignore'):
    expected = np.ones((2, dense.shape[0])) @ (w if product == 'x @ w' else w.T)
  np.testing.assert_array_equal(y, expected)


def test_stacked_weights_go_through_vmap():
  rng = np.random.default_rng(0)
  w = jnp.asarray(np.stack([_sparse(rng, 256, 20) for _ in range(2)]),
                  jnp.float32)
  x = jnp.asarray(rng.standard_normal((2, 3, 256)), jnp.float32)
  packed = layout24.pack(w)
  y = jax.vmap(functools.partial(tpu.matmul, interpret=True))(
      x, packed.values, packed.positions)
  for one, left, dense in zip(y, x, np.asarray(w, np.float64)):
    _assert_close(one, left, dense, jnp.float32)


@pytest.mark.parametrize('product', _PRODUCTS)
@pytest.mark.parametrize('t, n, k, dtype', [
    (1, 4096, 4096, jnp.bfloat16),
    (3, 5000, 768, jnp.bfloat16),
    (8192, 8192, 28672, jnp.bfloat16),
    (129, 100, 2304, jnp.float32),
])
def test_kernels_are_lowered_for_tpu_on_any_machine(product, t, n, k, dtype):
  of = lambda *shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype)
  exported = jax.export.export(jax.jit(_PRODUCTS[product]), platforms=['tpu'])(
      of(t, k if product == 'x @ w' else n), of(2, k // 4, n),
      of(k // 32, n, dtype=jnp.int32))
  assert 'tpu_custom_call' in exported.mlir_module()
  assert exported.out_avals[0].shape == (t, n if product == 'x @ w' else k)


@pytest.mark.parametrize('product', _PRODUCTS)
@pytest.mark.parametrize('x_dtype, dtype, out_dtype, reason', [
    (jnp.int8, jnp.int8, None, 'operands, got int8 and int8'),
    (jnp.float16, jnp.float16, None, 'operands, got float16 and float16'),
    (jnp.float32, jnp.bfloat16, None, 'one dtype, got float32 and bfloat16'),
    (jnp.bfloat16, jnp.bfloat16, jnp.float16, 'not float16'),
])
def test_dtypes_that_are_not_served_are_refused_with_the_reason(
    product, x_dtype, dtype, out_dtype, reason):
  with pytest.raises(NotImplementedError, match=reason):
    _PRODUCTS[product](
        jnp.zeros((1, 256), x_dtype), jnp.zeros((2, 64, 256), dtype),
        jnp.zeros((8, 256), jnp.int32), out_dtype=out_dtype)


@pytest.mark.parametrize('product', _PRODUCTS)
def test_empty_operands_are_refused(product):
  with pytest.raises(NotImplementedError, match='empty'):
    _PRODUCTS[product](jnp.zeros((0, 256)), jnp.zeros((2, 64, 256)),
                       jnp.zeros((8, 256), jnp.int32))


@pytest.mark.parametrize('x, values, words, message', [
    ((1, 256), (2, 60, 3), (8, 3), r"values \[2, K'/4, N\]"),
    ((1, 256), (2, 64, 3), (9, 3), 'positions'),
    ((1, 2, 256), (2, 64, 3), (8, 3), r"x \[T, K'\]"),
    ((1, 255), (2, 64, 3), (8, 3), r'needs .* \[T, '),
])
@pytest.mark.parametrize('product', _PRODUCTS)
def test_shapes_that_do_not_fit_raise(product, x, values, words, message):
  with pytest.raises(ValueError, match=message):
    _PRODUCTS[product](jnp.zeros(x), jnp.zeros(values),
                       jnp.zeros(words, jnp.int32))
