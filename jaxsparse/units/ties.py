"""Ties as data: hidden units, and their places in parameters."""

import dataclasses
import difflib
import math
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils import tables

# Pairs of a count and a distance.
Steps = tuple[tuple[int, int], ...]


class Elsewhere(NamedTuple):
  """A part of another axis: `start + sum of i * stride` over `steps`."""
  axis: int
  start: int = 0
  steps: Steps = ()


class Member(NamedTuple):
  """An axis of a parameter, or a part of one, that indexes units of a tie.

  Unit `u` has the indices `start + u * stride + i * distance + ...` of the
  axis, for all `i < count`, for every `(count, distance)` in `repeats`. For
  example, the heads of a kernel `[in, out]` with eight heads of 64 outputs are
  `Member(path, 1, stride=64, repeats=((64, 1),))`. If units have a separate
  order along other dimensions, `Tie.along`, then `along` has an axis and a
  distance for each of these. The 64 dimensions of the heads, with an order for
  every head, are `Member(path, 1, along=((1, 64),))`.

  Attributes:
    path: the parameter's path, keys joined with '/'.
    axis: the axis, counted from the front.
    start: the index of the first unit.
    stride: the distance between units.
    repeats: pairs `(count, distance)`, if a unit has several indices.
    along: a pair `(axis, distance)` for each dimension of `Tie.along`.
    elsewhere: the parts of other axes to which the member is limited; all
      indices of axes that are not listed.
    part: whether the axis also has indices that do not belong to these units.
    role: the role of the parameter for the units. 'reads': its products with
      data sum over the axis. 'makes': the axis is an output of its products.
      'beside': there are no such products (biases, scales, running averages,
      embedding tables). `None`: unknown.
  """
  path: str
  axis: int
  start: int = 0
  stride: int = 1
  repeats: Steps = ()
  along: Steps = ()
  elsewhere: tuple[Elsewhere, ...] = ()
  part: bool = False
  role: str | None = None

  def __str__(self) -> str:
    """The member as an index: `*` for units, `@` for dimensions of `along`."""
    parts: dict[int, tuple[int, tuple[Any, ...]]] = {
        e.axis: (e.start, e.steps) for e in self.elsewhere}
    parts[self.axis] = self.start, (('*', self.stride), *self.repeats)
    rank = 1 + max([*parts, *(axis for axis, _ in self.along)])
    texts = []
    for axis in range(rank):
      start, steps = parts.get(axis, (0, ()))
      groups = [('@', d) for a, d in self.along if a == axis]
      texts.append(_index(start, [*steps, *groups]) if axis in parts or groups
                   else ':')
    return f'{self.path}[{", ".join(texts)}]'


def _index(start: int, steps: Sequence[tuple[Any, int]]) -> str:
  """An index as text, major first.

  >>> _index(8, [('*', 1), (2, 4)]), _index(3, []), _index(0, [(4, 2)])
  ('8+(2 *)', '3', '0:8:2')
  """
  words = [str(n) for n, _ in sorted(steps, key=lambda step: -step[1])]
  if not words:
    return str(start)
  if len(words) == 1 and words[0].isdigit():
    (count, distance), = steps
    return f'{start}:{start + count * distance}' + (
        f':{distance}' if distance > 1 else '')
  text = ' '.join(words)
  text = f'({text})' if len(words) > 1 else text
  return f'{start}+{text}' if start else text


@dataclasses.dataclass(frozen=True)
class Tie:
  """A set of hidden units, and all axes of parameters that index them.

  Attributes:
    size: the number of units.
    members: the axes, or parts of axes, that index the units.
    along: the sizes of dimensions along which units have a separate order, such
      as the heads for the dimensions of a head.
    fixed: the reason why the units may not be permuted, or `None`.
    kept: the reason why the units may not be removed, or `None`.
    name: a short name; by default that of the first member.
    read: the operations that read the units besides members with the role
      'reads', such as a sum over them, or `None`.
    untried: the reason why removal could not be tried, or `None`: the error of
      a function that does not take smaller arrays, or an array that it closes
      over.

  Raises:
    ValueError: if there are no members, or a member lacks a pair for a
      dimension of `along`.

  >>> tie = Tie(256, (Member('fc1/kernel', 1), Member('fc2/kernel', 0)))
  >>> tie.name, tie.shape, tie.free
  ('fc1/kernel[:, *]', (256,), True)
  """
  size: int
  members: tuple[Member, ...]
  along: tuple[int, ...] = ()
  fixed: str | None = None
  kept: str | None = None
  name: str = ''
  read: str | None = None
  untried: str | None = None

  def __post_init__(self):
    members = tuple(m if isinstance(m, Member) else Member(*m)
                    for m in self.members)
    object.__setattr__(self, 'members', members)
    if not members or any(
        len(m.along) != len(self.along) or m.axis < 0 for m in members):
      raise ValueError(
          'A tie needs members, each with an axis counted from the front, and '
          'with a pair of axis and distance for every dimension of `along`, '
          f'got along={self.along} and {members}. Write '
          "e.g. Tie(256, (Member('fc1/kernel', 1), Member('fc2/kernel', 0))).")
    if not self.name:
      object.__setattr__(self, 'name', str(members[0]))

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of a permutation of the units."""
    return (*self.along, self.size)

  @property
  def free(self) -> bool:
    """Whether the units may be permuted."""
    return self.fixed is None


@dataclasses.dataclass(frozen=True)
class Ties:
  """The result of `infer_ties`; `print` shows it as a table.

  Iterate over it to get each `Tie`, or index it by the name of a tie. A sum
  joins ties, such as `heads(ties) + neurons(ties)`, and has each tie once.

  Attributes:
    ties: all ties, in the order of their first members.
    shapes: the shapes of all parameters by path, if they are known.

  Raises:
    ValueError: from a sum of ties of two functions with a parameter in common,
      or of different ties of one name.

  >>> print(Ties((Tie(256, (Member('fc1', 1), Member('fc2', 0))),)))
  units  along  permute  remove  members
  -----  -----  -------  ------  ---------
  256    -      yes      yes     fc1[:, *]
                                 fc2[*]
  """
  ties: tuple[Tie, ...]
  shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(
      default_factory=dict)

  def __post_init__(self):
    object.__setattr__(self, 'ties', tuple(self.ties))

  def __iter__(self) -> Iterator[Tie]:
    return iter(self.ties)

  def __len__(self) -> int:
    return len(self.ties)

  def __getitem__(self, name: str) -> Tie:
    for tie in self.ties:
      if tie.name == name:
        return tie
    if not self.ties:
      raise ValueError(
          f'Got the name {name!r}, but there are no ties: no two axes of these '
          'parameters index the same units. Infer ties from a function with '
          'hidden units.')
    names = [tie.name for tie in self.ties]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=.3)
    raise ValueError(
        f'Expected the name of a tie, such as {names[:5]}, got {name!r}.'
        f"{f' Did you mean {near[0]!r}?' if near else ''} To find a tie by "
        "parameter and axis, write `ties.of('fc1/kernel', 1)`.")

  def of(self, path: str, axis: int) -> tuple[Tie, ...]:
    """The ties that a parameter's axis, or parts of it, belong to."""
    return tuple(tie for tie in self.ties
                 if any((m.path, m.axis) == (path, axis) for m in tie.members))

  def __add__(self, others: 'Ties | Tie | Sequence[Tie]') -> 'Ties':
    """The ties of both, each once."""
    others = as_ties(others)
    new = [tie for tie in others if tie not in self.ties]
    names = [tie.name for tie in new if tie.name in {t.name for t in self}]
    # Every inference has a mapping of shapes of its own, and two functions tie
    # a parameter differently even if only one of them uses it.
    paths = [] if others.shapes is self.shapes else [
        path for path in others.shapes if path in self.shapes]
    if paths:
      raise ValueError(
          'Ties of several functions join only if these have no parameter in '
          f'common, got {paths[0]} in both. Infer ties from one function that '
          "calls them, with the parameters of two models as {'a': params_a, "
          "'b': params_b}.")
    if names:
      raise ValueError(
          f'Two different ties have the name {names[0]!r}. Join one of them.')
    return Ties((*self.ties, *new), self.shapes if others.shapes is self.shapes
                else {**self.shapes, **others.shapes})

  @property
  def free(self) -> tuple[Tie, ...]:
    """The ties whose units may be permuted."""
    return tuple(tie for tie in self.ties if tie.free)

  def __str__(self) -> str:
    rows = []
    for tie in self.ties:
      removable = 'no' if tie.fixed or tie.kept else 'yes'
      removable += ', not tried' * bool(tie.untried)
      removable += f': {tie.kept}' * bool(tie.kept and not tie.fixed)
      head = (str(tie.size), 'x'.join(map(str, tie.along)) or '-',
              'yes' if tie.free else f'no: {tie.fixed}', removable)
      rows += [(*(head if i == 0 else [''] * 4), str(member))
               for i, member in enumerate(tie.members)]
    text = tables.table(
        [('units', 'along', 'permute', 'remove', 'members')], rows)
    untried = [*dict.fromkeys(t.untried for t in self if t.untried)]
    if not untried:
      return text
    more = f' (and {len(untried) - 1} more)' * (len(untried) > 1)
    return f'{text}\nnot tried: with smaller arrays, {untried[0]}{more}'


_WRITE = 'jaxsparse.infer_ties(fn, params, *inputs)'
arguments.register(Ties, arguments.instance((Ties, Tie), 'ties', _WRITE))
arguments.register(Tie, arguments.instance(Tie, 'a tie', _WRITE))


def as_ties(ties: Any) -> Ties:
  """Ties, or a sequence of them that was written by hand.

  Raises:
    ValueError: if there is anything else among them.
  """
  if isinstance(ties, Ties):
    return ties
  each = (ties,) if isinstance(ties, Tie) else ties
  if not isinstance(each, (list, tuple)) or not all(
      isinstance(tie, Tie) for tie in each):
    raise ValueError(
        f'Expected ties, got {type(ties).__name__}. Write infer_ties(fn, '
        'params, *inputs) or [Tie(size, members), ...].')
  return Ties(tuple(each))


def without_collection(path: str) -> str:
  """A path without the prefix that Linen's variables give to parameters.

  >>> without_collection('params/Dense_0/kernel')
  'Dense_0/kernel'
  """
  return path.removeprefix('params/')


def positions(tie: Tie, member: Member, group: Sequence[int] = ()
              ) -> dict[int, np.ndarray]:
  """Where a member has its units: indices of a parameter, by axis.

  Args:
    tie: the tie.
    member: one of its members.
    group: indices of the dimensions of `tie.along`.

  Returns:
    For the member's axis `[size, repeats]`, for other axes that matter `[k]`;
    of an axis that is not there, all.

  >>> heads = Member('q', 1, stride=4, repeats=((4, 1),))
  >>> positions(Tie(2, (heads,)), heads)[1].tolist()
  [[0, 1, 2, 3], [4, 5, 6, 7]]
  """
  parts = {axis: Elsewhere(axis) for axis, _ in member.along}
  parts |= {e.axis: e for e in member.elsewhere}
  parts[member.axis] = Elsewhere(
      member.axis, member.start, ((tie.size, member.stride), *member.repeats))
  found: dict[int, np.ndarray] = {}
  for axis, part in parts.items():
    start = part.start + sum(
        i * distance for (a, distance), i in zip(member.along, group)
        if a == axis)
    found[axis] = _grid(start, part.steps).reshape(
        (tie.size, -1) if axis == member.axis else -1)
  return found


def _grid(start: int, steps: Steps) -> np.ndarray:
  """`start + sum of i * distance`, with an axis for every step."""
  at = np.asarray(start)
  for count, distance in steps:
    at = at[..., None] + distance * np.arange(count)
  return at


def indices(size: int, along: Sequence[int], member: Member) -> int:
  """How many indices of its axis a member of so many units has."""
  return math.prod([size, *(n for n, _ in member.repeats), *(
      n for n, (axis, _) in zip(along, member.along) if axis == member.axis)])


def view(tie: Tie, member: Member, array: np.ndarray) -> np.ndarray:
  """The elements of a parameter that belong to units of a tie.

  Args:
    tie: the tie.
    member: one of its members.
    array: an array with the parameter's shape. The size may be 1 along axes
      whose indices all have the same value.

  Returns:
    A view `[*along, size, rest...]` of the array: writing to it changes the
    array.

  Raises:
    ValueError: if there is no such part of the parameter.

  >>> w = np.zeros((2, 6))
  >>> heads = Member('w', 1, stride=3, repeats=((3, 1),))
  >>> view(Tie(2, (heads,)), heads, w)[1] = 1.
  >>> w[0]
  array([0., 0., 0., 1., 1., 1.])
  """
  if not array.size:
    return np.empty((*tie.shape, 0), array.dtype)
  check_fit(tie, member, array.shape)
  starts, groups, rest = _layout(tie, member)
  rest += [(axis, n, 1) for axis, n in enumerate(array.shape)
           if axis not in starts]
  steps = [*groups, (member.axis, tie.size, member.stride), *rest]
  first = tuple(slice(starts.get(axis, 0), None) for axis in range(array.ndim))
  return np.lib.stride_tricks.as_strided(
      array[first], [n for _, n, _ in steps],
      [array.strides[axis] * distance for axis, _, distance in steps])


def check_fit(tie: Tie, member: Member, shape: Sequence[int]) -> None:
  """Checks that a parameter has elements where a member says that they are.

  Raises:
    ValueError: if it has not.
  """
  starts, groups, rest = _layout(tie, member)
  ends = dict(starts)
  for axis, n, distance in [
      *groups, (member.axis, tie.size, member.stride), *rest]:
    ends[axis] += (n - 1) * distance
  known = indices(tie.size, tie.along, member)
  if max(ends) >= len(shape):
    problem = f'has no axis {max(ends)}'
  elif not member.part and shape[member.axis] != known:
    problem = f'has {shape[member.axis]} indices there, not {known}'
  elif any(end >= shape[axis] for axis, end in ends.items()):
    problem = 'is smaller than that'
  else:
    return
  raise ValueError(
      f'Member {member} of tie {tie.name!r} with {tie.size} units does not '
      f'fit: {member.path} of shape {tuple(shape)} {problem}. Infer ties from '
      'these parameters, or correct the member.')


def _layout(tie: Tie, member: Member) -> tuple[
    dict[int, int], list[tuple[int, int, int]], list[tuple[int, int, int]]]:
  """Where axes begin that matter; `(axis, count, distance)` of groups, rest."""
  groups = [(axis, n, d) for n, (axis, d) in zip(tie.along, member.along)]
  rest = [(member.axis, *step) for step in member.repeats]
  rest += [(e.axis, *step) for e in member.elsewhere for step in e.steps]
  starts = {axis: 0 for axis, *_ in groups}
  starts |= {e.axis: e.start for e in (*member.elsewhere, member)}
  return starts, groups, rest
