"""The constants in a function, and the precision of its dtypes.

A constant such as 0.125 may depend on the number of units, `64 ** -0.5`, and
then changes with fewer units. So a function is traced twice, with arrays of two
sizes, and its constants are compared.
"""

from typing import Any, Iterator, NamedTuple

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _arrays
from jaxsparse.graph import _jaxprs


class Used(NamedTuple):
  """A primitive, and a constant among its operands.

  Attributes:
    name: the name of the primitive.
    number: a scalar, or what tells one array from another.
  """
  name: str
  number: Any

  def __str__(self) -> str:
    told = isinstance(self.number, (int, float))
    return f'{self.name} by {self.number:.3g}' if told else self.name


class _Array:
  """An array that is equal to itself, and to one of the same bytes.

  Arrays that a function closes over are the same ones in each trace. Those that
  NumPy makes within it are made again.
  """

  def __init__(self, x: Any):
    self._x = x

  def __eq__(self, other: Any) -> bool:
    if not isinstance(other, _Array):
      return False
    a, b = self._x, other._x
    return a is b or _is_plain(a) and _is_plain(b) and (
        a.shape == b.shape and a.dtype == b.dtype
        and np.asarray(a).tobytes() == np.asarray(b).tobytes())

  __hash__ = None


def _is_plain(x: Any) -> bool:
  """Whether it is an array of numbers: no keys, and none of another library."""
  return isinstance(x, (np.ndarray, jax.Array)) and not (
      jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended))


class Numbers(NamedTuple):
  """All numbers of a function, in order, and the shapes of its outputs."""
  used: tuple[Used, ...]
  outputs: tuple[tuple[int, ...], ...]


def numbers(closed: core.ClosedJaxpr) -> Numbers:
  """What a function computes with."""
  return Numbers(tuple(_used(closed)),
                 tuple(tuple(x.shape) for x in closed.out_avals))


def changed(before: Numbers, after: Numbers) -> str | None:
  """How the numbers of a function with fewer units are others, or `None`.

  >>> few, many = (numbers(jax.make_jaxpr(jnp.mean)(np.ones(n)))
  ...              for n in (4, 8))
  >>> changed(many, few), changed(many, many)
  ('div by 8, which becomes 4', None)
  """
  if before.outputs != after.outputs:
    return 'outputs of other shapes'
  for old, new in zip(before.used, after.used):
    if old != new:
      became = str(new).removeprefix(f'{old.name} by ')
      return (f'{old}, which becomes {became}' if str(old) != old.name
              else f'{old} with another constant')
  return ('what it computes' if len(before.used) != len(after.used) else None)


def precision(closed: core.ClosedJaxpr, params: ArrayTree) -> float:
  """The precision of the narrowest floats that a function computes with."""
  types = {v.aval.dtype for jaxpr in _all(closed) for eqn in jaxpr.eqns
           for v in eqn.outvars if hasattr(v.aval, 'dtype')}
  types |= {jnp.result_type(w) for w in jax.tree.leaves(params)}
  return max([float(jnp.finfo(dtype).eps) for dtype in types
              if jnp.issubdtype(dtype, jnp.floating)], default=0.)


def _all(closed: Any) -> Iterator[core.Jaxpr]:
  """A jaxpr and all that it calls."""
  jaxpr = getattr(closed, 'jaxpr', closed)
  yield jaxpr
  for eqn in jaxpr.eqns:
    for inner in _jaxprs.within(eqn.params):
      yield from _all(inner)


def _used(closed: Any) -> Iterator[Used]:
  jaxpr = getattr(closed, 'jaxpr', closed)
  consts = dict(zip(jaxpr.constvars, getattr(closed, 'consts', ())))
  for eqn in jaxpr.eqns:
    for v in eqn.invars:
      if isinstance(v, core.Literal):
        number = np.asarray(v.val).item()
        # NaN, which is not equal to itself, fills what is out of bounds.
        yield Used(eqn.primitive.name, number if number == number else 'nan')
      elif v in consts:
        yield Used(eqn.primitive.name, _told(consts[v]))
    yield Used(eqn.primitive.name, eqn.params.get('y'))  # Of `integer_pow`.
    for inner in _jaxprs.within(eqn.params):
      yield from _used(inner)


def _told(x: Any) -> Any:
  """What tells a constant from others: its one number, if it has but one."""
  number = _arrays.constant(x).number
  return number if number is not None and number == number else _Array(x)
