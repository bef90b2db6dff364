"""Top-KAST: what is used, what is trained, and what does not move."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import schedules
from tests._lib import method_table

_EVERY, _STEPS = 3, 8
_OPTIMIZERS = {
    'adamw': lambda: optax.adamw(.3, weight_decay=.1),
    'momentum': lambda: optax.sgd(.1, momentum=.9)}
_PATTERNS = {'nm': (jaxsparse.nm(1, 8), .75),
             'unstructured': (jaxsparse.unstructured(sparsity=.9), .7)}


def _params():
  return {'kernel': jax.random.normal(jax.random.key(0), (16, 8)),
          'bias': jnp.ones(8)}


def _rule(pattern='nm', **options):
  pattern, backward = _PATTERNS[pattern]
  return jaxsparse.rules.forward_backward(
      {'kernel': pattern}, backward=backward,
      when=schedules.every(_EVERY), **options)


@functools.cache
def _history(optimizer, pattern='nm'):
  """Params, state before each update, and the updates, on random gradients."""
  tx = method_table.wrap(_OPTIMIZERS[optimizer](), _rule(pattern),
                    jaxsparse.flows.top_kast(decay=1e-2))
  update = jax.jit(tx.update)
  params, history = _params(), []
  state = tx.init(params)
  for i in range(_STEPS):
    grads = jax.tree.map(
        lambda w, i=i: jax.random.normal(jax.random.key(i), w.shape), params)
    updates, new = update(grads, state, params)
    history.append((params, state, updates))
    params, state = optax.apply_updates(params, updates), new
  return [*history, (params, state, None)]


def _sets(state):
  return (np.asarray(state.rule.masks['kernel']),
          np.asarray(state.rule.backward['kernel']))


@pytest.mark.parametrize('optimizer, pattern', [
    ('adamw', 'nm'), ('momentum', 'nm'), ('adamw', 'unstructured')])
def test_nothing_outside_of_the_backward_set_moves(optimizer, pattern):
  history = _history(optimizer, pattern)
  for (*_, updates), (_, after, _) in zip(history, history[1:]):
    trained = _sets(after)[1]
    kernel = np.asarray(updates['kernel'])
    assert not kernel[~trained].any() and kernel[trained].all()
    assert np.asarray(updates['bias']).all()


@pytest.mark.parametrize('optimizer', _OPTIMIZERS)
def test_a_weight_that_leaves_stops_though_it_has_momentum(optimizer):
  history = _history(optimizer)
  stopped = False
  for (_, before, updates), (_, after, _) in zip(history, history[1:]):
    left = _sets(before)[1] & ~_sets(after)[1]
    memory = after.inner[0]
    speed = memory.mu if optimizer == 'adamw' else memory.trace
    stopped |= np.asarray(speed['kernel'])[left].any()
    assert not np.asarray(updates['kernel'])[left].any()
  assert stopped


@pytest.mark.parametrize('pattern', _PATTERNS)
def test_the_backward_set_contains_the_forward_set(pattern):
  for _, state, _ in _history('adamw', pattern):
    used, trained = _sets(state)
    assert trained[used].all() and used.sum() < trained.sum()
  tied = {'kernel': jnp.round(_params()['kernel']), 'bias': jnp.ones(8)}
  state = _rule(pattern).init(tied)
  assert np.asarray(state.backward['kernel'])[state.masks['kernel']].all()


def test_both_sets_are_of_their_density_in_every_group():
  for _, state, _ in _history('adamw'):
    used, trained = (s.reshape(2, 8, 8).sum(1) for s in _sets(state))
    assert (used == 1).all() and (trained == 2).all()


def test_sets_are_those_of_the_params_at_the_last_refresh():
  history = _history('adamw')
  changed = 0
  for step, (_, state, _) in enumerate(history):
    if step % _EVERY == 0:
      # They are made before the step.
      point = history[max(step - 1, 0)][0]
      scores = jnp.abs(point['kernel'])
      expected = [np.asarray(jaxsparse.select(scores, jaxsparse.nm(n, 8)))
                  for n in (1, 2)]
      if step:
        changed += (expected[1] != _sets(history[step - 1][1])[1]).sum()
    for one, other in zip(_sets(state), expected):
      np.testing.assert_array_equal(one, other)
  assert changed and history[-1][1].rule.count == _STEPS


def test_the_forward_pass_sees_the_forward_set_alone():
  for params, state, _ in _history('momentum'):
    sparse = jaxsparse.sparse_params(params, state)
    np.testing.assert_array_equal(
        sparse['kernel'],
        np.where(_sets(state)[0], np.asarray(params['kernel']), 0.))
    np.testing.assert_array_equal(sparse['bias'], params['bias'])


@pytest.mark.parametrize('p', [1, 2])
def test_the_penalty_is_stronger_where_trained_but_not_used(p):
  rng = np.random.default_rng(0)
  w, g = rng.normal(size=(2, 8, 8)).astype(np.float32)
  order = np.abs(w).ravel().argsort().argsort().reshape(w.shape)
  used, trained = order >= 56, order >= 40
  density = 8 / 64
  pull = .5 * (np.sign(w) if p == 1 else w)
  expected = g + np.where(used, pull, np.where(trained, pull / density, 0.))

  params = {'kernel': jnp.array(w), 'bias': jnp.ones(8)}
  grads = {'kernel': jnp.array(g), 'bias': jnp.ones(8)}
  tx = jaxsparse.flows.add_exploration_decay(.5, p)
  got, _ = tx.update(grads, tx.init(params), params,
                     masks={'kernel': jnp.array(used), 'bias': None},
                     backward={'kernel': jnp.array(trained), 'bias': None})
  np.testing.assert_allclose(got['kernel'], expected, rtol=1e-6)
  np.testing.assert_array_equal(got['bias'], grads['bias'])


@pytest.mark.parametrize('p', [1, 2])
def test_one_step_of_the_flow_is_gate_penalty_gate(p):
  tx = jaxsparse.sparsify(
      optax.sgd(1.), _rule(), jaxsparse.flows.top_kast(decay=.5, p=p))
  params = _params()
  state = tx.init(params)
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(grads, state, params)
  used, trained = _sets(state)
  w = np.asarray(params['kernel'])
  pull = .5 * (np.sign(w) if p == 1 else w)
  expected = np.where(trained, -1. - np.where(used, pull, pull * 8), 0.)
  np.testing.assert_allclose(updates['kernel'], expected, rtol=1e-6)
  np.testing.assert_array_equal(updates['bias'], -grads['bias'])


def test_bfloat16_stays_bfloat16():
  params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), _params())
  tx = jaxsparse.sparsify(optax.sgd(1.), _rule(), jaxsparse.flows.top_kast())
  state = tx.init(params)
  updates, _ = tx.update(params, state, params)
  assert updates['kernel'].dtype == jnp.bfloat16
  assert not np.asarray(updates['kernel'])[~_sets(state)[1]].any()


def test_without_its_rule_the_flow_says_what_to_write():
  params = _params()
  rule = jaxsparse.prune({'kernel': jaxsparse.nm(1, 8)})
  tx = jaxsparse.sparsify(optax.sgd(1.), rule, jaxsparse.flows.top_kast())
  with pytest.raises(ValueError, match=r'(?s)Write.*forward_backward\('):
    tx.update(params, tx.init(params), params)


def test_missing_sets_are_a_taught_error():
  params = _params()
  tx = jaxsparse.flows.add_exploration_decay()
  masks = _rule().init(params).masks
  with pytest.raises(ValueError, match='masks=a, backward=b'):
    tx.update(params, tx.init(params), params, masks=masks)


@pytest.mark.parametrize('pattern, backward', [
    (jaxsparse.nm(1, 8), .9), (jaxsparse.nm(1, 8), -.1),
    (jaxsparse.unstructured(), .5)], ids=str)
def test_a_backward_set_that_is_not_larger_is_an_error(pattern, backward):
  with pytest.raises(ValueError, match=(
      r"(?s)'\.\*'.*0 <= backward <= sparsity.*Write e\.g\.")):
    jaxsparse.rules.forward_backward({'.*': pattern}, backward=backward)


@pytest.mark.parametrize('p', [0, 3])
def test_another_norm_is_an_error(p):
  for make in (jaxsparse.flows.top_kast, jaxsparse.flows.add_exploration_decay):
    with pytest.raises(ValueError, match=f'p=1 or p=2, got p={p}'):
      make(p=p)
