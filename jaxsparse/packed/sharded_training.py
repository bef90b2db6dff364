"""`sharded_training_matmul`: the product of 2:4 training on many devices."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec

from jaxsparse._utils import arguments
from jaxsparse.packed import _dispatch
from jaxsparse.packed import _mesh
from jaxsparse.packed import _operands
from jaxsparse.packed import _trilinear
from jaxsparse.packed import _xla
from jaxsparse.packed import training_product
from jaxsparse.packed._dispatch import Implementation


@arguments.checked()
def sharded_training_matmul(
    x: jax.Array, w: jax.Array, *, columns: str | None = None,
    rows: str | None = None, batch: str | PartitionSpec | None = None,
    mesh: Mesh | None = None, implementation: Implementation = None,
    preferred_element_type: jax.typing.DTypeLike | None = None) -> jax.Array:
  """`training_matmul` on a mesh: each device packs and multiplies its part.

    y = x @ w,   dx = dy @ w.T,   dw = x.T @ dy (dense)

  With `columns` the features of the result are sharded, and the product needs
  no communication. With `rows` the contracted axis of `x` is sharded, and the
  partial products are summed (one `psum`, in float32). In the backward pass,
  `columns` needs the sum and `rows` needs none. Gradients of weights are summed
  over `batch`. The weight is not checked; it must have the masks of
  `nm(2, 4, transposable=True)`.

  Args:
    x: the inputs, `[..., K]`.
    w: the weight, `[K, N]`, 2:4 along both axes, sharded as
      `PartitionSpec(rows, columns)`.
    columns: the mesh axis over which the features are sharded.
    rows: the mesh axis over which the contracted axis is sharded. Give
      `columns`, `rows` or neither.
    batch: the sharding of the leading axes of `x`, see `sharded_matmul`.
    mesh: the mesh; by default the mesh of `jax.set_mesh`.
    implementation: the implementation, see `training_matmul`.
    preferred_element_type: the dtype of the result, see `matmul`.

  Returns:
    The product, `[..., N]`.

  Raises:
    ValueError: if shapes do not fit, if an axis is not an axis of the mesh, or
      if a part would divide a group of four: with `columns`, N must be a
      multiple of four times the number of devices; with `rows`, K.

  >>> w = jnp.array([[1., 2., 0., 0.], [3., 4., 0., 0.],
  ...                [0., 0., 5., 6.], [0., 0., 7., 8.]])
  >>> mesh = jax.make_mesh((1,), ('model',))
  >>> sharded_training_matmul(
  ...     jnp.ones((1, 4)), w, columns='model', mesh=mesh)
  Array([[ 4.,  6., 12., 14.]], dtype=float32)
  """
  training_product.check_operands('sharded_training_matmul', x, w)
  layout = _mesh.layout(x, x.ndim - 1, columns, rows, batch, mesh)
  for what, axis, size in (('rows', rows, w.shape[0]),
                           ('columns', columns, w.shape[1])):
    devices = layout.devices(axis)
    if devices and size % (4 * devices):
      raise ValueError(
          f'{what} are sharded over {devices} devices in groups of four, so '
          f'their number must be a multiple of {4 * devices}, got {size}. '
          f'{_mesh.other_way(what)}')
  plan = _Plan(layout, _dispatch.names_of(implementation),
               _operands.result_dtype(x, w, preferred_element_type))
  dtype = jnp.result_type(x, w)
  x, w = layout.reshard((x.astype(dtype), w.astype(dtype)), plan.specs)
  return _trilinear.derivative(
      _Form(plan, dtype), _trilinear.DY, x, w,
      None)


class _Plan(NamedTuple):
  """All that is static of a product."""
  layout: _mesh.Layout
  names: tuple[str, ...] | None
  dtype: Any

  @property
  def specs(self) -> tuple[PartitionSpec, PartitionSpec]:
    """How operands are laid out."""
    return self.layout.inputs, PartitionSpec(
        self.layout.rows, self.layout.columns)


@dataclasses.dataclass(frozen=True)
class _Form(_trilinear.Form):
  """The products of `x`, `w` and `dy`.

  Attributes:
    plan: how they are made.
    dtype: that of `x` and `w`.
  """
  plan: _Plan
  dtype: Any

  def y(self, x: jax.Array, w: jax.Array, rest: None) -> jax.Array:
    layout = self.plan.layout

    def local(x, w):
      return layout.sum_outputs(
          lambda dtype: training_product.product(
              x, w, self.plan.names, dtype), self.plan.dtype)
    return layout.on_parts(local, self.plan.specs, layout.outputs)(x, w)

  def dx(self, w: jax.Array, dy: jax.Array, rest: None) -> jax.Array:
    layout, (inputs, weights) = self.plan.layout, self.plan.specs

    def local(w, dy):
      x = jax.core.ShapedArray((*dy.shape[:-1], w.shape[0]), self.dtype)
      return layout.sum_inputs(
          lambda dtype: training_product.input_gradient(
              dy.astype(self.dtype), x, w, self.plan.names, dtype), self.dtype)
    return layout.on_parts(local, (weights, layout.outputs), inputs)(w, dy)

  def dw(self, x: jax.Array, dy: jax.Array, rest: None) -> jax.Array:
    layout, (inputs, weights) = self.plan.layout, self.plan.specs

    def local(x, dy):
      shape = (x.shape[-1], dy.shape[-1])
      return layout.sum_weights(
          lambda dtype: _xla.weight_gradient(
              dy.astype(self.dtype), x, jax.ShapeDtypeStruct(shape, dtype)),
          self.dtype)
    return layout.on_parts(local, (inputs, layout.outputs), weights)(x, dy)

  def of_change(self) -> '_Form':
    return dataclasses.replace(self, plan=self.plan._replace(names=('xla',)))
