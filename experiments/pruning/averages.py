"""The running averages of batch norms, made anew for pruned weights.

Those of training are of the activations that dense weights gave. Here they are
the means and variances of the activations over some batches, in which each
layer normalises by its own batch, as it does in training; a batch counts by its
size.
"""

from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
import numpy as np


def estimate(model: nnx.Module, variables: nnx.State, batches: Sequence[Any]
             ) -> nnx.State:
  """Returns the variables with averages over all batches together.

  Args:
    model: the network, whatever its own variables are.
    variables: its params and its running averages, which do not matter.
    batches: of inputs.
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

  sizes = [len(inputs) for inputs in batches]
  found = [dict(nnx.to_flat_state(of_batch(variables, inputs)))
           for inputs in batches]

  def mean(of):
    return np.average([of(one) for one in found], axis=0, weights=sizes)

  pooled = {}
  for path in found[0]:
    *layer, name = path
    average = (*layer, 'mean')
    middle = mean(lambda one, path=average: np.asarray(one[path][...]))
    if name == 'var':  # Within batches, and of their means.
      value = mean(lambda one, path=path, average=average, middle=middle: (
          one[path][...] + (one[average][...] - middle)**2))
    else:
      value = middle
    pooled[path] = found[0][path].replace(
        jax.numpy.asarray(value, found[0][path][...].dtype))
  params, _ = nnx.split_state(variables, nnx.Param, ...)
  return nnx.merge_state(params, nnx.from_flat_state(pooled))
