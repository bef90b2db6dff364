"""Packed kernels in Linen."""

import functools
from typing import Any, Callable, cast

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
  """`flax.linen.Dense` whose kernel is packed.

    y = x @ kernel + bias,   kernel 2:4 along its inputs

  `init` packs the two largest of every four that `kernel_init` made. In `apply`
  the kernel may be any of what `pack_params` returns, in any layout, and
  dense where nothing was to be gained. Partitioning that `kernel_init` adds is
  dropped: `jaxsparse.packed.partition_specs` has that of packed weights.

  Attributes:
    implementation: as of `jaxsparse.matmul`; all others are Flax's.

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

  In all that `f` calls, `Dense` and `DenseGeneral`, hence attention, take
  a `Packed24` where their kernel would be, and do what they do with the dense
  one: `use_bias`, `dtype`, `promote_dtype` and a `dot_general` of their own are
  heeded. Works inside and outside of `jit`, `nn.scan` over stacked layers,
  `nn.vmap` and `nn.remat` included.

  Args:
    f: `model.apply`, or any function that calls it.
    implementation: as of `matmul`.

  Returns:
    A function of the same arguments.

  Raises:
    ValueError: when called, if the packed weight is that of a layer that is
      neither, a convolution or an embedding; it is named. `pack_params(...,
      dense=unreadable(f, variables, x))` leaves these dense.

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
# A subclass of them may do more, and comes here by `super().__call__`.
_CALLS = tuple(cast(Any, layer.__call__).__wrapped__
               for layer in (linen.Dense, linen.DenseGeneral))


def _variable(layer: linen.Module, name: str) -> Any:
  """A parameter without its box, or `None`."""
  return linen.meta.unbox(layer.get_variable('params', name))


def _dense(layer: linen.Module, inputs: jax.Array, kernel: Packed24,
           implementation: Implementation) -> jax.Array:
  tuple_of = lambda x: (x,) if isinstance(x, int) else tuple(x)
  axis = tuple_of(getattr(layer, 'axis', -1))
  batch = tuple_of(getattr(layer, 'batch_dims', ()))
  features = tuple_of(layer.features)
  sizes = lambda axes: tuple(
      inputs.shape[a] for a in sorted(a % inputs.ndim for a in axes))
  shape = sizes(batch) + sizes(axis) + features
  if kernel.shape != shape:
    raise ValueError(
        f'{"/".join(layer.path)}: the packed kernel has shape {kernel.shape}, '
        f'but inputs {inputs.shape} and features {features} need {shape}. Give '
        'the parameters of this model.')
  bias = layer.param('bias', layer.bias_init, sizes(batch) + features,
                     layer.param_dtype) if layer.use_bias else None
  return dots.dense(
      layer, inputs, kernel, bias,
      promote=functools.partial(layer.promote_dtype, dtype=layer.dtype),
      implementation=implementation, axis=axis, batch=batch)


def _packed_init(init: Callable[..., Any]) -> Callable[..., Packed24]:
  def packed_init(*args):
    # Under `jit` the two largest are what `pack` keeps.
    return jax.jit(pack)(linen.meta.unbox(init(*args)))
  return packed_init


def unreadable(f: Callable[..., Any], variables: Any, *inputs: Any,
               **options: Any) -> dots.Unreadable:
  """The parameters that no layer can read packed, and why.

  The function is traced, and a layer reads its kernel if it is a `Dense` or
  `DenseGeneral`, or a subclass that calls these.
  """
  readable, kinds = set(), {}

  def interceptor(next_fun, args, kwargs, context):
    layer = context.module
    # A lifted layer is called in the place of the one that holds it, first.
    kinds.setdefault(layer.path, type(layer).__name__)
    if context.orig_method.func in _CALLS:
      readable.add((*layer.path, 'kernel'))
    return next_fun(*args, **kwargs)

  def run(variables, *inputs):
    with linen.intercept_methods(interceptor):
      return f(variables, *inputs, **options)
  jax.eval_shape(run, variables, *inputs)
  why = dots.Unreadable()

  def leaf(path, w):
    parts = tuple(path.split('/'))
    if len(w.shape) > 1 and parts not in readable:
      kind = kinds.get(parts[:-1])
      why[path] = ('no layer holds it' if kind is None else
                   f'it is no kernel of {kind}' if (*parts[:-1], 'kernel')
                   in readable else dots.cannot(kind, _READERS))
  trees.map_with_path(leaf, linen.meta.unbox(variables['params']))
  return why


def _explain(layer: linen.Module, error: Exception) -> None:
  """Raises if the layer holds a packed weight, which it cannot read."""
  held = layer.variables.get('params', {})
  names = [name for name in held
           if isinstance(_variable(layer, name), Packed24)]
  if names:
    name = '/'.join((*layer.path, names[0]))
    raise ValueError(
        f'{name} is packed, but {dots.cannot(type(layer).__name__, _READERS)}, '
        'whose kernels may be, attention\'s among them. Keep what no layer can '
        'read dense: pack_params(params, rules, dense=nn.unreadable('
        "model.apply, {'params': params}, x)).") from error
