"""A short real training by each N:M method, shared by tests of all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse
from jaxsparse import methods
from tests._lib import method_table
from tests._lib.compiled import once

STEPS = 30
DENSE, TUNE = 3, 9  # What the defaults make of 30 steps.
KERNEL = 'hidden/kernel'
TARGET = {KERNEL: jaxsparse.nm(1, 8)}
# name -> (method, its options)
METHODS = {
    'ste': (methods.ste, {}),
    'sr_ste': (methods.sr_ste, {}),
    'sr_ste decoupled': (methods.sr_ste, dict(decay=1e-4, decoupled=True)),
    'mdgf_linear': (methods.mdgf_linear, {}),
    'mdgf_linear gated': (
        methods.mdgf_linear, dict(straight_through=False)),
    'mdgf_exponential': (methods.mdgf_exponential, {}),
    'sdgf_stepwise': (methods.sdgf_stepwise, {}),
    'sdgf_geometric': (methods.sdgf_geometric, {}),
    'top_kast': (methods.top_kast, dict(every=5)),
    's_ste': (methods.s_ste, {}),
    'train_prune_retrain': (methods.train_prune_retrain, {}),
    'step': (methods.step, dict(switch=8)),
}


def make_params():
  keys = jax.random.split(jax.random.key(0), 2)
  return {'hidden': {'kernel': jax.random.normal(keys[0], (128, 16)) / 8,
                     'bias': jnp.zeros(16)},
          'head': {'kernel': jax.random.normal(keys[1], (16, 4)) / 4}}


def loss_fn(params, x, y):
  h = jax.nn.relu(x @ params['hidden']['kernel']
                  + params['hidden']['bias'][None])
  return jnp.mean(jnp.square(h @ params['head']['kernel'] - y))


@functools.cache
def trained(name):
  """The loss of every step, and params and state after every update."""
  make, options = METHODS[name]
  tx = method_table.wrap(optax.adam(1e-2), make(TARGET, STEPS, **options))
  keys = jax.random.split(jax.random.key(1), 2)
  x = jax.random.normal(keys[0], (64, 128))
  y = x @ jax.random.normal(keys[1], (128, 4)) / 8

  @once
  def step(params, state):
    sparse = jaxsparse.sparse_params(params, state)
    loss, grads = jax.value_and_grad(loss_fn)(sparse, x, y)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  params, losses = make_params(), []
  state = jax.jit(tx.init)(params)
  history = [(params, state)]
  for _ in range(STEPS):
    params, state, loss = step(params, state)
    history.append((params, state))
    losses.append(float(loss))
  return losses, history


def mask_of(state):
  return np.asarray(jaxsparse.get_masks(state)['hidden']['kernel'])


def kept_of(mask, m):
  """How many each group of m rows keeps."""
  return mask.reshape(-1, m, mask.shape[-1]).sum(1)


def masks_by_step(rule, params):
  """The masks of `params` at a step, from the first state."""
  state = jax.jit(rule.init)(params)

  @jax.jit
  def update(count):
    return rule.update(params, state._replace(count=count - 1), params)[0]
  return lambda step: np.asarray(
      (update(jnp.int32(step)) if step else state.masks)['kernel'])
