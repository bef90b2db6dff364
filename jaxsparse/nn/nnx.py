"""Packed kernels in NNX."""

import functools
from typing import Any, Callable, cast

from flax import nnx
import jax

from jaxsparse._utils import arguments
from jaxsparse.nn import dots
from jaxsparse.packed import Implementation
from jaxsparse.packed import pack
from jaxsparse.packed import pack_params
from jaxsparse.packed import Packed24
from jaxsparse.packed.packed_params import NotPruned


class Linear(nnx.Linear):
  """`flax.nnx.Linear` with a packed kernel.

    y = x @ kernel + bias,   kernel 2:4 along its inputs

  A new layer packs the two largest of every four weights from `kernel_init`.
  `nnx.update` accepts a kernel in any packed layout, or a dense one.

  Args:
    in_features: the number of inputs.
    out_features: the number of outputs.
    implementation: the implementation of the product, see `jaxsparse.matmul`.
    rngs: the random number generators, see `flax.nnx.Linear`.
    **options: more arguments of `flax.nnx.Linear`: `use_bias`, `dtype`,
      `param_dtype`, `kernel_init`, `bias_init` and others.

  >>> layer = Linear(512, 8, rngs=nnx.Rngs(0))
  >>> layer.kernel.shape, layer(jax.numpy.ones((1, 512))).shape
  ((512, 8), (1, 8))
  """
  implementation: Implementation = None

  def __init__(self, in_features: int, out_features: int, *,
               implementation: Implementation = None, rngs: nnx.Rngs,
               **options: Any):
    super().__init__(in_features, out_features, rngs=rngs, **options)
    self.implementation = _static(implementation)
    # Under `jit`, `pack` keeps the two largest instead of raising.
    self.kernel = jax.tree.map(jax.jit(pack), self.kernel)

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """`[..., in] -> [..., out]`."""
    return _call(self, super().__call__, inputs, out_sharding)


class _LinearGeneral(nnx.LinearGeneral):
  """`flax.nnx.LinearGeneral` whose kernel may be packed."""
  implementation: Implementation = None

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """`[..., in] -> [..., out]`."""
    return _call(self, super().__call__, inputs, out_sharding)


@arguments.checked()
def pack_model(model: nnx.Module, masks_or_rules: Any, *,
               layout: str | None = None, transposed: bool = False,
               implementation: Implementation = None) -> nnx.Module:
  """A copy of an NNX model with packed kernels in its dense layers.

  The kernels of `Linear`, `LinearGeneral` (hence attention) and their
  subclasses are packed. The pruned weights of other layers stay dense;
  `unreadable` lists these. Paths of modules and of parameters do not change, so
  `nnx.jit`, `nnx.split`, `nnx.merge` and `nnx.update` work as before.
  `nnx.update` also accepts the result of
  `pack_params(nnx.state(model, nnx.Param), rules)`. Under `nnx.eval_shape` the
  function returns the abstract model for restoring a checkpoint.

  Args:
    model: a pruned model; it is not changed.
    masks_or_rules: the masks or patterns for `nnx.state(model, nnx.Param)`, see
      `pack_params`.
    layout: the layout of packed weights, see `pack_params`.
    transposed: whether to pack for products with the transpose, too, see
      `pack_params`.
    implementation: the implementation of products, see `matmul`.

  Returns:
    A model that shares all other arrays with `model`.

  Raises:
    ValueError: for the reasons of `pack_params`; or if no layer can read any of
      the parameters to be packed, which the message names.

  >>> from jaxsparse import patterns
  >>> model = nnx.Linear(512, 8, kernel_init=nnx.initializers.zeros,
  ...                    rngs=nnx.Rngs(0))
  >>> model = pack_model(model, {'kernel': patterns.nm(2, 4)})
  >>> model(jax.numpy.ones((1, 512))).shape
  (1, 8)
  """
  try:
    params = pack_params(
        nnx.state(model, nnx.Param), masks_or_rules, layout=layout,
        transposed=transposed, dense=unreadable(model))
  except NotPruned as error:
    raise ValueError(
        f'{error} Give the result to the model before pack_model: '
        'nnx.update(model, sparse).') from error
  model = nnx.clone(model)
  nnx.update(model, params)
  for _, layer in list(nnx.iter_graph(model)):
    if not isinstance(layer, nnx.Module):
      continue
    kernel = vars(layer).get('kernel')
    kind = _class_of(type(layer))
    if kind and isinstance(kernel, nnx.Variable) and isinstance(
        _value(kernel), Packed24):
      # Only the class, and so `__call__`, changes: variables of the layer and
      # references to it stay valid.
      object.__setattr__(layer, '__class__', kind)
      cast(Any, layer).implementation = _static(implementation)
  return model


def unreadable(model: nnx.Module) -> dots.Unreadable:
  """The parameters that no layer of a model can read packed, with reasons.

  A layer can read a packed kernel if it is a `Linear` or `LinearGeneral`, or an
  instance of a subclass. If several layers hold a parameter, all of them must
  be able to read it.
  """
  nodes = list(nnx.iter_graph(model))
  holders: dict[int, list[tuple[Any, str]]] = {}
  changed = {id(layer.layer_instance): type(layer).__name__
             for _, layer in nodes if isinstance(layer, _CHANGES)}
  for _, layer in nodes:
    if isinstance(layer, nnx.Module):
      for name, variable in vars(layer).items():
        if isinstance(variable, nnx.Variable):
          holders.setdefault(id(variable), []).append((layer, name))
  why = dots.Unreadable()
  for path, variable in nodes:
    if isinstance(variable, nnx.Param) and getattr(
        _value(variable), 'ndim', 0) > 1:
      reasons = [
          dots.changes(changed[id(layer)]) if id(layer) in changed
          else _why_not(layer, name) for layer, name in holders.get(
              id(variable), [(model, str(path[-1]))])]
      if any(reasons):
        why['/'.join(map(str, path))] = next(filter(None, reasons))
  return why


# Layers that read another kernel than the one they hold.
_CHANGES = (nnx.WeightNorm, nnx.SpectralNorm)


def _why_not(layer: nnx.Module, name: str) -> str | None:
  kind = type(layer).__name__
  if _class_of(type(layer)) is None:
    return dots.cannot(kind, 'Linear and LinearGeneral')
  return None if name == 'kernel' else dots.no_kernel(kind, name)


def _call(layer: Linear | _LinearGeneral, dense: Callable[..., jax.Array],
          inputs: jax.Array, out_sharding: Any) -> jax.Array:
  options = {} if out_sharding is None else {'out_sharding': out_sharding}
  kernel = _value(layer.kernel)
  if not isinstance(kernel, Packed24):
    return dense(inputs, **options)
  return dots.dense(
      layer, inputs, kernel, None if layer.bias is None else _value(layer.bias),
      promote=lambda *arrays: layer.promote_dtype(arrays, dtype=layer.dtype),
      implementation=layer.implementation, axis=getattr(layer, 'axis', (-1,)),
      batch=tuple(getattr(layer, 'batch_axis', ())),
      preferred_element_type=layer.preferred_element_type, **options)


def _class_of(kind: type) -> type | None:
  """The class that reads packed kernels and otherwise behaves like `kind`."""
  if issubclass(kind, (Linear, _LinearGeneral)):
    return kind
  for base, ours in ((nnx.Linear, Linear), (nnx.LinearGeneral, _LinearGeneral)):
    if issubclass(kind, base):
      return ours if kind is base else _subclass(kind, ours)
  return None


@functools.cache
def _subclass(kind: type, ours: type) -> type:
  # `super().__call__` in `kind` reaches our class first, then Flax's.
  return type(kind.__name__, (kind, ours), {'__module__': kind.__module__})


def _static(implementation: Implementation) -> str | tuple[str, ...] | None:
  is_one = implementation is None or isinstance(implementation, str)
  return implementation if is_one else tuple(implementation)


def _value(variable: nnx.Variable) -> Any:
  # Flax 0.12.0 has only `value`, of which later versions warn.
  return (variable.get_value() if hasattr(variable, 'get_value')
          else variable.value)
