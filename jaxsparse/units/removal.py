"""Removal of hidden units: smaller dense arrays, the same function.

  masked params ──alive──▶ units that are read ──slim──▶ smaller params

A unit that nothing reads has no effect, so its weights, bias, norm and moments
can be removed. Units whose removal would change the function or its interface
are not removed: inputs and outputs, units under a softmax, a mean or a norm
(`Tie.kept`), and units that the function distinguishes (`Tie.fixed`). Units of
zero weights whose constant output is still read are not removed either;
`fold_constants` handles these.
"""

import collections
import functools
import itertools
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.units import multiples
from jaxsparse.units import reordering
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

Shapes = Mapping[str, Sequence[int]]


@arguments.checked(multiple=multiples.MULTIPLE)
def alive(params: ArrayTree, ties: Ties | Sequence[Tie], *, multiple: int = 1
          ) -> dict[str, np.ndarray]:
  """Finds the hidden units that are still read, for `slim`.

  A unit `u` is dead if no member of its tie (an axis of a parameter) reads it,

    sum |w[u]| = 0  over all members w with the role 'reads',

  whatever the values of its other members. Then the weights that make a dead
  unit also count as zero, and so may kill other units. This repeats until
  nothing changes, so dead units propagate backwards through layers. If roles
  are unknown, all members except vectors must be zero, and there must be at
  least two of these. If no member is known to read the units, or an operation
  reads them, too (`Tie.read`), all members must be zero.

  Along `Tie.along` (heads, stacked layers) arrays stay rectangular: every group
  keeps as many units as the group with most live units, filled up with its
  first dead units. At least one unit of every tie stays, and so do all units
  that may not be removed.

  Args:
    params: the pruned parameters, such as the result of `sparse_params` or
      `apply_masks`, with the structure from which `ties` were inferred.
    ties: the ties, from `infer_ties` or written by hand.
    multiple: every tie keeps a multiple of this number of units, filled up with
      its first dead units, or all of its units. If ties of the dimensions of
      heads are among `ties`, any number of heads is kept, and a multiple of
      their dimensions.

  Returns:
    A dict from names of ties to bool arrays of `tie.shape`: True at units that
    must stay.

  Raises:
    ValueError: if ties do not fit the parameters, or multiple is not a whole
      number of at least 1.

  >>> from jaxsparse.units.ties import Member, Tie
  >>> tie = Tie(3, (Member('in', 1, role='makes'),
  ...               Member('out', 0, role='reads')), name='hidden')
  >>> params = {'in': np.ones((2, 3)), 'out': np.array([[1.], [0.], [2.]])}
  >>> alive(params, [tie])
  {'hidden': array([ True, False,  True])}
  """
  ties = ties_lib.as_ties(ties)
  nonzero = _nonzero(params, ties)
  shapes = {path: x.shape for path, x in nonzero.items()}
  live = {tie.name: np.ones(tie.shape, bool) for tie in ties}
  able = [tie for tie in ties if not why_not(tie, shapes)]
  # Which ties have a parameter, on as many axes as it is listed.
  sharing = collections.defaultdict(list)
  for tie in able:
    for path, _, _ in _by_axis(tie):
      sharing[path].append(tie)
  todo = {tie.name: tie for tie in able}
  while todo:
    _, tie = todo.popitem()
    before, live[tie.name] = live[tie.name], live[tie.name] & _read(
        tie, nonzero)
    if (before == live[tie.name]).all():
      continue
    for member in tie.members:
      if len(sharing[member.path]) > 1:
        _clear(tie, member, nonzero[member.path], live[tie.name])
        todo |= {other.name: other for other in sharing[member.path]}
  keep = {tie: _evened(live[tie.name], step) for tie, step in zip(
      ties, multiples.steps(ties.ties, multiple))}
  for pair in _crossed(keep):
    # The other's turn is after this one, with ties inferred anew.
    other = max(pair, key=lambda tie: keep[tie].mean())
    keep[other] = np.ones(other.shape, bool)
  return {tie.name: k for tie, k in keep.items()}


@arguments.checked()
def slim(tree: ArrayTree, ties: Ties | Sequence[Tie], keep: Mapping[str, Any]
         ) -> ArrayTree:
  """Removes hidden units from every array of a tree.

  Every leaf whose path ends with the path of a parameter is cut together with
  the parameter: gradients, optimizer state, masks, running averages. Pass them
  together:

    params, opt_state = slim((params, opt_state), ties, alive(params, ties))

  The function must take its widths from the shapes of its arrays. If groups
  along `Tie.along` keep different units, each group is first reordered, with
  the kept units in front. All other units stay in place. Afterwards N:M groups
  have other members, and ties have to be inferred again.

  Args:
    tree: the parameters from which `ties` were inferred, together with
      optimizer state, masks and the like.
    ties: the ties, from `infer_ties` or written by hand.
    keep: maps names of ties to bool arrays of `tie.shape`, False at units to
      remove. Other ties lose no units.

  Returns:
    The tree with the same structure and types, and smaller arrays.

  Raises:
    ValueError: if a name belongs to no tie; if an array is not bool or has
      another shape; if units may not be removed, none would be left, groups
      would keep different numbers, or an array would not be rectangular; if a
      tie does not match the tree; or if a leaf has another shape than its
      parameter, like factored moments.

  >>> from jaxsparse.units.ties import Member, Tie
  >>> tie = Tie(3, (Member('in', 1), Member('out', 0)), name='hidden')
  >>> params = {'in': np.ones((2, 3)), 'out': np.ones((3, 1))}
  >>> small = slim(params, [tie], {'hidden': np.array([True, False, True])})
  >>> small['in'].shape, small['out'].shape
  ((2, 2), (2, 1))
  """
  ties = ties_lib.as_ties(ties)
  chosen, orders, left = plan(ties, keep)
  if not chosen:
    return tree
  # Units within a group move before the groups that they are numbered by.
  tree = reordering.reorder(
      tree, sorted(orders.items(), key=lambda order: -len(order[0].along)),
      shapes=ties.shapes)

  def cut(owner, leaf):
    for axis, at in left(owner, np.shape(leaf)):
      leaf = reordering.take(leaf, at, axis)
    return leaf
  return reordering.map_members(cut, tree, chosen, ties.shapes)


class Plan(NamedTuple):
  """The steps of `slim`.

  Attributes:
    ties: the ties that lose units.
    orders: for ties whose groups keep different units, an order with the kept
      units in front.
    left: a function from a parameter's path and shape to the axes to cut, with
      the indices that stay for each, of the rank of the parameter.
  """
  ties: list[Tie]
  orders: dict[Tie, np.ndarray]
  left: Callable[[str, tuple[int, ...]], list[tuple[int, np.ndarray]]]

  def shape(self, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What the shape of a parameter becomes."""
    cut = {axis: at.size for axis, at in self.left(path, shape)}
    return tuple(cut.get(axis, n) for axis, n in enumerate(shape))


def plan(ties: Ties, keep: Mapping[str, Any]) -> Plan:
  """What removing units comes to. See `slim`, also for what it raises."""
  chosen = {name: _checked(ties[name], k) for name, k in keep.items()}
  chosen = {ties[name]: k for name, k in chosen.items() if not k.all()}
  for tie, other in _crossed(chosen):
    raise ValueError(
        f'Units of tie {tie.name!r} are groups of tie {other.name!r} and vice '
        'versa, and both would lose different units in each group. Write slim '
        'with `keep` for one of them, infer ties again, and then slim by the '
        'other.')
  orders = {tie: np.argsort(~k, axis=-1, kind='stable')
            for tie, k in chosen.items() if not _uniform(k)}
  fronts = {tie: k if tie not in orders else np.take_along_axis(
      k, orders[tie], -1) for tie, k in chosen.items()}
  kept = {tie: k.reshape(-1, tie.size)[0] for tie, k in fronts.items()}
  places = collections.defaultdict(lambda: collections.defaultdict(list))
  for tie in kept:
    for path, axis, members in _by_axis(tie):
      places[path][axis] += [(tie, member) for member in members]
  # A parameter and its moments lose alike.
  return Plan(list(chosen), orders, functools.cache(
      lambda owner, shape: list(_left(owner, shape, places[owner], kept))))


def _nonzero(params: ArrayTree, ties: Ties) -> dict[str, np.ndarray]:
  """Where parameters that ties have are not zero, by path."""
  members = {member.path for tie in ties for member in tie.members}
  rows = trees.align(params)
  if lost := sorted(members - {path for path, _ in rows}):
    raise ValueError(
        f'The parameters must have {trees.few(lost)}, which are in the ties, '
        f'got {trees.few([path for path, _ in rows])}. Give the parameters '
        'from which ties were inferred.')
  return {path: np.asarray(w) != 0 for path, w in rows if path in members}


def _read(tie: Tie, nonzero: Mapping[str, np.ndarray]) -> np.ndarray:
  """Whether anything that may read a unit is not zero."""
  unknown = [m for m in tie.members
             if m.role is None and nonzero[m.path].ndim > 1]
  # One alone may be what makes units, and a vector what reads them.
  readers = unknown if len(unknown) > 1 else []
  readers = readers + [m for m in tie.members if m.role == 'reads']
  if tie.read or not readers:
    readers = tie.members
  found = np.zeros(tie.shape, bool)
  for member in readers:
    there = ties_lib.view(tie, member, nonzero[member.path])
    found |= there.any(axis=tuple(range(found.ndim, there.ndim)))
  return found


def _clear(tie: Tie, member: Member, nonzero: np.ndarray, live: np.ndarray
           ) -> None:
  """Takes dead units for zero, in place."""
  there = ties_lib.view(tie, member, nonzero)
  there &= live.reshape(live.shape + (1,) * (there.ndim - live.ndim))


def _evened(live: np.ndarray, step: int) -> np.ndarray:
  """As many for every group as the fullest has, and no less than one.

  That number is rounded up to a multiple of a step.
  """
  count = multiples.up(
      max(1, int(live.sum(-1).max())), live.shape[-1], step)
  first = np.argsort(~live, axis=-1, kind='stable')[..., :count]
  keep = np.zeros_like(live)
  np.put_along_axis(keep, first, True, axis=-1)
  return keep


def _uniform(keep: np.ndarray) -> bool:
  """Whether all groups keep the same units."""
  rows = keep.reshape(-1, keep.shape[-1])
  return bool((rows == rows[0]).all())


def _crossed(keep: Mapping[Tie, np.ndarray]) -> Iterator[tuple[Tie, Tie]]:
  """Pairs of ties of which each would move the units of the other."""
  moving = [tie for tie, k in keep.items() if not _uniform(k)]
  at = lambda m: (m.axis, m.stride)
  for a, b in itertools.combinations(moving, 2):
    if any(m.path == n.path and at(m) in n.along and at(n) in m.along
           for m, n in itertools.product(a.members, b.members)):
      if not (_uniform(keep[a]) or _uniform(keep[b])):
        yield a, b


def why_not(tie: Tie, shapes: Shapes) -> str | None:
  """Why none of the units of a tie may be removed, or `None`."""
  if tie.fixed or tie.kept:
    return tie.fixed or tie.kept
  for path, axis, members in _by_axis(tie):
    labels = reordering.along_axis(
        members, shapes[path], np.zeros(shapes[path][axis], np.int32))
    for member in members:
      there = ties_lib.view(tie, member, labels)
      there[...] = np.arange(1, tie.size + 1).reshape(
          [-1] + [1] * (there.ndim - len(tie.shape)))
    others = tuple(i for i in range(labels.ndim) if i != axis)
    if (labels != labels.max(others, keepdims=True, initial=0)).any():
      return f'{members[0]} is a part of other axes'
  return None


def _by_axis(tie: Tie) -> Iterator[tuple[str, int, list[Member]]]:
  """Every axis that has units of a tie, and the members there."""
  found = collections.defaultdict(list)
  for member in tie.members:
    found[member.path, member.axis].append(member)
  for (path, axis), members in found.items():
    yield path, axis, members


def _checked(tie: Tie, keep: Any) -> np.ndarray:
  """What to keep of a tie, if that can be."""
  keep = np.asarray(keep)
  if keep.shape != tie.shape or keep.dtype != bool:
    raise ValueError(
        f'Tie {tie.name!r} needs a bool array of shape {tie.shape}, False at '
        f'units to remove, got {keep.dtype}{list(keep.shape)}. Write e.g. '
        'jaxsparse.slim(params, ties, alive(params, ties)).')
  counts = keep.sum(-1).reshape(-1)
  if (tie.fixed or tie.kept) and not keep.all():
    raise ValueError(
        f'The units of tie {tie.name!r} may not be removed '
        f'({tie.fixed or tie.kept}), because the function would change. '
        'Leave this tie out of `keep`.')
  if not counts.all():
    raise ValueError(
        f'Tie {tie.name!r} must keep at least one of its {tie.size} units, got '
        f'{counts.tolist()} to keep. Write e.g. alive(params, ties).')
  if counts.min() < counts.max():
    raise ValueError(
        f'Groups of tie {tie.name!r} along {tie.along} must keep equally many '
        f'units, so that arrays are rectangular, got {counts.tolist()}. Keep '
        f'{counts.max()} of each, with dead units to fill up.')
  return keep


def _left(owner: str, shape: tuple[int, ...],
          places: Mapping[int, Sequence[tuple[Tie, Member]]],
          kept: Mapping[Tie, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
  """For `take`: the indices of a parameter that stay, of each axis cut.

  `places` has what may lose units along each axis.
  """
  gone = {axis: _removed(axis, shape, there, kept)
          for axis, there in places.items()}
  others = lambda axis: tuple(i for i in range(len(shape)) if i != axis)
  whole = {axis: x.all(others(axis)) for axis, x in gone.items()}
  for axis, x in gone.items():
    # What is cut off elsewhere need not agree.
    for other, cut in whole.items():
      if other != axis and x.shape[other] > 1:
        x = np.compress(~cut, x, other)
    whole[axis] = x.all(others(axis))
    if (whole[axis] != x.any(others(axis))).any():
      tie, member = places[axis][0]
      raise ValueError(
          f'Removing these units of tie {tie.name!r} from {member} would not '
          f'leave a rectangular array: of axis {axis} of {owner}, of shape '
          f'{shape}, some parts would lose other indices than others. Remove '
          'the same from all parts, or leave this tie out of `keep`.')
    yield axis, np.flatnonzero(~whole[axis]).reshape(
        [-1 if i == axis else 1 for i in range(len(shape))])


def _removed(axis: int, shape: tuple[int, ...],
             places: Sequence[tuple[Tie, Member]],
             kept: Mapping[Tie, np.ndarray]) -> np.ndarray:
  """Where elements go along an axis, `[n]` along the axes that matter."""
  for tie, member in places:
    ties_lib.check_fit(tie, member, shape)
  gone = reordering.along_axis(
      [member for _, member in places], shape, np.zeros(shape[axis], bool))
  for tie, member in places:
    there = ties_lib.view(tie, member, gone)
    there[(slice(None),) * len(tie.along) + (~kept[tie],)] = True
  return gone
