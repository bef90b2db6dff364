"""Meshes with Explicit axes, for work whose layout is left to the compiler."""

import contextlib
from typing import Any, Callable, Iterator

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec


@contextlib.contextmanager
def automatic(tree: Any) -> Iterator[Any]:
  """Arrays on a mesh with Explicit axes as ones on the same with Auto axes.

  No data move. A tree without such arrays is what it is.

  Args:
    tree: of arrays that are no tracers.

  Yields:
    The tree; meanwhile the mesh of the context is that with Auto axes.
  """
  meshes = {x.sharding.mesh for x in jax.tree.leaves(tree) if _is_explicit(x)}
  if not meshes:
    yield tree
    return
  mesh = meshes.pop()
  auto = Mesh(mesh.devices, mesh.axis_names,
              axis_types=(AxisType.Auto,) * len(mesh.axis_names))
  with jax.set_mesh(auto):
    yield jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(auto, x.sharding.spec))
        if _is_explicit(x) else x, tree)


def _is_explicit(x: Any) -> bool:
  sharding = getattr(x, 'sharding', None)
  return (isinstance(sharding, NamedSharding)
          and AxisType.Explicit in sharding.mesh.axis_types)


def compiler_laid_out(fn: Callable[..., Any], *args: Any) -> Any:
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
