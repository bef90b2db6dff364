"""Relations: which axes of a function's arrays index the same units.

`unify` makes one axis of two that meet: it links their leaves, and splits
leaves where the structures of the axes differ. A slice may take a part `t0` of
an axis `t` and keep other leaves, as `x[:, 0]` of `[tokens, 3, heads]` does.
The units `heads` may then have a different order in every part, so each part
gets an instance of the leaf `heads`, a leaf of its own. `settle` removes
instances again where an array has the leaf, but not `t`.
"""

import collections
import math
from typing import Iterable, Sequence

from jaxsparse.graph.axes import Axis
from jaxsparse.graph.axes import concat
from jaxsparse.graph.axes import factors
from jaxsparse.graph.axes import find
from jaxsparse.graph.axes import fix
from jaxsparse.graph.axes import Instance
from jaxsparse.graph.axes import is_fixed
from jaxsparse.graph.axes import keep
from jaxsparse.graph.axes import leaves
from jaxsparse.graph.axes import note_number
from jaxsparse.graph.axes import pieces
from jaxsparse.graph.axes import Place
from jaxsparse.graph.axes import places
from jaxsparse.graph.axes import product


class Unfit(Exception):
  """Two structures have no common refinement."""


class Relations:
  """The axes of one function: which arrays have them, and their instances.

  Attributes:
    arrays: the axes of each array, including those of loops around it.
    instances: the leaves whose order may differ among parts of another axis.
  """

  def __init__(self):
    self.arrays: list[tuple[Axis, ...]] = []
    self.instances: list[Instance] = []
    self._at: dict[tuple[Axis, ...], Axis] = {}

  def note(self, axes: Iterable[Axis | None]) -> None:
    """Records that one array has these axes."""
    self.arrays.append(tuple(axis for axis in axes if axis is not None))

  def unify(self, a: Axis, b: Axis) -> None:
    """Makes two axes of one size index the same units."""
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
          part, _ = self.cut(whole, start, start + piece.size)
          self.unify(part, piece)
          start += piece.size
    except Unfit:
      for axis in (a, b):
        fix(axis, 'reshape')

  def reshape(self, parts: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """Joins axes, major first, and splits the result into these sizes."""
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
    """Splits an axis into a product of two, the second of size `minor`."""
    axis = find(axis)
    if axis.size % minor:
      raise Unfit
    if axis.kind == 'leaf':
      made = Axis(axis.size // minor), Axis(minor)
      axis.become('product', made)
      return made
    if any(part.size % minor for part in axis.parts):
      raise Unfit
    # The parts of a concatenation become parts of the major axis.
    pairs = [self.reshape([part], [part.size // minor, minor])
             for part in axis.parts]
    whole = concat([major for major, _ in pairs])
    return whole, self.merged(whole, [minor for _, minor in pairs])

  def merged(self, whole: Axis, versions: Sequence[Axis]) -> Axis:
    """One axis that is one of `versions` in each part of `whole`."""
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
    """The slice of an axis from `start` to `stop`, and the parts that it takes.

    Boundaries of the slice inside of a leaf split the leaf.
    """
    axis = find(axis)
    if (start, stop) == (0, axis.size):
      return axis, []
    _slice(axis, start, stop)
    if axis.kind == 'concat':
      at = 0
      for part in pieces(axis):
        _slice(part, start - at, stop - at)
        at += part.size
      cuts, at = [], 0
      for part in pieces(axis):
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
    """The instance of an axis in these parts of other axes of the array."""
    axis = find(axis)
    if axis.kind != 'leaf':
      return Axis(axis.size, axis.kind,
                  [self.instanced(part, where) for part in axis.parts])
    for i, (whole, part) in enumerate(where):
      if axis.fixed or is_fixed(whole) or axis in leaves(whole):
        return axis
      axis = find(self._record(axis, whole, part))
      if axis.kind != 'leaf':
        return self.instanced(axis, where[i + 1:])
    return axis

  def _record(self, leaf: Axis, whole: Axis, part: Axis,
              there: Axis | None = None) -> Axis:
    """The instance of `leaf` in `part` of `whole`; `there` if it is given."""
    known = self._at.get(key := (leaf, *leaves(part)))
    if known is None:
      known = self._at[key] = there or Axis(leaf.size)
      self.instances.append(Instance(leaf, whole, part, known))
    elif there is not None:
      self.unify(known, there)
    return known

  def settle(self) -> None:
    """Makes leaves and instances agree, and drops instances without a reason.

    Afterwards `instances` has the remaining ones, for every part of `whole`.
    """
    while self._refine() or self._dissolve():
      pass
    for leaf, whole, _, _ in list(self.instances):
      for part in pieces(whole):
        there = self._record(leaf, whole, part)
        if leaf.kept:
          keep(there, leaf.kept)
        if leaf.number:
          note_number(there, leaf.number)

  def _refine(self) -> bool:
    """Gives instances the structure of their leaves; returns if any changed."""
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
    circular = _circular(self.instances)
    stay, gone, first = [], [], {}
    for instance in self.instances:
      leaf, parts = instance.leaf, leaves(instance.whole)
      free = (
          leaf.fixed is None and leaf not in circular
          # If both halves are one leaf, instances cannot differ.
          and len(set(parts)) == len(parts)
          and first.setdefault(leaf, parts) == parts
          and all(sum(leaves(axis) == parts for axis in company) == 1
                  for company in companies.get(leaf, ())))
      (stay if free else gone).append(instance)
    self.instances = stay
    self._at = {(i.leaf, *leaves(i.part)): i.there for i in stay}
    for instance in gone:
      self.unify(instance.leaf, instance.there)
    return bool(gone)

  def companies(self, *, settled: bool = True) -> dict[Axis, list[list[Axis]]]:
    """For every leaf, the leaves that stand beside it in arrays, its company.

    In an array of axes `a * (b + c * d)` and `e`, the company of `d` is `a`,
    `c`, `e`, and that of `b` is `a`, `e`.
    """
    found = collections.defaultdict(list)
    for array in {tuple(map(find, array)) for array in self.arrays}:
      for place in places(array, self.instances if settled else ()):
        found[place.leaf].append(
            [axis for row in place.coordinates for axis, _ in row])
    return found

  def places(self, array: Sequence[Axis | None]) -> list[Place]:
    """The places of leaves, or their instances, in an array; after `settle`."""
    return places(array, self.instances)


def _circular(instances: Sequence[Instance]) -> set[Axis]:
  """The leaves that are instances of themselves, directly or by others."""
  direct = collections.defaultdict(set)
  for instance in instances:
    direct[instance.leaf].update(leaves(instance.there))

  def is_circular(leaf):
    seen, todo = set(), [leaf]
    while todo:
      new = direct.get(todo.pop(), set()) - seen
      seen |= new
      todo += new
    return leaf in seen
  return set(filter(is_circular, direct))


def _slice(axis: Axis, start: int, stop: int) -> None:
  """Splits a leaf in two if a boundary of the slice lies inside of it."""
  start, stop = max(start, 0), min(stop, axis.size)
  if axis.kind == 'leaf' and start < stop and stop - start < axis.size:
    sizes = [start, stop - start, axis.size - stop]
    axis.become('concat', [Axis(size) for size in sizes if size])


def _refined(ones: list[int], others: list[int]) -> list[int]:
  """The coarsest sizes into which two products, major first, both split.

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
  """The coarsest pieces into which two rows of sizes of one sum both split.

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
