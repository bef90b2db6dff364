"""Primitives that are not JAX's: what their owners say of their axes."""

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
  """Tells what a primitive of your own does with axes.

  Ties, kernels and whatever else is read of a function follow axes through it
  from then on; without it each of its axes counts as fixed. A wiring is about
  axes alone: entries at one index of an axis must go where that index goes,
  whatever order indices have. `infer_ties` tries this out on the function that
  it reads, and raises where it is not so.

  Args:
    name: the primitive's name, `primitive.name`. A second call for one name
      replaces the first.
    wiring: from the equation, a `jax.extend.core.JaxprEqn`, to its `Wiring`:
      `eqn.invars[i].aval.shape` are shapes of operands, `eqn.params` settings.
      A `pallas_call` or an `ffi_call` is known by these, not by its name.

  Raises:
    ValueError: if JAX's primitive of this name is known already.

  >>> def softmax_of_mine(eqn):
  ...   rank = len(eqn.invars[0].aval.shape)
  ...   return Wiring([[((0, axis),) for axis in range(rank)]])
  >>> register_primitive('softmax_of_mine', softmax_of_mine)
  """
  if (primitives.is_known(name) or name in primitives.FOLLOWED_ELSEWHERE
      or name in _walk.CALLS):
    raise ValueError(
        f'The primitive {name!r} of JAX is known already, and followed. Give '
        'your own primitive another name.')
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
        f'The wiring that was registered for {name!r} {what}. Its operands '
        f'have the shapes {operands}, its results {results}.')
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
      raise wrong(f'names axis {axis} of operand {i}, which is not there')
    if n is not None and operands[i][axis] != n:
      raise wrong(f'says that an axis of {operands[i][axis]}, axis {axis} of '
                  f'operand {i}, becomes one of {n}')
