"""Masks that are learned: the formulas in numpy, and a mask that is found."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods

_KEY = jax.random.key(0)


def _params():
  return {'b': jnp.ones(3), 'w': jax.random.normal(_KEY, (8, 3))}


def _learned(pattern=None, **options):
  return methods.learned_masks(
      {'w': pattern or jaxsparse.nm(2, 4), '.*': None}, 10, **options)


def test_the_forward_pass_is_that_of_the_paper():
  params, learned = _params(), _learned()
  logits = learned.init(_KEY, params)
  assert logits['b'] is None and logits['w'].shape == (2, 3, 6)
  rows = np.array([[i in kept for i in range(4)]
                   for kept in itertools.combinations(range(4), 2)], float)
  for step in (0, 5, 10, 99):
    done = min(step / 10, 1)
    k, t = 100 + 400 * done, 4 - 3.95 * done
    gumbel = jax.random.gumbel(
        jax.random.fold_in(_KEY, 0), (2, 3, 6), jnp.float32)
    z = (k * np.asarray(logits['w'], np.float64) + np.asarray(gumbel)) / t
    e = np.exp(z - z.max(-1, keepdims=True))
    soft = (e / e.sum(-1, keepdims=True)) @ rows  # [2, 3, 4]
    soft = soft.transpose(0, 2, 1).reshape(8, 3)
    sparse = learned.sparse_params(params, logits, step, _KEY)
    np.testing.assert_allclose(
        sparse['w'], np.asarray(params['w']) * soft, rtol=2e-4, atol=1e-5)
    assert sparse['b'] is params['b']
    np.testing.assert_allclose(
        learned.penalty(params, logits, step, _KEY),
        -1e-5 * (1 - done) * np.square(np.asarray(sparse['w'])).sum(),
        rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize('pattern', [
    jaxsparse.nm(2, 4), jaxsparse.nm(1, 8), jaxsparse.nm(4, 8),
    jaxsparse.nm(2, 4, axis=-1), jaxsparse.nm(2, 4, axis=(-3, -2))])
def test_masks_are_of_the_pattern_and_near_the_prior(pattern):
  params = {'b': jnp.ones(3), 'w': jax.random.normal(_KEY, (2, 8, 8))}
  near = {'b': None, 'w': jaxsparse.select(jnp.abs(params['w']), pattern)}
  learned = _learned(pattern)
  for masks, prior in ((None, None), (near, near)):
    found = learned.masks(params, learned.init(_KEY, params, masks))
    assert found['b'] is None and found['w'].dtype == bool
    again = jaxsparse.select(found['w'].astype(jnp.float32), pattern)
    np.testing.assert_array_equal(found['w'], again)  # It is N:M.
    if prior:
      same = np.mean(np.asarray(found['w']) == np.asarray(near['w']))
      assert same > 0.85, same


def test_a_prior_may_be_the_masks_of_an_nnx_optimizer():
  from flax import nnx
  model = nnx.Linear(8, 3, rngs=nnx.Rngs(0))
  patterns = {'kernel': jaxsparse.nm(2, 4), '.*': None}
  optimizer = nnx.Optimizer(model, jaxsparse.sparsify(
      optax.sgd(.1), jaxsparse.prune(patterns)), wrt=nnx.Param)
  params = nnx.state(model, nnx.Param)
  masks = jaxsparse.get_masks(optimizer.opt_state)
  learned = methods.learned_masks(patterns, 10)
  plain = {'bias': params['bias'][...], 'kernel': params['kernel'][...]}
  want = learned.init(
      _KEY, plain, {'bias': None, 'kernel': masks['kernel'][...]})
  np.testing.assert_array_equal(
      learned.init(_KEY, params, masks)['kernel'][...], want['kernel'])


def test_a_better_mask_than_the_prior_is_learned():
  """One input of each pair is always zero, and its weight is the larger."""
  w = jnp.tile(jnp.array([[3.], [1.], [3.], [1.]]), (4, 2))
  x = jax.random.normal(jax.random.key(1), (64, 16)) * jnp.tile(
      jnp.array([0., 1.]), 8)[None]
  params = {'w': w}
  learned = methods.learned_masks({'w': jaxsparse.nm(2, 4)}, 60)
  by_magnitude = {'w': jaxsparse.select(w, jaxsparse.nm(2, 4))}
  logits = learned.init(_KEY, params, by_magnitude)
  assert (learned.masks(params, logits)['w'] == by_magnitude['w']).all()
  tx = optax.sgd(1e-2)

  @jax.jit
  def step(logits, state, count, key):
    def loss(logits):
      sparse = learned.sparse_params(params, logits, count, key)
      return jnp.mean(jnp.square(x @ sparse['w'] - x @ w)) + (
          learned.penalty(params, logits, count, key))
    updates, state = tx.update(jax.grad(loss)(logits), state)
    return optax.apply_updates(logits, updates), state

  state = tx.init(logits)
  for i in range(60):
    logits, state = step(logits, state, i, jax.random.key(i))
  found = learned.masks(params, logits)['w']
  np.testing.assert_array_equal(
      found, np.tile([[False], [True], [False], [True]], (4, 2)))


@pytest.mark.parametrize('make, part', [
    (lambda: _learned(jaxsparse.nm(2, 16)), '\'w\'.*120'),
    (lambda: _learned(jaxsparse.nm(4, 4)), '0 < N < M'),
    (lambda: _learned(jaxsparse.nm(2, 4, transposable=True)), 'transposable'),
    (lambda: _learned(jaxsparse.unstructured(0.5)), 'N:M'),
    (lambda: _learned(temperature=(4., 0.)),
     'temperature must be two numbers above 0'),
    (lambda: methods.learned_masks({'w': jaxsparse.nm(2, 4)}, 0),
     'total_steps must be a whole number of 1'),
    (lambda: _learned().init(_KEY, {'w': jnp.ones((6, 2)), 'b': jnp.ones(1)}),
     'multiple of 4')])
def test_mistakes_are_told(make, part):
  with pytest.raises(ValueError, match=part):
    make()
