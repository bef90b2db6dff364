"""Counts channels that nothing reads any more during a run, and removes them.

Dynamic sparse training may leave hidden units (channels, neurons, heads)
without any weight that reads them. Removing these units gives a smaller dense
network with the same outputs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import data
from experiments.records import metrics
from experiments.training import steps
import jaxsparse

PyTree = Any


class Slimmed(NamedTuple):
  """A network without its dead channels."""
  variables: PyTree  # Smaller arrays in the same tree.
  channels: dict[str, tuple[int, int]]  # By layer: left, of how many.
  error: float  # How far its outputs are off, relative to the largest.
  keep: dict[str, np.ndarray]  # By tie: which channels are left.


class Slimming(NamedTuple):
  """Which channels a run's model has."""
  ties: jaxsparse.units.Ties
  run: steps.Steps
  inputs: Any  # A batch, to compare outputs on.


def create(config: ml_collections.ConfigDict, run: steps.Steps,
           state: steps.State, dataset: data.Dataset) -> Slimming:
  """Returns what is needed to count and to cut the channels of a run's model.

  Args:
    config: of the run.
    run: its steps.
    state: any state of it.
    dataset: what it trains on.
  """
  return Slimming(steps.ties(config, dataset, steps.variables(state)), run,
                  dataset.train(0, 1, config.batch_size).inputs)


def channels(slimming: Slimming, state: steps.State
             ) -> dict[str, tuple[int, int]]:
  """Returns how many channels are alive, and of how many, layer by layer.

  By the masks: connections that have just grown are zero still.
  """
  ones = jaxsparse.apply_masks(
      jax.tree.map(jnp.ones_like, state.params),
      jaxsparse.get_masks(state.opt_state))
  return _counted(slimming.ties, jaxsparse.alive(
      steps.variables(state._replace(params=ones)), slimming.ties))


def slim(slimming: Slimming, state: steps.State) -> Slimmed:
  """Cuts the dead channels out of a network.

  What channels without weights still give, by their biases, is first moved to
  those who read them.

  Args:
    slimming: from `create`.
    state: of the run.
  """
  apply, ties = jax.jit(slimming.run.apply), slimming.ties
  variables = steps.variables(steps.sparse(state))
  folded = jaxsparse.units.fold_constants(
      slimming.run.apply, variables, ties, slimming.inputs).params
  keep = jaxsparse.alive(folded, ties)
  smaller = jaxsparse.slim(folded, ties, keep)
  before, after = (apply(v, slimming.inputs) for v in (variables, smaller))
  error = jnp.abs(before - after).max() / jnp.abs(before).max()
  return Slimmed(smaller, _counted(ties, keep), float(error), keep)


def costs(slimming: Slimming, state: steps.State) -> metrics.Row:
  """Returns channels and FLOPs of a forward pass, for the last row of a run.

  Channels that can be cut out once constants are moved are not counted any
  more. FLOPs are dense; sparse, if hardware skips every pruned weight (test);
  and as any hardware can have it, dense without dead channels (GPU).

  Args:
    slimming: from `create`.
    state: of the run.
  """
  dense = slimming.run.flops(steps.variables(state))
  slimmed = slim(slimming, state)
  return {'channels': slimmed.channels, 'dense_flops': dense.total,
          'test_flops': dense.forward(jaxsparse.get_masks(state.opt_state)),
          'gpu_flops': slimming.run.flops(slimmed.variables).total,
          'slim_error': slimmed.error}


def _counted(ties, keep):
  return {_maker(tie): (int(keep[tie.name].sum()), keep[tie.name].size)
          for tie in ties if not (tie.fixed or tie.kept)}


def _maker(tie):
  """The first kernel that makes the channels, after which people call them."""
  makers = [m.path for m in tie.members if m.role == 'makes']
  return makers[0].removesuffix('/kernel') if makers else tie.name
