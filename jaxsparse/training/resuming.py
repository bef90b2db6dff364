"""Restored states: whether a method still does what it is asked for."""

import warnings

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import transform
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree

_MOST_OFF = 0.005  # Of a layer's weights; thresholds of random weights move.


@arguments.checked(steps=arguments.step(0, '100'))
def check_resume(method: transform.Method | optax.GradientTransformation,
                 params: ArrayTree, opt_state: ArrayTree, *, steps: int
                 ) -> dict[str, tuple[float, float]]:
  """Warns if a restored state will not come to where its method would.

  A rule goes on at the step that its state counted to. One with a higher target
  than before, whose schedule or `when` has ended by then, never acts, and
  nobody would notice. Here the rule runs on the params as they are, once
  from the restored state, and once from the start of a training that ends on
  the same step; the weights stand still in both.

  Call it once after restoring, and not inside of `jit`: an update cannot tell.

  Args:
    method: the method of the training that goes on, or a rule.
    params: the restored params.
    opt_state: the restored optimizer state, whatever is around `sparsify`.
    steps: how many steps are still to come.

  Returns:
    By path the sparsity at the end, restored and from the start.

  Raises:
    ValueError: unless there is exactly one `SparseState`, or if it is that of
      a rule with other masks.

  Warns:
    UserWarning: if they differ by more than 0.005 in a layer.

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
  rule = method.rule if isinstance(method, transform.Method) else method

  @jax.jit
  def both(params, state):
    zeros = jax.tree.map(jnp.zeros_like, params)
    step = lambda _, state: rule.update(
        zeros, state, params, updates=zeros)[1]
    rest = lax.fori_loop(0, steps, step, state)
    whole = lax.fori_loop(0, state.count + steps, step, rule.init(params))
    return jax.tree.map(_sparsity, (rest.masks, whole.masks))
  try:
    rest, whole = both(params, restored.rule)
  except (TypeError, ValueError, AttributeError) as error:
    raise ValueError(
        'The state is not one of this method and these params: '
        f'{str(error).splitlines()[0]}. Give the method or rule itself, not '
        'the tx that sparsify made of it, and restore the state into the '
        'structure of jax.eval_shape(tx.init, params).') from error
  found = {path: (float(a), float(b))
           for path, a, b in trees.align(rest, whole)}
  off = {path: pair for path, pair in found.items()
         if abs(pair[0] - pair[1]) > _MOST_OFF}
  if off:
    path, (a, b) = next(iter(off.items()))
    done = int(np.asarray(restored.rule.count))
    warnings.warn(
        f'The state goes on at step {done:,}, where the schedule or `when` of '
        f'this method no longer acts as it would have: {path} will end with '
        f'{a:.1%} pruned, and with {b:.1%} in a training from the start '
        f'({len(off)} of {len(found)} layers differ). Begin them at that step, '
        f'such as schedule=jaxsparse.schedules.cubic({done}, {done + steps}), '
        'or give the method a state of its own: tx.init(params).',
        stacklevel=2)
  return found


def _sparsity(mask: jax.Array) -> jax.Array:
  return 1 - mask.astype(jnp.float32).mean()
