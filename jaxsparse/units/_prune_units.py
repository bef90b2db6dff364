"""`prune_units`: whole groups of weights die while training goes on."""

from typing import Any, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scopes
from jaxsparse._utils import arguments
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
    inner: the state of the rule inside, which has the masks and the step.
    importance: the state of the importance.
    alive: a bool array of all groups, one family after the other.
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
  """Prunes whole hidden units, or units of patterns, while training.

  Whenever `when(step)` holds, and when the schedule reaches its end, the groups
  of the least importance die: down to `count` in each tie, until a fraction
  `sparsity` is dead, or all whose importance is at most `threshold`. A dead
  group stays dead.

  The masks cover all weights of a group, so that `slim(params, ties,
  alive(params, ties))` removes the hidden units that died. With a rule
  `within`, the masks are that rule's: dead units are places where it may keep
  and grow nothing.

  Args:
    groups: ties, such as `heads(ties)` or `neurons(ties)`, of which those lose
      units whose units may be removed; or regular expressions for parameter
      paths to patterns, whose units are the groups. For several shares join
      rules with `combine`.
    importance: how much a group matters, see `importance`.
    count: how many units each tie keeps, or
    sparsity: the fraction of the units that dies, of each tie or of all, or
    threshold: the importance at which a group dies, 0 or more.
    scope: 'layer': every tie loses its own share. 'global': units of all ties
      compete; each tie keeps one at least.
    floor: in a global rank, a tie of `n` units keeps at least `floor * (1 -
      sparsity) * n` of them, rounded down.
    normalize: whether a global rank divides importance by the 2-norm of the
      tie's. Mean magnitudes are compared as they are (`False`) in the paper.
    multiple: every tie keeps a multiple of so many units at any time, or all
      that it has, see `keep_units`; heads any number, if the ties of their
      dimensions are among the groups. The floor is rounded up.
    begin: the first update whose gradient counts, from 0; no unit dies before
      it has been made.
    schedule: the share of the final count or sparsity by step; all at once by
      default.
    when: at which steps units die; at every step by default.
    within: `prune_and_grow(...)`, which keeps the total by growing elsewhere.
      Then units of a tie can die if all kernels that make or read them have
      masks.
    prune_skip: with `within`, whether units that several kernels make, which
      are those of skip paths, can die, too.

  Returns:
    A rule with a `UnitState`.

  Raises:
    ValueError: unless exactly one of count, sparsity and threshold is given, or
      if a number is out of range, or with a threshold a multiple is given; from
      `init` if groups do not fit, no tie has units that can die, or more than
      `multiple` of them, or the importance does not suit the groups.

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
        'A schedule leads to a count or a sparsity, and a threshold has none '
        'to lead to. Leave schedule out.')
  if within is not None:
    ties_lib.as_ties(groups)  # Says that ties are needed.
  budget = Budget(count, sparsity, scope, floor, normalize)
  if threshold is None:
    budget.check()
  elif (count, sparsity, scope, floor, multiple) != (
      None, None, 'layer', 0., 1):
    raise ValueError(
        f'threshold={threshold} alone decides how many groups die, got '
        f'count={count}, sparsity={sparsity}, scope={brief(scope)}, '
        f'floor={floor}, multiple={multiple} beside it. Leave these out; '
        'multiples are kept by alive(params, ties, multiple=8).')
  schedule = schedule or schedules.one_shot()
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
    if inner is None:
      inner = base.RuleState(jnp.zeros((), jnp.int32), groups_lib.masks(
          list(zip(found, groups_lib.parted(alive, found))), params), ())
    if found and threshold is None:
      budget.check_sizes([family.shape[-1] for family in found], steps(found))
    score = importance(found)  # Groups that it does not suit are told now.
    return UnitState(inner, score.init(params), alive)

  def update(grads, state, params=None, *, updates=None, **extra_args):
    step, old = state.count + 1, state.masks
    found = families(params, old)
    score = optax.with_extra_args_support(importance(found))
    due = base.is_due(when, schedule, step)
    if begin:
      due &= step > begin

    def scored():
      return score.update(grads, state.importance, base.after(params, updates),
                          point=params, masks=old, **extra_args)

    def living():
      if (scores := scored()[0]) is None:
        return state.alive
      if threshold is not None:  # A NaN is above it: it has not vanished.
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
      masks, inner = base.with_extra_args(within).update(
          grads, state.inner, params, updates=updates, act=due,
          allowed=lambda: inside(alive), **extra_args)
    memory = scored()[1]
    if begin:
      memory = jax.tree.map(lambda new, before: jnp.where(
          step > begin, new, before), memory, state.importance)
    return masks, UnitState(inner, memory, alive)

  return base.made_of(
      init, update, within, ahead=base.acts_always(when) and not begin)
