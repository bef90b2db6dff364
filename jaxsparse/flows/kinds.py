"""The flows, and `apply_masks`, which makes the weights of the forward pass."""

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
    gain: the factor `a` of pruned weights in the forward pass, a function of
      the step; `None` if the flow holds pruned weights at zero, so that
      `sparse_params` is the params themselves.
    before: a transform of gradients before the inner optimizer (`b` and `c`).
    after: a transform of updates after the inner optimizer.
    around: a function that wraps the inner optimizer.
    forward: for flows whose forward pass is more than a gain, otherwise `None`:
      a function from params and masks that is called once, at `init`. The
      object that it returns has a method `sparse(weights, masks, gain)`, which
      takes the lists of sparse weights and their masks, and returns the list of
      weights for the forward pass.
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
  """Applies masks to weights, as in the forward pass: `w * (m + a * (1 - m))`.

  Args:
    params: a tree of weights.
    masks: a tree like `params` with a bool array, or `None` for dense, at each
      leaf.
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
  state. Weights that one exchange drops and grows again keep their values and
  their optimizer state.

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
  """SR-STE: the straight-through estimator with decay of pruned weights.

  The flow adds `c * (1 - m) * w` to the gradient, as in the paper, so the decay
  passes through the optimizer like weight decay in SGD. Adam scales the decay
  together with the gradient: a weight with small gradients still decays fast.

  Args:
    decay: `c`, a number or a schedule.
    decoupled: whether to subtract `c * (1 - m) * w` from the updates after the
      optimizer instead, as AdamW does with weight decay. The decay is then not
      multiplied by the learning rate; multiply it yourself:
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
    gain: `d`, a schedule from 1 to 0 by step; its values are clipped to [0, 1].
      The paper advises to reach 0 at about 70% of training.
    straight_through: whether pruned weights get the full gradient, as in the
      paper and its released code. `False` multiplies their gradient by `d`,
      which makes it the exact gradient of the forward pass with respect to `w`.

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
  """A transform that reads its sets from the state of the rule."""
  def update(updates, state, params=None, *, rule=None, **extra_args):
    if not hasattr(rule, 'backward'):
      raise ValueError(
          'The flow top_kast() needs the rule forward_backward, whose state '
          'has the two sets, got another rule. Write sparsify(optimizer, '
          'jaxsparse.rules.forward_backward(patterns, backward=0.75), '
          'jaxsparse.flows.top_kast()).')
    return tx.update(updates, state, params, **{**extra_args, **sets(rule)})
  return transforms.Transform(tx.init, update)


@arguments.checked(decay=arguments.number(0, write='1e-4'))
def top_kast(decay: float = 1e-4, p: int = 2) -> Flow:
  """Top-KAST: the forward pass uses the set A, the optimizer trains the set B.

  The rule `forward_backward` makes both sets. Gradients outside of B are zero
  before the optimizer, and updates outside of B are zero after it, so momentum
  and weight decay do not move these weights. Weights outside of B keep their
  values, and can come back into both sets.

  Args:
    decay: the strength of the exploration penalty.
    p: the norm of the exploration penalty, 1 or 2.

  Returns:
    A flow for the rule `forward_backward`.

  Raises:
    ValueError: if `p` is neither 1 nor 2.

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
