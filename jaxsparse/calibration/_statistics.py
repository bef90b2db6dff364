"""Statistics of the inputs that kernels see, of any JAX function."""

import math
import re
from typing import Any, Callable, Collection, NamedTuple
import warnings

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse._utils import meshes
from jaxsparse._utils import numerics
from jaxsparse._utils.tables import brief
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import kernel_axes
from jaxsparse.graph import taps
from jaxsparse.graph import tracing
from jaxsparse.graph.taps import Product

_KINDS = ('norm', 'moment')


class Statistic(NamedTuple):
  """A sum over the inputs of one kernel, which adds up over batches.

  Attributes:
    sum: float32, of x^2 `[..., in]` for 'norm', or of x x^T `[..., in, in]` for
      'moment'. Inputs are the kernel's contracted axes, in its order, as one.
      Axes in front are those of stacked layers and experts, or of the groups of
      a convolution.
    count: how many inputs x there were, float32, of the shape of the axes in
      front, or a scalar.
  """
  sum: jax.Array
  count: jax.Array


@arguments.checked()
def input_statistics(fn: Callable[..., Any], params: ArrayTree, *inputs: Any,
                     which: str | None = None, kind: str = 'norm',
                     weights: jax.Array | None = None) -> dict[str, Statistic]:
  """What `wanda` and `sparsegpt` need to know of the inputs of each kernel.

    norm:    sum over inputs x of x^2     [in]
    moment:  sum over inputs x of x x^T   [in, in]

  The function is interpreted, and at each product of a parameter with data the
  data are summed up: matrix products with any contracted and batch axes,
  convolutions, ragged products of experts; in `jit`, `remat`, `cond`, `while`
  and `scan`, where kernels that are stacked have a statistic for each layer. In
  `shard_map` the statistics are those of whole kernels and all data, each once,
  however devices share them. A kernel that is read at several places has the
  sum of all its inputs, and kernels that read the same data, such as q, k and
  v, share one computation. The function's outputs are not computed further than
  statistics ask for.

  Statistics are raw sums in float32: add them over batches,

    stats = jax.tree.map(jnp.add, stats, step(params, batch))

  with `step = jax.jit(functools.partial(input_statistics, fn))`.

  Args:
    fn: the function, as it is for evaluation.
    params: its parameters.
    *inputs: its other arguments, a batch.
    which: a regular expression for whole paths of kernels; `None` is all of
      which inputs are seen, with a warning that names the others.
    kind: 'norm' or 'moment'.
    weights: for each input a weight, such as 0 for padding, of the shape of the
      leading axes of data, such as `[batch, time]`.

  Returns:
    By path, a `Statistic`.

  Raises:
    ValueError: if no kernel matches, or data of one that does are not seen, as
      in `pallas_call`, or after what devices of a `shard_map` exchange other
      than by `psum`, `psum_scatter` and `all_gather`; if weights do not fit the
      data.

  References:
    Sun et al., `A Simple and Effective Pruning Approach for Large Language
    Models <https://arxiv.org/abs/2306.11695>`_, 2023, and its released code,
    which takes running means over calls, so that short batches weigh more.

  >>> params = {'w': jnp.ones((3, 2))}
  >>> x = jnp.array([[1., 2., 0.], [3., 0., 0.]])
  >>> stats = input_statistics(lambda p, x: x @ p['w'], params, x)
  >>> print(stats['w'].sum, stats['w'].count)
  [10.  4.  0.] 2.0
  """
  if kind not in _KINDS:
    raise ValueError(f"kind is 'norm' or 'moment', got {brief(kind)}.")
  traced = tracing.trace(fn, params, *inputs)
  kernels = kernel_axes.kernels_of(tracing.read_jaxpr(*traced))
  wanted = [path for path, kernel in kernels.items() if kernel.contracted
            and (which is None or re.fullmatch(which, path))]
  if not wanted:
    known = [path for path, kernel in kernels.items() if kernel.contracted]
    raise ValueError(
        f'No kernel is {brief(which)}; the function multiplies data with '
        f'{known[:5]}. Write a regular expression for whole paths, such as '
        "which='.*kernel'.")
  found = taps.run_jaxpr(*traced, jax.tree.leaves((params, inputs)),
                         tap=tap(kind, weights, wanted))
  if unseen := [path for path in wanted if path not in found]:
    why = (
        f'The inputs of {unseen[:5]} are not seen: the product is inside of a '
        'primitive that is not interpreted, such as pallas_call, or with '
        'another parameter, or the kernel is cut, joined or scaled along its '
        'inputs before it, or in a shard_map it is not known which devices '
        'have the same data.')
    if which is not None or not found:
      raise ValueError(f'{why} Leave them out by `which`.')
    warnings.warn(why, stacklevel=2)
  return found


def tap(kind: str, weights: jax.Array | None = None,
        wanted: Collection[Any] | None = None) -> taps.Tap:
  """A tap that returns statistics, and knows those that it has returned.

  Args:
    kind: 'norm' or 'moment'.
    weights: as for `input_statistics`.
    wanted: paths of the kernels that matter; `None` is all.
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
  if product.conv is not None:
    if weights is not None:
      raise ValueError(
          f'{_named(product)} is one of a convolution, whose inputs have '
          'no weights. Leave it out by `which`.')
    return _of_convolution(product, kind)
  if product.groups is not None:
    return _of_groups(product, product.groups, kind, weights)
  rows, count = _weighed(product, weights)
  return Statistic(_summed(rows, kind), count)


def _named(product: Product) -> str:
  # In a program that serves several layers, paths are numbers.
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
          f'weights have the shape {weights.shape}, and the inputs of '
          f'{_named(product)} the leading axes {shape}. Give a weight for each '
          'of them, such as a mask [batch, time], or leave the kernel out: by '
          '`which`, or a rule {regex: None}.')
    count = count * weights.astype(jnp.float32).mean()
    more = (1,) * (len(shape) - weights.ndim + 1)
    rows = rows * jnp.sqrt(weights.astype(jnp.float32)).reshape(
        (1,) * batch + weights.shape + more).astype(rows.dtype)
  return rows.reshape(*front, -1, rows.shape[-1]), count


def _summed(rows: jax.Array, kind: str) -> jax.Array:
  if kind == 'norm':
    return jnp.sum(jnp.square(rows.astype(jnp.float32)), -2)
  return jnp.einsum('...tk,...tl->...kl', rows, rows,
                    precision=lax.Precision.HIGHEST,
                    preferred_element_type=jnp.float32)


def _of_groups(product: Product, sizes: jax.Array, kind: str,
               weights: jax.Array | None) -> Statistic:
  """Of rows in groups, one after the other, each with a kernel of its own."""
  rows, _ = _weighed(product, weights)
  ends = jnp.cumsum(sizes)
  group = jnp.searchsorted(ends, jnp.arange(len(rows)), side='right')

  def one(i):
    mine = jnp.where(group == i, 1., 0.).astype(jnp.float32)
    return Statistic(_summed(rows * mine[:, None].astype(rows.dtype), kind),
                     mine.sum())
  return lax.map(one, jnp.arange(len(ends)))


def _of_convolution(product: Product, kind: str) -> Statistic:
  """Of the patches of data that a convolution's kernel meets."""
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
    # The derivative of a sum of products with squares, by the kernel.
    shape = tuple(groups if k == out else n for k, n in enumerate(kernel))
    squares = jnp.square(data.astype(jnp.float32))
    total = lambda w: lax.conv_general_dilated(
        squares, w, dimension_numbers=spec, feature_group_count=groups,
        **settings).sum()
    # In `shard_map` the gradient of what is the same everywhere is a sum.
    found = jax.grad(total)(numerics.vary(
        jnp.zeros(shape, jnp.float32), numerics.varies(data)))
    found = found.transpose(out, *order).reshape(groups, -1)
    return Statistic(found if groups > 1 else found[0], count)
  patches = lax.conv_general_dilated_patches(
      data, [kernel[k] for k in window], dimension_numbers=spec, **settings)
  patches = jnp.moveaxis(patches, spec.out_spec[1], -1)
  # Features are [groups, inputs, *window]; kernels have an order of their own.
  there = [inputs, *window]
  patches = patches.reshape(-1, groups, *(kernel[k] for k in there))
  patches = patches.transpose(
      1, 0, *(2 + there.index(k) for k in order)).reshape(
          groups, patches.shape[0], -1)
  found = _summed(patches, kind)
  return Statistic(found if groups > 1 else found[0], count)
