"""Primitives that cut and join axes, each by a function of its equation."""

from typing import Any, NamedTuple

import jax

from jaxsparse.graph import _arrays
from jaxsparse.graph import primitives
from jaxsparse.graph._arrays import Reader
from jaxsparse.graph._arrays import Value


def _reshape(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  value, order = values[0], eqn.params.get('dimensions')
  if order is not None:
    value = _arrays.transposed(value, order)
  return [_arrays.reshaped(
      reader.relations, value, eqn.outvars[0].aval.shape)]


def _concatenate(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  return [_concatenated(reader, values, eqn.params['dimension'])]


def _concatenated(reader: Reader, values: list[Value], along: int) -> Value:
  if any(v.is_data for v in values):
    for source in (s for v in values for s in v.sources or ()):
      reader.note(source, 'concatenate')
  return _arrays.concatenated(reader.relations, values, along)


def _stack(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  axis = eqn.params['axis']
  return [_concatenated(reader, [_arrays.reshaped(reader.relations, v, (
      *v.shape[:axis], 1, *v.shape[axis:])) for v in values], axis)]


def _pad(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  value, by = values
  for axis, (low, high, inner) in enumerate(eqn.params['padding_config']):
    if low < 0 or high < 0 or inner:
      reader.goes_over('pad', value, axis)
      value = _arrays.blocked(reader.relations, value, axis,
                              eqn.outvars[0].aval.shape[axis], 'pad')
      continue
    ends = []
    for n in (low, high):
      shape = value.shape[:axis] + (n,) + value.shape[axis + 1:]
      ends.append(by._replace(shape=shape, axes=(None,) * len(shape),
                              zero=(by.number == 0,) * len(shape)))
    value = _concatenated(reader, [ends[0], value, ends[1]], axis)
  return [value]


def _tile(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  value, = values
  for axis, times in enumerate(eqn.params['reps']):
    value = _concatenated(reader, [value] * times, axis)
  return [value]


def _slice(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  relations, value, has = reader.relations, values[0], eqn.params
  strides = has['strides'] or (1,) * len(value.shape)
  for axis, (start, stop, stride) in enumerate(zip(
      has['start_indices'], has['limit_indices'], strides)):
    size, taken = value.shape[axis], len(range(start, stop, stride))
    reader.goes_over('slice', value, axis)
    if stride == 1:
      value = _arrays.cut(relations, value, axis, start, stop)
    elif size % stride or taken * stride != size:
      value = _arrays.blocked(relations, value, axis, taken, 'slice')
    else:  # An index of the minor one of two axes.
      head, tail = value.shape[:axis], value.shape[axis + 1:]
      value = _arrays.reshaped(
          relations, value, (*head, size // stride, stride, *tail))
      at = start % stride
      value = _arrays.cut(relations, value, axis + 1, at, at + 1)
      value = _arrays.reshaped(
          relations, value, (*head, size // stride, *tail))
  return [value]


def _split(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  axis, start, results = eqn.params['axis'], 0, []
  reader.goes_over('split', values[0], axis)
  for size in map(int, eqn.params['sizes']):
    results.append(_arrays.cut(
        reader.relations, values[0], axis, start, start + size))
    start += size
  return results


def _unstack(reader: Reader, eqn: Any, values: list[Value]) -> list[Value]:
  relations, value, axis = reader.relations, values[0], eqn.params['axis']
  shape = value.shape[:axis] + value.shape[axis + 1:]
  reader.goes_over('unstack', value, axis)
  return [_arrays.reshaped(
      relations, _arrays.cut(relations, value, axis, i, i + 1), shape)
          for i in range(value.shape[axis])]


def _dynamic_slice(reader: Reader, eqn: Any, values: list[Value]
                   ) -> list[Value]:
  value, *starts = values
  for axis, (size, start) in enumerate(zip(
      eqn.params['slice_sizes'], starts)):
    reader.goes_over('dynamic_slice', value, axis)
    room = value.shape[axis] - size
    if not room:
      continue
    if start.number is None:
      value = _arrays.blocked(
          reader.relations, value, axis, size, 'dynamic_slice')
    else:
      begin = min(max(int(start.number), 0), room)
      value = _arrays.cut(
          reader.relations, value, axis, begin, begin + size)
  return [value]


def _conv_general_dilated(reader: Reader, eqn: Any, values: list[Value]
                          ) -> list[Value]:
  wiring, groups = primitives.wiring(eqn), eqn.params['feature_group_count']
  if groups == 1 or eqn.params['batch_group_count'] > 1:
    return reader.wired(eqn, values, wiring)
  spec = eqn.params['dimension_numbers']
  places = spec.lhs_spec[1], spec.rhs_spec[0]
  # Groups become axes of their own, the first, and join the result's last.
  cut = [_arrays.moved(_arrays.reshaped(reader.relations, v, (
      *v.shape[:place], groups, v.shape[place] // groups,
      *v.shape[place + 1:])), place, 0) for v, place in zip(values, places)]
  later = lambda wires: tuple((i, axis + 1) for i, axis in wires)
  out = spec.out_spec[1]
  row = [wires if isinstance(wires, primitives.New) else later(wires)
         for wires in wiring.outputs[0]]
  grouped = wiring._replace(
      outputs=[[((0, 0), (1, 0)), *row]],
      gone=[later(wires) for wires in wiring.gone],
      fixed=later(wiring.fixed), window=later(wiring.window))
  shape = eqn.outvars[0].aval.shape
  inner = (groups, *shape[:out], shape[out] // groups, *shape[out + 1:])
  shaped = eqn.replace(outvars=[_Shaped(jax.ShapeDtypeStruct(
      inner, eqn.outvars[0].aval.dtype))])
  result, = reader.wired(shaped, cut, grouped)
  return [_arrays.reshaped(
      reader.relations, _arrays.moved(result, 0, out), shape)]


class _Shaped(NamedTuple):
  aval: Any


FOLLOWED = {
    'reshape': _reshape, 'concatenate': _concatenate, 'stack': _stack,
    'pad': _pad, 'tile': _tile, 'slice': _slice, 'split': _split,
    'unstack': _unstack, 'dynamic_slice': _dynamic_slice,
    'conv_general_dilated': _conv_general_dilated}
