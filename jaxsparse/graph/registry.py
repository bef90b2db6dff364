"""`register_primitive`: the wirings of primitives that are not JAX's."""

from typing import Any, Callable

import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils.tables import brief
from jaxsparse.graph import _walk
from jaxsparse.graph import primitives
from jaxsparse.graph.primitives import New
from jaxsparse.graph.primitives import Wiring

_registered: dict[str, Callable[[Any], Wiring]] = {}


@arguments.checked(wiring=arguments.function(
    'a function from an equation to its Wiring', 'lambda eqn: Wiring(...)'))
def register_primitive(name: str, wiring: Callable[[Any], Wiring]) -> None:
  """Declares the effect of your own primitive on axes.

  After this call, ties, kernels and the like are traced through the primitive;
  otherwise all of its axes count as fixed. A wiring must hold for any order of
  indices: permuting an axis of an operand must permute the matching axis of the
  result in the same way. `infer_ties` checks this on the function that it
  reads, and raises an error if it does not hold.

  Args:
    name: the primitive's name, `primitive.name`. A second call with the same
      name replaces the first.
    wiring: a function from the equation, a `jax.extend.core.JaxprEqn`, to its
      `Wiring`. `eqn.invars[i].aval.shape` are the shapes of operands, and
      `eqn.params` the parameters of the equation, which identify a
      `pallas_call` or an `ffi_call`.

  Raises:
    ValueError: if the name belongs to a primitive of JAX with a known wiring.

  >>> def softmax_of_mine(eqn):
  ...   rank = len(eqn.invars[0].aval.shape)
  ...   return Wiring([[((0, axis),) for axis in range(rank)]])
  >>> register_primitive('softmax_of_mine', softmax_of_mine)
  """
  if (primitives.is_known(name) or name in primitives.FOLLOWED_ELSEWHERE
      or name in _walk.CALLS):
    raise ValueError(
        f'register_primitive needs a new name, got {name!r}, a primitive of '
        'JAX with a known wiring. Give your own primitive another name.')
  _registered[name] = wiring


def wiring(eqn: Any) -> Wiring:
  """The wiring of an equation, by JAX's primitives or by what is registered."""
  name = eqn.primitive.name
  if name not in _registered:
    return primitives.wiring(eqn)
  found = _registered[name](eqn)
  _check(name, eqn, found)
  return found


def _check(name: str, eqn: Any, found: Wiring) -> None:
  """Raises if a wiring of a user's is not one of this equation."""
  def wrong(what):
    return ValueError(
        f'The wiring registered for {name!r} {what}. The operands have the '
        f'shapes {operands}, the results {results}.')
  operands, results = ([tuple(np.shape(v.aval)) for v in some]
                       for some in (eqn.invars, eqn.outvars))
  if not isinstance(found, Wiring):
    raise wrong(f'is {brief(found)}, expected a jaxsparse.graph.Wiring')
  if [len(row) for row in found.outputs] != [*map(len, results)]:
    raise wrong(
        f'has {[len(row) for row in found.outputs]} axes of results, expected '
        f'{[*map(len, results)]}: `outputs` has a row for each result, and in '
        'it a tuple of axes, or New, for each axis')
  places = [(wire, n) for row, shape in zip(found.outputs, results)
            for wires, n in zip(row, shape) if not isinstance(wires, New)
            for wire in wires]
  places += [(wire, None) for wires in (*found.gone, found.fixed)
             for wire in wires]
  for (i, axis), n in places:
    if i >= len(operands) or axis >= len(operands[i]):
      raise wrong(f'names axis {axis} of operand {i}, which does not exist')
    if n is not None and operands[i][axis] != n:
      raise wrong(f'maps axis {axis} of operand {i}, of size '
                  f'{operands[i][axis]}, to an axis of size {n}')
