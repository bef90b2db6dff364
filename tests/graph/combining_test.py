"""What stacked units add, against the function itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import combining
from jaxsparse.graph.combining import Stack

RNG = np.random.default_rng(0)


def array(*shape):
  return RNG.normal(size=shape).astype(np.float32)


P = {'w': array(3, 4, 5), 'scale': array(3), 'out': array(5, 2)}
X, GATES = array(6, 4), array(6, 3)


def given(p, x):
  return jnp.tanh(jnp.einsum('td,edf->etf', x, p['w'])) * p['scale'][
      :, None, None]


def added(p, x, gates):
  return jnp.einsum('te,etf->tf', gates, given(p, x))


def run(fn, p=P, axes=None):
  layers = combining.find(fn, p, X, GATES, stacks={
      'units': Stack(axes or {'w': 0, 'scale': 0}, 3)})
  found, = layers.run(p, X, GATES, look=lambda given: given[:2])
  layer, = layers.layers
  return layer, *found


@pytest.mark.parametrize('fn', [
    added, lambda p, x, g: x.sum() + added(p, x, g),
    lambda p, x, g: jnp.tanh(added(p, x, g)),
    lambda p, x, g: added(p, x, g) @ p['out'],
    lambda p, x, g: jax.nn.silu(added(p, x, g))])
def test_what_units_add_is_the_output_of_the_layer_in_parts(fn):
  layer, each, weights = run(fn)
  assert layer.features == (1,) and layer.path == 'w'
  np.testing.assert_allclose(
      each, jnp.einsum('te,etf->etf', GATES, given(P, X)), rtol=1e-5)
  np.testing.assert_allclose(
      weights, np.repeat(GATES.T[..., None], 5, -1), rtol=1e-5)


def test_features_are_found_where_they_go():
  layer, each, _ = run(lambda p, x, g: added(p, x, g).T.reshape(5, 2, 3))
  assert layer.features == (0,) and each.shape == (3, 5, 2, 3)


def test_zeros_that_are_added_are_nothing():
  def fn(p, x, g):
    y = given(p, x)
    total = jnp.zeros((6, 5))
    for j in range(3):
      total = total + g[:, j:j + 1] * y[j]
    return total
  _, each, _ = run(fn)
  np.testing.assert_allclose(each.sum(0), fn(P, X, GATES), rtol=1e-4)


def test_rows_that_are_scattered():
  where = jnp.array([3, 1, 0, 5, 4, 2])

  def fn(p, x, g):
    y = jnp.einsum('te,etf->tf', g, given(p, x))
    return jnp.zeros((7, 5)).at[where].add(y)
  layer, each, _ = run(fn)
  assert layer.features == (1,)
  np.testing.assert_allclose(each.sum(0), fn(P, X, GATES), rtol=1e-4)


def test_a_layer_has_what_is_added_by_its_own_units():
  def fn(p, x, g):
    return jax.lax.scan(
        lambda x, w: (x + added({'w': w, 'scale': p['one']}, x, g), None),
        x, p['w'])[0]
  p = {'w': array(2, 3, 4, 5)[..., :4], 'one': np.ones(3, 'f4')}
  layers = combining.find(fn, p, X, GATES, stacks={'units': Stack({'w': 1}, 3)})
  first, second = layers.run(p, X, GATES, look=lambda given: given.added)
  assert [layer.index for layer in layers.layers] == [((0, 0),), ((0, 1),)]
  np.testing.assert_allclose(
      X + first.sum(0) + second.sum(0), fn(p, X, GATES), rtol=1e-4, atol=1e-5)


def test_what_is_not_there_is_told():
  with pytest.raises(combining.Lost, match='no product of'):
    run(added, axes={'scale': 0})
