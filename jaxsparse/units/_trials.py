"""Trials of removal: the function is traced with smaller arrays.

A jaxpr does not say whether a number such as 0.125 depends on the number of
units. If it does, it changes with one unit less, or with half of them. So the
function is traced again without one unit of every tie that may be removed, and
then without half of them. If it computes with the same numbers, sums over as
many indices that are no units, and its axes still consist of the same units,
units of all these ties may be removed. Otherwise the ties are bisected, and for
ties that change a number the function is run without units that nothing reads.
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
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

Kind = tuple[Tie, ...]  # Alike: the units of all of them may go, or of none.


class _Fails(NamedTuple):
  """The function does not take smaller arrays."""
  why: str


# `None`: the same function. Text: what is another number.
_Verdict = str | None | _Fails

# How many of a number of units are removed.
_Gone = Callable[[int], int]
_one: _Gone = lambda size: 1
_half: _Gone = lambda size: size // 2


def tried(ties: Mapping[Tie, str | None], trial: 'Trial') -> tuple[Tie, ...]:
  """Finds out of which ties units may be removed.

  Args:
    ties: all ties, and for each a number that may come from how many units
      there are, if there is one.
    trial: the trial of their function.

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
    verdicts = trial.verdicts(
        [tuple(kinds[key]) for key in some], some[0][1] if some else None)
    found |= {tie: v for kind, v in verdicts.items() for tie in kind}
  found |= trial.crowds([tie for tie, verdict in found.items()
                         if verdict is None])

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
    shapes: the shapes of its parameters, by path.
  """

  def __init__(self, fn: Callable[..., Any], params: ArrayTree,
               inputs: tuple[Any, ...], ties: Ties,
               traced: tuple[Any, list[str]], read: tracing.Reading,
               run: Callable[..., Any] | None):
    """Of a function, what `tracing` said of it, and it jitted, to run."""
    self._fn, self._params, self._inputs = fn, params, inputs
    self._ties, self._run = ties, run
    self._trace = traced
    self._before, self._counts = constants.numbers(traced[0]), read.counts()
    self._precision = constants.precision(traced[0], params)
    self.shapes = {path: tuple(shape) for path, shape in ties.shapes.items()}

  @functools.cached_property
  def uncut(self) -> dict[Tie, str]:
    """Ties whose units index an axis of an array that is not a parameter."""
    read = tracing.read_jaxpr(*self._trace, opened=True)
    arrays = {place.leaf: read.shapes[path] for path, place in read.places()
              if path.startswith(tracing.CLOSED_OVER)}
    found = {tracing.Units.of(path, place): arrays[place.leaf]
             for path, place in read.places() if place.leaf in arrays}
    whys = {}
    for tie in self._ties:
      for m in tie.members:
        shape = found.get(tracing.Units(
            m.path, m.axis, m.start, m.stride, tie.size))
        if shape is not None:
          whys[tie] = (
              f'an array of shape {tuple(shape)} that is closed over has an '
              'axis of these units and would have to be cut, too: make it a '
              'parameter')
    return whys

  def verdicts(self, kinds: Sequence[Kind], number: str | None
               ) -> dict[Kind, _Verdict]:
    """What becomes of the function without units of each kind.

    Args:
      kinds: the kinds.
      number: a number that may come from how many units they have.
    """
    compared = functools.partial(self._compared, number)
    one = self._bisected(kinds, _one)
    some = [kind for kind, verdict in one.items()
            if not isinstance(verdict, str) and kind[0].size > 3]
    fine = [kind for kind in some if one[kind] is None]
    # 19 // 8 is 20 // 8, but 10 // 8 is not. And there may be groups of
    # channels, say, that are so many whatever there is in them.
    half = self._bisected(fine, _half) | {
        kind: self._traced([kind], _half) for kind in some if one[kind]}
    found = {kind: compared(kind, _one, verdict)
             for kind, verdict in one.items() if kind not in some}
    for kind, verdict in half.items():
      first = one.get(kind)  # Of a part of a kind as of the kind: nothing.
      if isinstance(verdict, _Fails) or not (verdict or self._run):
        verdict = first
      elif first and not verdict:
        verdict = 'what it computes with half of them'
      found[kind] = compared(kind, _half, verdict)
    return found

  def crowds(self, ties: Iterable[Tie]) -> dict[Tie, str]:
    """Why some ties keep their units: they share an axis, and must be alike.

    So it is if a function splits an axis into halves, however long it is.
    """
    there = collections.defaultdict(dict)
    for tie in ties:
      for m in tie.members:
        there[m.path, m.axis, tie.shape][tie] = None
    crowds = [tuple(crowd) for crowd in there.values() if len(crowd) > 1]
    # The first of each is tried without the others.
    alone = self._bisected([*{crowd[:1]: None for crowd in crowds}], _one)
    return {tie: 'must lose as many units as ' + trees.few(
        [other.name for other in crowd if other != tie])
            for crowd in crowds if alone[crowd[:1]] is not None
            for tie in crowd}

  def _bisected(self, kinds: Sequence[Kind], gone: _Gone
                ) -> dict[Kind, _Verdict]:
    """The verdict on each kind; together, as long as nothing is found."""
    verdict = self._traced(kinds, gone) if kinds else None
    if len(kinds) == 1:
      kind, = kinds
      # Of one size by accident, if the first is another case.
      if verdict is None or len(kind) == 1 or self._traced([kind[:1]], gone):
        return {kind: verdict}
      kinds = kind[:1], kind[1:]
    elif verdict is None:
      return dict.fromkeys(kinds, verdict)
    half = len(kinds) // 2
    return (self._bisected(kinds[:half], gone)
            | self._bisected(kinds[half:], gone))

  def _traced(self, kinds: Sequence[Kind], gone: _Gone) -> _Verdict:
    """How the function's numbers change without the first units."""
    keep = _keep((tie for kind in kinds for tie in kind), gone)
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        plan = removal.plan(self._ties, keep)
        traced = tracing.trace(self._fn, self._smaller(plan), *self._inputs)
    # What is left is not rectangular, or whatever a function says of sizes that
    # it was not made for.
    except Exception as error:
      return _Fails(_said(error.__cause__ or error))
    if changed := constants.changed(
        self._before, constants.numbers(traced[0])):
      return changed
    read = tracing.read_jaxpr(*traced)
    for (name, old), (_, new) in zip(self._counts, read.counts()):
      if old != new:
        return f'{name} over {old}, which becomes {new}'
    units = read.units()
    expected = collections.Counter(
        self._left(plan, tie, m, gone(tie.size) * (tie.name in keep))
        for tie in self._ties for m in tie.members)
    # A head of 2 that is reshaped to heads of 3 runs, with fewer heads; and a
    # slice of the first 4 with one of them that was the fifth.
    missed = (units - expected) + (expected - units)
    return 'sizes of its own' if any(u.size > 1 for u in missed) else None

  def _left(self, plan: removal.Plan, tie: Tie, m: Member, gone: int
            ) -> tracing.Units:
    """Where units of a tie are in a member after the first ones are gone."""
    # The indices of two units in each of their groups, in order.
    pairs = m.start + m.stride * np.array([[gone, gone + 1]])
    groups = [(n, by) for n, (axis, by) in zip(tie.along, m.along)
              if axis == m.axis]
    for n, by in (*m.repeats, *groups):
      pairs = (pairs + by * np.arange(n)[:, None, None]).reshape(-1, 2)
    pairs = pairs[pairs[:, 0].argsort(kind='stable')]
    for axis, at in plan.left(m.path, self.shapes[m.path]):
      if axis == m.axis:  # Whole groups may be gone.
        left = pairs[np.isin(pairs, at).all(1)]
        pairs = np.searchsorted(at.ravel(), left if len(left) else pairs)
    start, following = pairs[0].tolist()
    return tracing.Units(
        m.path, m.axis, start, following - start, tie.size - gone)

  def _smaller(self, plan: removal.Plan) -> ArrayTree:
    """The shapes of parameters of which only some units are kept."""
    return trees.map_with_path(lambda path, w: jax.ShapeDtypeStruct(
        plan.shape(path, self.shapes[path]), jnp.result_type(w)), self._params)

  def _compared(self, number: str | None, kind: Kind, gone: _Gone,
                verdict: _Verdict) -> _Verdict:
    """A verdict, if outputs are others, too, without units not read."""
    run = self._run
    if run is None or not isinstance(verdict, str):
      return verdict
    # That it is of these units is known. Inputs may hide that it matters, as
    # the scale of logits does not where all are alike, or there is but one.
    if number and verdict.startswith(f'{number.partition(" = ")[0]},'):
      return verdict
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        same = self._precision < 1e-5 and all(
            self._same(run, kind, gone, by) for by in (3., 1., .3))
    except Exception as error:  # As above.
      return _Fails(_said(error))
    return None if same else verdict

  def _same(self, run: Callable[..., Any], kind: Kind, gone: _Gone, by: float
            ) -> bool:
    """Whether units that nothing reads change no outputs, at other points."""
    rng = np.random.default_rng(0)
    moved = jax.tree.map(
        lambda w: checking.nearby(w, rng, by=by), self._params)
    # A bool may say what the function does.
    inputs = jax.tree.map(
        lambda x: x if jnp.issubdtype(jnp.result_type(x), jnp.bool_)
        else checking.others(x, rng)[0], self._inputs)
    keep = _keep(kind, gone)
    unread = _unread(moved, kind, keep)
    smaller = removal.slim(unread, self._ties, keep)
    before, after = (checking.outputs(run, p, *inputs)
                     for p in (unread, smaller))
    return (all(np.isfinite(x).all() for x in before)
            and checking.distance(before, after) <= 100 * self._precision)


def _said(error: BaseException) -> str:
  """What an error says first, for the table of ties."""
  return f'{type(error).__name__}: {tables.one_line(error, 72)}'


def _keep(ties: Iterable[Tie], gone: _Gone) -> dict[str, np.ndarray]:
  """All but the first units of some ties, as `slim` takes it."""
  return {tie.name: np.broadcast_to(
      np.arange(tie.size) >= gone(tie.size), tie.shape) for tie in ties}


def _unread(params: ArrayTree, ties: Sequence[Tie],
            keep: Mapping[str, np.ndarray]) -> ArrayTree:
  """Parameters in which nothing reads the units of ties that are not kept."""
  arrays = {path: np.array(w) for path, w in trees.align(params)
            if any(path == m.path for tie in ties for m in tie.members)}
  for tie in ties:
    readers = [m for m in tie.members if m.role == 'reads']
    for member in tie.members if tie.read or not readers else readers:
      ties_lib.view(tie, member, arrays[member.path])[~keep[tie.name]] = 0
  return trees.map_with_path(lambda path, w: arrays.get(path, w), params)
