"""N:M training: each method in one line, with the defaults of its paper.

  tx = jaxsparse.sparsify(
      optax.adam(1e-3), methods.sr_ste(patterns, total_steps=10_000))

A method takes the target, a mapping from regular expressions to N:M patterns,
and the length of training in steps, and returns a rule and a flow.
`progressive_gradient_flow` has the methods that reach the target gradually.
"""

from typing import Any, Callable, Mapping

from jaxsparse import flows
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse._utils import arguments
from jaxsparse.methods._targets import targets as targets_of
from jaxsparse.rules import Patterns
from jaxsparse.transform import Method

_STEPS = arguments.step(1, '10_000')


@arguments.checked(total_steps=_STEPS)
def ste(patterns: Patterns, total_steps: int) -> Method:
  """N:M by the straight-through estimator, sparse from the first step.

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of training, in steps; not used here, but an
      argument of all methods.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if a pattern is not N:M.

  References:
    Bengio et al., `Estimating or Propagating Gradients Through Stochastic
    Neurons <https://arxiv.org/abs/1308.3432>`_, 2013
  """
  del total_steps
  targets_of(patterns)
  return Method(rules.prune(patterns), flows.ste())


@arguments.checked(total_steps=_STEPS)
def sr_ste(patterns: Patterns, total_steps: int, *,
           decay: float | Callable[[Any], Any] = 2e-4,
           decoupled: bool = False) -> Method:
  """SR-STE: `ste` with decay of pruned weights, so that masks become stable.

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of training, in steps; not used here, but an
      argument of all methods.
    decay: the strength of the decay, see `flows.sr_ste`.
    decoupled: whether the decay bypasses the optimizer, see `flows.sr_ste`.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if a pattern is not N:M.

  References:
    Zhou et al., `Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch <https://arxiv.org/abs/2102.04010>`_, 2021
  """
  del total_steps
  targets_of(patterns)
  return Method(rules.prune(patterns),
                flows.sr_ste(decay, decoupled=decoupled))


@arguments.checked(total_steps=_STEPS)
def s_ste(patterns: Patterns, total_steps: int, *, rescale: bool = True
          ) -> Method:
  """S-STE: the forward pass shrinks kept weights, so that it is continuous.

    w~ = scale * sign(w) * max(|w| - t, 0)

  The threshold `t` is the largest magnitude among the pruned weights of a
  group. Masks are made anew at every step, and the gradient at `w~` goes
  straight through to `w`. Train from scratch, because the method would shrink
  the weights of a trained network. Evaluate, pack and deploy
  `sparse_params(params, opt_state)`, which differs from the masks times the
  weights.

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of training, in steps; not used here, but an
      argument of all methods.
    rescale: whether parameters have a scale, computed at `init`; see
      `flows.soft_threshold`.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if a pattern is not N:M, and from `init` if it is transposable.

  References:
    Hu et al., `S-STE: Continuous Pruning Function for Efficient 2:4 Sparse
    Pre-Training <https://arxiv.org/abs/2409.09099>`_, 2024. The paper computes
    the gradients of weights from 2:4 samples of output gradients, for speed.
    Here these gradients are exact, unless the network multiplies by
    `flows.sampled_matmul`.
  """
  del total_steps
  targets_of(patterns)
  return Method(rules.prune(patterns),
                flows.soft_threshold(patterns, rescale=rescale))


@arguments.checked(total_steps=_STEPS)
def top_kast(patterns: Patterns, total_steps: int, *,
             backward: float | Mapping[str, float] | None = None,
             every: int = 100, decay: float = 1e-4, p: int = 2) -> Method:
  """Top-KAST with N:M sets: N of every M weights are used, more are trained.

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of training, in steps.
    backward: the fraction of weights that is not trained: one number, or a
      mapping with a number for each regular expression. By default twice N of
      every M weights are trained.
    every: the number of steps after which both sets are made anew.
    decay: the strength of the exploration penalty.
    p: the norm of the exploration penalty, 1 or 2.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if a pattern is not N:M, if the backward set would not contain
      the forward set, or if the sets would never be made anew.

  References:
    Jayakumar et al., `Top-KAST: Top-K Always Sparse Training
    <https://arxiv.org/abs/2106.03517>`_, 2021
  """
  targets = targets_of(patterns)
  if not 1 <= every <= total_steps:
    raise ValueError(
        'top_kast needs 1 <= every <= total_steps, or its sets never change, '
        f'got every={every} and total_steps={total_steps}. Write e.g. '
        f'every={max(total_steps // 100, 1)}.')
  if backward is None:
    backward = {regex: max(1 - 2 * t[0] / t[1], 0.)
                for regex, t in targets.items() if t}
  return Method(
      rules.forward_backward(
          patterns, backward=backward, when=schedules.every(every)),
      flows.top_kast(decay, p))


@arguments.checked(total_steps=_STEPS)
def train_prune_retrain(patterns: Patterns, total_steps: int, *,
                        prune_step: int | None = None) -> Method:
  """Trains dense, prunes once to N:M by magnitude, then trains under the masks.

  This is the ASP workflow for 2:4 hardware, as one training run. Pruning resets
  the optimizer's moments of pruned weights, and keeps those of the others.
  Restart the learning rate at `prune_step` if retraining should be a second
  training.

  Larger weights survive if you permute channels before pruning, on the host and
  before the update that completes `prune_step` steps:

    if step == prune_step - 1:  # Counted from 0.
      ties = infer_ties(apply, params, inputs)
      orders = find_permutations(params, ties, patterns)
      params, opt_state = permute((params, opt_state), ties, orders)

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of dense training and retraining together, in steps.
    prune_step: the step that makes the masks; half of `total_steps` by default.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if a pattern is not N:M, or `prune_step` is not within training.

  References:
    Mishra et al., `Accelerating Sparse Deep Neural Networks
    <https://arxiv.org/abs/2104.08378>`_, 2021
  """
  targets_of(patterns)
  step = total_steps // 2 if prune_step is None else prune_step
  if not 0 <= step < total_steps:
    raise ValueError(
        'train_prune_retrain needs 0 <= prune_step < total_steps, so that '
        f'steps are left after pruning, got prune_step={step} and '
        f'total_steps={total_steps}. Write e.g. '
        f'prune_step={max(total_steps // 2, 1)}.')
  return Method(
      rules.prune(patterns, when=schedules.every(1, begin=step, end=step)),
      flows.hard())
