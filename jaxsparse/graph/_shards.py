"""Arrays in `jax.shard_map`: what a device has of them, and what all have.

Along an axis that is shared out, index `i` of a device is index `d * n + i` of
the whole array, where `d` is the device's place along a mesh axis. So the axis
is a product, mesh axis times what a device has, as a reshape would make it.
"""

from typing import Any, Mapping, Sequence

from jaxsparse.graph import _arrays
from jaxsparse.graph._arrays import Value
from jaxsparse.graph._relations import Relations
from jaxsparse.graph.axes import Axis


def names_of(part: Any) -> tuple[str, ...]:
  """The mesh axes of an entry of a partition spec, or of a collective."""
  if part is None:
    return ()
  return tuple(part) if isinstance(part, (tuple, list, frozenset, set)) else (
      part,)


def of_device(relations: Relations, value: Value, spec: Sequence[Any],
              mesh: Mapping[str, Axis]) -> Value:
  """What a device has of an array.

  Args:
    relations: of all axes.
    value: the whole array.
    spec: for each axis the mesh axes that it is shared out over.
    mesh: the mesh axes of more than one device.
  """
  for axis, part in enumerate(spec):
    for name in names_of(part):
      if name in mesh:
        value = _parted(relations, value, axis, mesh[name])
  return value


def _parted(relations: Relations, value: Value, axis: int, devices: Axis
            ) -> Value:
  shape = list(value.shape)
  shape[axis:axis + 1] = [devices.size, shape[axis] // devices.size]
  value = _arrays.reshaped(relations, value, tuple(shape))
  _arrays.same(relations, [value.axes[axis], devices])
  return _arrays.without_first(_arrays.moved(value, axis, 0))


def of_all(relations: Relations, value: Value, spec: Sequence[Any],
           mesh: Mapping[str, Axis]) -> Value:
  """The inverse of `of_device`."""
  for axis, part in enumerate(spec):
    for name in reversed(names_of(part)):
      if name in mesh:
        value = gathered(relations, value, axis, mesh[name], tiled=True)
  return value


def gathered(relations: Relations, value: Value, axis: int, devices: Axis, *,
             tiled: bool) -> Value:
  """The arrays of all devices, one after the other along an axis.

  Args:
    relations: of all axes.
    value: the array of a device.
    axis: where the devices will be.
    devices: the mesh axis.
    tiled: whether along an axis that is there, or else along a new one.
  """
  value = _arrays.moved(_arrays.with_first(value, devices), 0, axis)
  if not tiled:
    return value
  shape = list(value.shape)
  shape[axis:axis + 2] = [shape[axis] * shape[axis + 1]]
  return _arrays.reshaped(relations, value, tuple(shape))


def scattered(relations: Relations, value: Value, axis: int, devices: Axis, *,
              tiled: bool) -> Value:
  """The part of a sum over devices that each of them is left with."""
  if tiled:
    return _parted(relations, value, axis, devices)
  _arrays.same(relations, [value.axes[axis], devices])
  return _arrays.without_first(_arrays.moved(value, axis, 0))
