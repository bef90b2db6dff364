"""Channels that die while connections move: unstructured becomes channel-wise.

`prune_channels` wraps a rule of dynamic sparse training. Hidden units whose
weights are the smallest lose all of them, and the rule grows as many elsewhere;
`slim` then removes the units for good.
"""

from typing import Any, Iterator, NamedTuple, Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import distributions
from jaxsparse import patterns as patterns_lib
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scopes
from jaxsparse._utils import trees
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.units import per_unit
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties


class ChannelState(NamedTuple):
  """The state of `prune_channels`.

  Attributes:
    inner: the state of the rule inside, which has masks and the step.
    alive: a bool array of all units of the ties that lose some, one after the
      other in their order.
  """
  inner: Any
  alive: jax.Array

  @property
  def count(self) -> jax.Array:
    """The number of updates made."""
    return self.inner.count

  @property
  def masks(self) -> Any:
    """Like the params: bool arrays, or `None` where dense."""
    return self.inner.masks

  @property
  def dense(self) -> jax.Array | None:
    """As `RuleState.dense`."""
    return self.inner.dense


def prune_channels(rule: rules.Rule, ties: Ties | Sequence[Tie], *,
                   sparsity: float, schedule: schedules.Schedule,
                   when: schedules.When, floor: float = 0.2,
                   prune_skip: bool = False) -> rules.Rule:
  """Makes a rule take whole hidden units away, ever more of them.

  Whenever `when(step)` holds, and when the schedule reaches its end, all units
  of all ties are ranked by the mean magnitude of the weights that make them,

    sum |w| / (number of these weights, pruned ones included),

  and the lowest die until `round(sparsity * progress * units)` are dead, but a
  tie of `n` units keeps `floor * (1 - sparsity) * n` of them, rounded down, and
  at least one; then others go. Who is dead stays dead: its weights, those that
  make it and those that read it, are outside of what the rule may use.

  Args:
    rule: `prune_and_grow(...)`, which keeps the total by growing elsewhere.
    ties: from `infer_ties`. Units of a tie can die if they may be removed, and
      all kernels that make or read them have masks.
    sparsity: the fraction of these units that dies.
    schedule: the share of that by step, such as `cubic(0, 100_000)`.
    when: at which steps units die.
    floor: how much of its fair share of the survivors a tie keeps at least;
      the paper's beta.
    prune_skip: whether units that several kernels make, which are those of skip
      paths, can die, too.

  Returns:
    A rule with a `ChannelState`.

  Raises:
    ValueError: if the sparsity is not in [0, 1]; from `init` if no tie has
      units that can die.

  References:
    Yin et al., `Dynamic Sparsity Is Channel-Level Sparsity Learner
    <https://arxiv.org/abs/2305.19454>`_, 2023. Released code takes the mean
    over active weights, which is NaN for units without any.
  """
  if not 0 <= sparsity <= 1 or not 0 <= floor <= 1:
    raise ValueError(
        'prune_channels takes the fraction of units that dies and the floor, '
        f'both in [0, 1], got sparsity={sparsity} and floor={floor}. Write '
        'e.g. sparsity=0.4, floor=0.2.')
  ties = ties_lib.as_ties(ties)

  def init(params):
    state = rule.init(params)
    mortal = tuple(_mortal(ties, state.masks, prune_skip))
    if not mortal and jax.tree.leaves(state.masks):
      raise ValueError(_nobody(ties, state.masks, prune_skip))
    return ChannelState(state, jnp.ones(sum(t.size for t in mortal), bool))

  def update(grads, state, params=None, *, updates=None, **extra_args):
    mortal = tuple(_mortal(ties, state.masks, prune_skip))
    step = state.count + 1
    due = when(step) | schedules.arrives(schedule, step)

    def survivors():
      after = rules.after(params, updates)
      kernels = {path: w for path, w, mask in trees.align(after, state.masks)
                 if not trees.is_dense(mask)}
      scores = [_mean_magnitude(tie, kernels) for tie in mortal]
      units = sum(tie.size for tie in mortal)
      k = counts.remaining(counts.exactly(units), counts.exactly(units),
                           sparsity * schedule(step))
      return jnp.concatenate(_kept(
          scores, _split(state.alive, mortal), k, (1 - sparsity) * floor))

    alive = lax.cond(due, survivors, lambda: state.alive
                     ) if mortal else state.alive
    masks, inner = rule.update(
        grads, state.inner, params, updates=updates, act=due,
        allowed=lambda: _inside(
            state.masks, mortal, _split(alive, mortal)), **extra_args)
    return masks, ChannelState(inner, alive)

  return rules.Rule(init, update)


def _why_not(tie: Tie, masks: Any, prune_skip: bool) -> str | None:
  """Why units of a tie cannot die, or `None`."""
  if tie.fixed or tie.kept:
    return tie.fixed or tie.kept
  if tie.read:
    return f'{tie.read} reads it'
  if tie.along or any(m.elsewhere for m in tie.members):
    return 'its units differ along other axes'
  roles = {m.role for m in tie.members}
  if None in roles:
    return "it does not say which members make it and read it (Member.role)"
  if not {'makes', 'reads'} <= roles:
    return 'nothing makes it or nothing reads it'
  sparse = trees.paths(masks)
  dense = [m.path for m in tie.members
           if m.role != 'beside' and per_unit.own_path(m.path, sparse) is None]
  if dense:
    return f'{dense[0]} is dense'
  if not prune_skip and len(
      {m.path for m in tie.members if m.role == 'makes'}) > 1:
    return 'a skip path'
  return None


def _mortal(ties: Ties, masks: Any, prune_skip: bool) -> Iterator[Tie]:
  return (tie for tie in ties if not _why_not(tie, masks, prune_skip))


def _nobody(ties: Ties, masks: Any, prune_skip: bool) -> str:
  reasons = {tie.name: _why_not(tie, masks, prune_skip) for tie in ties}
  return (
      'prune_channels has nothing to prune; of every tie the units have to '
      f'stay: {reasons}. Give masks to all kernels that make and read hidden '
      'units, and the ties of the function as it is for evaluation.')


def _split(alive: jax.Array, ties: Sequence[Tie]) -> list[jax.Array]:
  ends = np.cumsum([tie.size for tie in ties]).tolist()
  return [alive[end - tie.size:end] for tie, end in zip(ties, ends)]


def _mean_magnitude(tie: Tie, kernels: dict[str, jax.Array]) -> jax.Array:
  """The mean `|w|` of all weights that make each unit, `[size]`."""
  total, size = 0., 0
  for path, member in per_unit.members(tie, [*kernels]):
    if member.role == 'makes':
      w = kernels[path]
      total += per_unit.total(tie, member, jnp.abs(w))
      size += per_unit.count(tie, member, w.shape)
  return total / size


def _kept(scores: Sequence[jax.Array], alive: Sequence[jax.Array],
          k: counts.Count, floor: float) -> list[jax.Array]:
  """The `k` highest of all units; who is dead ranks below all others."""
  ranks = [jnp.where(a, jnp.maximum(scopes.finite(s), 0.), -1.)
           for s, a in zip(scores, alive)]
  # 0.07 * 100 is 7, although the float is a little less.
  fewest = [counts.exactly(max(1, int(floor * x.size + 1e-6))) for x in ranks]
  most = [counts.exactly(x.size) for x in ranks]
  kept = distributions.keep_together(
      ranks, k, fewest, most, [False] * len(ranks))
  return selection.select_each(
      ranks, [patterns_lib.unstructured()] * len(ranks), kept)


def _inside(masks: Any, ties: Sequence[Tie], alive: Sequence[jax.Array]) -> Any:
  """Where weights may be: not in the slices of dead units."""
  allowed = per_unit.masks(
      ties, {tie.name: units for tie, units in zip(ties, alive)}, masks,
      belongs=lambda member: member.role != 'beside')
  return trees.map_masked(
      lambda mask, inside: inside, masks, allowed, dense=jnp.ones_like)
