"""CAST against numpy, and what its scales are for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from jaxsparse import training
from tests._lib import noisy

_T, _EVERY, _DECAY, _RATE = 100, 8, 6., .125


def _run(steps, rate=_RATE, **options):
  """Params and state before each step, and after the last."""
  tx = jaxsparse.sparsify(optax.sgd(rate), methods.cast(
      noisy.NM, _T, decay=_DECAY, every=_EVERY, **options))
  params = noisy.params()
  state, step = tx.init(params), noisy.train_step(tx)
  yield params, state
  for i in range(steps):
    params, state = step(params, state, i)
    yield params, state


def _norm(w):
  """Of each group, as often as it has weights."""
  return np.repeat(np.sqrt((w.reshape(4, 4, 4)**2).sum(1)), 4, axis=0)


def _seen(w, mask, first, gain, rescale):
  u = np.where(mask, w, gain * w)
  if not rescale:
    return u
  c = _norm(first) / _norm(first * noisy.two_of_four(first))
  return u * c * _norm(w * mask) / _norm(u)


@pytest.mark.parametrize('rescale', [True, False])
def test_a_hundred_steps_are_those_of_numpy(rescale):
  first = w = np.array(noisy.params()['kernel'], np.float64)
  bias, mask, flips = np.zeros(4), noisy.two_of_four(w), 0
  for t, (params, state) in enumerate(_run(_T + 5, rescale=rescale)):
    got = jaxsparse.get_masks(state)['kernel']
    np.testing.assert_array_equal(got, mask, err_msg=str(t))
    np.testing.assert_allclose(params['kernel'], w, atol=1e-4, err_msg=str(t))
    sparse = _seen(w, mask, first, 1. if t < _T else 0., rescale)
    np.testing.assert_allclose(
        jaxsparse.sparse_params(params, state)['kernel'], sparse, atol=2e-4)
    np.testing.assert_allclose(params['bias'], bias, atol=1e-4)
    grads = {k: np.array(g, np.float64) for k, g in noisy.grads(
        {'kernel': jnp.float32(sparse), 'bias': jnp.float32(bias)}, t).items()}
    if (t + 1) % _EVERY == 0 and t + 1 <= _T:
      flips += (mask != noisy.two_of_four(w)).sum()
      mask = noisy.two_of_four(w)
    pull = _DECAY * min(t / _T, 1.) * np.sign(w) * ~mask
    w = w - _RATE * (grads['kernel'] + pull)
    bias = bias - _RATE * grads['bias']
  assert flips > 10


def test_in_the_end_two_of_four_are_left_and_the_others_exactly_zero():
  fading = lambda step: _RATE * (1. - step / _T)
  *_, (params, state) = _run(_T, fading)
  sparse = np.array(jaxsparse.sparse_params(params, state)['kernel'])
  mask = np.array(jaxsparse.get_masks(state)['kernel'])
  np.testing.assert_array_equal(sparse != 0, mask)
  np.testing.assert_array_equal(mask.reshape(4, 4, 4).sum(1), 2)
  # They had come to zero before they were left out.
  assert np.abs(np.array(params['kernel'])[~mask]).max() < .1


def test_decay_of_pruned_weights_leaves_the_norms_of_groups_alone():
  params = noisy.params()
  state = jaxsparse.sparsify(
      optax.sgd(1.), methods.cast(noisy.NM, _T)).init(params)
  mask = np.array(jaxsparse.get_masks(state)['kernel'])
  for left in (1., .5, 0.):
    decayed = {**params, 'kernel': jnp.where(
        mask, params['kernel'], left * params['kernel'])}
    seen = np.array(jaxsparse.sparse_params(decayed, state)['kernel'])
    np.testing.assert_allclose(
        _norm(seen), _norm(np.array(params['kernel'])), rtol=1e-5)
  assert jaxsparse.sparse_params(params, state)['bias'] is params['bias']


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('kernel', [
    jnp.zeros((8, 2)), jnp.ones((0, 2)), jnp.ones((8, 2)).at[:4].set(0.)],
                         ids=['zeros', 'empty', 'a group of zeros'])
def test_groups_without_magnitude_have_the_scale_one(kernel, dtype):
  params = {'kernel': kernel.astype(dtype)}
  state = jaxsparse.sparsify(
      optax.sgd(1.), methods.cast(noisy.NM, _T)).init(params)
  sparse = jaxsparse.sparse_params(params, state)['kernel']
  assert sparse.dtype == dtype
  np.testing.assert_allclose(sparse.astype(jnp.float32), kernel, rtol=1e-6)
  assert state.forward.scales['kernel'].shape == (kernel.shape[0] // 4, 2)


@pytest.mark.parametrize('pattern', [
    jaxsparse.nm(2, 4, axis=-1), jaxsparse.nm(2, 4, axis=(-3, -2)),
    jaxsparse.nm(2, 4, transposable=True)])
def test_groups_are_those_of_the_pattern(pattern):
  params = {'kernel': jax.random.normal(jax.random.key(0), (4, 4, 8))}
  state = jaxsparse.sparsify(
      optax.sgd(1.), methods.cast({'.*': pattern}, _T)).init(params)
  seen = jaxsparse.sparse_params(params, state)['kernel']
  np.testing.assert_allclose(seen, params['kernel'], rtol=1e-5)
  tile = pattern.group_tile((4, 4, 8))
  assert state.forward.scales['kernel'].shape == tuple(
      n // t for n, t in zip((4, 4, 8), tile))


def test_hooks_show_the_weights_of_the_forward_pass():
  *_, (params, state) = _run(_T)
  hooks = training.Hooks(params, state)
  hooks.on_epoch_begin()
  hooks.on_step_begin()
  np.testing.assert_allclose(
      hooks.params['kernel'],
      jaxsparse.sparse_params(params, state)['kernel'], rtol=1e-6)


@pytest.mark.parametrize('options, message', [
    (dict(decay=0.), 'decay=0.0.*Write'),
    (dict(decay=-1.), 'decay must be.*Write'),
    (dict(decay='1'), 'decay must be.*Write'),
    (dict(every=0), 'every must be.*Write'),
    (dict(every=101), 'every=101.*Write'),
    (dict(total_steps=0), 'total_steps must be.*Write')])
def test_bad_input_is_a_taught_error(options, message):
  with pytest.raises(ValueError, match=message):
    methods.cast(**{'patterns': noisy.NM, 'total_steps': 100, **options})


def test_a_pattern_that_is_not_n_m_is_a_taught_error():
  with pytest.raises(ValueError, match='nm'):
    methods.cast({'.*': jaxsparse.unstructured()}, 100)


def test_a_group_that_does_not_tile_names_its_parameter():
  tx = jaxsparse.sparsify(optax.sgd(1.), methods.cast(noisy.NM, 100))
  with pytest.raises(ValueError, match='kernel'):
    tx.init({'kernel': jnp.ones((6, 2))})
