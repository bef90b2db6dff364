"""`prune_units`: prunes whole groups of weights during training."""

from typing import Any, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scopes
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse._utils.tables import brief
from jaxsparse.rules import base
from jaxsparse.units import groups as groups_lib
from jaxsparse.units import multiples
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.choice import Budget
from jaxsparse.units.groups import Groups
from jaxsparse.units.importance import Importance


class _Fields(NamedTuple):
  inner: Any
  importance: Any
  alive: jax.Array


class UnitState(base.Around, _Fields):
  """The state of `prune_units`.

  Attributes:
    inner: the state of the wrapped rule, which has the masks and the step.
    importance: the state of the importance.
    alive: a bool array for all groups, the families concatenated.
  """


@arguments.checked(multiple=multiples.MULTIPLE,
                   threshold=arguments.number(0, write='1e-3'))
def prune_units(groups: Groups, *, importance: Importance,
                count: int | None = None, sparsity: float | None = None,
                threshold: float | None = None, scope: str = 'layer',
                floor: float = 0., normalize: bool = True, multiple: int = 1,
                begin: int = 0, schedule: schedules.Schedule | None = None,
                when: schedules.When | None = None,
                within: rules.Rule | None = None, prune_skip: bool = False
                ) -> rules.Rule:
  """Prunes whole hidden units, or units of patterns, during training.

  Whenever `when(step)` holds, and when the schedule reaches its end, the rule
  prunes the groups of least importance: until each tie has `count` units left,
  until a fraction `sparsity` is pruned, or all groups whose importance is at
  most `threshold`. A pruned (dead) group stays pruned.

  The masks cover all weights of a group, so `slim(params, ties, alive(params,
  ties))` removes the pruned hidden units. With a rule `within`, the masks are
  those of that rule, which can neither keep nor grow weights of dead units.

  Args:
    groups: ties, such as `heads(ties) + neurons(ties)`; units are pruned in the
      ties whose units may be removed. Or a mapping from regular expressions
      for parameter paths to patterns, whose units are the groups. For different
      sparsities, join several rules with `combine`.
    importance: the importance of groups, see `importance`.
    count: the number of units that each tie keeps. Give exactly one of `count`,
      `sparsity` and `threshold`.
    sparsity: the fraction of units to prune, of each tie or of all together.
    threshold: the importance, 0 or more, up to which groups are pruned.
    scope: 'layer' prunes the same share of every tie. With 'global', units of
      all ties compete, and each tie keeps at least one.
    floor: the lower bound of a tie with `n` units in the global scope: it keeps
      at least `floor * (1 - sparsity) * n` units, rounded down.
    normalize: whether the global scope divides importances by their 2-norm in
      the tie. The paper of Chase compares mean magnitudes directly (`False`).
    multiple: every tie keeps a multiple of this number of units at all times,
      or all of its units, see `keep_units`. Ties of heads keep any number if
      the ties of their dimensions are among the groups. The floor is rounded
      up.
    begin: the first update whose gradient counts, from 0. No unit is pruned
      before this update.
    schedule: a function from step to the share of the final count or sparsity;
      all at once by default.
    when: a function from step to bool, true at the steps that prune; every step
      by default.
    within: a rule `prune_and_grow(...)`, which keeps the number of weights by
      growing others. Units of a tie can then be pruned if all kernels that make
      or read them have masks.
    prune_skip: with `within`, whether units that several kernels make can be
      pruned, too. These are the units of skip connections.

  Returns:
    A rule with a `UnitState`.

  Raises:
    ValueError: unless exactly one of count, sparsity and threshold is given; if
      a number is out of range; if a multiple is given with a threshold; from
      `init` if groups do not fit the parameters, if no tie has units that can
      be pruned, or has more than `multiple` of them, or if the importance does
      not suit the groups.

  References:
    With `mean_magnitude` and `within`: Yin et al., `Dynamic Sparsity Is
    Channel-Level Sparsity Learner <https://arxiv.org/abs/2305.19454>`_, 2023;
    with `saliency`: Kim and Hassan, `FastFormers: Highly Efficient Transformer
    Models for Natural Language Understanding
    <https://arxiv.org/abs/2010.13382>`_, 2020, which prunes once, after
    training.

  >>> from jaxsparse import patterns
  >>> from jaxsparse.units import root_mean_square
  >>> rule = prune_units({'.*': patterns.channel(-1)}, threshold=0.,
  ...                    importance=root_mean_square())
  >>> w = {'kernel': jnp.array([[3., 0.], [4., 0.]])}
  >>> masks, _ = rule.update(None, rule.init(w), w)
  >>> print(masks['kernel'][0])
  [ True False]
  """
  if threshold is not None and schedule is not None:
    raise ValueError(
        'schedule needs a count or a sparsity, got a threshold. Leave schedule '
        'out, or write e.g. sparsity=0.5.')
  if within is not None:
    ties_lib.as_ties(groups)  # Raises if these are not ties.
  budget = Budget(count, sparsity, scope, floor, normalize)
  if threshold is None:
    budget.check()
  elif (count, sparsity, scope, floor, multiple) != (
      None, None, 'layer', 0., 1):
    raise ValueError(
        f'threshold={threshold} alone decides how many groups are pruned, got '
        f'also count={count}, sparsity={sparsity}, scope={brief(scope)}, '
        f'floor={floor}, multiple={multiple}. Leave these out; for multiples '
        'write alive(params, ties, multiple=8).')
  schedule = schedules.ending(schedule or schedules.one_shot())
  when = when or schedules.every(1)

  def steps(found):
    if isinstance(groups, Mapping):
      return [multiple] * len(found)
    ties = ties_lib.as_ties(groups).ties
    by_name = dict(zip([t.name for t in ties], multiples.steps(ties, multiple)))
    return [by_name[family.name] for family in found]

  def families(params, masks):
    if within is None:
      return groups_lib.families(groups, params)
    shapes = {path: w.shape for path, w in trees.align(params)}
    return [groups_lib.of_tie(tie, shapes)
            for tie in groups_lib.mortal(groups, masks, prune_skip)]

  def init(params):
    inner = None if within is None else within.init(params)
    found = families(params, inner and inner.masks)
    alive = groups_lib.joined([jnp.ones(f.shape, bool) for f in found], bool)
    alive = numerics.varying_as(alive, lambda: params)
    if inner is None:
      inner = base.RuleState(jnp.zeros((), jnp.int32), groups_lib.masks(
          list(zip(found, groups_lib.parted(alive, found))), params), ())
    if found and threshold is None:
      budget.check_sizes([family.shape[-1] for family in found], steps(found))
    score = importance(found)  # Raises at `init` for unsuitable groups.
    return UnitState(inner, numerics.varying_as(
        score.init(params), lambda: params), alive)

  def update(grads, state, params=None, *, updates=None, **extra_args):
    step, old = state.count + 1, state.masks
    found = families(params, old)
    score = optax.with_extra_args_support(importance(found))
    due = base.is_due(when, schedule, step)
    if begin:
      due &= step > begin

    def scored():
      own = dict(point=params, masks=old)
      return score.update(grads, state.importance, base.after(params, updates),
                          **{**extra_args, **own})

    def living():
      if (scores := scored()[0]) is None:
        return state.alive
      if threshold is not None:  # A NaN counts as above it.
        kept = [~(x <= threshold) for x in scores]
      else:
        # Dead groups rank below all others.
        kept = budget.keep([
            jnp.where(a, jnp.maximum(scopes.finite(x), 0.), -1.)
            for a, x in zip(groups_lib.parted(state.alive, found), scores)],
                           schedule(step), steps=steps(found))
      return state.alive & groups_lib.joined(kept, bool)

    def inside(alive):
      groups = list(zip(found, groups_lib.parted(alive, found)))
      if within is None:
        return groups_lib.masks(groups, params)
      there = groups_lib.masks(groups, old, without='beside')
      return trees.map_masked(
          lambda mask, living: living, old, there, dense=jnp.ones_like)

    alive, masks = state.alive, old
    if found and within is None:
      alive, masks = base.run_if(
          due, lambda: (new := living(), inside(new)), (state.alive, old))
    elif found:
      alive = base.run_if(due, living, state.alive)
    if within is None:
      inner = base.RuleState(step, masks, ())
    else:
      own = dict(updates=updates, act=due, allowed=lambda: inside(alive))
      masks, inner = base.with_extra_args(within).update(
          grads, state.inner, params, **{**extra_args, **own})
    memory = scored()[1]
    if begin:
      memory = jax.tree.map(lambda new, before: jnp.where(
          step > begin, new, before), memory, state.importance)
    return masks, UnitState(inner, memory, alive)

  return base.made_of(
      init, update, within, ahead=base.acts_always(when) and not begin)
