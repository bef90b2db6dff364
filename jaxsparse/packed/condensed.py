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

`_condensed_products` multiplies with them.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils.tables import brief
from jaxsparse.packed import _groups
from jaxsparse.packed._compressed import Compressed


@dataclasses.dataclass(frozen=True, eq=False)
class Condensed(Compressed):
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


@arguments.checked()
def condense(w: jax.Array, mask_or_pattern: Any, *, block: int | None = None,
             fan_in: int | None = None) -> Condensed:
  """Condenses a weight of 1 x S blocks, or of constant fan-in.

  `uncondense(condense(w, mask))` is `w` where the mask is True, bit for bit,
  and zero elsewhere. Takes `F * N` values and `F * N / S` indices, F being the
  largest number of inputs that a block column keeps: the least for balanced
  patterns, `block((1, S), balanced=True)`, `unstructured(balanced=True)` and
  `nm(n, K)`.

  Args:
    w: `[..., K, N]`, leading axes are other weights.
    mask_or_pattern: a mask of the shape of `w`, True where kept; or the
      pattern by which `w` was pruned, `block((1, S))`,
      `unstructured(balanced=True)` or `nm(n, K)`, where K is the whole
      contraction axis. With a pattern a block is kept if any of its weights is
      not zero.
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
  values, indices = _condense(w, kept, block, fan_in)
  return Condensed(values, indices, w.shape[-2], block)


@jax.jit
def _alive(w: jax.Array) -> jax.Array:
  """Where a weight is not zero; compilers may let floats be so when tiny."""
  if not jnp.issubdtype(w.dtype, jnp.floating):
    return w != 0
  return _groups.magnitudes(w) != 0


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
        'number of inputs for every output, unstructured(balanced=True) or '
        f'nm(n, {shape[-2]}), got {pattern} for a weight of shape {shape}. N:M '
        'of few neighbours is for jaxsparse.pack, channels for jaxsparse.slim; '
        'for any other mask write condense(w, mask, block=1).')
  return block


def _as_mask(mask: Any, shape: tuple[int, ...]) -> jax.Array:
  dtype = getattr(mask, 'dtype', None)
  if dtype != np.dtype(bool) or mask.shape != shape:
    got = brief(mask) if dtype is None else f'{dtype} of shape {mask.shape}'
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


@arguments.checked()
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
