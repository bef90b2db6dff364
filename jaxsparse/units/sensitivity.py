"""Gradient sensitivity: which heads and neurons the loss would miss.

  importance[u] = sum over batches |dL / dxi[u]|,   xi a mask of ones on unit u

A mask on what a unit gives multiplies every weight that reads it, so that

  dL / dxi[u] = sum over weights that read u of w * dL/dw:

one signed product a weight, and no mask in the model. Then

  ties = infer_ties(apply, params, x)
  found = sensitivity(loss_fn, params, batches, ties)
  keep = {**keep_units(found, heads(ties), count=6),
          **keep_units(found, neurons(ties), sparsity=0.5, scope='global')}
  params = slim(params, ties, keep)

makes a smaller dense network; `prune_units` is the same as a rule, with masks.
"""

import difflib
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import distributions
from jaxsparse import patterns
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.units import per_unit
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

# A group of a tie along others competes within itself.
_ROWS = patterns.Pattern(
    'units of a tie', patterns.Tiling(rest=1), patterns.Tiling(((0, 1),)))


def unit_saliency(params: Any, grads: Any, ties: Ties | Sequence[Tie]
                  ) -> dict[str, jax.Array]:
  """The sensitivity of one batch, `|sum over weights that read u of w * g|`.

  Args:
    params: the weights.
    grads: the gradient of the loss there.
    ties: from `infer_ties`, or with the roles of their members by hand.

  Returns:
    By name of tie, float32 (or wider) of `tie.shape`. Left out are ties that no
    kernel among the params reads, and those that something else reads, too
    (`Tie.read`), because the mask would be on that as well.

  References:
    Kim and Hassan, `FastFormers: Highly Efficient Transformer Models for
    Natural Language Understanding <https://arxiv.org/abs/2010.13382>`_, 2020;
    Michel et al., `Are Sixteen Heads Really Better than One?
    <https://arxiv.org/abs/1905.10650>`_, 2019. Released code of FastFormers
    scores neurons by what makes them, too; here it is the mask alone.

  >>> from jaxsparse.units.ties import Member, Tie
  >>> tie = Tie(2, (Member('in', 1, role='makes'),
  ...               Member('out', 0, role='reads')), name='hidden')
  >>> w = {'in': jnp.ones((3, 2)), 'out': jnp.array([[1., 2.], [3., 4.]])}
  >>> g = {'in': jnp.ones((3, 2)), 'out': jnp.array([[1., 1.], [0., -1.]])}
  >>> unit_saliency(w, g, [tie])['hidden']
  Array([3., 4.], dtype=float32)
  """
  products = {path: numerics.wide(w) * numerics.wide(g)
              for path, w, g in trees.align(params, grads) if g is not None}
  found = {}
  for tie in ties_lib.as_ties(ties):
    readers = [(path, member) for path, member in per_unit.members(
        tie, [*products]) if member.role == 'reads']
    if readers and not tie.read:
      found[tie.name] = jnp.abs(sum(
          per_unit.total(tie, member, products[path])
          for path, member in readers))
  return found


def sensitivity(loss_fn: Callable[[Any, Any], jax.Array], params: Any,
                batches: Iterable[Any], ties: Ties | Sequence[Tie]
                ) -> dict[str, jax.Array]:
  """The importance of hidden units, accumulated over batches.

  Args:
    loss_fn: from params and a batch to a scalar.
    params: the weights; where a flow is not hard, `sparse_params(...)`.
    batches: some of them, of one shape.
    ties: from `infer_ties`.

  Returns:
    By name of tie, `tie.shape`: the sum of `unit_saliency` over batches.

  Raises:
    ValueError: if there are no batches, or no kernel reads any tie.

  References:
    Kim and Hassan, `FastFormers: Highly Efficient Transformer Models for
    Natural Language Understanding <https://arxiv.org/abs/2010.13382>`_, 2020

  >>> from jaxsparse.units.ties import Member, Tie
  >>> tie = Tie(2, (Member('out', 0, role='reads'),), name='hidden')
  >>> loss_fn = lambda params, x: jnp.sum(x @ params['out'])
  >>> params = {'out': jnp.array([[1.], [-3.]])}
  >>> sensitivity(loss_fn, params, [jnp.ones((4, 2)), -jnp.ones((4, 2))], [tie])
  {'hidden': Array([ 8., 24.], dtype=float32)}
  """
  ties = ties_lib.as_ties(ties)

  @jax.jit
  def saliency(params, batch):
    return unit_saliency(params, jax.grad(loss_fn)(params, batch), ties)
  total = None
  for batch in batches:
    new = saliency(params, batch)
    total = new if total is None else jax.tree.map(jnp.add, total, new)
  if not total:
    raise ValueError(
        'sensitivity got no batches.' if total is None else
        'No kernel among the params reads units of these ties. Infer ties from '
        'these params: infer_ties(apply, params, x).')
  return total


def heads(ties: Ties | Sequence[Tie]) -> Ties:
  """The ties whose units are attention heads, and may be removed.

  Heads are units that have units of another tie within them, the dimensions of
  a head. Those of the layers of a `scan` are one tie, along layers.

  Args:
    ties: from `infer_ties`, of float32 params: see there for 8 heads of 64.

  Returns:
    Some of the ties.
  """
  return _some(ties, lambda within, holding: holding and not within)


def neurons(ties: Ties | Sequence[Tie]) -> Ties:
  """The ties whose units are neurons or channels, and may be removed.

  That is all but heads and what is within heads; residual streams are among
  them where no norm forbids it.

  Args:
    ties: from `infer_ties`.

  Returns:
    Some of the ties.
  """
  return _some(ties, lambda within, holding: not holding and not within)


def _some(ties: Ties | Sequence[Tie], wanted: Callable[[bool, bool], bool]
          ) -> Ties:
  """Ties to choose from, by whether units are within units or hold others."""
  ties = ties_lib.as_ties(ties)
  # Where units are that can be told apart, so the layers of a scan are none.
  places = {(m.path, m.axis, m.stride) for tie in ties if tie.free
            for m in tie.members}
  inner = {tie.name: {(m.path, *place) for m in tie.members
                      for place in m.along} & places for tie in ties}
  held = set().union(*inner.values())
  return Ties(tuple(
      tie for tie in ties if not (tie.fixed or tie.kept or tie.read)
      and wanted(bool(inner[tie.name]), any(
          (m.path, m.axis, m.stride) in held for m in tie.members))),
              ties.shapes)


def keep_units(importance: Mapping[str, Any], ties: Ties | Sequence[Tie], *,
               count: int | None = None, sparsity: float | None = None,
               scope: str = 'layer') -> dict[str, np.ndarray]:
  """Which units to keep, for `slim`: those of the highest importance.

  Args:
    importance: by name of tie, `tie.shape`, such as from `sensitivity`.
    ties: the ties that lose units, such as `heads(ties)`.
    count: how many each tie keeps, or
    sparsity: the fraction of the units that goes, of each tie or of all.
    scope: 'layer': every tie loses its own share. 'global': units of all ties
      compete by importance over the 2-norm of their tie's; each keeps one at
      least.

  Returns:
    By name of tie, bool of `tie.shape`. Every group of `Tie.along` keeps
    equally many, each its own; for a global rank their means count.

  Raises:
    ValueError: if neither or both of count and sparsity are given, there are no
      ties, units of one may not be removed, or its importance is missing, not
      finite or of another shape.

  >>> from jaxsparse.units.ties import Member, Tie
  >>> tie = Tie(3, (Member('out', 0),), name='hidden')
  >>> keep_units({'hidden': np.array([1., 3., 2.])}, [tie], count=2)
  {'hidden': array([False,  True,  True])}
  """
  ties = tuple(ties_lib.as_ties(ties))
  _check(count, sparsity, scope)
  scores = _of_ties(importance, ties, count)
  for tie, score in zip(ties, scores):
    if not np.isfinite(score).all():
      raise ValueError(
          f'Importance of tie {tie.name!r} is not finite, so it ranks nothing. '
          'Look for the batch whose gradients are not.')
  kept = _kept(scores, ties, count, sparsity, scope, 1.)
  return {tie.name: np.asarray(k) for tie, k in zip(ties, kept)}


def _check(count: int | None, sparsity: float | None, scope: str) -> None:
  whole = count is None or (isinstance(count, int) and count >= 1)
  if (count is None) == (sparsity is None) or not whole or not (
      0 <= (sparsity or 0) <= 1):
    raise ValueError(
        'Give either count, how many units a tie keeps, at least 1, or '
        f'sparsity, the fraction in [0, 1] that goes, got count={count} and '
        f'sparsity={sparsity}. Write e.g. sparsity=0.5.')
  if scope not in ('layer', 'global') or (
      count is not None and scope == 'global'):
    raise ValueError(
        f"scope must be 'layer', or 'global' with a sparsity, got {scope!r} "
        f'and count={count}. Write e.g. sparsity=0.5, scope=\'global\'.')


def _of_ties(importance: Mapping[str, Any], ties: Sequence[Tie],
             count: int | None) -> list[jax.Array]:
  """The importance of each tie, checked as far as shapes tell."""
  if not ties:
    raise ValueError(
        'There are no ties to take units from. print(ties) tells which may be '
        'removed, and why others may not.')
  for tie in ties:
    if why := tie.fixed or tie.kept:
      raise ValueError(
          f'The units of tie {tie.name!r} may not be removed ({why}). Give '
          'those that may: heads(ties) or neurons(ties).')
    if tie.name not in importance:
      near = difflib.get_close_matches(tie.name, [*importance], 1, .3)
      reader = f'not only kernels, but {tie.read}' if tie.read else (
          'no kernel among the params')
      raise ValueError(
          f'Importance of tie {tie.name!r} is missing: {reader} reads it. '
          f'There is {near or [*importance]}.')
    if np.shape(importance[tie.name]) != tie.shape:
      raise ValueError(
          f'Importance of tie {tie.name!r} has a number for each unit, '
          f'{tie.shape}, got {np.shape(importance[tie.name])}. Write e.g. '
          'sensitivity(loss_fn, params, batches, ties).')
  if count is not None and count >= max(tie.size for tie in ties):
    raise ValueError(
        f'count={count} takes nothing away: it is how many units a tie keeps, '
        f'and these have {sorted({tie.size for tie in ties})}. Write e.g. '
        f'count={max(max(tie.size for tie in ties) // 2, 1)}.')
  return [jnp.asarray(importance[tie.name], jnp.float32) for tie in ties]


def _kept(scores: Sequence[jax.Array], ties: Sequence[Tie], count: int | None,
          sparsity: float | None, scope: str, progress: jax.typing.ArrayLike
          ) -> list[jax.Array]:
  """Bool of `tie.shape` for each tie; `progress` may be traced."""
  if scope == 'global':
    # One number a rank: the mean of what has it in every group.
    ranked = [jnp.sort(s.reshape(-1, tie.size), axis=-1)[:, ::-1].mean(0)
              / jnp.maximum(jnp.linalg.norm(jnp.maximum(s, 0.)), 1e-30)
              for s, tie in zip(scores, ties)]
    size = sum(tie.size for tie in ties)
    final = selection.final_count(size, sparsity)
    one, most = counts.exactly(1), [counts.exactly(t.size) for t in ties]
    kept = distributions.keep_together(
        ranked, _on_the_way(size, final, progress), [one] * len(ties), most,
        [False] * len(ties))
    kept = [selection.Kept(k.count) for k in kept]
  else:
    kept = [selection.Kept(_on_the_way(
        tie.size, min(tie.size, count) if count is not None else max(
            1, selection.final_count(tie.size, sparsity)), progress))
            for tie in ties]
  return [selection.select(s.reshape(-1, tie.size), _ROWS, k).reshape(tie.shape)
          for s, tie, k in zip(scores, ties, kept)]


def _on_the_way(size: int, final: int, progress: jax.typing.ArrayLike
                ) -> counts.Count:
  return counts.remaining(
      counts.exactly(size), counts.exactly(size - final), progress)


class UnitState(NamedTuple):
  """The state of `prune_units`.

  Attributes:
    count: the number of updates made, int32.
    masks: like the params: bool arrays, or `None` where no units go.
    importance: the sums so far, `tie.shape` for each tie.
    alive: bool of the same shapes.
  """
  count: jax.Array
  masks: Any
  importance: tuple[jax.Array, ...]
  alive: tuple[jax.Array, ...]

  @property
  def dense(self) -> jax.Array:
    """As `RuleState.dense`: products with gradients are of kept weights."""
    return jnp.zeros((), bool)


def prune_units(ties: Ties | Sequence[Tie], *, count: int | None = None,
                sparsity: float | None = None, scope: str = 'layer',
                begin: int = 0, schedule: schedules.Schedule | None = None,
                when: schedules.When) -> rules.Rule:
  """Prunes whole hidden units by gradient sensitivity, while training.

  From step `begin` on, importance is accumulated at every update. Whenever
  `when(step)` holds, and when the schedule reaches its end, the units of the
  least importance die; who is dead stays dead. Gradients that are not finite
  count for nothing. The masks cover all weights that
  make a unit, stand beside it or read it, so that `slim(params, ties,
  alive(params, ties))` removes it.

  Args:
    ties: the ties that lose units, such as `heads(ties)` or `neurons(ties)`;
      for several shares join rules with `combine`.
    count: as of `keep_units`,
    sparsity: too,
    scope: too.
    begin: the first update whose gradient counts, from 0; no unit dies before
      it has been made.
    schedule: the share of the final sparsity by step; all at once by default.
    when: at which steps units die, such as `every(1, begin=500, end=500)`.

  Returns:
    A rule with a `UnitState`.

  Raises:
    ValueError: as `keep_units`; from `init` if no kernel reads a tie.

  References:
    Kim and Hassan, `FastFormers: Highly Efficient Transformer Models for
    Natural Language Understanding <https://arxiv.org/abs/2010.13382>`_, 2020,
    which prunes once, after training
  """
  ties = tuple(ties_lib.as_ties(ties))
  _check(count, sparsity, scope)
  rules.check_functions(schedule=(schedule, 'cubic(0, 10_000)'),
                        when=(when, 'every(100)'))
  schedule = schedule or schedules.one_shot()

  def masks_of(alive, params):
    return per_unit.masks(
        ties, {tie.name: a for tie, a in zip(ties, alive)}, params)

  def saliency(params, grads):
    return _of_ties(unit_saliency(params, grads, ties), ties, count)

  def init(params):
    if jax.tree.leaves(params):
      saliency(params, params)  # A tie without readers is told now.
    alive = tuple(jnp.ones(tie.shape, bool) for tie in ties)
    return UnitState(jnp.zeros((), jnp.int32), masks_of(alive, params), tuple(
        jnp.zeros(tie.shape, jnp.float32) for tie in ties), alive)

  def update(grads, state, params=None, *, updates=None, **extra_args):
    del updates, extra_args
    step = state.count + 1
    importance = tuple(
        s + jnp.where((step > begin) & jnp.isfinite(new), new, 0.)
        for s, new in zip(state.importance, saliency(params, grads)))
    due = (when(step) | schedules.arrives(schedule, step)) & (step > begin)

    def die():
      # Below every sum of absolute values.
      ranks = [jnp.where(a, s, -1.) for a, s in zip(state.alive, importance)]
      kept = _kept(ranks, ties, count, sparsity, scope, schedule(step))
      alive = tuple(a & k for a, k in zip(state.alive, kept))
      return alive, masks_of(alive, params)

    alive, masks = rules.run_if(due, die, (state.alive, state.masks))
    return masks, UnitState(step, masks, importance, alive)

  return rules.Rule(init, update)
