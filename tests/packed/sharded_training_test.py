"""The product of 2:4 training on a mesh of eight devices."""

import itertools
import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse.packed.layout24 import pack
from jaxsparse.packed.sharded_training import sharded_training_matmul
from tests._lib.packed import assert_near
from tests._lib.packed import normal
from tests._lib.packed import two_way
from tests._lib.packed import wide

_MOVES = re.compile(r' (all-gather|all-reduce|all-to-all|collective-permute|'
                    r'collective-broadcast|reduce-scatter)(?:-start)?\(')
_HOW = pytest.mark.parametrize(
    'how', [{'columns': 'model'}, {'rows': 'model'}, {}], ids=str)


def mesh_of(*kinds):
  return jax.make_mesh(
      (4, 2), ('data', 'model'), axis_types=(kinds * 2)[:2])


def specs_of(how):
  columns, rows = how.get('columns'), how.get('rows')
  return P('data', None, rows), P(rows, columns), P('data', None, columns)


@pytest.mark.parametrize('kinds', [*itertools.product(
    [AxisType.Auto, AxisType.Explicit], repeat=2)], ids=str)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@_HOW
def test_the_product_and_dense_gradients_are_those_of_one_device(
    kinds, dtype, how):
  mesh, dtype = mesh_of(*kinds), jnp.dtype(dtype)
  operands = [normal(4, 3, 16, dtype=dtype), two_way(16, 8, dtype=dtype),
              normal(4, 3, 8, seed=1, dtype=dtype)]
  f = lambda x, w: sharded_training_matmul(
      x, w, batch='data' if kinds[0] is AxisType.Auto else None, **how)

  def step(x, w, dy):
    y, back = jax.vjp(f, x, w)
    return y, *back(dy)
  with jax.set_mesh(mesh):
    placed = [jax.device_put(v, NamedSharding(mesh, s))
              for v, s in zip(operands, specs_of(how))]
    y, dx, dw = jax.jit(step)(*placed)
    for got, like in zip((dx, dw, y), placed):
      assert got.dtype == dtype
      assert got.sharding.is_equivalent_to(like.sharding, got.ndim)
  x, w, dy = wide(*operands)
  tolerance = 2e-2 if dtype == jnp.bfloat16 else None
  assert_near(y, x @ w, tolerance)
  assert_near(dx, dy @ w.T, tolerance)
  assert_near(dw, x.reshape(-1, 16).T @ dy.reshape(-1, 8), tolerance)
  assert np.count_nonzero(dw) == dw.size  # For pruned weights, too.


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize('how, sums', [
    ({'columns': 'model'}, (0, 2)), ({'rows': 'model'}, (1, 1))], ids=str)
def test_nothing_is_gathered_and_sums_are_counted(kind, how, sums):
  mesh = mesh_of(kind)
  f = lambda x, w: sharded_training_matmul(x, w, batch='data', **how)
  back = lambda x, w, dy: jax.vjp(f, x, w)[1](dy)
  with jax.set_mesh(mesh):
    x, w, dy = (
        jax.device_put(v, NamedSharding(mesh, s)) for v, s in zip(
            (normal(4, 3, 16), two_way(16, 8), normal(4, 3, 8)),
            specs_of(how)))
    found = [_MOVES.findall(jax.jit(g).lower(*args).compile().as_text())
             for g, args in ((f, (x, w)), (back, (x, w, dy)))]
  # A compiler may make one sum of two tensors of two sums.
  assert not {name for names in found for name in names} - {'all-reduce'}
  assert len(found[0]) == sums[0] and 1 <= len(found[1]) <= sums[1]


@pytest.mark.parametrize('how, told', [
    ({'rows': 'model', 'columns': 'data'}, 'by columns or by rows'),
    ({'columns': 'modle'}, "'modle'.*'model': 2"),
    ({'columns': 'model'}, r'columns.*multiple of 8, got 12'),
    ({'rows': 'data'}, r'rows.*multiple of 16, got 8')], ids=str)
def test_an_error_says_what_to_write(how, told):
  with pytest.raises(ValueError, match=told):
    sharded_training_matmul(jnp.zeros((4, 8)), jnp.zeros((8, 12)),
                            mesh=mesh_of(AxisType.Auto), **how)


def test_a_packed_weight_is_told_of_sharded_matmul():
  with pytest.raises(ValueError, match='sharded_matmul'):
    sharded_training_matmul(jnp.zeros((4, 8)), pack(jnp.zeros((8, 4))),
                            mesh=mesh_of(AxisType.Auto))


def test_shapes_that_do_not_fit_are_shown():
  with pytest.raises(ValueError, match=r'\(4, 9\) and \(8, 4\)'):
    sharded_training_matmul(jnp.zeros((4, 9)), jnp.zeros((8, 4)),
                            mesh=mesh_of(AxisType.Auto))
