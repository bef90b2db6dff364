"""Whole models on meshes whose axes are Explicit, against one device."""

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

import jaxsparse
from jaxsparse import calibration
from tests._lib.calibration import array
from tests._lib.calibration import HALF

pytestmark = pytest.mark.slow


def product(text, x, w):
  """A product whose sum may be over what devices share."""
  is_shared = jax.sharding.get_abstract_mesh().axis_names
  return jnp.einsum(text, x, w, out_sharding=P('data') if is_shared else None)


def mlp(p, x):
  return x + product('td,df->tf', jax.nn.relu(x @ p['up']), p['down'])


def scanned(p, x):
  return lax.scan(lambda x, layer: (mlp(layer, x), None), x, p)[0]


def heads(p, x):
  q = jnp.einsum('btd,dhk->bthk', x, p['q'])
  a = jax.nn.softmax(jnp.einsum('bthk,bshk->bhts', q, q))
  y = jnp.einsum('bhts,bshk->bthk', a, q)
  return product('bthk,hkd->btd', y, p['out'])


def experts(p, x):
  h = jax.nn.relu(jnp.einsum('td,edf->tef', x, p['up']))
  y = jnp.einsum('tef,efd->ted', h, p['down'])
  return x + product('te,ted->td', jax.nn.softmax(x @ p['router']), y)


def convolution(p, x):
  return lax.conv_general_dilated(
      x, p['w'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


MLP = {'up': array(8, 16), 'down': array(16, 8)}


@pytest.mark.parametrize('fn, params, x, specs, method', [
    (mlp, MLP, array(16, 8), {}, 'sparsegpt'),
    (mlp, MLP, array(16, 8), {'up': P(None, 'model'), 'down': P('model')},
     'wanda'),
    (scanned, {'up': array(2, 8, 16), 'down': array(2, 16, 8)}, array(16, 8),
     {'up': P(None, None, 'model'), 'down': P(None, 'model')}, 'sparsegpt'),
    (heads, {'q': array(8, 4, 4), 'out': array(4, 4, 8)}, array(4, 6, 8),
     {'q': P(None, 'model'), 'out': P('model')}, 'admm'),
    (experts, {'router': array(8, 4), 'up': array(4, 8, 8),
               'down': array(4, 8, 8)}, array(16, 8),
     {'up': P('model'), 'down': P('model')}, 'wanda'),
    (convolution, {'w': array(3, 3, 8, 8)}, array(4, 6, 6, 8), {}, 'wanda')],
                         ids=['replicated', 'mlp', 'scan', 'heads', 'experts',
                              'convolution'])
def test_a_mesh_changes_nothing(fn, params, x, specs, method):
  expected, masks = jaxsparse.one_shot(fn, params, [x], HALF, method)
  mesh = jax.make_mesh(
      (2, 4), ('data', 'model'), axis_types=(AxisType.Explicit,) * 2)
  with jax.set_mesh(mesh):
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
    shared = {k: put(w, specs.get(k, P())) for k, w in params.items()}
    got, found = jaxsparse.one_shot(
        fn, shared, [put(x, P('data'))], HALF, method)
  for name, w in shared.items():
    np.testing.assert_array_equal(found[name], masks[name])
    np.testing.assert_allclose(got[name], expected[name], rtol=1e-3, atol=1e-4)
    assert got[name].sharding.is_equivalent_to(w.sharding, w.ndim)
    assert found[name].sharding.is_equivalent_to(w.sharding, w.ndim)


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
def test_parameters_may_lie_nowhere(kind):
  x = array(16, 8)
  fn = lambda p, x: jax.nn.relu(x @ p['up']) @ p['down']
  _, masks = jaxsparse.one_shot(fn, MLP, [x], HALF, 'wanda')
  mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
  data = jax.device_put(x, NamedSharding(mesh, P('data')))
  _, found = jaxsparse.one_shot(fn, MLP, [data], HALF, 'wanda')
  for name, mask in masks.items():
    np.testing.assert_array_equal(found[name], mask)
  fn = lambda p, x: jax.lax.scan(
      lambda x, w: (jnp.tanh(x @ w), None), x, p['w'])[0]
  params = {'w': array(2, 8, 8)}
  _, masks = jaxsparse.one_shot(fn, params, [x], HALF, 'wanda')
  _, found = jaxsparse.one_shot(fn, params, [data], HALF, 'wanda')
  np.testing.assert_array_equal(found['w'], masks['w'])


def test_statistics_are_those_of_all_data():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Explicit,))
  x = array(16, 8)
  step = jax.jit(lambda p, x: calibration.input_statistics(
      mlp, p, x, which='up', kind='moment')['up'])
  with jax.set_mesh(mesh):
    found = step(MLP, jax.device_put(x, NamedSharding(mesh, P('data'))))
  np.testing.assert_allclose(found.sum, x.T @ x, rtol=1e-5, atol=1e-5)
  assert found.count == 16
