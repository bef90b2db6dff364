"""What is known of an array on a walk that computes it.

An array made of a parameter alone, by casts, transposes, reshapes, masks and
the like, has a `Tag`, which says which axes of the parameter its axes are. What
depends on inputs is `DATA`. Of constants is known along which axes they differ,
of all else nothing.
"""

import math
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import jax
import numpy as np

from jaxsparse.graph import _arrays
from jaxsparse.graph import _shards
from jaxsparse.graph import primitives

# Of an axis of a parameter, or of one of the factors that a reshape cut it to.
Key = tuple[int, ...]


class Tag(NamedTuple):
  """An array is a parameter that was not combined with data.

  Attributes:
    path: the path of the parameter, or another name of it.
    keys: for each axis of the array what of the parameter it is, major first.
    split: the axes of the parameter that a `shard_map` shares out, and over
      which mesh axes.
    scaled: axes of the parameter along which another one, or a constant,
      scales it, the same along some others: `w * s[:, None]` is scaled along 0.
  """
  path: Any
  keys: tuple[tuple[Key, ...], ...]
  split: tuple[tuple[int, tuple[str, ...]], ...] = ()
  scaled: frozenset[int] = frozenset()

  @classmethod
  def of(cls, path: Any, rank: int) -> 'Tag':
    """Of a parameter as it is."""
    return cls(path, tuple(((axis,),) for axis in range(rank)))

  @property
  def is_whole(self) -> bool:
    """Whether no axis of the parameter was cut or joined."""
    return all(len(row) == len(row[0]) == 1 for row in self.keys if row)

  @property
  def axes(self) -> tuple[int | None, ...]:
    """The parameter's axes, of one that is whole; `None` for new ones."""
    return tuple(row[0][0] if row else None for row in self.keys)

  def major(self, axis: int) -> int | None:
    """Which axis of the array begins with this one of the parameter."""
    return next((k for k, row in enumerate(self.keys) if row
                 and row[0][0] == axis and not any(row[0][1:])), None)


class Constant(NamedTuple):
  """An array is made of constants alone.

  Attributes:
    differs: whether its slices along each axis do.
  """
  differs: tuple[bool, ...]

  @classmethod
  def of(cls, x: Any) -> 'Constant':
    """Of an array closed over, or a number."""
    shape = np.shape(x)
    if isinstance(x, jax.core.Tracer) or not shape or not np.size(x) or (
        jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended)):
      return cls(tuple(n > 1 for n in shape))
    x = np.asarray(x)
    return cls(tuple(bool((x != x.take([0], axis)).any())
                     for axis in range(x.ndim)))

  @property
  def slice(self) -> 'Constant':
    """What a loop over its first axis sees of it."""
    return Constant(self.differs[1:])


class _Data:
  """The tag of what depends on inputs."""


DATA = _Data()


class Over(NamedTuple):
  """The mesh axes of a `shard_map` along which devices differ in an array.

  Attributes:
    varies: along these they have data of their own.
    unsure: along these they may, or may have the same again.
  """
  varies: frozenset[str] = frozenset()
  unsure: frozenset[str] = frozenset()

  @property
  def any(self) -> frozenset[str]:
    return self.varies | self.unsure


def parts(eqn: Any, spec: Any) -> dict[int, tuple[str, ...]]:
  """Axes that a `shard_map` shares out, and over which axes of its mesh."""
  sizes = eqn.params['mesh'].shape
  found = {axis: tuple(n for n in _shards.names_of(part) if sizes[n] > 1)
           for axis, part in enumerate(spec)}
  return {axis: names for axis, names in found.items() if names}


def of_device(tag: Tag, parts: Mapping[int, tuple[str, ...]]) -> Tag | None:
  """The tag of a device's part; `None` if no whole axis is shared out."""
  split = []
  for axis, names in parts.items():
    if len(tag.keys[axis]) != 1 or len(tag.keys[axis][0]) != 1:
      return None
    split.append((tag.keys[axis][0][0], names))
  return tag._replace(split=(*tag.split, *split))


def joined(overs: Iterable[Over]) -> Over:
  """Along which axes devices differ in what is computed from such arrays."""
  overs = [*overs]
  return Over(*(frozenset().union(*rows) for rows in zip(*overs, Over())))


class Known(NamedTuple):
  """An array and what is known of it.

  Attributes:
    value: the array.
    tag: a `Tag`, a `Constant`, `DATA` or `None`.
    of: paths of parameters that it was made of alone, in another way than a
      `Tag` follows.
    over: in which it differs among devices.
    partial: of products that it is a device's part of, and the mesh axes over
      which it has to be summed to be whole.
  """
  value: Any
  tag: Any = None
  of: frozenset[Any] = frozenset()
  over: Over = Over()
  partial: tuple[tuple[Any, frozenset[str]], ...] = ()


def untold(known: Iterable[Known]) -> frozenset[Any]:
  """The parameters that arrays were made of, as something without a tag."""
  return frozenset().union(*(
      {x.tag.path} if isinstance(x.tag, Tag) else x.of for x in known))


def passed(eqn: Any, tags: Sequence[Any]) -> Tag | None:
  """The tag of what is made of parameters alone: that of the largest."""
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
  """The tag of what is made of constants alone, if they are not cut."""
  if len(eqn.outvars) != 1 or not all(
      isinstance(tag, Constant) or tag is None and not v.aval.shape
      for v, tag in zip(eqn.invars, tags)):
    return None
  differs = [tag.differs if tag else () for tag in tags]
  new = eqn.outvars[0].aval.shape
  if eqn.primitive.name == 'reshape':
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
  """Axes along which `other` scales, if it is the same along some axes."""
  wide = [k for k, n in enumerate(shape) if n > 1]
  if isinstance(other, Constant):  # A number for all has no axes.
    own = [k for k in wide if other.differs and other.differs[k]]
  else:
    own = [k for k in wide if other.keys[k]]
  if own == wide:
    return frozenset()  # A mask, or weights of their own.
  return frozenset(key[0] for k in own for key in tag.keys[k])


def _reshaped(eqn: Any, tag: Tag, old: tuple[int, ...], new: tuple[int, ...]
              ) -> Tag | None:
  if eqn.params.get('dimensions') is not None or 0 in new:
    return None
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
  """The tag of what all devices have of a parameter, one after the other."""
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


def ordered(tag: Tag, axes: Sequence[int]) -> list[int] | None:
  """Axes of an array in the parameter's order, if they are whole axes of it.

  And if nothing scales the parameter along them.
  """
  keys = {k: tag.keys[k] for k in axes}
  if any(key[0] in tag.scaled for some in keys.values() for key in some):
    return None  # Its inputs are those times the scales.
  order = sorted((k for k in axes if keys[k]), key=lambda k: keys[k])
  flat = [key for k in order for key in keys[k]]
  others = [key[0] for k, some in enumerate(tag.keys) if k not in keys
            for key in some]
  if flat != sorted(flat) or {key[0] for key in flat} & {*others}:
    return None
  return order + [k for k in axes if not keys[k]]
