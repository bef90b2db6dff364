"""`sparsify`: a rule and a flow around any optax optimizer.

  differentiate at the sparse point; update the dense point

One update asks the rule for masks, gates the dense gradient under them
(`flow.before`), lets the inner optimizer make updates, and changes these
(`flow.after`): a hard flow lands pruned weights on zero, and what the optimizer
remembers of them is forgotten. A rule that acts at every step is asked last,
for the masks of `params + updates`. So `state.masks` always belongs to the
params that the caller holds, and no hook outside optax is needed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import flows
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.tables import brief
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.rules import base

__all__ = [
    'get_masks', 'Method', 'sparse_params', 'SparseState', 'sparsify',
    'state_of',
]


class SparseState(NamedTuple):
  """The state of `sparsify`; only arrays.

  Attributes:
    rule: the rule's state, which holds the masks and the step.
    gain: what pruned weights give in the next forward pass, a float32 scalar,
      or `None` if the flow is hard and pruned weights are zero already.
    before: the state of the flow's gradient transform,
    inner: of the inner optimizer,
    after: and of the flow's transform of updates.
    forward: what else the forward pass needs, of flows that have it.
  """
  rule: Any  # Of a class of its own, with `masks`.
  gain: jax.Array | None
  before: ArrayTree
  inner: ArrayTree
  after: ArrayTree
  forward: Any = None  # Of a class of its own, with `sparse`.

  @property
  def masks(self) -> ArrayTree:
    """Like the params: bool arrays, True where kept, or `None` for dense."""
    return self.rule.masks


class Method(NamedTuple):
  """A rule and a flow that belong together, as `jaxsparse.methods` make them.

  Attributes:
    rule: when masks change, and to what.
    flow: what pruned weights contribute forward, and which gradient they get.
  """
  rule: optax.GradientTransformation
  flow: flows.Flow


@arguments.checked('rule', 'flow')  # Below: a rule may be no flow.
def sparsify(inner: optax.GradientTransformation,
             rule: optax.GradientTransformation | Method,
             flow: flows.Flow | None = None
             ) -> optax.GradientTransformationExtraArgs:
  """Wraps an optax optimizer, so that it trains sparse.

  The train step takes the gradient at `sparse_params(params, opt_state)`:

    sparse = jaxsparse.sparse_params(params, opt_state)
    loss, grads = jax.value_and_grad(loss_fn)(sparse, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)

  With a hard flow and a rule that prunes at step 0 the params are still dense
  before the first update; `params = apply_masks(params, get_masks(opt_state))`
  starts at the sparse point.

  Args:
    inner: any optax optimizer; extra arguments of `update` reach it. Give
      `optax.chain(clip, sparsify(...))` what should see the gradient first.
      What changes updates, such as a learning rate, has to be inside: scaled
      after `sparsify`, the updates of pruned weights would not end at zero.
    rule: `prune(...)`, `prune_and_grow(...)`, `lock()` or a rule of your own
      (`rules.EveryStep(init, update)` if it acts at every step); or a whole
      `Method`, such as `methods.rigl(...)`.
    flow: what pruned weights contribute, and which gradient they get; `hard()`
      by default, and the method's own if the second argument is a method.

  Returns:
    An optax transformation with a `SparseState`.

  Raises:
    ValueError: if the second argument is neither a rule nor a method, or the
      third no flow; from `update` if params are missing; from `init` if a
      pattern does not fit a parameter, or if `inner` has `optax.lookahead`.

  >>> import jax.numpy as jnp
  >>> from jaxsparse import rules
  >>> tx = sparsify(optax.sgd(1.), rules.lock())
  >>> w = jnp.array([0., 2.])
  >>> state = tx.init(w)
  >>> updates, state = tx.update(jnp.ones(2), state, w)
  >>> print(optax.apply_updates(w, updates))
  [0. 1.]
  """
  rule, flow = _rule_and_flow(rule, flow)
  rule = base.with_extra_args(rule)
  inner, before, after = (
      optax.with_extra_args_support(t)
      for t in (flow.around(inner), flow.before, flow.after))
  project = flows.project_updates()
  ahead = isinstance(rule, base.EveryStep)

  def gain_at(count):
    return None if flow.gain is None else flows.gain_at(flow.gain, count)

  def init(params):
    rule_state = rule.init(params)
    if not hasattr(rule_state, 'masks'):
      raise ValueError(
          'The second argument must be a rule, whose state has masks, got '
          f'the state {type(rule_state).__name__}. Write e.g. '
          'sparsify(optax.adam(1e-3), jaxsparse.prune(...)).')
    inner_state = inner.init(params)
    if trees.nodes(inner_state, optax.LookaheadState):
      raise ValueError(
          'optax.lookahead has two copies of the weights, which would get '
          'masks each of its own, so it cannot stand inside of sparsify. Write '
          'optax.lookahead(sparsify(...), ...), and take gradients and '
          'evaluate at apply_masks(params.fast or params.slow, '
          'get_masks(opt_state)).')
    return SparseState(
        rule_state, gain_at(jnp.zeros((), jnp.int32)),
        before.init(params), inner_state, after.init(params),
        flow.forward and flow.forward(params, rule_state.masks))

  def update(grads, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
          'sparsify needs the params: write tx.update(grads, opt_state, '
          'params).')
    masks, rule_state = state.masks, state.rule
    inner_state, point = state.inner, params
    if not ahead:
      masks, rule_state = rule.update(grads, state.rule, params, **extra_args)
      if flow.gain is None and masks is not state.masks:  # `lock` keeps.
        point = flows.apply_masks(params, masks)  # Where the step begins.
        inner_state = _forget(
            inner, inner_state, point, masks, state.masks)
    seen = dict(masks=masks, rule=rule_state)  # Some have more than masks.
    gated, before_state = before.update(grads, state.before, params, **seen)
    updates, inner_state = inner.update(
        gated, inner_state, point, **extra_args)
    updates, after_state = after.update(updates, state.after, params, **seen)
    if ahead:
      own = dict(updates=updates, optimizer=inner_state)
      masks, rule_state = rule.update(
          grads, state.rule, params, **{**extra_args, **own})
      if flow.gain is None:
        updates, _ = project.update(updates, project.init(params), params,
                                    masks=masks)
        inner_state = _forget(
            inner, inner_state, flows.apply_masks(params, masks), masks,
            state.masks)
    return updates, SparseState(
        rule_state, gain_at(rule_state.count), before_state, inner_state,
        after_state, state.forward)

  return optax.GradientTransformationExtraArgs(init, update)


def _rule_and_flow(rule: Any, flow: Any
                   ) -> tuple[optax.GradientTransformation, flows.Flow]:
  """The second and third argument of `sparsify`, checked."""
  if isinstance(rule, Method):
    if flow is not None:
      raise ValueError(
          f'A method brings its own flow, got {brief(flow)} beside it. Write '
          'sparsify(optax.adam(1e-3), method), or sparsify(optax.adam(1e-3), '
          'method.rule, flow).')
    rule, flow = rule
  flow = flows.hard() if flow is None else flow
  if isinstance(rule, flows.Flow) or not isinstance(
      rule, optax.GradientTransformation):
    raise ValueError(
        f'The second argument must be a rule or a method, got {brief(rule)}. '
        'Write e.g. sparsify(optax.adam(1e-3), jaxsparse.prune({".*kernel": '
        'jaxsparse.nm(2, 4)})).')
  if not isinstance(flow, flows.Flow):
    raise ValueError(
        f'The third argument must be a flow, got {brief(flow)}. Write e.g. '
        'sparsify(optax.adam(1e-3), rule, jaxsparse.hard()).')
  return rule, flow


def _forget(inner: optax.GradientTransformation, inner_state: ArrayTree,
            params: ArrayTree, masks: ArrayTree, old: ArrayTree) -> ArrayTree:
  """Gives pruned weights, which are zero in `params`, the initial state.

  So a weight that grows back starts without a history. Weights that were pruned
  in the `old` masks get it once more as they grow, because the optimizer has
  made steps of their zero gradients. The initial state is not always zero:
  rprop begins with a step size, cocob with the weights themselves.
  Every tree like the params is looked at, which holds for any optax optimizer,
  masked and partitioned ones included. Leaves of another shape than their
  weight, such as adafactor's factored moments, mix weights and are left alone.

  This happens at every step, before the optimizer reads its state, where it
  fuses with the optimizer's arithmetic. Done to what the optimizer has written,
  it would make XLA copy the state first: updates come from the same moments.
  """
  masks = jax.tree.map(jnp.logical_and, masks, old)

  def is_like_params(tree):
    return trees.beside(params, tree) is not None

  def forget(w, mask, moment, initial):
    if (trees.is_dense(moment) or trees.is_dense(mask)
        or jnp.shape(moment) != jnp.shape(w)
        or not jnp.issubdtype(jnp.result_type(moment), jnp.inexact)):
      return moment
    return jnp.where(mask, moment, initial)

  def look(tree, initial):
    ws = trees.beside(params, tree)
    if ws is None:
      return tree
    moments, structure = trees.flatten_dense(tree)
    ms, first = map(structure.flatten_up_to, (masks, initial))
    return structure.unflatten(map(forget, ws, ms, moments, first))
  return jax.tree.map(look, inner_state, inner.init(params),
                      is_leaf=is_like_params)


def state_of(opt_state: ArrayTree) -> SparseState:
  """The one `SparseState` in an optimizer state, however deep it sits."""
  states = trees.nodes(opt_state, SparseState)
  if len(states) != 1:
    raise ValueError(
        'Expected one SparseState in the optimizer state, found '
        f'{len(states)}. Wrap the optimizer once, with a rule for each '
        'parameter: tx = jaxsparse.sparsify(optax.adam(1e-3), rule), '
        'opt_state = tx.init(params). A restored checkpoint has one if it was '
        'restored into the structure of jax.eval_shape(tx.init, params).')
  return states[0]


def get_masks(opt_state: ArrayTree) -> ArrayTree:
  """The masks in an optimizer state, however deep `sparsify` sits in it.

  Args:
    opt_state: the state of `sparsify` or of anything around it (`optax.chain`,
      `optax.MultiSteps`, `optax.inject_hyperparams`, ...).

  Returns:
    A tree like the params: bool arrays, True where kept, `None` where dense.
    Inside of `optax.partition` or `optax.masked`, `optax.MaskedNode()` stands
    for parameters, or whole branches, that are another optimizer's. They are
    dense, too: `summary` and `apply_masks` take such masks as they are.

  Raises:
    ValueError: unless there is exactly one `SparseState`.
  """
  return state_of(opt_state).masks


def sparse_params(params: ArrayTree, opt_state: ArrayTree) -> ArrayTree:
  """The sparse point: the weights under masks, for the forward pass.

  `w * (m + a * (1 - m))` with the flow's current gain `a`; the params
  themselves, at no cost, if the flow is hard; what the flow says, if it has a
  forward pass of its own, such as `flows.soft_threshold`.

  Args:
    params: the params that `opt_state` belongs to.
    opt_state: the state of `sparsify` or of anything around it.

  Returns:
    A tree like `params`. Differentiate there, evaluate there.

  Raises:
    ValueError: unless there is exactly one `SparseState`.
  """
  state = state_of(opt_state)
  if state.gain is None:
    return params
  if state.forward is None:
    return flows.apply_masks(params, state.masks, state.gain)
  masks = trees.nested_like(params, state.masks)
  rows = [(w, m) for _, w, m in trees.align(params, masks)
          if not trees.is_dense(m)]
  sparse = iter(
      state.forward.sparse(*zip(*rows), state.gain) if rows else ())
  return trees.map_masked(
      lambda w, m: next(sparse), params, masks, dense=lambda w: w)
