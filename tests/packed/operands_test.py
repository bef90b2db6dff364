"""What a product takes: shapes that fit, dtypes that promote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.packed import _operands
from jaxsparse.packed.condensed import condense
from jaxsparse.packed.condensed import uncondense
from jaxsparse.packed.layout24 import pack
from jaxsparse.packed.products import matmul
from tests._lib.packed import assert_near
from tests._lib.packed import normal
from tests._lib.packed import prune
from tests._lib.packed import wide
from tests._lib.packed import with_values


@pytest.mark.parametrize('x, w, told', [
    ((2, 9), (8, 4), [r'\(8,\)', r'\(2, 9\)']),
    ((), (8, 4), [r'\(8,\)', r'\(\)']),
    ((8, 2), (8, 4), [r'\(8,\)', r'\(8, 2\)']),
    ((2, 8), (3, 8, 4), [r'\(3,\)', 'vmap', 'scan']),
], ids=str)
def test_shapes_that_do_not_fit_are_shown(x, w, told):
  with pytest.raises(ValueError) as error:
    matmul(jnp.zeros(x), pack(jnp.zeros(w)))
  for expected in told:
    error.match(expected)


@pytest.mark.parametrize('x, shape, told', [
    ((2, 9), (8, 4), [r'\(8,\)', r'\(2, 9\)']), ((), (8, 4), [r'\(8,\)']),
    ((2, 8), (3, 8, 4), [r'\(3,\)', 'vmap', 'scan'])], ids=str)
def test_condensed_shapes_that_do_not_fit_are_shown(x, shape, told):
  c = condense(jnp.ones(shape), jnp.ones(shape, bool))
  with pytest.raises(ValueError) as error:
    matmul(jnp.zeros(x), c)
  for expected in told:
    error.match(expected)


@pytest.mark.parametrize('dtype', ['bfloat16', 'int8'])
def test_a_cast_of_all_arrays_is_told_how_to_cast_values(dtype):
  w = jnp.eye(8, 4)
  for kept in (pack(w), condense(w, w != 0)):
    cast = jax.tree.map(lambda a: a.astype(dtype), kept)
    with pytest.raises(ValueError, match=rf'int32, got {dtype}.*w.astype'):
      matmul(jnp.ones((2, 8), dtype), cast)
    y = matmul(jnp.ones((2, 8), dtype), kept.astype(dtype))
    np.testing.assert_array_equal(np.float32(y), 1)
  with pytest.raises(ValueError, match=rf'int32, got {dtype}.*w.astype'):
    uncondense(cast)


@pytest.mark.parametrize('dtype', [jnp.float8_e4m3fn, jnp.bfloat16])
def test_dtypes_that_do_not_promote_are_told_what_to_write(dtype):
  """Promotion is strict in tests; 8-bit floats have none anywhere."""
  x, w = jnp.ones((2, 8)), pack(jnp.eye(8, 4, dtype=dtype))
  with pytest.raises(ValueError, match=r'float32 and .*w\.astype\(x\.dtype'):
    matmul(x, w)
  np.testing.assert_array_equal(matmul(x, w.astype(x.dtype)), 1)


def test_a_dense_weight_is_told_how_to_be_packed():
  with pytest.raises(ValueError, match=r'jaxsparse\.pack\(w\)'):
    matmul(jnp.zeros((2, 4)), jnp.zeros((4, 4)))


@pytest.mark.parametrize('dtype, out', [
    ('bfloat16', 'float32'), ('float16', 'float32'), ('float32', 'bfloat16'),
    ('int8', 'int32'), ('int8', 'float32'), ('bfloat16', jnp.float16)], ids=str)
def test_preferred_element_type_is_the_dtype_of_the_result(dtype, out):
  w = prune(normal(300, 3, dtype=jnp.dtype(dtype)))
  x = normal(2, 300, seed=1, dtype=jnp.dtype(dtype))
  y = jax.jit(lambda x, w: matmul(x, w, preferred_element_type=out))(x, pack(w))
  assert y.dtype == jnp.dtype(out)
  assert_near(y, np.matmul(*wide(x, w)))


@pytest.mark.parametrize('of_x, of_w, out', [
    ('bfloat16', 'float32', 'float32'), ('float32', 'bfloat16', 'float32'),
    ('bfloat16', 'float16', 'float32'), ('float32', 'int8', 'float32'),
    ('bfloat16', 'int8', 'bfloat16')])
def test_dtypes_promote_and_gradients_have_those_of_their_operands(
    of_x, of_w, out):
  w = prune(normal(8, 3, dtype=jnp.dtype(of_w)))
  x = jax.device_put(normal(2, 8, seed=1, dtype=jnp.dtype(of_x)))
  packed = pack(w)
  with jax.numpy_dtype_promotion('standard'):
    y = matmul(x, packed)
    dx = jax.grad(lambda x: matmul(x, packed).sum())(x)
    assert dx.dtype == of_x
    if of_w != 'int8':
      dv = jax.grad(lambda v: matmul(x, with_values(packed, v)).sum())(
          packed.values)
      assert dv.dtype == of_w
  assert y.dtype == out
  assert_near(y, np.matmul(*wide(x, w)))
  assert_near(dx, np.tile(np.float64(w).sum(1), (2, 1)))


@pytest.mark.parametrize('dtype, sums', [
    ('int8', 'int32'), ('int32', 'int32'), ('float8_e4m3fn', 'float32'),
    ('bfloat16', 'float32'), ('float16', 'float32'), ('float32', 'float32')])
def test_sums_are_of_32_bits(dtype, sums):
  assert _operands.sum_dtype(jnp.dtype(dtype)) == sums
  precision = _operands.precision_of(jnp.dtype(dtype))
  assert (precision is None) == (dtype != 'float32')


@pytest.mark.parametrize('of_x', ['uint8', 'int16'])
def test_products_of_narrow_integers_do_not_wrap(of_x):
  w = np.zeros((512, 3), np.int8)
  w[::4], w[2::4] = 127, 126
  x = np.full((2, 512), 255, of_x)
  with jax.numpy_dtype_promotion('standard'):
    for kept in (pack(w), condense(w, w != 0)):
      y = matmul(x, kept)
      assert y.dtype == jnp.int32
      np.testing.assert_array_equal(y, x.astype(int) @ w.astype(int))


def test_sums_of_64_bits_do_not_wrap_at_32():
  w = np.zeros((2**19, 1), np.int8)
  w[::2] = 127
  with jax.enable_x64(True):
    for x in (np.int8(w.T), np.int64(w.T)):
      for kept in (pack(w), condense(w, w != 0)):
        with jax.numpy_dtype_promotion('standard'):
          y = matmul(x, kept, preferred_element_type='int64')
        assert y.tolist() == [[127 ** 2 * 2**18]]


def test_gradients_of_narrow_values_take_inputs_beyond_their_range():
  packed = pack(jnp.eye(4, dtype=jnp.float16))
  x = jnp.array([[1e6, 0., 0., 0.]])  # A float16 ends at 65504.
  with jax.numpy_dtype_promotion('standard'):
    dv = jax.grad(lambda v: 1e-3 * matmul(
        x, with_values(packed, v))[0, 0])(packed.values)
  assert dv.dtype == jnp.float16 and dv[0, 0, 0] == 1000


@pytest.mark.parametrize('make', [
    pack, lambda w: condense(w, w != 0, block=1)], ids=['packed', 'condensed'])
def test_inputs_may_be_complex(make):
  w = jnp.tile(jnp.array([[1.], [0.], [-2.], [0.]]), (2, 4))
  x = jax.lax.complex(*map(jnp.asarray, normal(2, 3, 8)))
  f = lambda y: (y + 1) ** 2
  total = lambda y: (f(y.real) + f(y.imag)).sum()
  kept = make(w)
  with jax.numpy_dtype_promotion('standard'):
    y, back = jax.vjp(lambda x, v: matmul(x, with_values(kept, v)), x,
                      kept.values)
    dx, dv = back(jax.grad(total)(y))
    to_x, to_w = jax.grad(lambda x, w: total(x @ w), (0, 1))(x, w)
  for got, want in ((y, x @ w.astype(x.dtype)), (dx, to_x)):
    assert_near(got.real, want.real)
    assert_near(got.imag, want.imag)
  assert_near(jnp.sort(dv.ravel()), jnp.sort(to_w[w != 0]))


def test_a_kernel_for_one_axis_of_tokens_takes_any_and_is_traced_once():
  traces = []

  @_operands.folded
  def kernel(x, w, dtype):
    traces.append(x.shape)
    return (x @ w).astype(dtype)
  x, w = jax.device_put(normal(2, 3, 4)), jax.device_put(normal(4, 5))
  for _ in range(2):
    y = kernel(x, w, jnp.dtype(jnp.float32))
  assert traces == [(6, 4)]
  assert_near(y, np.matmul(*wide(x, w)), 1e-5)
  assert kernel(x[0, 0], w, jnp.dtype(jnp.bfloat16)).shape == (5,)
