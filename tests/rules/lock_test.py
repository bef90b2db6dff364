"""Locked zeros: of weights, and of units of every pattern."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse
from tests._lib import method_table


def _params():
  return {'a': {'kernel': jax.random.normal(jax.random.key(0), (16, 8)),
                'bias': jnp.zeros(8)}}


def test_lock_keeps_zeros_and_leaves_untouched_biases_free():
  params = _params()
  params['a']['kernel'] = params['a']['kernel'].at[:8].set(0.)
  masks = jaxsparse.lock().init(params).masks
  np.testing.assert_array_equal(
      masks['a']['kernel'], np.arange(16)[:, None].repeat(8, 1) >= 8)
  assert masks['a']['bias'].all()


def test_complex_weights_and_numbers_of_python_are_locked():
  masks = jaxsparse.lock().init(
      {'a': jnp.array([0, 1j, 2], jnp.complex64), 'b': 1.5}).masks
  assert masks['a'].tolist() == [False, True, True] and bool(masks['b'])


def test_it_goes_on_with_the_state_of_the_rule_that_made_the_masks():
  params = _params()
  rule = jaxsparse.methods.rigl(
      {'a/kernel': jaxsparse.unstructured()}, .5, 100, every=10).rule
  state = rule.init(params)

  def step(state, _):
    return jaxsparse.lock().update(params, state, params)[1], None
  locked, _ = jax.lax.scan(step, state, length=3)
  assert locked.count == 3 and not locked.dense
  jax.tree.map(np.testing.assert_array_equal, locked.masks, state.masks)


def test_a_locked_block_is_alive_if_any_weight_is_even_if_they_cancel():
  w = jnp.zeros((4, 4)).at[0, 0].set(1.).at[0, 1].set(-1.)
  masks = jaxsparse.lock({'w': jaxsparse.block((2, 2))}).init({'w': w}).masks
  expected = np.zeros((4, 4), bool)
  expected[:2, :2] = True
  np.testing.assert_array_equal(masks['w'], expected)


# name -> (pattern, the shape of its units in 8 x 8)
_LOCKED = {
    'unstructured': (jaxsparse.unstructured(), (1, 1)),
    'nm': (jaxsparse.nm(2, 4), (1, 1)),
    'block': (jaxsparse.block((4, 2)), (4, 2)),
    'balanced': (jaxsparse.block((2, 4), balanced=True), (2, 4)),
    'mean': (jaxsparse.block((2, 2), reduce='mean'), (2, 2)),
    'max': (jaxsparse.block((4, 1), reduce='max'), (4, 1)),
    'columns': (jaxsparse.channel(-1), (8, 1)),
    'rows': (jaxsparse.channel(-2), (1, 8)),
}


@functools.cache
def _locked():
  """A rule, and weights: of each, signs cancel in one unit and one is zero."""
  draw, params = np.random.default_rng(0), {'dense': jnp.ones(3)}
  for name, (_, (a, b)) in _LOCKED.items():
    w = draw.normal(size=(8, 8)) * (draw.random((8, 8)) < 0.5)
    w[:a, :b] = 0.
    w[-a:, -b:] = 0.
    w[-a, -b], w[-1, -1] = 1., -1.  # One weight, if that is the unit.
    params[name] = jnp.asarray(w, jnp.float32)
  rule = jaxsparse.lock({name: row[0] for name, row in _LOCKED.items()})
  return rule._replace(init=jax.jit(rule.init)), params


def test_locked_units_of_every_pattern_are_those_with_any_weight():
  rule, params = _locked()
  masks = rule.init(params).masks
  assert masks['dense'] is None
  for name, (_, (a, b)) in _LOCKED.items():
    tiles = np.asarray(params[name]).reshape(8 // a, a, 8 // b, b)
    alive = (tiles != 0).any((1, 3), keepdims=True)
    np.testing.assert_array_equal(
        masks[name], np.broadcast_to(alive, tiles.shape).reshape(8, 8), name)
    assert masks[name][-1, -1] and not masks[name][0, 0]


def test_decay_and_momentum_move_no_zero_of_a_locked_unit():
  rule, params = _locked()
  first = params
  tx = method_table.wrap(
      optax.adamw(1e-2, weight_decay=0.1), rule, jaxsparse.hard())
  state = tx.init(params)

  @jax.jit
  def step(params, state):
    grads = jax.tree.map(lambda w: w - 3., params)  # Wants all to be 3.
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  for _ in range(3):
    params, state = step(params, state)
  locked = rule.init(first).masks
  for name in _LOCKED:
    mask = np.asarray(locked[name])
    np.testing.assert_array_equal(jaxsparse.get_masks(state)[name], mask)
    assert not np.asarray(params[name])[~mask].any(), name
    assert (params[name] != first[name])[mask].all(), name
