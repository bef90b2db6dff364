"""The product of 2:4 training on many devices: each packs its part."""

import functools
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
from jaxsparse.packed import _operands
from jaxsparse.packed import _xla
from jaxsparse.packed import sharding
from jaxsparse.packed import training_product
from jaxsparse.packed._dispatch import Implementation
from jaxsparse.packed.layout24 import Packed24


def sharded_training_matmul(
    x: jax.Array, w: jax.Array, *, columns: str | None = None,
    rows: str | None = None, batch: str | PartitionSpec | None = None,
    mesh: Mesh | None = None, implementation: Implementation = None,
    preferred_element_type: jax.typing.DTypeLike | None = None) -> jax.Array:
  """`training_matmul` on a mesh: each device packs and multiplies its part.

    y = x @ w,   dx = dy @ w.T,   dw = x.T @ dy (dense)

  With `columns` the features of the result are sharded and nothing is sent;
  with `rows` the contracted axis of `x` is, and parts are summed (one `psum`,
  in float32). Backward it is the other way round, and gradients to weights are
  summed over `batch`. The weight is not looked at: it has the masks of
  `nm(2, 4, transposable=True)`.

  Args:
    x: `[..., K]`.
    w: `[K, N]`, 2:4 along both axes, laid out as `PartitionSpec(rows,
      columns)`.
    columns: the mesh axis that shares the features out, or
    rows: the one that shares what is contracted, or neither.
    batch: as of `sharded_matmul`.
    mesh: the mesh; by default the one of `jax.set_mesh`.
    implementation: as of `training_matmul`.
    preferred_element_type: as of `matmul`.

  Returns:
    `[..., N]`.

  Raises:
    ValueError: if shapes do not fit, an axis is not the mesh's, or a part
      would cut through four neighbours: N is a multiple of four times the
      devices of `columns`, or K one of four times those of `rows`.

  >>> w = jnp.array([[1., 2., 0., 0.], [3., 4., 0., 0.],
  ...                [0., 0., 5., 6.], [0., 0., 7., 8.]])
  >>> mesh = jax.make_mesh((1,), ('model',))
  >>> sharded_training_matmul(
  ...     jnp.ones((1, 4)), w, columns='model', mesh=mesh)
  Array([[ 4.,  6., 12., 14.]], dtype=float32)
  """
  on: Mesh | AbstractMesh = mesh or jax.sharding.get_abstract_mesh()
  if isinstance(w, Packed24):
    raise ValueError(
        'sharded_training_matmul(x, w) packs a dense weight itself; with a '
        'packed one write sharded_matmul(x, w).')
  if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0]:
    raise ValueError(
        'sharded_training_matmul(x, w) needs x [..., K] and w [K, N], got '
        f'{x.shape} and {w.shape}. Stacked weights go through jax.lax.scan.')
  if columns and rows:
    raise ValueError(
        'A weight is sharded by columns or by rows, got '
        f"columns={columns!r} and rows={rows!r}. Write e.g. columns='model'.")
  leading = sharding.leading_axes(x, x.ndim - 1, batch, (columns, rows))
  sharding.check_names(on, (columns, rows, leading))
  for what, axis, size in (('rows', rows, w.shape[0]),
                           ('columns', columns, w.shape[1])):
    if axis is not None and size % (4 * on.shape[axis]):
      raise ValueError(
          f'{what} are sharded over {on.shape[axis]} devices in groups of '
          f'four, so their number must be a multiple of {4 * on.shape[axis]}, '
          f'got {size}. Use fewer devices, or shard '
          f'{"columns" if what == "rows" else "rows"}.')
  plan = _Plan(
      on, columns, rows, tuple(jax.tree.leaves(leading)),
      PartitionSpec(*leading, rows), PartitionSpec(rows, columns),
      PartitionSpec(*leading, columns), _dispatch.names_of(implementation),
      _operands.result_dtype(x, w, preferred_element_type))
  dtype = jnp.result_type(x, w)
  x, w = x.astype(dtype), w.astype(dtype)
  if AxisType.Explicit in on.axis_types:
    x, w = jax.sharding.reshard((x, w), tuple(
        NamedSharding(on, spec) for spec in (plan.inputs, plan.weights)))
  return _sharded(x, w, plan)


class _Plan(NamedTuple):
  """All that is static of a product."""
  mesh: Mesh | AbstractMesh
  columns: str | None
  rows: str | None
  batch: tuple[str, ...]
  inputs: PartitionSpec
  weights: PartitionSpec
  outputs: PartitionSpec
  names: tuple[str, ...] | None
  dtype: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sharded(x: jax.Array, w: jax.Array, plan: _Plan) -> jax.Array:
  def local(x, w):
    # What is summed over devices is rounded after that.
    dtype = _operands.sum_dtype(plan.dtype) if plan.rows else plan.dtype
    y = training_product.product(x, w, plan.names, dtype)
    return (lax.psum(y, plan.rows) if plan.rows else y).astype(plan.dtype)
  return _on_parts(local, plan, (plan.inputs, plan.weights), plan.outputs)(
      x, w)


def _forward(x, w, plan):
  return _sharded(x, w, plan), (x, w)


def _backward(plan, saved, dy):
  def local(x, w, dy):
    dy = dy.astype(x.dtype)
    wide = _operands.sum_dtype(x.dtype)
    dx = training_product.input_gradient(
        dy, x, w, plan.names, wide if plan.columns else x.dtype)
    dw = _xla.weight_gradient(dy, x, w.astype(wide) if plan.batch else w)
    if plan.columns:
      dx = lax.psum(dx, plan.columns)
    if plan.batch:
      dw = lax.psum(dw, plan.batch)
    return dx.astype(x.dtype), dw.astype(w.dtype)
  return _on_parts(
      local, plan, (plan.inputs, plan.weights, plan.outputs),
      (plan.inputs, plan.weights))(*saved, dy)


_sharded.defvjp(_forward, _backward)


def _on_parts(f: Any, plan: _Plan, specs: Any, out: Any) -> Any:
  # Kernels do not say along which axes their results vary.
  return jax.shard_map(f, mesh=plan.mesh, in_specs=specs, out_specs=out,
                       check_vma=False)
