"""The three things a run computes: a new state, a train step, a measurement."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import ml_collections
import optax

from experiments import data
from experiments import models
import jaxsparse

PyTree = Any


class State(NamedTuple):
  """What training changes, and all that a checkpoint holds."""
  params: PyTree
  opt_state: PyTree  # The masks are in here.


class Steps(NamedTuple):
  """The functions of one run, compiled on first use."""
  init: Callable[[PyTree | None], State]
  train: Callable[[State, data.Split, jax.Array], tuple[State, jax.Array]]
  measure: Callable[[State, data.Split], dict[str, float]]


def create(config: ml_collections.ConfigDict, tx: optax.GradientTransformation
          ) -> Steps:
  """Returns the steps that train the config's model with `tx`."""
  model_key, data_key = jax.random.split(jax.random.key(config.seed))
  model = models.create(
      config.model, width=config.width, rngs=nnx.Rngs(model_key))
  graphdef, new_params, rest = nnx.split(model, nnx.Param, ...)

  def loss_and_logits(params, batch):
    logits = nnx.merge(graphdef, params, rest, copy=True)(batch.images)
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, batch.labels)
    return losses.mean(), logits

  def init(params=None):
    params = new_params if params is None else params
    opt_state = jax.jit(tx.init)(params)  # Op by op it takes seconds.
    if jaxsparse.sparse_params(params, opt_state) is params:
      # The params are the sparse point themselves (the `hard` flow), so masks
      # that hold from the first step on have to be applied to them.
      params = jaxsparse.apply_masks(params, jaxsparse.get_masks(opt_state))
    return State(params, opt_state)

  @jax.jit
  def train(state, split, step):
    batch = data.batch(split, data_key, step, size=config.batch_size)
    sparse = jaxsparse.sparse_params(*state)
    (loss, _), grads = jax.value_and_grad(
        loss_and_logits, has_aux=True)(sparse, batch)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), opt_state), loss

  @jax.jit
  def count(state, split):
    _, logits = loss_and_logits(jaxsparse.sparse_params(*state), split)
    masks = jax.tree.leaves(jaxsparse.get_masks(state.opt_state))
    return (jnp.sum(logits.argmax(-1) == split.labels),
            sum(jnp.sum(mask) for mask in masks))

  def measure(state, split):
    correct, kept = jax.device_get(count(state, split))
    masks = jax.tree.leaves(jaxsparse.get_masks(state.opt_state))
    prunable = sum(mask.size for mask in masks)
    return {'accuracy': int(correct) / len(split.labels),
            'sparsity': 1 - int(kept) / prunable if prunable else 0.}

  return Steps(init, train, measure)
