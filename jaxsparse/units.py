"""Ties as data: units, where they are, and how to put them in another order."""

import collections
import dataclasses
import functools
import math
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import tables
from jaxsparse import trees

# How many, and how far apart.
Steps = tuple[tuple[int, int], ...]


class Elsewhere(NamedTuple):
  """A part of another axis: `start + sum of i * stride` over `steps`."""
  axis: int
  start: int = 0
  steps: Steps = ()


class Member(NamedTuple):
  """An axis of a parameter, or a part of one, that indexes units of a tie.

  Unit `u` is at `start + u * stride + i * distance + ...` of the axis, for all
  `i < count`, of every `(count, distance)` in `repeats`. So in a kernel
  `[in, out]` of eight heads of 64 outputs, heads are
  `Member(path, 1, stride=64, repeats=((64, 1),))`. Where `Tie.along` says that
  units differ along other dimensions, there is an axis and a distance for each:
  of the 64, one order for every head, `Member(path, 1, along=((1, 64),))`.

  Attributes:
    path: the parameter's path, keys joined with '/'.
    axis: the axis; from the front.
    start: where the first unit is.
    stride: the distance from unit to unit.
    repeats: `(count, distance)`, where a unit has several indices.
    along: `(axis, distance)` for each dimension of `Tie.along`.
    elsewhere: the parts of other axes that are meant; all of those not here.
    part: whether the axis has indices that are not of these units.
  """
  path: str
  axis: int
  start: int = 0
  stride: int = 1
  repeats: Steps = ()
  along: Steps = ()
  elsewhere: tuple[Elsewhere, ...] = ()
  part: bool = False

  def __str__(self) -> str:
    """As an index: `*` is where units are, `@` what they are told along."""
    parts = {e.axis: (e.start, e.steps) for e in self.elsewhere}
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
  """Units, and everything that they index.

  Attributes:
    size: how many units there are.
    members: where they are.
    along: sizes of the dimensions along which units may be ordered each in its
      own way, such as the heads for the dimensions of a head.
    fixed: why they may not be permuted, or `None`.
    kept: why they may not be removed, or `None`.
    name: a short name; by default that of the first member.

  Raises:
    ValueError: if there are no members, or some lack a place for `along`.

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

  def __post_init__(self):
    members = tuple(m if isinstance(m, Member) else Member(*m)
                    for m in self.members)
    object.__setattr__(self, 'members', members)
    if not members or any(
        len(m.along) != len(self.along) or m.axis < 0 for m in members):
      raise ValueError(
          'A tie has members, each with an axis, counted from the front, and '
          'with an axis and a distance for every dimension of '
          f' `along`, got along={self.along} and {members}. Write '
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
  """What `infer_ties` returns; `print` it for the table.

  Iterate over it for each `Tie`, or take one by its name.

  Attributes:
    ties: all of them, in the order of their first members.
    shapes: of all parameters by path, if they are known.

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
    raise ValueError(
        f'Got {name!r}, expected the name of a tie, one of '
        f'{[tie.name for tie in self.ties]}. By parameter and axis it is '
        "found with `ties.of('fc1/kernel', 1)`.")

  def of(self, path: str, axis: int) -> tuple[Tie, ...]:
    """The ties that a parameter's axis, or parts of it, belong to."""
    return tuple(tie for tie in self.ties
                 if any((m.path, m.axis) == (path, axis) for m in tie.members))

  @property
  def free(self) -> tuple[Tie, ...]:
    """The ties whose units may be permuted."""
    return tuple(tie for tie in self.ties if tie.free)

  def __str__(self) -> str:
    rows = []
    for tie in self.ties:
      head = (str(tie.size), 'x'.join(map(str, tie.along)) or '-',
              'yes' if tie.free else f'no: {tie.fixed}',
              'no' if tie.fixed else f'no: {tie.kept}' if tie.kept else 'yes')
      rows += [(*(head if i == 0 else [''] * 4), str(member))
               for i, member in enumerate(tie.members)]
    return tables.table(
        [('units', 'along', 'permute', 'remove', 'members')], rows)


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
        f'Expected ties, got {type(ties).__name__}. Write `infer_ties(fn, '
        'params, *inputs)` or [Tie(size, members), ...].')
  return Ties(tuple(each))


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
  found = {}
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


def sources(tie: Tie, member: Member, shape: Sequence[int],
            permutation: np.ndarray) -> np.ndarray:
  """For `take_along_axis`: where the elements of a parameter come from.

  Args:
    tie: the tie.
    member: one of its members.
    shape: the parameter's shape.
    permutation: of `tie.shape`; unit `u` will be what `permutation[u]` was.

  Returns:
    int32, of the parameter's size along axes that matter and 1 along others.

  Raises:
    ValueError: if there is no such part of the parameter.
  """
  rank, problem = len(shape), None
  along_axis = lambda x: x.reshape(
      [-1 if a == member.axis else 1 for a in range(rank)])
  known = indices(tie.size, tie.along, member)
  axes = positions(tie, member, (0,) * len(tie.along))
  if not all(0 <= axis < rank for axis in axes):
    problem = f'has no axis {max(axes)}'
  elif not member.part and shape[member.axis] != known:
    problem = f'has {shape[member.axis]} indices there, not {known}'
  else:
    made = np.zeros([n if a in axes else 1 for a, n in enumerate(shape)],
                    np.int32)
    made += along_axis(np.arange(shape[member.axis], dtype=np.int32))
    try:
      for group in np.ndindex(*tie.along):
        here = positions(tie, member, group)
        old = here[member.axis]
        at = [here.get(axis, np.zeros(1, int)).reshape(-1)
              for axis in range(rank)]
        made[np.ix_(*at)] = along_axis(old[permutation[group]])
      return made
    except IndexError:
      problem = 'is smaller than that'
  raise ValueError(
      f'Member {member} of tie {tie.name!r} with {tie.size} units does not '
      f'fit: {member.path} of shape {tuple(shape)} {problem}. Infer ties from '
      'these parameters, or mend the member.')


def reorder(tree: Any, orders: Sequence[tuple[Tie, Any]], *,
            shapes: Mapping[str, Sequence[int]] | None = None) -> Any:
  """Puts units of ties in another order, wherever they are in a tree.

  A leaf belongs to the parameter whose path its own ends with, so that an
  optimizer's state follows; Linen's `params/` may be left out. Of several such
  parameters it is the one that is there with most others under one prefix.

  Args:
    tree: whatever has the parameters in it.
    orders: ties, fixed ones, too, and for each an int array of `tie.shape`;
      unit `u` will be what `p[..., u]` was. One after the other.
    shapes: those of all parameters by path, as `Ties.shapes`.

  Returns:
    The tree; arrays stay numpy's or JAX's, and where they were.

  Raises:
    ValueError: if a permutation is none, a tie does not match the tree, or a
      leaf has another shape than its parameter.
  """
  orders = [(tie, _permutation(tie, p)) for tie, p in orders]
  members = list(dict.fromkeys(
      member.path for tie, _ in orders for member in tie.members))
  shapes = dict(shapes or {})
  owners = _owners(trees.paths(tree), [*shapes, *members])
  if lost := [path for path in members if path not in owners.values()]:
    raise ValueError(
        f'The tree has no {lost}, which ties have. It has {trees.paths(tree)}. '
        'Infer ties from these parameters, and give all of them, running '
        'averages, too, under the same keys, e.g. '
        "({'params': params, 'batch_stats': stats}, opt_state).")

  @functools.cache  # A parameter and its moments move alike.
  def moves(owner, shape):
    return [(sources(tie, member, shape, p), member.axis)
            for tie, p in orders for member in tie.members
            if member.path == owner]

  def moved(path, leaf):
    owner = owners[path]
    # Optimizers put scalars where they keep nothing of a parameter.
    if owner not in members or np.size(leaf) <= 1:
      return leaf
    if np.shape(leaf) != tuple(shapes.get(owner, np.shape(leaf))):
      raise ValueError(
          f'{path} has shape {np.shape(leaf)}, but {owner}, whose units move, '
          f'has {tuple(shapes[owner])}: what is kept in another layout, such '
          'as factored moments, cannot follow. Permute the parameters, and '
          'start this part anew: `opt_state = tx.init(params)`.')
    for at, axis in moves(owner, np.shape(leaf)):
      leaf = _take(leaf, at, axis)
    return leaf
  return trees.map_with_path(moved, tree)


def _owners(leaves: list[str], params: list[str]) -> dict[str, str | None]:
  """The parameter that each leaf of a tree is of, or belongs to."""
  known = {path.removeprefix('params/'): path for path in params}
  known |= {path: path for path in params}
  found = {}
  for leaf in leaves:
    keys = leaf.split('/')
    # From the longest path to the shortest, and what is before it.
    found[leaf] = [('/'.join(keys[:i]), known[ending])
                   for i in range(len(keys))
                   if (ending := '/'.join(keys[i:])) in known]
  # An optimizer may keep its `mu`, beside a parameter that is called so.
  together = collections.Counter(
      prefix for prefix, _ in {match for matches in found.values()
                               for match in matches})
  return {leaf: max(matches, key=lambda match: together[match[0]])[1]
          if matches else None for leaf, matches in found.items()}


def _take(x: Any, at: np.ndarray, axis: int) -> Any:
  place = None
  if (isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
      and len(x.devices()) > 1):
    # On the host: which elements move between devices is known only there.
    x, place = np.asarray(x), x.sharding
  library = np if isinstance(x, np.ndarray) else jnp
  if at.size == x.shape[axis]:
    moved = library.take(x, at.reshape(-1), axis=axis)
  else:
    moved = library.take_along_axis(x, library.asarray(at), axis=axis)
  return jax.device_put(moved, place) if place else moved


def _permutation(tie: Tie, p: Any) -> np.ndarray:
  p = np.asarray(p)
  if p.shape != tie.shape or p.dtype.kind not in 'iu' or not np.array_equal(
      np.sort(p, axis=-1), np.broadcast_to(np.arange(tie.size), tie.shape)):
    raise ValueError(
        f'Tie {tie.name!r} needs a permutation of 0 ... {tie.size - 1}, an int '
        f'array of shape {tie.shape}, got {p.dtype}{list(p.shape)}: '
        f'{np.array2string(p, threshold=8)}. Write e.g. '
        'jaxsparse.find_permutation(w, jaxsparse.nm(2, 4)).')
  return p
