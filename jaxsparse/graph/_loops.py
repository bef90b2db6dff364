"""Control flow during a walk that computes: loops carry the sums of taps."""

import functools
from typing import Any, Callable, Protocol, Sequence

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import numerics
from jaxsparse.graph import _jaxprs
from jaxsparse.graph import _known
from jaxsparse.graph import _walk
from jaxsparse.graph._known import Constant
from jaxsparse.graph._known import DATA
from jaxsparse.graph._known import Known
from jaxsparse.graph._known import Over
from jaxsparse.graph._known import Tag


class Walk(_walk.Interpreter, Protocol):
  """The part of the walk of `taps` that control flow needs.

  Attributes:
    found: the sums of the results of the tap.
    join: a function that joins two arrays that the tap returned.
    checked: the mesh axes over which types of arrays say that they vary.
  """
  found: dict[Any, Any]
  join: Any
  checked: frozenset[str]

  def add(self, found: dict[Any, Any]) -> None:
    """Adds results of the tap from a loop or a branch."""
    ...

  def inner(self) -> 'Walk':
    """A walk like this one, with no results yet."""
    ...


class _Inner:
  """A jaxpr as a function of its values to results and sums of taps."""

  def __init__(self, walk: Walk, closed: Any, given: Sequence[Known]):
    self.over = []
    self._walk, self._closed, self._given = walk, closed, given

  def __call__(self, values: Sequence[Any]) -> tuple[list[Any], dict[Any, Any]]:
    own = self._walk.inner()
    results = _walk.walk(own, self._closed, [
        known._replace(value=x) for known, x in zip(self._given, values)])
    self.over = [known.over for known in results]
    return [known.value for known in results], varied(self._walk, own.found)


def varied(walk: Walk, tree: Any) -> Any:
  """Arrays whose types say that they may differ among devices."""
  return jax.tree.map(lambda x: numerics.vary(x, walk.checked), tree)


def _zeros(walk: Walk, tree: Any) -> Any:
  return varied(walk, jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), tree))


def _settled(walk: Walk, closed: Any, given: list[Known], carries: slice,
             look: Callable[[_Inner], Any]) -> tuple[_Inner, Any]:
  """The body of a loop, with facts about its carry that hold in all turns.

  Args:
    walk: the walk.
    closed: the body.
    given: the operands of the body.
    carries: the operands that are carried.
    look: a function of the body whose result is wanted as shapes.

  Returns:
    The body, and the shapes of `look(body)`.
  """
  given = [*given]
  # A carried array may have met data in an earlier turn.
  given[carries] = [Known(None, DATA, over=known.over)
                    for known in given[carries]]
  while True:
    inner = _Inner(walk, closed, given)
    shapes = jax.eval_shape(lambda inner=inner: look(inner))
    carried = [known._replace(over=_known.joined([known.over, over]))
               for known, over in zip(given[carries], inner.over)]
    if carried == given[carries]:
      return inner, shapes
    given[carries] = carried


def _scan(walk: Walk, eqn: Any, given: list[Known]) -> list[Known]:
  has, sizes = eqn.params, _jaxprs.ScanSizes.of(eqn)
  start, end = sizes.constants, sizes.constants + sizes.carries
  values = [known.value for known in given]
  slices = [_slice(known) for known in given[end:]]
  # Results of taps for slices have one loop more around than other results.
  loops = {known.tag.path: len(known.tag.layers) for known in slices
           if isinstance(known.tag, Tag)}
  apart = lambda key: key.path in loops and len(key.layers) >= loops[key.path]
  settings = {name: has[name] for name in ('length', 'reverse', 'unroll')}

  def turns(inner):
    def turn(_, xs):
      return None, inner([*values[:end], *xs])[1]
    return lax.scan(turn, None, values[end:], **settings)[1]
  inner, shapes = _settled(
      walk, has['jaxpr'], [*given[:end], *slices], slice(start, end), turns)

  def step(carry, xs):
    carry, sums = carry
    results, found = inner([*values[:start], *carry, *xs])
    each = {key: found.pop(key) for key in [*found] if apart(key)}
    sums = jax.tree.map(walk.join, sums, found)
    return (results[:sizes.carries], sums), (results[sizes.carries:], each)
  none = _zeros(walk, jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
      {key: x for key, x in shapes.items() if not apart(key)}))
  (carry, sums), (ys, each) = lax.scan(
      step, (values[start:end], none), values[end:], **settings)
  walk.add({**sums, **{key.stacked(): x for key, x in each.items()}})
  return [Known(x, DATA, over=over)
          for x, over in zip([*carry, *ys], inner.over)]


def _slice(known: Known) -> Known:
  """The slice of an array in one turn; without a tag if devices split turns."""
  tag = known.tag
  if isinstance(tag, Constant):
    return known._replace(tag=tag.slice)
  if not isinstance(tag, Tag):
    return known
  turns = {key[0] for key in tag.keys[0]}
  if turns & {axis for axis, _ in tag.split}:
    return known._replace(tag=None, of=_known.untold([known]))
  return known._replace(tag=tag._replace(
      keys=tag.keys[1:], layers=(*tag.layers, tag.keys[0])))


def _while(walk: Walk, eqn: Any, given: list[Known]) -> list[Known]:
  has = eqn.params
  tests, bodies = has['cond_nconsts'], has['body_nconsts']
  start = tests + bodies
  values = [known.value for known in given]
  constants, carry = values[tests:start], values[start:]
  body, shapes = _settled(
      walk, has['body_jaxpr'], given[tests:], slice(bodies, None),
      lambda inner: inner([*constants, *carry])[1])
  test = _Inner(walk, has['cond_jaxpr'], [
      known._replace(tag=None) for known in (*given[:tests], *given[start:])])

  def turn(state):
    carry, sums = state
    carry, found = body([*constants, *carry])
    return carry, jax.tree.map(walk.join, sums, found)
  results, sums = lax.while_loop(
      lambda state: test([*values[:tests], *state[0]])[0][0], turn,
      (carry, _zeros(walk, shapes)))
  walk.add(sums)
  return _decided(results, body.over, test.over)


def _decided(results: Sequence[Any], overs: Sequence[Over],
             deciding: Sequence[Over]) -> list[Known]:
  """The results of a loop or branch that may run differently among devices.

  Args:
    results: the results.
    overs: the mesh axes along which they differ anyway.
    deciding: the same for the values that decide what runs.
  """
  other = Over(unsure=_known.joined(deciding).any)
  return [Known(x, DATA, over=_known.joined([over, other]))
          for x, over in zip(results, overs)]


def _cond(walk: Walk, eqn: Any, given: list[Known]) -> list[Known]:
  index, *values = [known.value for known in given]
  branches = [_Inner(walk, branch, given[1:])
              for branch in eqn.params['branches']]
  every = {}
  for branch in branches:
    every |= jax.eval_shape(lambda branch=branch: branch(values)[1])

  def whole(branch, xs):
    results, sums = branch(xs)
    return results, _zeros(walk, every) | sums
  results, sums = lax.switch(
      index, [functools.partial(whole, b) for b in branches], values)
  walk.add(sums)
  overs = zip(*(branch.over for branch in branches))
  return _decided(results, [*map(_known.joined, overs)], [given[0].over])


CONTROL = {'scan': _scan, 'while': _while, 'cond': _cond}
