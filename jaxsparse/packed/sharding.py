"""Packed weights on many devices, sharded by columns or by rows.

The names are those of tensor parallelism. A layer with sharded columns computes
some of the features on each device. A layer with sharded rows takes these as
inputs, and sums over devices. Kernels work on the part of one device, so
everything here uses `jax.shard_map`, gradients included: the code contains all
communication.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec

from jaxsparse._utils import arguments
from jaxsparse.packed import _dispatch
from jaxsparse.packed import _groups
from jaxsparse.packed import _hopper_layout
from jaxsparse.packed import _mesh
from jaxsparse.packed import _operands
from jaxsparse.packed import _trilinear
from jaxsparse.packed import layout24
from jaxsparse.packed import products
from jaxsparse.packed._dispatch import Implementation
from jaxsparse.packed.layout24 import Packed24


@arguments.checked()
def partition_specs(w: Packed24, *, columns: str | None = None,
                    rows: str | None = None) -> Packed24:
  """The partition specs of the arrays of a packed weight.

  The specs serve `jax.device_put`, `in_shardings` and `shard_map`. Leading axes
  of the weight are not sharded.

  Args:
    w: the packed weight.
    columns: the mesh axis over which to shard the features.
    rows: the mesh axis over which to shard the contracted axis. Give at most
      one of `columns` and `rows`.

  Returns:
    A `Packed24` with a `PartitionSpec` in place of each array.

  Raises:
    ValueError: if both `columns` and `rows` are given.

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
  _mesh.check_one_way(columns, rows)
  if w.layout != 'hopper':  # [2, K'/4, N], [K'/32, N]
    values, positions = (None, rows, columns), (rows, columns)
  else:  # [N', K'/2], [N'/64, K'/128, 256]
    values, positions = (columns, rows), (columns, rows, None)
  leading = (None,) * (w.positions.ndim - len(positions))
  other = w.transposed
  specs: dict[str, Any] = dict(
      values=PartitionSpec(*leading, *values),
      positions=PartitionSpec(*leading, *positions),
      transposed=other and partition_specs(other, columns=rows, rows=columns))
  return dataclasses.replace(w, **specs)


@arguments.checked()
def sharded_matmul(
    x: jax.Array, w: Packed24, *, columns: str | None = None,
    rows: str | None = None, batch: str | PartitionSpec | None = None,
    mesh: Mesh | None = None, implementation: Implementation = None,
    preferred_element_type: jax.typing.DTypeLike | None = None) -> jax.Array:
  """`matmul` on a mesh: each device multiplies with its part of the weight.

  With `columns` the features of the result are sharded, and the product needs
  no communication. With `rows` the contracted axis of `x` is sharded, and the
  partial products are summed (one `psum`, in float32). In the backward pass,
  `columns` needs the sum and `rows` needs none. Gradients of values are summed
  over `batch`.

  Args:
    x: the inputs, `[..., K]`.
    w: the packed weight, sharded according to `partition_specs`.
    columns: the mesh axis over which the features are sharded.
    rows: the mesh axis over which the contracted axis is sharded. Give
      `columns`, `rows` or neither.
    batch: the mesh axis over which the first axis of `x` is sharded, or a
      `PartitionSpec` for all axes of `x` except the contracted ones. With
      explicit axes, it is read from `x`.
    mesh: the mesh; by default the mesh of `jax.set_mesh`.
    implementation: the implementation, see `matmul`.
    preferred_element_type: the dtype of the result, see `matmul`.

  Returns:
    The product, `[..., *features]`.

  Raises:
    ValueError: if a part would not consist of whole tiles. With `rows`, K must
      be a multiple of 256 times the number of devices. With `columns`, N must
      be a multiple of the number of devices, in Hopper's layout of 128 times
      this number. If the weight was packed with `transposed=True`, both
      conditions apply to N and to K.
  """
  _operands.check_operands(x, w)
  layout = _mesh.layout(
      x, x.ndim - len(w.contracted), columns, rows, batch, mesh)
  plan = _Plan(
      layout, _part_of(w, layout), _dispatch.names_of(implementation),
      _operands.result_dtype(x, w.values, preferred_element_type))
  x = x.astype(jnp.result_type(x, w.values))
  x, w = layout.reshard((x, w), plan.specs(w))
  return _trilinear.derivative(
      _Form(plan, jax.typeof(x).dtype, w.dtype), _trilinear.DY, x, w.values,
      layout24.without_values(w))


class _Plan(NamedTuple):
  """All that is static of a product; `part` tells what one device has."""
  layout: _mesh.Layout
  part: '_Sizes'
  names: tuple[str, ...] | None
  dtype: Any

  def specs(self, w: Packed24) -> tuple[PartitionSpec, Packed24]:
    """How operands are laid out."""
    return self.layout.inputs, partition_specs(
        w, columns=self.layout.columns, rows=self.layout.rows)


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


@dataclasses.dataclass(frozen=True)
class _Form(_trilinear.Form):
  """The products of `x`, `w.values` and `dy`; `rest` is `w` without values.

  Attributes:
    plan: how they are made.
    x: the dtype of `x`.
    values: that of the values.
  """
  plan: _Plan
  x: Any
  values: Any

  def y(self, x: jax.Array, w: jax.Array, rest: Any) -> jax.Array:
    plan, whole = self.plan, dataclasses.replace(rest, values=w)

    def local(x, w):
      return plan.layout.sum_outputs(
          lambda dtype: products.matmul(
              x, plan.part.of(w), implementation=plan.names,
              preferred_element_type=dtype), plan.dtype)
    return plan.layout.on_parts(
        local, plan.specs(whole), plan.layout.outputs)(x, whole)

  def dx(self, w: jax.Array, dy: jax.Array, rest: Any) -> jax.Array:
    plan, whole = self.plan, dataclasses.replace(rest, values=w)

    def local(w, dy):
      w = plan.part.of(w)
      dy = _flat(dy, w.features)
      x = jax.core.ShapedArray(
          (*dy.shape[:-1], math.prod(w.contracted)), self.x)
      dx = plan.layout.sum_inputs(
          lambda dtype: products.input_gradient(
              dy, x, w, plan.names, dtype), self.x)
      return dx.reshape(*dy.shape[:-1], *w.contracted)
    inputs, specs = plan.specs(whole)
    return plan.layout.on_parts(
        local, (specs, plan.layout.outputs), inputs)(whole, dy)

  def dw(self, x: jax.Array, dy: jax.Array, rest: Any) -> jax.Array:
    plan = self.plan

    def local(x, dy, rest):
      w = plan.part.of(rest)
      x, dy = _flat(x, w.contracted), _flat(dy, w.features)
      return plan.layout.sum_weights(
          lambda dtype: products.value_gradient(dy, x, w, dtype), self.values)
    inputs, specs = plan.specs(rest)
    return plan.layout.on_parts(
        local, (inputs, plan.layout.outputs, layout24.without_values(specs)),
        specs.values)(x, dy, rest)


def _flat(a: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """With these last axes in one."""
  return a.reshape(*a.shape[:a.ndim - len(axes)], math.prod(axes))


def _part_of(w: Packed24, layout: _mesh.Layout) -> _Sizes:
  """The sizes of the part that one device has, if there is such a part."""
  by_columns = _hopper_layout.COLUMNS if w.layout == 'hopper' else 1
  # The transposed form has tiles along what are columns here, and its columns
  # along the tiles.
  both = w.transposed is not None
  return _Sizes(
      _fewer('rows', w.contracted, layout.devices(layout.rows), _groups.TILE,
             both),
      _fewer('columns', w.features, layout.devices(layout.columns),
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
        f'their first axis a multiple of {devices}, got sizes {sizes}. '
        f'{_mesh.other_way(what)}')
  return (sizes[0] // devices, *sizes[1:])
