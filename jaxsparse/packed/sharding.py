"""Packed weights on many devices: their columns, or their rows, in parts.

Names are of tensor parallelism: a layer whose columns are sharded gives each
device some of the features; one whose rows are takes these and sums.
Kernels see what one device has, so everything here is by `jax.shard_map`, the
gradients, too: what is sent is what is written.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxsparse.packed import _dispatch
from jaxsparse.packed import _groups
from jaxsparse.packed import _hopper_layout
from jaxsparse.packed import _operands
from jaxsparse.packed import layout24
from jaxsparse.packed import products
from jaxsparse.packed._dispatch import Implementation
from jaxsparse.packed.layout24 import Packed24


def partition_specs(w: Packed24, *, columns: str | None = None,
                    rows: str | None = None) -> Packed24:
  """The `PartitionSpec`s of a packed weight's arrays.

  For `jax.device_put`, `in_shardings` and `shard_map`, of weights of any
  leading axes, which stay whole.

  Args:
    w: the weight.
    columns: the mesh axis that shares the features out, or
    rows: the one that shares what is contracted.

  Returns:
    A `Packed24` with specs for arrays.

  Raises:
    ValueError: if both are given.

  >>> w = layout24.pack(jnp.zeros((512, 64)))
  >>> specs = partition_specs(w, columns='model')
  >>> tuple(specs.values)
  (None, None, 'model')
  >>> mesh = jax.make_mesh((1,), ('model',))
  >>> with jax.set_mesh(mesh):
  ...   w = jax.device_put(w, specs)
  ...   sharded_matmul(jnp.ones((2, 512)), w, columns='model').shape
  (2, 64)
  """
  layout24.check_packed(w)
  if columns and rows:
    raise ValueError(
        'A weight is sharded by columns or by rows, got '
        f"columns={columns!r} and rows={rows!r}. Write e.g. columns='model'.")
  if w.layout == 'planar':  # [2, K'/4, N], [K'/32, N]
    values, positions = (None, rows, columns), (rows, columns)
  else:  # [N', K'/2], [N'/64, K'/128, 256]
    values, positions = (columns, rows), (columns, rows, None)
  leading = (None,) * (w.values.ndim - len(values))
  other = w.transposed
  specs: dict[str, Any] = dict(
      values=PartitionSpec(*leading, *values),
      positions=PartitionSpec(*leading, *positions),
      transposed=other and partition_specs(other, columns=rows, rows=columns))
  return dataclasses.replace(w, **specs)


def sharded_matmul(
    x: jax.Array, w: Packed24, *, columns: str | None = None,
    rows: str | None = None, batch: str | PartitionSpec | None = None,
    mesh: Mesh | None = None, implementation: Implementation = None,
    preferred_element_type: jax.typing.DTypeLike | None = None) -> jax.Array:
  """`matmul` on a mesh: each device multiplies with its part.

  With `columns` the features of the result are sharded and nothing is sent;
  with `rows` the contracted axis of `x` is, and parts are summed (one `psum`,
  in float32). Backward it is the other way round, and gradients to values are
  summed over `batch`.

  Args:
    x: `[..., K]`.
    w: the weight, laid out as `partition_specs` says.
    columns: the mesh axis that shares the features out, or
    rows: the one that shares what is contracted, or neither.
    batch: the mesh axis over which the first axis of `x` is sharded, or a
      `PartitionSpec` of all but the contracted ones. With explicit
      axes `x` tells it.
    mesh: the mesh; by default the one of `jax.set_mesh`.
    implementation: as of `matmul`.
    preferred_element_type: as of `matmul`.

  Returns:
    `[..., *features]`.

  Raises:
    ValueError: if a part would not be whole tiles: with `rows` K must be a
      multiple of 256 times the devices, with `columns` N one of the
      devices, in Hopper's layout of 128 times these. Of a weight that was
      packed with `transposed=True` both must hold, of N and of K.
  """
  on: Mesh | AbstractMesh = mesh or jax.sharding.get_abstract_mesh()
  _operands.check_operands(x, w)
  specs = partition_specs(w, columns=columns, rows=rows)
  leading = leading_axes(
      x, x.ndim - len(w.contracted), batch, (columns, rows))
  check_names(on, (columns, rows, leading))
  plan = _Plan(
      on, columns, rows, tuple(jax.tree.leaves(leading)),
      PartitionSpec(*leading, rows), PartitionSpec(*leading, columns),
      _part_of(w, on.shape[columns] if columns else None,
               on.shape[rows] if rows else None),
      _dispatch.names_of(implementation),
      _operands.result_dtype(x, w.values, preferred_element_type))
  x = x.astype(jnp.result_type(x, w.values))
  if AxisType.Explicit in on.axis_types:
    x, w = jax.sharding.reshard((x, w), jax.tree.map(
        lambda spec: NamedSharding(on, spec), (plan.inputs, specs)))
  return _sharded(x, w, plan)


def check_names(mesh: Mesh | AbstractMesh, names: Any) -> None:
  """Raises for a name in a tree of names that is no axis of the mesh."""
  for name in jax.tree.leaves(names):
    if name not in mesh.shape:
      raise ValueError(
          f'{name!r} is no axis of the mesh, which has {dict(mesh.shape)}. '
          'Pass mesh=, or call under jax.set_mesh(mesh).')


def leading_axes(x: jax.Array, rank: int, batch: str | PartitionSpec | None,
                 taken: tuple[str | None, ...]) -> tuple[Any, ...]:
  """How the leading axes of `x` are sharded."""
  if batch is None:  # Known of explicit axes alone.
    axes: tuple[Any, ...] = tuple(
        None if set(jax.tree.leaves(axis)) & set(taken) else axis
        for axis in jax.typeof(x).sharding.spec[:rank])
  else:
    axes = (batch,) if isinstance(batch, str) else tuple(batch)
  if len(axes) > rank:
    raise ValueError(
        f'batch={PartitionSpec(*axes)} is for {len(axes)} leading axes of x, '
        f'which has {rank}.')
  return axes + (None,) * (rank - len(axes))


class _Plan(NamedTuple):
  """All that is static of a product; `part` tells what one device has."""
  mesh: Mesh | AbstractMesh
  columns: str | None
  rows: str | None
  batch: tuple[str, ...]
  inputs: PartitionSpec
  outputs: PartitionSpec
  part: '_Sizes'
  names: tuple[str, ...] | None
  dtype: Any


class _Sizes(NamedTuple):
  """The static fields of a part, and of its transposed form."""
  contracted: tuple[int, ...]
  features: tuple[int, ...]

  def of(self, w: Packed24) -> Packed24:
    """The part, whose arrays `shard_map` has cut already."""
    other = w.transposed
    return dataclasses.replace(
        w, contracted=self.contracted, features=self.features,
        transposed=other and dataclasses.replace(
            other, contracted=self.features, features=self.contracted))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sharded(x: jax.Array, w: Packed24, plan: _Plan) -> jax.Array:
  def local(x, w):
    # What is summed over devices is rounded after that.
    dtype = _operands.sum_dtype(plan.dtype) if plan.rows else plan.dtype
    y = products.matmul(x, plan.part.of(w), implementation=plan.names,
                        preferred_element_type=dtype)
    return (lax.psum(y, plan.rows) if plan.rows else y).astype(plan.dtype)
  return _on_parts(local, plan, plan.outputs)(x, w)


def _forward(x, w, plan):
  return _sharded(x, w, plan), (x, w)


def _backward(plan, saved, dy):
  def local(x, w, dy):
    w = plan.part.of(w)
    flat = lambda a, axes: a.reshape(
        *a.shape[:a.ndim - len(axes)], math.prod(axes))
    inputs, dy = flat(x, w.contracted), flat(dy, w.features)
    dx = products.input_gradient(
        dy, inputs, w, plan.names,
        _operands.sum_dtype(x.dtype) if plan.columns else x.dtype)
    values = products.value_gradient(
        dy, inputs, w, _operands.sum_dtype(w.dtype) if plan.batch else w.dtype)
    if plan.columns:
      dx = lax.psum(dx, plan.columns)
    if plan.batch:
      values = lax.psum(values, plan.batch)
    return dx.reshape(x.shape).astype(x.dtype), values.astype(w.dtype)
  x, w = saved
  specs = partition_specs(w, columns=plan.columns, rows=plan.rows)
  dx, values = _on_parts(
      local, plan, (plan.inputs, specs.values), plan.outputs)(x, w, dy)
  return dx, products.with_gradient(w, values)


_sharded.defvjp(_forward, _backward)


def _on_parts(f: Any, plan: _Plan, out: Any, *more: PartitionSpec) -> Any:
  """`f(x, w, ...)` on the parts that each device has."""
  def run(x, w, *rest):
    # Kernels do not say along which axes their results vary.
    return jax.shard_map(
        f, mesh=plan.mesh, check_vma=False, out_specs=out,
        in_specs=(plan.inputs, partition_specs(
            w, columns=plan.columns, rows=plan.rows), *more))(x, w, *rest)
  return run


def _part_of(w: Packed24, columns: int | None, rows: int | None) -> _Sizes:
  """The sizes of the part that one device has, if there is such a part."""
  by_columns = _hopper_layout.COLUMNS if w.layout == 'hopper' else 1
  # The transposed form has tiles along what are columns here, and its columns
  # along the tiles.
  both = w.transposed is not None
  return _Sizes(
      _fewer('rows', w.contracted, rows, _groups.TILE, both),
      _fewer('columns', w.features, columns,
             _groups.TILE if both else by_columns, both))


def _fewer(what: str, sizes: tuple[int, ...], devices: int | None, tile: int,
           both: bool) -> tuple[int, ...]:
  if devices is None:
    return sizes
  if sizes[0] % devices or math.prod(sizes) % (devices * tile):
    also = ' of a weight packed with transposed=True' if both else ''
    raise ValueError(
        f'{what}{also} are sharded over {devices} devices in multiples of '
        f'{tile}, so their number must be a multiple of {devices * tile}, and '
        f'the first of their axes one of {devices}, got sizes {sizes}. Use '
        'fewer devices, or shard '
        f'{"columns" if what == "rows" else "rows"}.')
  return (sizes[0] // devices, *sizes[1:])
