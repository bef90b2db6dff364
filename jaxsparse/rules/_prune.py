"""`prune`: masks from scores."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsparse import distributions
from jaxsparse import schedules
from jaxsparse import scores as scores_lib
from jaxsparse._utils import arguments
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.masks import selection
from jaxsparse.rules import base


@arguments.checked(patterns=base.SOME_PATTERNS, score=scores_lib.SCORE)
def prune(patterns: base.Patterns, *, sparsity: float | None = None,
          score: optax.GradientTransformation | None = None,
          distribution: distributions.Distribution | None = None,
          schedule: schedules.Schedule | None = None,
          when: schedules.When | None = None) -> base.Rule:
  """Makes masks from scores: keeps the highest scores, prunes the rest.

  Whenever `when(step)` holds, and when the schedule reaches its end, the rule
  makes new masks from the current params and gradients, and the optimizer makes
  its step under the new masks. A rule that acts at every step (the default) is
  an `EveryStep` rule: it scores the params after that step. A pruned weight
  comes back if its score is high enough. Under the flow `hard` a pruned weight
  is zero, so the score `magnitude` never brings it back.

  Args:
    patterns: maps regular expressions for parameter paths to patterns; see
      `resolve`.
    sparsity: the fraction pruned in every layer; short for
      `distribution=uniform(sparsity)`.
    score: the score by which weights compete; `magnitude()` by default.
    distribution: the distribution of sparsity among layers; by default every
      pattern has a sparsity of its own.
    schedule: a function from step to the share of the final sparsity; the full
      sparsity at once by default.
    when: a function from step to bool, true at the steps that make masks;
      every step by default.

  Returns:
    A rule, an `optax.GradientTransformationExtraArgs` with masks as updates.

  Raises:
    ValueError: if `patterns` maps no paths, or both sparsity and distribution
      are given; from `init`, see `resolve`; or if a sparsity is missing.

  >>> from jaxsparse.patterns import nm
  >>> rule = prune({'.*/kernel': nm(2, 4)})
  >>> params = {'mlp': {'kernel': jnp.arange(4.)[:, None], 'bias': jnp.ones(1)}}
  >>> masks = rule.init(params).masks
  >>> print(masks['mlp']['kernel'][:, 0], masks['mlp']['bias'])
  [False False  True  True] None
  """
  score = optax.with_extra_args_support(score or scores_lib.magnitude())
  if sparsity is not None and distribution is not None:
    raise ValueError(
        f'sparsity={sparsity} means the uniform distribution, got it together '
        'with distribution=. Give one of the two, e.g. '
        f'distribution=jaxsparse.erk({sparsity}).')
  distribution = distribution or distributions.uniform(sparsity)
  schedule = schedules.ending(schedule or schedules.one_shot())
  when = when or schedules.every(1)

  def masks_for(make, shapes, progress):
    return selection.select_each(make, shapes, distributions.shares(
        distribution, make, shapes, progress))

  def init(params):
    shapes = base.resolve(patterns, params)
    sparse = base.sparse_only(params, shapes)
    make = lambda: base.initial_scores(score, sparse)
    everything = _all_kept(sparse)
    masks = everything if jax.eval_shape(make) is None else base.run_if(
        when(0), lambda: masks_for(make, shapes, schedule(0)), everything)
    if masks is everything:
      # Raises at `init` if the distribution does not suit the patterns.
      magnitudes = lambda: jax.tree.map(jnp.abs, sparse)
      jax.eval_shape(lambda: masks_for(magnitudes, shapes, schedule(0)))
    return base.RuleState(jnp.zeros((), jnp.int32), masks, score.init(sparse))

  def update(grads, state, params=None, *, updates=None, **extra_args):
    step, shapes, scored = base.moment(
        patterns, state, grads, params, updates, **extra_args)
    scores = lambda: scored(score, state.scores)
    masks = base.run_if(
        base.is_due(when, schedule, step),
        lambda: masks_for(lambda: scores()[0], shapes, schedule(step)),
        state.masks)
    return masks, base.RuleState(step, masks, scores()[1])

  rule = base.made_of(init, update, ahead=base.acts_always(when))
  rule.progress = schedule
  return rule


def _all_kept(params: ArrayTree) -> Any:
  return jax.tree.map(lambda w: jnp.ones_like(w, dtype=bool), params)
