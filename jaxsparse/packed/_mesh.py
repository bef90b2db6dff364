"""The layout of a product on a mesh: its axes, sums, and parts of devices."""

import dataclasses
from typing import Any, Callable

import jax
from jax import lax
from jax.sharding import AbstractMesh
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxsparse.packed import _operands


@dataclasses.dataclass(frozen=True)
class Layout:
  """The mesh axes over which a product is sharded; static under `jit`.

  Attributes:
    mesh: the mesh.
    columns: the mesh axis over which features are sharded, or `None`.
    rows: the mesh axis over which the contracted axis is sharded, or `None`.
    leading: the mesh axes of each axis of `x` except the contracted ones.
  """
  mesh: Mesh | AbstractMesh
  columns: str | None
  rows: str | None
  leading: tuple[Any, ...]

  @property
  def inputs(self) -> PartitionSpec:
    """Of `x`; contracted axes but the first stay whole."""
    return PartitionSpec(*self.leading, self.rows)

  @property
  def outputs(self) -> PartitionSpec:
    """Of the product; axes of features but the first stay whole."""
    return PartitionSpec(*self.leading, self.columns)

  def devices(self, axis: str | None) -> int | None:
    """How many devices share an axis; `None` without one."""
    return None if axis is None else self.mesh.shape[axis]

  def sum_outputs(self, product: Callable[[Any], jax.Array],
                  dtype: Any) -> jax.Array:
    """`product(dtype)` of one device, summed over the devices of `rows`."""
    return _summed(product, self.rows, dtype)

  def sum_inputs(self, gradient: Callable[[Any], jax.Array],
                 dtype: Any) -> jax.Array:
    """The gradient to `x`, summed over the devices of `columns`."""
    return _summed(gradient, self.columns, dtype)

  def sum_weights(self, gradient: Callable[[Any], jax.Array],
                  dtype: Any) -> jax.Array:
    """The gradient to the weight, summed over the devices of the batch."""
    return _summed(gradient, tuple(jax.tree.leaves(self.leading)), dtype)

  def reshard(self, arrays: Any, specs: Any) -> Any:
    """Lays arrays out where axes are explicit; else the compiler does."""
    explicit = {name for name, kind in zip(
        self.mesh.axis_names, self.mesh.axis_types)
                if kind == AxisType.Explicit}
    if not explicit:
      return arrays

    def sharding(spec):
      parts = (tuple(name for name in jax.tree.leaves(part) if name in explicit)
               for part in spec)
      return NamedSharding(
          self.mesh, PartitionSpec(*(part or None for part in parts)))
    return jax.sharding.reshard(arrays, jax.tree.map(sharding, specs))

  def on_parts(self, f: Callable[..., Any], specs: Any,
               out: Any) -> Callable[..., Any]:
    """`f` on the part that each device has."""
    # Sums over devices are said here; with the check JAX would add its own.
    return jax.shard_map(f, mesh=self.mesh, in_specs=specs, out_specs=out,
                         check_vma=False)


def layout(x: jax.Array, rank: int, columns: str | None, rows: str | None,
           batch: str | PartitionSpec | None, mesh: Mesh | None) -> Layout:
  """The layout that arguments ask for, of `x` with `rank` leading axes.

  Raises:
    ValueError: if it asks for both ways, for more axes than there are, or for
      one that is not the mesh's.
  """
  check_one_way(columns, rows)
  on: Mesh | AbstractMesh = mesh or jax.sharding.get_abstract_mesh()
  leading = _leading_axes(x, rank, batch, (columns, rows))
  for name in jax.tree.leaves((columns, rows, leading)):
    if name not in on.shape:
      raise ValueError(
          f'{name!r} must be an axis of the mesh, which has {dict(on.shape)}. '
          'Pass mesh=, or call under jax.set_mesh(mesh).')
  return Layout(on, columns, rows, leading)


def check_one_way(columns: str | None, rows: str | None) -> None:
  """Raises if a weight is to be sharded by columns and by rows."""
  if columns and rows:
    raise ValueError(
        'A weight must be sharded by columns or by rows, not both, got '
        f"columns={columns!r} and rows={rows!r}. Write e.g. columns='model'.")


def other_way(what: str) -> str:
  """The end of an error: what to do if an axis cannot be shared out."""
  other = 'columns' if what == 'rows' else 'rows'
  return f'Use fewer devices, or shard {other}.'


def _leading_axes(x: jax.Array, rank: int, batch: str | PartitionSpec | None,
                  taken: tuple[str | None, ...]) -> tuple[Any, ...]:
  if batch is None:  # Known of explicit axes alone.
    axes: tuple[Any, ...] = tuple(
        None if set(jax.tree.leaves(axis)) & set(taken) else axis
        for axis in jax.typeof(x).sharding.spec[:rank])
  else:
    axes = (batch,) if isinstance(batch, str) else tuple(batch)
  if len(axes) > rank:
    raise ValueError(
        f'batch={PartitionSpec(*axes)} must have at most {rank} entries, one '
        f'for each leading axis of x, got {len(axes)}. Write e.g. '
        "batch='data'.")
  return axes + (None,) * (rank - len(axes))


def _summed(part: Callable[[Any], jax.Array], axes: Any,
            dtype: Any) -> jax.Array:
  # What is summed over devices is rounded after that.
  if not axes:
    return part(dtype).astype(dtype)
  return lax.psum(part(_operands.sum_dtype(dtype)), axes).astype(dtype)
