"""Recomputes the running averages of batch norms for pruned weights.

The averages of training belong to the activations of the dense weights. The new
averages are the means and variances of the activations over some batches, in
which each layer normalises by its own batch, as in training. Batches are
weighted by their sizes.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np


def estimator(model: nnx.Module
              ) -> Callable[[nnx.State, Sequence[Any]], nnx.State]:
  """Returns a function from variables and batches of inputs to variables.

  The averages are recomputed over all batches together; params do not change.

  Args:
    model: the network, which is changed; its own variables do not matter.
  """
  for _, module in nnx.iter_modules(model):
    if isinstance(module, nnx.BatchNorm):
      module.momentum = 0.  # What remains is of the last batch alone.
  model.train()
  graphdef, _, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)

  @jax.jit
  def of_batch(variables, inputs):
    model = nnx.merge(graphdef, variables, rest, copy=True)
    model(inputs)
    return nnx.state(model, nnx.BatchStat)

  def estimate(variables, batches):
    found = [of_batch(variables, inputs) for inputs in batches]
    averages = _pooled(found, [len(inputs) for inputs in batches])
    params, _ = nnx.split_state(variables, nnx.Param, ...)
    return nnx.merge_state(params, averages)
  return estimate


def _pooled(found, sizes):
  """Means, and variances, of all batches together."""
  flat = [dict(nnx.to_flat_state(one)) for one in found]
  pooled = {}
  for path, variable in flat[0].items():
    means, own = (np.array([one[where][...] for one in flat])
                  for where in ((*path[:-1], 'mean'), path))
    value = middle = np.average(means, axis=0, weights=sizes)
    if path[-1] == 'var':  # Within batches, and between them.
      value = np.average(own + (means - middle)**2, axis=0, weights=sizes)
    pooled[path] = variable.replace(jnp.asarray(value, variable[...].dtype))
  return nnx.from_flat_state(pooled)
