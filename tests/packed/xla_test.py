"""Products by XLA: how they sum, and that one program serves everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.packed import _xla
from jaxsparse.packed.layout24 import pack
from jaxsparse.packed.products import matmul
from tests._lib.packed import assert_near
from tests._lib.packed import exported
from tests._lib.packed import normal
from tests._lib.packed import prune
from tests._lib.packed import unpack
from tests._lib.packed import wide


def test_sums_are_of_float32():
  # Of ones, bfloat16 can sum 256 and float16 2048; the last is 1 + 2**-20.
  for dtype, k in (('bfloat16', 1024), ('float16', 8192)):
    w = np.tile(np.array([[1.], [1.], [0.], [0.]]), (k // 4, 1)).astype(
        jnp.dtype(dtype))
    y = jax.jit(lambda x, w: matmul(x, w, preferred_element_type=jnp.float32))(
        jnp.ones((1, k), dtype), pack(w))
    assert y[0, 0] == k / 2


def test_int8_sums_are_of_int32():
  w = np.tile(np.array([[-128], [-128], [0], [0]], np.int8), (256, 1))
  y = matmul(jnp.full((1, 1024), -128, jnp.int8), pack(w))
  assert (y.dtype, int(y[0, 0])) == (np.int32, 512 * 128 * 128)


def test_zero_times_infinity_is_as_in_the_dense_product():
  # Positions that are not kept are zeros, not holes.
  w = np.array([[1., 0.], [2., 0.], [0., 0.], [0., 0.]], np.float32)
  x = jnp.array([[1., 1., jnp.inf, 1.], [1., jnp.nan, 1., 1.]])
  np.testing.assert_array_equal(matmul(x, pack(w)), x @ w)


def test_one_program_of_xla_serves_several_platforms():
  w, x = pack(prune(normal(512, 256))), jax.device_put(normal(8, 512, seed=1))
  program = exported(lambda x, w: matmul(x, w, implementation='xla'), x, w,
                     platforms=['cpu', 'cuda', 'tpu'])
  assert_near(program.call(x, w), np.matmul(*wide(x, unpack(w))))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_float32_weights_have_float32_products(dtype):
  w = pack(jnp.zeros((8, 4), dtype))
  text = str(jax.make_jaxpr(lambda x: _xla.matmul(x, w, x.dtype))(
      jnp.zeros((2, 8), dtype)))
  assert ('HIGHEST' in text) == (dtype == 'float32')


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_transposed_products_are_those_of_the_transposed_weight(dtype):
  w = pack(prune(normal(8, 4)))
  x, dy = jnp.zeros((3, 8), dtype), normal(3, 4, seed=1)
  dx = _xla.transposed(_xla.matmul, jax.typeof(x))(
      jnp.asarray(dy, dtype), w.astype(dtype), jnp.dtype(jnp.float32))
  assert dx.dtype == jnp.float32
  dense = np.float64(unpack(w.astype(dtype)))
  assert_near(dx, np.float64(jnp.asarray(dy, dtype)) @ dense.T)
  like = jax.ShapeDtypeStruct(dense.shape, jnp.float32)
  dw = _xla.weight_gradient(jnp.asarray(dy), x + 1, like)
  assert dw.dtype == jnp.float32
  assert_near(dw, np.ones((8, 3)) @ dy)
