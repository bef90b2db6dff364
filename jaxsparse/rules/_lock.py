"""`lock`: the zeros of trained weights stay zero."""

from typing import Any
import warnings

import jax
import jax.numpy as jnp

from jaxsparse import patterns as patterns_lib
from jaxsparse._utils import arguments
from jaxsparse.masks import selection
from jaxsparse.rules import base


@arguments.checked()
def lock(patterns: base.Patterns | None = None) -> base.Rule:
  """Pattern lock: weights that are zero at `init` stay zero.

  Masks are taken from the params at `init` and never change. A unit is alive if
  any of its weights is nonzero. A parameter that is zero throughout, such as a
  bias before training, was not pruned and is left free.

  Args:
    patterns: regular expressions for parameter paths to patterns, to lock whole
      units; by default every single weight of every parameter.

  Returns:
    A rule, an `optax.GradientTransformationExtraArgs` with masks as updates.

  Raises:
    ValueError: from `init`, see `resolve`.

  Warns:
    UserWarning: from `init` outside of `jit`, if the params have no zero to
      lock: those of a method that keeps pruned weights have none.

  >>> import jax.numpy as jnp
  >>> print(lock().init({'kernel': jnp.array([0., 2.])}).masks['kernel'])
  [False  True]
  """
  def capture(w, pattern):
    if not jnp.issubdtype(w.dtype, jnp.inexact):
      return None  # A key, or a table of whole numbers: not a weight.
    alive = selection.unit_scores((w != 0).astype(jnp.float32), pattern) > 0
    return selection.spread(alive | ~alive.any(), pattern, w.shape)

  def init(params):
    shapes = base.resolve(
        {'.*': patterns_lib.unstructured()} if patterns is None else patterns,
        params)
    masks = jax.tree.map(capture, base.sparse_only(params, shapes), shapes)
    if _locks_nothing(masks):
      warnings.warn(
          'lock() found no pruned weight in the params, so it locks nothing. '
          'After a method that keeps pruned weights, such as ste() or '
          'sr_ste(...), give it the sparse ones: '
          'tx.init(jaxsparse.sparse_params(params, opt_state)).', stacklevel=2)
    return base.RuleState(jnp.zeros((), jnp.int32), masks, ())

  def update(grads, state, params=None, *, updates=None, **extra_args):
    del grads, params, updates, extra_args
    # The state may be that of the rule that made the masks.
    return state.masks, base.RuleState(state.count + 1, state.masks, ())

  return base.Rule(init, update)


def _locks_nothing(masks: Any) -> bool:
  """Whether there are masks and all keep everything, as far as one can see."""
  leaves = jax.tree.leaves(masks)
  if not leaves or any(isinstance(x, jax.core.Tracer) for x in leaves):
    return False
  return all(bool(mask.all()) for mask in leaves)
