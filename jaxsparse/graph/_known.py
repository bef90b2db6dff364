"""The facts known about an array during a walk that computes it.

An array that is computed from a parameter alone, by casts, transposes,
reshapes, masks and the like, has a `Tag`, which maps its axes to those of the
parameter.
An array that depends on inputs has the tag `DATA`. A `Constant` lists the axes
along which an array of constants differs, or one that is computed from
parameters without their axes, such as a norm. Other arrays have no tag.
"""

import math
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import jax
import numpy as np

from jaxsparse.graph import _arrays
from jaxsparse.graph import _shards
from jaxsparse.graph import primitives

# An axis of a parameter, followed by the positions of the factors into which
# reshapes have split it.
Key = tuple[int, ...]


class Tag(NamedTuple):
  """The tag of an array that is a parameter, not combined with data.

  Attributes:
    path: the path of the parameter, or another name of it.
    keys: for each axis of the array, the axes of the parameter in it, major
      first.
    split: the axes of the parameter that a `shard_map` splits, each with the
      mesh axes.
    scaled: the axes of the parameter along which it is scaled by another
      parameter, or a constant, with fewer axes: `w * s[:, None]` is scaled
      along axis 0.
    layers: the axes of the parameter that loops around have sliced, as rows of
      `keys`, that of the outermost loop first.
  """
  path: Any
  keys: tuple[tuple[Key, ...], ...]
  split: tuple[tuple[int, tuple[str, ...]], ...] = ()
  scaled: frozenset[int] = frozenset()
  layers: tuple[tuple[Key, ...], ...] = ()

  @classmethod
  def of(cls, path: Any, rank: int) -> 'Tag':
    """The tag of a parameter itself."""
    return cls(path, tuple(((axis,),) for axis in range(rank)))

  @property
  def is_whole(self) -> bool:
    """Whether no axis of the parameter was split or joined."""
    return all(len(row) == len(row[0]) == 1 for row in self.keys if row)

  @property
  def axes(self) -> tuple[int | None, ...]:
    """The parameter's axes if the tag is whole; `None` for new axes."""
    return tuple(row[0][0] if row else None for row in self.keys)

  def major(self, axis: int) -> int | None:
    """The axis of the array whose major part is this axis of the parameter."""
    return next((k for k, row in enumerate(self.keys) if row
                 and row[0][0] == axis and not any(row[0][1:])), None)


class Constant(NamedTuple):
  """The tag of an array that is computed from constants or parameters alone.

  Attributes:
    differs: by axis, whether the slices along it differ, or may.
  """
  differs: tuple[bool, ...]

  @classmethod
  def of(cls, x: Any) -> 'Constant':
    """The tag of a closed over array, or of a number."""
    shape = np.shape(x)
    if isinstance(x, jax.core.Tracer) or not shape or not np.size(x) or (
        jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended)):
      return cls(tuple(n > 1 for n in shape))
    x = np.asarray(x)
    return cls(tuple(bool((x != x.take([0], axis)).any())
                     for axis in range(x.ndim)))

  @property
  def slice(self) -> 'Constant':
    """The tag of its slice in one turn of a loop over its first axis."""
    return Constant(self.differs[1:])


class _Data:
  """The tag of an array that depends on inputs."""


DATA = _Data()


class Over(NamedTuple):
  """The mesh axes of a `shard_map` along which devices differ in an array.

  Attributes:
    varies: the axes along which each device has data of its own.
    unsure: the axes along which devices may have the same, or may differ.
  """
  varies: frozenset[str] = frozenset()
  unsure: frozenset[str] = frozenset()

  @property
  def any(self) -> frozenset[str]:
    return self.varies | self.unsure


def parts(eqn: Any, spec: Any) -> dict[int, tuple[str, ...]]:
  """The axes of an array that a `shard_map` splits, each with the mesh axes."""
  sizes = eqn.params['mesh'].shape
  found = {axis: tuple(n for n in _shards.names_of(part) if sizes[n] > 1)
           for axis, part in enumerate(spec)}
  return {axis: names for axis, names in found.items() if names}


def of_device(tag: Tag, parts: Mapping[int, tuple[str, ...]]) -> Tag | None:
  """The tag of a device's part; `None` unless all split axes are whole."""
  split = []
  for axis, names in parts.items():
    if len(tag.keys[axis]) != 1 or len(tag.keys[axis][0]) != 1:
      return None
    split.append((tag.keys[axis][0][0], names))
  return tag._replace(split=(*tag.split, *split))


def joined(overs: Iterable[Over]) -> Over:
  """The axes along which devices differ in a result of such operands."""
  overs = [*overs]
  return Over(*(frozenset().union(*rows) for rows in zip(*overs, Over())))


class Known(NamedTuple):
  """An array and the facts known about it.

  Attributes:
    value: the array.
    tag: a `Tag`, a `Constant`, `DATA` or `None`.
    of: the paths of the parameters from which alone the array was computed, if
      it was by steps that a `Tag` does not follow, and of those that were added
      to the parameter of the `Tag`, or multiplied with it.
    over: the mesh axes along which the array differs among devices.
    partial: the products of which the array is one device's part, each with the
      mesh axes over which the parts must be summed.
  """
  value: Any
  tag: Any = None
  of: frozenset[Any] = frozenset()
  over: Over = Over()
  partial: tuple[tuple[Any, frozenset[str]], ...] = ()


def untold(known: Iterable[Known]) -> frozenset[Any]:
  """The parameters in arrays, for a result that has no tag."""
  return frozenset().union(*(
      x.of | {x.tag.path} if isinstance(x.tag, Tag) else x.of for x in known))


def passed(eqn: Any, tags: Sequence[Any]) -> Tag | None:
  """The tag of a result of parameters alone: that of the largest."""
  sized = [(math.prod(v.aval.shape), i) for i, (v, tag) in enumerate(zip(
      eqn.invars, tags)) if isinstance(tag, Tag)]
  if not sized or len(eqn.outvars) != 1:
    return None
  _, i = max(sized, key=lambda pair: pair[0])
  tag, name = tags[i], eqn.primitive.name
  old, new = eqn.invars[i].aval.shape, eqn.outvars[0].aval.shape
  if name == 'reshape':
    return _reshaped(eqn, tag, old, new)
  if name in ('all_gather', 'all_gather_invariant'):
    return _gathered(eqn, tag)
  wiring = primitives.wiring(eqn)
  if wiring.kind not in ('map', 'move') or wiring.fixed:
    return None
  row = [[axis for j, axis in (() if isinstance(w, primitives.New) else w)
          if j == i] for w in wiring.outputs[0]]
  scaled = frozenset().union(*(
      _scaled(tag, other, new) for j, other in enumerate(tags)
      if j != i and name in ('mul', 'div') and isinstance(
          other, (Tag, Constant))))
  return tag._replace(keys=tuple(
      tag.keys[axes[0]] if axes else () for axes in row),
                      scaled=tag.scaled | scaled)


def made_of_constants(eqn: Any, tags: Sequence[Any]) -> Constant | None:
  """The tag of a result of constants or parameters; `None` if it is unknown.
  """
  # A parameter may differ along the axes that it has.
  tags = [Constant(tuple(map(bool, tag.keys))) if isinstance(tag, Tag) else tag
          for tag in tags]
  if len(eqn.outvars) != 1 or not all(
      isinstance(tag, Constant) or tag is None and not v.aval.shape
      for v, tag in zip(eqn.invars, tags)):
    return None
  differs = [tag.differs if tag else () for tag in tags]
  new = eqn.outvars[0].aval.shape
  if eqn.primitive.name == 'reshape':
    if eqn.params.get('dimensions') is not None:
      return None
    return Constant(tuple(
        new[k] > 1 and any(differs[0][i] for i in olds)
        for k, olds in sorted((k, olds) for olds, news in _arrays.alike(
            eqn.invars[0].aval.shape, new) for k in news)))
  wiring = primitives.wiring(eqn)
  if wiring.kind not in ('map', 'move', 'sum'):
    return None
  return Constant(tuple(
      not wires.uniform if isinstance(wires, primitives.New)
      else any(differs[i][axis] for i, axis in wires)
      for wires in wiring.outputs[0]))


def _scaled(tag: Tag, other: Tag | Constant, shape: tuple[int, ...]
            ) -> frozenset[int]:
  """The axes along which `other` scales the parameter.

  Empty if `other` has all axes of the array, as a mask has.
  """
  wide = [k for k, n in enumerate(shape) if n > 1]
  if isinstance(other, Constant):  # A single number has no axes.
    own = [k for k in wide if other.differs and other.differs[k]]
  else:
    own = [k for k in wide if other.keys[k]]
  if own == wide:
    return frozenset()  # A mask, or other weights.
  return frozenset(key[0] for k in own for key in tag.keys[k])


def _reshaped(eqn: Any, tag: Tag, old: tuple[int, ...], new: tuple[int, ...]
              ) -> Tag | None:
  if 0 in new:
    return None
  if (order := eqn.params.get('dimensions')) is not None:
    old = tuple(old[k] for k in order)
    tag = tag._replace(keys=tuple(tag.keys[k] for k in order))
  keys: list[tuple[Key, ...]] = [()] * len(new)
  for olds, news in _arrays.alike(old, new):
    news = [k for k in news if new[k] > 1]
    there = [key for k in olds for key in tag.keys[k] if old[k] > 1]
    if len(news) == 1:
      keys[news[0]] = tuple(there)
    elif len(there) == 1:
      for i, k in enumerate(news):
        keys[k] = ((*there[0], i),)
    elif news:
      return None
  return tag._replace(keys=tuple(keys))


def _gathered(eqn: Any, tag: Tag) -> Tag | None:
  """The tag of the result of an `all_gather` of a parameter's parts."""
  has, split = eqn.params, dict(tag.split)
  if has['axis_size'] == 1:
    return tag
  names = _shards.names_of(has['axis_name'])
  axis = next((k for k in split if tag.major(k) == has['all_gather_dimension']
               and split[k][-len(names):] == names), None)
  if axis is None or not has['tiled'] or has['axis_index_groups']:
    return None
  split[axis] = split[axis][:-len(names)]
  return tag._replace(split=tuple(row for row in split.items() if row[1]))


def is_stack(tag: Tag, axes: Sequence[int]) -> bool:
  """Whether the layers, with some axes of an array, index whole matrices.

  They do unless they are joined axes of the parameter, or parts of an axis
  whose other parts are in the matrices.
  """
  rows = [*tag.layers, *(tag.keys[k] for k in axes)]
  others = {key[0] for k, row in enumerate(tag.keys) if k not in axes
            for key in row}
  return all(len(row) <= 1 for row in rows) and not (
      {key[0] for row in rows for key in row} & others)


def ordered(tag: Tag, axes: Sequence[int]) -> list[int] | None:
  """Axes of an array, in the order of the parameter.

  `None` unless they are whole axes of the parameter that nothing scales.
  """
  keys = {k: tag.keys[k] for k in axes}
  if any(key[0] in tag.scaled for some in keys.values() for key in some):
    return None  # The inputs of the parameter are these times the scales.
  order = sorted((k for k in axes if keys[k]), key=lambda k: keys[k])
  flat = [key for k in order for key in keys[k]]
  others = [key[0] for k, some in enumerate(tag.keys) if k not in keys
            for key in some]
  if flat != sorted(flat) or {key[0] for key in flat} & {*others}:
    return None
  return order + [k for k in axes if not keys[k]]
