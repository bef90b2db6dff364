"""The products of Flax's layers, with packed kernels."""

import dataclasses
import functools
import math
from typing import Any, Callable, Sequence

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse import packed
from jaxsparse._utils import arguments
from jaxsparse._utils import tables
from jaxsparse.packed import Implementation
from jaxsparse.packed import Packed24

DimensionNumbers = tuple[tuple[Sequence[int], Sequence[int]],
                         tuple[Sequence[int], Sequence[int]]]


@arguments.checked()
def dot_general(
    lhs: jax.Array, rhs: jax.Array | Packed24,
    dimension_numbers: DimensionNumbers, precision: Any = None,
    preferred_element_type: jax.typing.DTypeLike | None = None, *,
    implementation: Implementation = None, **options: Any) -> jax.Array:
  """`lax.dot_general` whose right side may be packed.

  Args:
    lhs: an array.
    rhs: an array, or a `Packed24`. The product must sum over the axes along
      which it is packed, and its leading axes, if any, must be batch axes.
    dimension_numbers: the dimension numbers of `lax.dot_general`, for the dense
      shape of the weight.
    precision: the precision of `lax.dot_general`. The GPU and TPU kernels have
      one precision only; if this argument is given, XLA multiplies with the
      unpacked weight.
    preferred_element_type: the dtype of the result.
    implementation: the implementation for packed weights, see `matmul`.
    **options: more arguments of `lax.dot_general`, such as `out_sharding`. With
      any of them, XLA multiplies with the unpacked weight.

  Returns:
    The result of `lax.dot_general` for the dense weight.

  Raises:
    ValueError: if the product sums over other axes than the weight is packed
      along.

  >>> w = packed.pack(jnp.array([[1., 0.], [0., 0.], [2., 3.], [0., 4.]]))
  >>> dot_general(jnp.ones((1, 4)), w, (((1,), (0,)), ((), ())))
  Array([[3., 7.]], dtype=float32)
  """
  options = {k: v for k, v in options.items() if v is not None}
  is_packed = isinstance(rhs, Packed24)
  if is_packed:
    _check_axes(rhs, dimension_numbers)
  if not is_packed or options or precision is not None:
    return lax.dot_general(
        lhs, packed.unpack(rhs) if is_packed else rhs, dimension_numbers,
        precision, preferred_element_type, **options)
  product = functools.partial(
      packed.matmul, implementation=implementation,
      preferred_element_type=preferred_element_type)
  for _ in dimension_numbers[1][0]:
    product = jax.vmap(product)
  return product(_arranged(lhs, dimension_numbers), rhs)


@arguments.checked()
def training_dot_general(
    lhs: jax.Array, rhs: jax.Array | Packed24,
    dimension_numbers: DimensionNumbers, precision: Any = None,
    preferred_element_type: jax.typing.DTypeLike | None = None, *,
    implementation: Implementation = None, **options: Any) -> jax.Array:
  """`training_matmul` for the argument `dot_general=` of Flax's layers.

  Use it for layers whose weights have the masks of
  `nm(2, 4, transposable=True)`, during training and, with a packed kernel,
  afterwards. Use it for no other layer: under `jit` on a Hopper GPU, it drops
  two of every four weights of any other kernel.

  A product that sums over the first axes of `rhs` is a product with a matrix.
  This includes attention's `[in, heads, head_dim]` and
  `[heads, head_dim, out]`, whose masks are those of the matrix. Any other
  product, or one with a `precision` or other options, is `lax.dot_general`.

  Args:
    lhs: an array.
    rhs: an array that is 2:4 in both directions, or a `Packed24`.
    dimension_numbers: the dimension numbers of `lax.dot_general`.
    precision: the precision of `lax.dot_general`.
    preferred_element_type: the dtype of the result.
    implementation: the implementation, see `training_matmul`.
    **options: more arguments of `lax.dot_general`.

  Returns:
    The result of `lax.dot_general`.

  >>> from flax import linen
  >>> layer = linen.Dense(8, dot_general=training_dot_general)
  """
  (sums, over), (batch, _) = dimension_numbers
  asked = precision is not None or any(v is not None for v in options.values())
  if (isinstance(rhs, Packed24) or asked or batch
      or tuple(over) != tuple(range(len(over))) or len(over) == rhs.ndim):
    return dot_general(
        lhs, rhs, dimension_numbers, precision, preferred_element_type,
        implementation=implementation, **options)
  x = _arranged(lhs, dimension_numbers)
  leading, rest = x.shape[:x.ndim - len(sums)], rhs.shape[len(over):]
  k = math.prod(rhs.shape[:len(over)])
  # Flax calls a layer with its initial, dense weights to find shapes.
  y = packed.training_matmul(
      x.reshape(*leading, k), rhs.reshape(k, math.prod(rest)),
      implementation=implementation,
      preferred_element_type=preferred_element_type, check=False)
  return y.reshape(*leading, *rest)


def dense(layer: Any, x: jax.Array, kernel: Packed24, bias: jax.Array | None,
          *, promote: Callable[..., Any], implementation: Implementation = None,
          axis: Sequence[int] = (-1,), batch: Sequence[int] = (),
          **options: Any) -> jax.Array:
  """`y = x @ kernel + bias`, the computation of Flax's four dense layers.

  Args:
    layer: the layer; its own `dot_general`, if it has one, is called.
    x: the inputs, `[batch, ..., *contracted]`.
    kernel: the packed kernel, `[batch, *contracted, *features]`.
    bias: the bias, `[batch, *features]`, or `None`.
    promote: a function that converts three arrays, one of which may be `None`,
      to one dtype.
    implementation: the implementation, see `matmul`.
    axis: the axes of `x` to sum over.
    batch: the batch axes of `x`, along which kernels differ.
    **options: more arguments of `dot_general`.

  Returns:
    `[batch, ..., *features]`.
  """
  x, values, bias = promote(x, kernel.values, bias)
  kernel = dataclasses.replace(
      kernel.astype(values.dtype), values=values)
  axis = tuple(sorted(a % x.ndim for a in axis))
  n = len(batch)
  numbers = ((axis, tuple(range(n, n + len(axis)))),
             (tuple(range(n)), tuple(range(n))))
  y = _dot_of(layer, implementation)(
      x, kernel, numbers, precision=layer.precision, **options)
  if bias is None:
    return y
  ones = (1,) * (y.ndim - bias.ndim)
  return y + bias.reshape(*bias.shape[:n], *ones, *bias.shape[n:])


class Unreadable(dict[str, str]):
  """The result of `unreadable`: a reason for each path; prints as a table.

  The table leaves out the biases of layers that read packed kernels. In
  attention these have two axes, but nobody expects them to be packed.
  """

  def __str__(self) -> str:
    rows = [(path, why) for path, why in self.items() if why != _BIAS]
    if not rows:
      return 'All layers read packed kernels.'
    return tables.table([('stays dense', 'since')], rows)


_BIAS = 'a bias is added, not multiplied'


def changes(kind: str) -> str:
  """Why a parameter stays dense that another layer changes before its use."""
  return f'{kind} computes another kernel from it'


def no_kernel(layer: str, name: str) -> str:
  """The reason why a layer cannot read a parameter besides its kernel."""
  return _BIAS if name == 'bias' else f'it is no kernel of {layer}'


def cannot(layer: str, readers: str) -> str:
  """The reason why a layer cannot read a packed weight."""
  return f'{layer} is none of {readers}'


def _dot_of(layer: Any, implementation: Implementation) -> Callable[..., Any]:
  """The layer's own product, if it has one."""
  own = layer.dot_general
  if (make := getattr(layer, 'dot_general_cls', None)) is not None:
    own = make()
  if own is None or own is lax.dot_general:
    return functools.partial(dot_general, implementation=implementation)
  return own


def _arranged(x: jax.Array, dimension_numbers: DimensionNumbers) -> jax.Array:
  """`x` with its batch axes first, and its contracted axes last, in order."""
  (sums, over), (batch, _) = dimension_numbers
  last = [axis for _, axis in sorted(zip(over, sums))]
  return jnp.moveaxis(x, (*batch, *last),
                      (*range(len(batch)), *range(-len(last), 0)))


def _check_axes(w: Packed24, dimension_numbers: DimensionNumbers) -> None:
  (_, over), (_, batch) = dimension_numbers
  leading = w.ndim - len(w.contracted) - len(w.features)
  first = leading + len(w.features) * w.contracted_last
  along = range(first, first + len(w.contracted))
  if sorted(over) != list(along):
    along, over = (tuple(a - w.ndim for a in sorted(axes))
                   for axes in (along, over))
    one = lambda axes: axes[0] if len(axes) == 1 else axes
    raise ValueError(
        f'A weight of shape {w.shape} was packed along axis {one(along)}, but '
        f'this product sums over axis {one(over)}. Prune and pack the weight '
        f'with the pattern jaxsparse.nm(2, 4, axis={one(over)}); for attention '
        'write jaxsparse.patterns.attention(2, 4).')
  if list(batch) != list(range(leading)):
    raise ValueError(
        'The batch axes of a product with a packed weight of shape '
        f'{w.shape} must be its {leading} leading axes, got axes '
        f'{tuple(batch)}. Write jax.lax.scan or jax.vmap over stacked weights.')
