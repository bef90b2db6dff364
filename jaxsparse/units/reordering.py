"""Reordering of units in all arrays of a tree.

The functions that reorder or remove units use this module to find the leaves of
a tree that belong to a parameter: the parameter itself, its moments in an
optimizer's state, its mask.
"""

import collections
import functools
from typing import Any, Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import trees
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie


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
  ties_lib.check_fit(tie, member, shape)
  old = along_axis([member], shape, np.arange(
      shape[member.axis], dtype=np.int32))
  new, there = old.copy(), ties_lib.view(tie, member, old)
  at = permutation.reshape(tie.shape + (1,) * (there.ndim - len(tie.shape)))
  ties_lib.view(tie, member, new)[...] = np.take_along_axis(
      there, at, axis=len(tie.along))
  return new


def along_axis(members: Sequence[Member], shape: Sequence[int],
               values: np.ndarray) -> np.ndarray:
  """Values along the axis of members of one parameter, ready for `units.view`.

  Args:
    members: members with one axis.
    shape: the parameter's shape.
    values: of the size of that axis.

  Returns:
    The same along all axes that matter to the members; 1 along others.

  >>> member = Member('w', 1, along=((0, 1),))
  >>> along_axis([member], (2, 3, 4), np.arange(3)).tolist()
  [[[0], [1], [2]], [[0], [1], [2]]]
  """
  parts = {axis for m in members
           for axis in (m.axis, *(e.axis for e in m.elsewhere),
                        *(axis for axis, _ in m.along))}
  made = np.empty([n if axis in parts else 1 for axis, n in enumerate(shape)],
                  values.dtype)
  made[...] = values.reshape([
      -1 if axis == members[0].axis else 1 for axis in range(len(shape))])
  return made


def map_members(f: Callable[[str, Any], Any], tree: Any, ties: Sequence[Tie],
                shapes: Mapping[str, Sequence[int]]) -> Any:
  """Maps `f(path of a parameter, leaf)` over the leaves that belong to it.

  A leaf belongs to the parameter whose path its own ends with, so that an
  optimizer's state follows; Linen's `params/` may be left out. Of several such
  parameters it is the one that is there with most others under one prefix.
  Scalars and leaves of no member of the ties stay as they are.

  Args:
    f: a function of a member's path and a leaf of its shape.
    tree: whatever has the parameters in it.
    ties: whose members' parameters are meant.
    shapes: those of all parameters by path, as far as they are known.

  Returns:
    The tree.

  Raises:
    ValueError: if the tree has no leaf of some member, or a leaf has another
      shape than its parameter.
  """
  members = list(dict.fromkeys(m.path for tie in ties for m in tie.members))
  owners = _owners(trees.own_paths(tree), [*shapes, *members])
  if lost := [path for path in members if path not in owners.values()]:
    raise ValueError(
        f'The tree must have {trees.few(lost)}, which are in the ties, got '
        f'{trees.few(trees.paths(tree))}. Infer ties from these parameters, '
        'and give all of them, with running averages, under the same keys, '
        "e.g. ({'params': params, 'batch_stats': stats}, opt_state).")

  def mapped(path, leaf):
    owner = owners[path]
    # Optimizers put scalars where they keep nothing of a parameter.
    if owner not in members or np.size(leaf) <= 1:
      return leaf
    if np.shape(leaf) != tuple(shapes.get(owner, np.shape(leaf))):
      raise ValueError(
          f'{path} must have the shape {tuple(shapes[owner])} of {owner}, '
          f'whose units are reordered or removed, got {np.shape(leaf)}. Arrays '
          'of another layout, such as factored moments, are not supported: '
          'give the parameters alone, and write opt_state = tx.init(params).')
    return f(owner, leaf)
  return trees.map_with_path(mapped, tree)


def reorder(tree: Any, orders: Sequence[tuple[Tie, Any]], *,
            shapes: Mapping[str, Sequence[int]] | None = None) -> Any:
  """Puts units of ties in another order, wherever they are in a tree.

  Args:
    tree: whatever has the parameters in it; `map_members` says what follows.
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

  @functools.cache  # A parameter and its moments move alike.
  def moves(owner, shape):
    return [(sources(tie, member, shape, p), member.axis)
            for tie, p in orders for member in tie.members
            if member.path == owner]

  def moved(owner, leaf):
    for at, axis in moves(owner, np.shape(leaf)):
      leaf = take(leaf, at, axis)
    return leaf
  return map_members(moved, tree, [tie for tie, _ in orders], shapes or {})


def take(x: Any, at: np.ndarray, axis: int) -> Any:
  """`take` or `take_along_axis`, by NumPy for its arrays, and sharded as it is.

  Args:
    x: an array.
    at: indices along the axis, of the rank of `x`, and 1 along axes along which
      they are the same.
    axis: the axis.

  Returns:
    An array of the same kind and in the same place; where that does not divide
    what is left, on all devices.
  """
  place = None
  if (isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
      and len(x.devices()) > 1):
    # On the host: which elements move between devices is known only there.
    x, place = np.asarray(x), x.sharding
  library: Any = np if isinstance(x, np.ndarray) else jnp
  if at.size == at.shape[axis]:
    moved = library.take(x, at.reshape(-1), axis=axis)
  else:
    moved = library.take_along_axis(x, library.asarray(at), axis=axis)
  return _placed(moved, place) if place else moved


def _placed(x: np.ndarray, place: Any) -> jax.Array:
  try:
    place.shard_shape(x.shape)
  except ValueError:
    place = jax.sharding.NamedSharding(
        place.mesh, jax.sharding.PartitionSpec())
  return jax.device_put(x, place)


def _owners(leaves: list[str], params: list[str]) -> dict[str, str | None]:
  """The parameter that each leaf of a tree is of, or belongs to."""
  known = {ties_lib.without_collection(path): path for path in params}
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


def _permutation(tie: Tie, p: Any) -> np.ndarray:
  p = np.asarray(p)
  if p.shape != tie.shape or p.dtype.kind not in 'iu' or not np.array_equal(
      np.sort(p, axis=-1), np.broadcast_to(np.arange(tie.size), tie.shape)):
    raise ValueError(
        f'Tie {tie.name!r} needs a permutation of 0 ... {tie.size - 1}, an int '
        f'array of shape {tie.shape}, got {p.dtype}{list(p.shape)}: '
        f'{np.array2string(p, threshold=8)}. Write e.g. '
        'jaxsparse.units.find_permutation(w, jaxsparse.nm(2, 4)).')
  return p
