"""Batch norms of pruned networks: by the batch, and with averages of their own.

The running averages of training belong to the activations of the dense weights.
Behind pruned weights they normalise wrongly, and more so from layer to layer.
So norms use the statistics of the batch, as in training, while a network is
pruned. The new averages are the means and variances over all these batches,
weighted by their sizes.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

# From variables and inputs to outputs, and to averages of this batch alone.
ByBatch = Callable[[nnx.State, Any], tuple[jax.Array, nnx.State]]


def by_batch(model: nnx.Module) -> ByBatch:
  """Returns the function of a network whose norms normalise by the batch.

  Args:
    model: the network, which is changed; its own variables do not matter.
  """
  for _, module in nnx.iter_modules(model):
    if isinstance(module, nnx.BatchNorm):
      module.momentum = 0.  # What remains is of the last batch alone.
  model.train()
  graphdef, _, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)

  @jax.jit
  def apply(variables, inputs):
    model = nnx.merge(graphdef, variables, rest, copy=True)
    outputs = model(inputs)
    return outputs, nnx.state(model, nnx.BatchStat)
  return apply


def renewed(apply: ByBatch, variables: nnx.State, batches: Sequence[Any]
            ) -> nnx.State:
  """Returns variables with averages over all batches; params do not change.

  Args:
    apply: the function of the network.
    variables: its params, and other averages.
    batches: batches of inputs.
  """
  found = [apply(variables, inputs)[1] for inputs in batches]
  averages = _pooled(found, [len(inputs) for inputs in batches])
  params, _ = nnx.split_state(variables, nnx.Param, ...)
  return nnx.merge_state(params, averages)


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
