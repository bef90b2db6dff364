"""`check_resume`: whether a restored state still goes to its target."""

import itertools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import transform
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils import warning
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.rules import base

# The largest allowed difference of sparsities in a layer; thresholds over
# random weights vary.
_MOST_OFF = 0.005


@arguments.checked(steps=arguments.step(0, '100'))
def check_resume(method: transform.Method | optax.GradientTransformation,
                 params: ArrayTree, opt_state: ArrayTree, *, steps: int
                 ) -> dict[str, tuple[float, float]]:
  """Warns if a restored state will not go to the target of its method.

  A rule continues at the step that its restored state counted to. If the new
  rule has a higher target, but its schedule or `when` has ended before that
  step, the rule never acts again, without an error. If its schedule ends later
  than the old one, it is behind at that step, and opens masks again. This
  function runs the rule on the restored params, which stay constant and are
  their own gradients: from the restored state, and from the start of a training
  that ends at the same step.

  Layers compete if the sparsity of one depends on the weights of others, as
  under `global_threshold`. Further training decides which of them lose more
  weights, so they are compared by their sparsity as a whole.

  Call the function once after restoring, outside of `jit`.

  Args:
    method: the method of the resumed training, or a rule.
    params: the restored params.
    opt_state: the restored optimizer state, with `sparsify` anywhere in it.
    steps: the number of remaining steps.

  Returns:
    A dict from paths to two sparsities at the end of training: from the
    restored state, and from the start.

  Raises:
    ValueError: unless there is exactly one `SparseState`, or if it belongs to a
      rule with other masks.

  Warns:
    UserWarning: if the two sparsities differ by more than 0.005 in a layer, or
      over all layers that compete; or if the sparsity first falls, where it
      does not in a training from the start.

  >>> import jaxsparse
  >>> rule = lambda s: jaxsparse.prune(
  ...     {'.*': jaxsparse.unstructured(s)},
  ...     schedule=jaxsparse.schedules.cubic(0, 2))
  >>> params = {'w': jnp.arange(8.)}
  >>> tx = jaxsparse.sparsify(optax.sgd(0.1), rule(0.5))
  >>> state = tx.init(params)
  >>> for _ in range(3):
  ...   _, state = tx.update({'w': jnp.zeros(8)}, state, params)
  >>> check_resume(rule(0.5), params, state, steps=4)
  {'w': (0.5, 0.5)}
  """
  trees.check_arrays('params', params)
  restored = transform.state_of(opt_state)
  rule = base.with_extra_args(
      method.rule if isinstance(method, transform.Method) else method)
  params, state = _like_init(rule, params, restored.rule)

  @jax.jit
  def ends(params, state):
    zeros = jax.tree.map(jnp.zeros_like, params)

    def step(params, state):
      # Zeros as gradients would be ties, in which the first layers win all.
      return rule.update(params, state, params, updates=zeros)[1]

    def at(params, state, steps):
      return lax.fori_loop(
          0, steps, lambda _, state: step(params, state), state)

    def end(params, state):
      now = _sparsity(state.masks)

      def one(_, carry):
        state, lowest = carry
        state = step(params, state)
        return state, jnp.minimum(lowest, _sparsity(state.masks))
      state, lowest = lax.fori_loop(0, steps, one, (state, now))
      return jax.tree.map(_sparsity, state.masks), jnp.stack([now, lowest])
    rest, falls = end(params, state)
    whole, usual = end(params, at(params, rule.init(params), state.count))
    unlike = _unlike(params, state.masks)
    other = at(unlike, rule.init(unlike), state.count + steps).masks
    compete = jax.tree.map(lambda a, b: a != _sparsity(b), whole, other)
    return rest, whole, compete, falls, usual
  try:
    rest, whole, compete, falls, usual = jax.device_get(ends(params, state))
  except (TypeError, ValueError, AttributeError) as error:
    raise ValueError(
        'The state does not belong to this method and these params: '
        f'{str(error).splitlines()[0]}. Give the method or rule itself, not '
        'the tx that sparsify made of it, and restore the state into the '
        'structure of jax.eval_shape(tx.init, params).') from error
  rows = trees.align(rest, whole, compete, state.masks)
  found = {path: (float(a), float(b)) for path, a, b, *_ in rows}
  together = [row for row in rows if row[3]]
  off = [group for group in ([row] for row in rows if not row[3])
         if _differ(group)] + [together] * _differ(together)
  done = int(np.asarray(restored.rule.count))
  now, lowest = map(float, falls)
  if off:
    path = trees.few([path for path, *_ in off[0]])
    a, b = _totals(off[0])
    warning.warn(
        f'The restored state continues at step {done:,}, where the schedule or '
        f'`when` of this method no longer reaches its target: {path} will end '
        f'with {a:.1%} pruned, and with {b:.1%} in a training from the start '
        f'({sum(map(len, off))} of {len(found)} layers differ). Begin the '
        'schedule at that step, e.g. schedule=jaxsparse.schedules.cubic('
        f'{done}, {done + steps}), or write opt_state = tx.init(params).')
  elif now - lowest > _MOST_OFF >= usual[0] - usual[1]:
    last, _ = _totals(rows)
    warning.warn(
        f'The restored state prunes {now:.1%} at step {done:,}, but the '
        f'schedule of this method is behind: it goes on with {lowest:.1%}, and '
        'pruned weights come back until it has caught up. Begin at the share '
        'that was reached, e.g. schedule=jaxsparse.schedules.from_initial('
        f'jaxsparse.schedules.cubic({done}, {done + steps}), '
        f'{now / max(last, now):.3f}).')
  return found


def _like_init(rule: optax.GradientTransformation, params: ArrayTree,
               state: ArrayTree) -> tuple[ArrayTree, ArrayTree]:
  """Params that the rule sees, and its state in the structure of its `init`.

  The params lack those that are another optimizer's, as in training. A state
  from another kind of boxes, such as those of `nnx.Optimizer`, is unpacked. A
  state that does not fit is returned as it is.
  """
  try:
    masks = trees.nested_like(params, state.masks)
    params = jax.tree.map(
        lambda w, mask: mask if trees.is_masked(mask) else w, params, masks)
    expected, structure = jax.tree.flatten(jax.eval_shape(rule.init, params))
  except (TypeError, ValueError, AttributeError):
    return params, state
  leaves = jax.tree.leaves(state)
  fits = [jnp.shape(x) for x in leaves] == [x.shape for x in expected]
  return params, structure.unflatten(leaves) if fits else state


def _unlike(params: ArrayTree, masks: ArrayTree) -> ArrayTree:
  """Params of other magnitudes in each sparse layer, to see which compete."""
  factors = itertools.count(1)
  # Trained weights may have as many zeros as the target: others than these
  # could not win.
  return jax.tree.map(lambda w, mask: w if trees.is_dense(mask) else (
      (jnp.abs(w) + 1) * next(factors)), params, masks, is_leaf=trees.is_masked)


def _sparsity(masks: ArrayTree) -> jax.Array:
  """The sparsity of one mask, or of all layers as a whole."""
  leaves = jax.tree.leaves(masks)
  kept = sum((mask.sum(dtype=jnp.float32) for mask in leaves),
             jnp.zeros((), jnp.float32))
  # No int32 may hold the size of a whole model.
  return 1 - kept / float(max(sum(mask.size for mask in leaves), 1))


def _totals(rows: list[tuple[Any, ...]]) -> tuple[float, float]:
  """The two sparsities of several layers as a whole."""
  sizes = [mask.size for *_, mask in rows]
  a, b = (sum(float(row[i]) * n for row, n in zip(rows, sizes)) for i in (1, 2))
  return a / max(sum(sizes), 1), b / max(sum(sizes), 1)


def _differ(rows: list[tuple[Any, ...]]) -> bool:
  a, b = _totals(rows)
  return abs(a - b) > _MOST_OFF
