"""Progressive gradient flow: N:M that is reached gradually.

  tx = jaxsparse.sparsify(
      optax.adam(1e-3), methods.mdgf_linear(patterns, total_steps=10_000))

MdGf (mask decay) lets pruned weights fade out of the forward pass. SdGf
(structure decay) makes the pattern sparser in steps, called frames. Training
has three phases:

  | dense | decay: ever sparser | fine-tuning at the target |
  0       dense_steps           total_steps - fine_tune_steps

The paper gives phases as shares of training; by default 10% is dense and 30%
fine-tuning. Phases that do not fit raise an error when the method is made. If
the number of frames depends on the shapes of weights, `init` raises the error.
"""

import math

from jaxsparse import flows
from jaxsparse import patterns as patterns_lib
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse._utils import arguments
from jaxsparse.methods._targets import targets as targets_of
from jaxsparse.rules import Patterns
from jaxsparse.transform import Method

_FRAMES = 5

_STEPS = arguments.step(1, '10_000')


def _phases(total_steps: int, dense_steps: int | None,
            fine_tune_steps: int | None) -> tuple[int, int]:
  """The steps at which the decay phase begins and ends."""
  dense = total_steps // 10 if dense_steps is None else dense_steps
  tune = total_steps * 3 // 10 if fine_tune_steps is None else fine_tune_steps
  begin, end = dense, total_steps - tune
  if dense < 0 or tune < 0 or not begin < end:
    raise ValueError(
        f'dense_steps={dense} and fine_tune_steps={tune} leave no step of '
        f'total_steps={total_steps} for the decay phase (all in steps). Write '
        f'e.g. dense_steps={max(total_steps, 10) // 10}, '
        f'fine_tune_steps={max(total_steps, 10) * 3 // 10}.')
  return begin, end


def _frames(begin: int, end: int, count: int) -> list[int]:
  """The first steps of `count` frames of equal length."""
  if end - begin < count:
    raise ValueError(
        f'{count} frames do not fit into the {end - begin} steps between step '
        f'{begin} and step {end}. Train longer, or shorten dense_steps and '
        'fine_tune_steps.')
  return [begin + i * (end - begin) // count for i in range(count)]


@arguments.checked(total_steps=_STEPS)
def mdgf_linear(patterns: Patterns, total_steps: int, *,
                dense_steps: int | None = None,
                fine_tune_steps: int | None = None, beta: float | None = None,
                straight_through: bool = True) -> Method:
  """Mask-decay gradient flow: pruned weights fade out linearly.

  The gain of pruned weights is `d = max(1 - beta * j, 0)`, with j the steps
  since the dense phase ended. In the fine-tuning phase the gain is 0, and
  gradients still pass straight through, as in the released code.

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of training, in steps.
    dense_steps: the last step with gain 1; 10% of training by default.
    fine_tune_steps: the number of steps at the end with gain 0; 30% of training
      by default (the paper advises to reach 0 at 70% of training).
    beta: the decay per step; by default the gain falls to 0 over the whole
      decay phase.
    straight_through: whether pruned weights get the full gradient, see
      `flows.mdgf`.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if the phases do not fit, if `beta` is too small to reach 0
      within the decay phase, or if a pattern is not N:M.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024
  """
  targets_of(patterns)
  begin, end = _phases(total_steps, dense_steps, fine_tune_steps)
  if beta is not None:
    needed = 1 / beta if beta > 0 else math.inf
    # A beta of 1 / 49 takes 49 steps in spite of rounding.
    if needed > (end - begin) * (1 + 1e-6):
      raise ValueError(
          f'beta={beta} needs {needed:.6g} steps to fade from 1 to 0, but the '
          f'decay phase has {end - begin} steps, from step {begin} to step '
          f'{end}. Write beta={1 / (end - begin)} or more, or leave beta out.')
    end = begin + math.ceil(needed * (1 - 1e-6))
  return Method(rules.prune(patterns), flows.mdgf(
      schedules.fade_linear(begin, end, rate=beta), straight_through))


@arguments.checked(total_steps=_STEPS)
def mdgf_exponential(patterns: Patterns, total_steps: int, *,
                     dense_steps: int | None = None,
                     fine_tune_steps: int | None = None,
                     beta: float | None = None,
                     straight_through: bool = True) -> Method:
  """Mask-decay gradient flow: pruned weights fade out exponentially.

  The gain of pruned weights is `d = exp(-beta * j)`, with j the steps since the
  dense phase ended. In the fine-tuning phase the gain is cut to 0.

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of training, in steps.
    dense_steps: the last step with gain 1; 10% of training by default.
    fine_tune_steps: the number of steps at the end with gain 0; 30% of training
      by default.
    beta: the decay per step; by default the gain falls to 0.01 before
      fine-tuning begins (the paper: 1e-4 for ViT, 2e-4 elsewhere).
    straight_through: whether pruned weights get the full gradient, see
      `flows.mdgf`.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if the phases do not fit, or a pattern is not N:M.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024
  """
  targets_of(patterns)
  begin, end = _phases(total_steps, dense_steps, fine_tune_steps)
  return Method(rules.prune(patterns), flows.mdgf(
      schedules.fade_exponential(begin, end, rate=beta), straight_through))


def _kept_by_frame(n: int, m: int) -> list[int]:
  """The kept weights of each frame: M-1, M/2, M/4, ... and at last N."""
  halves = [m // 2**i for i in range(1, m.bit_length()) if m // 2**i > n]
  return [k for k in dict.fromkeys([m - 1, *halves]) if k > n] + [n]


@arguments.checked(total_steps=_STEPS)
def sdgf_stepwise(patterns: Patterns, total_steps: int, *,
                  dense_steps: int | None = None,
                  fine_tune_steps: int | None = None) -> Method:
  """Structure-decay gradient flow: N decreases in frames, M stays.

  The target 1:8, for example, is reached by frames of equal length with 7:8,
  4:8, 2:8 and 1:8, and kept in the fine-tuning phase. The last frame is always
  the target (the released code stops short of it unless M/N is a power of two).
  The step alone determines the frame, and N is a traced number, so the train
  step compiles once and has no branches. (A 4 x 4 tile of a transposable 2:4
  keeps 12 of 16 weights in the first frame, and then 8 of these 12.)

  Args:
    patterns: maps regular expressions for paths to N:M patterns of the same N
      and M; `None` is dense.
    total_steps: the length of training, in steps.
    dense_steps: the number of dense steps; 10% of training by default.
    fine_tune_steps: the number of steps at the target after the last frame; 30%
      of training by default.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if the phases do not fit, or the patterns differ in N or M.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024
  """
  targets = {t[:2] for t in targets_of(patterns).values() if t}
  if len(targets) != 1:
    raise ValueError(
        'sdgf_stepwise needs the same N and M in all patterns (axes may '
        f"differ), got {sorted(targets)}. Write e.g. {{'.*kernel': nm(2, 4)}}.")
  (n, m), = targets
  begin, end = _phases(total_steps, dense_steps, fine_tune_steps)
  kept = _kept_by_frame(n, m)
  levels = {step: (m - k) / (m - n) if k > n else 1.
            for step, k in zip(_frames(begin, end, len(kept)), kept)}
  return Method(
      rules.prune(patterns, schedule=schedules.staircase(levels)), flows.ste())


@arguments.checked(total_steps=_STEPS)
def sdgf_geometric(patterns: Patterns, total_steps: int, *,
                   frames: int | None = _FRAMES, dense_steps: int | None = None,
                   fine_tune_steps: int | None = None) -> Method:
  """Structure-decay gradient flow: groups become smaller, N/M stays.

  The target 1:8, for example, is reached by frames of equal length with 16:128,
  8:64, 4:32, 2:16 and 1:8, and kept in the fine-tuning phase. N and M change
  inside of one compiled step. (The paper has five frames, its released code
  four.)

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of training, in steps.
    frames: the number of frames. The largest group, `m * 2**(frames - 1)`, must
      tile the contraction axis of every sparse layer. `None` takes the largest
      number that tiles, at most five.
    dense_steps: the number of dense steps; 10% of training by default.
    fine_tune_steps: the number of steps at the target after the last frame; 30%
      of training by default.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if the phases do not fit, or a pattern is not N:M, or is
      transposable, because its 4 x 4 tiles have a fixed size; from `init` if a
      group of some frame does not tile a layer.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024
  """
  targets = targets_of(patterns)
  if fixed := [str(p) for p in patterns.values()
               if patterns_lib.is_transposable(p)]:
    raise ValueError(
        'sdgf_geometric begins with larger groups, but a transposable pattern '
        f'has fixed 4 x 4 tiles, got {fixed[0]}. Write sdgf_stepwise(...), or '
        'leave transposable=True out.')
  if frames is not None and frames < 1:
    raise ValueError(f'sdgf_geometric needs frames >= 1, got {frames}. Write '
                     'e.g. frames=5, or frames=None.')
  begin, end = _phases(total_steps, dense_steps, fine_tune_steps)

  def scaled(by):
    return {regex: t and patterns_lib.nm(t[0] * by, t[1] * by, axis=t[2])
            for regex, t in targets.items()}

  def fitting(params):
    for count in range(_FRAMES, 1, -1):
      try:
        rules.resolve(scaled(2**(count - 1)), params)
        return count
      except ValueError:
        continue
    return 1

  def rule(params):
    count = fitting(params) if frames is None else frames
    begins = _frames(begin, end, count)
    everything = {regex: t and patterns_lib.nm(t[1], t[1], axis=t[2])
                  for regex, t in targets.items()}
    by_step = {0: rules.prune(everything)} if begin else {}
    by_step.update({
        step: rules.prune(scaled(2**i))
        for step, i in zip(begins, reversed(range(count)))})
    return rules.stages(by_step)

  def init(params):
    try:
      return rule(params).init(params)
    except ValueError as error:
      rules.resolve(scaled(1), params)  # Raises if the target does not fit.
      raise ValueError(
          f'sdgf_geometric(frames={frames}): {error} With fewer frames the '
          'largest group, m * 2**(frames - 1), is smaller; write frames=None '
          'for the largest number of frames that fits.') from error

  def update(grads, state, params=None, **extra_args):
    return rule(params).update(grads, state, params, **extra_args)

  _frames(begin, end, frames or 1)  # Raises now if they do not fit.
  return Method(rules.EveryStep(init, update), flows.ste())
