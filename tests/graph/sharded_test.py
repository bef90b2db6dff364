"""What taps return in `shard_map` is what they return of whole arrays."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse.graph import taps

RNG = np.random.default_rng(0)


def array(*shape):
  return RNG.normal(size=shape).astype(np.float32)


@pytest.fixture(name='mesh', params=[(2, 2), (4, 2), (1, 4)], ids=str)
def _mesh(request):
  return jax.make_mesh(request.param, ('d', 'm'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)


@pytest.fixture(name='shard', params=[True, False], ids=['vma', ''])
def _shard(request, mesh):
  """`shard_map` as a decorator, with types checked and not."""
  return lambda *specs: functools.partial(
      jax.shard_map, mesh=mesh, in_specs=specs[:-1], out_specs=specs[-1],
      check_vma=request.param)


def tap(product):
  rows = product.rows.reshape(
      *product.rows.shape[:product.batch], -1, product.rows.shape[-1])
  count = jnp.full(rows.shape[:-2], rows.shape[-2], jnp.float32)
  if product.groups is not None:
    ends = jnp.cumsum(product.groups)
    group = jnp.searchsorted(ends, jnp.arange(len(rows)), side='right')
    mine = jnp.where(group == jnp.arange(len(ends))[:, None], 1., 0.)
    rows = rows[None] * mine[:, :, None]
    count = mine.sum(-1)
  return jnp.einsum('...tk,...tl->...kl', rows, rows), count


def sums(fn, p, *inputs):
  return jax.jit(lambda p, *inputs: taps.run(fn, p, *inputs, tap=tap))(
      p, *inputs)


def assert_same(got, expected):
  assert set(got) == set(expected) and got
  for path, (moment, count) in expected.items():
    assert got[path][0].shape == moment.shape
    np.testing.assert_array_equal(got[path][1], count)
    np.testing.assert_allclose(got[path][0], moment, rtol=2e-5, atol=2e-5)


def mlp(p, x, total=lambda y: y):
  return total(jnp.tanh(x @ p['up']) @ p['down'])


MLP = {'up': array(4, 8), 'down': array(8, 4)}
SPLIT = {'up': P(None, 'm'), 'down': P('m', None)}


def by_m(y):
  return lax.psum(y, 'm')


@pytest.mark.parametrize('specs, total', [
    ({'up': P(), 'down': P()}, lambda y: y), (SPLIT, by_m),
    (SPLIT, lambda y: by_m(0. + y.astype(jnp.bfloat16).T.astype(
        jnp.float32)).T)], ids=['data', 'tensor', 'casts'])
@pytest.mark.parametrize('rows', [P('d'), P(), P(None)], ids=str)
def test_data_and_kernels_that_are_shared_out(shard, specs, total, rows):
  fn = shard(specs, rows, rows)(functools.partial(mlp, total=total))
  x = array(8, 4)
  assert_same(sums(fn, MLP, x), sums(mlp, MLP, x))
