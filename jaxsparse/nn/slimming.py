"""`slim_model`: NNX models without dead units, with smaller arrays."""

from typing import Any, Callable, Iterator, Mapping, Sequence

from flax import nnx
import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse.units import removal
from jaxsparse.units import slim
from jaxsparse.units import Tie
from jaxsparse.units import Ties
from jaxsparse.units.ties import as_ties

# A function from a module with cut arrays to the attributes to set on it.
Widths = Callable[[Any], Mapping[str, Any]]


@arguments.checked()
def slim_model(model: nnx.Module, ties: Ties | Sequence[Tie],
               keep: Mapping[str, Any], *,
               widths: Mapping[type[nnx.Module], Widths] | None = None
               ) -> nnx.Module:
  """Removes hidden units from an NNX model, which stays ready to run and train.

  The arrays are cut as by `jaxsparse.slim`, and attributes such as
  `in_features`, `out_features`, `num_features`, `num_heads` and `kernel_shape`
  get the new widths. The supported modules are `Linear`, `LinearGeneral`,
  `Einsum`, `Conv`, `ConvTranspose`, `Embed`, `BatchNorm`, `LayerNorm`,
  `RMSNorm`, `GroupNorm`, `MultiHeadAttention`, `LoRA`, the cells of recurrent
  networks, and subclasses of all these.

  Make a new optimizer for the new model, or cut the optimizer state with
  `slim`. The caches of attention modules are dropped; call `init_cache` again.

  Args:
    model: a pruned model; it is not changed.
    ties: the ties of the model, from `infer_ties`, for all of
      `nnx.state(model)`. A tie names the axes that index the same hidden units.
    keep: maps names of ties to bool arrays of `tie.shape`, False at units to
      remove, such as the result of `alive` or `keep_units`.
    widths: for custom modules that hold arrays, or widths of their submodules:
      maps their types to functions. A function takes the module, whose arrays
      and submodules are cut already, and returns the attributes to set, `{}`
      for none.

  Returns:
    A model that shares all other arrays with `model`.

  Raises:
    ValueError: for the reasons of `slim`; or if arrays of a module are cut
      whose type is not supported. The message names path and type.

  >>> import jax
  >>> import numpy as np
  >>> from jaxsparse.units import Member
  >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu,
  ...                        nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
  >>> tie = Tie(8, (Member('layers/0/kernel', 1), Member('layers/0/bias', 0),
  ...               Member('layers/2/kernel', 0)), name='hidden')
  >>> small = slim_model(model, [tie], {'hidden': np.arange(8) < 5})
  >>> small.layers[0].out_features, small(jax.numpy.ones((1, 4))).shape
  (5, (1, 2))
  """
  ties = as_ties(ties)
  small = nnx.clone(model)
  nnx.update(small, slim(nnx.state(model), ties, keep))
  left = removal.plan(ties, keep).left
  known = {**_WIDTHS, **(widths or {})}
  told: set[str] = set()
  # From the inside out, so that a module may read its submodules.
  for path, old, new in _modules(model, small):
    cut = _cut(path, old, new)
    read = next((known[kind] for kind in type(new).__mro__ if kind in known),
                None)
    if read is None:
      if cut - told and not isinstance(new, (nnx.List, nnx.Dict)):
        raise ValueError(_unknown(path, new, min(cut - told)))
      continue
    told |= cut
    if cut and isinstance(new, nnx.Conv):
      new.feature_group_count = _groups(_joined(*path, 'kernel'), old, left)
    for name, value in read(new).items() if cut else ():
      setattr(new, name, value)
  return small


def _modules(*models: nnx.Module) -> Iterator[tuple[Any, ...]]:
  """The path of each module, with the module at that path of each model."""
  for nodes in zip(*map(nnx.iter_graph, models), strict=True):
    if isinstance(nodes[0][1], nnx.Module):
      yield nodes[0][0], *(node for _, node in nodes)


def _joined(*keys: Any) -> str:
  return '/'.join(map(str, keys))


def _cut(path: tuple[Any, ...], old: nnx.Module, new: nnx.Module) -> set[str]:
  """The paths of arrays in a module, with submodules, whose shape changed."""
  shapes = lambda module: {name: getattr(x, 'shape', ()) for name, x in
                           trees.align(nnx.state(module))}
  after = shapes(new)
  return {_joined(*path, name) for name, shape in shapes(old).items()
          if after.get(name, shape) != shape}  # A cache may be dropped.


def _groups(kernel: str, old: nnx.Conv, left: Any) -> int:
  """The number of groups of a convolution that still have outputs."""
  shape, groups = old.kernel.shape, old.feature_group_count
  for axis, at in left(kernel, shape):
    if axis == len(shape) - 1:
      return np.unique(at.reshape(-1) // (shape[-1] // groups)).size
  return groups


def _unknown(path: tuple[Any, ...], module: nnx.Module, array: str) -> str:
  kind, where = type(module).__name__, _joined(*path) or 'The model'
  return (
      f'{where} is a {kind}, and units are removed from {array}; '
      f'slim_model does not know which attributes of a {kind} hold widths. '
      f'Write e.g. slim_model(..., widths={{{kind}: lambda module: {{}}}}) if '
      "none do, or return them: {'features': module.kernel.shape[-1]}.")


def _last(array: Any, rank: int) -> tuple[int, ...]:
  """The shape of one layer, of which `nnx.vmap` stacks several in front."""
  return array.shape[array.ndim - rank:]


def _linear(layer: nnx.Linear) -> dict[str, Any]:
  *_, inputs, outputs = layer.kernel.shape
  return {'in_features': inputs, 'out_features': outputs}


def _linear_general(layer: nnx.LinearGeneral) -> dict[str, Any]:
  batch, inputs = len(layer.batch_axis), len(layer.in_features)
  shape = _last(layer.kernel, batch + inputs + len(layer.out_features))
  return {'batch_axis': type(layer.batch_axis)(zip(layer.batch_axis, shape)),
          'in_features': shape[batch:batch + inputs],
          'out_features': shape[batch + inputs:]}


def _einsum(layer: nnx.Einsum) -> dict[str, Any]:
  return {'kernel_shape': _last(layer.kernel, len(layer.kernel_shape)),
          'bias_shape': None if layer.bias is None else _last(
              layer.bias, len(layer.bias_shape or ()))}


def _conv(layer: nnx.Conv) -> dict[str, Any]:
  *_, inputs, outputs = layer.kernel.shape
  return {'kernel_shape': _last(layer.kernel, len(layer.kernel_shape)),
          'out_features': outputs,
          'in_features': inputs * layer.feature_group_count}


def _conv_transpose(layer: nnx.ConvTranspose) -> dict[str, Any]:
  *_, inputs, outputs = layer.kernel.shape
  if layer.transpose_kernel:
    inputs, outputs = outputs, inputs
  return {'kernel_shape': _last(layer.kernel, len(layer.kernel_shape)),
          'in_features': inputs, 'out_features': outputs}


def _embed(layer: nnx.Embed) -> dict[str, Any]:
  *_, rows, features = layer.embedding.shape
  return {'num_embeddings': rows, 'features': features}


def _norm(layer: Any) -> dict[str, Any]:
  arrays = (getattr(layer, name, None) for name in ('scale', 'bias', 'mean'))
  *_, features = next(x.shape for x in arrays if x is not None)
  return {'num_features': features}


def _group_norm(layer: nnx.GroupNorm) -> dict[str, Any]:
  found = _norm(layer)  # Groups are removed as a whole.
  return {**found, 'num_groups': found['num_features'] // layer.group_size}


def _attention(layer: nnx.MultiHeadAttention) -> dict[str, Any]:
  *_, inputs, heads, dims = layer.query.kernel.shape
  *_, inputs_kv, heads_kv, _ = layer.key.kernel.shape
  of_values = layer.value.kernel.shape[-1]
  if of_values != dims and layer.attention_fn is nnx.dot_product_attention:
    raise ValueError(
        'jax.nn.dot_product_attention needs as many dimensions of values as of '
        f'queries, got {of_values} and {dims} after the cut. Leave '
        "the tie of the values' dimensions out of `keep`, or give the model "
        'another attention_fn.')
  return {
      'in_features': inputs, 'num_heads': heads, 'head_dim': dims,
      'qkv_features': heads * dims, 'in_kv_features': inputs_kv,
      'num_kv_heads': heads_kv, 'out_features': layer.out.kernel.shape[-1],
      **dict.fromkeys(('cached_key', 'cached_value', 'cache_index'),
                      nnx.data(None))}


def _lora(layer: nnx.LoRA) -> dict[str, Any]:
  return {'in_features': layer.lora_a.shape[0],
          'out_features': layer.lora_b.shape[-1]}


def _cell(cell: Any) -> dict[str, Any]:
  return {'in_features': cell.dense_i.in_features,
          'hidden_features': cell.dense_h.in_features}


def _lstm(cell: nnx.LSTMCell) -> dict[str, Any]:
  return {'in_features': cell.ii.in_features,
          'hidden_features': cell.hi.in_features}


_WIDTHS: Mapping[type[nnx.Module], Widths] = {
    nnx.Linear: _linear, nnx.LinearGeneral: _linear_general,
    nnx.Einsum: _einsum, nnx.Conv: _conv, nnx.ConvTranspose: _conv_transpose,
    nnx.Embed: _embed, nnx.BatchNorm: _norm, nnx.LayerNorm: _norm,
    nnx.RMSNorm: _norm, nnx.GroupNorm: _group_norm,
    nnx.MultiHeadAttention: _attention, nnx.LoRA: _lora,
    nnx.LSTMCell: _lstm, nnx.OptimizedLSTMCell: _cell, nnx.GRUCell: _cell,
    nnx.SimpleCell: _cell,
}
