"""N:M training: each method in one line, with the defaults of its paper.

  tx = jaxsparse.sparsify(
      optax.adam(1e-3), methods.sr_ste(patterns, total_steps=10_000))

A method takes the target, regular expressions to N:M patterns, and the length
of training in steps, and gives a rule and a flow. `progressive_gradient_flow`
has those that reach the target little by little.
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
    patterns: regular expressions to N:M patterns, `None` for dense.
    total_steps: the length of training; not needed, and the same in all
      methods.

  Returns:
    A rule and a flow.

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
  """SR-STE: `ste` with pruned weights decayed, so that masks settle.

  Args:
    patterns: regular expressions to N:M patterns, `None` for dense.
    total_steps: the length of training; not needed, and the same in all
      methods.
    decay: see `flows.sr_ste`.
    decoupled: see `flows.sr_ste`.

  Returns:
    A rule and a flow.

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

    w~ = scale * sign(w) * max(|w| - t, 0),  t = max |w| of the group's pruned

  Masks are made anew at every step, and the gradient at `w~` goes straight
  through. Train from scratch: weights of a trained network would be shrunk.
  `sparse_params` has the weights to evaluate, to pack and to deploy; the masks
  times the weights are others.

  Args:
    patterns: regular expressions to N:M patterns, `None` for dense.
    total_steps: the length of training; not needed, and the same in all
      methods.
    rescale: see `flows.soft_threshold`; scales are found at `init`.

  Returns:
    A rule and a flow.

  Raises:
    ValueError: if a pattern is not N:M, and from `init` if it is transposable.

  References:
    Hu et al., `S-STE: Continuous Pruning Function for Efficient 2:4 Sparse
    Pre-Training <https://arxiv.org/abs/2409.09099>`_, 2024. There the gradients
    of weights are made from 2:4 samples of output gradients, for speed; here
    they are exact, unless the network multiplies by `flows.sampled_matmul`.
  """
  del total_steps
  targets_of(patterns)
  return Method(rules.prune(patterns),
                flows.soft_threshold(patterns, rescale=rescale))


@arguments.checked(total_steps=_STEPS)
def top_kast(patterns: Patterns, total_steps: int, *,
             backward: float | Mapping[str, float] | None = None,
             every: int = 100, decay: float = 1e-4, p: int = 2) -> Method:
  """Top-KAST with N:M sets: N of every M are used, more are trained.

  Args:
    patterns: regular expressions to N:M patterns, `None` for dense.
    total_steps: the length of training.
    backward: the fraction that is not trained, for all or by regular
      expression; by default twice N of every M are trained.
    every: the sets are made anew every so many steps.
    decay: the strength of the exploration penalty.
    p: its norm, 1 or 2.

  Returns:
    A rule and a flow.

  Raises:
    ValueError: if a pattern is not N:M, the backward set would not contain the
      forward set, or sets would never be made anew.

  References:
    Jayakumar et al., `Top-KAST: Top-K Always Sparse Training
    <https://arxiv.org/abs/2106.03517>`_, 2021
  """
  targets = targets_of(patterns)
  if not 1 <= every <= total_steps:
    raise ValueError(
        f'top_kast(every={every}) would never make its sets anew in '
        f'total_steps={total_steps}. Write 1 <= every <= total_steps.')
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
  """Train dense, prune once to N:M by magnitude, train on with those masks.

  The workflow of 2:4 hardware (ASP), as one training: the optimizer's memory of
  pruned weights is cleared, the rest of it goes on. Restart the learning rate
  at `prune_step` if retraining is to be a second training.

  More survives if channels are put in a better order first, on the host,
  before the update that prunes, which is the one that ends `prune_step` steps:

    if step == prune_step - 1:  # Counted from 0.
      ties = infer_ties(apply, params, inputs)
      orders = find_permutations(params, ties, patterns)
      params, opt_state = permute((params, opt_state), ties, orders)

  Args:
    patterns: regular expressions to N:M patterns, `None` for dense.
    total_steps: the length of both trainings together.
    prune_step: when masks are made; in the middle by default.

  Returns:
    A rule and a flow.

  Raises:
    ValueError: if a pattern is not N:M or `prune_step` not within training.

  References:
    Mishra et al., `Accelerating Sparse Deep Neural Networks
    <https://arxiv.org/abs/2104.08378>`_, 2021
  """
  targets_of(patterns)
  step = total_steps // 2 if prune_step is None else prune_step
  if not 0 <= step < total_steps:
    raise ValueError(
        f'prune_step={step} is not within total_steps={total_steps}; pruning '
        'then would leave no step to retrain in.')
  return Method(
      rules.prune(patterns, when=schedules.every(1, begin=step, end=step)),
      flows.hard())
