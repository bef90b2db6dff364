"""The smaller forms of a trained network: slimmed, condensed, packed.

A masked network takes as much memory and time as a dense one. Which form is
smaller depends on the masks: units that nothing reads are cut out, blocks and
constant fan-in are condensed, and 2:4 weights are packed. Other masks have no
smaller form here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
import jax
import ml_collections

from experiments import data
from experiments import models
from experiments.training import methods
from experiments.training import runs
from experiments.training import slimming
from experiments.training import steps
import jaxsparse
from jaxsparse import nn
from jaxsparse import packed
from jaxsparse._utils import trees

PyTree = Any


class Form(NamedTuple):
  """A trained network in one form."""
  apply: Callable[[PyTree, Any], jax.Array]  # Variables and inputs to logits.
  variables: PyTree
  kept: int  # Weights of the prunable kernels; all of them if no method prunes.


class _Condensed(nnx.Linear):
  """A linear layer with a condensed kernel."""

  def __call__(self, inputs, out_sharding=None):
    del out_sharding
    y = jaxsparse.matmul(inputs, self.kernel.get_value())
    return y if self.bias is None else y + self.bias[...]


def forms(restored: runs.Restored) -> dict[str, Form]:
  """Returns the masked network and its smaller forms, by name.

  Args:
    restored: a run of a method that prunes.
  """
  config, run, dataset, state = restored
  masks = jaxsparse.get_masks(state.opt_state)
  kept = _count(masks)
  made = {'masked': Form(run.apply, steps.variables(steps.sparse(state)), kept)}
  channels = slimming.create(config, run, state, dataset)
  slimmed = slimming.slim(channels, state)
  prefix, variables = '', made['masked'].variables
  if any(left < of for left, of in slimmed.channels.values()):
    # Masks alone lack members of the ties, such as biases.
    _, masks = jaxsparse.slim((variables, masks), channels.ties, slimmed.keep)
    variables = slimmed.variables
    made['slimmed'] = Form(run.apply, variables, _count(masks))
    prefix = 'slimmed, '
  whole = model(config, dataset, variables)
  stored = {'condensed': lambda: condense_model(whole, masks)}
  if {'n', 'm'} <= {*config}:
    stored['packed 2:4'] = lambda: nn.pack_model(
        whole, methods.nm_patterns(config))
  for name, make in stored.items():
    try:
      graphdef, small, rest = nnx.split(
          make(), (nnx.Param, nnx.BatchStat), ...)
    except ValueError:  # The masks are of another kind.
      continue
    if _nbytes(small) < _nbytes(variables):  # 2:4 is not when condensed.
      made[prefix + name] = Form(_applied(graphdef, rest), small, _count(masks))
  return made


def model(config: ml_collections.ConfigDict, dataset: data.Dataset,
          variables: PyTree) -> nnx.Module:
  """Returns the config's model with these variables, as in an evaluation.

  Args:
    config: of a run.
    dataset: what it reads.
    variables: params and averages, of any widths that the model can have.
  """
  made = models.create(config, dataset, rngs=nnx.Rngs(0))
  made.eval()
  nnx.update(made, variables)
  return made


def condense_model(model: nnx.Module, masks: PyTree) -> nnx.Module:
  """Returns a copy whose pruned linear layers have condensed kernels.

  Args:
    model: a pruned model; it is not changed.
    masks: of its parameters.

  Raises:
    ValueError: if a pruned kernel is none of a linear layer, or has neither
      blocks along its outputs nor one fan-in.
  """
  pruned = {path: mask for path, mask in trees.align(masks)
            if mask is not None}
  small = nnx.clone(model)
  linear = {'/'.join(map(str, (*path, 'kernel'))): layer
            for path, layer in nnx.iter_graph(small)
            if type(layer) is nnx.Linear}
  for path, mask in pruned.items():
    if path not in linear:
      raise ValueError(f'{path} must be the kernel of an nnx.Linear')
    layer = linear[path]
    layer.kernel = nnx.Param(packed.condense(layer.kernel[...], mask))
    # Only the class changes, so that the paths of parameters do not.
    object.__setattr__(layer, '__class__', _Condensed)
  return small


def _applied(graphdef, rest):
  return lambda variables, inputs: nnx.merge(graphdef, variables, rest)(inputs)


def _count(masks):
  return sum(int(mask.sum()) for mask in jax.tree.leaves(masks))


def _nbytes(variables):
  return sum(x.nbytes for x in jax.tree.leaves(variables))
