"""Facts about an array, and how cutting and joining its axes change them."""

from typing import Any, Iterable, NamedTuple, Protocol, Sequence

import jax
import numpy as np

from jaxsparse.graph import axes as axes_lib
from jaxsparse.graph._relations import Relations
from jaxsparse.graph._relations import Unfit
from jaxsparse.graph.axes import Axis


class Source(NamedTuple):
  """A parameter from which an array was computed.

  Attributes:
    path: the path of the parameter.
    size: the number of its elements.
    axes: for each axis of the array, the axes of the parameter in it.
  """
  path: str
  size: int
  axes: tuple[frozenset[int], ...]


class Named(NamedTuple):
  """An array of integers that are indices of an axis.

  Attributes:
    axis: the axis.
    exact: whether the numbers are the indices themselves, not shifted ones.
  """
  axis: Axis
  exact: bool = True


class Value(NamedTuple):
  """The facts known about an array.

  Attributes:
    shape: the shape of the array.
    axes: the units that each axis indexes; `None` where all slices are equal.
    zero: by axis, whether the elements of a unit are zero if all elements of
      parameters that belong to the unit are zero.
    number: the value of all elements, if it is known and the same.
    sums: the sums over units in the array: the number of elements added up, and
      the axes.
    sources: the parameters from which alone the array was computed, or `None`
      if data took part.
    named: the units whose indices the elements are.
    counts: the axis along which the array is 0, 1, 2, ...
  """
  shape: tuple[int, ...]
  axes: tuple[Axis | None, ...]
  zero: tuple[bool, ...]
  number: float | None = None
  sums: tuple[tuple[int, tuple[Axis, ...]], ...] = ()
  sources: tuple[Source, ...] | None = ()
  named: Named | None = None
  counts: int | None = None

  @property
  def is_data(self) -> bool:
    return self.sources is None


class Reader(Protocol):
  """The part of `tracing`'s reader that primitives with own rules need.

  Attributes:
    relations: the relations of all axes.
    ambient: the axes that loops and `shard_map` have removed from arrays.
    mesh: the axes among these that belong to a mesh, by name.
  """
  relations: Relations
  ambient: list[Axis]
  mesh: dict[str, Axis]

  def plain(self, eqn: Any, values: list[Value], wiring: Any) -> list[Value]:
    """The results of an equation, without regard to indices of units."""
    ...

  def wired(self, eqn: Any, values: list[Value], wiring: Any) -> list[Value]:
    """The results of a primitive, by its wiring."""
    ...

  def called(self, closed: Any, values: list[Value]) -> list[Value]:
    """The results of a jaxpr that a control flow primitive calls."""
    ...

  def goes_over(self, name: str, value: Value, axis: int) -> None:
    """Records a primitive that does not treat each index of an axis alone."""
    ...

  def note(self, source: Source, name: str) -> None:
    """Records that data met a parameter outside of a product."""
    ...


def opaque(aval: Any, why: str, sources: Any = None) -> Value:
  """An array whose axes are not followed: none may be permuted."""
  shape = tuple(getattr(aval, 'shape', ()))
  return Value(
      shape, tuple(None if n <= 1 else Axis(n, fixed=why) for n in shape),
      (False,) * len(shape), sources=sources)


def constant(x: Any) -> Value:
  """A closed over array: an axis along which it varies is fixed."""
  shape = np.shape(x)
  if not (shape or jax.dtypes.issubdtype(x.dtype, np.number)
          or x.dtype == np.bool_):
    return Value((), (), ())
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended) or not np.size(x):
    return opaque(x, 'a constant of the function', ())
  x = np.asarray(x)
  alike = [n == 1 or bool((x == x.take([0], axis)).all())
           for axis, n in enumerate(shape)]
  number = float(x.flat[0].real) if all(alike) and not x.flat[0].imag else None
  return Value(
      shape, tuple(None if same else Axis(n, fixed='a constant of the function')
                   for same, n in zip(alike, shape)),
      (number == 0,) * len(shape), number)


def same(relations: Relations, axes: Iterable[Axis | None]) -> Axis | None:
  """Unifies axes that index the same units, and returns one of them."""
  known = [axis for axis in axes if axis is not None]
  for axis in known[1:]:
    relations.unify(known[0], axis)
  return known[0] if known else None


def reshaped(relations: Relations, value: Value, shape: tuple[int, ...]
             ) -> Value:
  """The array after a reshape."""
  axes: list[Axis | None] = [None] * len(shape)
  zero = [False] * len(shape)
  whose: list[Sequence[int]] = [()] * len(shape)
  # An array without elements needs no axes.
  for olds, news in alike(value.shape, shape) if 0 not in shape else ():
    there = [value.axes[i] for i in olds]
    if any(axis is not None for axis in there):
      parts = [axis or _constants(value.shape[i])
               for i, axis in zip(olds, there)]
      try:
        made = relations.reshape(parts, [shape[i] for i in news])
      except Unfit:
        for axis in parts:
          axes_lib.fix(axis, 'reshape')
        made = [Axis(shape[i], fixed='reshape') for i in news]
      for i, axis in zip(news, made):
        axes[i] = axis if axis.size > 1 else None
    for i in news:
      zero[i] = all(value.zero[k] for k in olds) and bool(olds)
      whose[i] = olds
  sources = value.sources and tuple(
      s._replace(axes=tuple(
          frozenset().union(*(s.axes[k] for k in olds)) for olds in whose))
      for s in value.sources)
  return value._replace(
      shape=tuple(shape), axes=tuple(axes), zero=tuple(zero), sources=sources)


def _constants(size: int) -> Axis:
  """An axis of equal constants; its units may not be removed."""
  axis = Axis(size)
  axes_lib.keep(axis, 'constants of the function')
  return axis


def concatenated(relations: Relations, values: list[Value], along: int
                 ) -> Value:
  """Arrays joined along one axis."""
  values = [v for v in values if v.shape[along]] or values[:1]
  if len(values) == 1:
    return values[0]
  parts = [v.axes[along] or _constants(v.shape[along]) for v in values]
  whole = axes_lib.concat(parts)
  axes, zero = [], []
  for axis in range(len(values[0].shape)):
    there = [v.axes[axis] for v in values]
    known = [a for a in there if a is not None]
    if axis == along:
      axes.append(whole)
    elif len(known) == len(there):
      axes.append(relations.merged(whole, known))
    else:
      axes.append(same(relations, known))
    zero.append(all(v.zero[axis] or v.number == 0 for v in values))
  sources = None if any(v.is_data for v in values) else united(
      s for v in values for s in v.sources or ())
  shape = list(values[0].shape)
  shape[along] = whole.size
  return Value(tuple(shape), tuple(axes), tuple(zero), None, (), sources)


def cut(relations: Relations, value: Value, axis: int, start: int, stop: int
        ) -> Value:
  """A slice of an array along one axis."""
  if (start, stop) == (0, value.shape[axis]):
    return value
  axes = list(value.axes)
  whole = axes[axis]
  if start == stop:
    axes[axis] = None
  elif whole is not None:
    try:
      axes[axis], where = relations.cut(whole, start, stop)
      axes = [a if a is None or i == axis else relations.instanced(a, where)
              for i, a in enumerate(axes)]
    except Unfit:
      axes_lib.fix(whole, 'slice')
      axes[axis] = Axis(stop - start, fixed='slice')
    if stop - start == 1:
      axes[axis] = None
  shape = list(value.shape)
  shape[axis] = stop - start
  return value._replace(shape=tuple(shape), axes=tuple(axes))


def blocked(relations: Relations, value: Value, axis: int, size: int, why: str
            ) -> Value:
  """An array one axis of which is not followed, and whose others are."""
  axes, shape = list(value.axes), list(value.shape)
  if (whole := axes[axis]) is not None:
    axes_lib.fix(whole, why)
  axes[axis] = None
  relations.note(axes)
  if size > 1:
    axes[axis] = Axis(size, fixed=why)
  shape[axis] = size
  return value._replace(
      shape=tuple(shape), axes=tuple(axes), number=None,
      zero=value.zero[:axis] + (False,) + value.zero[axis + 1:])


def united(sources: Iterable[Source]) -> tuple[Source, ...]:
  """Merges the sources that belong to one parameter."""
  found = {}
  for source in sources:
    known = found.setdefault(source.path, source)
    found[source.path] = known._replace(axes=tuple(
        a | b for a, b in zip(known.axes, source.axes)))
  return tuple(found.values())


def moved(value: Value, axis: int, to: int) -> Value:
  """An array with one axis moved to another position."""
  order = [i for i in range(len(value.shape)) if i != axis]
  order.insert(to, axis)
  return transposed(value, order)


def transposed(value: Value, order: Sequence[int]) -> Value:
  """An array with its axes in another order."""
  pick = lambda row: tuple(row[i] for i in order)
  return value._replace(
      shape=pick(value.shape), axes=pick(value.axes), zero=pick(value.zero),
      sources=value.sources and tuple(
          s._replace(axes=pick(s.axes)) for s in value.sources))


def with_first(value: Value, axis: Axis) -> Value:
  """A stack of arrays of this kind, with the new axis in front."""
  return Value(
      (axis.size, *value.shape), (axis if axis.size > 1 else None, *value.axes),
      (False, *value.zero), sources=None if value.is_data else tuple(
          s._replace(axes=(frozenset(), *s.axes)) for s in value.sources or ()))


def without_first(value: Value) -> Value:
  """The slice of an array in one turn of a loop over its first axis."""
  return value._replace(
      shape=value.shape[1:], axes=value.axes[1:], zero=value.zero[1:],
      sources=value.sources and tuple(
          s._replace(axes=s.axes[1:]) for s in value.sources))


def alike(old: tuple[int, ...], new: tuple[int, ...]
           ) -> list[tuple[list[int], list[int]]]:
  """The smallest groups of neighbouring axes that a reshape keeps apart.

  >>> alike((2, 3, 4), (6, 2, 2))
  [([0, 1], [0]), ([2], [1, 2])]
  """
  groups, i, j = [], 0, 0
  while i < len(old) or j < len(new):
    if old[i:i + 1] == new[j:j + 1]:
      groups.append(([i], [j]))
      i, j = i + 1, j + 1
      continue
    olds, news, a, b = [], [], 1, 1
    while True:
      if i < len(old) and (a <= b or j == len(new)):
        a *= old[i]
        olds.append(i)
        i += 1
      else:
        b *= new[j]
        news.append(j)
        j += 1
      if a == b:
        break
    groups.append((olds, news))
  return groups
