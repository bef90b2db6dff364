"""Packed kernels in Linen."""

import functools
from typing import Any, Callable, cast, Iterable

from flax import errors
from flax import linen
import jax

from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse.nn import dots
from jaxsparse.packed import Implementation
from jaxsparse.packed import pack
from jaxsparse.packed import Packed24


class Dense(linen.Dense):
  """`flax.linen.Dense` with a packed kernel.

    y = x @ kernel + bias,   kernel 2:4 along its inputs

  `init` packs the two largest of every four weights from `kernel_init`. `apply`
  accepts any kernel that `pack_params` returns: packed in any layout, or dense
  where packing gains nothing. Partitioning metadata from `kernel_init` is
  dropped; `jaxsparse.packed.partition_specs` returns that of packed weights.

  Attributes:
    implementation: the implementation of the product, see `jaxsparse.matmul`.
      All other attributes are those of `flax.linen.Dense`.

  >>> layer = Dense(8)
  >>> x = jax.numpy.ones((1, 512))
  >>> params = layer.init(jax.random.key(0), x)['params']
  >>> params['kernel'].shape, layer.apply({'params': params}, x).shape
  ((512, 8), (1, 8))
  """
  implementation: Implementation = None

  @linen.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """`[..., in] -> [..., features]`."""
    kernel = _variable(self, 'kernel')
    if kernel is None:
      kernel = self.param(
          'kernel', _packed_init(self.kernel_init),
          (inputs.shape[-1], self.features), self.param_dtype)
    if not isinstance(kernel, Packed24):
      return super().__call__(inputs)
    return _dense(self, inputs, kernel, self.implementation)


@arguments.checked()
def accept_packed(
    f: Callable[..., Any], *, implementation: Implementation = None
) -> Callable[..., Any]:
  """Lets a Linen model run on packed parameters.

  In all layers that `f` calls, `Dense` and `DenseGeneral` (hence attention)
  accept a `Packed24` as their kernel, and compute the same as with the dense
  kernel: they respect `use_bias`, `dtype`, `promote_dtype` and their own
  `dot_general`. The result works inside and outside of `jit`, and with
  `nn.scan` over stacked layers, `nn.vmap` and `nn.remat`. It does not with what
  computes other kernels from those of the parameters, such as `nn.WeightNorm`
  (see `unreadable`) or a `nn.map_variables` of your own.

  Args:
    f: `model.apply`, or any function that calls it.
    implementation: the implementation of products, see `matmul`.

  Returns:
    A function with the arguments of `f`.

  Raises:
    ValueError: when called, if a packed weight belongs to another layer, such
      as a convolution or an embedding, which the message names.
      `pack_params(..., dense=unreadable(f, variables, x))` leaves such weights
      dense.

  >>> from jaxsparse import pack_params
  >>> from jaxsparse import patterns
  >>> model, x = linen.Dense(8), jax.numpy.ones((1, 512))
  >>> rules = {'kernel': patterns.nm(2, 4)}
  >>> eye = jax.numpy.eye(512, 8)
  >>> params = {'kernel': eye, 'bias': jax.numpy.zeros(8)}
  >>> params = pack_params(params, rules)
  >>> accept_packed(model.apply)({'params': params}, x)
  Array([[1., 1., 1., 1., 1., 1., 1., 1.]], dtype=float32)
  """
  def interceptor(next_fun, args, kwargs, context):
    layer = context.module
    if context.orig_method.func in _CALLS:
      kernel = _variable(layer, 'kernel')
      if isinstance(kernel, Packed24):
        return _dense(layer, *args, **kwargs, kernel=kernel,
                      implementation=implementation)
    try:
      return next_fun(*args, **kwargs)
    except errors.ScopeParamShapeError as error:
      _explain(layer, error)
      raise

  @functools.wraps(f)
  def run(*args, **kwargs):
    with linen.intercept_methods(interceptor):
      return f(*args, **kwargs)
  return run


_READERS = 'Dense and DenseGeneral'
# Layers that read another kernel than the one they hold.
_CHANGES = (linen.WeightNorm, linen.SpectralNorm)
# The `__call__` of a subclass arrives here by `super().__call__`.
_CALLS = tuple(cast(Any, layer.__call__).__wrapped__
               for layer in (linen.Dense, linen.DenseGeneral))


def _variable(layer: linen.Module, name: str) -> Any:
  """A packed parameter without its box; else any, or `None`."""
  value = layer.get_variable('params', name)
  # Flax would apply the names in the box, of the axes of the dense kernel, to
  # the arrays of the packed one.
  return next(iter(trees.nodes(value, Packed24)), value)


def _dense(layer: linen.Module, inputs: jax.Array, kernel: Packed24,
           implementation: Implementation) -> jax.Array:
  # Numbers of numpy are numbers, too: a model may compute its widths.
  tuple_of = lambda x: tuple(x) if isinstance(x, Iterable) else (x,)
  axis = tuple_of(getattr(layer, 'axis', -1))
  batch = tuple_of(getattr(layer, 'batch_dims', ()))
  features = tuple_of(layer.features)
  sizes = lambda axes: tuple(
      inputs.shape[a] for a in sorted(a % inputs.ndim for a in axes))
  shape = sizes(batch) + sizes(axis) + features
  if kernel.shape != shape:
    raise ValueError(
        f'{"/".join(layer.path)}: the packed kernel must have shape {shape} '
        f'for inputs {inputs.shape} and features {features}, got '
        f'{kernel.shape}. Write model.apply with the parameters of this model.')
  bias = layer.param('bias', layer.bias_init, sizes(batch) + features,
                     layer.param_dtype) if layer.use_bias else None
  return dots.dense(
      layer, inputs, kernel, bias,
      promote=functools.partial(layer.promote_dtype, dtype=layer.dtype),
      implementation=implementation, axis=axis, batch=batch)


def _packed_init(init: Callable[..., Any]) -> Callable[..., Packed24]:
  def packed_init(*args):
    # Under `jit`, `pack` keeps the two largest instead of raising.
    return jax.jit(pack)(linen.meta.unbox(init(*args)))
  return packed_init


def unreadable(f: Callable[..., Any], variables: Any, *inputs: Any,
               **options: Any) -> dots.Unreadable:
  """The parameters that no layer can read packed, with reasons.

  The function is traced. A layer can read a packed kernel if it is a `Dense` or
  `DenseGeneral`, or an instance of a subclass that calls these.
  """
  readable, changed, kinds, around = set(), {}, {}, []

  def interceptor(next_fun, args, kwargs, context):
    layer = context.module
    # A lifted layer has the path of the layer that holds it, called first.
    kinds.setdefault(layer.path, type(layer).__name__)
    if context.orig_method.func in _CALLS:
      readable.add((*layer.path, 'kernel'))
      if around:
        changed[*layer.path, 'kernel'] = around[-1]
    if not isinstance(layer, _CHANGES):
      return next_fun(*args, **kwargs)
    around.append(type(layer).__name__)
    try:
      return next_fun(*args, **kwargs)
    finally:
      around.pop()

  def run(variables, *inputs):
    with linen.intercept_methods(interceptor):
      return f(variables, *inputs, **options)
  jax.eval_shape(run, variables, *inputs)
  why = dots.Unreadable()

  def leaf(path, w):
    parts = tuple(path.split('/'))
    if parts in changed:
      why[path] = dots.changes(changed[parts])
    elif len(w.shape) > 1 and parts not in readable:
      kind = kinds.get(parts[:-1])
      why[path] = ('no layer holds it' if kind is None else
                   dots.no_kernel(kind, parts[-1]) if (*parts[:-1], 'kernel')
                   in readable else dots.cannot(kind, _READERS))
  trees.map_with_path(leaf, variables['params'])  # Paths have no boxes.
  return why


def _explain(layer: linen.Module, error: Exception) -> None:
  """Raises if the layer holds a packed weight that it cannot read."""
  held = layer.variables.get('params', {})
  names = [name for name in held
           if isinstance(_variable(layer, name), Packed24)]
  if names:
    name = '/'.join((*layer.path, names[0]))
    raise ValueError(
        f'{name} is packed, but {dots.cannot(type(layer).__name__, _READERS)}, '
        'the layers that can read packed kernels. Leave the other weights '
        'dense: write pack_params(params, rules, dense=nn.unreadable('
        "model.apply, {'params': params}, x)).") from error
