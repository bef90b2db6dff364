"""The walk through a jaxpr that all take who read a function or run one.

`walk` keeps what an interpreter knows of each variable, and goes into calls:
`jit`, `remat`, `custom_jvp`, `custom_vjp` and the like. All else, control flow
included, the interpreter does itself: axes (`tracing`), costs (`_flops`), uses
(`operands`), and the arrays themselves (`taps`).
"""

from typing import Any, Protocol, Sequence

from jax.extend import core

# Primitives that do no more than to call a jaxpr, and where they hold it.
CALLS = {
    'jit': 'jaxpr', 'pjit': 'jaxpr', 'checkpoint': 'jaxpr', 'remat2': 'jaxpr',
    'closed_call': 'call_jaxpr', 'core_call': 'call_jaxpr',
    'custom_jvp_call': 'call_jaxpr', 'custom_vjp_call': 'call_jaxpr',
}


class Interpreter(Protocol):
  """What is known of arrays, and what equations make of it."""

  def constant(self, x: Any, aval: Any) -> Any:
    """What is known of a literal, or of an array closed over."""
    ...

  def primitive(self, jaxpr: Any, eqn: Any, values: list[Any]
                ) -> Sequence[Any]:
    """What is known of the results of an equation of a jaxpr."""
    ...


def walk(interpreter: Interpreter, closed: Any, values: Sequence[Any]
         ) -> list[Any]:
  """What is known of a jaxpr's results.

  Args:
    interpreter: of all equations that are no calls.
    closed: the jaxpr, closed over constants or not.
    values: what is known of its operands.

  >>> import jax
  >>> class Depth:
  ...   def constant(self, x, aval):
  ...     return 0
  ...   def primitive(self, jaxpr, eqn, values):
  ...     return [1 + max(values)] * len(eqn.outvars)
  >>> closed = jax.make_jaxpr(lambda x: jax.jit(lambda y: -y * 2.)(x))(1.)
  >>> walk(Depth(), closed, [0])
  [2]
  """
  jaxpr = getattr(closed, 'jaxpr', closed)
  known = dict(zip(jaxpr.invars, values))
  for v, x in zip(jaxpr.constvars, getattr(closed, 'consts', ())):
    known[v] = interpreter.constant(x, v.aval)

  def read(v):
    return (interpreter.constant(v.val, v.aval) if isinstance(v, core.Literal)
            else known[v])
  for eqn in jaxpr.eqns:
    known.update(zip(eqn.outvars, step(
        interpreter, jaxpr, eqn, [read(v) for v in eqn.invars])))
  return [read(v) for v in jaxpr.outvars]


def step(interpreter: Interpreter, jaxpr: Any, eqn: Any, values: list[Any]
         ) -> Sequence[Any]:
  """What is known of the results of an equation, which may be a call."""
  name = eqn.primitive.name
  if name in CALLS:
    return walk(interpreter, eqn.params[CALLS[name]], values)
  return interpreter.primitive(jaxpr, eqn, values)
