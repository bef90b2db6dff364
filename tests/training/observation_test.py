"""Observation: against numbers counted by numpy, and nothing disturbed."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import schedules
from jaxsparse import transform
from tests._lib import method_table

_STEPS = 8
_NM = {'.*kernel': jaxsparse.nm(2, 4)}
# 1 / (1 - 0.8) = 5 of the 8 steps are plain means.
_DECAY, _SECOND_DECAY = .8, .9


def _params():
  return {'b': {'kernel': jax.random.normal(jax.random.key(0), (16, 8)),
                'bias': jnp.ones(8)},
          'a': {'kernel': jax.random.normal(jax.random.key(1), (8, 4))}}


def _grads(step):
  return jax.tree.map(lambda w: jax.random.normal(
      jax.random.fold_in(jax.random.key(7), step), w.shape), _params())


def _observe(rule, flow, inner=None):
  return jaxsparse.observe(
      method_table.wrap(inner or optax.sgd(.3), rule, flow), decay=_DECAY,
      second_decay=_SECOND_DECAY)


def _run(tx, steps=_STEPS):
  """Params, state and updates of every step."""
  params, update, history = _params(), jax.jit(tx.update), []
  state = tx.init(params)
  for step in range(steps):
    updates, new = update(_grads(step), state, params)
    history.append((params, state, updates))
    params, state = optax.apply_updates(params, updates), new
  return [*history, (params, state, None)]


@functools.cache
def _ste():
  return _run(_observe(jaxsparse.prune(_NM), jaxsparse.ste()))


def _masks(history, layer):
  return [np.asarray(jaxsparse.get_masks(state)[layer]['kernel'])
          for _, state, _ in history]


def _running(values):
  """A plain mean of the first five, then exponential."""
  mean = 0.
  for t, value in enumerate(values, start=1):
    mean += max(1 - _DECAY, 1 / t) * (value - mean)
  return mean


@pytest.mark.parametrize('layer', ['a', 'b'])
def test_flips_are_those_of_the_masks(layer):
  history = _ste()
  masks = _masks(history, layer)
  flips = [(x != y).sum() for x, y in zip(masks, masks[1:])]
  assert sum(f > 0 for f in flips) > _STEPS // 2
  for t, (_, state, _) in enumerate(history[1:], start=1):
    seen = jaxsparse.observed(state)[f'{layer}/kernel']
    assert int(seen.flips) == flips[t - 1]
    np.testing.assert_allclose(
        seen.mean_flips, _running(flips[:t]), rtol=1e-5)


@pytest.mark.parametrize('layer', ['a', 'b'])
def test_variances_are_those_of_kept_and_of_pruned_gradients(layer):
  history = _ste()
  masks, second, rows = _masks(history, layer), 0., []
  for t in range(1, _STEPS + 1):
    g = np.asarray(_grads(t - 1)[layer]['kernel'], np.float64)
    second = _SECOND_DECAY * second + (1 - _SECOND_DECAY) * g**2
    v, mask = second / (1 - _SECOND_DECAY**t), masks[t - 1]
    rows.append([x[m].var() for x in (v, np.abs(g)) for m in (mask, ~mask)])
    seen = jaxsparse.observed(history[t][1])[f'{layer}/kernel']
    np.testing.assert_allclose(
        seen[:4], [_running(column) for column in zip(*rows)], rtol=2e-5)


@pytest.mark.parametrize('flow', [
    jaxsparse.hard, jaxsparse.sr_ste, lambda: jaxsparse.mdgf(
        schedules.fade_linear(1, 5))], ids=['hard', 'sr_ste', 'mdgf'])
def test_updates_are_those_of_the_unobserved_optimizer(flow):
  tx = method_table.wrap(optax.adam(.1), jaxsparse.prune(_NM), flow())
  for ours, theirs in zip(_run(jaxsparse.observe(tx), 4), _run(tx, 4)):
    chex.assert_trees_all_equal(ours[2], theirs[2])
    chex.assert_trees_all_equal(ours[1].inner, theirs[1])


_GRADUAL = functools.partial(
    jaxsparse.prune, {'.*kernel': jaxsparse.nm(1, 4)},
    schedule=schedules.linear(0, 3))
_FADE = schedules.fade_linear(1, 5)  # Above 0 in the passes of 5 of 8 steps.
# name -> (rule, flow, density of the forward pass, of its gradient)
_KEPT = (1 + .75 + .5 + 5 * .25) / 8
_DENSITIES = {
    'hard': (lambda: jaxsparse.prune(_NM), jaxsparse.hard, .5, .5),
    'gradual': (_GRADUAL, jaxsparse.hard, _KEPT, _KEPT),
    'ste': (lambda: jaxsparse.prune(_NM), jaxsparse.ste, .5, 1.),
    'mdgf': (lambda: jaxsparse.prune(_NM), lambda: jaxsparse.mdgf(_FADE),
             (5 + 3 * .5) / 8, 1.),
    'mdgf gated': (
        lambda: jaxsparse.prune(_NM), lambda: jaxsparse.mdgf(_FADE, False),
        (5 + 3 * .5) / 8, 1.),  # As documented.
    'top_kast': (
        lambda: jaxsparse.rules.forward_backward(
            {'.*kernel': jaxsparse.nm(1, 4)}, backward=.5,
            when=schedules.every(3)), jaxsparse.flows.top_kast, .25, .5),
    'stepwise': (
        lambda: jaxsparse.methods.sdgf_stepwise(
            _NM, 8, dense_steps=2, fine_tune_steps=2).rule, jaxsparse.ste,
        (2 + 2 * .75 + 4 * .5) / 8, 1.)}


@pytest.mark.parametrize('name', _DENSITIES)
def test_densities_are_means_over_the_steps_rehearsed_or_run(name):
  rule, flow, forward, gradient = _DENSITIES[name]
  run = jaxsparse.observed(_run(_observe(rule(), flow()))[-1][1])
  rehearsed = jaxsparse.training.rehearse(
      jaxsparse.Method(rule(), flow()), _params(), steps=_STEPS)
  assert list(run) == list(rehearsed) == ['a/kernel', 'b/kernel']
  for path in run:
    for seen in (run[path], rehearsed[path]):
      np.testing.assert_allclose(seen.forward, forward, rtol=1e-6)
      np.testing.assert_allclose(seen.gradient, gradient, rtol=1e-6)


def test_densities_of_layers_are_their_own():
  patterns = {'a/kernel': jaxsparse.nm(1, 4), 'b/kernel': jaxsparse.nm(3, 4)}
  seen = jaxsparse.training.rehearse(
      jaxsparse.prune(patterns), _params(), steps=2)
  assert {p: float(s.forward) for p, s in seen.items()} == {
      'a/kernel': .25, 'b/kernel': .75}


def test_a_layer_without_weights_has_no_density():
  params = {'k': jnp.zeros((0, 4)), 'l': jnp.ones((4, 4))}
  one_of_four = {'.*': jaxsparse.nm(1, 4)}
  for method in (jaxsparse.methods.top_kast(one_of_four, 10, every=1),
                 jaxsparse.methods.ste(one_of_four, 10)):
    tx = jaxsparse.observe(jaxsparse.sparsify(optax.sgd(.1), method))
    state = tx.init(params)
    for _ in range(2):
      _, state = jax.jit(tx.update)(params, state, params)
    for path, row in jaxsparse.observed(state).items():
      assert np.isfinite(row).all(), path


def test_nothing_pruned_has_no_variance():
  history = _run(_observe(
      jaxsparse.prune({'.*kernel': jaxsparse.nm(4, 4)}), jaxsparse.ste()), 1)
  seen = jaxsparse.observed(history[-1][1])['a/kernel']
  g = np.asarray(_grads(0)['a']['kernel'])
  np.testing.assert_allclose(seen.gradient_kept, np.abs(g).var(), rtol=1e-5)
  assert seen.gradient_pruned == seen.second_pruned == seen.flips == 0


def test_bfloat16_gradients_are_measured_in_float32():
  tx = jaxsparse.observe(jaxsparse.sparsify(
      optax.sgd(.1), jaxsparse.prune(_NM), jaxsparse.ste()))
  params, grads = (jax.tree.map(lambda w: w.astype(jnp.bfloat16), tree)
                   for tree in (_params(), _grads(0)))
  start = tx.init(params)
  updates, state = jax.jit(tx.update)(grads, start, params)
  assert updates['a']['kernel'].dtype == jnp.bfloat16
  seen = jaxsparse.observed(state)['a/kernel']
  mask = np.asarray(jaxsparse.get_masks(start)['a']['kernel'])
  g = np.abs(np.asarray(grads['a']['kernel'], np.float32))
  assert seen.gradient_kept.dtype == jnp.float32
  np.testing.assert_allclose(seen.gradient_kept, g[mask].var(), rtol=1e-5)


def test_a_dense_model_is_observed_to_have_nothing():
  tx = _observe(jaxsparse.prune({'.*': None}), jaxsparse.ste())
  history = _run(tx, 2)
  assert jaxsparse.observed(history[-1][1]) == {}
  assert history[-1][1].count == 2
  np.testing.assert_allclose(
      history[0][2]['b']['bias'], -.3 * _grads(0)['b']['bias'], rtol=1e-6)
  assert jaxsparse.training.rehearse(
      jaxsparse.prune({'.*': None}), _params(), steps=2) == {}


_PLACES = {
    'chain': lambda tx: optax.chain(optax.identity(), tx),
    'multi_steps': lambda tx: optax.MultiSteps(
        tx, 1).gradient_transformation(),
    'inject_hyperparams': lambda tx: optax.inject_hyperparams(
        lambda rate: tx)(rate=1.)}


@pytest.mark.parametrize('place', _PLACES)
def test_observations_are_found_wherever_they_are(place):
  tx = method_table._standard(_PLACES[place](
      _observe(jaxsparse.prune(_NM), jaxsparse.ste())))
  params, state, _ = _run(tx, 3)[-1]
  for path, seen in jaxsparse.observed(state).items():
    expected = jaxsparse.observed(_ste()[3][1])[path]
    for one, other in zip(seen, expected):
      np.testing.assert_allclose(one, other, rtol=1e-6)
  assert transform.state_of(state).rule.count == 3
  sparse = jaxsparse.sparse_params(params, state)
  np.testing.assert_array_equal(
      sparse['a']['kernel'] != 0, jaxsparse.get_masks(state)['a']['kernel'])


@pytest.mark.parametrize('labels', [
    {'a': 's', 'b': 'd'},
    {'a': {'kernel': 's'}, 'b': {'kernel': 'd', 'bias': 'd'}}],
                         ids=['branches', 'leaves'])
def test_of_a_part_the_layers_are_observed_that_are_sparse(labels):
  rule = jaxsparse.prune({'a/kernel': jaxsparse.nm(2, 4)})
  part = method_table.wrap(optax.sgd(.3), rule, jaxsparse.ste())
  tx = method_table._standard(jaxsparse.observe(optax.partition(
      {'s': part, 'd': optax.sgd(.1)}, labels), decay=_DECAY,
                                                second_decay=_SECOND_DECAY))
  _, state, _ = _run(tx, 3)[-1]
  chex.assert_trees_all_equal_structs(state, tx.init(_params()))
  seen = jaxsparse.observed(state)
  assert [*seen] == ['a/kernel']
  chex.assert_trees_all_close(
      seen['a/kernel'], jaxsparse.observed(_ste()[3][1])['a/kernel'], rtol=1e-6)


def test_a_step_with_gradients_that_are_not_finite_is_left_out():
  tx = jaxsparse.observe(optax.apply_if_finite(method_table.wrap(
      optax.sgd(.3), jaxsparse.prune(_NM), jaxsparse.ste()), 5),
                         decay=_DECAY, second_decay=_SECOND_DECAY)
  tx = method_table._standard(tx)
  params = _params()
  state, update = tx.init(params), jax.jit(tx.update)
  for step in (None, 0, None, 1, 2, None):
    grads = _grads(step or 0)
    if step is None:
      grads['a']['kernel'] = grads['a']['kernel'].at[0, 0].set(jnp.nan)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  expected = jaxsparse.observed(_ste()[3][1])
  for path, seen in jaxsparse.observed(state).items():
    assert seen.flips == 0  # Of the last step, at which nothing moved.
    chex.assert_trees_all_close(
        seen, expected[path]._replace(flips=seen.flips), rtol=1e-6)


def test_a_layer_beyond_32_bits_is_observed():
  params = {'layers': jax.ShapeDtypeStruct((80, 8192, 28672), jnp.bfloat16)}
  tx = _observe(jaxsparse.prune({'.*': jaxsparse.nm(2, 4)}), jaxsparse.ste())
  _, state = jax.eval_shape(
      lambda p: tx.update(p, tx.init(p), p), params)
  assert state.statistics.forward.shape == (1,)


def test_observations_are_read_at_once_or_traced():
  """Many layers must not cost a program each."""
  state = _ste()[3][1]
  seen = jaxsparse.observed(state)
  for form in (jax.jit(jaxsparse.observed)(state),
               jaxsparse.observed(jax.device_get(state))):
    jax.tree.map(np.testing.assert_array_equal, form, seen)
  assert all(isinstance(x, np.float32) for x in jax.tree.leaves(seen))


def test_accumulated_steps_are_one_observation():
  tx = method_table._standard(optax.MultiSteps(_observe(
      jaxsparse.prune(_NM), jaxsparse.ste()), 2))
  history = _run(tx, 4)
  assert [int(state.inner_opt_state.count) for _, state, _ in history] == [
      0, 0, 1, 1, 2]
  mean = (np.asarray(_grads(0)['a']['kernel'])
          + np.asarray(_grads(1)['a']['kernel'])) / 2
  np.testing.assert_allclose(
      jaxsparse.observed(history[2][1])['a/kernel'].gradient_kept,
      np.abs(mean)[_masks(_ste(), 'a')[0]].var(), rtol=1e-5)


def test_without_observe_there_is_a_taught_error():
  tx = method_table.wrap(optax.sgd(.1), jaxsparse.prune(_NM), jaxsparse.ste())
  with pytest.raises(ValueError, match=(
      r'(?s)found 0.*Write tx = jaxsparse\.observe\(jaxsparse\.sparsify')):
    jaxsparse.observed(tx.init(_params()))


def test_without_sparsify_there_is_nothing_to_observe():
  with pytest.raises(ValueError, match=r'(?s)one SparseState.*found 0'):
    jaxsparse.observe(optax.adam(.1)).init(_params())


@pytest.mark.parametrize('layer', ['a', 'b'])
def test_explored_grows_with_the_union_of_all_masks(layer):
  history = _ste()
  union = np.zeros_like(_masks(history, layer)[0])
  for t, (mask, (_, state, _)) in enumerate(
      zip(_masks(history, layer), history)):
    union |= mask
    if t:
      explored = jaxsparse.observed(state)[f'{layer}/kernel'].explored
      np.testing.assert_allclose(explored, union.mean(), rtol=1e-6)
  assert .5 < union.mean()


def test_masks_that_stand_still_explore_their_density():
  params = _params()
  tx = _observe(jaxsparse.prune_and_grow(
      {'.*kernel': jaxsparse.unstructured()}, sparsity=.75,
      grow=jaxsparse.gradient()), jaxsparse.hard())
  _, state = jax.jit(lambda grads, params: tx.update(
      grads, tx.init(params), params))(_grads(0), params)
  for seen in jaxsparse.observed(state).values():
    np.testing.assert_allclose([seen.explored, seen.gradient], .25)


def test_what_the_first_masks_keep_is_explored_before_the_first_update():
  state = _ste()[0][1]
  for seen in jaxsparse.observed(state).values():
    assert seen.explored == .5


def test_statistics_are_float32_with_float64_enabled():
  params = {'a': jnp.ones((4, 2), jnp.float32), 'b': jnp.ones(4, jnp.float32)}
  rule = jaxsparse.prune({'a': jaxsparse.nm(2, 4)})
  with jax.enable_x64(True):
    seen = jaxsparse.training.rehearse(rule, params, steps=2)
  assert {x.dtype for x in seen['a']} == {np.dtype(np.float32)}
  assert seen['a'].forward == .5
