"""One cell: prunes and measures a network, and resumes after interruptions."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import pathlib
import shutil
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments import data as datasets
from experiments.pruning import networks
from experiments.pruning import plan
from experiments.records import checkpoints
from experiments.records import metrics
from experiments.reporting import tables
from experiments.training import channels
from experiments.training import steps
import jaxsparse
from jaxsparse import calibration
from jaxsparse import graph
from jaxsparse._utils import trees

PyTree = Any

PRUNED, PROGRESS = 'pruned', 'progress'
_STEPS = 500  # Of reconstruction, for each block.


class Bench(NamedTuple):
  """A network, the data of one seed, and measurements before pruning."""
  network: networks.Network
  data: networks.Data
  judge: Callable[[PyTree, Sequence[datasets.Batch]], dict[str, float]]
  kernels: graph.Kernels
  # By path, of what the dense network's kernels read of the judged data.
  moments: dict[str, calibration.Statistic]


def prepare(network: networks.Network, seed: int) -> Bench:
  """Returns a network with the data of one seed.

  Args:
    network: the dense one.
    seed: draws the data.
  """
  data = network.draw(seed)
  first = data.calibration[0]
  step = jax.jit(functools.partial(
      calibration.input_statistics, network.apply, kind='moment',
      which=network.sparse))
  moments = functools.reduce(
      functools.partial(jax.tree.map, jnp.add),
      (step(network.params, inputs)
       for inputs in _inputs(data.judged, len(first))))
  return Bench(
      network, data, steps.judging(network.apply, network.task),
      graph.infer_kernels(network.apply, network.params, first),
      moments)


def measure(bench: Bench, cell: plan.Cell, folder: pathlib.Path, *,
            save: bool) -> metrics.Row:
  """Prunes a network, and returns its measurements.

  Args:
    bench: the network and its data.
    cell: the method, target and seed of pruning.
    folder: the folder to save to after each stage, and at the end.
    save: whether to save the pruned network at the end.
  """
  row = {**cell._asdict(), 'weights': bench.network.weights}
  if tables.is_dense(cell.method):
    return row | bench.judge(bench.network.params, bench.data.judged) | {
        'sparsity': 0.}
  reorder, restore = _orders(bench, cell)
  dense = reorder(bench.network.params)
  params, masks, seconds = _prune(bench, cell, dense, folder / PROGRESS)
  settled = bench.network.settle(params, bench.data.calibration)
  if save:
    checkpoints.export(folder / PRUNED, {'params': settled, 'masks': masks})
  kept, of = (sum(count(mask) for mask in jax.tree.leaves(masks))
              for count in (lambda mask: int(mask.sum()), np.size))
  return row | bench.judge(settled, bench.data.judged) | {
      'sparsity': 1 - kept / of,
      'kept': float(channels.kept_by(dense, masks)), 'seconds': seconds,
      'errors': _errors(bench, restore(params))}


def forget_progress(folder: pathlib.Path):
  """Drops what a killed cell would need to go on: it has ended."""
  shutil.rmtree(folder / PROGRESS, ignore_errors=True)


def _orders(bench, cell):
  """Two functions of params: puts units in the cell's order, and back."""
  network, target = bench.network, cell.target
  if not cell.is_permuted:
    return (lambda params: params,) * 2
  ties = jaxsparse.infer_ties(
      network.apply, network.params, bench.data.calibration[0])
  order = jaxsparse.find_permutations(
      network.params, ties, {network.sparse: plan.pattern(target), '.*': None})
  if not order:
    raise ValueError(
        'another order of channels helps N:M targets, in kernels that contract '
        f'channels which may be permuted. For target {target!r} there are none '
        'here')
  back = {name: np.argsort(units, axis=-1) for name, units in order.items()}
  return (lambda params: jaxsparse.permute(params, ties, order),
          lambda params: jaxsparse.permute(params, ties, back))


def _prune(bench, cell, dense, folder):
  """Pruned params, their masks, and seconds, also those before a kill."""
  # A damaged stage is computed again.
  stage, found = checkpoints.load(folder, tell=print)
  state, seconds = None, 0.
  if stage:
    state = calibration.OneShotState(**found['state'])
    seconds = float(found['seconds'])
  since = time.perf_counter()

  def save(state):
    nonlocal seconds, since
    jax.block_until_ready(state)
    seconds += time.perf_counter() - since
    checkpoints.save(folder, int(state.done), jax.tree.map(jnp.asarray, {
        'state': state._asdict(), 'seconds': seconds}))
    since = time.perf_counter()  # Saving is no part of it.

  network = bench.network
  params, masks = jaxsparse.one_shot(
      network.by_batch, dense, bench.data.calibration,
      {network.sparse: plan.pattern(cell.target), '.*': None},
      method=cell.base, refit=cell.refit, state=state, save=save,
      progress=functools.partial(
          tqdm.tqdm, desc=f'{cell.row} {cell.target}', unit='stage',
          leave=False, disable=None))
  if cell.is_reconstructed:
    params = calibration.reconstruct(
        network.by_batch, params, masks, bench.data.calibration,
        dense=dense, steps=_STEPS)
  jax.block_until_ready(params)
  return params, masks, seconds + time.perf_counter() - since


def _errors(bench, params):
  """How far the outputs of each kernel are off, for dense inputs."""
  before, after = (dict(zip(trees.own_paths(tree), jax.tree.leaves(tree)))
                   for tree in (bench.network.params, params))
  return {
      path: float(calibration.reconstruction_error(
          *(_matrix(weights[path], bench.kernels[path])
            for weights in (before, after)), moment.sum))
      for path, moment in bench.moments.items()}


def _matrix(w, kernel):
  """`[in, out]`: all axes that are summed over with data come first."""
  inputs = sorted((*kernel.contracted, *kernel.window))
  size = np.prod([w.shape[axis] for axis in inputs])
  return w.transpose(*inputs, *kernel.outputs).reshape(size, -1)


def _inputs(batches, size):
  """The inputs of all batches, so many at a time, without padding."""
  for batch in batches:
    padding = (batch.labels < 0).reshape(len(batch.labels), -1).all(1)
    real = batch.inputs[~padding]
    for start in range(0, len(real), size):
      yield real[start:start + size]
