"""The structure of an axis of an array, and the places of its leaves.

An axis is a leaf, a product of axes (joined by a reshape, major first) or a
concatenation. `_relations` stores relations between axes.

`Axis` is mutable, because facts that are found later (a reshape, a tie) also
hold for everything that was read before.
"""

import collections
import math
from typing import Any, Iterable, Iterator, NamedTuple, Sequence


class Axis:
  """An axis of `size`: a leaf, a product, a concatenation, or another axis.

  Attributes:
    size: the number of its indices.
    kind: 'leaf', 'product', 'concat' or 'link'.
    parts: the axes that it is made of; of a link the one that it is.
    fixed: why its indices may not be permuted, or `None`; of leaves.
    kept: why none of them may be removed, or `None`; of leaves.
    number: a number that may come from how many there are, or `None`.
  """

  def __init__(self, size: int, kind: str = 'leaf',
               parts: Sequence['Axis'] = (), fixed: str | None = None):
    self.size, self.kind, self.parts = int(size), kind, tuple(parts)
    self.fixed = fixed
    self.kept: str | None = None
    self.number: str | None = None

  def become(self, kind: str, parts: Sequence['Axis']) -> None:
    """Gives a leaf a structure; its parts inherit what is known of it."""
    self.kind, self.parts = kind, tuple(parts)
    for leaf in leaves(self):
      leaf.fixed = leaf.fixed or self.fixed
      leaf.kept = leaf.kept or self.kept
      leaf.number = leaf.number or self.number


def find(axis: Axis) -> Axis:
  """The axis that an axis is linked to."""
  end = axis
  while end.kind == 'link':
    end, = end.parts
  while axis is not end:  # The next time it is one step.
    (after,), axis.parts = axis.parts, (end,)
    axis = after
  return end


def leaves(axis: Axis) -> list[Axis]:
  """The leaves of an axis, major first."""
  axis = find(axis)
  if axis.kind == 'leaf':
    return [axis]
  return [leaf for part in axis.parts for leaf in leaves(part)]


def fix(axis: Axis, why: str) -> None:
  """Forbids to permute what an axis indexes."""
  for leaf in leaves(axis):
    leaf.fixed = leaf.fixed or why


def keep(axis: Axis, why: str) -> None:
  """Forbids to remove what an axis indexes."""
  for leaf in leaves(axis):
    leaf.kept = leaf.kept or why


def note_number(axis: Axis, what: str) -> None:
  """Notes a number that may come from the size of an axis."""
  for leaf in leaves(axis):
    leaf.number = leaf.number or what


def is_fixed(axis: Axis) -> bool:
  """Whether any leaf is."""
  return any(leaf.fixed for leaf in leaves(axis))


def factors(axis: Axis) -> list[Axis]:
  """The axes, major first, whose product an axis is; none of them is one."""
  axis = find(axis)
  if axis.kind != 'product':
    return [axis] if axis.size != 1 else []
  return [factor for part in axis.parts for factor in factors(part)]


def product(parts: Iterable[Axis]) -> Axis:
  """Axes joined by a reshape, major first."""
  parts = [factor for part in parts for factor in factors(part)]
  if len(parts) == 1:
    return parts[0]
  return Axis(math.prod(part.size for part in parts), 'product', parts)


def concat(parts: Sequence[Axis]) -> Axis:
  """Axes one after another."""
  if len(parts) == 1:
    return parts[0]
  return Axis(sum(part.size for part in parts), 'concat', parts)


def pieces(axis: Axis) -> list[Axis]:
  """The axes, one after another, that an axis is; none is a concatenation."""
  axis = find(axis)
  if axis.kind != 'concat':
    return [axis]
  return [piece for part in axis.parts for piece in pieces(part)]


class Instance(NamedTuple):
  """`leaf`, where another axis of the same arrays, `whole`, is in `part`."""
  leaf: Axis
  whole: Axis
  part: Axis
  there: Axis


# Axes, major first, and how far apart neighbouring indices of each are.
Row = tuple[tuple[Axis, int], ...]


class Place(NamedTuple):
  """Where a leaf is in an array: element `i` of it at, along `axis`,

    starts[axis] + i * stride + sum of coordinates * their strides.

  Attributes:
    leaf: the leaf.
    axis: the axis of the array.
    stride: how far apart its indices are.
    starts: where each axis of the array begins.
    coordinates: what else, in each axis of the array, tells an element.
  """
  leaf: Axis
  axis: int
  stride: int
  starts: tuple[int, ...]
  coordinates: tuple[Row, ...]


def places(array: Sequence[Axis | None], instances: Iterable[Instance] = ()
           ) -> list[Place]:
  """Where in an array the leaves of its axes are, or their instances."""
  rows = tuple(_strided(factors(axis), 1) if axis else () for axis in array)
  starts = (0,) * len(rows)
  by_leaf = collections.defaultdict(list)
  for instance in instances:
    by_leaf[instance.leaf].append(instance)
  return [
      place for k, axis in enumerate(array) if axis is not None
      for place in _walk(
          axis, k, 1, starts, _replaced(rows, k, ()), by_leaf)]


def _strided(parts: Sequence[Axis], stride: int) -> Row:
  row = []
  for part in reversed(parts):
    row.insert(0, (part, stride))
    stride *= part.size
  return tuple(row)


def _replaced(items: tuple, k: int, item: Any) -> tuple:
  return items[:k] + (item,) + items[k + 1:]


def _walk(axis: Axis, k: int, stride: int, starts: tuple[int, ...],
          rows: tuple[Row, ...], instances: dict[Axis, list[Instance]]
          ) -> Iterator[Place]:
  """The places of the leaves of an axis that is, or is in, axis `k`."""
  axis = find(axis)
  if axis.kind == 'concat':
    for part in axis.parts:
      yield from _walk(part, k, stride, starts, rows, instances)
      starts = _replaced(starts, k, starts[k] + part.size * stride)
  elif axis.kind == 'product':
    row = _strided(factors(axis), stride)
    for i, (part, inner) in enumerate(row):
      others = _replaced(rows, k, rows[k] + row[:i] + row[i + 1:])
      yield from _walk(part, k, inner, starts, others, instances)
  elif axis not in instances:
    yield Place(axis, k, stride, starts, rows)
  for instance in instances.get(axis, ()):
    # Only a part of the axis that tells instances apart is left.
    whole = leaves(instance.whole)
    (j, i), = [(j, i) for j, row in enumerate(rows)
               for i, (other, _) in enumerate(row) if leaves(other) == whole]
    other, step = rows[j][i]
    before = 0
    for piece in pieces(other):
      if leaves(piece) == leaves(instance.part):
        break
      before += piece.size
    rows_there = _replaced(
        rows, j, rows[j][:i] + _strided(factors(piece), step) + rows[j][i + 1:])
    yield from _walk(
        instance.there, k, stride,
        _replaced(starts, j, starts[j] + before * step),
        tuple(_there(row, instance, instances) for row in rows_there),
        instances)


def _there(row: Row, instance: Instance,
           instances: dict[Axis, list[Instance]]) -> Row:
  """Coordinates, in the part of another axis in which an instance is."""
  made = []
  for axis, stride in row:
    same = [i.there for i in instances.get(axis, ())
            if leaves(i.part) == leaves(instance.part)]
    made += _strided(factors(same[0]), stride) if same else [(axis, stride)]
  return tuple(made)
