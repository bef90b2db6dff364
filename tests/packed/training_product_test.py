"""The product of 2:4 training, against dense products and gradients."""

import math

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse.packed.layout24 import pack
from jaxsparse.packed.training_product import training_matmul
from tests._lib.packed import assert_near
from tests._lib.packed import normal
from tests._lib.packed import two_way
from tests._lib.packed import wide


@pytest.mark.parametrize('leading', [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_training_is_the_dense_product_with_dense_gradients(dtype, leading):
  w = jnp.asarray(two_way(12, 8, dtype=jnp.dtype(dtype)))
  x, dy = (jax.device_put(normal(*leading, n, seed=n, dtype=jnp.dtype(dtype)))
           for n in (12, 8))
  back = lambda x, w: (training_matmul(x, w),
                       jax.vjp(training_matmul, x, w)[1](dy))
  y, (dx, dw) = jax.jit(back)(x, w)
  assert {y.dtype.name, dx.dtype.name, dw.dtype.name} == {dtype}
  assert_near(y, np.matmul(*wide(x, w)))
  assert_near(dx, np.matmul(*wide(dy, w.T)))
  rows = math.prod(leading)
  assert_near(dw, np.float64(x).reshape(rows, -1).T
              @ np.float64(dy).reshape(rows, -1))
  assert np.count_nonzero(dw) == dw.size  # For pruned weights, too.


def test_training_is_mapped_scanned_and_checkpointed():
  w = jnp.stack([jnp.asarray(two_way(8, 8, seed=i)) for i in range(3)])
  x = jax.device_put(normal(3, 2, 8, seed=1))
  assert_near(jax.vmap(training_matmul)(x, w), np.matmul(*wide(x, w)))

  def loss(w, product):
    step = jax.checkpoint(lambda x, w: (jnp.tanh(product(x, w)), None))
    return (lax.scan(step, x[0], w)[0] ** 2).sum()
  assert_near(jax.jit(jax.grad(lambda w: loss(w, training_matmul)))(w),
              jax.grad(lambda w: loss(w, jnp.matmul))(w), 1e-5)


@pytest.mark.parametrize('out', ['float32', 'bfloat16'])
def test_training_has_the_preferred_element_type(out):
  w = jnp.asarray(two_way(8, 4, dtype=jnp.bfloat16))
  x = jax.device_put(normal(2, 8, dtype=jnp.bfloat16))
  f = lambda x, w: training_matmul(x, w, preferred_element_type=out)
  y, back = jax.vjp(f, x, w)
  assert y.dtype == out
  assert_near(y, np.matmul(*wide(x, w)))
  assert [g.dtype.name for g in back(jnp.ones_like(y))] == ['bfloat16'] * 2


def test_int8_is_summed_in_int32_in_training_too():
  w = jnp.asarray(np.where(two_way(4, 4), 100, 0), jnp.int8)
  y = training_matmul(jnp.full((1, 4), 100, jnp.int8), w)
  assert y.dtype == jnp.int32
  np.testing.assert_array_equal(y, [[20_000] * 4])


@pytest.mark.parametrize('x, w', [
    ((2, 9), (8, 4)), ((), (8, 4)), ((2, 8), (8,)), ((3, 2, 8), (3, 8, 4))],
    ids=str)
def test_training_shapes_that_do_not_fit_are_shown(x, w):
  with pytest.raises(ValueError, match=r'\[K, N\]'):
    training_matmul(jnp.zeros(x), jnp.zeros(w))


@pytest.mark.parametrize('leading', [(0,), (2, 0), (0, 3)], ids=str)
def test_no_tokens_give_none(leading):
  x = jnp.zeros((*leading, 256))
  assert training_matmul(x, two_way(256, 128)).shape == (*leading, 128)


def test_a_weight_that_is_24_one_way_is_told_where_it_can_be_seen():
  w = np.zeros((8, 4), np.float32)
  w[0, :3] = 1.  # 2:4 along -2, not along -1.
  x = jnp.ones((1, 8))
  with pytest.raises(ValueError, match='transposable=True'):
    training_matmul(x, w)
  for y in (training_matmul(x, w, check=False), jax.jit(training_matmul)(x, w)):
    np.testing.assert_array_equal(y, [[1., 1., 1., 0.]])


def test_a_packed_weight_is_told_of_matmul():
  with pytest.raises(ValueError, match=r'Write matmul\(x, w\)'):
    training_matmul(jnp.ones((1, 8)), pack(two_way(8, 4)))


def test_in_shard_map_the_gradient_of_a_weight_is_that_of_all_tokens():
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
  x, w, dy = normal(8, 12), two_way(12, 8), normal(8, 8, seed=1)
  on_mesh = jax.shard_map(
      training_matmul, mesh=mesh, in_specs=(P('data'), P()),
      out_specs=P('data'))

  def run(x, w):
    y, back = jax.vjp(on_mesh, x, w)
    return y, *back(dy)
  y, dx, dw = jax.jit(run)(jnp.asarray(x), jnp.asarray(w))
  x, w, dy = wide(x, w, dy)
  assert_near(y, x @ w)
  assert_near(dx, dy @ w.T)
  assert_near(dw, x.T @ dy)
