"""Condensed weights: the kept weights of blocks of outputs, and their inputs.

A weight `[K, N]` can be condensed if its zeros are whole blocks of 1 x S along
the outputs, or if each output has the same number of inputs. It is stored as
its kept entries:

| | `values` | `indices`, int32 |
|---|---|---|
| blocks, S > 1 | `[N/S, F, S]` | `[N/S, F]` |
| fan-in, S = 1 | `[F, N]` | `[F, N]` |

F is the largest number of inputs that a block column keeps. Block columns with
fewer inputs are padded with the index K, one past the end. The padding reads
inputs of zero and has no gradients. The last axis holds the entries that are
added at once: the outputs of a block, or all outputs.

`_condensed_products` has the products.
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
from jaxsparse._utils import numerics
from jaxsparse._utils.tables import brief
from jaxsparse.packed import _compressed
from jaxsparse.packed import _groups


@dataclasses.dataclass(frozen=True, eq=False)
class Condensed(_compressed.Compressed):
  """A weight of 1 x S blocks, or of constant fan-in; a pytree.

  For `jit`, `vmap` over leading axes, `scan`, `device_put`, `jax.export` and
  checkpoints, the weight consists of two arrays; all other fields are static.
  `matmul` and `uncondense` read it.

  Attributes:
    values: the kept entries, `[..., N/S, F, S]`, or `[..., F, N]` for S = 1.
    indices: the indices of the inputs that the entries multiply, in ascending
      order, int32; the shape of `values` without S.
    inputs: the number of inputs, K.
    block: the number of outputs in a block, S.
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
    """The size of the output axis: (N,)."""
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


_compressed.register(
    Condensed, arrays=['values', 'indices'], static=['inputs', 'block'])


@arguments.checked()
def condense(w: jax.Array, mask_or_pattern: Any, *, block: int | None = None,
             fan_in: int | None = None) -> Condensed:
  """Condenses a weight of 1 x S blocks, or of constant fan-in.

  `uncondense(condense(w, mask))` is `w` where the mask is True, bit for bit,
  and zero elsewhere. A condensed weight has `F * N` values and `F * N / S`
  indices, with F the largest number of inputs that a block column keeps. F is
  smallest for the balanced patterns `block((1, S), balanced=True)`,
  `unstructured(balanced=True)` and `nm(n, K)`.

  Args:
    w: the weight, `[..., K, N]`; leading axes index separate weights.
    mask_or_pattern: a mask of the shape of `w`, True where kept; or the pattern
      by which `w` was pruned, `block((1, S))`, `unstructured(balanced=True)` or
      `nm(n, K)`, where K is the size of the whole contraction axis. With a
      pattern, a block is kept if any of its weights is not zero.
    block: the size S of blocks, for a mask; by default the largest size that
      fits the mask. `block=1` takes any mask, also an unstructured one, and
      pads all columns to the length of the fullest one.
    fan_in: the number F of inputs to pad to, for example to stack several
      weights. It is required inside of `jit`, where kept inputs cannot be
      counted.

  Returns:
    A `Condensed`. The function is differentiable with respect to `w`.

  Raises:
    ValueError: if the mask or pattern has no blocks or constant fan-in, if the
      weight was not pruned by a pattern with its own sparsity, or if more than
      `fan_in` inputs are kept. Inside of `jit` the last is not checked, and the
      first `fan_in` inputs of a block column are kept.

  References:
    Lasby et al., `Dynamic Sparse Training with Structured Sparsity
    <https://arxiv.org/abs/2305.02299>`_, 2023. The paper has S = 1, with values
    ordered by output.

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
        f'{w.dtype} of shape {w.shape}. Write e.g. condense(w, w != 0).')
  even = False
  if hasattr(mask_or_pattern, 'unit'):
    if block is not None:
      raise ValueError(
          f'block= needs a mask, got the pattern {mask_or_pattern}, which '
          'defines its own blocks. Write condense(w, pattern).')
    block, kept = _block_of(mask_or_pattern, w.shape), _alive(w)
    _check_pruned(kept, block, mask_or_pattern)
  else:
    kept = _as_mask(mask_or_pattern, w.shape)
    if block is None:
      block = _largest_block(kept)
      even = block == 1  # Without block=1 the caller expects no padding.
    else:
      _check_block(kept, block)
    w = jnp.where(kept, w, jnp.zeros((), w.dtype))
  fan_in = _checked(kept, block, fan_in, even)
  values, indices = _condense(w, kept, block, fan_in)
  return Condensed(values, indices, w.shape[-2], block)


@jax.jit
def _alive(w: jax.Array) -> jax.Array:
  """Where a weight is not zero; compilers may let floats be so when tiny."""
  # Floats without a negative zero have NaN in its place.
  if not jnp.issubdtype(w.dtype, jnp.floating) or 'fnu' in w.dtype.name:
    return w != 0
  return _groups.magnitudes(w) != 0


def _units(mask: jax.Array, block: int) -> jax.Array:
  """`[..., K, N] -> [..., K, N/S, S]`."""
  *leading, n = mask.shape
  if n // block % numerics.shards(mask)[-1]:  # A block would be cut.
    mask = numerics.whole_along(mask, -1)
  return mask.reshape(*leading, n // block, block)


def _block_of(pattern: Any, shape: tuple[int, ...]) -> int:
  """S of a pattern, if it is one that can be condensed."""
  *others, block = pattern.unit.tile(shape, f'unit of {pattern}')
  *leading, k, one = pattern.group_tile(shape)
  of_axis = math.prod((*leading, one)) == 1 and k == shape[-2]
  if math.prod(others) != 1 or (block == 1 and not of_axis):
    raise ValueError(
        'condense needs the pattern block((1, S)), unstructured(balanced=True) '
        f'or nm(n, {shape[-2]}), got {pattern} for a weight of shape {shape}. '
        'For other N:M use jaxsparse.pack, for channels jaxsparse.slim; for '
        'any other mask write condense(w, mask, block=1).')
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
        f'block= must be a divisor of the number of outputs, {n}, got {block}. '
        'Write e.g. block=1.')
  if not isinstance(mask, jax.core.Tracer) and not _is_of(mask, block):
    raise ValueError(
        f'The mask must consist of 1 x {block} blocks along the last axis. '
        f'Write condense(w, mask), which finds {_largest_block(mask)}.')


def _check_pruned(kept: jax.Array, block: int, pattern: Any) -> None:
  """Raises if a weight keeps more than a pattern with its own sparsity says."""
  if pattern.sparsity is None or isinstance(kept, jax.core.Tracer):
    return
  groups, units = pattern.sizes(kept.shape)
  there, most = _total(_units(kept, block).any(-1).sum(-1)), groups * round(
      (1 - pattern.sparsity) * units)
  if there > most:
    raise ValueError(
        f'condense(w, {pattern}) needs a weight pruned by this pattern, with '
        f'at most {most} nonzero blocks, got {there}. Write condense(w, mask) '
        'with mask = select(jnp.abs(w), pattern).')


def _total(counts: jax.Array) -> int:
  """The sum of int32 counts, which may be no int32: by their binary digits."""
  return sum(int(n) << i for i, n in enumerate(_sums_of_digits(counts)))


@jax.jit
def _sums_of_digits(counts: jax.Array) -> list[jax.Array]:
  return [((counts >> i) & 1).sum() for i in range(31)]


def _largest_block(mask: jax.Array) -> int:
  """The largest S such that the mask is made of 1 x S blocks."""
  if isinstance(mask, jax.core.Tracer):
    raise ValueError(
        'condense needs block= inside of jit, where the values of a mask are '
        'unknown. Write condense(w, mask, block=16, fan_in=...), or condense '
        'outside of jit.')
  columns = np.flatnonzero(_changes(mask)) + 1
  return max(1, math.gcd(mask.shape[-1], *columns.tolist()))


@jax.jit
def _changes(mask: jax.Array) -> jax.Array:
  """Whether a column differs from the next."""
  mask = numerics.whole_along(mask, -1)
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
        f'fan_in= must be the number of inputs of an output, at most {k}, got '
        f'{fan_in}. Write e.g. fan_in={k}.')
  if isinstance(kept, jax.core.Tracer):
    if fan_in is None:
      raise ValueError(
          'condense needs fan_in= inside of jit, because the shape of the '
          'result depends on it. Write condense(..., fan_in=n), or condense '
          'outside of jit.')
    return fan_in
  least, most = map(int, _counts(kept, block))
  if even and least < most:
    raise ValueError(
        'condense needs a mask with blocks along the last axis, or with the '
        f'same number of inputs for every output, got from {least} to {most} '
        f'of {k} inputs. Prune by jaxsparse.block((1, 16)) or jaxsparse.nm(n, '
        f'{k}), or write condense(w, mask, block=1) to pad all to {most}.')
  if fan_in is not None and most > fan_in:
    raise ValueError(
        f'fan_in={fan_in} must be at least {most}, the largest number of '
        f'inputs of an output (of {k}). Prune more, or leave fan_in= out.')
  return most if fan_in is None else fan_in


@functools.partial(jax.jit, static_argnums=(2, 3))
def _condense(w: jax.Array, kept: jax.Array, block: int, fan_in: int
              ) -> tuple[jax.Array, jax.Array]:
  # Explicit axes may share out the outputs; each has all of its inputs.
  w, kept = (numerics.whole_along(a, -2) for a in (w, kept))
  sharding = jax.typeof(w).sharding
  if any(sharding.spec):  # A mask may lie on every device.
    kept = jax.sharding.reshard(kept, sharding)
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
  """The dense weight of a condensed one, zeros included.

  Args:
    w: the result of `condense`.

  Returns:
    The dense weight, `[..., K, N]`.

  >>> uncondense(condense(jnp.array([[0., 0.], [5., 6.]]),
  ...                     jnp.array([[False] * 2, [True] * 2])))
  Array([[0., 0.],
         [5., 6.]], dtype=float32)
  """
  check_condensed(w)
  values, indices = w.values, w.indices
  if w.block == 1:
    values, indices = values.mT[..., None], indices.mT
  put = lambda i, v: jnp.zeros((w.inputs, w.block), v.dtype).at[i].set(
      v, mode='drop')
  dense = jnp.vectorize(put, signature='(f),(f,s)->(k,s)')(indices, values)
  return jnp.moveaxis(dense, -3, -2).reshape(w.shape)


def check_condensed(w: Condensed) -> None:
  """Raises if it is not what `condense` returned."""
  if w.indices.dtype != jnp.int32:
    raise ValueError(
        'The indices of a condensed weight must be int32, got '
        f'{w.indices.dtype}. To change the dtype of its values, write '
        'w.astype(dtype).')
