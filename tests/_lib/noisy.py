"""A kernel and a bias that noisy gradients draw to one, and their 2:4 masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse

NM = {'kernel': jaxsparse.nm(2, 4)}


def params():
  return {'kernel': jax.random.normal(jax.random.key(0), (16, 4)),
          'bias': jnp.zeros(4)}


def grads(params, i):
  key = jax.random.fold_in(jax.random.key(1), i)
  return jax.tree.map(
      lambda w: w - 1. + jax.random.normal(key, w.shape), params)


def train_step(tx):
  """The compiled step of an optimizer, from params, state and step to both."""
  @jax.jit
  def step(params, state, i):
    found = grads(jaxsparse.sparse_params(params, state), i)
    updates, state = tx.update(found, state, params)
    return optax.apply_updates(params, updates), state
  return step


def two_of_four(w):
  """The mask of a kernel `[16, 4]`, by numpy."""
  groups = np.abs(w).reshape(4, 4, 4)
  ranks = np.argsort(np.argsort(-groups, axis=1, kind='stable'), axis=1)
  return (ranks < 2).reshape(16, 4)
