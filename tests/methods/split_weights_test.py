"""ELSA against numpy, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from tests._lib import exchanges
from tests._lib import method_table

pytestmark = pytest.mark.slow

_T, _EVERY, _PENALTY, _RATE = 100, 8, .5, exchanges.RATE


def _run(tx, steps=_T):
  return exchanges.run(jaxsparse.observe(method_table.wrap(*tx)), steps)


@pytest.mark.parametrize('fisher', [None, .5])
def test_a_hundred_steps_are_those_of_numpy(fisher):
  history = _run((optax.sgd(_RATE), methods.elsa(
      exchanges.FREE, .75, _T, penalty=_PENALTY, every=_EVERY,
      fisher=fisher)))
  x = {p: w.astype(np.float64) for p, w in history[0].weights.items()}
  z, u = dict(x), {p: np.zeros_like(w) for p, w in x.items()}
  v, masks = {p: np.zeros_like(w) for p, w in x.items()}, history[0].masks
  for t in range(1, _T + 1):
    grads = history[t - 1].grads
    v = {p: .5 * v[p] + .5 * grads[p].astype(np.float64)**2 for p in v}
    if t % _EVERY == 0 or t == _T:
      near = {p: x[p] + u[p] for p in x}
      masks = exchanges.together(
          lambda y, w: exchanges.top(
              np.abs(y) * (1. if fisher is None else np.sqrt(w)),
              np.ones(232, bool), 58), near, v)
      z = {p: near[p] * masks[p] for p in x}
      u = {p: near[p] - z[p] for p in x}
    x = {p: x[p] - _RATE * (grads[p] + _PENALTY * (x[p] - z[p] + u[p]))
         for p in x}
    for p, mask in masks.items():
      np.testing.assert_array_equal(
          history[t].masks[p], mask, err_msg=str(t))
      np.testing.assert_allclose(
          history[t].weights[p], x[p], atol=1e-4, err_msg=str(t))


def test_the_forward_pass_is_dense_until_the_end_and_sparse_then():
  history = _run((optax.sgd(_RATE), methods.elsa(
      exchanges.FREE, .75, 12, every=5)), 12)
  for t, step in enumerate(history):
    seen = exchanges.flat(jaxsparse.sparse_params(step.params, step.state))
    for path, w in step.weights.items():
      np.testing.assert_array_equal(
          seen[path], w * step.masks[path] if t == 12 else w)


def _regression(seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  mix = jax.random.normal(keys[0], (64, 64)) / 8. + jnp.eye(64)
  x = jax.random.normal(keys[1], (512, 64)) @ mix
  return x, x @ jax.random.normal(keys[2], (64, 4))


def _loss(params, x, y):
  return jnp.mean(jnp.square(x @ params['kernel'] - y))


def test_it_finds_better_places_than_magnitude_does():
  """Of a regression: both retrain what they keep, by least squares."""
  x, y = _regression()
  params = {'kernel': jnp.linalg.lstsq(x, y)[0]}
  tx = method_table.wrap(optax.adam(1e-2), methods.elsa(
      exchanges.FREE, .75, 800, penalty=1., every=20))
  state = tx.init(params)
  first = jaxsparse.get_masks(state)['kernel']

  @jax.jit
  def step(params, state):
    grads = jax.grad(_loss)(params, x, y)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  for _ in range(800):
    params, state = step(params, state)
  sparse = jaxsparse.sparse_params(params, state)

  def best(mask):
    w = np.zeros(mask.shape)
    for j in range(mask.shape[1]):
      m = np.array(mask[:, j])
      w[m, j] = np.linalg.lstsq(np.array(x)[:, m], np.array(y)[:, j])[0]
    return float(_loss({'kernel': jnp.float32(w)}, x, y))
  last = jaxsparse.get_masks(state)['kernel']
  assert best(last) < .9 * best(first)
  assert float(_loss(sparse, x, y)) < best(first)


def test_combine_gives_each_pull_to_its_own_parameters():
  free, rest = ({'a/kernel': jaxsparse.unstructured(), '.*': None},
                {'b/kernel': jaxsparse.nm(2, 4), '.*': None})
  method = methods.elsa(free, .5, 10, penalty=1., every=2)
  rule = jaxsparse.combine(method.rule, jaxsparse.prune(rest))
  tx = jaxsparse.sparsify(optax.sgd(1.), rule, method.flow)
  params = exchanges.make_params('ab')
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  assert np.asarray(updates['a']['kernel']).any()
  assert not np.asarray(updates['b']['kernel']).any()


def test_a_gradient_that_is_not_finite_leaves_the_means_alone():
  rule = methods.elsa(
      {'.*': jaxsparse.unstructured()}, .5, 10, every=5, fisher=.5).rule
  w, means = jnp.arange(1., 5.), []
  state, update = rule.init(w), jax.jit(rule.update)
  for g in (2., jnp.inf, 4.):
    _, state = update(w.at[0].set(g), state, w)
    means.append(float(state.second[0]))
  assert means == [2., 2., 9.]


def test_an_eager_state_may_be_donated():
  tx = jaxsparse.sparsify(optax.sgd(.1), methods.elsa(
      {'.*': jaxsparse.unstructured()}, .5, 10, every=5, fisher=.9))
  w = jnp.arange(1., 5.)
  _, state = jax.jit(tx.update, donate_argnums=1)(w, tx.init(w), w)
  assert state.rule.count == 1


def test_penalties_may_be_traced():
  """As hyperparameters are under `optax.inject_hyperparams`."""
  def tx(penalty, fisher):
    return jaxsparse.sparsify(optax.sgd(.1), methods.elsa(
        {'.*': jaxsparse.unstructured()}, .5, 10, every=5, penalty=penalty,
        fisher=fisher))
  w = jnp.arange(1., 5.)
  _, want = tx(.3, .9).update(w, tx(.3, .9).init(w), w)
  injected = optax.inject_hyperparams(tx)(penalty=.3, fisher=.9)
  _, got = jax.jit(injected.update)(w, injected.init(w), w)
  np.testing.assert_allclose(
      got.inner_state.rule.second, want.rule.second, rtol=1e-6)


def test_narrow_weights_have_wide_accounts():
  params = {'kernel': jnp.ones((4, 2), jnp.bfloat16)}
  state = methods.elsa(exchanges.FREE, .5, 10, every=2).rule.init(params)
  assert state.dual['kernel'].dtype == state.copy['kernel'].dtype == (
      jnp.float32)


@pytest.mark.parametrize('options, message', [
    (dict(penalty=0.), 'penalty=0.0.*Write'),
    (dict(penalty=-1.), 'penalty must be a number.*Write'),
    (dict(every=0), 'every must be a whole.*Write'),
    (dict(every=11), 'every=11.*Write'),
    (dict(fisher=1.), 'fisher.*Write')])
def test_bad_input_is_a_taught_error(options, message):
  with pytest.raises(ValueError, match=message):
    methods.elsa(exchanges.FREE, .5, 10, **{'every': 2, **options})


def test_a_group_that_does_not_tile_names_its_parameter():
  method = methods.elsa({'.*': jaxsparse.nm(2, 4)}, jaxsparse.uniform(), 64)
  with pytest.raises(ValueError, match='kernel'):
    method.rule.init({'kernel': jnp.ones((6, 2))})


def test_its_flow_without_its_rule_is_a_taught_error():
  flow = methods.elsa(exchanges.FREE, .5, 64).flow
  tx = jaxsparse.sparsify(optax.sgd(1.), jaxsparse.prune(
      exchanges.FREE, sparsity=.5), flow)
  params = exchanges.make_params('a')
  with pytest.raises(ValueError, match='needs the rule.*Write'):
    tx.update(params, tx.init(params), params)
