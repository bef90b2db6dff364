"""Packed 2:4 weights: the two kept entries of every four, and where they were.

A weight is read as a matrix `w[K, N]` whose groups of four run along K, the
contraction axis, which is padded with zeros to `K'`, a multiple of 256. The
same class holds it in one of two layouts:

| layout | `values` | `positions`, int32 |
|---|---|---|
| `'planar'` | `[2, K'/4, N]` | `[K'/32, N]` |
| `'hopper'` | `[N', K'/2]`, N padded to 128 | `[N'/64, K'/128, 256]` |

*Planar* is what `pack` returns, what XLA and the TPU kernel read, and what
belongs in a checkpoint. Its positions are four bits a group, bit j for its row
j, of which two are set. A tile of 256 rows has 64 groups in 8 words: group
`2 * (8 * s + r) + h` is in word r, from bit `16 * h + 4 * s` on. So
`words >> 4 * s` for s = 0..3, one under the other, have the bits of
neighbouring groups in the two halves of a word, as a TPU's registers have
neighbouring rows of bfloat16.

*Hopper* is what H100 and H200 read, in the order of their instruction; it is
told in `_hopper_layout`.
"""

import dataclasses
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse.packed import _groups
from jaxsparse.packed import _hopper_layout
from jaxsparse.packed._compressed import Compressed

_LAYOUTS = ('planar', 'hopper')
# Those whose two zeros are where those of other floats are.
_BYTES = (jnp.int8, jnp.float8_e4m3fn, jnp.float8_e5m2)
# From which bit of a word on the group of s and h is, as told above.
_SHIFTS = np.array(
    [[16 * h + 4 * s for h in range(2)] for s in range(4)], np.uint32)


@dataclasses.dataclass(frozen=True, eq=False)
class Packed24(Compressed):
  """A 2:4 weight in 0.5625 of the memory (bfloat16); a pytree.

  `jit`, `vmap` over leading axes, `scan`, `device_put` and checkpoints see two
  arrays, the rest is static. What reads them is `matmul` and `unpack`.

  Attributes:
    values: the kept entries.
    positions: where they were; int32.
    transposed: the same weight packed along its outputs, or `None`.
    contracted: the sizes of the axes that a product sums over.
    features: the sizes of the others, but for leading axes.
    contracted_last: whether the weight is `[..., out, in]`.
    layout: 'planar' or 'hopper'.
  """
  values: jax.Array
  positions: jax.Array
  transposed: 'Packed24 | None'
  contracted: tuple[int, ...]
  features: tuple[int, ...]
  contracted_last: bool = False
  layout: str = 'planar'

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the weight that `unpack` returns."""
    leading = self.values.shape[:-3 if self.layout == 'planar' else -2]
    return leading + (self.features + self.contracted if self.contracted_last
                      else self.contracted + self.features)

  def astype(self, dtype: jax.typing.DTypeLike) -> 'Packed24':
    """The weight with values of another dtype."""
    other = self.transposed
    return dataclasses.replace(
        self, values=self.values.astype(dtype),
        transposed=other and other.astype(dtype))

  def __repr__(self) -> str:
    # Of a tree in the making, of specs, say, there are no shapes.
    sizes = getattr(self.values, 'shape', None) and 'x'.join(
        map(str, self.shape)) + f' {self.dtype}'
    both = ', transposed too' * (self.transposed is not None)
    return f'Packed24({sizes or self.values}, {self.layout}{both})'


jax.tree_util.register_dataclass(
    Packed24, data_fields=['values', 'positions', 'transposed'],
    meta_fields=['contracted', 'features', 'contracted_last', 'layout'])


def pack(w: jax.Array, *, axis: int | tuple[int, ...] = -2,
         transposed: bool = False) -> Packed24:
  """Packs a 2:4 weight: of every four along an axis, two and their places.

  `unpack(pack(w))` is `w` bit for bit, but that -0.0 becomes 0.0. Takes
  `K/2 * N` values and half a byte for every group: 1.125 bytes for a weight of
  bfloat16 (0.5625 of 2), 2.125 for float32, 0.625 for int8. K counts as padded
  to a multiple of 256. Both are differentiable.

  Args:
    w: `[..., K, N]` of floats (8-bit ones: float8_e4m3fn and float8_e5m2) or
      int8; leading axes are other weights.
    axis: what a product sums over, and along which the weight is 2:4, as in
      `nm`: -2 (default) of `[in, out]`, -1 of `[out, in]`, -3 of attention's
      `[in, heads, head_dim]`, (-3, -2) of its output `[heads, head_dim, out]`.
    transposed: also packs the weight along its outputs, for gradients with
      respect to the inputs on GPUs; needs a weight that is 2:4 both ways, as
      `nm(2, 4, transposable=True)` makes it.

  Returns:
    A `Packed24` in the planar layout.

  Raises:
    ValueError: for another dtype or no such axis, and if a group has three or
      four entries that are not zero; it is named. Inside `jit` values cannot be
      looked at: there the two of largest magnitude are kept, the first of equal
      ones.

  References:
    Mishra et al., `Accelerating Sparse Deep Neural Networks
    <https://arxiv.org/abs/2104.08378>`_, 2021. There an index of two bits for
    each kept entry, here four bits of occupancy for each group: as many.

  >>> w = jnp.array([[1., 0.], [0., 0.], [-2., 3.], [0., 0.]], jnp.bfloat16)
  >>> packed = pack(w)
  >>> packed.shape, bool((unpack(packed) == w).all())
  ((4, 2), True)
  >>> pack(jnp.zeros((512, 512), jnp.bfloat16)).nbytes / (2 * 512 * 512)
  0.5625
  """
  if isinstance(w, Packed24):
    raise ValueError(f'pack takes a dense weight, got {w!r}.')
  w = jnp.asarray(w)
  if not (w.dtype in _BYTES or w.dtype.itemsize > 1
          and jnp.issubdtype(w.dtype, jnp.floating)):
    raise ValueError(
        'pack needs floats, float8_e4m3fn, float8_e5m2 or int8, got '
        f'{w.dtype}. Write e.g. pack(w.astype(jnp.bfloat16)).')
  matrix, sizes, outs, last = _matrix(w, axis)
  if not isinstance(w, jax.core.Tracer):
    _check(w, axis, _groups.split_groups(matrix))
    if transposed and not is_24(matrix, -1):
      raise ValueError(
          'pack(w, transposed=True) needs a weight that is 2:4 along its '
          'outputs, too. Prune by jaxsparse.nm(2, 4, transposable=True).')
  other = None
  if transposed:
    values, positions = _pack(matrix.mT)
    other = Packed24(values, positions, None, outs, sizes, not last)
  values, positions = _pack(matrix)
  return Packed24(values, positions, other, sizes, outs, last)


def is_24(w: jax.Array, axis: int | tuple[int, ...] = -2) -> bool:
  """Whether no group of four along an axis has three that are not zero.

  >>> is_24(jnp.eye(4)), is_24(jnp.ones((4, 4)))
  (True, False)
  """
  return not _groups.are_full(_groups.split_groups(_matrix(w, axis)[0])).any()


def _axes(shape: tuple[int, ...], axis: int | tuple[int, ...]
          ) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The axes that are contracted and those of the features, from the end."""
  rank = len(shape)
  joined = axis if isinstance(axis, tuple) else (axis,)
  joined = tuple(a - rank if a >= 0 else a for a in joined)
  if (rank < 2 or not joined or joined[0] < -rank or joined[-1] >= 0
      or joined != tuple(range(joined[0], joined[0] + len(joined)))
      or len(joined) == rank):
    raise ValueError(
        'pack needs a weight of two axes or more and the axis, or neighbouring '
        f'axes, along which it is 2:4, got shape {shape} and axis={axis}. '
        "Flax's kernels [in, out] have it at -2, PyTorch's [out, in] at -1.")
  if joined[-1] == -1:
    return joined, (joined[0] - 1,)
  return joined, tuple(range(joined[-1] + 1, 0))


def _matrix(w: jax.Array, axis: int | tuple[int, ...]) -> tuple[
    jax.Array, tuple[int, ...], tuple[int, ...], bool]:
  """`[..., K, N]`, what K and N are made of, and whether K came last."""
  contracted, features = _axes(w.shape, axis)
  last = contracted[-1] == -1
  sizes, outs = (tuple(w.shape[a] for a in axes)
                 for axes in (contracted, features))
  leading = w.shape[:w.ndim - len(sizes) - len(outs)]
  two = [math.prod(sizes), math.prod(outs)]
  matrix = w.reshape(*leading, *(two[::-1] if last else two))
  return matrix.mT if last else matrix, sizes, outs, last


def _check(w: jax.Array, axis: int | tuple[int, ...],
           groups: jax.Array) -> None:
  """Raises if there is such a group, and names the first."""
  full = _groups.are_full(groups)
  if not full.any():
    return
  *at, group, column = np.unravel_index(int(full.argmax()), full.shape)
  at = tuple(map(int, at))
  found = np.asarray(groups[*at, group, :, column]).tolist()
  where = f' of weight {", ".join(map(str, at))}' if at else ''
  fits = [a for a in (-2, -1) if a != axis and is_24(w, a)]
  raise ValueError(
      f'pack needs at most two of every four along axis {axis} that are not '
      f'zero, got {found} at inputs {4 * group}:{4 * group + 4}, output '
      f'{column}{where}, in an array of shape {w.shape}. ' + (
          f'Along axis {fits[0]} it is: pack(w, axis={fits[0]}), or ' if fits
          else '') +
      f'prune: `mask = jaxsparse.select(jnp.abs(w), jaxsparse.nm(2, 4, '
      f'axis={axis}))` and pack(jnp.where(mask, w, 0)).')


@jax.jit
def _pack(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`[..., K, N] -> values [..., 2, G, N], positions [..., G / 8, N]`."""
  bits = _groups.largest_two(matrix)
  return _groups.keep(matrix, bits), _words(bits)


def _words(bits: jax.Array) -> jax.Array:
  """`[..., G, N]` with four bits each `-> [..., G / 8, N]`, as told above."""
  *leading, groups, n = bits.shape
  tiles = bits.reshape(*leading, groups // 64, 4, 8, 2, n)
  words: Any = sum(
      tiles[..., s, :, h, :] << _SHIFTS[s, h]
              for s in range(4) for h in range(2))
  return lax.bitcast_convert_type(
      words.reshape(*leading, groups // 8, n), jnp.int32)


def _occupancy(words: jax.Array) -> jax.Array:
  """The inverse of `_words`."""
  *leading, rows, n = words.shape
  tiles = lax.bitcast_convert_type(words, jnp.uint32).reshape(
      *leading, rows // 8, 1, 8, 1, n)
  shifts = _SHIFTS.reshape((1,) * len(leading) + (1, 4, 1, 2, 1))
  return ((tiles >> shifts) & np.uint32(15)).reshape(*leading, 8 * rows, n)


def unpack(packed: Packed24) -> jax.Array:
  """The weight that was packed, zeros included.

  Args:
    packed: what `pack` returned, in any layout.

  Returns:
    An array of the shape and dtype of the weight.

  >>> unpack(pack(jnp.array([[0., 0., 0., 5.]]), axis=-1))
  Array([[0., 0., 0., 5.]], dtype=float32)
  """
  check_packed(packed)
  packed = with_layout(packed, 'planar')
  matrix = matrix_of(packed)
  if packed.contracted_last:
    matrix = matrix.mT
  return matrix.reshape(packed.shape)


def matrix_of(packed: Packed24) -> jax.Array:
  """The weight as `[..., K, N]`, from the planar layout."""
  whole = _groups.spread(packed.values, places(packed))
  return whole[..., :math.prod(packed.contracted), :]


def places(packed: Packed24) -> jax.Array:
  """Four bits for every group, uint32 `[..., K'/4, N]`, of a planar weight."""
  return _occupancy(packed.positions)


def without_values(packed: Packed24) -> Packed24:
  """What lies beside the values, which are `None`."""
  nothing: Any = None
  return dataclasses.replace(packed, values=nothing)


def bits_of(packed: Packed24) -> jax.Array:
  """The same of any layout; values are not read."""
  if packed.layout == 'planar':
    return places(packed)
  return _hopper_layout.to_bits(
      packed.positions, math.prod(packed.features))


def with_layout(packed: Packed24, layout: str) -> Packed24:
  """The same weight in the layout that a kernel reads; made once, at load.

  `matmul` takes any layout, but to change it at every call costs more than the
  kernel saves.

  Args:
    packed: a weight.
    layout: 'planar' for XLA and TPU, 'hopper' for H100 and H200.

  Returns:
    A `Packed24`; going there and back changes nothing.

  Raises:
    ValueError: if there is no such layout, or not for this dtype: Hopper's
      sparse tensor cores read bfloat16 and float16 here.

  >>> packed = pack(jnp.zeros((64, 32), jnp.bfloat16))
  >>> with_layout(packed, 'hopper').values.shape
  (128, 128)
  """
  check_packed(packed)
  check_layout(layout)
  if layout == packed.layout:
    return packed
  if layout == 'hopper' and packed.dtype not in _hopper_layout.DTYPES:
    raise ValueError(
        "layout='hopper' holds bfloat16 and float16, got "
        f'{packed.dtype}. Pack w.astype(jnp.bfloat16), or stay planar.')
  if layout == 'hopper':
    values, positions = _hopper_layout.from_groups(
        packed.values, places(packed))
  else:
    values = _hopper_layout.from_values(
        packed.values, math.prod(packed.features))
    positions = _words(bits_of(packed))
  other = packed.transposed
  return dataclasses.replace(
      packed, values=values, positions=positions, layout=layout,
      transposed=other if other is None else with_layout(other, layout))


def check_packed(w: Packed24) -> None:
  """Raises if it is not what `pack` returned."""
  if not isinstance(w, Packed24):
    raise ValueError(
        f'Expected a packed weight, got {type(w).__name__}. Write '
        'jaxsparse.pack(w).')
  if getattr(w.positions, 'dtype', jnp.int32) != jnp.int32:
    raise ValueError(
        f'The positions of a packed weight are int32, got {w.positions.dtype}. '
        'To change the dtype of its values write w.astype(dtype).')


def check_layout(layout: str) -> None:
  """Raises if there is no such layout."""
  if layout not in _LAYOUTS:
    raise ValueError(f'layout must be one of {_LAYOUTS}, got {layout!r}.')
