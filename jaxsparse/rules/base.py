"""The protocol of rules, their state, and building blocks for new ones.

A rule is an `optax.GradientTransformation` whose "updates" are masks:

  state = rule.init(params)                       # state.masks: already valid
  masks, state = rule.update(grads, state, params)

`params` are the weights at which `grads` were taken. Most rules act at some
steps. `sparsify` updates these rules before the optimizer makes its step, and
the step is made under the new masks. One `lax.cond` computes scores and masks
from arrays that exist anyway, so a step on which no mask changes costs next to
nothing.

A rule that acts at every step is an `EveryStep` rule. `sparsify` updates it
after the optimizer, and passes the optimizer's `updates` to it. Its masks
belong to `params + updates`, so no forward pass sees a mask of the step before.
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
from jaxsparse._utils import warning
from jaxsparse._utils.tables import brief
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.patterns import Pattern
from jaxsparse.rules import _heads


class Rule(optax.GradientTransformationExtraArgs):
  """A rule, a `GradientTransformation` whose updates are masks.

  Attributes:
    progress: the schedule that the rule follows, or `None`. `progressive` ends
      at the end of this schedule.
  """
  progress: schedules.Schedule | None = None


class EveryStep(Rule):
  """A rule that acts at every step, and so looks one step ahead.

  Its `update` takes two more arguments: `updates`, the optimizer's updates of
  the same step, and `optimizer`, the state of the optimizer after that step.
  Its masks belong to `params + updates`.
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
# For rules that would prune nothing with an empty mapping.
SOME_PATTERNS = dataclasses.replace(
    _PATTERNS, takes=lambda value: _are_patterns(value) and bool(value))
arguments.register(Rule, arguments.transformation(
    'a rule', "jaxsparse.prune({'.*kernel': jaxsparse.nm(2, 4)})"))


class RuleState(NamedTuple):
  """The state of `prune`, `prune_and_grow`, `lock` and `stages`.

  Every state of a rule has `count`, `masks` and `dense`.

  Attributes:
    count: the number of updates made, int32.
    masks: a tree like the params: bool arrays, or `None` where dense.
    scores: the states of the rule's scores.
    dense: whether the last update read gradients of pruned weights that the
      flow itself does not use, a bool scalar; `None` if no update reads them.
  """
  count: jax.Array
  masks: ArrayTree
  scores: Any
  dense: jax.Array | None = None


class Around:
  """The base class of the state of a rule that wraps another rule.

  Every state of a rule has `count`, `masks` and `dense`, see `RuleState`. This
  class takes them from the field `inner`, the state of the wrapped rule. A
  subclass declares a field of its own for each one that differs.
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
  """An `EveryStep` rule if `ahead`, or if one of `parts` is; else a `Rule`."""
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
  """Whether a rule acts: where `when` holds, and at its schedule's end."""
  due = when(step)
  return due if due is True else due | schedules.arrives(schedule, step)


def with_extra_args(rule: optax.GradientTransformation) -> Rule:
  """A rule whose `update` takes, and ignores, `updates` and other arguments.

  `optax.with_extra_args_support` does not serve, because its `update` has an
  argument `updates` of its own.
  """
  if isinstance(rule, optax.GradientTransformationExtraArgs):
    return rule

  def update(grads, state, params=None, **extra_args):
    del extra_args
    return rule.update(grads, state, params)
  return Rule(rule.init, update)


def is_weight(leaf: Any) -> bool:
  """Whether a leaf is no key, no table of whole numbers and no text.

  >>> is_weight(jnp.ones(2)), is_weight(.5), is_weight(jnp.arange(2))
  (True, True, False)
  """
  return isinstance(leaf, (float, complex)) or jax.dtypes.issubdtype(
      getattr(leaf, 'dtype', int), jnp.inexact)


@arguments.checked()
def resolve(patterns: Patterns, params: ArrayTree) -> Any:
  """The pattern of every parameter, checked against the parameter's shape.

  Args:
    patterns: maps regular expressions for whole paths, such as `'.*/kernel'`,
      to patterns, or to `None` for dense. The first full match wins.
    params: any pytree of arrays.

  Returns:
    A tree like `params` with a pattern, or `None` for dense, at each leaf.

  Raises:
    ValueError: if a regular expression matches no parameter, or a pattern does
      not fit a parameter, as if that has whole numbers; the message names the
      expression or the parameter.

  Warns:
    UserWarning: if N:M groups run across the heads of Flax's queries, keys or
      values.
  """
  matched = trees.match_rules(patterns, params)
  rows = trees.align(params, matched)
  shapes = {path: jnp.shape(w) for path, w, _ in rows}
  across = {path: pattern for path, _, pattern in rows
            if _heads.across_heads(path, pattern, shapes)}
  for path, w, pattern in rows:
    if pattern is not None:
      if not is_weight(w):
        got = getattr(w, 'dtype', type(w).__name__)
        raise ValueError(
            f'{trees.named(path)}: only floating and complex parameters can be '
            f'pruned, got {got}. Make it dense, in front of other patterns: '
            f'{{{path!r}: None, ...}}.')
      try:
        pattern.sizes(shapes[path])
      except ValueError as error:
        hint = f' {_heads.remedy(pattern)}' if path in across else ''
        raise ValueError(f'{trees.named(path)}: {error}{hint}') from error
  if across:
    path, pattern = next(iter(across.items()))
    warning.warn(
        f'{pattern} runs across the {shapes[path][-2]} heads of '
        f'{trees.few([*across])}, axis -2 of the shape {shapes[path]}. '
        f'{_heads.remedy(pattern)}')
  return matched


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
    scores = score.update(None, score.init(params), params)[0]
  except Exception as error:
    raise ValueError(
        'A rule scores the initial params with grads=None, and the score '
        f'raised an error there ({error}). If a score needs gradients, its '
        'update must return (None, state) for grads=None; then the rule prunes '
        'nothing before the first update.'
    ) from error
  return None if scores is None else _like_params(scores, params)


def _like_params(scores: Any, params: ArrayTree) -> Any:
  """The scores of a score; an error unless they have the params' shapes."""
  try:
    rows = trees.align(params, scores)
  except ValueError:
    got = brief(scores)
  else:
    wrong = [(path, x) for path, w, x in rows
             if getattr(x, 'shape', None) != jnp.shape(w)]
    if not wrong:
      return scores
    path, x = wrong[0]
    kind = f'shape {x.shape}' if hasattr(x, 'shape') else brief(x)
    got = f'{kind} at {trees.named(path)}'
  raise ValueError(
      'The scores that the update of a score returns must be a tree like the '
      f'params, of arrays in the shapes of the params, got {got}. Write e.g. '
      'return jax.tree.map(jnp.abs, params), state')


def after(params: ArrayTree, updates: ArrayTree) -> ArrayTree:
  """The params plus updates, or the params themselves if updates are `None`."""
  return params if updates is None else optax.apply_updates(params, updates)


Scored = Callable[[scores_lib.Score, Any], tuple[Any, Any]]


def scored_after(state: Any, grads: ArrayTree, params: ArrayTree,
                 updates: ArrayTree, like: Any, /, **extra_args: Any) -> Scored:
  """The function that evaluates scores during an update of a rule.

  Args:
    state: the rule's state, which has the masks.
    grads: the gradients.
    params: the params at which the gradients were taken.
    updates: the optimizer's updates if the rule is an `EveryStep` rule, else
      `None`.
    like: a tree that is dense at parameters without scores.
    **extra_args: the extra arguments of the rule's update.

  Returns:
    `(score, its state) -> (scores, its new state)`.
  """
  grads, point, updates = (
      sparse_only(tree, like) for tree in (grads, params, updates))

  # Computed once: each turn of a search makes the scores again, which takes
  # several times as long from a sum as from an array.
  weights = after(point, updates)

  def scored(score, score_state):
    own = dict(point=point, masks=state.masks, step=state.count + 1)
    # Arguments for the optimizer may have the same names.
    scores, new_state = score.update(
        grads, score_state, weights, **{**extra_args, **own})
    return _like_params(scores, weights), new_state
  return scored


class Moment(NamedTuple):
  """The inputs of one update of a rule, for its sparse parameters.

  Attributes:
    step: the number of updates, this one included.
    shapes: the patterns, a tree like the params.
    score: `(score, state) -> (scores, state)`. It scores the params, or
      `params + updates` if the rule was given updates.
  """
  step: jax.Array
  shapes: Any
  score: Scored


def moment(patterns: Patterns, state: RuleState, grads: ArrayTree,
           params: ArrayTree, updates: ArrayTree, /, **extra_args: Any
           ) -> Moment:
  """Collects the inputs of one update of a rule."""
  shapes = resolve(patterns, params)
  return Moment(state.count + 1, shapes, scored_after(
      state, grads, params, updates, shapes, **extra_args))


def run_if(due: bool | jax.Array, new: Callable[[], Any], old: Any) -> Any:
  """`new()` if due, else `old`; a Python bool is decided while tracing."""
  if isinstance(due, bool):
    return new() if due else old
  return numerics.either(due, new, lambda: old)
