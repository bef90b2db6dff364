"""Rules: when masks change, and to what.

A rule is an `optax.GradientTransformation` whose "updates" are masks:

  state = rule.init(params)                       # state.masks: already valid
  masks, state = rule.update(grads, state, params)

`params` are the weights where `grads` were taken. Most rules act at some steps.
They are asked before the optimizer makes its step, which then goes under the
new masks: all that a mask needs is computed in one `lax.cond` from arrays that
are there anyway, so a step on which no mask changes costs next to nothing.

A rule that acts at every step is an `EveryStep` rule. It is asked after the
optimizer and given `updates`, what that is about to add, and its masks belong
to `params + updates`: the next forward pass sees no mask that is a step old.
"""

import dataclasses
from typing import Any, Callable, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import schedules
from jaxsparse import scores as scores_lib
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.patterns import Pattern


class Rule(optax.GradientTransformationExtraArgs):
  """A rule, a `GradientTransformation` whose updates are masks.

  Attributes:
    progress: the schedule that the rule follows, if there is one: `progressive`
      ends where it does.
  """
  progress: schedules.Schedule | None = None


class EveryStep(Rule):
  """A rule that acts at every step, and so looks one step ahead.

  Its `update` is given `updates` as well, what the optimizer is about to add,
  and its masks belong to `params + updates`. It is given `optimizer`, too, the
  state that the optimizer has by then.
  """


Patterns = Mapping[str, Pattern | None]


def _are_patterns(value: Any) -> bool:
  return isinstance(value, Mapping) and all(
      isinstance(regex, str) and isinstance(pattern, Pattern | None)
      for regex, pattern in value.items())


def _with_path(value: Any) -> str:
  alone = value if isinstance(value, Pattern) else 'jaxsparse.nm(2, 4)'
  return (f"{{'.*kernel': {alone}}}, or kernel_patterns(apply, params, x, "
          'pattern=...) for all kernels of a function')


_PATTERNS = arguments.Check(
    _are_patterns, 'a mapping in which regular expressions for paths map to a '
    'pattern or None', _with_path)
arguments.register(Patterns, _PATTERNS)
# For rules that would prune nothing without any.
SOME_PATTERNS = dataclasses.replace(
    _PATTERNS, takes=lambda value: _are_patterns(value) and bool(value))
arguments.register(Rule, arguments.transformation(
    'a rule', "jaxsparse.prune({'.*kernel': jaxsparse.nm(2, 4)})"))


class RuleState(NamedTuple):
  """The state of `prune`, `prune_and_grow`, `lock` and `stages`.

  Every state of a rule has `count`, `masks` and `dense`.

  Attributes:
    count: the number of updates made, int32.
    masks: like the params: bool arrays, or `None` where dense.
    scores: the states of the rule's scores.
    dense: whether the last update read gradients of pruned weights beyond what
      the flow lets through, a bool scalar; `None` if no update ever does.
  """
  count: jax.Array
  masks: ArrayTree
  scores: Any
  dense: jax.Array | None = None


class Around:
  """What the state of a rule around another rule says of itself.

  Every state of a rule has `count`, `masks` and `dense`, see `RuleState`. A
  state with an `inner` one inherits them from here, and has fields of its own
  for those that differ.
  """
  __slots__ = ()
  inner: Any

  @property
  def count(self) -> jax.Array:
    """The number of updates made."""
    return self.inner.count

  @property
  def masks(self) -> ArrayTree:
    """Like the params: bool arrays, or `None` where dense."""
    return self.inner.masks

  @property
  def dense(self) -> jax.Array | None:
    """As `RuleState.dense`."""
    return self.inner.dense


def made_of(init: Callable[..., Any], update: Callable[..., Any],
            *parts: optax.GradientTransformation | None,
            ahead: bool = False) -> Rule:
  """A rule that looks ahead if it is told to, or if a rule in it does."""
  ahead |= any(isinstance(part, EveryStep) for part in parts)
  return (EveryStep if ahead else Rule)(init, update)


def acts_always(when: schedules.When) -> bool:
  """Whether `when` is known to hold at every step.

  >>> acts_always(schedules.every(1)), acts_always(schedules.every(2))
  (True, False)
  """
  answers = []
  jax.eval_shape(lambda step: answers.append(when(step)),
                 jax.ShapeDtypeStruct((), jnp.int32))
  return answers[0] is True


def is_due(when: schedules.When, schedule: schedules.Schedule, step: jax.Array
           ) -> bool | jax.Array:
  """Whether a rule acts: when asked to, and as its schedule reaches its end."""
  due = when(step)
  return due if due is True else due | schedules.arrives(schedule, step)


def with_extra_args(rule: optax.GradientTransformation) -> Rule:
  """A rule whose `update` may be given `updates` and the like.

  `optax.with_extra_args_support` has an argument `updates` of its own.
  """
  if isinstance(rule, optax.GradientTransformationExtraArgs):
    return rule

  def update(grads, state, params=None, **extra_args):
    del extra_args
    return rule.update(grads, state, params)
  return Rule(rule.init, update)


@arguments.checked()
def resolve(patterns: Patterns, params: ArrayTree) -> Any:
  """The pattern of every parameter, or `None`; checks that each one fits.

  Args:
    patterns: regular expressions for whole paths, such as `'.*/kernel'`, to
      patterns or `None` for dense. The first full match wins.
    params: any pytree of arrays.

  Returns:
    A tree like `params`.

  Raises:
    ValueError: naming the rule that matches nothing, or the parameter that a
      pattern does not fit and why.
  """
  def check(path, w, pattern):
    if pattern is not None:
      try:
        pattern.sizes(jnp.shape(w))
      except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    return pattern
  return trees.map_with_path(check, params, trees.match_rules(patterns, params))


def sparse_only(tree: Any, like: Any) -> Any:
  """`tree` with `None` in place of every leaf that is dense in `like`."""
  if tree is None:
    return None
  trees.check_beside(tree, like)
  return jax.tree.map(
      lambda x, other: None if trees.is_dense(other) else x, tree, like)


def initial_scores(score: Any, params: ArrayTree) -> Any:
  """Scores without gradients, or `None` if the score needs them."""
  try:
    return score.update(None, score.init(params), params)[0]
  except Exception as error:
    raise ValueError(
        'A rule scores the initial params with grads=None, and the score '
        f'failed on that ({error}). A score that needs gradients returns '
        '(None, state) then; nothing is pruned until the first update.'
    ) from error


def after(params: ArrayTree, updates: ArrayTree) -> ArrayTree:
  """The params as `optax.apply_updates` will make them; as they are for None.
  """
  return params if updates is None else optax.apply_updates(params, updates)


Scored = Callable[[scores_lib.Score, Any], tuple[Any, Any]]


def scored_after(state: Any, grads: ArrayTree, params: ArrayTree,
                 updates: ArrayTree, like: Any, **extra_args: Any) -> Scored:
  """How scores are asked at an update.

  Args:
    state: the rule's state, which has the masks.
    grads: the gradients.
    params: the params where they were taken.
    updates: what the optimizer is about to add, if the rule looks ahead.
    like: a tree that is dense where no scores are asked for.
    **extra_args: those of the rule's update.

  Returns:
    `(score, its state) -> (scores, its new state)`.
  """
  grads, point, updates = (
      sparse_only(tree, like) for tree in (grads, params, updates))

  # Held: scores are made again in each turn of a search, and from sums that
  # takes several times as long as from arrays.
  weights = after(point, updates)

  def scored(score, score_state):
    return score.update(grads, score_state, weights, point=point,
                        masks=state.masks, **extra_args)
  return scored


class Moment(NamedTuple):
  """One update, as far as sparse parameters are concerned.

  Attributes:
    step: the number of updates, this one included.
    shapes: the patterns, a tree like the params.
    score: `(score, state) -> (scores, state)`, of the params as they are or,
      with updates, as `optax.apply_updates` will make them.
  """
  step: jax.Array
  shapes: Any
  score: Scored


def moment(patterns: Patterns, state: RuleState, grads: ArrayTree,
           params: ArrayTree, updates: ArrayTree, **extra_args: Any) -> Moment:
  """What a rule works with when it is updated."""
  shapes = resolve(patterns, params)
  return Moment(state.count + 1, shapes, scored_after(
      state, grads, params, updates, shapes, **extra_args))


def run_if(due: bool | jax.Array, new: Callable[[], Any], old: Any) -> Any:
  """`new()` if due; decided while tracing where that is known."""
  if isinstance(due, bool):
    return new() if due else old
  return numerics.either(due, new, lambda: old)
