"""Progressive pruning: a structured mask is reached weight by weight.

`progressive` wraps a rule whose patterns are blocks, channels or N:M groups.
Without `progressive`, a change of masks prunes whole units at once. With it,
the weights of these units are pruned in portions, the smallest weights first.
On the way masks are unstructured, and the kept weights have time to make up for
each portion.
"""

import functools
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import patterns
from jaxsparse import schedules
from jaxsparse import scopes
from jaxsparse import scores as scores_lib
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.rules import base


class _Fields(NamedTuple):
  inner: Any
  masks: ArrayTree
  left: jax.Array
  due: jax.Array
  scores: Any


class ProgressiveState(base.Around, _Fields):
  """The state of `progressive`.

  Attributes:
    inner: the state of the wrapped rule; its masks are the target.
    masks: a tree like the params: bool arrays, or `None` where dense.
    left: the number of portions that are still to be pruned, int32.
    due: the step at which the next portion is pruned, int32.
    scores: the state of the score.
  """
  masks = _Fields.masks  # Not those of the rule inside.


@arguments.checked(
    steps=arguments.step(1, '4, for four portions'),
    every=arguments.step(1, '100'), score=scores_lib.SCORE)
def progressive(rule: base.Rule, *, steps: int = 4, every: int = 100,
                score: scores_lib.Score | None = None) -> base.Rule:
  """Prunes the weights of a rule in portions instead of all at once.

  When the masks of `rule` change, let `D` be the weights of a parameter that
  the current mask keeps and the new mask prunes. With `r` portions left,

    masks = new masks | the round(|D| * (r - 1) / r) highest scores of D.

  The first portion is pruned at once, and one more portion after every `every`
  updates, until the masks are those of the rule. All weights of `D` in a
  parameter compete with each other. Weights that the new mask keeps and the
  current one prunes come back at once. If the rule's masks change while
  portions are left, the portions start anew from the current masks; so they
  never catch up with a rule whose masks change more often than every `steps *
  every` updates. At the step at which a gradual schedule of a `prune` or
  `prune_and_grow` ends, all remaining portions are pruned, because training may
  end at that step. `combine` and `stages` follow several schedules, so around
  them every portion waits for its step. Write `combine(progressive(...), ...)`,
  or let the last schedule in `stages` end `(steps - 1) * every` updates before
  training does.

  Args:
    rule: `prune(...)` with patterns of blocks, channels or N:M groups, and a
      `when` that leaves time for all portions.
    steps: the number of portions.
    every: the number of updates between two portions.
    score: the score by which the weights of `D` compete; `magnitude()` by
      default.

  Returns:
    A rule with a `ProgressiveState`.

  Raises:
    ValueError: if `rule` is not a rule or `score` is not a score, or if a
      number is not positive.

  References:
    Intel, `Neural Compressor, progressive pruning (snip_momentum_progressive)
    <https://github.com/intel/neural-compressor>`_. There, the weights of all
    layers compete by the scores of the last structured step, portions follow
    each other at `1 / steps` of the pruning frequency, and each portion starts
    from the previous structured mask. Here, each layer has its own portions,
    scores are those of the current weights, and the number of portions need not
    divide any other number.

  >>> from jaxsparse import prune
  >>> sparse = prune({'.*': patterns.channel(-1, sparsity=0.5)})
  >>> rule = progressive(sparse, steps=2, every=1)
  >>> w = jnp.array([[1., 5.], [2., 6.]])
  >>> state = rule.init(w)
  >>> print(state.masks)
  [[False  True]
   [ True  True]]
  >>> print(rule.update(None, state, w)[0])
  [[False  True]
   [False  True]]
  """
  rule = base.with_extra_args(rule)
  progress = getattr(rule, 'progress', None)

  def final(step):
    """Whether a schedule that was under way ends."""
    if progress is None:
      return jnp.zeros((), bool)
    return schedules.arrives(progress, step) & (
        jnp.asarray(progress(step - 1)) > 0)
  score = optax.with_extra_args_support(score or scores_lib.magnitude())

  def init(params):
    inner = rule.init(params)
    point = base.sparse_only(params, inner.masks)
    waits = jax.eval_shape(lambda: base.initial_scores(score, point)) is None
    masks = jax.tree.map(lambda w: jnp.ones_like(w, dtype=bool), point)
    left = jnp.where(_differ(masks, inner.masks), steps, 0).astype(jnp.int32)
    # A portion that is due at step 1 waits for the first gradients.
    due = jnp.ones((), jnp.int32)
    if not waits:
      masks = _without_portion(
          masks, inner.masks, lambda: base.initial_scores(score, point), left)
      left, due = jnp.maximum(left - 1, 0), due * every
    left, due = numerics.varying_as((left, due), lambda: inner.masks)
    return ProgressiveState(inner, masks, left, due, score.init(point))

  def update(grads, state, params=None, *, updates=None, **extra_args):
    target, inner = rule.update(
        grads, state.inner, params, updates=updates, **extra_args)
    changed = _differ(state.inner.masks, target)
    left = jnp.where(changed, steps, state.left)
    # Nothing is left to another step where training may end.
    left = jnp.where(final(inner.count), jnp.minimum(left, 1), left)
    goes = (left > 0) & (
        changed | (inner.count >= state.due) | final(inner.count))

    def scored():
      return base.scored_after(
          state, grads, params, updates, target, **extra_args)(
              score, state.scores)

    masks = base.run_if(
        goes, lambda: _without_portion(
            state.masks, target, lambda: scored()[0], left), state.masks)
    return masks, ProgressiveState(
        inner, masks, jnp.where(goes, left - 1, left),
        jnp.where(goes, inner.count + every, state.due), scored()[1])

  return base.made_of(init, update, rule)


def _differ(masks: ArrayTree, others: Any) -> bool | jax.Array:
  """Whether any entry does."""
  if masks is others:
    return False
  return functools.reduce(jnp.logical_or, jax.tree.leaves(jax.tree.map(
      lambda a, b: jnp.any(a != b), masks, others)), jnp.zeros((), bool))


def _without_portion(masks: ArrayTree, target: Any, make: Callable[[], Any],
                     left: jax.Array) -> Any:
  """Masks without the first of `left` portions of the weights to be pruned.

  `make` makes the scores by which the other portions stay.
  """
  going = lambda now, then: now & ~then
  share = 1. / jnp.maximum(left, 1).astype(jnp.float32)

  leaves, structure = jax.tree.flatten(
      jax.tree.map(going, masks, target))
  n = counts.total_each(leaves)
  kept = structure.unflatten([
      selection.Kept(k) for k in counts.unstack(
          counts.remaining(n, n, jnp.broadcast_to(share, n.lo.shape)))])

  def ranks():
    # Others are below all of those that go, so that these keep their number.
    return jax.tree.map(
        lambda now, then, s: jnp.where(going(now, then), scopes.finite(s),
                                       -jnp.inf), masks, target, make())
  stay = selection.select_each(
      ranks, jax.tree.map(lambda _: patterns.unstructured(), masks), kept)
  return jax.tree.map(
      lambda now, then, s: then | (going(now, then) & s), masks, target, stay)
