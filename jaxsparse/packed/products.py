"""Products with packed 2:4 weights: one function, three implementations.

Condensed weights go through the same function; XLA does these alone.

`matmul` asks the kernel of the platform, and XLA where that cannot serve. What
a kernel wants of its operands is made here: leading axes of `x` are folded, K
is padded to the tile, the weight is in its layout. A kernel has arrays in and
arrays out, and raises `NotImplementedError` if it cannot serve.
"""

import dataclasses
import functools
import math
from typing import Any, Callable, Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse.packed import condensed
from jaxsparse.packed import layout24
from jaxsparse.packed.condensed import Condensed
from jaxsparse.packed.kernels import hopper
from jaxsparse.packed.kernels import tpu
from jaxsparse.packed.layout24 import Packed24

Implementation = str | Sequence[str] | None


def matmul(x: jax.Array, w: Packed24 | Condensed, *,
           implementation: Implementation = None,
           preferred_element_type: jax.typing.DTypeLike | None = None
           ) -> jax.Array:
  """The product `x @ w` with a packed 2:4 weight, or a condensed one.

    y[..., n] = sum_k x[..., k] * w[k, n],   summed in float32

  Differentiable in reverse mode: the gradient to `x` is `dy @ w.T`, made by a
  kernel on TPU, on GPU where `w.transposed` is there, and by XLA elsewhere; the
  gradient to the kept values, `w.values`, is `x.T @ dy` where they are. Both
  take `dy` in the dtype of the operands. Positions have none, so that one takes
  the gradient with respect to values:

    jax.grad(lambda v: loss(dataclasses.replace(w, values=v)))(w.values)

  `w.transposed` gets none either: who trains values packs without it, who
  trains the weight itself wants `training_matmul`.

  Of a condensed weight inputs are gathered and multiplied with what was kept,

    y[..., S * j + s] = sum_f x[..., indices[j, f]] * values[j, f, s]

  by XLA on every platform, gradients to the inputs and values included (in
  reverse mode); the compiler can shard it over block columns.

  Args:
    x: `[..., K]`; where the weight has several contracted axes, as attention's
      output has, these.
    w: what `pack` or `condense` returned, without leading axes (`jax.vmap`
      and `lax.scan` take these off). Kernels cannot be sharded by the
      compiler: with a packed weight on a mesh write `sharded_matmul`.
    implementation: `None` takes the kernel of the platform that the program is
      lowered for, or XLA; 'gpu' (Hopper), 'tpu' or 'xla' that one alone; a
      sequence the first that can serve.
    preferred_element_type: the dtype of the result; by default that to which
      those of `x` and `w` promote, and int32 for int8.

  Returns:
    `[..., *features]`, the features being (N,) for a weight `[K, N]`.

  Raises:
    ValueError: if shapes do not fit.
    NotImplementedError: if no implementation that was asked for can serve; all
      reasons are told.

  References:
    Mishra et al., `Accelerating Sparse Deep Neural Networks
    <https://arxiv.org/abs/2104.08378>`_, 2021

  >>> from jaxsparse import pack
  >>> w = jnp.array([[1., 0.], [0., 0.], [2., 3.], [0., 4.]])
  >>> matmul(jnp.array([[1., 1., 1., 1.]]), pack(w))
  Array([[3., 7.]], dtype=float32)
  >>> from jaxsparse.packed.condensed import condense
  >>> matmul(jnp.array([[1., 1., 1., 1.]]), condense(w, w != 0, block=1))
  Array([[3., 7.]], dtype=float32)
  """
  check_operands(x, w)
  rank = len(w.contracted)
  leading = x.shape[:x.ndim - rank]
  product = _gathering if isinstance(w, Condensed) else _product
  y = product(
      x.reshape(*leading, math.prod(w.contracted)).astype(
          jnp.result_type(x, w.values)), w, names_of(implementation),
      dtype_of(x, w.values, preferred_element_type))
  return y.reshape(*leading, *w.features)


def check_operands(x: jax.Array, w: Packed24 | Condensed) -> None:
  """Raises if `matmul(x, w)` does not fit."""
  if not isinstance(w, Condensed):
    layout24.check_packed(w)
  if len(w.shape) != len(w.contracted) + len(w.features):
    leading = w.shape[:len(w.shape) - len(w.contracted) - len(w.features)]
    raise ValueError(
        f'matmul(x, w) takes one weight, got {leading} of them, each of shape '
        f'{w.shape[len(leading):]}. Write jax.vmap(jaxsparse.matmul)(x, w), or '
        'scan over them.')
  rank = len(w.contracted)
  if x.ndim < rank or x.shape[x.ndim - rank:] != w.contracted:
    raise ValueError(
        f'matmul(x, w) sums over axes of sizes {w.contracted} at the end of x, '
        f'got x of shape {x.shape}.')


def dtype_of(x: jax.Array, w: jax.Array,
             preferred: jax.typing.DTypeLike | None) -> Any:
  """The dtype of a product."""
  dtype = jnp.result_type(x, w)
  if preferred is None:
    preferred = jnp.int32 if dtype == jnp.int8 else dtype
  return jnp.dtype(preferred)


def wide(dtype: Any) -> Any:
  """The dtype of sums whose result is to have `dtype`."""
  if jnp.issubdtype(dtype, jnp.integer):
    return jnp.dtype(jnp.int32)
  return max(jnp.dtype(dtype), jnp.dtype(jnp.float32),
             key=lambda d: d.itemsize)


def training_matmul(
    x: jax.Array, w: jax.Array, *, implementation: Implementation = None,
    preferred_element_type: jax.typing.DTypeLike | None = None,
    check: bool = True) -> jax.Array:
  """The product `x @ w` of 2:4 training: forward and input gradient packed.

    y = x @ w,   dx = dy @ w.T,   dw = x.T @ dy (dense)

  `w` is the sparse point, `sparse_params(params, opt_state)`, with the masks of
  `nm(2, 4, transposable=True)`: 2:4 along both axes, so that the sparse tensor
  cores of a Hopper GPU do both products. It is packed anew in every step. The
  gradient to `w` is the dense one, for pruned weights, too, as every
  flow here expects it. TPUs have no sparse units and XLA knows of none: there
  all three products are dense. On a mesh whose axes are the compiler's a
  kernel cannot be partitioned: there it is called inside of `jax.shard_map`, or
  with implementation='xla'.

  Args:
    x: `[..., K]`.
    w: `[K, N]`, 2:4 along both axes.
    implementation: as of `matmul`, 'gpu' or 'xla'.
    preferred_element_type: as of `matmul`.
    check: whether to look at the weight, where that is possible.

  Returns:
    `[..., N]`.

  Raises:
    ValueError: if shapes do not fit, or the weight is not 2:4 both ways. The
      latter cannot be seen inside of `jit` or `grad`; there a GPU takes the
      two largest of every four, each way, and XLA all of them.
    NotImplementedError: if no implementation that was asked for can serve.

  References:
    Hubara et al., `Accelerated Sparse Neural Training
    <https://arxiv.org/abs/2102.08124>`_, 2021. There dw is sparsified, too,
    in a later work (Chmiel et al., 2022); here it never is.

  >>> w = jnp.array([[1., 2., 0., 0.], [3., 4., 0., 0.],
  ...                [0., 0., 5., 6.], [0., 0., 7., 8.]])
  >>> training_matmul(jnp.ones((1, 4)), w)
  Array([[ 4.,  6., 12., 14.]], dtype=float32)
  """
  if isinstance(w, Packed24):
    raise ValueError(
        'training_matmul(x, w) packs a dense weight itself; with a packed one '
        'write matmul(x, w).')
  if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0]:
    raise ValueError(
        'training_matmul(x, w) needs x [..., K] and w [K, N], got '
        f'{x.shape} and {w.shape}. Stacked weights go through jax.vmap.')
  if check and not isinstance(w, jax.core.Tracer) and not (
      layout24.is_24(w) and layout24.is_24(w, -1)):
    raise ValueError(
        'training_matmul(x, w) needs a weight that is 2:4 along both axes. '
        'Prune by jaxsparse.nm(2, 4, transposable=True) and pass '
        'jaxsparse.sparse_params(params, opt_state), or write x @ w.')
  dtype = jnp.result_type(x, w)
  return _training_product(
      x.astype(dtype), w.astype(dtype), names_of(implementation),
      dtype_of(x, w, preferred_element_type))


def names_of(implementation: Implementation) -> tuple[str, ...] | None:
  """A tuple of names, or `None`."""
  if implementation is None:
    return None
  names = ((implementation,) if isinstance(implementation, str)
           else tuple(implementation))
  if not names or not set(names) <= set(_PLATFORMS):
    raise ValueError(
        f'implementation must be one of {tuple(_PLATFORMS)}, several of them, '
        f'or None, got {implementation!r}.')
  return names


# What each implementation is called when a program is lowered.
_PLATFORMS = {'gpu': 'cuda', 'tpu': 'tpu', 'xla': None}


def missing(name: str) -> str | None:
  """Why this machine cannot run an implementation, or `None` if it can.

  >>> missing('xla') is None
  True
  """
  if name == 'gpu':
    return hopper.available()
  if name == 'tpu' and jax.default_backend() != 'tpu':
    return f'needs a TPU, here is {jax.default_backend()}'
  return None


def _run(names: tuple[str, ...] | None, choices: dict[str, Callable[..., Any]],
         x: jax.Array, w: Any, dtype: Any) -> jax.Array:
  """Runs the first choice that can serve, or the platform's."""
  if names is None:
    # Which GPU it will be is known only of this machine's.
    kernels = {
        _PLATFORMS[name]: _with_dtype(product, dtype)
        for name, product in choices.items()
        if name != 'xla' and not (name == 'gpu' and missing(name))
        and not _refusal(product, x, w, dtype)}
    return lax.platform_dependent(
        x, w, default=_with_dtype(choices['xla'], dtype), **kernels)
  reasons = []
  for name in names:
    product = choices.get(name, _no_product)
    refusal = None if name == 'xla' else _refusal(product, x, w, dtype)
    why = list(filter(None, (missing(name), refusal)))
    if not why:
      return product(x, w, dtype)
    reasons.append(f'{name}: {", and ".join(why)}')
  raise NotImplementedError(
      'No implementation of the packed product that was asked for can serve. '
      + '; '.join(reasons) + '. Leave implementation=None for XLA.')


def _refusal(product: Callable[..., jax.Array], x: jax.Array, w: Any,
             dtype: Any) -> str | None:
  """Why a kernel cannot serve operands; `None` if it can."""
  # It sees one device, and what the compiler shards it does not tell.
  if any(any(jax.typeof(a).sharding.spec) for a in jax.tree.leaves((x, w))):
    return 'the operands are sharded; write jaxsparse.packed.sharded_matmul'
  try:
    jax.eval_shape(_with_dtype(product, dtype), x, w)
  except NotImplementedError as error:
    return str(error)
  return None


def _with_dtype(product: Callable[..., jax.Array], dtype: Any
                ) -> Callable[..., jax.Array]:
  return lambda x, w: product(x, w, dtype)


def _no_product(x: jax.Array, w: Any, dtype: Any) -> jax.Array:
  raise NotImplementedError('does not do this product')


def _dense(x: jax.Array, matrix: jax.Array, dtype: Any) -> jax.Array:
  """`[..., K] x [K, N]`."""
  # As of the kernels: who keeps float32 weights wants float32 products.
  precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
  return lax.dot_general(
      x, matrix.astype(x.dtype), (((x.ndim - 1,), (0,)), ((), ())), precision,
      preferred_element_type=wide(dtype)).astype(dtype)


def _folded(kernel: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """A kernel for `[T, K]` as one for `[..., K]`.

  Jitted, so that it is traced once for equal shapes.
  """
  @functools.partial(jax.jit, static_argnums=(2, 3))
  def run(x: jax.Array, w: Any, *settings: Any) -> jax.Array:
    y = kernel(
        x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), w, *settings)
    return y.reshape(*x.shape[:-1], y.shape[-1])
  return run


def _on_hopper(x: jax.Array, w: Packed24, dtype: Any) -> jax.Array:
  if w.dtype not in layout24.HOPPER_DTYPES:
    raise NotImplementedError(
        f'the Hopper layout has bfloat16 and float16, not {w.dtype}')
  w = layout24.with_layout(w, 'hopper')
  # Static, and asked for each time: it may have been tuned since.
  config = hopper.config_of(
      math.prod(x.shape[:-1]), w.values.shape, x.dtype)
  return _hopper_kernel(x, w, dtype, config)


@_folded
def _hopper_kernel(x: jax.Array, w: Packed24, dtype: Any,
                   config: Any) -> jax.Array:
  x = layout24.padded(x, 1, 2 * w.values.shape[-1])
  y = hopper.matmul(
      x, w.values, w.positions, out_dtype=dtype, config=config)
  return y[:, :math.prod(w.features)]


def _on_hopper_transposed(dy: jax.Array, w: Packed24, dtype: Any) -> jax.Array:
  if w.transposed is None:
    raise NotImplementedError('needs pack(w, transposed=True)')
  return _on_hopper(dy, w.transposed, dtype)


def _on_hopper_packing(x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
  return _on_hopper(x, layout24.pack(w), dtype)


@_folded
def _on_tpu(x: jax.Array, w: Packed24, dtype: Any) -> jax.Array:
  w = layout24.with_layout(w, 'planar')
  x = layout24.padded(x, 1, 4 * w.values.shape[-2])
  return tpu.matmul(x, w.values, w.positions, out_dtype=dtype)


@_folded
def _on_tpu_transposed(dy: jax.Array, w: Packed24, dtype: Any) -> jax.Array:
  w = layout24.with_layout(w, 'planar')
  dx = tpu.matmul_transposed(dy, w.values, w.positions, out_dtype=dtype)
  return dx[:, :math.prod(w.contracted)]


def _by_xla(x: jax.Array, w: Packed24, dtype: Any) -> jax.Array:
  w = layout24.with_layout(w, 'planar')
  return _dense(x, layout24.matrix_of(w), dtype)


def _gathering(x: jax.Array, w: Condensed, names: tuple[str, ...] | None,
               dtype: Any) -> jax.Array:
  def by_xla(x, w, dtype):
    return condensed.product(x, w, wide(dtype)).astype(dtype)
  return _run(names, {'xla': by_xla}, x, w, dtype)


# `[..., K], w -> [..., N]`; `[..., N], w -> [..., K]`; and
# `[..., K], [K, N] -> [..., N]`, the weight packed on the way.
_PRODUCTS = {'gpu': _on_hopper, 'tpu': _on_tpu, 'xla': _by_xla}
_TRANSPOSED = {'gpu': _on_hopper_transposed, 'tpu': _on_tpu_transposed}
_PACKING = {'gpu': _on_hopper_packing, 'xla': _dense}


def input_gradient(dy: jax.Array, x: jax.Array, w: Packed24,
                   names: tuple[str, ...] | None, dtype: Any) -> jax.Array:
  """`dy @ w.T` in the shape of `x`, by a kernel where there is one."""
  def by_xla(dy, w, dtype):
    return _transposed(
        lambda x: _by_xla(x, w, dy.dtype), x.astype(dtype), dy)
  # What has a kernel forward may have none backward.
  return _run(names and (*names, 'xla'), _TRANSPOSED | {'xla': by_xla},
              dy.astype(x.dtype), w, dtype)


def value_gradient(dy: jax.Array, x: jax.Array, w: Packed24, dtype: Any
                   ) -> jax.Array:
  """`x.T @ dy` at the kept places, in the shape of `w.values`.

  Integers have none, and get zeros.
  """
  if not jnp.issubdtype(dtype, jnp.floating):
    return jnp.zeros_like(w.values)
  like = jax.ShapeDtypeStruct((x.shape[-1], dy.shape[-1]), dtype)
  matrix = _weight_gradient(dy.astype(x.dtype), x, like)
  values = layout24.gather(
      matrix, layout24.places(layout24.with_layout(w, 'planar')))
  return values if w.layout == 'planar' else layout24.hopper_values(values)


def _weight_gradient(dy: jax.Array, x: jax.Array, like: Any) -> jax.Array:
  return _transposed(
      lambda w: _dense(x.astype(like.dtype), w, dy.dtype), like, dy)


def _transposed(f: Callable[[Any], jax.Array], like: Any, dy: jax.Array
                ) -> jax.Array:
  """The gradient to the argument of a linear function."""
  dx, = jax.linear_transpose(f, like)(dy)
  return dx


def _no_gradient(x: jax.Array) -> Any:
  """What stands for the gradient to an array that has none."""
  if jnp.issubdtype(x.dtype, jnp.floating):
    return jnp.zeros_like(x)
  return np.zeros(x.shape, jax.dtypes.float0)


def with_gradient(w: Packed24, values: jax.Array) -> Packed24:
  """The gradient to a weight, given that to its values if they are floats."""
  nothing = jax.tree.map(_no_gradient, w)
  if not jnp.issubdtype(w.dtype, jnp.floating):
    return nothing
  return dataclasses.replace(nothing, values=values)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x: jax.Array, w: Packed24, names: tuple[str, ...] | None,
             dtype: Any) -> jax.Array:
  return _run(names, _PRODUCTS, x, w, dtype)


def _product_forward(x, w, names, dtype):
  return _product(x, w, names, dtype), (x, w)


def _product_backward(names, dtype, saved, dy):
  del dtype
  x, w = saved
  return (input_gradient(dy, x, w, names, x.dtype),
          with_gradient(w, value_gradient(dy, x, w, w.dtype)))


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _training_product(x: jax.Array, w: jax.Array,
                      names: tuple[str, ...] | None, dtype: Any) -> jax.Array:
  return _run(names, _PACKING, x, w, dtype)


def _training_forward(x, w, names, dtype):
  return _training_product(x, w, names, dtype), (x, w)


def _training_backward(names, dtype, saved, dy):
  x, w = saved
  dy = dy.astype(x.dtype)

  def by_xla(dy, w, dtype):
    del dtype
    return _transposed(lambda x: _dense(x, w.mT, dy.dtype), x, dy)
  dx = _run(names, _PACKING | {'xla': by_xla}, dy, w.mT, x.dtype)
  return dx, _weight_gradient(dy, x, w)


_training_product.defvjp(_training_forward, _training_backward)
