"""Jaxprs of functions, without dead code and prints.

All modules that walk through a function (`_walk`) share these helpers, which
hide differences between releases of JAX.
"""

from typing import Any, Callable, NamedTuple, Sequence

import jax
from jax.extend import core
from jax.interpreters import partial_eval

from jaxsparse._utils import tables
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree

_PRINTS = {'debug_print', 'debug_callback'}


def trace(f: Callable[..., Any], params: ArrayTree, *inputs: Any
          ) -> tuple[core.ClosedJaxpr, list[str]]:
  """The jaxpr of `f(params, *inputs)`, and the paths of its parameters.

  Dead code is left out, as it is when the function runs, and so are prints.

  Raises:
    ValueError: if the function cannot be traced so, or two parameters have one
      path.
  """
  closed = told(jax.make_jaxpr, f, params, *inputs)
  paths = trees.own_paths(params)
  silent = _silent(closed.jaxpr)
  alive, _ = partial_eval.dce_jaxpr(
      silent, [True] * len(silent.outvars), instantiate=True)
  return core.ClosedJaxpr(alive, closed.consts), paths


def told(transform: Callable[..., Any], f: Callable[..., Any], *args: Any
         ) -> Any:
  """`transform(f)(params, *inputs)`, with an error that names the inputs.

  Args:
    transform: the transform that traces a function, such as `jax.make_jaxpr`.
    f: the function of a user.
    *args: the params and inputs of the function.

  Raises:
    ValueError: if the function cannot be traced so.
  """
  try:
    return transform(f)(*args)
  except Exception as error:  # The function of a user may raise any error.
    name = getattr(f, '__name__', type(f).__name__)
    said = tables.one_line(error, 160).rstrip('.')
    raise ValueError(
        f'{name}(params, *inputs) cannot be traced with inputs '
        f'{_kinds(args[1:])}: {type(error).__name__}: {said}. Give '
        'the params and inputs that it takes, arrays or shapes, and a function '
        'that returns arrays; what else it needs, such as a key or '
        '`train=False`, is given by `lambda params, x: f(params, x, ...)`.'
    ) from error


def _kinds(inputs: Any) -> str:
  def told(x):
    return (f'{x.dtype}{list(x.shape)}' if hasattr(x, 'dtype') else
            type(x).__name__)
  return tables.one_line(
      ', '.join(map(told, jax.tree.leaves(inputs))) or 'none', 200)


def _silent(jaxpr: Any) -> Any:
  """A jaxpr without prints, also in jaxprs that it calls; else the argument."""
  if not isinstance(jaxpr, core.Jaxpr):
    # Newer releases of JAX have one kind of jaxprs, older ones two.
    return (core.ClosedJaxpr(_silent(jaxpr.jaxpr), jaxpr.consts)
            if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr)
  if not jaxpr.effects:
    return jaxpr
  eqns = [eqn.replace(params=jax.tree.map(_silent, eqn.params),
                      effects=_without_prints(eqn.effects))
          for eqn in jaxpr.eqns if eqn.primitive.name not in _PRINTS]
  return jaxpr.replace(eqns=eqns, effects=_without_prints(jaxpr.effects))


def _without_prints(effects: Any) -> Any:
  return {e for e in effects if 'Debug' not in type(e).__name__}


def within(settings: Any) -> list[Any]:
  """The jaxprs among the params of an equation."""
  return [x for x in jax.tree.leaves(settings)
          if isinstance(x, (core.Jaxpr, core.ClosedJaxpr))]


def run_alone(jaxpr: Any, eqn: Any, operands: Sequence[Any]) -> list[Any]:
  """The results of one equation of a jaxpr."""
  values = {v: x for v, x in zip(eqn.invars, operands)
            if not isinstance(v, core.Literal)}
  # The arguments of `Primitive.bind` differ among releases of JAX; a jaxpr with
  # one equation runs in all of them.
  alone = jaxpr.replace(
      constvars=[], invars=[*values], outvars=eqn.outvars, eqns=[eqn],
      effects=eqn.effects,
      debug_info=jaxpr.debug_info._replace(arg_names=None, result_paths=None))
  run = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))
  return list(run(*values.values()))


class Same:
  """A key that compares an object by identity, and keeps the object alive."""

  def __init__(self, x: Any):
    self.x = x

  def __eq__(self, other: Any) -> bool:
    return isinstance(other, Same) and self.x is other.x

  def __hash__(self) -> int:
    return id(self.x)


def manual_axes(eqn: Any) -> list[str]:
  """The mesh axes that a `shard_map` makes manual, in the mesh's order."""
  has = eqn.params
  new = has.get('newly_manual_axes', has.get('manual_axes'))
  return [name for name in has['mesh'].axis_names if name in new]


class ScanSizes(NamedTuple):
  """How many operands of a scan are constants, and how many are carried.

  The other operands and results are slices, one for each turn.
  """
  constants: int
  carries: int

  @classmethod
  def of(cls, eqn: Any) -> 'ScanSizes':
    """The sizes of a scan, from ranks, which every release of JAX has."""
    inner = getattr(eqn.params['jaxpr'], 'jaxpr', eqn.params['jaxpr'])

    def whole(outside, inside):
      return sum(len(a.aval.shape) == len(b.aval.shape)
                 for a, b in zip(outside, inside))
    carries = whole(eqn.outvars, inner.outvars)
    return cls(whole(eqn.invars, inner.invars) - carries, carries)
