"""Learned masks in a train step for weights: the same logits, and exact N:M."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import train
from experiments.records import checkpoints
from experiments.training import mask_logits
from experiments.training import steps
import jaxsparse
from jaxsparse import methods
from tests._lib import commands

_STEPS = 6
_NM = {'w': jaxsparse.nm(2, 4), '.*': None}
_PRIOR = jaxsparse.prune(_NM)


def _learned():
  return methods.learned_masks(_NM, _STEPS)


def _problem():
  """Weights, one of them dense, and a loss that is not linear in them."""
  keys = jax.random.split(jax.random.key(3), 3)
  params = {'w': jax.random.normal(keys[0], (8, 4)), 'bias': jnp.ones(4)}
  x, y = jax.random.normal(keys[1], (5, 8)), jax.random.normal(keys[2], (5, 4))

  def loss_fn(params):
    return jnp.mean((jnp.tanh(x @ params['w'] + params['bias'][None]) - y)**2)
  return params, loss_fn


def _train(tx, params, loss_fn, steps_):
  @jax.jit
  def step(params, state):
    grads = jax.grad(loss_fn)(jaxsparse.sparse_params(params, state))
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  state = tx.init(params)
  for _ in range(steps_):
    params, state = step(params, state)
  return params, state


def test_logits_are_those_of_gradient_descent_on_the_loss_of_the_paper():
  params, loss_fn = _problem()
  learned, optimizer = _learned(), optax.sgd(1e-3, momentum=0.9)
  _, state = _train(mask_logits.learn(
      learned, optimizer, _PRIOR, steps=_STEPS, seed=5), params, loss_fn, 4)

  key = jax.random.key(5)
  logits = first = learned.init(key, params, _PRIOR.init(params).masks)
  inner = optimizer.init(logits)
  for step in range(4):
    noise = jax.random.fold_in(key, step)

    def loss(logits, step=step, noise=noise):
      sparse = learned.sparse_params(params, logits, step, noise)
      return loss_fn(sparse) + learned.penalty(params, logits, step, noise)
    updates, inner = optimizer.update(jax.grad(loss)(logits), inner, logits)
    logits = optax.apply_updates(logits, updates)
  np.testing.assert_allclose(
      state.rule.logits['w'], logits['w'], rtol=1e-4, atol=1e-6)
  assert np.abs(logits['w'] - first['w']).max() > 1e-3


def test_weights_stay_and_in_the_end_two_of_four_are_used():
  params, loss_fn = _problem()
  tx = mask_logits.learn(
      _learned(), optax.sgd(1e-2), _PRIOR, steps=_STEPS, seed=0)
  for count in (1, _STEPS, _STEPS + 2):
    after, state = _train(tx, params, loss_fn, count)
    jax.tree.map(np.testing.assert_array_equal, after, params)
  sparse = jaxsparse.sparse_params(after, state)
  used = np.asarray(sparse['w'] != 0)
  np.testing.assert_array_equal(used.reshape(2, 4, 4).sum(1), 2)
  np.testing.assert_array_equal(used, jaxsparse.get_masks(state)['w'])
  np.testing.assert_array_equal(sparse['w'], np.where(used, params['w'], 0))
  np.testing.assert_array_equal(sparse['bias'], params['bias'])


def test_kept_weights_are_tuned_under_the_masks_once_they_are_learned():
  params, loss_fn = _problem()
  tx = mask_logits.learn(_learned(), optax.sgd(1e-2), _PRIOR, steps=_STEPS,
                         seed=0, tune=optax.sgd(0.1, momentum=0.9))
  start, learned = _train(tx, params, loss_fn, _STEPS)
  after, state = _train(tx, params, loss_fn, _STEPS + 3)
  masks = jaxsparse.get_masks(state)['w']
  np.testing.assert_array_equal(state.rule.logits['w'],
                                learned.rule.logits['w'])
  changed = np.asarray(after['w'] != start['w'])
  assert not changed[~masks].any() and changed[masks].all()

  def fine_tuned(steps_):  # The same by hand.
    tx = optax.sgd(0.1, momentum=0.9)
    params, inner = start, tx.init(start)
    for _ in range(steps_):
      grads = jax.grad(lambda p: loss_fn(
          {**p, 'w': jnp.where(masks, p['w'], 0.)}))(params)
      updates, inner = tx.update(grads, inner)
      params = optax.apply_updates(params, updates)
    return params
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
               after, fine_tuned(3))


@pytest.mark.slow
@pytest.mark.usefixtures('launched')
@pytest.mark.parametrize('method', ['learned_masks', 'learned_masks_retrain'])
def test_killed_run_that_learns_masks_ends_bit_identical(
    method, tmp_path, monkeypatch):
  config = commands.config('digits/sr_ste_2_4', method=method, steps=6,
                           log_every=2, save_every=2, batch_size=16)
  whole = train.train(config, str(tmp_path / 'whole'))
  commands.train_until_killed(monkeypatch, config, tmp_path / 'killed', at=4)
  again = train.train(config, str(tmp_path / 'killed'))
  assert checkpoints.digest(again.state) == checkpoints.digest(whole.state)
  assert again.rows == whole.rows
  learning = 6 if method == 'learned_masks' else 3
  assert [row['sparsity'] for row in whole.rows] == [
      0.5 * (row['step'] >= learning) for row in whole.rows]
  kernel = np.asarray(
      steps.sparse(whole.state).params['layers'][0]['kernel'][...])
  groups = (kernel != 0).reshape(-1, 4, kernel.shape[-1])
  np.testing.assert_array_equal(groups.sum(1), 2)
