"""`jax.shard_map` during a walk that computes: results of taps on all devices.

A device has a part of a kernel's data, and perhaps a part of the kernel. For
each axis of the mesh, `_known.Over` says whether devices differ in an array. It
decides what happens to the results of their taps:

  the kernel is     and data         results of taps are
  ----------------  ---------------  -----------------------------------
  whole             differ           added up
  whole             are the same     that of one device
  split, outputs    are the same     that of one device
  split, experts                     concatenated along that axis
  split, inputs                      that of one device, with all inputs

If devices split the inputs, the sum over inputs is complete after a `psum`. The
tap gets the product then, with the inputs of all devices. It does not get other
kinds of products.
"""

import dataclasses
import math
from typing import Any, cast, NamedTuple, Protocol, Sequence

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxsparse.graph import _jaxprs
from jaxsparse.graph import _known
from jaxsparse.graph import _loops
from jaxsparse.graph import _products
from jaxsparse.graph import _shards
from jaxsparse.graph import _walk
from jaxsparse.graph._known import Constant
from jaxsparse.graph._known import DATA
from jaxsparse.graph._known import Key
from jaxsparse.graph._known import Known
from jaxsparse.graph._known import Over
from jaxsparse.graph._known import Tag
from jaxsparse.graph._products import Roles

# After these, all devices along a mesh axis have the same array.
_ALIKE = {'psum', 'psum2', 'psum_invariant', 'pmax', 'pmin', 'all_gather',
          'all_gather_invariant'}
_EACH = _ALIKE | {'optimization_barrier'}  # Each operand has a result.
_SUMS = {'psum', 'psum2', 'psum_invariant', 'reduce_scatter'}
# Linear: if operands are devices' parts of a sum, so are results.
_LINEAR = {'add', 'add_any', 'broadcast_in_dim', 'convert_element_type', 'copy',
           'copy_p', 'name', 'neg', 'pvary', 'reduce_precision', 'reduce_sum',
           'reshape', 'sharding_constraint', 'squeeze', 'sub', 'transpose'}


class Sum(NamedTuple):
  """The key of a sum of results of taps, and how devices' results join.

  Attributes:
    path: the path of the parameter.
    added: the mesh axes along which devices' results are added up.
    parts: the axes along which devices' results are concatenated, each with the
      mesh axes.
    layers: the parameter's axes along which loops stack results, as rows of
      `Tag.keys`, that of the outermost loop first.
    batch: the parameter's axes of the next axes of results.
  """
  path: Any
  added: tuple[str, ...] = ()
  parts: tuple[tuple[int, tuple[str, ...]], ...] = ()
  layers: tuple[tuple[Key, ...], ...] = ()
  batch: tuple[tuple[Key, ...], ...] = ()

  def stacked(self) -> 'Sum':
    """The key for results that a loop has stacked."""
    return self._replace(parts=tuple((k + 1, rest) for k, rest in self.parts))


class Shares(NamedTuple):
  """How a product is split among devices.

  Attributes:
    sum: the key of the tap's results.
    new: the positions at which results of the tap have an axis of devices, if
      each device has one of several stacked kernels.
    gathered: the axes of the data that are split, each with the mesh axes.
  """
  sum: Sum
  new: tuple[int, ...] = ()
  gathered: tuple[tuple[int, tuple[str, ...]], ...] = ()

  @property
  def split(self) -> frozenset[str]:
    """The mesh axes over which devices' products must be summed."""
    return frozenset(name for _, names in self.gathered for name in names)


@dataclasses.dataclass(eq=False)
class Met:
  """A parameter that meets data, as operand `i` of an equation."""
  eqn: Any
  i: int
  given: Sequence[Known]
  roles: Roles
  shares: Shares

  @property
  def tag(self) -> Tag:
    return self.given[self.i].tag


class Walk(_loops.Walk, Protocol):
  """The part of the walk of `taps` that this module needs.

  Attributes:
    mesh: the axes of the surrounding `shard_map` with more than one device.
    lost: the paths of parameters with products that the tap does not get.
    open: the products whose sum over devices is not complete yet.
  """
  mesh: tuple[str, ...]
  lost: set[str]
  open: list[Met]

  def show(self, met: Met) -> None:
    """Calls the tap with a product."""
    ...


def shares(walk: Walk, i: int, given: Sequence[Known], roles: Roles
           ) -> Shares | None:
  """How devices split the product of operand `i`; `None` if it is unknown."""
  tag, kernel = given[i].tag, given[i].over
  data = _known.joined(k.over for j, k in enumerate(given) if j != i)
  gathered = []
  whole = {*walk.mesh} - {name for _, names in tag.split for name in names}
  if whole & (kernel.any | data.unsure):
    return None
  added = tuple(name for name in walk.mesh if name in whole & data.varies)
  stack = (*roles.experts, *roles.batch)
  if not _known.is_stack(tag, stack):
    return None
  front: list[Any] = [(tag.keys[k][0][0] if tag.keys[k] else math.inf, (),
                       tag.keys[k]) for k in stack]
  there, new = {key[0] for row in tag.keys for key in row}, []
  for axis, names in tag.split:
    at = tag.major(axis)
    if at in roles.contracted and not (
        roles.experts and given[2].over.any & {*names}):
      gathered.append((roles.contracted[at], names))
    elif at in stack:
      front[stack.index(at)] = axis, names, tag.keys[at]
    elif axis not in there and data.varies >= {*names} and not (
        data.unsure & {*names}):
      front.append((axis, names, ((axis,),)))
      new.append(axis)
    elif data.any & {*names} or (axis in there and at not in roles.free):
      return None
  front.sort()
  return Shares(
      Sum(tag.path, added, tuple(
          (k, names) for k, (_, names, _) in enumerate(front) if names),
          tag.layers, tuple(row for _, _, row in front)),
      tuple(k for k, (axis, _, _) in enumerate(front) if axis in new),
      tuple(gathered))


def made(walk: Walk, eqn: Any, given: Sequence[Known], results: list[Known],
         parts: Sequence[Met]) -> list[Known]:
  """The facts known about an equation's results inside of a `shard_map`.

  Args:
    walk: the walk.
    eqn: the equation.
    given: the operands of the equation.
    results: the results, with the facts that hold outside of `shard_map`, too.
    parts: the products of which the results are one device's part.
  """
  name = eqn.primitive.name
  partial = tuple((met, met.shares.split) for met in parts)
  if name in _SUMS:
    partial = _summed(walk, eqn, given)
  elif name in _LINEAR:
    partial = tuple(part for known in given for part in known.partial)
  return [known._replace(over=over, partial=partial)
          for known, over in zip(results, _overs(eqn, given, parts))]


def _overs(eqn: Any, given: Sequence[Known], parts: Sequence[Met]
           ) -> list[Over]:
  """The mesh axes along which devices differ in each result."""
  name, rows = eqn.primitive.name, [known.over for known in given]
  if name in _EACH and len(given) == len(eqn.outvars):
    return [_over(eqn, row) for row in rows]
  over = _over(eqn, _known.joined(rows))
  if name in _products.NAMES:
    # The product may be part of a sum over inputs that devices split.
    unsure = [met.shares.split for met in parts] + [
        known.over.any for known in given
        if known.tag is None or isinstance(known.tag, Constant)]
    over = Over(over.varies, over.unsure.union(*unsure))
  elif len(eqn.outvars) > 1 and len({*rows}) > 1:
    over = Over(unsure=over.any)  # It is unknown which results differ.
  return [over] * len(eqn.outvars)


def _over(eqn: Any, over: Over) -> Over:
  """The axes along which results differ, if operands do along `over`."""
  names, has = _names(eqn), eqn.params
  if has.get('axis_index_groups') is None:
    if eqn.primitive.name in _ALIKE:
      return Over(over.varies - names, over.unsure - names)
    if eqn.primitive.name == 'reduce_scatter':
      return Over(over.varies | names, over.unsure - names)
  return Over(over.varies, over.unsure | names)


def _names(eqn: Any) -> frozenset[str]:
  """The mesh axes of a collective, also of one that an equation calls."""
  has = eqn.params
  names = [getattr(effect, 'name', None) for effect in eqn.effects]
  names += _shards.names_of(has.get('axis_name'))
  # The param `axes` of other primitives may be axes of arrays.
  if eqn.primitive.name in _ALIKE:
    names += _shards.names_of(has.get('axes'))
  return frozenset(name for name in names if isinstance(name, str))


def _summed(walk: Walk, eqn: Any, given: Sequence[Known]
            ) -> tuple[tuple[Met, frozenset[str]], ...]:
  """Calls the tap with products that are complete now; returns the others."""
  left = []
  if eqn.params.get('axis_index_groups') is not None:
    return ()
  for known in given:
    for part, names in known.partial:
      if missing := names - _names(eqn):
        left.append((part, missing))
      elif part in walk.open:
        walk.open.remove(part)
        walk.show(part)
  return tuple(left)


def shard_map(walk: Walk, eqn: Any, given: list[Known]) -> list[Known]:
  """Computes a `shard_map`, and adds up the results of its tap."""
  has, names = eqn.params, _jaxprs.manual_axes(eqn)
  inside = cast(Walk, walk.inner())
  inside.mesh = tuple(n for n in names if has['mesh'].shape[n] > 1)
  inside.checked = frozenset(names if has['check_vma'] else ())
  known = []
  for whole, spec in zip(given, has['in_specs']):
    parts = _known.parts(eqn, spec)
    known.append(whole._replace(over=Over(frozenset().union(*parts.values()))))
    if isinstance(whole.tag, Tag):
      tag = _known.of_device(whole.tag, parts)
      known[-1] = known[-1]._replace(
          tag=tag, of=frozenset() if tag else _known.untold([whole]))

  def body(*values):
    own = cast(Walk, inside.inner())
    own.open = []
    results = _walk.walk(own, has['jaxpr'], [
        k._replace(value=x) for k, x in zip(known, values)])
    own.lost.update(part.tag.path for part in own.open)
    devices = (1,) * len(names)
    return [k.value for k in results], jax.tree.map(
        lambda x: x.reshape(*devices, *x.shape), _loops.varied(own, own.found))
  # All results are stacked over devices. Without `check_vma`, types do not say
  # which results are the same on all devices.
  results, found = jax.jit(jax.shard_map(
      body, mesh=has['mesh'], in_specs=tuple(has['in_specs']),
      out_specs=(list(has['out_specs']), PartitionSpec(*names)),
      axis_names={*names}, check_vma=has['check_vma']))(
          *(k.value for k in given))
  for key, tree in found.items():
    walk.add({key._replace(added=(), parts=()): jax.tree.map(
        lambda x, key=key: _of_all(walk, x, key, names), tree)})
  return [Known(x, DATA) for x in results]


def _of_all(walk: Walk, x: Any, key: Sum, mesh: Sequence[str]) -> Any:
  """The results of taps for whole kernels, from `[*mesh, ...]` by device."""
  shared = {name for _, names in key.parts for name in names}
  for axis in reversed(range(len(mesh))):
    if mesh[axis] in key.added:
      x = walk.join.reduce(x, axis=axis)
    elif mesh[axis] not in shared:
      # The result of device 0, by a sum: explicit meshes allow no such slice.
      first = lax.broadcasted_iota(jnp.int32, x.shape, axis) == 0
      x = jnp.where(first, x, 0).sum(axis, dtype=x.dtype)
  left = [name for name in mesh if name in shared]
  for at, names in reversed(key.parts):
    first = len(left) - len(names) + at
    x = jnp.moveaxis(x, [left.index(name) for name in names], [
        first + k for k in range(len(names))])
    x = x.reshape(*x.shape[:first], -1, *x.shape[first + len(names) + 1:])
    left = [name for name in left if name not in names]
  return x
