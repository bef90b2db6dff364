"""`lock`: the zeros of trained weights stay zero."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxsparse import patterns as patterns_lib
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils import warning
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.masks import selection
from jaxsparse.rules import base


@arguments.checked()
def lock(patterns: base.Patterns | None = None) -> base.Rule:
  """Pattern lock: weights that are zero at `init` stay zero.

  Masks are taken from the params at `init` and never change. A unit is alive if
  any of its weights is nonzero. A parameter of zeros only, such as a bias
  before training, counts as not pruned and is not locked.

  Args:
    patterns: maps regular expressions for parameter paths to patterns, whose
      units are locked as a whole; by default every zero of every parameter is
      locked by itself.

  Returns:
    A rule, an `optax.GradientTransformationExtraArgs` with masks as updates.

  Raises:
    ValueError: from `init`, see `resolve`.

  Warns:
    UserWarning: from `init` outside of `jit`, if the params have no zero to
      lock. Methods that keep pruned weights, such as `ste`, leave no zeros.

  >>> import jax.numpy as jnp
  >>> print(lock().init({'kernel': jnp.array([0., 2.])}).masks['kernel'])
  [False  True]
  """
  def capture(w, pattern):
    alive = selection.unit_scores(
        jnp.not_equal(w, 0).astype(jnp.float32), pattern) > 0
    return selection.spread(alive | ~alive.any(), pattern, jnp.shape(w))

  def init(params):
    shapes = _every_zero(params) if patterns is None else base.resolve(
        patterns, params)
    masks = jax.tree.map(capture, base.sparse_only(params, shapes), shapes)
    if _locks_nothing(masks):
      warning.warn(
          'lock() found no pruned weight in the params, so it locks nothing. '
          'Methods such as ste() and sr_ste(...) keep the values of pruned '
          'weights in the params; after these, lock the sparse params: write '
          'tx.init(jaxsparse.sparse_params(params, opt_state)).')
    return base.RuleState(jnp.zeros((), jnp.int32), masks, ())

  def update(grads, state, params=None, *, updates=None, **extra_args):
    del grads, params, updates, extra_args
    # The state may be that of the rule that made the masks, and keeps its form.
    dense = None if state.dense is None else jnp.zeros_like(state.dense)
    kept = state if isinstance(state, base.RuleState) else base.RuleState(
        state.count, state.masks, ())
    return state.masks, kept._replace(count=state.count + 1, dense=dense)

  return base.Rule(init, update)


def _every_zero(params: ArrayTree) -> Any:
  """The pattern of every parameter that is a weight."""
  free = patterns_lib.unstructured()
  return trees.map_with_path(
      lambda _, w: free if base.is_weight(w) else None, params)


def _locks_nothing(masks: Any) -> bool:
  """Whether there are masks and all keep everything, as far as one can see."""
  leaves = jax.tree.leaves(masks)
  if not leaves or any(isinstance(x, jax.core.Tracer) for x in leaves):
    return False
  return all(bool(mask.all()) for mask in leaves)
