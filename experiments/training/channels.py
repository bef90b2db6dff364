"""The order of channels, chosen once before a method makes its masks.

The order of hidden units decides which M neighbours compete in an N:M mask.
Another order does not change the network's function, and masks may keep more
magnitude with it. The search runs on the host, between two steps.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import tqdm

from experiments import data
from experiments._utils import processes
from experiments.records import metrics
from experiments.training import methods
from experiments.training import steps
import jaxsparse
from jaxsparse._utils import trees

PyTree = Any


class Permuting(NamedTuple):
  """When a run permutes its channels, and how."""
  step: int | None  # Right before this one; None is never.
  permute: Callable[[steps.State], tuple[steps.State, metrics.Row]]


def create(config: ml_collections.ConfigDict, run: steps.Steps,
           state: steps.State, dataset: data.Dataset) -> Permuting:
  """Returns the permutation that `config.permute_budget` asks for.

  The channels that belong together are found now and checked on the run's first
  batch. A model without such channels is therefore an error before training.

  Args:
    config: the config of the run.
    run: the steps of the run.
    state: any state of the run.
    dataset: the data set of the run.

  Raises:
    ValueError: if the method does not make N:M masks at one known step, or no
      order of channels matters to them.
  """
  if not config.permute_budget:
    return Permuting(None, lambda state: (state, {}))
  step, patterns = methods.prune_step(config), methods.nm_patterns(config)
  if step < 1:
    raise ValueError(
        'config.permute_budget needs a step before the one that makes masks, '
        f'got config.steps={config.steps}. Train for at least 2 steps.')
  batch = dataset.train(config.seed, 1, config.batch_size)
  variables = steps.variables(state)
  ties = jaxsparse.infer_ties(run.apply, variables, batch.inputs)
  if not jaxsparse.find_permutations(variables, ties, patterns, budget=0):
    raise ValueError(
        'config.permute_budget has nothing to permute: no kernel that '
        f'{[*patterns][0]!r} matches contracts channels that may be permuted. '
        'Set config.sparse to kernels that read a hidden layer, or '
        'config.permute_budget=0.')
  return Permuting(step, functools.partial(
      permute, ties=ties, patterns=patterns, budget=config.permute_budget))


def permute(state: steps.State, *, ties: jaxsparse.units.Ties,
            patterns: methods.Patterns, budget: int
            ) -> tuple[steps.State, metrics.Row]:
  """Puts channels in the order in which N:M keeps the most.

  It depends on the params alone: a run that was killed finds the same order
  when it goes on.

  Args:
    state: the params, and all that is kept of them.
    ties: of the run's model.
    patterns: which kernels are to be N:M.
    budget: the sweeps of each search.

  Returns:
    The same network in another order, and which fraction of the magnitude of
    its sparse kernels N:M keeps before and after.
  """
  unfinished = []

  def progress(sweeps):
    unfinished.append(sweeps)
    return to_the_end(sweeps)

  def to_the_end(sweeps):
    yield from tqdm.tqdm(
        sweeps, desc='permuting', leave=False,
        disable=processes.hide_bars())
    unfinished.pop()

  permutations = jaxsparse.find_permutations(
      steps.variables(state), ties, patterns, budget=budget,
      progress=progress)
  if unfinished:  # Ctrl-C gives the best so far, but it has to end a run.
    raise KeyboardInterrupt
  permuted = jaxsparse.permute(state, ties, permutations)
  return permuted, {'kept_before': kept(state.params, patterns),
                    'kept_after': kept(permuted.params, patterns)}


def kept(params: PyTree, patterns: methods.Patterns) -> float:
  """Returns which fraction of the sparse kernels' magnitude N:M would keep.

  Args:
    params: as they are before they are pruned.
    patterns: which kernels are to be N:M.
  """
  return float(kept_by(
      params, jax.jit(jaxsparse.prune(patterns).init)(params).masks))


@jax.jit
def kept_by(params: PyTree, masks: PyTree) -> jax.Array:
  """Returns which fraction of the magnitude of masked params masks keep.

  Args:
    params: the weights before they are pruned.
    masks: bool masks with the structure of `params`; `None` where there is no
      mask, and such params do not count.
  """
  pairs = [(jnp.abs(w), mask) for _, w, mask in trees.align(params, masks)
           if mask is not None]
  total = sum(jnp.sum(w) for w, _ in pairs)
  return sum(jnp.sum(w, where=mask) for w, mask in pairs) / total
