"""Products with tiled packed 2:4 weights on TPU, as Pallas kernels.

TPUs have no sparse matrix units. The gain is in reading: a packed bfloat16
weight has 0.5625 of the bytes, and a product with few rows of x takes the time
of reading its weight. A block of the weight is decompressed in VMEM into four
*planes*. Plane j holds row j of every group of four, with zeros for pruned
entries. XLA splits the columns of x in the same way:

  y = sum_j x[:, j::4] @ w[j::4]

so the kernel gathers and interleaves nothing. The bits of `positions` are laid
out such that a shift and a bitcast align the bits of each group with its values
(see `jaxsparse.packed._planar_layout`). This file has the product and the
product with the transposed weight, because both decompress in the same way.
"""

import functools
from typing import Any, Callable, Iterator

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np

_TILE = 64  # Groups of a tile of positions: 8 words, eight groups in each.
_LANES = 128
_ROW_TILE = 16  # Rows of a bfloat16 register.
_USED = ('CompilerParams', 'VMEM', 'bitcast')


def matmul(x: jax.Array, values: jax.Array, positions: jax.Array, *,
           out_dtype: jax.typing.DTypeLike | None = None,
           interpret: Any = False) -> jax.Array:
  """The product `x @ w` with a planar packed weight.

    y[t, n] = sum_k x[t, k] * w[k, n],   summed in float32

  Args:
    x: `[T, K']`, bfloat16 or float32 as `values`.
    values: `[2, K'/4, N]`, K' a multiple of 256.
    positions: int32 `[K'/32, N]`.
    out_dtype: of the result, bfloat16 or float32; that of `x` by default.
    interpret: what `pallas_call` makes of it: True and
      `pltpu.InterpretParams()` run on a CPU.

  Returns:
    `[T, N]`.

  Raises:
    NotImplementedError: if the kernel cannot serve, with the reason.
    ValueError: if shapes do not belong together.

  >>> values = jnp.ones((2, 64, 3), jnp.bfloat16)
  >>> positions = jnp.full((8, 3), 0x33333333, jnp.int32)  # Rows 0, 1 of four.
  >>> x = jnp.arange(256.).astype(jnp.bfloat16)[None]
  >>> matmul(x, values, positions, interpret=True, out_dtype=jnp.float32)
  Array([[16192., 16192., 16192.]], dtype=float32)
  """
  out_dtype = check(x, values, positions, out_dtype=out_dtype)
  t, k = x.shape
  groups, n = values.shape[1:]
  if k != 4 * groups:
    raise ValueError(
        f'matmul needs x [T, {4 * groups}] for values of shape '
        f'{values.shape}, got {x.shape}.')
  rows, block, columns = _blocks(t, values)
  if 1 < t < 8:
    # XLA is three times as slow in dealing out the columns of so few rows.
    x = jnp.pad(x, ((0, 8 - t), (0, 0)))
  planes = x.reshape(-1, groups, 4).transpose(2, 0, 1)
  planes = jnp.pad(planes, ((0, 0), (0, 0), (0, -groups % block)))
  # Words beyond the last group of a block are garbage: to be set to zero.
  limit = groups // 8 if groups % block else None
  grid = (pl.cdiv(n, columns), pl.cdiv(t, rows), pl.cdiv(groups, block))
  return pl.pallas_call(
      functools.partial(_product, limit=limit),
      grid=grid,
      in_specs=[
          pl.BlockSpec((4, rows, block), lambda j, i, k: (0, i, k)),
          pl.BlockSpec((2, block, columns), lambda j, i, k: (0, k, j)),
          pl.BlockSpec((block // 8, columns), lambda j, i, k: (k, j))],
      out_specs=pl.BlockSpec((rows, columns), lambda j, i, k: (i, j)),
      out_shape=_result((t, n), out_dtype, planes, values, positions),
      scratch_shapes=[pltpu.VMEM((rows, columns), jnp.float32)],
      **_settings(planes, values, positions, t * n * out_dtype.itemsize),
      interpret=interpret,
  )(planes, values, positions)


def matmul_transposed(
    dy: jax.Array, values: jax.Array, positions: jax.Array, *,
    out_dtype: jax.typing.DTypeLike | None = None,
    interpret: Any = False) -> jax.Array:
  """The product `dy @ w.T`: the gradient of `matmul` with respect to x.

    dx[t, k] = sum_n dy[t, n] * w[k, n],   summed in float32

  It reads the same arrays as `matmul`; a weight packed along its outputs, as
  GPUs need, is not needed here.

  Args:
    dy: `[T, N]`, bfloat16 or float32 as `values`.
    values: `[2, K'/4, N]`, K' a multiple of 256.
    positions: int32 `[K'/32, N]`.
    out_dtype: of the result, bfloat16 or float32; that of `dy` by default.
    interpret: as of `matmul`.

  Returns:
    `[T, K']`.

  Raises:
    NotImplementedError: if the kernel cannot serve, with the reason.
    ValueError: if shapes do not belong together.

  >>> values = jnp.ones((2, 64, 3), jnp.bfloat16)
  >>> positions = jnp.full((8, 3), 0x33333333, jnp.int32)  # Rows 0, 1 of four.
  >>> dy = jnp.ones((1, 3), jnp.bfloat16)
  >>> matmul_transposed(dy, values, positions, interpret=True)[0, :8]
  Array([3, 3, 0, 0, 3, 3, 0, 0], dtype=bfloat16)
  """
  out_dtype = check(dy, values, positions, out_dtype=out_dtype)
  groups, n = values.shape[1:]
  t = dy.shape[0]
  if dy.shape[1] != n:
    raise ValueError(
        f'matmul_transposed needs dy [T, {n}] for values of shape '
        f'{values.shape}, got {dy.shape}.')
  rows, block, columns = _blocks(t, values)
  dy = jnp.pad(dy, ((0, 0), (0, -n % columns)))
  limit = n if n % columns else None
  grid = (pl.cdiv(groups, block), pl.cdiv(t, rows), pl.cdiv(n, columns))
  planes = pl.pallas_call(
      functools.partial(_transposed_product, limit=limit),
      grid=grid,
      in_specs=[
          pl.BlockSpec((rows, columns), lambda k, i, j: (i, j)),
          pl.BlockSpec((2, block, columns), lambda k, i, j: (0, k, j)),
          pl.BlockSpec((block // 8, columns), lambda k, i, j: (k, j))],
      out_specs=pl.BlockSpec((4, rows, block), lambda k, i, j: (0, i, k)),
      out_shape=_result((4, t, groups), out_dtype, dy, values, positions),
      scratch_shapes=[pltpu.VMEM((4, rows, block), jnp.float32)],
      **_settings(dy, values, positions, 4 * t * groups * out_dtype.itemsize),
      interpret=interpret,
  )(dy, values, positions)
  return planes.transpose(1, 2, 0).reshape(t, 4 * groups)


def check(x: jax.Array, values: jax.Array, positions: jax.Array, *,
          out_dtype: jax.typing.DTypeLike | None = None) -> jnp.dtype:
  """Raises if the kernels cannot serve; arrays or their shapes and dtypes.

  Args:
    x: the left operand of either product.
    values: `[2, K'/4, N]`.
    positions: int32 `[K'/32, N]`.
    out_dtype: as of `matmul`.

  Returns:
    The dtype of the result.

  Raises:
    NotImplementedError: if the kernels cannot serve, with the reason.
    ValueError: if `values` and `positions` do not belong together.

  >>> check(jnp.ones((1, 256), jnp.int8), jnp.ones((2, 64, 3), jnp.int8),
  ...       jnp.zeros((8, 3), jnp.int32))
  Traceback (most recent call last):
  NotImplementedError: the TPU kernel has bfloat16 and float32 operands, got ...
  """
  if moved := [name for name in _USED if not hasattr(pltpu, name)]:
    raise NotImplementedError(
        f'jax {jax.__version__} has no Pallas for TPU as the kernel knows it: '
        f'{moved} are missing')
  out_dtype = jnp.dtype(x.dtype if out_dtype is None else out_dtype)
  if x.ndim != 2 or values.ndim != 3 or values.shape[0] != 2 or (
      values.shape[1] % _TILE or positions.dtype != jnp.int32 or
      positions.shape != (values.shape[1] // 8, values.shape[2])):
    raise ValueError(
        "The TPU kernel needs x [T, K'], values [2, K'/4, N] and positions, "
        "int32 [K'/32, N], K' a multiple of 256, got "
        f'{x.shape}, {values.shape} and {positions.dtype} {positions.shape}. '
        'Write jaxsparse.matmul(x, jaxsparse.pack(w)).')
  served = (jnp.bfloat16, jnp.float32)
  if values.dtype not in served or x.dtype not in served:
    raise NotImplementedError(
        'the TPU kernel has bfloat16 and float32 operands, got '
        f'{x.dtype} and {values.dtype}')
  if x.dtype != values.dtype:
    raise NotImplementedError(
        f'the TPU kernel has operands of one dtype, got {x.dtype} and '
        f'{values.dtype}')
  if out_dtype not in served:
    raise NotImplementedError(
        f'the TPU kernel gives bfloat16 and float32, not {out_dtype}')
  if 0 in (*x.shape, *values.shape):
    raise NotImplementedError(
        f'the TPU kernel has no empty operands, got {x.shape} and '
        f'{values.shape}')
  return out_dtype


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _blocks(t: int, values: jax.Array) -> tuple[int, int, int]:
  """Sizes of blocks: rows of x, groups of the weight, columns of it.

  Each block of the weight is decompressed again for every block of rows, which
  are therefore many where there are many, while everything, twice where it is
  fetched ahead, stays within the 16 MiB of VMEM that a TPU v4 has. Wide blocks
  spread the cost of a grid step, narrow ones shorten the wait for the first.
  """
  groups, n = values.shape[1:]
  rows = min(_round_up(t, _ROW_TILE), 1024 // values.dtype.itemsize)
  most = 512 if rows <= 128 else 256
  # As even as can be, in whole lanes of x, if there are several.
  parts = pl.cdiv(groups, most)
  block = groups if parts == 1 else _round_up(pl.cdiv(groups, parts), _LANES)
  wide = 2048 // values.dtype.itemsize if n >= 8192 else 512
  return rows, block, min(_round_up(n, _LANES), wide)


def _result(shape: tuple[int, ...], dtype: Any, *operands: jax.Array) -> Any:
  """The type of a result, which in `jax.shard_map` varies as its operands."""
  return jax.eval_shape(lambda *xs: jnp.zeros(shape, dtype) + sum(
      jnp.sum(x).astype(dtype) for x in xs), *operands)


def _settings(left: jax.Array, values: jax.Array, positions: jax.Array,
              out_bytes: int) -> dict[str, Any]:
  """Further arguments of `pallas_call`."""
  t = left.shape[-2]
  return dict(
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=('parallel', 'parallel', 'arbitrary')),
      cost_estimate=pl.CostEstimate(
          flops=4 * t * values.size, transcendentals=0,
          bytes_accessed=out_bytes + sum(
              a.size * a.dtype.itemsize for a in (left, values, positions))))


def _chunks(size: int, most: int) -> Iterator[tuple[int, slice]]:
  """Parts of a block that are decompressed at once, for want of registers."""
  for start in range(0, size, most):
    yield start, slice(start, min(start + most, size))


def _start(sum_ref) -> jax.Array:
  """Which part of the sum it is; the first begins with zeros."""
  step = pl.program_id(2)

  @pl.when(step == 0)
  def _():
    sum_ref[...] = jnp.zeros_like(sum_ref)
  return step


def _finish(sum_ref, out_ref) -> None:
  """Writes the sum, if this was the last part of it."""
  @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
  def _():
    out_ref[...] = sum_ref[...].astype(out_ref.dtype)


def _product(x_ref, values_ref, words_ref, y_ref, sum_ref, *,
             limit: int | None) -> None:
  """Adds a block of groups to a block of `x @ w`."""
  step = _start(sum_ref)

  def is_inside(start, shape):
    row = lax.broadcasted_iota(jnp.int32, shape, 0)
    return row + (step * words_ref.shape[0] + start // 8) < limit

  for _, columns in _chunks(values_ref.shape[2], 256):
    total = sum_ref[:, columns]
    for start, groups in _chunks(values_ref.shape[1], _most_groups(values_ref)):
      inside = functools.partial(is_inside, start) if limit else None
      planes = _planes(values_ref, words_ref, groups, columns, inside)
      for j, plane in enumerate(planes):
        total += _dot(x_ref[j, :, groups], plane, 0)
    sum_ref[:, columns] = total

  _finish(sum_ref, y_ref)


def _transposed_product(dy_ref, values_ref, words_ref, planes_ref, sum_ref, *,
                        limit: int | None) -> None:
  """Adds a block of columns to a block of the planes of `dy @ w.T`."""
  step = _start(sum_ref)

  def is_inside(start, shape):
    column = lax.broadcasted_iota(jnp.int32, shape, 1)
    return column + (step * words_ref.shape[1] + start) < limit

  for _, groups in _chunks(values_ref.shape[1], _most_groups(values_ref)):
    for start, columns in _chunks(values_ref.shape[2], 256):
      inside = functools.partial(is_inside, start) if limit else None
      planes = _planes(values_ref, words_ref, groups, columns, inside)
      for j, plane in enumerate(planes):
        sum_ref[j, :, groups] += _dot(dy_ref[:, columns], plane, 1)

  _finish(sum_ref, planes_ref)


def _most_groups(values_ref) -> int:
  return 512 // values_ref.dtype.itemsize


def _planes(values_ref, words_ref, groups: slice, columns: slice,
            is_inside: Callable[[tuple[int, ...]], jax.Array] | None
            ) -> list[jax.Array]:
  """Row j of every group, for j = 0..3: `[groups, columns]` each."""
  words = words_ref[groups.start // 8:groups.stop // 8, columns]
  if is_inside:
    # Nothing is kept outside, whatever was read there, NaN included.
    words = jnp.where(is_inside(words.shape), words, 0)
  size = words.shape[1]
  tiles = words.reshape(-1, 8, size)
  bits = jnp.stack([tiles >> (4 * s) for s in range(4)], 1)
  # Halves of 32 bits are neighbouring rows of 16 bits. Selecting by these takes
  # fewer compiled instructions than masks made in the words on TPU v5e to v6e,
  # and more on v4.
  bits = pltpu.bitcast(bits.reshape(-1, size), jnp.int16)
  first, second = (values_ref[i, groups, columns] for i in range(2))
  if first.dtype == jnp.float32:
    bits = bits.astype(jnp.int32)
  kept = [bits & np.array(1 << j, bits.dtype) != 0 for j in range(4)]
  zero = jnp.zeros_like(first)
  return [
      jnp.where(kept[0], first, zero),
      jnp.where(kept[1], jnp.where(kept[0], second, first), zero),
      jnp.where(kept[2], jnp.where(kept[3], first, second), zero),
      jnp.where(kept[3], second, zero)]


def _dot(x: jax.Array, plane: jax.Array, axis: int) -> jax.Array:
  """Sums over the last axis of x and an axis of a plane, in float32."""
  # Who keeps float32 weights wants float32 products; TPUs round by default.
  precision = (lax.Precision.HIGHEST if x.dtype == jnp.float32
               else lax.Precision.DEFAULT)
  return lax.dot_general(x, plane, (((1,), (axis,)), ((), ())),
                         precision=precision,
                         preferred_element_type=jnp.float32)
