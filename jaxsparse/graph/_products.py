"""Products of a parameter with data, in the form in which taps get them."""

import math
from typing import Any, NamedTuple, Sequence

import jax
from jax import lax

from jaxsparse.graph import _jaxprs
from jaxsparse.graph import _known
from jaxsparse.graph._known import Tag


class Product(NamedTuple):
  """A parameter's product with data.

  Attributes:
    path: the path of the parameter.
    rows: the data `[*batch, *rest, inputs]`. The parameter has the batch axes,
      too, such as that of experts. The product sums over the inputs. Both are
      in the parameter's order. For a convolution, the data as it is.
    batch: the number of batch axes.
    key: equal for products that read the same data in the same way.
    conv: for a convolution, its equation and the order of the kernel's axes.
    groups: for a ragged product, the number of rows of each expert.
  """
  path: Any
  rows: jax.Array
  batch: int = 0
  key: Any = None
  conv: Any = None
  groups: jax.Array | None = None


class Roles(NamedTuple):
  """The roles of the axes of the operand with the parameter in a product.

  Attributes:
    contracted: maps each axis that is summed over to the axis of the data that
      it is summed with, in the parameter's order.
    batch: maps each batch axis to that of the data, in the parameter's order.
    experts: for a ragged product, the axis of its groups.
    free: the axes that the result has, and the data has not.
  """
  contracted: dict[int, int]
  batch: dict[int, int]
  experts: tuple[int, ...]
  free: tuple[int, ...]


def roles(eqn: Any, i: int, tag: Tag) -> Roles | None:
  """The roles of the axes of operand `i`, or `None` if taps cannot see it."""
  has, shape = eqn.params, eqn.invars[i].aval.shape
  if eqn.primitive.name == 'conv_general_dilated':
    free = has['dimension_numbers'].rhs_spec[:1]
    if i != 1 or has['batch_group_count'] > 1 or _window(eqn, tag) is None:
      return None
    return Roles({}, {}, (), free if has['feature_group_count'] == 1 else ())
  numbers, experts = has.get('dimension_numbers'), ()
  if eqn.primitive.name == 'ragged_dot_general':
    ragged, experts = has['ragged_dot_dimension_numbers'], (0,)
    numbers = ragged.dot_dimension_numbers
    if i != 1 or list(ragged.rhs_group_dimensions) != [0] or numbers[1][0] or (
        list(ragged.lhs_ragged_dimensions) != [0]):
      return None
  found: list[dict[int, int]] = []
  for axes in numbers:
    order = _known.ordered(tag, axes[i])
    if order is None:
      return None
    there = dict(zip(axes[i], axes[1 - i]))
    found.append({k: there[k] for k in order})
  met = {*found[0], *found[1], *experts}
  return Roles(found[0], found[1], experts, tuple(
      k for k in range(len(shape)) if k not in met))


def product(eqn: Any, i: int, tag: Tag, values: Sequence[Any], roles: Roles,
            gathered: Sequence[tuple[int, tuple[str, ...]]] = ()) -> Product:
  """A product in the form in which taps get it.

  Args:
    eqn: the equation of the product.
    i: the position of the operand with the parameter.
    tag: the tag of that operand.
    values: all operands.
    roles: the roles of that operand's axes.
    gathered: the axes of the data that are split among devices, each with the
      mesh axes.
  """
  data = whole = values[1 - i]
  for axis, names in gathered:
    whole = lax.all_gather(whole, names, axis=axis, tiled=True)
  if eqn.primitive.name == 'conv_general_dilated':
    return Product(tag.path, data, conv=(eqn, _window(eqn, tag)))
  inputs, shared = [*roles.contracted.values()], [*roles.batch.values()]
  rest = [k for k in range(whole.ndim) if k not in {*inputs, *shared}]
  rows = whole.transpose(*shared, *rest, *inputs)
  at = len(shared) + len(rest)  # Data may be empty: -1 would fit any size.
  rows = rows.reshape(*rows.shape[:at], math.prod(rows.shape[at:]))
  if roles.experts:
    return Product(tag.path, rows, groups=values[2])
  return Product(tag.path, rows, len(shared), (
      _jaxprs.Same(data), tuple(inputs), tuple(shared), tuple(gathered)))


def _window(eqn: Any, tag: Tag) -> tuple[int, ...] | None:
  """The input and window axes of a convolution's kernel, in its own order."""
  order = _known.ordered(tag, eqn.params['dimension_numbers'].rhs_spec[1:])
  return None if order is None else tuple(order)


NAMES = {'dot_general', 'ragged_dot_general', 'conv_general_dilated'}
