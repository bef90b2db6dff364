"""Arrays in `jax.shard_map`: a device's part, and the whole array.

Along a split axis, index `i` of a device is index `d * n + i` of the whole
array, where `n` is the size of a part and `d` the device's place along a mesh
axis. So the axis is a product of the mesh axis and the axis of a part, as after
a reshape.
"""

from typing import Any, Mapping, Sequence

from jaxsparse.graph import _arrays
from jaxsparse.graph import _jaxprs
from jaxsparse.graph import primitives
from jaxsparse.graph._arrays import Reader
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
  """A device's part of an array.

  Args:
    relations: the relations of all axes.
    value: the whole array.
    spec: for each axis, the mesh axes that split it.
    mesh: the mesh axes with more than one device.
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
    relations: the relations of all axes.
    value: the array of a device.
    axis: the position of the axis of devices.
    devices: the mesh axis.
    tiled: whether the parts are concatenated along an existing axis, or stacked
      along a new one.
  """
  value = _arrays.moved(_arrays.with_first(value, devices), 0, axis)
  if not tiled:
    return value
  shape = list(value.shape)
  shape[axis:axis + 2] = [shape[axis] * shape[axis + 1]]
  return _arrays.reshaped(relations, value, tuple(shape))


def scattered(relations: Relations, value: Value, axis: int, devices: Axis, *,
              tiled: bool) -> Value:
  """Each device's part of a sum over devices (`reduce_scatter`)."""
  if tiled:
    return _parted(relations, value, axis, devices)
  _arrays.same(relations, [value.axes[axis], devices])
  return _arrays.without_first(_arrays.moved(value, axis, 0))


def _shard_map(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  has, outer = eqn.params, reader.mesh
  sizes = has['mesh'].shape
  new = {name: Axis(sizes[name], fixed='shard_map')
         for name in _jaxprs.manual_axes(eqn) if sizes[name] > 1}
  reader.mesh = outer | new
  reader.ambient += new.values()
  results = reader.called(has['jaxpr'], [
      of_device(reader.relations, value, spec, reader.mesh)
      for value, spec in zip(values, has['in_specs'])])
  whole = [of_all(reader.relations, value, spec, reader.mesh)
           for value, spec in zip(results, has['out_specs'])]
  reader.mesh, reader.ambient = outer, reader.ambient[:-len(new) or None]
  return whole


def _devices(reader: Reader, names: Any) -> list[Axis]:
  """The mesh axes of a collective with more than one device."""
  return [reader.mesh[n] for n in names_of(names) if n in reader.mesh]


def _alike(reader: Reader, value: Value, names: Any) -> list[Axis]:
  """Makes units have the same order on all devices of a collective."""
  mesh = _devices(reader, names)
  reader.relations.note((*value.axes, *(
      axis for axis in reader.ambient if axis not in mesh)))
  return mesh


def _psum(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  for value in values:
    _alike(reader, value, eqn.params['axes'])
  return [value._replace(number=None) for value in values]


def _ppermute(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  _alike(reader, values[0], eqn.params['axis_name'])
  return values


def _axis_index(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  del reader, values
  return [_arrays.opaque(eqn.outvars[0].aval, 'axis_index', ())]


def _all_gather(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  has, (value,) = eqn.params, values
  for axis in reversed(_devices(reader, has['axis_name'])):
    value = gathered(reader.relations, value, has['all_gather_dimension'], axis,
                     tiled=has['tiled'])
  shape = eqn.outvars[0].aval.shape
  if value.shape != shape:  # Several new axes become one.
    return [_arrays.reshaped(reader.relations, value, shape)]
  return [value]


def _reduce_scatter(reader: Reader, eqn: Any, values: list[Value]
                    ) -> list[Value]:
  has, (value,) = eqn.params, values
  axes = _alike(reader, value, has['axis_name'])
  if len(axes) > 1 and not has['tiled']:
    return reader.wired(eqn, values, primitives.unknown(eqn))
  for axis in axes:
    value = scattered(reader.relations, value, has['scatter_dimension'], axis,
                      tiled=has['tiled'])
  return [value._replace(number=None)]


FOLLOWED = {
    'shard_map': _shard_map, 'ppermute': _ppermute, 'axis_index': _axis_index,
    'reduce_scatter': _reduce_scatter,
    **dict.fromkeys(('all_gather', 'all_gather_invariant'), _all_gather),
    **dict.fromkeys(('psum', 'psum2', 'psum_invariant', 'pmax', 'pmin'), _psum)}
