"""Products with condensed weights, by XLA: inputs are gathered and multiplied.

The variants for CPUs were chosen by measurements on two cores at 4096 x 4096,
90% pruned, float32; the docstrings of `_in_parts` and `_by_entries` list the
slower variants. TPUs gather slowly: by its compiler's estimate, a v5e takes
eight times as long as for the dense product of one token, so there a condensed
weight only saves memory.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import numerics
from jaxsparse.packed import _operands
from jaxsparse.packed import _trilinear
from jaxsparse.packed.condensed import Condensed
from jaxsparse.packed.condensed import uncondense

# The inputs that a part of a product gathers should fit a CPU's caches, but a
# part must have as many neighbouring block columns as a mesh has devices.
_BYTES = 4 * 2**20
_ABREAST = 16
# The number of entries that are added in one pass over a result.
_ENTRIES = 8


def matmul(x: jax.Array, w: Condensed, dtype: Any) -> jax.Array:
  """`x @ w`, `[..., K] -> [..., N]`.

  On a mesh weights are sharded over block columns. Explicit axes become the
  compiler's here, which knows how to gather from what is sharded.
  """
  product: Any = functools.partial(
      _folded, dtype=_operands.sum_dtype(dtype))
  inputs, columns = (jax.typeof(a).sharding.spec for a in (x, w.values))
  if any((*inputs, *columns)):
    product = jax.sharding.auto_axes(
        product, out_sharding=jax.sharding.PartitionSpec(
            *inputs[:-1], columns[-1 if w.block == 1 else 0]))
  return product(x, w).astype(dtype)


def _folded(x: jax.Array, w: Condensed, dtype: Any) -> jax.Array:
  if not w.values.size:
    return jnp.zeros((*x.shape[:-1], *w.features), dtype)
  rows = x.reshape(math.prod(x.shape[:-1]), w.inputs)
  # Tokens come last: what is gathered are contiguous rows of them. The input
  # that padding reads is made here, and what is sent back to it is dropped.
  rows = jnp.pad(rows.T, ((0, 1), (0, 0)))
  values = w.values.astype(x.dtype)
  form = _Form(dtype, *(
      jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (rows, values)))
  y = _trilinear.derivative(
      form, _trilinear.DY, rows, values, w.indices)
  return y.T.reshape(*x.shape[:-1], *w.features)


@dataclasses.dataclass(frozen=True)
class _Form(_trilinear.Form):
  """The products of `[K + 1, B]`, values and `[N, B]`; `rest` are indices.

  The gradients need neither what was gathered nor the dense weight in memory,
  and on CPUs half of the time of those that jax would make of this.

  Attributes:
    dtype: the dtype of the result.
    x: the shape and dtype of the inputs.
    values: those of the values.
  """
  dtype: Any
  x: Any
  values: Any

  def y(self, x: jax.Array, w: jax.Array, rest: jax.Array) -> jax.Array:
    return self._run(
        _by_entries, _in_parts, _at_once, x, w, rest, dtype=self.dtype)

  def dx(self, w: jax.Array, dy: jax.Array, rest: jax.Array) -> jax.Array:
    return self._run(_by_entries_dx, _in_parts_dx, _at_once_dx, w,
                     dy.astype(self.x.dtype), rest, like=self.x)

  def dw(self, x: jax.Array, dy: jax.Array, rest: jax.Array) -> jax.Array:
    return self._run(_by_entries_dw, _in_parts_dw, _at_once_dw, x,
                     dy.astype(self.x.dtype), rest, like=self.values)

  def _run(self, by_entries, in_parts, at_once, *operands, **options):
    is_fan_in = operands[-1].ndim == len(self.values.shape)
    on_cpu = by_entries if is_fan_in else in_parts
    return lax.platform_dependent(
        *operands,
        cpu=functools.partial(_traced_once, on_cpu, **options),
        default=functools.partial(_traced_once, at_once, **options))


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=('dtype', 'like'))
def _traced_once(product: Any, *operands: jax.Array, **options: Any
                 ) -> jax.Array:
  """A product that is made anew for no program and no derivative of it."""
  return product(*operands, **options)


def _gather(x: jax.Array, indices: jax.Array) -> jax.Array:
  """Rows of `[K + 1, B]`; with checks it takes half as long again."""
  return x.at[indices].get(mode='promise_in_bounds')


def _scatter(dx: jax.Array, indices: jax.Array, more: jax.Array) -> jax.Array:
  return dx.at[indices].add(more, mode='promise_in_bounds')


def _einsum(spec: str, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
  return jnp.einsum(
      spec, a, b, precision=_operands.precision_of(a.dtype),
      preferred_element_type=dtype)


def _in_parts(x: jax.Array, values: jax.Array, indices: jax.Array, *,
              dtype: Any) -> jax.Array:
  """Blocks on CPUs: as many block columns at once as caches hold.

  To gather for all of them took three times as long from 16 tokens on; parts of
  the inputs in place of parts of the outputs, 1.3 times; sums of products
  without a dot, 30 times at one token.
  """
  (j, _, s), tokens = values.shape, x.shape[1]
  parts, pick = _parts(indices, tokens * x.dtype.itemsize)

  def step(t):
    return _einsum(
        'jfs,jfb->jsb', pick(values, t), _gather(x, pick(indices, t)), dtype)
  y = lax.map(step, jnp.arange(parts))
  return y.swapaxes(0, 1).reshape(j * s, tokens)


def _in_parts_dx(values: jax.Array, dy: jax.Array, indices: jax.Array, *,
                 like: Any) -> jax.Array:
  dtype = numerics.at_least_float32(like.dtype)
  dy = dy.reshape(*values.shape[::2], dy.shape[1])
  parts, pick = _parts(indices, dy.shape[2] * like.dtype.itemsize)

  def step(dx, t):
    gathered = _einsum('jfs,jsb->jfb', pick(values, t), pick(dy, t), dtype)
    return _scatter(dx, pick(indices, t), gathered), None
  zeros = numerics.zeros(like.shape, dtype, (values, dy, indices))
  dx, _ = lax.scan(step, zeros, jnp.arange(parts))
  return dx.astype(like.dtype)


def _in_parts_dw(x: jax.Array, dy: jax.Array, indices: jax.Array, *, like: Any
                 ) -> jax.Array:
  dtype = numerics.at_least_float32(x.dtype)
  dy = dy.reshape(*like.shape[::2], dy.shape[1])
  parts, pick = _parts(indices, x.shape[1] * x.dtype.itemsize)

  def step(t):
    return _einsum('jfb,jsb->jfs', _gather(x, pick(indices, t)), pick(dy, t),
                   dtype)
  dvalues = lax.map(step, jnp.arange(parts))
  return dvalues.swapaxes(0, 1).reshape(like.shape).astype(like.dtype)


def _parts(indices: jax.Array, nbytes: int) -> tuple[int, Any]:
  """How many parts to make of block columns, and what takes one of them.

  Part t is every t-th block column of so many ranges: ranges may lie on the
  devices of a mesh, and a loop over parts moves nothing between these.
  """
  j, fan_in = indices.shape
  abreast = max(q for q in range(1, j + 1) if j % q == 0 and (
      q <= _ABREAST or q * fan_in * nbytes <= _BYTES))
  parts = j // abreast

  def pick(a, t):
    return lax.dynamic_index_in_dim(
        a.reshape(abreast, parts, *a.shape[1:]), t, 1, keepdims=False)
  return parts, pick


def _by_entries(x: jax.Array, values: jax.Array, indices: jax.Array, *,
                dtype: Any) -> jax.Array:
  """Fan-in on CPUs: of all outputs the first entry, then the second.

  Sums over the entries of one output took twice as long at one token, and 5
  times at 8; `lax.scan(..., unroll=8)` in place of this loop, 5 times.
  """
  def add(y, first, count):
    v, i = (lax.dynamic_slice_in_dim(a, first, count)
            for a in (values, indices))
    return y + sum(v[e][:, None].astype(dtype) * _gather(x, i[e]).astype(dtype)
                   for e in range(count))
  y = numerics.zeros(
      (values.shape[1], x.shape[1]), dtype, (x, values, indices))
  step = min(_ENTRIES, len(values))
  loops, rest = divmod(len(values), step)
  y = lax.fori_loop(0, loops, lambda c, y: add(y, step * c, step), y)
  return add(y, step * loops, rest)


def _by_entries_dx(values: jax.Array, dy: jax.Array, indices: jax.Array, *,
                   like: Any) -> jax.Array:
  dtype = numerics.at_least_float32(like.dtype)
  dy = dy.astype(dtype)

  def step(dx, entry):
    value, index = entry
    return _scatter(dx, index, value[:, None].astype(dtype) * dy), None
  zeros = numerics.zeros(like.shape, dtype, (values, dy, indices))
  dx, _ = lax.scan(step, zeros, (values, indices))
  return dx.astype(like.dtype)


def _by_entries_dw(x: jax.Array, dy: jax.Array, indices: jax.Array, *,
                   like: Any) -> jax.Array:
  dtype = numerics.at_least_float32(x.dtype)
  dy = dy.astype(dtype)
  return lax.map(lambda index: (_gather(x, index).astype(dtype) * dy).sum(-1),
                 indices).astype(like.dtype)


def _at_once(x: jax.Array, values: jax.Array, indices: jax.Array, *,
             dtype: Any) -> jax.Array:
  """On accelerators, where loops are slow and dense products are fast.

  What is gathered is never larger than the dense weight: with more tokens that
  is made instead.
  """
  is_fan_in = indices.shape == values.shape
  block = 1 if is_fan_in else values.shape[-1]
  w = Condensed(values, indices, len(x) - 1, block)
  if indices.size * x.shape[1] > math.prod(w.shape):
    return _einsum(
        'kb,kn->nb', x[:-1].astype(values.dtype), uncondense(w), dtype)
  gathered = _gather(x, indices).astype(values.dtype)
  y = _einsum('fn,fnb->nb' if is_fan_in else 'jfs,jfb->jsb',
              values, gathered, dtype)
  return y.reshape(*w.features, x.shape[1])


def _at_once_dx(values: jax.Array, dy: jax.Array, indices: jax.Array, *,
                like: Any) -> jax.Array:
  dtype = numerics.at_least_float32(like.dtype)
  # What is sent back to an input is summed in that dtype.
  return _pulled_back(
      lambda x: _at_once(x, values, indices, dtype=dtype),
      numerics.zeros(like.shape, dtype, (values, dy, indices)),
      dy.astype(dtype)).astype(like.dtype)


def _at_once_dw(x: jax.Array, dy: jax.Array, indices: jax.Array, *, like: Any
                ) -> jax.Array:
  dtype = numerics.at_least_float32(x.dtype)
  return _pulled_back(
      lambda values: _at_once(x.astype(dtype), values, indices, dtype=dtype),
      numerics.zeros(like.shape, like.dtype, (x, dy, indices)),
      dy.astype(dtype))


def _pulled_back(f: Any, at: jax.Array, dy: jax.Array) -> jax.Array:
  """The gradient of a linear function; where it is taken does not matter."""
  _, back = jax.vjp(f, at)
  dx, = back(dy)
  return dx
