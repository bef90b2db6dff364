"""Progressive gradient flow: N:M that is reached little by little.

  tx = jaxsparse.sparsify(
      optax.adam(1e-3), methods.mdgf_linear(patterns, total_steps=10_000))

MdGf lets pruned weights fade out of the forward pass, SdGf makes the pattern
sparser frame by frame. Phases follow each other:

  | dense | decay: ever sparser | fine-tuning at the target |
  0       dense_steps           total_steps - fine_tune_steps

The paper gives phases as shares of training; by default they are 10% dense and
30% fine-tuning. Phases that do not fit are an error when the method is made, or
when the optimizer is initialised where they depend on the weights.
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
        f'total_steps={total_steps} to decay in. All three are in steps; write '
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

  `d = max(1 - beta * j, 0)` with j the steps since the dense phase ended. While
  fine-tuning the masks are hard in the forward pass, and gradients still pass
  straight through, as in the released code.

  Args:
    patterns: regular expressions to N:M patterns, `None` for dense.
    total_steps: the length of training.
    dense_steps: how long nothing fades; 10% of training by default.
    fine_tune_steps: how long d is 0 at the end; 30% by default (the paper
      advises to reach 0 at 70% of training).
    beta: the rate per step; by default what the phases make it.
    straight_through: see `flows.mdgf`.

  Returns:
    A rule and a flow.

  Raises:
    ValueError: if the phases do not fit, a decay ends after the decay phase, or
      a pattern is not N:M.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024
  """
  targets_of(patterns)
  begin, end = _phases(total_steps, dense_steps, fine_tune_steps)
  if beta is not None:
    needed = 1 / beta if beta > 0 else math.inf
    # A beta of 1 / 49 is to take 49 steps, whatever floats make of it.
    if needed > (end - begin) * (1 + 1e-6):
      raise ValueError(
          f'beta={beta} needs {needed:.6g} steps to fade from 1 to 0, but the '
          f'decay phase has {end - begin}, from step {begin} to {end}. Write '
          f'beta={1 / (end - begin)} or more, or leave it out.')
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

  `d = exp(-beta * j)`, which never is 0, and 0 while fine-tuning.

  Args:
    patterns: regular expressions to N:M patterns, `None` for dense.
    total_steps: the length of training.
    dense_steps: how long nothing fades; 10% of training by default.
    fine_tune_steps: how long d is 0 at the end; 30% by default.
    beta: the rate per step; by default d has come down to 0.01 when
      fine-tuning begins (the paper's ViT: 1e-4, elsewhere 2e-4).
    straight_through: see `flows.mdgf`.

  Returns:
    A rule and a flow.

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
  """M-1, M/2, M/4, ... and at last N."""
  halves = [m // 2**i for i in range(1, m.bit_length()) if m // 2**i > n]
  return [k for k in dict.fromkeys([m - 1, *halves]) if k > n] + [n]


@arguments.checked(total_steps=_STEPS)
def sdgf_stepwise(patterns: Patterns, total_steps: int, *,
                  dense_steps: int | None = None,
                  fine_tune_steps: int | None = None) -> Method:
  """Structure-decay gradient flow: N steps down, M stays.

  1:8 is reached by 7:8, 4:8, 2:8, 1:8, frames of equal length, and kept while
  fine-tuning. The last frame is always the target (the released code stops
  short of it unless M/N is a power of two). Which frame it is follows from the
  step alone, and N is a traced number: one compilation, no branches. (A tile of
  a transposable 2:4 keeps 12 of 16, its 8 among them, and then its 8.)

  Args:
    patterns: regular expressions to N:M patterns of the same N and M, `None`
      for dense.
    total_steps: the length of training.
    dense_steps: how long everything is kept; 10% of training by default.
    fine_tune_steps: how long the target holds after the last frame; 30% by
      default.

  Returns:
    A rule and a flow.

  Raises:
    ValueError: if the phases do not fit, or patterns are not of one N:M.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024
  """
  targets = {t[:2] for t in targets_of(patterns).values() if t}
  if len(targets) != 1:
    raise ValueError(
        'sdgf_stepwise takes patterns of one N:M for all sparse layers, got '
        f'{sorted(targets)}. Axes may differ.')
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
  """Structure-decay gradient flow: groups shrink, N/M stays.

  1:8 is reached by 16:128, 8:64, 4:32, 2:16, 1:8: `frames` of equal length, and
  kept while fine-tuning. N and M change inside of one compiled step. (The paper
  has five frames, its released code four.)

  Args:
    patterns: regular expressions to N:M patterns, `None` for dense.
    total_steps: the length of training.
    frames: their number; the largest group, `m * 2**(frames - 1)`, must tile
      the contraction axis of every sparse layer. `None` takes as many as tile,
      at most five.
    dense_steps: how long everything is kept; 10% of training by default.
    fine_tune_steps: how long the target holds after the last frame; 30% by
      default.

  Returns:
    A rule and a flow.

  Raises:
    ValueError: if the phases do not fit or a pattern is not N:M, or is
      transposable, as tiles of 4 x 4 do not grow; from `init` if a group of
      some frame does not tile a layer.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024
  """
  targets = targets_of(patterns)
  if fixed := [str(p) for p in patterns.values()
               if patterns_lib.is_transposable(p)]:
    raise ValueError(
        f'sdgf_geometric begins with larger groups, but {fixed[0]} has tiles '
        'of 4 x 4 only. Write sdgf_stepwise(...), or a pattern without '
        'transposable=True.')
  if frames is not None and frames < 1:
    raise ValueError(f'sdgf_geometric needs frames >= 1, got {frames}.')
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
          'largest group, m * 2**(frames - 1), is smaller; frames=None takes '
          'as many as tile.') from error

  def update(grads, state, params=None, **extra_args):
    return rule(params).update(grads, state, params, **extra_args)

  _frames(begin, end, frames or 1)  # Says now if they do not fit.
  return Method(rules.EveryStep(init, update), flows.ste())
