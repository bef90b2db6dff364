"""Soft thresholds: what the forward pass sees, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import flows
from jaxsparse import methods
from jaxsparse import packed

pytestmark = pytest.mark.slow

_KEY = jax.random.key(0)


def _tx(pattern, **options):
  patterns = {'w': pattern, '.*': None}
  return jaxsparse.sparsify(
      optax.sgd(0.1), jaxsparse.prune(patterns),
      flows.soft_threshold(patterns, **options))


def _params(shape=(16, 6), dtype=jnp.float32):
  return {'b': jnp.ones(3, dtype), 'w': jax.random.normal(_KEY, shape, dtype)}


def _shrunk(w, n, m):
  """S(w) along axis 0, group by group."""
  w = np.asarray(w, np.float64)
  made = np.zeros_like(w)
  for start in range(0, len(w), m):
    for column in np.ndindex(w.shape[1:]):
      at = (slice(start, start + m), *column)
      threshold = np.sort(np.abs(w[at]))[::-1][n] if n < m else 0.
      made[at] = np.sign(w[at]) * np.maximum(np.abs(w[at]) - threshold, 0)
  return made


@pytest.mark.parametrize('n, m', [(2, 4), (1, 4), (1, 8), (4, 4), (0, 4)])
def test_kept_weights_shrink_by_the_largest_that_is_pruned(n, m):
  params = _params()
  state = _tx(jaxsparse.nm(n, m)).init(params)
  sparse = jaxsparse.sparse_params(params, state)
  made = _shrunk(params['w'], n, m)
  square = (made * made).sum()
  scale = (np.asarray(params['w']) * made).sum() / square if square else 1.
  np.testing.assert_allclose(sparse['w'], scale * made, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(state.forward.scales['w'], scale, rtol=1e-5)
  assert state.forward.scales['w'].shape == (m, 1)
  assert state.forward.scales['b'] is None
  assert sparse['b'] is params['b']
  plain = _tx(jaxsparse.nm(n, m), rescale=False).init(params)
  np.testing.assert_allclose(
      jaxsparse.sparse_params(params, plain)['w'], made, rtol=1e-5, atol=1e-6)


def test_the_forward_pass_is_continuous_where_a_mask_changes():
  tx = _tx(jaxsparse.nm(1, 2), rescale=False)
  seen = []
  for second in (0.999, 1.001):
    params = {'b': jnp.ones(3), 'w': jnp.array([[1.], [second]])}
    seen.append(jaxsparse.sparse_params(params, tx.init(params))['w'])
  assert float(jnp.abs(seen[0] - seen[1]).max()) < 0.0011


def test_equal_magnitudes_are_zero_all_together():
  params = {'b': jnp.ones(3), 'w': jnp.array([[1.], [-1.], [1.], [1.]])}
  sparse = jaxsparse.sparse_params(
      params, _tx(jaxsparse.nm(2, 4)).init(params))
  np.testing.assert_array_equal(sparse['w'], 0.)


@pytest.mark.parametrize('pattern', [
    jaxsparse.nm(2, 4, axis=-1), jaxsparse.nm(2, 4, axis=(-3, -2))])
def test_groups_are_those_of_the_pattern(pattern):
  params = _params((4, 2, 8))
  state = _tx(pattern, rescale=False).init(params)
  sparse = jaxsparse.sparse_params(params, state)['w']
  w, mask = np.asarray(params['w']), np.asarray(state.masks['w'])
  if pattern.group.sizes == ((-1, 4),):
    expected = _shrunk(w.transpose(2, 0, 1), 2, 4).transpose(1, 2, 0)
  else:
    expected = _shrunk(w.reshape(8, 8), 2, 4).reshape(w.shape)
  np.testing.assert_allclose(sparse, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(np.asarray(sparse) != 0, mask)


def test_hundred_steps_are_those_of_a_custom_vjp():
  """The reference is written as the released code is: a function in the model.
  """
  params, target = _params(), jax.random.normal(jax.random.key(1), (16, 6))
  made = _shrunk(params['w'], 2, 4)
  scale = jnp.float32((np.asarray(params['w']) * made).sum()
                      / (made * made).sum())

  @jax.custom_vjp
  def thresholded(w):
    groups = w.reshape(4, 4, 6)
    t = jnp.sort(jnp.abs(groups), 1)[:, 1:2]
    return scale * (jnp.sign(groups) * jnp.maximum(
        jnp.abs(groups) - t, 0.)).reshape(w.shape)
  thresholded.defvjp(lambda w: (thresholded(w), None), lambda _, g: (g,))

  def loss(w):
    return jnp.mean(jnp.square(w - target))
  reference = params['w']
  tx = _tx(jaxsparse.nm(2, 4))
  state = tx.init(params)

  @jax.jit
  def step(params, state, reference):
    sparse = jaxsparse.sparse_params(params, state)
    updates, state = tx.update(
        {'b': jnp.zeros(3), 'w': jax.grad(loss)(sparse['w'])}, state, params)
    reference -= 0.1 * jax.grad(lambda w: loss(thresholded(w)))(reference)
    return optax.apply_updates(params, updates), state, reference
  for _ in range(100):
    params, state, reference = step(params, state, reference)
  np.testing.assert_allclose(params['w'], reference, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
      jaxsparse.sparse_params(params, state)['w'], thresholded(reference),
      rtol=1e-4, atol=1e-5)


def test_the_weights_that_are_packed_are_those_of_the_forward_pass():
  params = _params((32, 8))
  state = _tx(jaxsparse.nm(2, 4)).init(params)
  sparse = jaxsparse.sparse_params(params, state)
  packed_params = packed.pack_params(
      sparse, {'w': jaxsparse.nm(2, 4), '.*': None})
  x = jax.random.normal(jax.random.key(2), (4, 32))
  np.testing.assert_allclose(
      packed.matmul(x, packed_params['w']), x @ sparse['w'], rtol=1e-5,
      atol=1e-5)


def test_hooks_put_the_weights_where_the_forward_pass_is():
  patterns = {'w': jaxsparse.nm(2, 4), '.*': None}
  tx = jaxsparse.sparsify(optax.sgd(0.1), methods.s_ste(patterns, 10))
  params = _params()
  state = tx.init(params)
  hooks = jaxsparse.Hooks(params, state)
  hooks.on_step_begin()
  np.testing.assert_allclose(
      hooks.params['w'], jaxsparse.sparse_params(params, state)['w'],
      rtol=1e-6)
  hooks.on_before_optimizer_step()
  np.testing.assert_array_equal(hooks.params['w'], params['w'])


@pytest.mark.parametrize('pattern, part', [
    (jaxsparse.nm(2, 4, transposable=True), 'without transposable'),
    (jaxsparse.unstructured(0.5), 'needs the N:M patterns of the rule')])
def test_groups_without_a_threshold_are_refused(pattern, part):
  with pytest.raises(ValueError, match=f'w: soft_threshold .*{part}'):
    _tx(pattern).init(_params((16, 8)))


def test_patterns_of_others_are_refused():
  tx = jaxsparse.sparsify(
      optax.sgd(0.1), jaxsparse.prune({'w': jaxsparse.nm(2, 4)}),
      flows.soft_threshold({'b': jaxsparse.nm(1, 3)}))
  with pytest.raises(ValueError, match='w: soft_threshold .*got None'):
    tx.init(_params())
