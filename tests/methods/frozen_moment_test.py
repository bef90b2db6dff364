"""STEP: a second moment that freezes, and masks from then on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from tests._lib import method_table
from tests._lib import noisy

_T, _SWITCH, _RATE = 100, 30, .05


def _reference():
  """Weights, masks and second moments, of a switch that is told."""
  w = {k: np.array(x, np.float64) for k, x in noisy.params().items()}
  m, v = ({k: np.zeros_like(x) for k, x in w.items()} for _ in range(2))
  for t in range(1, _T + 1):
    mask = np.ones((16, 4), bool)
    if t > _SWITCH:
      mask = noisy.two_of_four(w['kernel'])
    sparse = {'kernel': w['kernel'] * mask, 'bias': w['bias']}
    grads = noisy.grads({k: jnp.float32(x) for k, x in sparse.items()}, t)
    for k, g in grads.items():
      g = np.array(g, np.float64)
      m[k] = .9 * m[k] + .1 * g
      if t <= _SWITCH:
        v[k] = .999 * v[k] + .001 * g * g
      root = v[k] / (1 - .999**min(t, _SWITCH))
      root = np.sqrt(root) + 1e-8 if t <= _SWITCH else np.sqrt(root + 1e-8)
      w[k] = w[k] - _RATE * m[k] / (1 - .9**t) / root
    yield w, mask, v


def test_a_hundred_steps_are_those_of_numpy():
  tx = jaxsparse.sparsify(
      optax.chain(methods.scale_by_frozen_adam(freeze_at=_SWITCH),
                  optax.scale(-_RATE)),
      methods.step(noisy.NM, _T, switch=_SWITCH))
  params = noisy.params()
  state, train_step = tx.init(params), noisy.train_step(tx)
  for t, (w, mask, v) in enumerate(_reference(), start=1):
    np.testing.assert_array_equal(
        jaxsparse.get_masks(state)['kernel'], mask, err_msg=str(t))
    params, state = train_step(params, state, t)
    for k, x in params.items():
      np.testing.assert_allclose(x, w[k], atol=2e-4, err_msg=str(t))
      np.testing.assert_allclose(state.inner[0].nu[k], v[k], rtol=1e-4)


def _found(eps, first, last):
  """Second moments of the kernel, masks, and the step of AutoSwitch."""
  w = {k: np.array(x, np.float64) for k, x in noisy.params().items()}
  m, v = ({k: np.zeros_like(x) for k, x in w.items()} for _ in range(2))
  changes, switch = [], None
  for t in range(1, _T + 1):
    mask = np.ones((16, 4), bool) if switch is None else noisy.two_of_four(
        w['kernel'])
    yield v['kernel'], mask, switch
    grads = noisy.grads({'kernel': jnp.float32(w['kernel'] * mask),
                    'bias': jnp.float32(w['bias'])}, t)
    grads = {k: np.array(g, np.float64) for k, g in grads.items()}
    before, frozen = v, switch is not None
    if not frozen:
      v = {k: .9 * v[k] + .1 * g * g for k, g in grads.items()}
      changes.append(np.abs(v['kernel'] - before['kernel']).mean())
      if t >= last or t >= first and np.mean(changes[-10:]) < eps:
        switch = t
    for k, g in grads.items():
      m[k] = .9 * m[k] + .1 * g
      root = v[k] / (1 - .9**(t if not frozen else switch))
      root = np.sqrt(root + eps) if frozen else np.sqrt(root) + eps
      w[k] = w[k] - _RATE * m[k] / (1 - .9**t) / root


@pytest.mark.parametrize('eps, first, last, least, most', [
    (.18, 8, 80, 9, 79), (.18, 20, 80, 20, 20), (1e-8, 8, 40, 40, 40)],
                         ids=['between', 'at first', 'at last'])
def test_the_switch_that_is_found_is_that_of_numpy_for_both(
    eps, first, last, least, most):
  tx = jaxsparse.sparsify(
      optax.chain(methods.scale_by_frozen_adam(
          b2=.9, eps=eps, freeze_at=(first, last), patterns=noisy.NM),
                  optax.scale(-_RATE)),
      methods.step(noisy.NM, _T, switch='auto'))
  params = noisy.params()
  state, train_step = tx.init(params), noisy.train_step(tx)
  for t, (v, mask, switch) in enumerate(_found(eps, first, last), start=1):
    adam = state.inner[0]
    assert int(adam.frozen_at) == (2**31 - 1 if switch is None else switch)
    np.testing.assert_allclose(adam.nu['kernel'], v, rtol=1e-3, err_msg=str(t))
    np.testing.assert_array_equal(
        jaxsparse.get_masks(state)['kernel'], mask, err_msg=str(t))
    params, state = train_step(params, state, t)
  assert least <= switch <= most


def test_of_complex_gradients_magnitudes_are_squared():
  w, g = {'w': jnp.zeros(2, jnp.complex64)}, {'w': jnp.array([1j, 3. + 4j])}
  adam = method_table._standard(optax.scale_by_adam())
  for tx in (methods.scale_by_frozen_adam(freeze_at=10),
             methods.scale_by_frozen_adam(freeze_at=(8, 10))):
    state, other = tx.init(w), adam.init(w)
    for _ in range(2):
      got, state = tx.update(g, state)
      expected, other = adam.update(g, other)
      np.testing.assert_allclose(got['w'], expected['w'], rtol=1e-5)


def test_hyperparameters_may_be_injected():
  params = noisy.params()
  grads = noisy.grads(params, 0)
  tx = method_table._standard(optax.inject_hyperparams(
      methods.scale_by_frozen_adam, static_args=('freeze_at', 'patterns'))(
          b1=.9, freeze_at=5))
  plain = methods.scale_by_frozen_adam(b1=.9, freeze_at=5)
  got, _ = jax.jit(tx.update)(grads, tx.init(params), params)
  expected, _ = plain.update(grads, plain.init(params))
  for k in params:
    np.testing.assert_allclose(got[k], expected[k], rtol=1e-5)
  tx = method_table._standard(optax.inject_hyperparams(
      methods.scale_by_frozen_adam, static_args=('freeze_at', 'patterns'))(
          freeze_at=(5, 9)))
  with pytest.raises(ValueError, match="static_args=.'b2'"):
    jax.jit(tx.update)(grads, tx.init(params), params)


def test_the_distance_of_more_weights_than_an_int32_holds_is_traced():
  params = {'kernel': jax.ShapeDtypeStruct((80, 8192, 28672), jnp.bfloat16)}
  tx = methods.scale_by_frozen_adam(freeze_at=(1, 2))
  updates, _ = jax.eval_shape(lambda w: tx.update(w, tx.init(w)), params)
  assert updates['kernel'].shape == params['kernel'].shape


def test_masks_that_have_no_optimizer_to_follow_are_a_taught_error():
  for inner in (optax.sgd(1.), methods.scale_by_frozen_adam(freeze_at=2)):
    tx = jaxsparse.sparsify(inner, methods.step(noisy.NM, _T, switch='auto'))
    params = noisy.params()
    with pytest.raises(ValueError, match='follows an optimizer.*Write'):
      tx.update(params, tx.init(params), params)


def test_a_pattern_of_no_parameter_is_a_taught_error():
  tx = methods.scale_by_frozen_adam(
      freeze_at=(1, 2), patterns={'nothing': jaxsparse.nm(2, 4)})
  with pytest.raises(ValueError, match='nothing'):
    tx.init(noisy.params())


def test_until_it_freezes_it_is_adam():
  adam = method_table._standard(optax.scale_by_adam())
  tx, params = methods.scale_by_frozen_adam(freeze_at=10), noisy.params()
  state, other = tx.init(params), adam.init(params)
  for i in range(10):
    got, state = tx.update(noisy.grads(params, i), state, params)
    expected, other = adam.update(noisy.grads(params, i), other, params)
    for k in params:
      np.testing.assert_allclose(got[k], expected[k], rtol=2e-5)


def test_dtypes_are_those_of_the_params():
  params = {'w': jnp.ones(3, jnp.bfloat16)}
  tx = methods.scale_by_frozen_adam(freeze_at=1)
  updates, state = tx.update(params, tx.init(params), params)
  assert {x.dtype for x in (updates['w'], state.mu['w'], state.nu['w'])} == {
      jnp.dtype(jnp.bfloat16)}
  mapped = optax.tree_map_params(tx, lambda x: x + 1, state)
  assert int(mapped.count) == 1


@pytest.mark.parametrize('switch', [0, -1, 100, 200])
def test_a_switch_outside_of_training_is_a_taught_error(switch):
  with pytest.raises(ValueError, match=f'switch={switch}.*Write'):
    methods.step(noisy.NM, 100, switch=switch)


def test_a_pattern_that_is_not_n_m_is_a_taught_error():
  with pytest.raises(ValueError, match='nm'):
    methods.step({'.*': jaxsparse.unstructured()}, 100, switch=10)


def test_a_group_that_does_not_tile_names_its_parameter():
  rule = methods.step(noisy.NM, 100, switch=10).rule
  with pytest.raises(ValueError, match='kernel'):
    rule.init({'kernel': jnp.ones((6, 2))})


@pytest.mark.parametrize('options', [
    dict(freeze_at=0), dict(freeze_at=2.5), dict(freeze_at=(0, 2)),
    dict(freeze_at=(3, 2)), dict(freeze_at=()), dict(freeze_at=(1, 2, 3)),
    dict(freeze_at=(1., 2)), dict(freeze_at='auto'), dict(freeze_at=1, b2=1.),
    dict(freeze_at=1, b1=-.1), dict(freeze_at=1, eps=0.)])
def test_numbers_of_adam_out_of_range_are_taught_errors(options):
  with pytest.raises(ValueError, match='Write'):
    methods.scale_by_frozen_adam(**options)
