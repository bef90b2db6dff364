"""Pruning: when masks change, and by which scores."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import schedules

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


def test_final_sparsity_is_reached_where_a_jitted_schedule_rounds():
  steps = 425  # At its end optax's schedule is 1 - 6e-8 when jitted.
  rule = jaxsparse.prune(
      {'.*': jaxsparse.unstructured()}, sparsity=.5,
      schedule=optax.linear_schedule(0., 1., steps),
      when=jaxsparse.schedules.every(200, end=steps))
  w = jnp.arange(1000.)
  update = jax.jit(lambda state: rule.update(w, state, w)[1])
  state = rule.init(w)._replace(count=jnp.int32(steps - 2))
  kept = []
  for _ in range(3):
    state = update(state)
    kept.append(int(state.masks.sum()))
  assert kept == [1000, 500, 500]


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


@pytest.mark.parametrize('at_init', [True, False])
@pytest.mark.parametrize('wrong', [
    lambda w: w['a']['kernel'], lambda w: {'a': w['a']['kernel']}, lambda w: {},
    lambda w: jax.tree.map(jnp.sum, w),
    lambda w: jax.tree.map(lambda w: w.sum(0, keepdims=True), w),
    lambda w: jax.tree.map(lambda w: [w], w)])
@pytest.mark.parametrize('rule', [
    lambda score: jaxsparse.prune(_FREE, sparsity=0.5, score=score),
    lambda score: jaxsparse.prune(
        _FREE, distribution=jaxsparse.global_threshold(0.5), score=score,
        when=schedules.every(2)),
    lambda score: jaxsparse.prune_and_grow(
        _FREE, sparsity=0.5, drop=jaxsparse.magnitude(), grow=score,
        fraction=0.3, when=schedules.every(2))])
def test_scores_have_the_shapes_of_the_params(rule, wrong, at_init):
  made = jaxsparse.scores.Score(
      lambda params: optax.EmptyState(), lambda grads, state, params, **_: (
          None if grads is None and not at_init else wrong(params), state))
  with pytest.raises(ValueError, match=r'shapes of the params, got .*Write'):
    _advance(rule(made), 1)


def test_a_score_that_fails_without_gradients_is_a_taught_error():
  bad = optax.GradientTransformation(
      lambda params: optax.EmptyState(),
      lambda g, s, p=None: (jax.tree.map(jnp.abs, g['a']), s))
  rule = jaxsparse.prune(_FREE, score=bad,
                         distribution=jaxsparse.uniform(0.5))
  with pytest.raises(ValueError, match='grads=None'):
    rule.init(_params())
