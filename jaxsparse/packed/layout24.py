"""Packed 2:4 weights: the two kept entries of every four, and their positions.

A weight is read as a matrix `w[K, N]` with G groups of four along K, the
contraction axis; the last group may be padded with zeros. The class `Packed24`
stores it in one of three layouts:

| layout | `values` | `positions`, int32 | kernel |
|---|---|---|---|
| `'planar'` | `[2, G, N]` | `[G/8, N]`, rounded up | |
| `'tiled'` | `[2, K'/4, N]` | `[K'/32, N]` | TPU |
| `'hopper'` | `[N', K'/2]`, N padded to 128 | `[N'/64, K'/128, 256]` | Hopper |

XLA reads all layouts. Kernels read whole tiles of 256 rows, so *tiled* and
*Hopper* pad K to `K'`, a multiple of 256, with groups of zeros. `matmul` takes
any layout, and converts it at every call to the layout of its kernel;
`with_layout` converts it once, when weights are loaded.

`pack` returns the *planar* layout, which is the smallest; use it in
checkpoints. If K is a multiple of 256, planar and tiled arrays are equal.
`_planar_layout` describes the positions.

H100 and H200 read the *Hopper* layout, in the order of their instruction.
`_hopper_layout` describes it.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils import meshes
from jaxsparse._utils.tables import brief
from jaxsparse.packed import _compressed
from jaxsparse.packed import _groups
from jaxsparse.packed import _hopper_layout
from jaxsparse.packed import _planar_layout

_LAYOUTS = ('planar', 'tiled', 'hopper')
# The 8-bit types whose two zeros have the same bits as those of other floats.
_BYTES = (jnp.int8, jnp.float8_e4m3fn, jnp.float8_e5m2)
_FIRST_TWO = 0b0011  # The bits of a group of zeros.


@dataclasses.dataclass(frozen=True, eq=False)
class Packed24(_compressed.Compressed):
  """A 2:4 weight in 0.5625 of the memory (bfloat16); a pytree.

  For `jit`, `vmap` over leading axes, `scan`, `device_put`, `jax.export` and
  checkpoints, the weight consists of two arrays; all other fields are static.
  `matmul` and `unpack` read it.

  Attributes:
    values: the kept entries.
    positions: the positions of the kept entries, int32.
    transposed: the same weight packed along its outputs, or `None`.
    contracted: the sizes of the axes that a product sums over.
    features: the sizes of the output axes; leading axes do not count.
    contracted_last: whether the weight is `[..., out, in]`.
    layout: the layout, 'planar', 'tiled' or 'hopper'.
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
    leading = self.values.shape[:-2 if self.layout == 'hopper' else -3]
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


arguments.register(Packed24, arguments.instance(
    Packed24, 'a Packed24', 'jaxsparse.pack(w)'))


_compressed.register(
    Packed24, arrays=['values', 'positions', 'transposed'],
    static=['contracted', 'features', 'contracted_last', 'layout'])


@arguments.checked()
def pack(w: jax.Array, *, axis: int | tuple[int, ...] = -2,
         transposed: bool = False) -> Packed24:
  """Packs a 2:4 weight: two values of every four along an axis, and positions.

  `unpack(pack(w))` is `w` bit for bit, except that -0.0 becomes 0.0. A packed
  weight has `K/2 * N` values, with K rounded up to a multiple of 4, and four
  bytes of positions for every 8 groups or part of these, 32 inputs. That is
  1.125 bytes per weight for bfloat16 (0.5625 of 2), 2.125 for float32, and
  0.625 for int8. The smallest multiples of four for which packing saves memory
  are K = 4 for float32 (0.75 of the bytes), 8 for bfloat16 (0.75) and 12 for
  int8 (0.83). `pack` and `unpack` are differentiable.

  Args:
    w: the weight, `[..., K, N]`, of floats (of 8-bit floats, float8_e4m3fn and
      float8_e5m2) or int8; leading axes index separate weights.
    axis: the contraction axis, along which the weight is 2:4, as in `nm`: -2
      (default) for `[in, out]`, -1 for `[out, in]`, -3 for attention's
      `[in, heads, head_dim]`, (-3, -2) for its output `[heads, head_dim, out]`.
    transposed: whether to pack the weight along its outputs, too, for gradients
      with respect to the inputs on GPUs. The weight must be 2:4 in both
      directions, as with `nm(2, 4, transposable=True)`.

  Returns:
    A `Packed24` in the planar layout.

  Raises:
    ValueError: for another dtype or axis, or if a group has more than two
      nonzero entries; the message names the group. Inside of `jit`, where
      values are unknown, the two entries of largest magnitude are kept, and of
      equal entries the first.

  References:
    Mishra et al., `Accelerating Sparse Deep Neural Networks
    <https://arxiv.org/abs/2104.08378>`_, 2021. The paper stores an index of two
    bits for each kept entry; here each group has four bits of occupancy, which
    is the same number of bits.

  >>> w = jnp.array([[1., 0.], [0., 0.], [-2., 3.], [0., 0.]], jnp.bfloat16)
  >>> packed = pack(w)
  >>> packed.shape, bool((unpack(packed) == w).all())
  ((4, 2), True)
  >>> pack(jnp.zeros((512, 512), jnp.bfloat16)).nbytes / (2 * 512 * 512)
  0.5625
  """
  if isinstance(w, Packed24):
    raise ValueError(f'pack needs a dense weight, got {brief(w)}. Write e.g. '
                     'pack(unpack(w)).')
  w = jnp.asarray(w)
  if not (w.dtype in _BYTES or w.dtype.itemsize > 1
          and jnp.issubdtype(w.dtype, jnp.floating)):
    raise ValueError(
        'pack needs floats, float8_e4m3fn, float8_e5m2 or int8, got '
        f'{w.dtype}. Write e.g. pack(w.astype(jnp.bfloat16)).')
  matrix, sizes, outs, last = _matrix(w, axis)
  if not isinstance(w, jax.core.Tracer):
    _check(w, axis, matrix)
    if transposed and not is_24(matrix, -1):
      raise ValueError(
          'pack(w, transposed=True) needs a weight that is 2:4 along its '
          'outputs, too, got another one. Prune by jaxsparse.nm(2, 4, '
          'transposable=True).')
  other = None
  if transposed:
    values, positions = _pack(matrix.mT)
    other = Packed24(values, positions, None, outs, sizes, not last)
  values, positions = _pack(matrix)
  return Packed24(values, positions, other, sizes, outs, last)


def is_24(w: jax.Array, axis: int | tuple[int, ...] = -2) -> bool:
  """Whether every group of four along an axis has at most two nonzero entries.

  >>> is_24(jnp.eye(4)), is_24(jnp.ones((4, 4)))
  (True, False)
  """
  return not _full(_matrix(w, axis)[0])[1]


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
        'pack needs a weight of at least two axes, and the axis, or '
        f'neighbouring axes, along which it is 2:4, got shape {shape} and '
        f"axis={axis}. Write axis=-2 for Flax's kernels [in, out], axis=-1 for "
        "PyTorch's [out, in].")
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


@jax.jit
def _full(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Which groups have more than two that are not zero, and whether any has."""
  full = _groups.are_full(_groups.split_groups(matrix))
  return full, full.any()


def _check(w: jax.Array, axis: int | tuple[int, ...], matrix: jax.Array
           ) -> None:
  """Raises if there is such a group, and names the first."""
  full, some = _full(matrix)
  if not some:
    return
  groups = _groups.split_groups(matrix)
  place, first = meshes.laid_out_by_compiler(_first, full, groups)
  (*at, group, column), found = map(int, place), np.asarray(first).tolist()
  where = f' of weight {", ".join(map(str, at))}' if at else ''
  fits = [a for a in (-2, -1) if a != axis and is_24(w, a)]
  raise ValueError(
      'pack needs at most two nonzero entries of every four along axis '
      f'{axis}, got {found} at inputs {4 * group}:{4 * group + 4}, output '
      f'{column}{where}, in an array of shape {w.shape}. ' + (
          f'Along axis {fits[0]} it is 2:4: write pack(w, axis={fits[0]}), or '
          'prune' if fits else 'Prune') +
      f': `mask = jaxsparse.select(jnp.abs(w), jaxsparse.nm(2, 4, '
      f'axis={axis}))` and pack(jnp.where(mask, w, 0)).')


def _first(full: jax.Array, groups: jax.Array
           ) -> tuple[list[jax.Array], jax.Array]:
  """The place of the first full group, and its entries."""
  at: list[jax.Array] = []
  while full.ndim:  # Axis by axis: the number of a place may be no int32.
    at.append(full.any(range(1, full.ndim)).argmax())
    full = full[at[-1]]
  return at, groups[*at[:-1], :, at[-1]]


@jax.jit
def _pack(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`[..., K, N] -> values [..., 2, G, N], positions [..., G / 8, N]`."""
  bits = _groups.largest_two(matrix)
  return _groups.keep(matrix, bits), _planar_layout.to_words(bits)


@arguments.checked()
def unpack(packed: Packed24) -> jax.Array:
  """The dense weight of a packed one, zeros included.

  Args:
    packed: a packed weight in any layout.

  Returns:
    An array of the shape and dtype of the dense weight.

  >>> unpack(pack(jnp.array([[0., 0., 0., 5.]]), axis=-1))
  Array([[0., 0., 0., 5.]], dtype=float32)
  """
  check_packed(packed)
  matrix = matrix_of(packed)
  if packed.contracted_last:
    matrix = matrix.mT
  return matrix.reshape(packed.shape)


@jax.jit
def matrix_of(packed: Packed24) -> jax.Array:
  """The weight as `[..., K, N]`; traced once for all products of a type."""
  whole = _groups.spread(_values_of(packed), bits_of(packed))
  return whole[..., :math.prod(packed.contracted), :]


def _values_of(packed: Packed24) -> jax.Array:
  """The kept entries of every group, `[..., 2, G, N]`; G as of the layout."""
  if packed.layout != 'hopper':
    return packed.values
  return _hopper_layout.from_values(packed.values, math.prod(packed.features))


def bits_of(packed: Packed24) -> jax.Array:
  """Four bits for every group, uint32 `[..., G, N]`; values are not read."""
  if packed.layout == 'hopper':
    return _hopper_layout.to_bits(
        packed.positions, math.prod(packed.features))
  return _planar_layout.to_bits(
      packed.positions, _count(packed, packed.layout))


def _count(packed: Packed24, layout: str) -> int:
  """How many groups a layout has."""
  return _groups.count(math.prod(packed.contracted),
                       4 if layout == 'planar' else _groups.TILE)


def without_values(packed: Packed24) -> Packed24:
  """What lies beside the values, which are `None`."""
  nothing: Any = None
  return dataclasses.replace(packed, values=nothing)


@arguments.checked('layout')
def with_layout(packed: Packed24, layout: str) -> Packed24:
  """Converts a packed weight to the layout of a kernel, once, after loading.

  `matmul` takes any layout, but a conversion at every call costs more time than
  the kernel saves.

  Args:
    packed: a packed weight.
    layout: 'planar' for XLA, 'tiled' for TPUs, 'hopper' for H100 and H200.

  Returns:
    A `Packed24` in this layout. A conversion and its inverse change nothing.

  Raises:
    ValueError: if the layout does not exist, or does not support the dtype: the
      Hopper kernel reads bfloat16 and float16.

  >>> packed = pack(jnp.zeros((64, 32), jnp.bfloat16))
  >>> [with_layout(packed, layout).values.shape
  ...  for layout in ('planar', 'tiled', 'hopper')]
  [(2, 16, 32), (2, 64, 32), (128, 128)]
  """
  check_packed(packed)
  check_layout(layout)
  if layout == packed.layout:
    return packed
  if layout == 'hopper' and packed.dtype not in _hopper_layout.DTYPES:
    raise ValueError(
        "layout='hopper' needs bfloat16 or float16, got "
        f'{packed.dtype}. Write pack(w.astype(jnp.bfloat16)), or '
        "layout='planar'.")
  count, other = _count(packed, layout), packed.transposed
  packed = dataclasses.replace(
      packed, transposed=other and with_layout(other, layout))
  if 'hopper' not in (layout, packed.layout) and count == _count(
      packed, packed.layout):
    return dataclasses.replace(packed, layout=layout)
  values, bits = (
      _resized(a, count, fill)
      for a, fill in ((_values_of(packed), 0), (bits_of(packed), _FIRST_TWO)))
  if layout == 'hopper':
    values, positions = _hopper_layout.from_groups(values, bits)
  else:
    positions = _planar_layout.to_words(bits)
  return dataclasses.replace(
      packed, values=values, positions=positions, layout=layout)


def _resized(a: jax.Array, groups: int, fill: int) -> jax.Array:
  """`[..., G, N]` with so many groups, of which the last are padding."""
  a = a[..., :groups, :]
  widths = [(0, 0)] * (a.ndim - 2) + [(0, groups - a.shape[-2]), (0, 0)]
  return jnp.pad(a, widths, constant_values=np.array(fill, a.dtype))


def check_packed(w: Packed24) -> None:
  """Raises if it is not what `pack` returned."""
  if not isinstance(w, Packed24):
    raise ValueError(
        f'Expected a packed weight, got {type(w).__name__}. Write '
        'jaxsparse.pack(w).')
  if getattr(w.positions, 'dtype', jnp.int32) != jnp.int32:
    raise ValueError(
        'The positions of a packed weight must be int32, got '
        f'{w.positions.dtype}. To change the dtype of its values, write '
        'w.astype(dtype).')


def check_layout(layout: str) -> None:
  """Raises if there is no such layout."""
  arguments.one_of(_LAYOUTS)('layout', layout)
