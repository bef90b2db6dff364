"""Activations, and what is ranked by them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import calibration
from jaxsparse import units

RNG = np.random.default_rng(0)


def array(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def attention(p, x):
  q, k, v = (jnp.einsum('td,dhk->htk', x, p[n]) for n in 'qkv')
  a = jax.nn.softmax(jnp.einsum('htk,hsk->hts', q, k))
  y = jnp.einsum('hts,hsk,hkd->td', a, v, p['out'])
  return jax.nn.relu(y @ p['up']) @ p['down']


PARAMS = {'q': array(8, 2, 4), 'k': array(8, 2, 4), 'v': array(8, 2, 4),
          'out': array(2, 4, 8), 'up': array(8, 6), 'down': array(6, 3)}
X = [array(7, 8), array(5, 8)]
FOUND = calibration.activations(attention, PARAMS, X)


def seen(p, x):
  """What `out` and `down` read."""
  q, k, v = (jnp.einsum('td,dhk->htk', x, p[n]) for n in 'qkv')
  a = jax.nn.softmax(jnp.einsum('htk,hsk->hts', q, k))
  z = jnp.einsum('hts,hsk->thk', a, v)
  return z, jax.nn.relu(jnp.einsum('thk,hkd->td', z, p['out']) @ p['up'])


def test_they_are_mean_squares_in_the_axes_of_kernels():
  z, h = (np.concatenate(y) for y in zip(*(seen(PARAMS, x) for x in X)))
  assert {k: x.shape for k, x in FOUND.items()} == {
      **dict.fromkeys('qkv', (8, 1, 1)), 'out': (2, 4, 1), 'up': (8, 1),
      'down': (6, 1)}
  np.testing.assert_allclose(
      FOUND['out'][..., 0], (z**2).mean(0), rtol=1e-4)
  np.testing.assert_allclose(FOUND['down'][:, 0], (h**2).mean(0), rtol=1e-4)


def test_kernels_of_convolutions_in_groups():
  fn = lambda p, x: jax.lax.conv_general_dilated(
      x, p['w'], (1,), 'VALID', dimension_numbers=('NWC', 'WIO', 'NWC'),
      feature_group_count=2)
  x = array(2, 5, 4)
  found = calibration.activations(fn, {'w': array(1, 2, 6)}, [x])['w']
  mean = (x**2).mean((0, 1))
  assert found.shape == (1, 2, 6)
  np.testing.assert_allclose(found[0, :, 0], mean[:2], rtol=1e-5)
  np.testing.assert_allclose(found[0, :, 5], mean[2:], rtol=1e-5)


def test_kernels_of_members_see_their_own_inputs():
  conv = lambda x, w: jax.lax.conv_general_dilated(
      x, w, (1,), 'VALID', dimension_numbers=('NWC', 'WIO', 'NWC'))
  fn = lambda p, x: jax.vmap(conv)(x, p['w'])
  params, x = {'w': array(2, 1, 8, 4)}, array(2, 5, 9, 8)
  found = calibration.activations(fn, params, [x])['w']
  assert found.shape == params['w'].shape
  for member in range(2):
    np.testing.assert_allclose(
        found[member, 0, :, 3], (x[member]**2).mean((0, 1)), rtol=1e-5)
  shares = calibration.owl(fn, params, [x], {'w': jaxsparse.unstructured()}, .5)
  assert np.mean(shares['w']) == .5


def test_kernels_in_the_axes_of_keras_are_left_out():
  def fn(p, x):
    y = jax.lax.conv_general_dilated(
        x, p['w'].reshape(3, 3, 1, 8), (1, 1), 'SAME', feature_group_count=8,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return y.mean((1, 2)) @ p['v']
  params = {'w': array(3, 3, 8, 1), 'v': array(8, 4)}
  with pytest.warns(UserWarning, match='inputs of w have no axes.*left out'):
    found = calibration.activations(fn, params, [array(2, 5, 5, 8)])
  assert [*found] == ['v']


def test_paths_of_linens_variables_are_those_of_their_params():
  variables = lambda v, x: attention(v['params'], x)
  found = calibration.activations(variables, {'params': PARAMS}, X)
  assert 'params/up' in found
  score = calibration.wanda_score(found)
  same = calibration.wanda_score(FOUND)
  for one, other in zip(*(jax.tree.leaves(s.update(None, s.init(PARAMS), PARAMS)
                                          [0]) for s in (score, same))):
    np.testing.assert_allclose(one, other, rtol=1e-6)
  tie = units.infer_ties(attention, PARAMS, X[0])['down[*]']
  np.testing.assert_allclose(
      calibration.unit_activations(found, PARAMS, tie)['down[*]'],
      calibration.unit_activations(FOUND, PARAMS, tie)['down[*]'], rtol=1e-6)
  with pytest.raises(ValueError, match='these parameters, a, got those of'):
    calibration.wanda_score(found).init({'a': array(2, 2)})


def test_squares_of_complex_inputs_are_those_of_magnitudes():
  x = jnp.array([[1j, .1]])
  found = calibration.activations(
      lambda p, x: (x @ p['w']).real, {'w': jnp.ones((2, 3), jnp.complex64)},
      [x])
  np.testing.assert_allclose(found['w'][:, 0], [1., .01], rtol=1e-5)


def test_wanda_in_prune_is_wanda():
  rule = jaxsparse.prune({'up': jaxsparse.nm(4, 8)},
                         score=calibration.wanda_score(FOUND))
  tx = jaxsparse.sparsify(optax.sgd(.1), rule)
  state = jax.jit(tx.init)(PARAMS)
  masks = jaxsparse.get_masks(state)
  np.testing.assert_array_equal(masks['up'], calibration.wanda(
      PARAMS['up'], FOUND['up'][:, 0], jaxsparse.nm(4, 8)))
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  updates, state = jax.jit(tx.update)(grads, state, PARAMS)
  assert jnp.isfinite(updates['up']).all()


def test_units_are_ranked_by_what_they_give():
  ties = units.infer_ties(attention, PARAMS, X[0])
  heads, neurons = units.heads(ties), units.neurons(ties)
  z, h = (np.concatenate(y) for y in zip(*(seen(PARAMS, x) for x in X)))
  got = calibration.unit_activations(FOUND, PARAMS, [*heads, *neurons])
  head, neuron = 'k[:, *]', 'down[*]'
  np.testing.assert_allclose(
      got[head], np.sqrt((z**2).mean(0).sum(1)), rtol=1e-4)
  np.testing.assert_allclose(
      got[neuron], np.sqrt((h**2).mean(0)), rtol=1e-4)
  kept = units.keep_units(got, [neurons[neuron]], count=4)
  assert set(np.flatnonzero(~kept[neuron])) == set(
      np.argsort(got[neuron])[:2])


def test_prune_units_takes_the_lowest():
  ties = units.neurons(units.infer_ties(attention, PARAMS, X[0]))
  rule = units.prune_units(
      [ties['down[*]']], importance=calibration.mean_activation(FOUND), count=4)
  masks, _ = jax.jit(rule.update)(PARAMS, rule.init(PARAMS), PARAMS)
  dead = np.flatnonzero(~masks['down'].any(1))
  assert set(dead) == set(np.argsort(FOUND['down'][:, 0])[:2])


def test_a_donated_state_leaves_what_was_found():
  ties = units.infer_ties(attention, PARAMS, X[0])
  found = jax.tree.map(jnp.array, dict(FOUND))
  for rule in (
      units.prune_units([ties['down[*]']], count=4,
                        importance=calibration.mean_activation(found)),
      jaxsparse.prune({'up': jaxsparse.nm(4, 8)},
                      score=calibration.wanda_score(found))):
    state = rule.init(jax.tree.map(jnp.asarray, PARAMS))
    jax.jit(lambda s: jax.tree.map(jnp.copy, s), donate_argnums=0)(state)
  for path, values in FOUND.items():
    np.testing.assert_array_equal(found[path], values)


def test_units_that_no_kernel_reads_are_told():
  ties = units.neurons(units.infer_ties(attention, PARAMS, X[0]))
  with pytest.raises(ValueError, match='need a kernel that reads'):
    calibration.unit_activations({'up': FOUND['up']}, PARAMS, ties)


def test_kernels_whose_inputs_are_not_seen_are_named_and_left_out():
  fn = lambda p, x: x @ p['v'] + x @ (p['w'] * p['s'][:, None])
  params = {'v': array(8, 4), 'w': array(8, 4), 's': array(8)}
  with pytest.warns(UserWarning, match='inputs of w cannot be .* left out'):
    found = calibration.activations(fn, params, X)
  x = np.concatenate(X)
  np.testing.assert_allclose(found['v'][:, 0], (x**2).mean(0), rtol=1e-5)
