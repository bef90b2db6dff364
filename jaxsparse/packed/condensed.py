"""Condensed weights: what every few outputs read, and from which inputs.

A weight `[K, N]` whose zeros are whole blocks of 1 x S along the outputs, or
that gives each output the same number of inputs, is held as what was kept:

| | `values` | `indices`, int32 |
|---|---|---|
| blocks, S > 1 | `[N/S, F, S]` | `[N/S, F]` |
| fan-in, S = 1 | `[F, N]` | `[F, N]` |

F is the largest number of inputs that one block column keeps. Where another
has fewer, it is filled up with the index K, one past the end, where any input
counts as zero and nothing is ever sent back to: such entries are zeros
and have no gradients. What lies side by side is what is added at once, the
outputs of a block or all of them.

A product gathers inputs and multiplies. What is fast on CPUs was measured on
two cores at 4096 x 4096, 90% pruned, float32; the docstrings of `_in_parts` and
`_by_entries` say what lost. TPUs gather slowly: by the account of their
compiler a v5e takes eight times as long as for the dense product of one token,
so there a condensed weight saves memory alone.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# What a part of a product gathers should stay in a CPU's caches, but a mesh
# has to find as many block columns side by side as it has devices.
_BYTES = 4 * 2**20
_ABREAST = 16
# So many are added in one pass over a result.
_ENTRIES = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Condensed:
  """A weight of 1 x S blocks, or of constant fan-in; a pytree.

  `jit`, `vmap` over leading axes, `scan`, `device_put` and checkpoints see two
  arrays, the rest is static. What reads them is `matmul` and `uncondense`.

  Attributes:
    values: the kept entries, `[..., N/S, F, S]`, or `[..., F, N]` for S = 1.
    indices: the inputs that they multiply, in order, without S; int32.
    inputs: K.
    block: S.
  """
  values: jax.Array
  indices: jax.Array
  inputs: int
  block: int

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the weight that `uncondense` returns."""
    leading = self.values.shape[:-2 if self.block == 1 else -3]
    return (*leading, *self.contracted, *self.features)

  @property
  def contracted(self) -> tuple[int]:
    """The size of the axis that a product sums over: (K,)."""
    return (self.inputs,)

  @property
  def features(self) -> tuple[int]:
    """The size of the other: (N,)."""
    return (self.indices.shape[-1 if self.block == 1 else -2] * self.block,)

  @property
  def fan_in(self) -> int:
    """The number of inputs that every output reads, padding included: F."""
    return self.indices.shape[-2 if self.block == 1 else -1]

  @property
  def ndim(self) -> int:
    """The rank of the weight that `uncondense` returns."""
    return len(self.shape)

  @property
  def dtype(self) -> jnp.dtype:
    """The dtype of the values."""
    return self.values.dtype

  @property
  def nbytes(self) -> int:
    """The bytes of both arrays."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self))

  def astype(self, dtype: jax.typing.DTypeLike) -> 'Condensed':
    """The weight with values of another dtype."""
    return dataclasses.replace(self, values=self.values.astype(dtype))

  def __repr__(self) -> str:
    # Of a tree in the making, of specs, say, there are no shapes.
    if not hasattr(self.values, 'shape'):
      return f'Condensed({self.values}, {self.indices})'
    return (f'Condensed({"x".join(map(str, self.shape))} {self.dtype}, '
            f'blocks of 1x{self.block}, fan-in {self.fan_in})')


jax.tree_util.register_dataclass(
    Condensed, data_fields=['values', 'indices'],
    meta_fields=['inputs', 'block'])


def condense(w: jax.Array, mask_or_pattern: Any, *, block: int | None = None,
             fan_in: int | None = None) -> Condensed:
  """Condenses a weight of 1 x S blocks, or of constant fan-in.

  `uncondense(condense(w, mask))` is `w` where the mask is True, bit for bit,
  and zero elsewhere. Takes `F * N` values and `F * N / S` indices, F being the
  largest number of inputs that a block column keeps: the least for balanced
  patterns, `block((1, S), balanced=True)` and `nm(n, K)`.

  Args:
    w: `[..., K, N]`, leading axes are other weights.
    mask_or_pattern: a mask of the shape of `w`, True where kept; or the
      pattern by which `w` was pruned, `block((1, S))` or `nm(n, K)`, where K
      is the whole contraction axis. With a pattern a block is kept if any of
      its weights is not zero.
    block: S, for a mask; by default the largest of which the mask is made.
      `block=1` takes any mask, an unstructured one, too, whose fullest column
      then says how long all are.
    fan_in: F, to fill up to, so that several weights can be stacked; inside of
      `jit`, where no one can count, it has to be told.

  Returns:
    A `Condensed`. Differentiable with respect to `w`.

  Raises:
    ValueError: if the mask or pattern is no such thing, the weight was not
      pruned by a pattern that says how sparse it is, or more is kept than
      `fan_in`. Inside of `jit` that cannot be seen: the first `fan_in` of a
      block column are kept.

  References:
    Lasby et al., `Dynamic Sparse Training with Structured Sparsity
    <https://arxiv.org/abs/2305.02299>`_, 2023. There for S = 1, by output.

  >>> w = jnp.array([[1., 2., 0., 0.], [0., 0., 3., 4.], [0., 0., 5., 6.]])
  >>> condensed = condense(w, w != 0)
  >>> condensed
  Condensed(3x4 float32, blocks of 1x2, fan-in 2)
  >>> condensed.indices
  Array([[0, 3],
         [1, 2]], dtype=int32)
  >>> bool((uncondense(condensed) == w).all())
  True
  """
  w = jnp.asarray(w)
  if w.ndim < 2 or w.dtype == bool or jnp.issubdtype(
      w.dtype, jnp.complexfloating):
    raise ValueError(
        'condense needs a weight [..., K, N] of floats or integers, got '
        f'{w.dtype} of shape {w.shape}.')
  even = False
  if hasattr(mask_or_pattern, 'unit'):
    if block is not None:
      raise ValueError(
          f'block= is for masks; {mask_or_pattern} says it itself. Write '
          'condense(w, pattern).')
    block, kept = _block_of(mask_or_pattern, w.shape), _alive(w)
    _check_pruned(kept, block, mask_or_pattern)
  else:
    kept = _as_mask(mask_or_pattern, w.shape)
    if block is None:
      block = _largest_block(kept)
      even = block == 1  # Who has not asked for padding does not expect it.
    else:
      _check_block(kept, block)
    w = jnp.where(kept, w, jnp.zeros((), w.dtype))
  fan_in = _checked(kept, block, fan_in, even)
  return Condensed(*_condense(w, kept, block, fan_in), w.shape[-2], block)


@jax.jit
def _alive(w: jax.Array) -> jax.Array:
  """Where a weight is not zero; compilers may let floats be so when tiny."""
  if not jnp.issubdtype(w.dtype, jnp.floating):
    return w != 0
  bits = lax.bitcast_convert_type(w, np.dtype(f'uint{8 * w.dtype.itemsize}'))
  return bits << 1 != 0


def _units(mask: jax.Array, block: int) -> jax.Array:
  """`[..., K, N] -> [..., K, N/S, S]`."""
  *leading, n = mask.shape
  return mask.reshape(*leading, n // block, block)


def _block_of(pattern: Any, shape: tuple[int, ...]) -> int:
  """S of a pattern, if it is one that can be condensed."""
  *others, block = pattern.unit.tile(shape, f'unit of {pattern}')
  *leading, k, one = pattern.group_tile(shape)
  of_axis = math.prod((*leading, one)) == 1 and k == shape[-2]
  if math.prod(others) != 1 or (block == 1 and not of_axis):
    raise ValueError(
        'condense takes blocks of 1 x S outputs, block((1, S)), and the same '
        f'number of inputs for every output, nm(n, {shape[-2]}), got {pattern} '
        f'for a weight of shape {shape}. N:M of few neighbours is for '
        'jaxsparse.pack, channels for jaxsparse.slim; for any other mask write '
        'condense(w, mask, block=1).')
  return block


def _as_mask(mask: Any, shape: tuple[int, ...]) -> jax.Array:
  dtype = getattr(mask, 'dtype', None)
  if dtype != np.dtype(bool) or mask.shape != shape:
    got = mask if dtype is None else f'{dtype} of shape {mask.shape}'
    raise ValueError(
        'condense(w, mask) needs a pattern or a bool mask of the shape of w, '
        f'{shape}, got {got}. Write e.g. condense(w, w != 0).')
  return jnp.asarray(mask)


def _check_block(mask: jax.Array, block: int) -> None:
  """Raises if a mask is not made of 1 x S blocks."""
  n = mask.shape[-1]
  if type(block) is not int or block < 1 or n % block:
    raise ValueError(
        'block= is the number of outputs of a block and must divide that of '
        f'all, {n}, got {block}.')
  if not isinstance(mask, jax.core.Tracer) and not _is_of(mask, block):
    raise ValueError(
        f'The mask is not made of 1 x {block} blocks along the last axis. '
        f'Write condense(w, mask), which finds {_largest_block(mask)}.')


def _check_pruned(kept: jax.Array, block: int, pattern: Any) -> None:
  """Raises if a weight keeps more than a pattern with its own sparsity says."""
  if pattern.sparsity is None or isinstance(kept, jax.core.Tracer):
    return
  groups, units = pattern.sizes(kept.shape)
  there, most = int(_units(kept, block).any(-1).sum()), groups * round(
      (1 - pattern.sparsity) * units)
  if there > most:
    raise ValueError(
        f'condense(w, {pattern}) takes a weight that has been pruned by it, of '
        f'which {most} blocks are not zero, got {there}. Write condense(w, '
        'mask) with mask = select(jnp.abs(w), pattern).')


def _largest_block(mask: jax.Array) -> int:
  """The largest S such that the mask is made of 1 x S blocks."""
  if isinstance(mask, jax.core.Tracer):
    raise ValueError(
        'Inside of jit no one can see of which blocks a mask is made. Write '
        'condense(w, mask, block=16, fan_in=...), or condense outside.')
  columns = np.flatnonzero(_changes(mask)) + 1
  return max(1, math.gcd(mask.shape[-1], *columns.tolist()))


@jax.jit
def _changes(mask: jax.Array) -> jax.Array:
  """Whether a column differs from the next."""
  return (mask[..., 1:] != mask[..., :-1]).any(range(mask.ndim - 1))


@functools.partial(jax.jit, static_argnums=1)
def _is_of(mask: jax.Array, block: int) -> jax.Array:
  """Whether it is made of 1 x S blocks."""
  units = _units(mask, block)
  return (units == units[..., :1]).all()


@functools.partial(jax.jit, static_argnums=1)
def _counts(kept: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
  """The least and the most inputs that a block column keeps."""
  counts = _units(kept, block).any(-1).sum(-2)
  return counts.min(initial=kept.shape[-2]), counts.max(initial=0)


def _checked(kept: jax.Array, block: int, fan_in: int | None, even: bool
             ) -> int:
  """The fan-in; raises if it is too small, or if there is none."""
  k = kept.shape[-2]
  if fan_in is not None and not 0 <= fan_in <= k:
    raise ValueError(
        f'fan_in= is how many of {k} inputs an output reads, got {fan_in}.')
  if isinstance(kept, jax.core.Tracer):
    if fan_in is None:
      raise ValueError(
          'Inside of jit kept inputs cannot be counted, but how many there are '
          'is the shape of the result. Write condense(..., fan_in=n), or '
          'condense outside.')
    return fan_in
  least, most = map(int, _counts(kept, block))
  if even and least < most:
    raise ValueError(
        'The mask has neither blocks along the last axis, nor the same number '
        f'of inputs for every output: these keep from {least} to {most} of '
        f'{k}. Prune by jaxsparse.block((1, 16)) or jaxsparse.nm(n, {k}), or '
        f'write condense(w, mask, block=1) to fill all up to {most}.')
  if fan_in is not None and most > fan_in:
    raise ValueError(
        f'An output reads {most} of {k} inputs, more than fan_in={fan_in}. '
        'Prune more, or leave fan_in= out.')
  return most if fan_in is None else fan_in


@functools.partial(jax.jit, static_argnums=(2, 3))
def _condense(w: jax.Array, kept: jax.Array, block: int, fan_in: int
              ) -> tuple[jax.Array, jax.Array]:
  k = w.shape[-2]
  rows = lax.broadcasted_iota(jnp.int32, (k, w.shape[-1] // block), 0)
  rows = jnp.where(_units(kept, block).any(-1), rows, k)
  take = functools.partial(
      jnp.take_along_axis, axis=-2, mode='fill', fill_value=0)
  if block == 1:
    indices = jnp.sort(rows, -2)[..., :fan_in, :]
    return take(w, indices), indices
  indices = jnp.sort(rows.mT)[..., :fan_in]
  return take(jnp.moveaxis(_units(w, block), -2, -3), indices[..., None]), (
      indices)


@jax.jit
def uncondense(w: Condensed) -> jax.Array:
  """The weight that was condensed, zeros included.

  Args:
    w: what `condense` returned.

  Returns:
    `[..., K, N]`.

  >>> uncondense(condense(jnp.array([[0., 0.], [5., 6.]]),
  ...                     jnp.array([[False] * 2, [True] * 2])))
  Array([[0., 0.],
         [5., 6.]], dtype=float32)
  """
  values, indices = w.values, w.indices
  if w.block == 1:
    values, indices = values.mT[..., None], indices.mT
  put = lambda i, v: jnp.zeros((w.inputs, w.block), v.dtype).at[i].set(
      v, mode='drop')
  dense = jnp.vectorize(put, signature='(f),(f,s)->(k,s)')(indices, values)
  return jnp.moveaxis(dense, -3, -2).reshape(w.shape)


def product(x: jax.Array, w: Condensed, dtype: Any) -> jax.Array:
  """`x @ w` for `x [..., K]`, summed in and of a dtype.

  On a mesh weights are sharded over block columns. Explicit axes become the
  compiler's here, which knows how to gather from what is sharded.
  """
  inputs, columns = (jax.typeof(a).sharding.spec for a in (x, w.values))
  if not any((*inputs, *columns)):
    return _folded(x, w, dtype)
  return jax.sharding.auto_axes(
      functools.partial(_folded, dtype=dtype),
      out_sharding=jax.sharding.PartitionSpec(
          *inputs[:-1], columns[-1 if w.block == 1 else 0]))(x, w)


def _folded(x: jax.Array, w: Condensed, dtype: Any) -> jax.Array:
  if not w.values.size:
    return jnp.zeros((*x.shape[:-1], *w.features), dtype)
  rows = x.reshape(math.prod(x.shape[:-1]), w.inputs)
  # Tokens come last: what is gathered are contiguous rows of them. The input
  # that padding reads is made here, and what is sent back to it is dropped.
  rows = jnp.pad(rows.T, ((0, 1), (0, 0)))
  y = _product(rows, w.values.astype(x.dtype), w.indices, jnp.dtype(dtype))
  return y.T.reshape(*x.shape[:-1], *w.features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _product(x: jax.Array, values: jax.Array, indices: jax.Array, dtype: Any
             ) -> jax.Array:
  """`[K + 1, B] -> [N, B]`.

  The gradients need neither what was gathered nor the dense weight in memory,
  and on CPUs half of the time of those that jax would make of this.
  """
  cpu = _by_entries if indices.shape == values.shape else _in_parts
  return lax.platform_dependent(
      x, values, indices, cpu=functools.partial(cpu, dtype=dtype),
      default=functools.partial(_at_once, dtype=dtype))


def _forward(x, values, indices, dtype):
  return _product(x, values, indices, dtype), (x, values, indices)


def _backward(dtype, saved, dy):
  if not jnp.issubdtype(dtype, jnp.floating):
    return None, None, None
  x, values, indices = saved
  cpu = (_by_entries_back if indices.shape == values.shape
         else _in_parts_back)
  dx, dvalues = lax.platform_dependent(
      x, values, indices, dy.astype(x.dtype), cpu=cpu, default=_at_once_back)
  return dx, dvalues, None


_product.defvjp(_forward, _backward)


def _gather(x: jax.Array, indices: jax.Array) -> jax.Array:
  """Rows of `[K + 1, B]`; with checks it takes half as long again."""
  return x.at[indices].get(mode='promise_in_bounds')


def _scatter(dx: jax.Array, indices: jax.Array, more: jax.Array) -> jax.Array:
  return dx.at[indices].add(more, mode='promise_in_bounds')


def _einsum(spec: str, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
  # As of packed weights: who keeps float32 weights wants float32 products.
  precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
  return jnp.einsum(
      spec, a, b, precision=precision, preferred_element_type=dtype)


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


def _in_parts_back(x: jax.Array, values: jax.Array, indices: jax.Array,
                   dy: jax.Array) -> tuple[jax.Array, jax.Array]:
  dtype = _sums_of(x)
  dy = dy.reshape(*values.shape[::2], x.shape[1])
  parts, pick = _parts(indices, x.shape[1] * x.dtype.itemsize)

  def step(dx, t):
    here, d = pick(indices, t), pick(dy, t)
    dvalues = _einsum('jfb,jsb->jfs', _gather(x, here), d, dtype)
    gathered = _einsum('jfs,jsb->jfb', pick(values, t), d, dtype)
    return _scatter(dx, here, gathered), dvalues
  dx, dvalues = lax.scan(step, jnp.zeros(x.shape, dtype), jnp.arange(parts))
  return (dx.astype(x.dtype), dvalues.swapaxes(0, 1).reshape(
      values.shape).astype(values.dtype))


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
  y = jnp.zeros((values.shape[1], x.shape[1]), dtype)
  step = min(_ENTRIES, len(values))
  loops, rest = divmod(len(values), step)
  y = lax.fori_loop(0, loops, lambda c, y: add(y, step * c, step), y)
  return add(y, step * loops, rest)


def _by_entries_back(x: jax.Array, values: jax.Array, indices: jax.Array,
                     dy: jax.Array) -> tuple[jax.Array, jax.Array]:
  dtype = _sums_of(x)
  dy = dy.astype(dtype)

  def step(dx, entry):
    value, index = entry
    dvalues = (_gather(x, index).astype(dtype) * dy).sum(-1)
    return _scatter(dx, index, value[:, None].astype(dtype) * dy), dvalues
  dx, dvalues = lax.scan(
      step, jnp.zeros(x.shape, dtype), (values, indices))
  return dx.astype(x.dtype), dvalues.astype(values.dtype)


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


def _at_once_back(x: jax.Array, values: jax.Array, indices: jax.Array,
                  dy: jax.Array) -> tuple[jax.Array, jax.Array]:
  dtype = _sums_of(x)
  _, back = jax.vjp(  # What is sent back to an input is summed in that dtype.
      lambda x, values: _at_once(x, values, indices, dtype=dtype),
      x.astype(dtype), values)
  dx, dvalues = back(dy.astype(dtype))
  return dx.astype(x.dtype), dvalues


def _sums_of(x: jax.Array) -> jnp.dtype:
  """The dtype of sums in gradients."""
  return max(x.dtype, jnp.dtype(jnp.float32), key=lambda d: d.itemsize)
