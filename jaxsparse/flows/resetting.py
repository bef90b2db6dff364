"""`reset_state`: an optimizer that resets its moments at given steps."""

from typing import Any, Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse.flows.transforms import HeldState
from jaxsparse.flows.transforms import Transform


@arguments.checked('when')
def reset_state(inner: optax.GradientTransformation,
                when: Callable[[jax.Array], bool | jax.Array], *,
                patterns: Mapping[str, Any] | None = None) -> Transform:
  """Resets the moments of an optimizer before some of its steps.

  Before each step `t`, counted from 1, for which `when(t)` holds, the moments
  become those of `inner.init(params)`. Every tree like the params counts as a
  moment, which holds for any optax optimizer. A number beside moments, such as
  the count by which Adam corrects their bias, is reset together with them.
  Counts of schedules are not reset, so the learning rate continues. Gradients
  that `optax.MultiSteps` accumulates are not reset either.

  The transform computes both states and selects one leaf by leaf, so there is
  no branch and every array keeps its sharding.

  Args:
    inner: any optax optimizer.
    when: a function from step to bool, true at the steps before which the
      moments are reset.
    patterns: maps regular expressions for parameter paths to patterns; the
      moments of parameters that map to `None` are not reset. All parameters by
      default. With patterns, numbers beside moments are not reset, because all
      parameters share them.

  Returns:
    A transform.

  Raises:
    ValueError: if `when` is not a function; from `update` if params are
      missing; or from `init` if a regular expression matches no parameter.

  >>> w = jnp.zeros(1)
  >>> tx = reset_state(optax.trace(0.5), lambda step: step == 3)
  >>> state = tx.init(w)
  >>> for _ in range(4):
  ...   updates, state = tx.update(jnp.ones(1), state, w)
  ...   print(updates)
  [1.]
  [1.5]
  [1.]
  [1.5]
  """
  if not callable(when):
    raise ValueError(
        f'reset_state needs a function of the step, got when={when!r:.80}. '
        'Write e.g. when=lambda step: step == 1_000, or '
        'schedules.every(1_000).')
  inner = optax.with_extra_args_support(inner)

  def chosen(params):
    if patterns is None:
      return jax.tree.map(lambda w: True, params)
    matched = trees.match_rules(patterns, params)
    return jax.tree.unflatten(jax.tree.structure(params), [
        row[-1] is not None for row in trees.align(params, matched)])

  def init(params):
    chosen(params)
    return HeldState(jnp.zeros((), jnp.int32), inner.init(params))

  def update(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
          'reset_state needs the params: write tx.update(grads, opt_state, '
          'params).')
    step = state.count + 1
    old = _renewed(state.inner, inner.init(params), params, chosen(params),
                   jnp.asarray(when(step)), counts=patterns is None)
    updates, new = inner.update(updates, old, params, **extra_args)
    return updates, HeldState(step, new)

  return Transform(init, update)


def _renewed(state: Any, initial: Any, params: Any, chosen: Any,
             due: jax.Array, *, counts: bool) -> Any:
  """The state, with initial moments for the chosen params if `due`."""
  alone = jax.tree_util.treedef_is_leaf(jax.tree.structure(params))

  def is_moments(tree):
    if trees.beside(params, tree) is None:
      return False
    leaves = [x for x in jax.tree.leaves(tree) if _is_float(x)]
    # If the params are one array, every leaf has their structure, and only the
    # shape tells a moment from a count.
    return bool(leaves) and (
        not alone or jnp.shape(tree) == jnp.shape(params))

  def take(old, new):
    return jnp.where(due, new, old)

  def visit(old, new):
    if is_moments(old):
      leaves, structure = trees.flatten_dense(old)
      return structure.unflatten([
          a if trees.is_dense(a) or not c else take(a, b) for a, b, c in zip(
              leaves, *map(structure.flatten_up_to, (new, chosen)))])
    if isinstance(old, optax.MultiStepsState):
      return old._replace(
          inner_opt_state=visit(old.inner_opt_state, new.inner_opt_state))
    children, node = jax.tree.flatten(old, is_leaf=lambda x: x is not old)
    others = jax.tree.leaves(new, is_leaf=lambda x: x is not new)
    if jax.tree_util.treedef_is_leaf(node):
      return old
    beside = counts and any(map(is_moments, children))
    return node.unflatten([
        take(a, b) if beside and _is_number(a) else visit(a, b)
        for a, b in zip(children, others)])
  return visit(state, initial)


def _is_float(x: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _is_number(x: Any) -> bool:
  return arguments.is_array(x) and jnp.ndim(x) == 0
