"""The flows, and what the forward pass sees."""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse._utils.typing import Numeric
from jaxsparse.flows import transforms
from jaxsparse.flows.transforms import Transform


class Flow(NamedTuple):
  """How pruned weights take part in training.

  Attributes:
    gain: `a` as a function of the step, or `None` if pruned weights are held at
      zero, where no gain matters and the forward pass is free.
    before: changes gradients before the inner optimizer (`b` and `c`).
    after: changes updates after it.
    around: wraps the inner optimizer.
    forward: from params and masks to what the forward pass needs beside them,
      found once, at `init`; for flows whose forward pass no gain says. It has a
      method `sparse(weights, masks, gain)`, from the sparse weights in turn to
      those that the forward pass sees.
  """
  gain: Callable[[jax.Array], ArrayLike] | None
  before: Transform
  after: Transform
  around: Callable[[optax.GradientTransformation],
                   optax.GradientTransformation] = lambda inner: inner
  forward: Callable[[ArrayTree, ArrayTree], Any] | None = None


arguments.register(Flow, arguments.instance(
    Flow, 'a flow', 'jaxsparse.hard(), with its parentheses'))


@arguments.checked(gain=arguments.number())
def apply_masks(params: ArrayTree, masks: ArrayTree, gain: Numeric = 0.
                ) -> ArrayTree:
  """Weights under masks, as in the forward pass: `w * (m + a * (1 - m))`.

  Args:
    params: a tree of weights.
    masks: the same tree with a bool array, or `None` for dense, at each leaf.
    gain: `a`, the factor of pruned weights; 0 makes them exactly zero.

  Returns:
    A tree like `params`, of the same dtypes.

  >>> import jax.numpy as jnp
  >>> w = {'kernel': jnp.array([3., 4.]), 'bias': jnp.ones(1)}
  >>> masks = {'kernel': jnp.array([True, False]), 'bias': None}
  >>> print(apply_masks(w, masks)['kernel'])
  [3. 0.]
  """
  def apply(w, m):
    if isinstance(gain, (int, float)) and gain == 0:
      return jnp.where(m, w, jnp.zeros_like(w))
    a = jnp.asarray(gain, w.dtype)  # At 0 a NaN stops here.
    return jnp.where(m, w, jnp.where(a == 0, jnp.zeros_like(w), w * a))
  return trees.map_masked(
      apply, params, trees.nested_like(params, masks), dense=lambda w: w)


def hard() -> Flow:
  """Hard flow: pruned weights are zero and get no gradient.

  Gradients are masked before the optimizer and updates after it, so weight
  decay and momentum cannot move a pruned weight. `sparse_params` costs nothing.
  Weights that a rule grows back start at zero, with the optimizer's initial
  state; those dropped and grown in one and the same exchange go on as they are.

  Returns:
    A flow.
  """
  return Flow(None, transforms.gate_gradients(), transforms.project_updates())


def ste() -> Flow:
  """Straight-through estimator: a masked forward pass, a dense update.

  Returns:
    A flow.

  References:
    Bengio et al., `Estimating or Propagating Gradients Through Stochastic
    Neurons <https://arxiv.org/abs/1308.3432>`_, 2013
  """
  return Flow(lambda step: 0., optax.with_extra_args_support(optax.identity()),
              optax.with_extra_args_support(optax.identity()))


@arguments.checked(
    decay=arguments.or_function(arguments.number(0, write='2e-4')))
def sr_ste(decay: float | Callable[[jax.Array], ArrayLike] = 2e-4, *,
           decoupled: bool = False) -> Flow:
  """SR-STE, sparse-refined straight-through: `ste` with decay of the pruned.

  The term `c * (1 - m) * w` is added to the gradient, so it passes through the
  optimizer as weight decay in SGD does; the paper has it there too. Adam then
  scales it as it scales gradients: where these are small, the decay is not.

  Args:
    decay: `c`, a number or a schedule.
    decoupled: takes `c * (1 - m) * w` off after the optimizer instead, as AdamW
      does with weight decay. The learning rate is then yours to multiply:
      `sr_ste(lambda step: 2e-4 * learning_rate(step), decoupled=True)`.

  Returns:
    A flow.

  References:
    Zhou et al., `Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch <https://arxiv.org/abs/2102.04010>`_, 2021
  """
  if not decoupled:
    return ste()._replace(before=transforms.add_pruned_decay(decay))
  negative = -decay if not callable(decay) else (
      lambda step: -transforms.value_at(decay, step))
  return ste()._replace(after=transforms.add_pruned_decay(negative))


@arguments.checked(gain=arguments.function(
    'a function of the step', 'optax.linear_schedule(1., 0., 5_000)'))
def mdgf(gain: Callable[[jax.Array], ArrayLike], straight_through: bool = True
         ) -> Flow:
  """Mask-decay gradient flow: pruned weights fade out, `w~ = w*(m + d*(1-m))`.

  Args:
    gain: `d`, a schedule from 1 to 0 by step, clipped to [0, 1]. The paper
      advises to reach 0 at about 70% of training.
    straight_through: pruned weights get the full gradient (the paper's method
      and its released code); `False` gates it by `d` too, which is the gradient
      with respect to `w` of the forward pass.

  Returns:
    A flow.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024
  """
  flow = ste()._replace(gain=gain)
  return flow if straight_through else flow._replace(
      before=transforms.gate_gradients(gain))


def _of_rule(tx: transforms.Transform, sets: Callable[[Any], dict[str, Any]]
             ) -> transforms.Transform:
  """Gives a transform the sets of the rule instead of the masks."""
  def update(updates, state, params=None, *, rule=None, **extra_args):
    if not hasattr(rule, 'backward'):
      raise ValueError(
          'The flow top_kast() needs the rule that makes its two sets. Write '
          'sparsify(optimizer, jaxsparse.rules.forward_backward('
          'patterns, backward=0.75), jaxsparse.flows.top_kast()).')
    return tx.update(updates, state, params, **{**extra_args, **sets(rule)})
  return transforms.Transform(tx.init, update)


@arguments.checked(decay=arguments.number(0, write='1e-4'))
def top_kast(decay: float = 1e-4, p: int = 2) -> Flow:
  """Top-KAST: A is used, B is trained, and nothing else moves.

  Gradients outside of B are zero before the optimizer and its updates are zero
  after it, momentum and weight decay included. Weights outside of B keep their
  values, which is how they can come back.

  Args:
    decay: the strength of the exploration penalty.
    p: its norm, 1 or 2.

  Returns:
    A flow for the rule `forward_backward`.

  Raises:
    ValueError: if p is another number.

  References:
    Jayakumar et al., `Top-KAST: Top-K Always Sparse Training
    <https://arxiv.org/abs/2106.03517>`_, 2021
  """
  within = _of_rule(transforms.gate_gradients(),
                    lambda rule: dict(masks=rule.backward))
  pull = _of_rule(transforms.add_exploration_decay(decay, p), lambda rule: dict(
      masks=rule.masks, backward=rule.backward))
  before = optax.with_extra_args_support(optax.chain(within, pull))
  return ste()._replace(before=before, after=within)
