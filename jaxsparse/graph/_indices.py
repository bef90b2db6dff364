"""Indices of units that a function computes, such as the experts of a token.

`top_k` and `argmax` return the indices of the largest units. If units are
permuted, these indices change with them. The change does no harm as long as the
indices only serve to find the same units again: in a comparison with
`arange(n)`, which makes one row of a one-hot matrix for each unit, or in a
lookup of slices of a parameter. Any other use of the indices fixes the units.
"""

import operator
from typing import Any

from jaxsparse.graph import _arrays
from jaxsparse.graph import axes as axes_lib
from jaxsparse.graph import primitives
from jaxsparse.graph._arrays import Named
from jaxsparse.graph._arrays import Reader
from jaxsparse.graph._arrays import Value
from jaxsparse.graph.primitives import Wiring

# These primitives return the elements of their first operand, rearranged.
_PASS = {'reshape', 'slice', 'split', 'unstack', 'squeeze', 'transpose',
         'broadcast_in_dim', 'convert_element_type', 'copy', 'copy_p', 'name',
         'stop_gradient', 'sharding_constraint', 'reduce_precision', 'pvary',
         'reshard'}


def equation(reader: Reader, eqn: Any, values: list[Value], wiring: Wiring
             ) -> list[Value]:
  """The results of an equation, some of which may be indices of units."""
  name = eqn.primitive.name
  if name in ('top_k', 'argmax', 'argmin'):
    lose(values, name)
    results = reader.plain(eqn, values, wiring)
    axis = values[0].axes[wiring.gone[0][0][1]]
    last = results[-1]._replace(zero=(False,) * len(results[-1].shape))
    return [*results[:-1],
            last if axis is None else last._replace(named=Named(axis))]
  if name == 'iota':
    result, = reader.plain(eqn, values, wiring)
    return [result._replace(counts=eqn.params['dimension'])]
  if name in _PASS and values[0].named is not None:
    return [r._replace(named=values[0].named)
            for r in reader.plain(eqn, values, wiring)]
  if name in _PASS and values[0].counts is not None:
    return _counting(reader, eqn, values, wiring)
  if all(v.named is None for v in values):
    return reader.plain(eqn, values, wiring)
  found = _FOLLOWED.get(name, lambda *_: None)(reader, eqn, values, wiring)
  if found is None:
    lose(values, name)
    found = reader.plain(eqn, values, wiring)
  return found


def lose(values: list[Value], why: str) -> None:
  """Fixes units, because the arrays of their indices are not followed."""
  for value in values:
    if value.named is not None:
      axes_lib.fix(value.named.axis, why)


def _counting(reader: Reader, eqn: Any, values: list[Value], wiring: Wiring
              ) -> list[Value]:
  """Moves the mark `counts` to the position of its axis in the result."""
  result, = results = reader.plain(eqn, values, wiring)
  if len(results) > 1 or len(wiring.outputs) != 1:
    return results
  to = [k for k, wires in enumerate(wiring.outputs[0])
        if not isinstance(wires, primitives.New)
        and (0, values[0].counts) in wires]
  return [result._replace(counts=to[0] if len(to) == 1 else None)]


def _compared(reader: Reader, eqn: Any, values: list[Value], wiring: Wiring
              ) -> list[Value] | None:
  """`index == arange(n)`: a one-hot matrix with a column for each unit."""
  for i, (value, other) in enumerate(zip(values, values[::-1])):
    named, k = value.named, other.counts
    if (named is None or not named.exact or k is None
        or other.named is not None or other.shape[k] != named.axis.size):
      continue
    columns = other._replace(axes=(
        *other.axes[:k], named.axis, *other.axes[k + 1:]), counts=None)
    operands = [value, columns] if i == 0 else [columns, value]
    return reader.plain(eqn, operands, wiring)
  return None


def _looked_up(reader: Reader, eqn: Any, values: list[Value], wiring: Wiring
               ) -> list[Value] | None:
  """`w[index]`: the slices of a parameter that belong to units."""
  has, (operand, indices) = eqn.params['dimension_numbers'], values
  where = tuple(has.start_index_map)
  if (indices.named is None or not indices.named.exact
      or operand.named is not None or len(where) != 1
      or tuple(has.collapsed_slice_dims) != where
      or operand.shape[where[0]] != indices.named.axis.size):
    return None
  units = _arrays.same(
      reader.relations, [indices.named.axis, operand.axes[where[0]]])
  if units is not None:
    axes_lib.keep(units, 'gather over it')
  return reader.plain(eqn, values, wiring._replace(
      fixed=[wire for wire in wiring.fixed if wire != (0, where[0])]))


def _bounded(reader: Reader, eqn: Any, values: list[Value], wiring: Wiring
             ) -> list[Value] | None:
  """`index < 0` or `index <= n - 1`, the bounds checks of indexing."""
  value, other = values
  if value.named is None or not value.named.exact or other.number is None:
    return None
  compare = {'lt': operator.lt, 'le': operator.le, 'gt': operator.gt,
             'ge': operator.ge}[eqn.primitive.name]
  answers = {compare(i, other.number)
             for i in (0, value.named.axis.size - 1)}
  if len(answers) > 1:
    return None
  result, = reader.plain(eqn, values, wiring)
  return [result._replace(number=float(answers.pop()))]


def _shifted(reader: Reader, eqn: Any, values: list[Value], wiring: Wiring
             ) -> list[Value] | None:
  """`index + n`, for negative indices; the sum itself is not an index."""
  value, other = values
  if value.named is None or other.number is None or other.named is not None:
    return None
  result, = reader.plain(eqn, values, wiring)
  return [result._replace(named=Named(value.named.axis, exact=False))]


def _chosen(reader: Reader, eqn: Any, values: list[Value], wiring: Wiring
            ) -> list[Value] | None:
  """The array that `select_n` chooses, if its condition is known."""
  del reader, eqn, wiring
  number = values[0].number
  return None if number is None else [values[1 + int(number)]]


_FOLLOWED = {'eq': _compared, 'gather': _looked_up, 'add': _shifted,
             'select_n': _chosen,
             **dict.fromkeys(('lt', 'le', 'gt', 'ge'), _bounded)}
