"""Patterns: which weights are pruned together, and which ones compete.

A pattern is plain data made of two tilings. The first cuts a weight into
**units**, which are kept or pruned as a whole; the second cuts the grid of
units into **groups**, inside which units compete for a fixed number of places.

| pattern | unit | group |
|---|---|---|
| `unstructured()` | one weight | the whole weight |
| `unstructured(balanced=True)` | one weight | those of the same output |
| `nm(2, 4)` | one weight | 4 neighbours along the contraction axis |
| `nm(2, 4, transposable=True)` | one weight | a 4 x 4 tile, 2 in each line |
| `block((4, 4))` | a 4 x 4 tile of the last two axes | the whole weight |
| `block((4, 4), balanced=True)` | the same | those of the same 4 outputs |
| `channel(-1)` | everything at one index of the axis | the whole weight |

`selection.select` makes masks from scores and patterns.
"""

import dataclasses
import itertools
import math
from typing import Sequence

from jaxsparse._utils import arguments
from jaxsparse._utils.tables import brief

__all__ = [
    'attention', 'block', 'channel', 'is_nm', 'is_transposable', 'n_m_axis',
    'nm', 'Pattern', 'Tiling', 'unstructured', 'with_sparsity',
]

_LARGEST_TRIED = 2**12  # Errors suggest sizes for axes up to this length.


@dataclasses.dataclass(frozen=True)
class Tiling:
  """Tile sizes by axis, and the tile size of all other axes.

  Negative axes count from the end. Neighbouring axes given as a tuple, major
  first, are tiled as if they were joined into one axis; a tile is then a part
  of one of them and all axes minor to that. `rest` is the tile size of every
  axis that is not listed, either 1 or `None`. The size `None` means the whole
  axis.
  """
  sizes: tuple[tuple[int | tuple[int, ...], int | None], ...] = ()
  rest: int | None = None

  def tile(self, shape: tuple[int, ...], what: str = '',
           resizable: bool = True) -> tuple[int, ...]:
    """The tile's shape for an array of `shape`; raises if it does not tile."""
    tile = [n if self.rest is None else self.rest for n in shape]
    for axes, size in self.sizes:
      joined = axes if isinstance(axes, tuple) else (axes,)
      if not all(-len(shape) <= axis < len(shape) for axis in joined):
        raise ValueError(
            f'{what} needs axis {axes}, but the weight has shape {shape}. Give '
            'the weight another pattern, or make it dense: {regex: None}.')
      sizes = [shape[axis] for axis in joined]
      parts = sizes if size is None else _parts(sizes, size)
      if parts is None:
        there = math.prod(sizes)
        raise ValueError(
            f'{what} needs axis {axes} to be a multiple of {size}'
            f'{", in whole minor axes" * (len(joined) > 1)}, but the weight '
            f'has shape {shape}, with {there} on that axis. Use '
            f'{_another_size(sizes) * resizable}another axis'
            f'{_list_axes(shape, size) * (len(self.sizes) == 1)}, or make it '
            'dense: {regex: None}.')
      for axis, part in zip(joined, parts):
        tile[axis] = part
    return tuple(tile)


def _another_size(sizes: list[int]) -> str:
  """The part of an error that lists tiles which would fit, if there are any."""
  few = range(2, min(math.prod(sizes), _LARGEST_TRIED) + 1)
  fits = [*itertools.islice((d for d in few if _parts(sizes, d)), 8)]
  return f'another group size (one of {fits}), ' if fits else ''


def _list_axes(shape: tuple[int, ...], size: int | None) -> str:
  """The part of an error that lists axes which a tile would fit, if any."""
  fits = [i - len(shape) for i, n in enumerate(shape)
          if size and n and n % size == 0]
  return f' (one of {fits})' if fits else ''


def _parts(sizes: list[int], tile: int) -> list[int] | None:
  """A tile of joined axes: a part of one axis, and all axes minor to it.

  >>> _parts([8, 4], 2), _parts([8, 4], 16), _parts([8, 3], 4)
  ([1, 2], [4, 4], None)
  """
  parts = [1] * len(sizes)
  for i in reversed(range(len(sizes))):
    if sizes[i] % tile == 0:
      parts[i] = tile
      return parts
    if tile % sizes[i]:
      return None
    parts[i], tile = sizes[i], tile // sizes[i]
  return None


SIDE = 4  # The side of a transposable group, a square tile.


@dataclasses.dataclass(frozen=True)
class Pattern:
  """A pattern as plain data, from `unstructured`, `nm`, `block` or `channel`.

  Attributes:
    name: the call that makes the pattern, for tables and errors.
    unit: the tiling of the weight into units.
    group: the tiling of the grid of units into groups.
    reduce: the reduction of the scores of a unit's members to the unit's score:
      'sum', 'mean' or 'max'.
    sparsity: the fraction pruned, in [0, 1]; `None` leaves it to the
      distribution.
    min_sparsity: the smallest sparsity that a distribution may assign.
    max_sparsity: the largest sparsity that a distribution may assign.
    per_line: for a transposable pattern, whose groups are 4 x 4 tiles, the
      number of kept weights in every row and every column at the full sparsity;
      `None` for other patterns.
  """
  name: str
  unit: Tiling
  group: Tiling
  reduce: str = 'sum'
  sparsity: float | None = None
  min_sparsity: float = 0.
  max_sparsity: float = 1.
  per_line: int | None = None

  def __post_init__(self):
    for field in ('sparsity', 'min_sparsity', 'max_sparsity'):
      value = getattr(self, field)
      if value is not None and not 0. <= value <= 1.:
        raise ValueError(
            f'{self.name}: {field} must be a fraction of pruned weights, in '
            f'[0, 1], got {value}. Write e.g. {field}=0.9.')
    if self.min_sparsity > self.max_sparsity:
      raise ValueError(
          f'{self.name}: min_sparsity must be at most max_sparsity, got '
          f'min_sparsity={self.min_sparsity} and max_sparsity='
          f'{self.max_sparsity}. Write e.g. min_sparsity=0.5, '
          'max_sparsity=0.9.')
    if self.reduce not in ('sum', 'mean', 'max'):
      raise ValueError(
          f"{self.name}: reduce must be 'sum', 'mean' or 'max', got "
          f"{brief(self.reduce)}. Write e.g. reduce='sum'.")
    if self.sparsity is not None:
      self.check_lines(self.sparsity)

  def __str__(self) -> str:
    return self.name

  def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the grid of units."""
    unit = self.unit.tile(shape, f'unit of {self.name}')
    return tuple(n // max(t, 1) for n, t in zip(shape, unit))

  def group_tile(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a group, counted in units."""
    apart = {axis for axis, size in self.group.sizes if size == 1}
    if self.group.rest is None and 0 < len(apart) == len(shape):
      raise ValueError(
          f'{self.name} needs axes along which weights compete, beside '
          f'{sorted(apart)}, but the weight has shape {shape}. Give the weight '
          'another pattern, or make it dense: {regex: None}.')
    return self.group.tile(self.grid(shape), f'group of {self.name}',
                           resizable=self.per_line is None)

  def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
    """The number of groups, and the number of units in each."""
    group = math.prod(self.group_tile(shape))
    return math.prod(self.grid(shape)) // max(group, 1), group

  def check_lines(self, sparsity: float) -> None:
    """Raises if a sparsity is above that of a transposable pattern."""
    if self.per_line is not None and sparsity > 1 - self.per_line / SIDE:
      raise ValueError(
          f'{self.name} keeps {self.per_line} of {SIDE} in every row and '
          f'column, so its sparsity is at most {1 - self.per_line / SIDE}, got '
          f'{sparsity}. Write nm(1, 4, transposable=True) for 0.75, or nm(...) '
          'without transposable=True for more.')


# The check of a sparsity that may be traced, and of one from which numbers of
# weights follow, for arguments and for recipes.
DYNAMIC_SPARSITY = arguments.number(
    0, 1, 'the fraction pruned, a number in [0, 1]',
    lambda value: str(value / 100 if arguments.is_number(value)
                      and 1 < value <= 100 else .9))
SPARSITY = arguments.static(DYNAMIC_SPARSITY)
_SPARSITIES = dict.fromkeys(
    ('sparsity', 'min_sparsity', 'max_sparsity'), SPARSITY)
arguments.register(Pattern, arguments.instance(
    Pattern, 'a pattern', 'jaxsparse.nm(2, 4)'))


def _options(name: str, **options) -> dict:
  """Adds the options that were set to the pattern's name."""
  shown = [f'{k}={v}' for k, v in options.items()
           if v not in (None, {'min_sparsity': 0., 'max_sparsity': 1.,
                               'reduce': 'sum'}.get(k))]
  inner = ', '.join(filter(None, [name[name.index('(') + 1:-1]] + shown))
  return dict(options, name=f'{name[:name.index("(")]}({inner})')


@arguments.checked(**_SPARSITIES)
def unstructured(sparsity: float | None = None, *, balanced: bool = False,
                 min_sparsity: float = 0., max_sparsity: float = 1.) -> Pattern:
  """Unstructured sparsity: all weights of a parameter, or of a neuron, compete.

  Args:
    sparsity: the fraction pruned; `None` leaves it to the distribution.
    balanced: whether weights compete only with those of the same output, an
      index of the last axis, so that all neurons read equally many inputs: a
      constant fan-in. The inputs of a kernel `[..., in, out]` are all its other
      axes, of `HWIO` the window, too. `graph.kernel_patterns` finds the axes of
      any kernel, and where layers are stacked. By default all weights of the
      parameter compete.
    min_sparsity: the smallest sparsity that a distribution may assign.
    max_sparsity: the largest sparsity that a distribution may assign.

  Returns:
    A pattern for weights of any shape; if balanced, of two axes or more.

  >>> import jax.numpy as jnp
  >>> from jaxsparse import select
  >>> select(jnp.array([3., 1., 2., 4.]), unstructured(), 0.5)
  Array([ True, False, False,  True], dtype=bool)
  >>> w = jnp.array([[9., 1.], [8., 2.]])
  >>> select(w, unstructured(balanced=True), 0.5)
  Array([[ True, False],
         [False,  True]], dtype=bool)
  """
  group = Tiling(((-1, 1),)) if balanced else Tiling()
  return Pattern(unit=Tiling(rest=1), group=group, **_options(
      f'unstructured({"balanced=True" * balanced})', sparsity=sparsity,
      min_sparsity=min_sparsity, max_sparsity=max_sparsity))


@arguments.checked()
def nm(n: int, m: int, *, axis: int | tuple[int, ...] = -2,
       transposable: bool = False) -> Pattern:
  """N:M sparsity: keeps N of every M neighbours along an axis.

  The pattern has its own sparsity, `1 - n / m`. While the progress of a
  schedule is below 1, each group keeps `round((1 - progress * sparsity) * m)`.

  Args:
    n: the number of kept weights in each group, `0 <= n <= m`.
    m: the size of a group, a divisor of the axis.
    axis: the contraction axis, along which hardware needs the pattern. The
      default -2 fits Flax's `[..., in, out]` kernels and `HWIO` convolutions;
      write -1 for PyTorch's `[out, in]` weights. A tuple of neighbouring axes
      that are contracted together, such as `(-3, -2)` of an attention output
      `[heads, head_dim, out]`, joins them, so a group may span heads; see
      `attention`.
    transposable: whether N of every M weights are also kept along the output
      axes, so that the product with the transpose, which computes the gradient
      of the inputs, runs on the same hardware. The output axes are all axes
      after the contraction axis, joined; if there are none, the axis before it.
      A group is then a 4 x 4 tile. The tile keeps n weights in each row and
      column, with the highest total score. While the progress is below 1, it
      keeps `round((1 - progress * sparsity) * 16)` weights: those of the final
      mask, then the highest others. It needs `m = 4` and `0 < n < m`.

  Returns:
    A pattern for weights that have the axis.

  Raises:
    ValueError: if `n` and `m` are not integers with `0 <= n <= m`, or do not
      allow a transposable pattern.

  References:
    Zhou et al., `Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch <https://arxiv.org/abs/2102.04010>`_, 2021; Hubara et al.,
    `Accelerated Sparse Neural Training: A Provable and Efficient Method to Find
    N:M Transposable Masks <https://arxiv.org/abs/2102.08124>`_, 2021

  >>> import jax.numpy as jnp
  >>> from jaxsparse import select
  >>> w = jnp.array([[1.], [-3.], [2.], [0.]])
  >>> select(jnp.abs(w), nm(2, 4))[:, 0]
  Array([False,  True,  True, False], dtype=bool)
  >>> w = jnp.array([[9., 8., 7., 6.], [5., 4., 3., 2.],
  ...                [9., 0., 0., 9.], [0., 0., 0., 0.]])
  >>> select(w, nm(2, 4, transposable=True)).astype(int)
  Array([[1, 1, 0, 0],
         [0, 1, 1, 0],
         [1, 0, 0, 1],
         [0, 0, 1, 1]], dtype=int32)
  """
  joined = axis if isinstance(axis, tuple) else (axis,)
  if not (all(type(i) is int for i in (n, m, *joined)) and 0 <= n <= m
          and m > 0):
    raise ValueError(
        'nm(n, m, axis=-2) keeps n of every m and needs integers 0 <= n <= m, '
        f'got nm({n!r}, {m!r}, axis={brief(axis)}). For 2:4 write nm(2, 4).')
  if not joined or any(b - a != 1 for a, b in zip(joined, joined[1:])):
    raise ValueError(
        'A tuple of axes in nm must name neighbours, major first, got '
        f'axis={axis}. Write e.g. axis=(-3, -2).')
  where = '' if axis == -2 else f', axis={axis}'
  if not transposable:
    return Pattern(f'nm({n}, {m}{where})', Tiling(rest=1),
                   Tiling(((axis, m),), rest=1), sparsity=1 - n / m)
  if m != SIDE or not 0 < n < m or joined[-1] >= 0:
    raise ValueError(
        'A transposable pattern needs n of 1, 2 or 3, m of 4, and axes counted '
        f'from the end, got nm({n}, {m}, axis={axis}, transposable=True). '
        'Write e.g. nm(2, 4, axis=-2, transposable=True).')
  after = tuple(range(joined[-1] + 1, 0)) or (joined[0] - 1,)
  other = after if len(after) > 1 else after[0]
  return Pattern(f'nm({n}, {m}{where}, transposable=True)', Tiling(rest=1),
                 Tiling(((axis, m), (other, m)), rest=1), sparsity=1 - n / m,
                 per_line=n)


@arguments.checked()
def is_nm(pattern: Pattern | None) -> bool:
  """Whether a pattern was made by `nm`.

  >>> is_nm(nm(2, 4)), is_nm(unstructured())
  (True, False)
  """
  return is_transposable(pattern) or (
      isinstance(pattern, Pattern) and len(pattern.group.sizes) == 1
      and pattern.unit == Tiling(rest=1) and pattern.group.rest == 1
      # One's own pattern may have groups of whole axes, or no sparsity.
      and pattern.group.sizes[0][1] is not None
      and pattern.sparsity is not None)


@arguments.checked()
def is_transposable(pattern: Pattern | None) -> bool:
  """Whether a pattern was made by `nm(..., transposable=True)`.

  >>> is_transposable(nm(2, 4, transposable=True)), is_transposable(nm(2, 4))
  (True, False)
  """
  return isinstance(pattern, Pattern) and pattern.per_line is not None


def n_m_axis(pattern: Pattern) -> tuple[int, int, int | tuple[int, ...]]:
  """The arguments `n`, `m` and `axis` of an N:M pattern.

  For the argument `transposable`, see `is_transposable`.

  Raises:
    ValueError: if the pattern is not N:M.

  >>> n_m_axis(nm(2, 4))
  (2, 4, -2)
  """
  known = isinstance(pattern, Pattern) and is_nm(pattern)
  axis, m = pattern.group.sizes[0] if known else (0, None)
  if m is None or pattern.sparsity is None:
    named = pattern if isinstance(pattern, Pattern) else brief(pattern)
    raise ValueError(
        f'Expected an N:M pattern, got {named}. Write e.g. nm(2, 4).')
  return round((1 - pattern.sparsity) * m), m, axis


@arguments.checked(sparsity=SPARSITY)
def with_sparsity(pattern: Pattern, sparsity: float) -> Pattern:
  """The same units and groups with another fraction pruned.

  >>> print(with_sparsity(nm(1, 8), 0.75))
  nm(1, 8) at sparsity 0.75
  """
  return dataclasses.replace(
      pattern, name=f'{pattern} at sparsity {sparsity}', sparsity=sparsity)


@arguments.checked()
def attention(n: int, m: int, *, transposable: bool = False
              ) -> dict[str, Pattern]:
  """N:M along the contraction axes of Flax's attention projections.

  | kernel | shape | contracted | pattern |
  |---|---|---|---|
  | query, key, value | `[in, heads, head_dim]` | `in` | `axis=-3` |
  | out | `[heads, head_dim, out]` | `heads * head_dim` | `axis=(-3, -2)` |

  Args:
    n: the number of kept weights in each group.
    m: the size of a group. It must divide `in`, and either divide `head_dim` or
      be a number of whole heads that divides `heads * head_dim`.
    transposable: whether N:M also holds along the output axes, see `nm`.

  Returns:
    Entries for the `MultiHeadAttention` and `MultiHeadDotProductAttention` of
    NNX and Linen. Put them before other patterns, because the first match wins.

  >>> patterns = {**attention(2, 4), '.*/kernel': nm(2, 4)}
  >>> [str(p) for p in patterns.values()]
  ['nm(2, 4, axis=-3)', 'nm(2, 4, axis=(-3, -2))', 'nm(2, 4)']
  """
  return {r'(.*/)?(query|key|value)/kernel': nm(
              n, m, axis=-3, transposable=transposable),
          r'(.*/)?out/kernel': nm(
              n, m, axis=(-3, -2), transposable=transposable)}


@arguments.checked(
    shape=arguments.Check(
        lambda value: isinstance(value, (tuple, list))
        and all(map(arguments.is_whole, value)), 'a tuple of whole numbers',
        '(4, 4)', lambda value: tuple(map(int, value))),
    **_SPARSITIES)
def block(shape: Sequence[int], *, balanced: bool = False,
          sparsity: float | None = None, reduce: str = 'sum',
          min_sparsity: float = 0., max_sparsity: float = 1.) -> Pattern:
  """Blocks over the trailing axes, each pruned or kept as a whole.

  Args:
    shape: the shape of a block along the last axes: `(4, 4)` tiles `[in, out]`
      kernels and the `IO` axes of `HWIO`; `(1, 16)` runs along the output axis.
    balanced: whether blocks compete only along axis -2, with the blocks of the
      same outputs (and the same indices of all other axes). All outputs then
      keep equally many blocks, and `condense` needs no padding. With `False`
      all blocks of the weight compete.
    sparsity: the fraction of blocks pruned; `None` leaves it to the
      distribution.
    reduce: the reduction of the scores in a block to the block's score: 'sum'
      (default), 'mean' or 'max'.
    min_sparsity: the smallest sparsity that a distribution may assign.
    max_sparsity: the largest sparsity that a distribution may assign.

  Returns:
    A pattern for weights whose last axes are multiples of the block.

  References:
    Narang et al., `Block-Sparse Recurrent Neural Networks
    <https://arxiv.org/abs/1711.02782>`_, 2017 (there with 'max')

  >>> import jax.numpy as jnp
  >>> from jaxsparse import select
  >>> select(jnp.array([[1., 2., 9., 0.]]), block((1, 2)), 0.5)
  Array([[False, False,  True,  True]], dtype=bool)
  >>> w = jnp.array([[1., 2., 9., 0.], [0., 0., 5., 5.]])
  >>> select(w, block((1, 2), balanced=True), 0.5).astype(int)
  Array([[1, 1, 0, 0],
         [0, 0, 1, 1]], dtype=int32)
  """
  if not shape or min(shape) < 1:
    raise ValueError(
        f'block(shape) needs a tuple of positive sizes, got {shape}. Write '
        'e.g. block((1, 16)).')
  sizes = tuple((i - len(shape), s) for i, s in enumerate(shape))
  group = Tiling(((-2, None),), rest=1) if balanced else Tiling()
  return Pattern(unit=Tiling(sizes, rest=1), group=group, **_options(
      f'block({shape}{", balanced=True" * balanced})', sparsity=sparsity,
      reduce=reduce, min_sparsity=min_sparsity, max_sparsity=max_sparsity))


@arguments.checked(axis=arguments.whole(write='-1'), **_SPARSITIES)
def channel(axis: int = -1, *, sparsity: float | None = None,
            reduce: str = 'sum', min_sparsity: float = 0.,
            max_sparsity: float = 1.) -> Pattern:
  """Prunes whole slices along an axis: channels, neurons or input features.

  Args:
    axis: -1 (default) for the output units of `[..., in, out]`, -2 for the
      input features.
    sparsity: the fraction of channels pruned; `None` leaves it to the
      distribution.
    reduce: the reduction of the scores in a channel to the channel's score:
      'sum' (default), 'mean' or 'max'.
    min_sparsity: the smallest sparsity that a distribution may assign.
    max_sparsity: the largest sparsity that a distribution may assign.

  Returns:
    A pattern for weights that have the axis.

  References:
    Li et al., `Pruning Filters for Efficient ConvNets
    <https://arxiv.org/abs/1608.08710>`_, 2017

  >>> import jax.numpy as jnp
  >>> from jaxsparse import select
  >>> select(jnp.array([[1., 5.], [2., 5.]]), channel(-1), 0.5)
  Array([[False,  True],
         [False,  True]], dtype=bool)
  """
  return Pattern(
      unit=Tiling(((axis, 1),), rest=None), group=Tiling(), **_options(
          f'channel({axis})', sparsity=sparsity, reduce=reduce,
          min_sparsity=min_sparsity, max_sparsity=max_sparsity))
