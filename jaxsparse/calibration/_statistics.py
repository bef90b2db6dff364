"""Statistics of the inputs of kernels, for any JAX function."""

import math
import re
from typing import Any, Callable, Collection, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse._utils import meshes
from jaxsparse._utils import numerics
from jaxsparse._utils import warning
from jaxsparse._utils.tables import brief
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import kernel_axes
from jaxsparse.graph import taps
from jaxsparse.graph import tracing
from jaxsparse.graph.taps import Product

_KINDS = ('norm', 'moment')


class Statistic(NamedTuple):
  """A sum over the inputs of one kernel; add sums of several batches.

  Attributes:
    sum: float32; the sum of x^2, `[..., in]`, for 'norm', or of x x^T,
      `[..., in, in]`, for 'moment'. The axis `in` joins the contracted axes of
      the kernel, in their order. The leading axes are those of stacked layers
      and experts, or of the groups of a convolution.
    count: the number of inputs x, float32, of the shape of the leading axes, or
      a scalar.
  """
  sum: jax.Array
  count: jax.Array


@arguments.checked()
def input_statistics(fn: Callable[..., Any], params: ArrayTree, *inputs: Any,
                     which: str | None = None, kind: str = 'norm',
                     weights: jax.Array | None = None) -> dict[str, Statistic]:
  """Statistics of the inputs of each kernel, for `wanda`, `sparsegpt` and more.

    norm:    sum over inputs x of x^2     [in]
    moment:  sum over inputs x of x x^T   [in, in]

  The function is interpreted, and the data are summed at each product of a
  parameter with data: matrix products with any contracted and batch axes,
  convolutions, and ragged products of experts, also inside of `jit`, `remat`,
  `cond`, `while` and `scan`. Stacked kernels of a `scan` have a statistic for
  each layer. In `shard_map` the statistics are those of whole kernels over all
  data, counted once, however devices share them. A kernel that is used at
  several places has the sum over all its inputs. Kernels with the same inputs,
  such as q, k and v, share one computation. Outputs of the function that no
  statistic needs are not computed.

  Statistics are raw sums in float32: add them over batches,

    stats = jax.tree.map(jnp.add, stats, step(params, batch))

  with `step = jax.jit(functools.partial(input_statistics, fn))`.

  Args:
    fn: the function of the model in evaluation mode.
    params: the parameters, its first argument.
    *inputs: its other arguments, a batch.
    which: a regular expression for whole paths of kernels. `None` means all
      kernels whose inputs can be found; a warning names the others.
    kind: the kind of statistic, 'norm' or 'moment'.
    weights: a weight for each input, such as 0 for padding, in the shape of the
      leading axes of the data, such as `[batch, time]`. Not for convolutions
      and ragged products.

  Returns:
    A dict from paths to `Statistic`s.

  Raises:
    ValueError: if no kernel matches; if the inputs of a matching kernel cannot
      be found, for example in a `pallas_call`, or in a `shard_map` after other
      communication than `psum`, `psum_scatter` and `all_gather`; or if weights
      do not fit the data.

  References:
    Sun et al., `A Simple and Effective Pruning Approach for Large Language
    Models <https://arxiv.org/abs/2306.11695>`_, 2023. The released code takes
    running means over calls, so short batches have a larger weight there.

  >>> params = {'w': jnp.ones((3, 2))}
  >>> x = jnp.array([[1., 2., 0.], [3., 0., 0.]])
  >>> stats = input_statistics(lambda p, x: x @ p['w'], params, x)
  >>> print(stats['w'].sum, stats['w'].count)
  [10.  4.  0.] 2.0
  """
  if kind not in _KINDS:
    raise ValueError(f"kind must be 'norm' or 'moment', got {brief(kind)}. "
                     "Write e.g. kind='norm'.")
  traced = tracing.trace(fn, params, *inputs)
  kernels = kernel_axes.kernels_of(tracing.read_jaxpr(*traced))
  wanted = [path for path, kernel in kernels.items() if kernel.contracted
            and (which is None or re.fullmatch(which, path))]
  if not wanted:
    known = [path for path, kernel in kernels.items() if kernel.contracted]
    raise ValueError(
        f'which must match the whole path of a kernel, got {brief(which)}; the '
        f'function multiplies data with {known[:5]}. Write e.g. '
        "which='.*kernel'.")
  found = taps.run_jaxpr(*traced, jax.tree.leaves((params, inputs)),
                         tap=tap(kind, weights, wanted))
  if unseen := [path for path in wanted if path not in found]:
    why = (
        f'The inputs of {unseen[:5]} cannot be found: the product is inside of '
        'a primitive that is not interpreted, such as pallas_call, or its '
        'other operand is a parameter, or the kernel is cut, joined or scaled '
        'along its inputs before the product, or it is unknown which devices '
        'of a shard_map have the same data.')
    if which is not None or not found:
      raise ValueError(f'{why} Leave them out by `which`.')
    warning.warn(why)
  return found


def tap(kind: str, weights: jax.Array | None = None,
        wanted: Collection[Any] | None = None) -> taps.Tap:
  """A tap that returns statistics, and reuses those of equal inputs.

  Args:
    kind: the kind of statistic, 'norm' or 'moment'.
    weights: the weights of inputs, as for `input_statistics`.
    wanted: the paths of the kernels to measure; `None` for all.
  """
  seen: dict[Any, Statistic] = {}

  def look(product: Product) -> Statistic | None:
    if wanted is not None and product.path not in wanted:
      return None
    if product.key not in seen:
      found = _statistic(product, kind, weights)
      if product.key is None:
        return found
      seen[product.key] = found
    return seen[product.key]
  return look


def _statistic(product: Product, kind: str, weights: jax.Array | None
               ) -> Statistic:
  return meshes.laid_out_by_compiler(
      lambda rows, groups, weights: _summed_up(
          product._replace(rows=rows, groups=groups), kind, weights),
      product.rows, product.groups, weights)


def _summed_up(product: Product, kind: str, weights: jax.Array | None
               ) -> Statistic:
  # Rows of a ragged product were sorted by expert, and weights were not.
  if weights is not None and (
      product.conv is not None or product.groups is not None):
    what = 'convolutions' if product.conv is not None else 'ragged products'
    raise ValueError(
        f'weights are not supported for {what}, got {_named(product)}. '
        "Leave it out by `which` or {regex: None}, e.g. "
        "which='.*dense.*kernel'.")
  if product.conv is not None:
    return _of_convolution(product, kind)
  if product.groups is not None:
    return _of_groups(product.rows, product.groups, kind)
  rows, count = _weighed(product, weights)
  return Statistic(_summed(rows, kind), count)


def _named(product: Product) -> str:
  # In a program that serves several layers, numbers replace paths.
  return product.path if isinstance(product.path, str) else 'a kernel'


def _weighed(product: Product, weights: jax.Array | None
             ) -> tuple[jax.Array, jax.Array]:
  """Inputs `[*batch, tokens, in]` times roots of weights, and their number."""
  rows, batch = product.rows, product.batch
  shape = rows.shape[batch:-1]
  front = rows.shape[:batch]
  rows = numerics.wide(rows) if weights is not None else rows
  count = jnp.full(front, math.prod(shape), jnp.float32)
  if weights is not None:
    if shape[:weights.ndim] != weights.shape:
      raise ValueError(
          f'weights must have the shape {shape}, the leading axes of the '
          f'inputs of {_named(product)}, got {weights.shape}. Give e.g. a mask '
          '[batch, time], or leave the kernel out by `which` or '
          '{regex: None}.')
    count = count * weights.astype(jnp.float32).mean()
    more = (1,) * (len(shape) - weights.ndim + 1)
    roots = jnp.sqrt(weights.astype(jnp.float32)).reshape(
        (1,) * batch + weights.shape + more).astype(rows.dtype)
    # An input of weight 0 may be NaN, as padding is that attends to nothing.
    rows = jnp.where(roots > 0, rows * roots, jnp.zeros_like(rows))
  return rows.reshape(*front, math.prod(shape), rows.shape[-1]), count


def _squares(x: jax.Array) -> jax.Array:
  """The squares of magnitudes, float32."""
  return jnp.square(
      (jnp.abs(x) if jnp.iscomplexobj(x) else x).astype(jnp.float32))


def _summed(rows: jax.Array, kind: str) -> jax.Array:
  if kind == 'norm':
    return jnp.sum(_squares(rows), -2)
  return jnp.einsum('...tk,...tl->...kl', rows, rows,
                    precision=lax.Precision.HIGHEST,
                    preferred_element_type=jnp.float32)


def _of_groups(rows: jax.Array, sizes: jax.Array, kind: str) -> Statistic:
  """The statistic of rows in consecutive groups, each with its own kernel."""
  ends = jnp.cumsum(sizes)
  group = jnp.searchsorted(ends, jnp.arange(len(rows)), side='right')

  def one(i):
    mine = jnp.where(group == i, 1., 0.).astype(jnp.float32)
    return Statistic(_summed(rows * mine[:, None].astype(rows.dtype), kind),
                     mine.sum())
  return lax.map(one, jnp.arange(len(ends)))


def _of_convolution(product: Product, kind: str) -> Statistic:
  """The statistic of the patches of data that a convolution multiplies."""
  eqn, order = product.conv
  has, data = eqn.params, product.rows
  spec = has['dimension_numbers']
  groups, kernel = has['feature_group_count'], eqn.invars[1].aval.shape
  out, inputs, *window = spec.rhs_spec
  settings = {name: has[name] for name in (
      'window_strides', 'padding', 'lhs_dilation', 'rhs_dilation')}
  sizes = [eqn.outvars[0].aval.shape[k]
           for k in (spec.out_spec[0], *spec.out_spec[2:])]
  count = jnp.full((groups,) if groups > 1 else (), math.prod(sizes),
                   jnp.float32)
  if kind == 'norm':
    # The derivative, by the kernel, of a sum of products with squares.
    shape = tuple(groups if k == out else n for k, n in enumerate(kernel))
    squares = _squares(data)
    total = lambda w: lax.conv_general_dilated(
        squares, w, dimension_numbers=spec, feature_group_count=groups,
        precision=lax.Precision.HIGHEST, **settings).sum()
    # In `shard_map` the gradient of a replicated array is a sum over devices.
    found = jax.grad(total)(numerics.vary(
        jnp.zeros(shape, jnp.float32), numerics.varies(data)))
    found = found.transpose(out, *order).reshape(groups, -1)
    return Statistic(found if groups > 1 else found[0], count)
  # A convolution with ones and zeros, which must not round the data.
  patches = lax.conv_general_dilated_patches(
      data, [kernel[k] for k in window], dimension_numbers=spec,
      precision=lax.Precision.HIGHEST, **settings)
  patches = jnp.moveaxis(patches, spec.out_spec[1], -1)
  # Features are [groups, inputs, *window]; kernels may have another order.
  there = [inputs, *window]
  patches = patches.reshape(
      math.prod(sizes), groups, *(kernel[k] for k in there))
  patches = patches.transpose(
      1, 0, *(2 + there.index(k) for k in order)).reshape(
          groups, math.prod(sizes), math.prod(kernel[k] for k in there))
  found = _summed(patches, kind)
  return Statistic(found if groups > 1 else found[0], count)
