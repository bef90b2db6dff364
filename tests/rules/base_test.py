"""Rules: when masks change, to what, and what goes wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import rules
from jaxsparse import schedules
from tests._lib import method_table

_FREE = {'.*kernel': jaxsparse.unstructured()}


def _params(seed=0, shape=(16, 8)):
  return {'a': {'kernel': jax.random.normal(jax.random.key(seed), shape),
                'bias': jnp.zeros(shape[-1])}}


def _grads(seed):
  return _params(seed + 100)


def _kept(masks):
  return int(masks['a']['kernel'].sum())


def _advance(rule, steps, params=None, grads=_grads):
  """The masks before and after each of `steps` updates of fixed params."""
  params = params or _params()
  state = rule.init(params)
  update = jax.jit(lambda g, s: rule.update(g, s, params)[1])
  history = [state.masks]
  for i in range(steps):
    state = update(grads(i), state)
    history.append(state.masks)
  return history


def test_prune_follows_schedule_and_period():
  rule = jaxsparse.prune(
      _FREE, distribution=jaxsparse.uniform(0.5),
      schedule=schedules.linear(2, 10), when=schedules.every(4))
  kept = [_kept(m) for m in _advance(rule, 12)]
  half = lambda p: round(128 - p * 64)
  assert kept == [128] * 4 + [half(2 / 8)] * 4 + [half(6 / 8)] * 2 + [64] * 3


def test_final_sparsity_is_reached_at_the_end_of_the_schedule_off_phase():
  rule = jaxsparse.prune(
      _FREE, distribution=jaxsparse.uniform(0.9),
      schedule=schedules.cubic(0, 7), when=schedules.every(5))
  kept = [_kept(m) for m in _advance(rule, 8)]
  assert kept[6] > kept[7] == round((1 - 0.9) * 128) == kept[8]


def test_one_shot_pruning_waits_for_when():
  rule = jaxsparse.prune(
      _FREE, distribution=jaxsparse.uniform(0.75),
      when=schedules.every(3, begin=3))
  assert [_kept(m) for m in _advance(rule, 4)] == [128, 128, 128, 32, 32]


def test_masks_belong_to_params_plus_updates():
  params, updates = _params(0), _params(1)
  rule = jaxsparse.prune({'.*kernel': jaxsparse.nm(2, 4)})
  masks, _ = rule.update(
      _grads(0), rule.init(params), params, updates=updates)
  after = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(
      masks['a']['kernel'], rule.init(after).masks['a']['kernel'])


def test_saliency_waits_for_gradients_and_uses_the_point_they_were_taken_at():
  params, grads, updates = _params(0), _grads(3), _params(5)
  rule = jaxsparse.prune(_FREE, score=jaxsparse.saliency(),
                         distribution=jaxsparse.uniform(0.5))
  state = rule.init(params)
  assert state.masks['a']['kernel'].all()
  masks, _ = rule.update(grads, state, params, updates=updates)
  scores = np.abs(np.asarray(params['a']['kernel'])
                  * np.asarray(grads['a']['kernel'])).ravel()
  expected = np.zeros(128, bool)
  expected[np.argsort(-scores, kind='stable')[:64]] = True
  np.testing.assert_array_equal(masks['a']['kernel'].ravel(), expected)


def test_snip_momentum_accumulates_between_prunings():
  params = _params(0)
  rule = jaxsparse.prune(
      _FREE, score=jaxsparse.snip_momentum(), when=schedules.every(4, begin=4),
      distribution=jaxsparse.uniform(0.5))
  masks = _advance(rule, 4, params)[-1]
  w = np.asarray(params['a']['kernel'], np.float64)
  total = sum(0.9 * np.abs(w * np.asarray(_grads(i)['a']['kernel']))
              for i in range(4)).ravel()
  expected = np.zeros(128, bool)
  expected[np.argsort(-total, kind='stable')[:64]] = True
  np.testing.assert_array_equal(masks['a']['kernel'].ravel(), expected)


def test_a_score_of_ones_own_sees_the_new_params():
  seen = []

  def update(grads, state, params=None):
    seen.append(params)
    return jax.tree.map(jnp.abs, params), state
  rule = jaxsparse.prune(
      _FREE, distribution=jaxsparse.uniform(0.5),
      score=optax.GradientTransformation(
          lambda params: optax.EmptyState(), update))
  params, updates = _params(0), _params(1)
  rule.update(_grads(0), rule.init(params), params, updates=updates)
  np.testing.assert_array_equal(
      seen[-1]['a']['kernel'],
      params['a']['kernel'] + updates['a']['kernel'])
  assert seen[-1]['a']['bias'] is None  # Dense parameters are not scored.


def test_a_score_that_fails_without_gradients_is_a_taught_error():
  bad = optax.GradientTransformation(
      lambda params: optax.EmptyState(),
      lambda g, s, p=None: (jax.tree.map(jnp.abs, g['a']), s))
  rule = jaxsparse.prune(_FREE, score=bad,
                         distribution=jaxsparse.uniform(0.5))
  with pytest.raises(ValueError, match='grads=None'):
    rule.init(_params())


def test_lock_keeps_zeros_and_leaves_untouched_biases_free():
  params = _params()
  params['a']['kernel'] = params['a']['kernel'].at[:8].set(0.)
  masks = jaxsparse.lock().init(params).masks
  np.testing.assert_array_equal(
      masks['a']['kernel'], np.arange(16)[:, None].repeat(8, 1) >= 8)
  assert masks['a']['bias'].all()


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


@pytest.mark.parametrize('patterns, message', [
    ({'.*kernel': jaxsparse.nm(2, 6)}, 'a/kernel.*multiple of 6.*16'),
    ({'.*': jaxsparse.nm(2, 4)}, 'a/bias.*axis -2'),
    ({'.*kernel': 'nm(2, 4)'}, 'pattern or None'),
    ({'.*kernle': jaxsparse.nm(2, 4)}, 'a/kernel'),
    ({'.*kernel': jaxsparse.unstructured()}, 'a/kernel.*uniform'),
])
def test_patterns_that_do_not_fit_are_taught_errors(patterns, message):
  with pytest.raises(ValueError, match=message):
    jaxsparse.prune(patterns).init(_params())


def test_a_missing_sparsity_is_told_before_the_first_pruning_step():
  rule = jaxsparse.prune(_FREE, when=schedules.every(5, begin=5))
  with pytest.raises(ValueError, match='uniform'):
    rule.init(_params())


def test_first_match_wins_and_none_is_dense():
  shapes = rules.resolve(
      {'a/kernel': None, '.*kernel': jaxsparse.nm(1, 4)},
      {**_params(), 'b': {'kernel': jnp.ones((4, 4))}})
  assert shapes['a']['kernel'] is None
  assert shapes['b']['kernel'] == jaxsparse.nm(1, 4)
