"""What a run computes: a new state, a train step, a measurement, logits."""

from collections.abc import Callable
from collections.abc import Iterable
import functools
import math
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experiments import data
from experiments import models
import jaxsparse
from jaxsparse import transform

PyTree = Any


class State(NamedTuple):
  """What training changes, and all that a checkpoint holds."""
  params: PyTree
  opt_state: PyTree  # The masks are in here.


class Steps(NamedTuple):
  """The functions of one run, compiled on first use."""
  init: Callable[[PyTree | None], State]
  train: Callable[[State, data.Batch], tuple[State, jax.Array]]  # Eats a state.
  measure: Callable[[State, Iterable[data.Batch]], dict[str, float]]
  apply: Callable[[PyTree, Any], jax.Array]  # Params and inputs to logits.


def create(config: ml_collections.ConfigDict, tx: optax.GradientTransformation,
           dataset: data.Dataset) -> Steps:
  """Returns the steps that train the config's model with `tx`.

  The seed is in the first state and nowhere else, so that compiled steps serve
  all seeds. A train step writes the new state over the old one.
  """
  model = models.create(config, dataset, rngs=nnx.Rngs(config.seed))
  graphdef, new_params, rest = nnx.split(model, nnx.Param, ...)

  def apply(params, inputs):
    return nnx.merge(graphdef, params, rest, copy=True)(inputs)

  def losses_and_logits(params, batch):
    logits = apply(params, batch.inputs)
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, batch.labels), logits

  @functools.cache
  def counted():
    """The FLOPs of one forward pass, by parameter; from shapes alone."""
    dtype = np.float32 if dataset.task == data.IMAGES else np.uint8
    return jaxsparse.flops(apply, new_params, jax.ShapeDtypeStruct(
        (config.batch_size, *dataset.shape), dtype))

  def init(params=None):
    params = new_params if params is None else params
    opt_state = jax.jit(tx.init)(params)  # Op by op it takes seconds.
    if jaxsparse.sparse_params(params, opt_state) is params:
      # The params are the sparse point themselves (the `hard` flow), so masks
      # that hold from the first step on have to be applied to them.
      params = jaxsparse.apply_masks(params, jaxsparse.get_masks(opt_state))
    # A train step writes over its state, not over what was given here.
    return jax.tree.map(jnp.copy, State(params, opt_state))

  @functools.partial(jax.jit, donate_argnums=0)
  def train(state, batch):
    loss, grads = jax.value_and_grad(
        lambda params: losses_and_logits(params, batch)[0].mean())(
            jaxsparse.sparse_params(*state))
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), opt_state), loss

  @jax.jit
  def judge(state, batch):
    losses, logits = losses_and_logits(jaxsparse.sparse_params(*state), batch)
    counted = batch.labels >= 0
    return (jnp.sum(losses, where=counted),
            jnp.sum(logits.argmax(-1) == batch.labels, where=counted),
            jnp.sum(counted))

  def measure(state, batches):
    judged = [jax.device_get(judge(state, batch)) for batch in batches]
    nats, correct, count = (sum(map(float, each)) for each in zip(*judged))
    values = {'accuracy': correct / count,
              'bits_per_byte': nats / count / math.log(2)}
    metric = ('bits_per_byte' if dataset.task == data.NEXT_BYTE else 'accuracy')
    return {metric: values[metric], 'sparsity': sparsity(state),
            **observed(state, counted)}

  return Steps(init, train, measure, apply)


def sparsity(state: State) -> float:
  """Returns the fraction of the prunable weights that gives nothing forward."""
  masks = jax.tree.leaves(jaxsparse.get_masks(state.opt_state))
  gain = transform.state_of(state.opt_state).gain
  if not masks or (gain is not None and gain > 0):  # They are fading out.
    return 0.
  kept = sum(map(int, jax.device_get(_count(masks))))
  return 1 - kept / sum(mask.size for mask in masks)


def observed(state: State, counted: Callable[[], jaxsparse.Flops]
             ) -> dict[str, float]:
  """Returns what the optimizer has seen, for each row of metrics.

  Mask flips are the running mean of the fraction of sparse weights that change
  sides in a step, noise is the running mean of Var(|g|), averaged over layers,
  `second_*` that of the second moments, and `train_flops` is all spent so far.
  """
  if not isinstance(state.opt_state, jaxsparse.ObservedState):
    return {}
  seen = jax.device_get(jaxsparse.observed(state.opt_state))
  step = int(state.opt_state.count)
  row = {'train_flops': step * counted().training(
      forward={path: float(s.forward) for path, s in seen.items()},
      gradient={path: float(s.gradient) for path, s in seen.items()})}
  if not seen:
    return row
  masks = jax.tree.leaves(jaxsparse.get_masks(state.opt_state))

  def mean(field):
    return float(np.mean([getattr(s, field) for s in seen.values()]))
  return row | {
      'flips': float(sum(s.mean_flips for s in seen.values())
                     / sum(mask.size for mask in masks)),
      'noise_kept': mean('gradient_kept'),
      'noise_pruned': mean('gradient_pruned'),
      'second_kept': mean('second_kept'),
      'second_pruned': mean('second_pruned')}


@jax.jit
def _count(masks):
  return [jnp.sum(mask) for mask in masks]
