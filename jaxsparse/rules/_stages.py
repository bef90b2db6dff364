"""Stages: one rule after another, chosen by the step alone."""

from typing import Any, Mapping

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse.rules import base


@arguments.checked()
def stages(rules: Mapping[int, base.Rule]) -> base.Rule:
  """Switches to another rule at given steps.

  The step alone decides which rule makes the masks, so a run that is resumed in
  the middle of a stage continues as if it had not stopped. Patterns may differ
  from stage to stage, in one compiled train step (`lax.switch`): only the
  current rule runs, and only its scores accumulate.

  A rule that does not act at every step starts with the masks of the previous
  stage and acts at the next step at which its `when` holds. `prune_and_grow`,
  which keeps the number of weights, makes it its own at the first step of the
  stage: the smallest weights go, or others grow. Steps are counted from the
  start of training.

  Args:
    rules: maps the first step of each stage to its rule: `prune`,
      `prune_and_grow` or `lock(patterns)`. The first stage begins at 0, and all
      stages have the same sparse parameters.

  Returns:
    A rule, an `optax.GradientTransformationExtraArgs` with masks as updates.

  Raises:
    ValueError: if the steps do not increase from 0; from `init` if a pattern of
      a stage does not fit a parameter, or a stage has other sparse parameters
      than the first.

  >>> from jaxsparse import prune
  >>> from jaxsparse.patterns import nm
  >>> rule = stages({0: prune({'.*': nm(4, 4)}),  # dense
  ...                2: prune({'.*': nm(2, 4)})})
  >>> w = jnp.arange(4.)[:, None]
  >>> state, kept = rule.init(w), []
  >>> for _ in range(3):
  ...   masks, state = rule.update(w, state, w)
  ...   kept.append(int(masks.sum()))
  >>> kept
  [4, 2, 2]
  """
  begins = list(rules)
  if not begins or begins[0] != 0 or begins != sorted(set(begins)):
    raise ValueError(
        'stages needs a mapping from increasing steps, the first one 0, to '
        f'rules, got the steps {begins}. Write e.g. stages({{0: first, 1_000: '
        'second}).')
  parts = [base.with_extra_args(rule) for rule in rules.values()]

  def init(params):
    states = [parts[0].init(params),
              *(_begun_later(rule, params) for rule in parts[1:])]
    for begin, state in zip(begins, states):
      _check(begin, state, states[0])
    dense = [s.dense for s in states if s.dense is not None]
    return states[0]._replace(scores=tuple(s.scores for s in states),
                              dense=dense[0] if dense else None)

  def update(grads, state, params=None, **extra_args):
    outer = extra_args.pop('begins', False)  # Of stages around these.

    def ask(i):
      start = outer | (step == begins[i]) if begins[i] else outer
      masks, new = parts[i].update(
          grads, state._replace(scores=state.scores[i]), params, begins=start,
          **extra_args)
      dense = new.dense
      if dense is None and state.dense is not None:
        dense = jnp.zeros_like(state.dense)
      scores = *state.scores[:i], new.scores, *state.scores[i + 1:]
      return masks, scores, dense

    step = state.count + 1
    stage = sum((step >= begin).astype(jnp.int32) for begin in begins[1:])
    if len(parts) == 1:
      masks, scores, dense = ask(0)
    else:
      masks, scores, dense = lax.switch(
          stage, [lambda i=i: ask(i) for i in range(len(parts))])
    return masks, base.RuleState(step, masks, scores, dense)

  return base.made_of(init, update, *parts)


def _begun_later(rule: base.Rule, params: Any) -> Any:
  """The state at `init` of a rule whose first masks are another rule's.

  Where the masks are all that it has, their shapes are enough. So `lock` makes
  none from params that are not pruned yet, and does not warn of them.
  """
  state = jax.eval_shape(rule.init, params)
  more = getattr(state, 'dense', None), getattr(state, 'scores', None)
  return rule.init(params) if jax.tree.leaves(more) else state


def _check(begin: int, state: Any, first: Any) -> None:
  if not isinstance(state, base.RuleState):
    raise ValueError(
        f'The rule of the stage at step {begin} must be prune, prune_and_grow '
        f'or lock, got one with the state {type(state).__name__}. Write e.g. '
        f'stages({{{begin}: jaxsparse.prune(...)}}).')
  one, other = (jax.tree.structure(s.masks) for s in (state, first))
  if one != other:
    raise ValueError(
        f'The stage at step {begin} has other sparse parameters than the '
        'first. Use the same regular expressions in all stages; to keep all '
        'weights in one of them, write nm(m, m), e.g. nm(4, 4).')
