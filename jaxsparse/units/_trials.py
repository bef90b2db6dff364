"""Trials of removal: the function is traced with smaller arrays.

A jaxpr does not say whether a number such as 0.125 depends on the number of
units. If it does, it changes with one unit less. So the function is traced
again without one unit of every tie that may be removed. If it computes with the
same numbers, and its axes still consist of the same units, units of all these
ties may be removed. Otherwise the ties are bisected, and for ties that change a
number the function is run without units that nothing reads.
"""

import collections
import dataclasses
import functools
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Sequence
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import tables
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import constants
from jaxsparse.graph import tracing
from jaxsparse.units import checking
from jaxsparse.units import removal
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

Kind = tuple[Tie, ...]  # Alike: the units of all of them may go, or of none.


class _Fails(NamedTuple):
  """The function does not take smaller arrays."""
  why: str


# `None`: the same function. Text: what is another number.
_Verdict = str | None | _Fails


def tried(ties: Mapping[Tie, str | None], trial: 'Trial') -> tuple[Tie, ...]:
  """Finds out of which ties units may be removed.

  Args:
    ties: all ties, and for each a number that may come from how many units
      there are, if there is one.
    trial: of their function.

  Returns:
    The ties, with `kept` and `untried`.
  """
  kinds, stuck = collections.defaultdict(list), {}
  for tie, number in ties.items():
    if why := removal.why_not(tie, trial.shapes):
      stuck[tie] = why
    elif tie.size > 1:
      kinds[tie.shape, number].append(tie)
  found = {}
  # A number is a reason to look at a kind by itself.
  for some in ([key for key in kinds if key[1] is None],
               *([key] for key in kinds if key[1] is not None)):
    verdicts = trial.verdicts([tuple(kinds[key]) for key in some])
    found |= {tie: v for kind, v in verdicts.items() for tie in kind}

  def told(tie, number):
    if tie.fixed or tie.kept:
      return tie
    verdict = found.get(tie, stuck.get(tie))
    if isinstance(verdict, _Fails):
      why = trial.uncut.get(tie, verdict.why)
      return dataclasses.replace(tie, kept=number, untried=why)
    return tie if verdict is None else dataclasses.replace(tie, kept=verdict)
  return tuple(told(*row) for row in ties.items())


class Trial:
  """A function, which is tried without units of some ties.

  Attributes:
    shapes: of its parameters, by path.
  """

  def __init__(self, fn: Callable[..., Any], params: ArrayTree,
               inputs: tuple[Any, ...], ties: Ties,
               traced: tuple[Any, list[str]],
               run: Callable[..., Any] | None):
    """Of a function, what `tracing.trace` said of it, and it jitted, to run."""
    self._fn, self._params, self._inputs = fn, params, inputs
    self._ties, self._run = ties, run
    self._read = traced
    self._before = constants.numbers(traced[0])
    self._precision = constants.precision(traced[0], params)
    self.shapes = {path: tuple(shape) for path, shape in ties.shapes.items()}

  @functools.cached_property
  def uncut(self) -> dict[Tie, str]:
    """Ties whose units index an axis of an array that is no parameter."""
    read = tracing.read_jaxpr(*self._read, opened=True)
    arrays = {place.leaf: read.shapes[path] for path, place in read.places()
              if path.startswith(tracing.CLOSED_OVER)}
    found = {(path, place.axis, place.starts[place.axis], place.stride,
              place.leaf.size): arrays[place.leaf]
             for path, place in read.places() if place.leaf in arrays}
    whys = {}
    for tie in self._ties:
      for m in tie.members:
        shape = found.get((m.path, m.axis, m.start, m.stride, tie.size))
        if shape is not None:
          whys[tie] = (
              f'an array of shape {tuple(shape)} that is closed over has an '
              'axis of these units and would have to be cut, too: make it a '
              'parameter')
    return whys

  def verdicts(self, kinds: Sequence[Kind]) -> dict[Kind, _Verdict]:
    """What becomes of the function without units of each kind."""
    found = self._halved(kinds)
    for kind, verdict in found.items():
      size, = {tie.size for tie in kind}
      gone = 1
      if isinstance(verdict, _Fails) and size > 3:
        # Groups of channels, say, that are so many whatever there is in them.
        other, gone = self._traced([kind], size // 2), size // 2
        if not isinstance(other, _Fails) and self._run:
          verdict = self._compared(self._run, kind, gone, other or (
              'what it computes with half of them'))
        elif isinstance(other, str):
          verdict = other
      elif isinstance(verdict, str) and self._run:
        verdict = self._compared(self._run, kind, gone, verdict)
      found[kind] = verdict
    return found

  def _halved(self, kinds: Sequence[Kind]) -> dict[Kind, _Verdict]:
    """The verdict on each kind; together, as long as nothing is found."""
    verdict = self._traced(kinds, 1) if kinds else None
    if len(kinds) == 1:
      kind, = kinds
      # Of one size by accident, if the first is another case.
      if verdict is None or len(kind) == 1 or self._traced([kind[:1]], 1):
        return {kind: verdict}
      kinds = kind[:1], kind[1:]
    elif verdict is None:
      return dict.fromkeys(kinds, verdict)
    half = len(kinds) // 2
    return self._halved(kinds[:half]) | self._halved(kinds[half:])

  def _traced(self, kinds: Sequence[Kind], gone: int) -> _Verdict:
    """How the function's numbers change without the first units."""
    ties = {tie for kind in kinds for tie in kind}
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = tracing.trace(
            self._fn, self._smaller(ties, gone), *self._inputs)
    # What is left is not rectangular, or whatever a function says of sizes that
    # it was not made for.
    except Exception as error:
      return _Fails(_said(error.__cause__ or error))
    if changed := constants.changed(
        self._before, constants.numbers(traced[0])):
      return changed
    units = tracing.read_jaxpr(*traced).sizes()
    expected = collections.Counter(
        (m.path, m.axis, size) for tie in self._ties
        for size in [tie.size - gone * (tie in ties)] for m in tie.members)
    # A head of 2 that is reshaped to heads of 3 runs, with fewer heads.
    missed = (units - expected) + (expected - units)
    return 'sizes of its own' if any(n > 1 for _, _, n in missed) else None

  def _smaller(self, ties: Iterable[Tie], gone: int) -> ArrayTree:
    """The shapes of parameters without the first units of ties."""
    plan = removal.plan(self._ties, _keep(ties, gone))
    return trees.map_with_path(lambda path, w: jax.ShapeDtypeStruct(
        plan.shape(path, self.shapes[path]), jnp.result_type(w)), self._params)

  def _compared(self, run: Callable[..., Any], kind: Kind, gone: int,
                changed: str) -> _Verdict:
    """Whether the outputs are others, too, without units that nothing reads."""
    rng = np.random.default_rng(0)
    # Far from where all logits are alike, so that their scale matters.
    moved = jax.tree.map(
        lambda w: checking.nearby(w, rng, by=3.), self._params)
    unread = _unread(moved, kind, gone)
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        smaller = removal.slim(unread, self._ties, _keep(kind, gone))
        before, after = (checking.outputs(run, p, *self._inputs)
                         for p in (unread, smaller))
    except Exception as error:  # As above.
      return _Fails(_said(error))
    same = (self._precision < 1e-5
            and all(np.isfinite(x).all() for x in before)
            and checking.distance(before, after) <= 100 * self._precision)
    return None if same else changed


def _said(error: BaseException) -> str:
  """What an error says first, for the table of ties."""
  return f'{type(error).__name__}: {tables.one_line(error, 72)}'


def _keep(ties: Iterable[Tie], gone: int) -> dict[str, np.ndarray]:
  """All but the first units of some ties, as `slim` takes it."""
  return {tie.name: np.broadcast_to(np.arange(tie.size) >= gone, tie.shape)
          for tie in ties}


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
