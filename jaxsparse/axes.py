"""What the axes of arrays are made of, and which of them index the same.

An axis is a leaf, a product of axes (a reshape joined them, major first) or a
concatenation. Axes that meet become one: `unify` links leaves and cuts them
where their structures differ. A slice may single out a part `t0` of an axis `t`
while other leaves stay, as in `x[:, 0]` of `[tokens, 3, heads]`: `heads` may
then be ordered differently for every part, and `at` gives it a leaf of its own
there. `settle` takes that back where an array has the leaf, but not `t`.

`Axis` is mutable, because what is learned late (a reshape, a tie) holds for
everything that was read before.
"""

import collections
import math
from typing import Any, Iterable, Iterator, NamedTuple, Sequence


class Unfit(Exception):
  """Two structures have no common refinement."""


class Axis:
  """An axis of `size`: a leaf, a product, a concatenation, or another axis.

  Attributes:
    size: the number of its indices.
    kind: 'leaf', 'product', 'concat' or 'link'.
    parts: the axes that it is made of; of a link the one that it is.
    fixed: why its indices may not be permuted, or `None`; of leaves.
    kept: why none of them may be removed, or `None`; of leaves.
  """

  def __init__(self, size: int, kind: str = 'leaf',
               parts: Sequence['Axis'] = (), fixed: str | None = None):
    self.size, self.kind, self.parts = size, kind, tuple(parts)
    self.fixed, self.kept = fixed, None

  def become(self, kind: str, parts: Sequence['Axis']) -> None:
    """Gives a leaf a structure; its parts inherit what is known of it."""
    self.kind, self.parts = kind, tuple(parts)
    for leaf in leaves(self):
      leaf.fixed = leaf.fixed or self.fixed
      leaf.kept = leaf.kept or self.kept


def find(axis: Axis) -> Axis:
  """The axis that an axis is linked to."""
  while axis.kind == 'link':
    axis, = axis.parts
  return axis


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


class Axes:
  """The axes of one function: what arrays have together, and instances.

  Attributes:
    arrays: the axes that each array has, those of loops around it included.
    instances: leaves that may differ from part to part of another axis.
  """

  def __init__(self):
    self.arrays: list[tuple[Axis, ...]] = []
    self.instances: list[Instance] = []
    self._at: dict[tuple[Axis, ...], Axis] = {}

  def note(self, axes: Iterable[Axis | None]) -> None:
    """Notes that one array has these axes."""
    self.arrays.append(tuple(axis for axis in axes if axis is not None))

  def unify(self, a: Axis, b: Axis) -> None:
    """Says that two axes of one size index the same, whatever that takes."""
    a, b = find(a), find(b)
    if a is b:
      return
    try:
      if a.size != b.size:
        raise Unfit
      if a.kind == 'leaf':
        a.become('link', [b])
      elif b.kind == 'leaf':
        b.become('link', [a])
      elif a.kind == b.kind == 'product':
        ones, others = factors(a), factors(b)
        sizes = _refined([f.size for f in ones], [f.size for f in others])
        for pair in zip(self.reshape(ones, sizes),
                        self.reshape(others, sizes)):
          self.unify(*pair)
      elif a.kind == b.kind:
        start = 0
        for size in _common([p.size for p in a.parts],
                            [p.size for p in b.parts]):
          self.unify(self.cut(a, start, start + size)[0],
                     self.cut(b, start, start + size)[0])
          start += size
      else:
        whole, other = (a, b) if a.kind == 'product' else (b, a)
        start = 0
        for piece in other.parts:
          part, where = self.cut(whole, start, start + piece.size)
          self.unify(self.instanced(part, where), piece)
          start += piece.size
    except Unfit:
      for axis in (a, b):
        fix(axis, 'reshape')

  def reshape(self, parts: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """The product of axes, cut into axes of these sizes, major first."""
    rest = [factor for part in parts for factor in factors(part)]
    made = []
    for size in reversed(sizes):
      mine = []
      while (left := size // math.prod(f.size for f in mine)) > 1:
        if not rest:
          raise Unfit
        factor = rest.pop()
        if factor.size > left:
          major, factor = self._split(factor, left)
          rest.append(major)
        if left % factor.size:
          raise Unfit
        mine.insert(0, factor)
      made.insert(0, product(mine) if mine else Axis(1))
    return made

  def _split(self, axis: Axis, minor: int) -> tuple[Axis, Axis]:
    """Cuts an axis into a product of two, the second of size `minor`."""
    axis = find(axis)
    if axis.size % minor:
      raise Unfit
    if axis.kind == 'leaf':
      axis.become('product', [Axis(axis.size // minor), Axis(minor)])
      return axis.parts
    if any(part.size % minor for part in axis.parts):
      raise Unfit
    # The parts of a concatenation become parts of the major axis.
    pairs = [self.reshape([part], [part.size // minor, minor])
             for part in axis.parts]
    whole = concat([major for major, _ in pairs])
    return whole, self.merged(whole, [minor for _, minor in pairs])

  def merged(self, whole: Axis, versions: Sequence[Axis]) -> Axis:
    """One axis that is each of `versions` in the parts of `whole`."""
    first, *others = map(find, versions)
    if all(axis is first for axis in others):
      return first
    if find(whole).kind != 'concat' or is_fixed(whole) or any(
        map(is_fixed, versions)):
      for axis in others:
        self.unify(first, axis)
      return first
    leaf = Axis(first.size)
    for part, version in zip(whole.parts, versions):
      self._record(leaf, whole, part, version)
    return leaf

  def cut(self, axis: Axis, start: int, stop: int
          ) -> tuple[Axis, list[tuple[Axis, Axis]]]:
    """An axis from `start` to `stop`, and which parts of which axes these are.

    The structure of the axis is refined where it needs to be.
    """
    axis = find(axis)
    if (start, stop) == (0, axis.size):
      return axis, []
    if axis.kind == 'leaf':
      sizes = [start, stop - start, axis.size - stop]
      axis.become('concat', [Axis(size) for size in sizes if size])
    if axis.kind == 'concat':
      cuts, at = [], 0
      for part in axis.parts:
        low, high = max(start, at), min(stop, at + part.size)
        if low < high:
          cuts.append((part, *self.cut(part, low - at, high - at)))
        at += part.size
      if len(cuts) > 1:
        return concat([piece for _, piece, _ in cuts]), []
      (part, piece, inner), = cuts
      return piece, [(axis, part)] + inner
    major, *rest = factors(axis)
    minor = math.prod(f.size for f in rest)
    first, last = start // minor, (stop - 1) // minor
    if first == last:
      _, where = self.cut(major, first, first + 1)
      piece, inner = self.cut(product(self.instanced(f, where) for f in rest),
                              start - first * minor, stop - first * minor)
      return piece, where + inner
    if start % minor or stop % minor:
      raise Unfit
    piece, where = self.cut(major, first, last + 1)
    return product([piece, *(self.instanced(f, where) for f in rest)]), where

  def instanced(self, axis: Axis, where: list[tuple[Axis, Axis]]) -> Axis:
    """What an axis is in these parts of others of the same array."""
    axis = find(axis)
    if axis.kind != 'leaf':
      return Axis(axis.size, axis.kind,
                  [self.instanced(part, where) for part in axis.parts])
    for whole, part in where:
      if axis.fixed or is_fixed(whole) or axis in leaves(whole):
        return axis
      axis = find(self._record(axis, whole, part))
      if axis.kind != 'leaf':
        rest = where[where.index((whole, part)) + 1:]
        return self.instanced(axis, rest)
    return axis

  def _record(self, leaf: Axis, whole: Axis, part: Axis,
              there: Axis | None = None) -> Axis:
    """What `leaf` is in `part` of `whole`; `there`, if that is known."""
    known = self._at.get(key := (leaf, *leaves(part)))
    if known is None:
      known = self._at[key] = there or Axis(leaf.size)
      self.instances.append(Instance(leaf, whole, part, known))
    elif there is not None:
      self.unify(known, there)
    return known

  def settle(self) -> None:
    """Makes leaves and instances agree, and drops instances without a reason.

    After it, `instances` has those that stay, for every part of `whole`.
    """
    while self._refine() or self._dissolve():
      pass
    for leaf, whole, _, _ in list(self.instances):
      for part in pieces(whole):
        there = self._record(leaf, whole, part)
        if leaf.kept:
          keep(there, leaf.kept)

  def _refine(self) -> bool:
    """Gives instances the structure of leaves and parts; was any without?"""
    before, self.instances, self._at = self.instances, [], {}
    changed = False
    for leaf, whole, part, there in before:
      leaf, part = find(leaf), find(part)
      if leaf.kind != 'leaf':
        self.unify(there, self.instanced(leaf, [(whole, part)]))
        changed = True
      elif part.kind == 'concat':
        for piece in pieces(part):
          self._record(
              leaf, whole, piece, self.instanced(there, [(part, piece)]))
        changed = True
      else:
        known = find(self._record(leaf, whole, part, there))
        changed |= known is not find(there)
    return changed

  def _dissolve(self) -> bool:
    """Unifies a leaf with its instances where an array has no `whole`."""
    companies = self.companies(settled=False)
    stay, gone, first = [], [], {}
    for instance in self.instances:
      leaf, parts = instance.leaf, leaves(instance.whole)
      free = (
          leaf.fixed is None and first.setdefault(leaf, parts) == parts
          and all(sum(leaves(axis) == parts for axis in company) == 1
                  for company in companies.get(leaf, ())))
      (stay if free else gone).append(instance)
    self.instances = stay
    self._at = {(i.leaf, *leaves(i.part)): i.there for i in stay}
    for instance in gone:
      self.unify(instance.leaf, instance.there)
    return bool(gone)

  def companies(self, *, settled: bool = True) -> dict[Axis, list[list[Axis]]]:
    """For every leaf, and everywhere it is: what else tells an element of it.

    In an array of axes `a * (b + c * d)` and `e`, the company of `d` is `a`,
    `c`, `e`, and that of `b` is `a`, `e`.
    """
    found = collections.defaultdict(list)
    for array in {tuple(map(find, array)) for array in self.arrays}:
      for place in self.places(array, settled=settled):
        found[place.leaf].append(
            [axis for row in place.coordinates for axis, _ in row])
    return found

  def places(self, array: Sequence[Axis | None], *, settled: bool = True
             ) -> list['Place']:
    """Where in an array the leaves of its axes are, or their instances."""
    rows = tuple(_strided(factors(axis), 1) if axis else () for axis in array)
    starts = (0,) * len(rows)
    instances = collections.defaultdict(list)
    for instance in self.instances if settled else ():
      instances[instance.leaf].append(instance)
    return [
        place for k, axis in enumerate(array) if axis is not None
        for place in _walk(
            axis, k, 1, starts, rows[:k] + ((),) + rows[k + 1:], instances)]


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


def _refined(ones: list[int], others: list[int]) -> list[int]:
  """Sizes that two products of sizes, major first, can both be cut to.

  >>> _refined([8, 6], [4, 12])
  [4, 2, 6]
  """
  ones, others, sizes = list(ones), list(others), []
  while ones and others:
    low, high = sorted([ones.pop(), others.pop()])
    if high % low:
      raise Unfit
    sizes.insert(0, low)
    if high > low:
      (ones if math.prod(ones) < math.prod(others) else others).append(
          high // low)
  return sizes


def _common(ones: list[int], others: list[int]) -> list[int]:
  """Sizes of pieces that two rows of sizes with one sum can both be cut to.

  >>> _common([2, 4], [3, 3])
  [2, 1, 3]
  """
  ends = set()
  for sizes in (ones, others):
    end = 0
    for size in sizes:
      end += size
      ends.add(end)
  marks = [0, *sorted(ends)]
  return [b - a for a, b in zip(marks, marks[1:])]
