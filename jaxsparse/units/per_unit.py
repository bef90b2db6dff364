"""Sums over all that belongs to a hidden unit, and the way back to weights.

`ties` says where units are; here are the numbers, as traced arrays:

  weights ──total──▶ one number a unit ──spread──▶ weights
"""

import math
from typing import Any, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import numerics
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie


def own_path(path: str, paths: Sequence[str]) -> str | None:
  """The params' own path of a member, which Linen's ties give with a prefix."""
  short = ties_lib.without_collection(path)
  return path if path in paths else short if short in paths else None


def members(tie: Tie, paths: Sequence[str]) -> Iterator[tuple[str, Member]]:
  """The members that are among some parameters, with their own paths there.

  Running averages are members, too, but no parameters.
  """
  for member in tie.members:
    path = own_path(member.path, paths)
    if path is not None:
      yield path, member


def _own_axes(member: Member) -> set[int]:
  """The axes of a parameter along which it matters where units are."""
  return {member.axis, *(axis for axis, _ in member.along),
          *(e.axis for e in member.elsewhere)}


def total(tie: Tie, member: Member, x: jax.Array) -> jax.Array:
  """The sum over all elements of a parameter that belong to each unit.

  Args:
    tie: the tie.
    member: one of its members.
    x: an array of the parameter's shape; sums are in float32 or wider.

  Returns:
    `tie.shape`.

  >>> heads = Member('w', 1, stride=2, repeats=((2, 1),))
  >>> total(Tie(2, (heads,)), heads, jnp.array([[1., 2., 3., 4.]]))
  Array([3., 7.], dtype=float32)
  """
  ties_lib.check_fit(tie, member, x.shape)
  own = _own_axes(member)
  x = numerics.wide(x).sum(
      [a for a in range(x.ndim) if a not in own], keepdims=True)
  if own == {member.axis} and x.size == tie.size and member.stride == 1:
    return numerics.replicated(x).reshape(-1)
  places = np.arange(x.size, dtype=np.int32).reshape(x.shape)
  at = ties_lib.view(tie, member, places)
  return numerics.replicated(x).reshape(-1)[np.ascontiguousarray(at)].sum(
      range(len(tie.shape), at.ndim))


def spread(tie: Tie, member: Member, values: jax.Array, shape: Sequence[int],
           fill: Any) -> jax.Array:
  """Every unit's value at the elements of a parameter that belong to it.

  Args:
    tie: the tie.
    member: one of its members.
    values: `tie.shape`.
    shape: the shape of the parameter.
    fill: stands where there are no such units.

  Returns:
    An array that broadcasts against the parameter, of the same rank.

  >>> part = Member('w', 1, start=1, part=True)
  >>> spread(Tie(2, (part,)), part, jnp.array([5., 6.]), (3, 4), 0.)
  Array([[0., 5., 6., 0.]], dtype=float32)
  """
  ties_lib.check_fit(tie, member, shape)
  own = _own_axes(member)
  small = [n if a in own else 1 for a, n in enumerate(shape)]
  owners = np.full(small, -1, np.int32)
  there = ties_lib.view(tie, member, owners)
  there[...] = np.arange(values.size, dtype=np.int32).reshape(
      tie.shape + (1,) * (there.ndim - len(tie.shape)))
  # Looked up even where a reshape would do: through that a partitioner shards
  # whoever keeps `values` like the parameter, and their step compiles twice.
  found = numerics.replicated(values).reshape(-1)[np.maximum(owners, 0)]
  return jnp.where(owners < 0, jnp.asarray(fill, values.dtype), found)


def count(tie: Tie, member: Member, shape: Sequence[int]) -> int:
  """How many elements of a parameter belong to one unit.

  >>> count(Tie(4, (Member('w', 1),)), Member('w', 1), (3, 4))
  3
  """
  small = np.broadcast_to(np.int8(0), shape)
  return ties_lib.view(tie, member, small).size // math.prod(tie.shape)
