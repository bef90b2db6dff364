"""The walk through a jaxpr, for modules that read or run a function.

`walk` stores the facts of an interpreter about each variable, and enters calls:
`jit`, `remat`, `custom_jvp`, `custom_vjp` and the like. The interpreter handles
all other equations, control flow included. The facts are axes (`tracing`),
costs (`_flops`), uses (`operands`), or the arrays themselves (`taps`).
"""

from typing import Any, Protocol, Sequence

from jax.extend import core

# Primitives that only call a jaxpr, with the name of the param that holds it.
CALLS = {
    'jit': 'jaxpr', 'pjit': 'jaxpr', 'checkpoint': 'jaxpr', 'remat2': 'jaxpr',
    'closed_call': 'call_jaxpr', 'core_call': 'call_jaxpr',
    'custom_jvp_call': 'call_jaxpr', 'custom_vjp_call': 'call_jaxpr',
}

# Primitives whose results are their operands, each by itself.
EACH = frozenset({'device_put', 'optimization_barrier'})


class Interpreter(Protocol):
  """The facts about arrays, and how equations change them."""

  def constant(self, x: Any, aval: Any) -> Any:
    """The facts about a literal, or about a closed over array."""
    ...

  def primitive(self, jaxpr: Any, eqn: Any, values: list[Any]
                ) -> Sequence[Any]:
    """The facts about the results of an equation of a jaxpr."""
    ...


def walk(interpreter: Interpreter, closed: Any, values: Sequence[Any]
         ) -> list[Any]:
  """The facts about a jaxpr's results.

  Args:
    interpreter: the interpreter of all equations that are not calls.
    closed: the jaxpr, closed over constants or not.
    values: the facts about its operands.

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
  """The facts about the results of an equation, which may be a call."""
  name = eqn.primitive.name
  if name in CALLS:
    return walk(interpreter, eqn.params[CALLS[name]], values)
  return interpreter.primitive(jaxpr, eqn, values)
