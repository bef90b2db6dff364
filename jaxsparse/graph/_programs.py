"""Programs: parts of a function, equal if they compute the same."""

from typing import Any, Hashable, NamedTuple, Sequence

from jax.extend import core
import numpy as np

from jaxsparse.graph import _jaxprs
from jaxsparse.graph import _walk
from jaxsparse.graph import taps
from jaxsparse.graph._known import Known


class Leaf(NamedTuple):
  """A parameter, or one layer of it.

  Attributes:
    path: the path of the parameter.
    index: pairs of an axis that a scan runs over and the index of the turn,
      outermost first.
  """
  path: str
  index: tuple[tuple[int, int], ...] = ()


class Step(NamedTuple):
  """An equation; its arrays are numbers that count the function's arrays.

  Attributes:
    ins: the operands: numbers of arrays, or constants in the code.
    outs: the numbers of the results.
    jaxpr: the jaxpr that has the equation.
    eqn: the equation.
    seen: the kernels that the equation multiplies with data.
  """
  ins: tuple[Any, ...]
  outs: tuple[int, ...]
  jaxpr: Any
  eqn: Any
  seen: tuple[Leaf, ...] = ()

  def arrays(self) -> list[int]:
    return [i for i in self.ins if isinstance(i, int)]


class Program:
  """Some steps as a function.

  Two programs are equal if they do the same computation on arrays of the same
  shapes and dtypes. The comparison leaves out rules of derivatives.
  """

  def __init__(self, steps: Sequence[Step], reads: Sequence[int],
               gives: Sequence[int], tags: Sequence[Any]):
    there: dict[int, int] = {}
    for i in [*reads, *(i for step in steps for i in step.outs)]:
      there.setdefault(i, len(there))
    self._steps = [step._replace(
        ins=tuple(there[i] if isinstance(i, int) else i for i in step.ins),
        outs=tuple(there[i] for i in step.outs)) for step in steps]
    self._gives = [there[i] for i in gives]
    self._tags = tags
    self._key = (tuple(self._gives), tuple(map(str, tags)), tuple(
        (step.outs, tuple(map(_key, step.ins)), _key_of(step.eqn))
        for step in self._steps))
    self._hash = hash(self._key)

  def __hash__(self) -> int:
    return self._hash

  def __eq__(self, other: Any) -> bool:
    return isinstance(other, Program) and self._key == other._key

  def run(self, values: Sequence[Any]) -> list[Any]:
    """The results of the program."""
    known = list(values)
    for step in self._steps:
      known += _jaxprs.run_alone(
          step.jaxpr, step.eqn,
          [known[i] if isinstance(i, int) else i.val for i in step.ins])
    return [known[i] for i in self._gives]

  def tapped(self, values: Sequence[Any], tap: taps.Tap) -> taps.Sums:
    """The results of a tap, summed by the number of the leaf in the tags."""
    walk = taps.Walk(tap)
    known = [*map(Known, values, self._tags)]
    for step in self._steps:
      known += _walk.step(walk, step.jaxpr, step.eqn, [
          known[i] if isinstance(i, int) else Known(i.val) for i in step.ins])
    return walk.sums


# The parts of equations that must be equal in two programs.


def _key(i: Any) -> Hashable:
  if isinstance(i, int):
    return i
  value = np.asarray(i.val)
  return str(value.dtype), value.shape, value.tobytes()


def _key_of(eqn: Any) -> Hashable:
  name, has = eqn.primitive.name, eqn.params
  # The other params of calls are names, layouts and derivatives.
  if name in _walk.CALLS:
    return name, _key_of_setting(has[_walk.CALLS[name]])
  return eqn.primitive, tuple(
      (key, _key_of_setting(x)) for key, x in sorted(has.items()))


def _key_of_setting(x: Any) -> Hashable:
  if isinstance(x, core.ClosedJaxpr) and not isinstance(x, core.Jaxpr):
    return _key_of_setting(x.jaxpr), tuple(map(_jaxprs.Same, x.consts))
  if isinstance(x, core.Jaxpr):
    numbers: dict[Any, int] = {}

    def number(v):
      return _key(v) if isinstance(v, core.Literal) else numbers.setdefault(
          v, len(numbers))
    ends = lambda vs: tuple((number(v), str(v.aval)) for v in vs)
    return ends([*x.constvars, *x.invars]), tuple(
        (ends(eqn.invars), _key_of(eqn), ends(eqn.outvars))
        for eqn in x.eqns), ends(x.outvars)
  if type(x) in (tuple, list):
    return tuple(map(_key_of_setting, x))
  try:
    hash(x)
  except TypeError:
    return _jaxprs.Same(x)
  return x
