"""Meshes with Explicit axes, for work whose layout is left to the compiler."""

from typing import Any, Callable

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec


def automatically(fn: Callable[..., Any], *args: Any) -> Any:
  """A function of arrays that are no tracers, on a mesh as if axes were Auto.

  No data move. Without arrays on a mesh with Explicit axes it is the function.

  Args:
    fn: the function.
    *args: trees of arrays.

  Returns:
    What it returns, with Explicit axes again.
  """
  meshes = {x.sharding.mesh for x in jax.tree.leaves(args) if _is_explicit(x)}
  if not meshes:
    return fn(*args)
  mesh = meshes.pop()
  auto = Mesh(mesh.devices, mesh.axis_names,
              axis_types=(AxisType.Auto,) * len(mesh.axis_names))

  def moved(tree, to, is_there):
    return jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(to, x.sharding.spec))
        if is_there(x) else x, tree)
  with jax.set_mesh(auto):
    found = fn(*moved(args, auto, _is_explicit))
  return moved(found, mesh, lambda x: isinstance(
      getattr(x, 'sharding', None), NamedSharding))


def like(x: jax.Array, other: jax.Array) -> jax.Array:
  """An array laid out as another one of its shape, if that is explicitly so."""
  return jax.device_put(x, other.sharding) if _is_explicit(other) else x


def beside(x: Any, other: Any) -> Any:
  """An array that lies nowhere, on every device of the mesh of another one.

  Any other array is as it was, and so it is if the mesh is not explicit.
  """
  if _is_explicit(x) or not _is_explicit(other):
    return x
  return jax.device_put(x, NamedSharding(other.sharding.mesh, PartitionSpec()))


def _is_explicit(x: Any) -> bool:
  sharding = getattr(x, 'sharding', None)
  return (isinstance(sharding, NamedSharding)
          and AxisType.Explicit in sharding.mesh.axis_types)


def laid_out_by_compiler(fn: Callable[..., Any], *args: Any) -> Any:
  """A function of arrays as if axes were Auto; results are on every device.

  Args:
    fn: the function.
    *args: trees of arrays, which may be traced; the first decides whether its
      mesh has Explicit axes.
  """
  mesh = jax.typeof(jax.tree.leaves(args[0])[0]).sharding.mesh
  explicit = tuple(
      name for name, kind in zip(mesh.axis_names, mesh.axis_types)
      if kind == AxisType.Explicit)
  if not explicit:
    return fn(*args)
  everywhere = NamedSharding(mesh, PartitionSpec())
  return jax.sharding.auto_axes(
      fn, axes=explicit, out_sharding=everywhere)(*args)
