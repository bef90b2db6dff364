"""Groups of weights that are kept or pruned together: sums and broadcasts.

A group is a unit of a pattern (a row or column, a block, a channel) in one
parameter, or a hidden unit of a tie: all weights that make the unit, read it,
or belong to it, in several parameters.

  weights ──total──▶ one number a group ──spread──▶ weights
"""

import dataclasses
import math
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import rules
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.masks import selection
from jaxsparse.patterns import Pattern
from jaxsparse.units import per_unit
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

Groups = Mapping[str, Pattern | None] | Ties | Sequence[Tie]


class Part(NamedTuple):
  """The weights of all groups of a family in one parameter.

  Attributes:
    path: the parameter's path.
    role: the role of the parameter for hidden units, see `Member.role`; 'all'
      for units of patterns, which are in one parameter.
    size: the number of weights of the parameter in each group.
    total: a function from an array of the parameter's shape to the sum over
      each group, in float32 or wider.
    spread: a function from one number for each group, and a number for weights
      of no group, to an array that broadcasts against the parameter.
  """
  path: str
  role: str | None
  size: int
  total: Callable[[jax.Array], jax.Array]
  spread: Callable[[jax.Array, Any], jax.Array]


class Family(NamedTuple):
  """The groups of one tie, or of one parameter.

  Attributes:
    name: the tie's name, or the parameter's path.
    shape: the shape of arrays with one entry for each group.
    parts: the weights of the groups in each parameter. A parameter may have two
      parts, for example the square kernel of a residual stream.
    tie: the tie, or `None`.
  """
  name: str
  shape: tuple[int, ...]
  parts: tuple[Part, ...]
  tie: Tie | None = None

  @property
  def size(self) -> int:
    """The number of weights in a group."""
    return sum(part.size for part in self.parts)

  def having(self, role: str) -> tuple[Part, ...]:
    """The parts with a role; those of patterns have every role."""
    return tuple(p for p in self.parts if p.role in (role, 'all'))


def total(parts: Sequence[Part], leaves: Mapping[str, jax.Array]) -> jax.Array:
  """Sums over each group of some parts of a family; `leaves` are by path."""
  found: Any = sum(part.total(leaves[part.path]) for part in parts)
  return found


def families(groups: Groups, params: ArrayTree) -> list[Family]:
  """The families of groups in a tree of parameters.

  Args:
    groups: regular expressions to patterns, or ties; of ties, those whose units
      may be removed.
    params: the parameters.

  Returns:
    One family for each parameter with a pattern, or for each tie.

  Raises:
    ValueError: if a pattern or a tie does not fit, or no tie has units that may
      be removed.
  """
  trees.check_arrays('params', params)
  shapes = {path: np.shape(w) for path, w in trees.align(params)}
  if isinstance(groups, Mapping):
    return [_of_pattern(path, np.shape(w), pattern) for path, w, pattern
            in trees.align(params, rules.resolve(groups, params))
            if pattern is not None and w.size]
  ties = ties_lib.as_ties(groups)
  removable = [tie for tie in ties if not (tie.fixed or tie.kept)]
  if shapes and not removable:
    raise ValueError(
        'groups must have a tie whose units may be removed, got '
        f'{ {tie.name: tie.fixed or tie.kept for tie in [*ties][:5]} }. Infer '
        'ties from the function in evaluation mode and print(ties), or give '
        'patterns: {".*kernel": jaxsparse.channel(-1)}.')
  return [of_tie(tie, shapes) for tie in removable if shapes]


def _of_pattern(path: str, shape: tuple[int, ...], pattern: Pattern) -> Family:
  summed, grid = dataclasses.replace(pattern, reduce='sum'), pattern.grid(shape)
  part = Part(
      path, 'all', math.prod(pattern.unit.tile(shape)),
      lambda x: numerics.replicated(
          selection.unit_scores(x, summed)).reshape(-1),
      lambda values, fill: selection.spread(
          values.reshape(grid), pattern, shape))
  return Family(path, (math.prod(grid),), (part,))


def of_tie(tie: Tie, shapes: Mapping[str, tuple[int, ...]]) -> Family:
  """The family of a tie's hidden units.

  Args:
    tie: the tie.
    shapes: the shapes of the parameters, by path.

  Returns:
    A family whose parts are the tie's members among these parameters.

  Raises:
    ValueError: if no member is among them, or one does not fit.
  """
  def part(path, member):
    shape = shapes[path]
    return Part(
        path, member.role, per_unit.count(tie, member, shape),
        lambda x: per_unit.total(tie, member, x),
        lambda values, fill: per_unit.spread(tie, member, values, shape, fill))
  parts = tuple(part(*row) for row in per_unit.members(tie, [*shapes]))
  if not parts:
    raise ValueError(
        f'The parameters must have a member of tie {tie.name!r}, got '
        f'{trees.few([*shapes])}. Infer ties from these parameters.')
  return Family(tie.name, tie.shape, parts, tie)


def joined(numbers: Sequence[jax.Array], dtype: Any) -> jax.Array:
  """What a state keeps of all families: one array, one after the other.

  One for each family would be laid out on a mesh as the partitioner likes, and
  the step of who keeps them in a state would compile twice.
  """
  return jnp.concatenate(
      [jnp.zeros(0, dtype), *(numerics.replicated(x).reshape(-1).astype(dtype)
                              for x in numbers)])


def parted(x: jax.Array, families: Sequence[Family]) -> list[jax.Array]:
  """The inverse of `joined`: an array for each family."""
  ends = np.cumsum([math.prod(f.shape) for f in families]).tolist()
  return [x[end - math.prod(f.shape):end].reshape(f.shape)
          for f, end in zip(families, ends)]


def masks(alive: Sequence[tuple[Family, jax.Array]], params: ArrayTree, *,
          without: str | None = None) -> Any:
  """Masks that keep the weights of groups that are alive.

  Args:
    alive: families, each with a bool for every group.
    params: the parameters. `None` leaves get no mask.
    without: a role whose weights are kept whatever their groups are.

  Returns:
    A tree like the params: bool arrays, or `None` where there are no groups.
  """
  made = {}
  for family, living in alive:
    for part in family.parts:
      if without is None or part.role != without:
        made.setdefault(part.path, []).append(part.spread(living, True))

  def mask(path, w):
    if path not in made:
      return None
    kept = jnp.ones_like(w, dtype=bool)
    for one in made[path]:
      kept &= one
    return kept
  return trees.map_with_path(mask, params)


def mortal(ties: Groups, masks: ArrayTree, prune_skip: bool = False
           ) -> list[Tie]:
  """The ties of which units can die under the masks of a rule.

  Raises:
    ValueError: if there are masks, but no such tie.
  """
  ties = ties_lib.as_ties(ties)
  reasons = {tie.name: _why_not(tie, masks, prune_skip) for tie in ties}
  if jax.tree.leaves(masks) and all(reasons.values()):
    raise ValueError(
        'No tie has units that can be pruned: '
        f'{reasons}. Give masks to all kernels that make and read hidden '
        'units, and infer the ties from the function in evaluation mode.')
  return [tie for tie in ties if not reasons[tie.name]]


def _why_not(tie: Tie, masks: ArrayTree, prune_skip: bool) -> str | None:
  """Why units of a tie cannot die, or `None`."""
  if tie.fixed or tie.kept:
    return tie.fixed or tie.kept
  if tie.read:
    return f'{tie.read} reads it'
  if tie.along or any(m.elsewhere for m in tie.members):
    return 'its units differ along other axes'
  roles = {m.role for m in tie.members}
  if None in roles:
    return "it does not say which members make it and read it (Member.role)"
  if not {'makes', 'reads'} <= roles:
    return 'nothing makes it or nothing reads it'
  sparse = trees.paths(masks)
  dense = [m.path for m in tie.members
           if m.role != 'beside' and per_unit.own_path(m.path, sparse) is None]
  if dense:
    return f'{dense[0]} is dense'
  if not prune_skip and len(
      {m.path for m in tie.members if m.role == 'makes'}) > 1:
    return 'a skip path'
  return None
