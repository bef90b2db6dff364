"""The computations of a run: a new state, a train step, metrics, logits."""

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
from experiments.records import metrics
from experiments.training import meshes
import jaxsparse
from jaxsparse import transform

PyTree = Any

_losses = optax.softmax_cross_entropy_with_integer_labels
_METRIC = {data.NEXT_BYTE: 'bits_per_byte', data.RECOMMENDATION: 'auc'}


class State(NamedTuple):
  """What training changes, and all that a checkpoint holds."""
  params: PyTree
  opt_state: PyTree  # The masks are in here.
  averages: PyTree  # What batch norms remember; empty for most models.


class Steps(NamedTuple):
  """The functions of one run, compiled on first use."""
  init: Callable[[PyTree | None], State]  # From variables, or from the seed.
  place: Callable[[State], State]  # Lays it out on the mesh, if there is one.
  train: Callable[[State, data.Batch], tuple[State, jax.Array]]  # Eats a state.
  measure: Callable[[State, Iterable[data.Batch]], dict[str, float]]
  # Variables and inputs to logits, as in an evaluation: see `variables`.
  apply: Callable[[PyTree, Any], jax.Array]
  # Variables to the FLOPs of `apply` on a batch; from their shapes alone.
  flops: Callable[[PyTree], jaxsparse.graph.Flops]


def variables(state: State) -> PyTree:
  """Returns params and running averages in one tree, as `Steps.apply` reads.

  Without running averages it is that of the params.
  """
  return nnx.merge_state(state.params, state.averages)


def sparse(state: State) -> State:
  """Returns the state with the params that the network computes with."""
  return state._replace(
      params=jaxsparse.sparse_params(state.params, state.opt_state))


@jax.jit
def _copied(tree: PyTree) -> PyTree:
  """A copy by one program, and not by one for each shape."""
  return jax.tree.map(jnp.copy, tree)


def create(config: ml_collections.ConfigDict, tx: optax.GradientTransformation,
           dataset: data.Dataset, mesh: jax.sharding.Mesh | None = None
           ) -> Steps:
  """Returns the steps that train the config's model with `tx`.

  The seed is in the first state and nowhere else, so that compiled steps serve
  all seeds. A train step writes the new state over the old one.

  Args:
    config: of the run.
    tx: its method, around its optimizer.
    dataset: what it trains on.
    mesh: where the state lies, and batches of `meshes.divide`; `None` is one
      device.
  """
  model = models.create(config, dataset, rngs=nnx.Rngs(config.seed))
  model.train()
  training, new_variables, rest = nnx.split(
      model, (nnx.Param, nnx.BatchStat), ...)
  model.eval()
  evaluation = nnx.graphdef(model)

  def forward(graphdef, variables, inputs):
    model = nnx.merge(graphdef, variables, rest, copy=True)
    return model(inputs), nnx.state(model, nnx.BatchStat)

  def apply(variables, inputs):
    return forward(evaluation, variables, inputs)[0]

  known = {}  # Channels may be cut out of a network: its shapes are the key.

  def flops(variables):
    shapes = tuple(x.shape for x in jax.tree.leaves(variables))
    if shapes not in known:
      known[shapes] = jaxsparse.flops(
          apply, variables, _inputs(config, dataset))
    return known[shapes]

  def init(variables=None):
    params, averages = nnx.split_state(
        new_variables if variables is None else variables, nnx.Param, ...)
    if mesh:
      params, averages = (meshes.put(tree, meshes.shardings(tree, mesh))
                          for tree in (params, averages))
      opt_state = jax.jit(
          tx.init, out_shardings=jaxsparse.state_shardings(tx, params))(params)
    else:
      # As one program it compiles faster, but anew for each seed; where
      # programs are kept, seeds share those of single operations.
      kept = jax.config.jax_compilation_cache_dir
      opt_state = (tx.init if kept else jax.jit(tx.init))(params)
    if jaxsparse.sparse_params(params, opt_state) is params:
      # The params are the sparse point themselves (the `hard` flow), so masks
      # that hold from the first step on have to be applied to them.
      params = jaxsparse.apply_masks(params, jaxsparse.get_masks(opt_state))
    # A train step writes over its state, not over what was given here.
    state = State(params, opt_state, averages)
    return jax.block_until_ready(
        jax.tree.map(jnp.copy, state)) if mesh else _copied(state)

  def shardings(state):
    params = jax.tree.map(
        lambda w, sharding: jax.ShapeDtypeStruct(
            w.shape, w.dtype, sharding=sharding),
        state.params, meshes.shardings(state.params, mesh))
    return State(meshes.shardings(params, mesh),
                 jaxsparse.state_shardings(tx, params),
                 meshes.shardings(state.averages, mesh))

  def place(state):
    return meshes.put(state, shardings(state)) if mesh else state

  @functools.partial(jax.jit, donate_argnums=0)
  def train(state, batch):
    def mean_loss(params):
      logits, averages = forward(
          training, variables(state._replace(params=params)), batch.inputs)
      return _losses(logits, batch.labels).mean(), averages

    (loss, averages), grads = jax.value_and_grad(mean_loss, has_aux=True)(
        sparse(state).params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = State(params, opt_state, averages)
    if mesh:  # Where the old one is, whatever the compiler would choose.
      new = jax.lax.with_sharding_constraint(new, shardings(new))
    return new, loss

  judge = judging(
      lambda state, inputs: apply(variables(sparse(state)), inputs),
      dataset.task, mesh)

  def measure(state, batches):
    known = {} if dataset.ceiling is None else {'ceiling': dataset.ceiling}
    return {**judge(state, batches), **known,
            'sparsity': sparsity(state), **observed(state, flops)}

  return Steps(init, place, train, measure, apply, flops)


def judging(apply: Callable[[PyTree, Any], jax.Array], task: str,
            mesh: jax.sharding.Mesh | None = None
            ) -> Callable[[PyTree, Iterable[data.Batch]], dict[str, float]]:
  """Returns a function that measures how good a network is.

  From what `apply` reads first and batches to the metric of the task, by name.

  Args:
    apply: to logits, from e.g. variables and inputs.
    task: of the data set.
    mesh: the devices it runs on; every process reads the results.
  """
  metric = _METRIC.get(task, 'accuracy')

  @functools.partial(jax.jit, out_shardings=meshes.everywhere(mesh))
  def judge(state, batch):
    logits = apply(state, batch.inputs)
    counted = batch.labels >= 0
    if metric == 'auc':
      # Only whole test sets have an area: what it needs of each example.
      return logits[:, 1] - logits[:, 0], batch.labels, counted
    return (jnp.sum(_losses(logits, batch.labels), where=counted),
            jnp.sum(logits.argmax(-1) == batch.labels, where=counted),
            jnp.sum(counted))

  def measure(state, batches):
    judged = [jax.device_get(judge(state, batch)) for batch in batches]
    return {metric: _conclude(metric, judged)}
  return measure


def new_variables(config: ml_collections.ConfigDict, dataset: data.Dataset, *,
                  seed: int) -> PyTree:
  """Returns the params and averages of a new network, as `Steps.init` reads."""
  return nnx.state(models.create(config, dataset, rngs=nnx.Rngs(seed)),
                   (nnx.Param, nnx.BatchStat))


def ties(config: ml_collections.ConfigDict, dataset: data.Dataset,
         variables: PyTree | None = None) -> jaxsparse.units.Ties:
  """Returns which channels the config's model has; from shapes alone.

  Args:
    config: of the model.
    dataset: what it reads.
    variables: params and averages, if channels were cut out of them.
  """
  model = nnx.eval_shape(
      lambda: models.create(config, dataset, rngs=nnx.Rngs(0)))
  model.eval()
  graphdef, new, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)

  def apply(variables, inputs):
    return nnx.merge(graphdef, variables, rest, copy=True)(inputs)
  shapes = jax.eval_shape(lambda: new if variables is None else variables)
  return jaxsparse.infer_ties(apply, shapes, _inputs(config, dataset))


def sparsity(state: State) -> float:
  """Returns the fraction of the prunable weights that gives nothing forward."""
  masks = jax.tree.leaves(jaxsparse.get_masks(state.opt_state))
  gain = transform.state_of(state.opt_state).gain
  if not masks or (gain is not None and gain > 0):  # They are fading out.
    return 0.
  kept = sum(map(int, jax.device_get(_count(masks))))
  return 1 - kept / sum(mask.size for mask in masks)


def observed(state: State, flops: Callable[[PyTree], jaxsparse.graph.Flops]
             ) -> dict[str, float]:
  """Returns what the optimizer has seen, for each row of metrics.

  Mask flips are the running mean of the fraction of sparse weights that change
  sides in a step, noise is the running mean of Var(|g|), averaged over layers,
  `second_*` that of the second moments, `explored` is the share of sparse
  weights that were ever kept, and `train_flops` is all spent so far.
  """
  if not isinstance(state.opt_state, jaxsparse.training.ObservedState):
    return {}
  seen = jax.device_get(jaxsparse.observed(state.opt_state))
  step = int(state.opt_state.count)
  row = {'train_flops': step * flops(variables(state)).training(
      forward={path: float(s.forward) for path, s in seen.items()},
      gradient={path: float(s.gradient) for path, s in seen.items()})}
  if not seen:
    return row
  sizes = [mask.size for mask in
           jax.tree.leaves(jaxsparse.get_masks(state.opt_state))]

  def mean(field, **weights):
    return float(np.average(
        [getattr(s, field) for s in seen.values()], **weights))
  return row | {
      'flips': float(sum(s.mean_flips for s in seen.values())
                     / sum(sizes)),
      'explored': mean('explored', weights=sizes),
      'noise_kept': mean('gradient_kept'),
      'noise_pruned': mean('gradient_pruned'),
      'second_kept': mean('second_kept'),
      'second_pruned': mean('second_pruned')}


def _conclude(metric, judged):
  """The metric of a test set, of which all batches were judged."""
  if metric == 'auc':
    margins, labels, counted = map(np.concatenate, zip(*judged))
    return metrics.auc(margins[counted], labels[counted])
  nats, correct, count = (sum(map(float, each)) for each in zip(*judged))
  if metric == 'accuracy':
    return correct / count
  return nats / count / math.log(2)


def _inputs(config, dataset):
  """The shape and type of a batch of inputs."""
  return jax.ShapeDtypeStruct(
      (config.batch_size, *dataset.shape), dataset.input_dtype)


@jax.jit
def _count(masks):
  return [jnp.sum(mask) for mask in masks]
