"""ELSA: training with a penalty that pulls weights towards a sparse copy.

  tx = jaxsparse.sparsify(
      optax.adam(2e-4), methods.elsa(patterns, 0.9, total_steps=4_096))
"""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse.masks import selection
from jaxsparse.methods import _targets
from jaxsparse.rules import base
from jaxsparse.transform import Method


class ElsaState(NamedTuple):
  """The state of the rule of `elsa`; trees like the params.

  Attributes:
    count: the number of updates made, int32.
    masks: True where the sparse copy is not zero.
    copy: the sparse copy `z`, float32 or wider.
    dual: the dual variable `u`, the sum of all `x - z` so far.
    second: running means of squared gradients, or `None` without `fisher`.
    dense: see `RuleState.dense`.
  """
  count: jax.Array
  masks: Any
  copy: Any
  dual: Any
  second: Any = None
  dense: jax.Array | None = None


@arguments.checked(
    sparsity=_targets.SPARSITY,
    total_steps=arguments.step(1, '4_096'), every=arguments.step(1, '32'),
    penalty=arguments.or_function(arguments.number(0, write='0.01')),
    fisher=arguments.number(0, 1, write='0.999'))
def elsa(patterns: rules.Patterns,
         sparsity: float | distributions.Distribution, total_steps: int, *,
         penalty: float | Callable[[jax.Array], Any] = 0.01, every: int = 32,
         fisher: float | None = None) -> Method:
  """ELSA: sparsity as a constraint of the training loss, solved by ADMM.

  The weights `x` have a sparse copy `z`. The optimizer minimises

    loss(x) + penalty / 2 * |x - z + u|^2.

  Every `every` steps `z` becomes the sparse point nearest to `x + u`, and then
  `u` becomes `u + x - z`. The weights are dense during training: the forward
  pass uses `x`. After `total_steps` updates the forward pass uses `x` where `z`
  is not zero, and 0 elsewhere; at any step these weights are
  `apply_masks(params, get_masks(opt_state))`. The method is for trained
  networks. Any pattern works.

  AdamW and similar optimizers scale the gradient of the penalty together with
  the gradient of the loss.

  Args:
    patterns: maps regular expressions for paths to patterns; `None` is dense.
    sparsity: the fraction of all sparse parameters that is pruned, under one
      threshold; or a distribution, such as `uniform()` for N:M patterns.
    total_steps: the length of this training, in steps.
    penalty: the strength of the penalty, a number or a schedule of the step.
    every: the number of steps after which the copy is made anew.
    fisher: with `None`, the copy keeps the largest `|x + u|`, the nearest point
      by distance. A number is the decay of running means `v` of squared
      gradients, Adam's b2; the copy then keeps the largest
      `sqrt(v) * |x + u|`, the nearest point by weighted distance. It costs one
      more float32 copy of all sparse parameters. The means leave out steps with
      gradients that are not finite.

  Returns:
    A `Method`: a rule and a flow. The state of the rule is an `ElsaState`.

  Raises:
    ValueError: if the penalty is not positive, if the copy would never be made
      anew, or if `fisher` is outside of [0, 1); from `init` if a pattern does
      not fit a parameter.

  References:
    Lee et al., `The Unseen Frontier: Pushing the Limits of LLM Sparsity with
    Surrogate-Free ADMM <https://arxiv.org/abs/2510.01650>`_, 2025. In the paper
    the sparse copy `z` is the result; here it is `x` where `z` is not zero. The
    two agree when ADMM has converged.

  >>> from jaxsparse import get_masks, sparse_params, sparsify, unstructured
  >>> tx = sparsify(optax.sgd(0.1), elsa(
  ...     {'.*': unstructured()}, 0.5, 100, penalty=1., every=5))
  >>> w = jnp.array([1., 2., 3., 4.])
  >>> state, update = tx.init(w), jax.jit(tx.update)
  >>> for _ in range(100):  # The loss pulls to (2, 1, 2, 4).
  ...   grads = sparse_params(w, state) - jnp.array([2., 1., 2., 4.])
  ...   updates, state = update(grads, state, w)
  ...   w = optax.apply_updates(w, updates)
  >>> print(sparse_params(w, state).round(1))
  [0. 0. 2. 4.]
  """
  if not callable(penalty) and not arguments.may_hold(penalty > 0):
    raise ValueError(
        f'elsa needs a penalty above 0, which pulls the weights towards the '
        f'sparse copy, got penalty={penalty}. Write e.g. penalty=0.01.')
  if not 1 <= every <= total_steps:
    raise ValueError(
        'elsa needs 1 <= every <= total_steps, or its sparse copy never '
        f'changes, got every={every} and total_steps={total_steps}. Write e.g. '
        f'every={max(total_steps // 100, 1)}.')
  if fisher is not None and not arguments.may_hold(fisher < 1):
    raise ValueError(
        'fisher must be the decay of running means, in [0, 1), or None, got '
        f'{fisher}. Write e.g. fisher=0.999.')
  last = lambda step: jnp.asarray(step) >= total_steps
  when = schedules.either(
      schedules.every(every, begin=every, end=total_steps),
      schedules.every(1, begin=total_steps, end=total_steps))
  distribution = sparsity if callable(sparsity) else (
      distributions.global_threshold(sparsity))
  flow = flows.ste()._replace(
      gain=lambda step: jnp.where(last(step), 0., 1.), before=_pull(penalty))
  return Method(_projections(patterns, distribution, when, fisher), flow)


def _projections(patterns: rules.Patterns, distribution: Any,
                 when: schedules.When, fisher: float | None) -> rules.Rule:
  """The rule that makes the sparse copy, and updates the dual variable."""
  def project(near, second, shapes):
    """Masks, copy and dual variable from `near`, weights plus dual variable."""
    def scores():
      if second is None:
        return jax.tree.map(jnp.abs, near)
      return jax.tree.map(lambda y, v: jnp.sqrt(v) * jnp.abs(y), near, second)
    masks = selection.select_each(scores, shapes, distributions.shares(
        distribution, scores, shapes, 1.))
    copy = jax.tree.map(
        lambda y, m: jnp.where(m, y, jnp.zeros_like(y)), near, masks)
    return masks, copy, jax.tree.map(lambda y, z: y - z, near, copy)

  def init(params):
    shapes = base.resolve(patterns, params)
    near = jax.tree.map(numerics.wide, base.sparse_only(params, shapes))
    masks, copy, _ = project(near, None, shapes)
    # Arrays of their own, because a train step may donate each only once.
    zeros = lambda: jax.tree.map(jnp.zeros_like, near)
    return ElsaState(jnp.zeros((), jnp.int32), masks, copy, zeros(),
                     None if fisher is None else zeros())

  def update(grads, state, params=None, **extra_args):
    del extra_args
    shapes = base.resolve(patterns, params)
    weights, step = base.sparse_only(params, shapes), state.count + 1
    second = state.second
    if fisher is not None:
      sparse = base.sparse_only(grads, shapes)
      second = numerics.if_finite(sparse, jax.tree.map(
          lambda v, g: fisher * v + (1. - fisher) * jnp.square(
              g.astype(v.dtype)), second, sparse), second)

    def new():
      near = jax.tree.map(
          lambda w, u: w.astype(u.dtype) + u, weights, state.dual)
      return project(near, second, shapes)
    masks, copy, dual = base.run_if(
        when(step), new, (state.masks, state.copy, state.dual))
    return masks, ElsaState(step, masks, copy, dual, second)

  return base.Rule(init, update)


def _pull(penalty: float | Callable[[jax.Array], Any]) -> flows.Transform:
  """Adds `penalty * (x - z + u)` to gradients; the rule's state has z and u."""
  def update(updates, state, params=None, *, rule=None, **extra_args):
    del extra_args
    found = trees.nodes(rule, ElsaState)
    if not found:
      raise ValueError(
          'The flow of elsa needs the rule of elsa, whose state has the sparse '
          'copy, got another rule or none. Write sparsify(optimizer, '
          'methods.elsa(patterns, 0.9, total_steps)).')
    for one in found:
      strength = flows.value_at(penalty, one.count)

      def pull(w, m, z, u, g, c=strength):
        away = w.astype(u.dtype) - z + u
        return g + (c.astype(u.dtype) * away).astype(g.dtype)
      updates = trees.map_masked(
          pull, params, one.masks, one.copy, one.dual, updates,
          dense=lambda w, z, u, g: g)
    return updates, state

  return flows.Transform(lambda params: optax.EmptyState(), update)
