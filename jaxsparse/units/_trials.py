"""Removal that is tried: the function is looked at with smaller arrays.

Nothing in a jaxpr says whether a number such as 0.125 comes from how many units
there are; with a unit less it is another number, if it does. So the function is
traced again without one unit of every tie that may be removed. If it computes
with the same numbers, and its axes are still made of the same units, all of
them may go. If not, ties are told apart by halves, and those that change
something are run without units that nothing reads.
"""

import collections
import dataclasses
from typing import Any, Callable, Mapping, NamedTuple, Sequence
import warnings

import jax
import numpy as np

from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import constants
from jaxsparse.graph import tracing
from jaxsparse.units import checking
from jaxsparse.units import removal
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Tie

Kind = tuple[Tie, ...]  # Alike: the units of all of them may go, or of none.


class _Fails(NamedTuple):
  """The function does not take smaller arrays."""
  why: str


# `None`: the same function. Text: what is another number.
_Verdict = str | None | _Fails


def tried(fn: Callable[..., Any], params: ArrayTree,
          ties: Mapping[Tie, str | None], *inputs: Any, run: bool
          ) -> tuple[Tie, ...]:
  """Finds out of which ties units may be removed.

  Args:
    fn: the function, jitted.
    params: its parameters, or their shapes.
    ties: all ties, and for each a number that may come from how many units
      there are, if there is one.
    *inputs: the other arguments.
    run: whether the function may be run.

  Returns:
    The ties, with `kept` and `untried`.
  """
  shapes = {path: tuple(np.shape(w)) for path, w in trees.align(params)}
  kinds, stuck = collections.defaultdict(list), {}
  for tie, number in ties.items():
    if why := removal.why_not(tie, shapes):
      stuck[tie] = why
    elif tie.size > 1:
      kinds[tie.shape, number].append(tie)
  trial = _Trial(fn, params, inputs, [*ties], run)
  found = {tie: verdict for kind, verdict in trial.verdicts(
      [tuple(kind) for kind in kinds.values()]).items() for tie in kind}

  def told(tie, number):
    if tie.fixed or tie.kept:
      return tie
    verdict = found.get(tie, stuck.get(tie))
    if isinstance(verdict, _Fails):
      return dataclasses.replace(tie, kept=number, untried=verdict.why)
    return tie if verdict is None else dataclasses.replace(tie, kept=verdict)
  return tuple(told(*row) for row in ties.items())


class _Trial:
  """A function, and what it computes with as it is."""

  def __init__(self, fn: Callable[..., Any], params: ArrayTree,
               inputs: tuple[Any, ...], ties: Sequence[Tie], run: bool):
    self._fn, self._inputs, self._run = fn, inputs, run
    self._params, self._ties = params, ties
    self._shapes = jax.eval_shape(lambda: params) if run else params
    self._before = constants.numbers(fn, self._shapes, *inputs)

  def verdicts(self, kinds: Sequence[Kind]) -> dict[Kind, _Verdict]:
    """What becomes of the function without units of each kind."""
    found = self._halved(kinds, 1)
    for kind, verdict in found.items():
      size, = {tie.size for tie in kind}
      gone = 1
      if isinstance(verdict, _Fails) and size > 3:
        # Groups of channels, say, that are so many whatever there is in them.
        other, gone = self._traced([kind], size // 2), size // 2
        if not isinstance(other, _Fails) and self._run:
          verdict = self._compared(kind, gone, other or (
              'what it computes with half of them'))
        elif isinstance(other, str):
          verdict = other
      elif isinstance(verdict, str) and self._run:
        verdict = self._compared(kind, gone, verdict)
      found[kind] = verdict
    return found

  def _halved(self, kinds: Sequence[Kind], gone: int) -> dict[Kind, _Verdict]:
    """The verdict on each kind; together, as long as nothing is found."""
    verdict = self._traced(kinds, gone) if kinds else None
    if verdict is None or len(kinds) == 1:
      return dict.fromkeys(kinds, verdict)
    half = len(kinds) // 2
    return (self._halved(kinds[:half], gone)
            | self._halved(kinds[half:], gone))

  def _traced(self, kinds: Sequence[Kind], gone: int) -> _Verdict:
    """How the function's numbers change without the first units."""
    ties = [tie for kind in kinds for tie in kind]
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        smaller = jax.eval_shape(
            lambda params: _without(params, ties, gone), self._shapes)
        after = constants.numbers(self._fn, smaller, *self._inputs)
        units = tracing.read(self._fn, smaller, *self._inputs).sizes()
    # What is left is not rectangular, or whatever a function says of sizes that
    # it was not made for.
    except Exception as error:
      return _Fails(type(error).__name__)
    if changed := constants.changed(self._before, after):
      return changed
    expected = collections.Counter(
        (m.path, m.axis, tie.size - gone * (tie in ties))
        for tie in self._ties for m in tie.members)
    # A head of 2 that is reshaped to heads of 3 runs, with fewer heads.
    missed = (units - expected) + (expected - units)
    return 'sizes of its own' if any(n > 1 for _, _, n in missed) else None

  def _compared(self, kind: Kind, gone: int, changed: str) -> _Verdict:
    """Whether the outputs are others, too, without units that nothing reads."""
    rng = np.random.default_rng(0)
    # Far from where all logits are alike, so that their scale matters.
    moved = jax.tree.map(
        lambda w: checking.nearby(w, rng, by=3.), self._params)
    unread = _unread(moved, kind, gone)
    precision = constants.precision(self._fn, self._shapes, *self._inputs)
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        before, after = (checking.outputs(self._fn, p, *self._inputs) for p in (
            unread, _without(unread, kind, gone)))
    except Exception as error:  # As above.
      return _Fails(type(error).__name__)
    same = (precision < 1e-5 and all(np.isfinite(x).all() for x in before)
            and checking.distance(before, after) <= 100 * precision)
    return None if same else changed


def _without(params: ArrayTree, ties: Sequence[Tie], gone: int) -> ArrayTree:
  """Parameters without the first units of some ties."""
  keep = {tie.name: np.broadcast_to(np.arange(tie.size) >= gone, tie.shape)
          for tie in ties}
  return removal.slim(params, ties, keep)


def _unread(params: ArrayTree, ties: Sequence[Tie], gone: int) -> ArrayTree:
  """Parameters of which nothing reads the first units of some ties."""
  arrays = {path: np.array(w) for path, w in trees.align(params)
            if any(path == m.path for tie in ties for m in tie.members)}
  for tie in ties:
    readers = [m for m in tie.members if m.role == 'reads']
    for member in tie.members if tie.read or not readers else readers:
      there = ties_lib.view(tie, member, arrays[member.path])
      there[(slice(None),) * len(tie.along) + (slice(gone),)] = 0
  return trees.map_with_path(lambda path, w: arrays.get(path, w), params)
