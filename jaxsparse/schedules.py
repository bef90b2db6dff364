"""Schedules: `step -> progress` in [0, 1], and `step -> whether to act`.

The sparsity at a step is `progress * final sparsity`. A step is the number of
optimizer updates made so far. All schedules take Python integers and traced
arrays. With `p = clip((step - begin) / (end - begin), 0, 1)`:

| schedule | progress | |
|---|---|---|
| `one_shot(begin)` | 0, then 1 | |
| `linear` | `p` | |
| `cubic` | `1 - (1 - p)^3` | fast at first (Zhu-Gupta) |
| `cosine` | `1 - cos(pi p / 2)` | slow at first |
| `exponential` | `(1 - (1 - s)^p) / s` | equal share of the kept weights |
| `cube` | `p^3` | slow at first |
| `staircase` | the given levels | constant between steps |
| `from_initial(f, share)` | `share + (1 - share) f` | starts sparse |

The gains of `flows.mdgf` go from 1 to 0: `fade_linear`,
`fade_exponential` and `fade_cosine`.
"""

import functools
import math
from typing import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse._utils.typing import Numeric

__all__ = [
    'cosine', 'cube', 'cubic', 'either', 'every', 'exponential',
    'fade_cosine', 'fade_exponential', 'fade_linear', 'from_initial',
    'linear', 'one_shot', 'Schedule', 'staircase', 'When',
]

# The type of arguments: schedules of optax, also those that return numbers.
Schedule = Callable[[Numeric], jax.typing.ArrayLike]
Curve = Callable[[Numeric], jax.Array]  # The type of returned schedules.
When = Callable[[Numeric], bool | jax.Array]
arguments.register(Schedule, arguments.function(
    'a function of the step', 'jaxsparse.schedules.cubic(0, 10_000)'))
arguments.register(When, arguments.function(
    'a function of the step', 'jaxsparse.schedules.every(100)'))
# The functions themselves check relations between several numbers.
_STEP, _FIRST = arguments.step(), arguments.step(0, '0')
# What curves are at most before their end, and from where on a schedule is at
# its end. Jitted schedules of optax may end at 1 - 6e-8.
_BELOW_1, _ENDED = 1 - 2**-20, 1 - 2**-22


def _ramp(begin: int, end: int, curve: Callable[[jax.Array], jax.Array]
          ) -> Curve:
  if not 0 <= begin < end:
    raise ValueError(
        f'A schedule needs 0 <= begin < end, in steps, got begin={begin} and '
        f'end={end}. To prune at once, write one_shot({max(begin, 0)}).')

  def schedule(step):
    step = jnp.asarray(step)
    p = (step - begin).astype(jnp.float32) / float(end - begin)
    # Exactly 0 and 1 outside, and 1 not before the end, whatever the curve
    # rounds to: what acts when a schedule arrives acts at its end.
    inside = jnp.clip(curve(jnp.clip(p, 0., 1.)), 0., _BELOW_1)
    return jnp.where(step <= begin, 0., jnp.where(step >= end, 1., inside))
  return schedule


@arguments.checked(begin=_FIRST)
def one_shot(begin: int = 0) -> Curve:
  """0 before `begin`, 1 from there on."""
  return lambda step: jnp.where(jnp.asarray(step) >= begin, 1., 0.)


@arguments.checked(begin=_STEP, end=_STEP)
def linear(begin: int, end: int) -> Curve:
  """`p`: prunes the same amount at every step.

  Args:
    begin: the last step with progress 0.
    end: the first step with progress 1.

  Returns:
    A schedule.

  Raises:
    ValueError: unless `0 <= begin < end`.

  >>> print(linear(100, 200)(150))
  0.5
  """
  return _ramp(begin, end, lambda p: p)


@arguments.checked(begin=_STEP, end=_STEP)
def cubic(begin: int, end: int) -> Curve:
  """`1 - (1 - p)^3`: prunes fast at first, then ever slower.

  Args:
    begin: the last step with progress 0.
    end: the first step with progress 1.

  Returns:
    A schedule.

  Raises:
    ValueError: unless `0 <= begin < end`.

  References:
    Zhu and Gupta, `To prune, or not to prune
    <https://arxiv.org/abs/1710.01878>`_, 2017 (with initial sparsity 0)

  >>> print(cubic(0, 100)(50))
  0.875
  """
  return _ramp(begin, end, lambda p: 1. - (1. - p)**3)


@arguments.checked(begin=_STEP, end=_STEP)
def cosine(begin: int, end: int) -> Curve:
  """`1 - cos(pi p / 2)`, Neural Compressor's 'cos'; see `linear`."""
  return _ramp(begin, end, lambda p: 1. - jnp.cos(.5 * jnp.pi * p))


@arguments.checked(begin=_STEP, end=_STEP)
def cube(begin: int, end: int) -> Curve:
  """`p^3`, Neural Compressor's 'cube'; the opposite of `cubic`."""
  return _ramp(begin, end, lambda p: p**3)


@arguments.checked(begin=_STEP, end=_STEP)
def exponential(begin: int, end: int, *, final_sparsity: float) -> Curve:
  """`(1 - (1 - s)^p) / s`: each step prunes the same share of kept weights.

  Args:
    begin: the last step with progress 0.
    end: the first step with progress 1.
    final_sparsity: `s`, the sparsity at the end, in (0, 1).

  Returns:
    A schedule.

  Raises:
    ValueError: unless `0 <= begin < end` and `0 < final_sparsity < 1`.

  >>> print(exponential(0, 2, final_sparsity=0.75)(1))  # 50% of 75%
  0.6666667
  """
  if not 0 < final_sparsity < 1:
    raise ValueError(
        f'exponential needs 0 < final_sparsity < 1, got {final_sparsity}. '
        'Write the final sparsity of the rule, e.g. final_sparsity=0.9.')
  return _ramp(begin, end, lambda p: (
      1. - (1. - final_sparsity)**p) / final_sparsity)


@arguments.checked()
def staircase(levels: Mapping[int, float]) -> Curve:
  """Constant progress between given steps; 0 before the first step.

  Args:
    levels: maps steps to progress; each level holds from its step on.

  Returns:
    A schedule.

  Raises:
    ValueError: unless steps and levels increase.

  >>> [float(staircase({10: .5, 20: 1.})(step)) for step in (9, 10, 20)]
  [0.0, 0.5, 1.0]
  """
  begins, values = list(levels), list(levels.values())
  if (not begins or min(begins) < 0 or min(values) < 0 or max(values) > 1
      or begins != sorted(set(begins)) or values != sorted(values)):
    raise ValueError(
        'staircase needs a mapping from increasing steps to increasing '
        f'progress in [0, 1], got {dict(levels)}. Write e.g. '
        'staircase({1_000: 0.5, 2_000: 1.}).')

  def schedule(step):
    step = jnp.asarray(step)
    level = (step[..., None] >= jnp.array(begins)).sum(-1)
    return jnp.array([0., *values])[level]
  return schedule


@arguments.checked(begin=_STEP)
def from_initial(schedule: Schedule, share: float, begin: int = 0) -> Curve:
  """0 before `begin`, from there on `share + (1 - share) * schedule(step)`.

  For an initial sparsity `s_i` at `begin` and a final sparsity `s_f` at the
  end, the share is `s_i / s_f`. With `cubic`, for example,

    s_f * progress = s_f + (s_i - s_f) * (1 - p)^3.

  Args:
    schedule: a schedule that is 0 at `begin`.
    share: the initial sparsity divided by the final sparsity, in [0, 1].
    begin: the first step with the initial sparsity.

  Returns:
    A schedule.

  Raises:
    ValueError: if the share is outside [0, 1] or `begin` is negative.

  References:
    Zhu and Gupta, `To prune, or not to prune
    <https://arxiv.org/abs/1710.01878>`_, 2017

  >>> schedule = from_initial(linear(10, 20), 0.5, begin=10)
  >>> [float(schedule(step)) for step in (9, 10, 15, 20)]
  [0.0, 0.5, 0.75, 1.0]
  """
  if not 0 <= share <= 1 or begin < 0:
    raise ValueError(
        'from_initial needs a share in [0, 1], the initial sparsity divided by '
        f'the final one, and begin >= 0, got share={share} and begin={begin}. '
        'To go from 30% to 90%, write from_initial(cubic(0, 100), 0.3 / 0.9).')

  def progress(step):
    rest = (1. - share) * (1. - ending(schedule)(step))
    # Rounded to 1 only where it is 1: rules act where a schedule arrives.
    inside = jnp.where(rest > 0, jnp.minimum(1. - rest, _BELOW_1), 1.)
    return jnp.where(jnp.asarray(step) >= begin, inside, 0.)
  return progress


def _check_rate(name: str, rate: float) -> None:
  if not arguments.may_hold(rate > 0):
    raise ValueError(
        f'{name} needs a rate above 0 per step, got {rate}. Write e.g. '
        'rate=2e-4 (the paper: 1e-4 to 2e-4), or leave rate out for a gain '
        'of (nearly) 0 at the end.')


@arguments.checked(begin=_STEP, end=_STEP)
def fade_linear(begin: int, end: int, *, rate: float | None = None
                ) -> Curve:
  """`max(1 - rate * (step - begin), 0)` from `begin` on, exactly 0 from `end`.

  Args:
    begin: the last step with gain 1.
    end: the first step with gain 0.
    rate: the paper's `beta`, per step; by default `1 / (end - begin)`, which is
      the slope from 1 to 0.

  Returns:
    A gain for `flows.mdgf`.

  Raises:
    ValueError: unless `0 <= begin < end` and `rate > 0`.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024

  >>> print(fade_linear(100, 200)(175))
  0.25
  """
  progress = linear(begin, end)
  if rate is None:
    return lambda step: 1. - progress(step)
  _check_rate('fade_linear', rate)
  return lambda step: jnp.where(
      progress(step) < 1.,
      jnp.maximum(1. - rate * (end - begin) * progress(step), 0.), 0.)


@arguments.checked(begin=_STEP, end=_STEP)
def fade_exponential(begin: int, end: int, *, rate: float | None = None
                     ) -> Curve:
  """`exp(-rate * (step - begin))` from `begin` on, exactly 0 from `end` on.

  Args:
    begin: the last step with gain 1.
    end: the first step with gain 0; the exponential alone never reaches 0.
    rate: the paper's `beta`, per step; by default the gain falls to 0.01 before
      it is cut to 0 at `end`.

  Returns:
    A gain for `flows.mdgf`.

  Raises:
    ValueError: unless `0 <= begin < end` and `rate > 0`.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024

  >>> gain = fade_exponential(100, 200)
  >>> [round(float(gain(step)), 3) for step in (100, 150, 199, 200)]
  [1.0, 0.1, 0.01, 0.0]
  """
  progress = linear(begin, end)
  rate = math.log(100.) / (end - begin) if rate is None else rate
  _check_rate('fade_exponential', rate)
  # From the progress, so that the gain is exactly 1 or 0 where that is 0 or 1.
  return lambda step: jnp.where(
      progress(step) < 1., jnp.exp(-rate * (end - begin) * progress(step)), 0.)


@arguments.checked(begin=_STEP, end=_STEP)
def fade_cosine(begin: int, end: int) -> Curve:
  """`(1 + cos(pi p)) / 2`, exactly 0 from `end` on.

  Args:
    begin: the last step with gain 1.
    end: the first step with gain 0.

  Returns:
    A factor for the drop fraction of dynamic sparse training.

  Raises:
    ValueError: unless `0 <= begin < end`.

  >>> [round(float(fade_cosine(0, 4)(step)), 3) for step in range(5)]
  [1.0, 0.854, 0.5, 0.146, 0.0]
  """
  progress = linear(begin, end)
  return lambda step: jnp.where(
      progress(step) < 1., .5 * (1. + jnp.cos(jnp.pi * progress(step))), 0.)


def ending(schedule: Schedule) -> Curve:
  """The same schedule, exactly 1 where rounding leaves it a little below.

  >>> float(ending(lambda step: 1 - 6e-8)(10)), float(ending(cubic(0, 4))(2))
  (1.0, 0.875)
  """
  def ends(step):
    value = jnp.asarray(schedule(step))
    return jnp.where(value >= _ENDED, 1., value)
  return ends


def arrives(schedule: Schedule, step: Numeric) -> jax.Array:
  """Whether a schedule reaches its end at this very step.

  >>> print([bool(arrives(linear(0, 2), step)) for step in (1, 2, 3)])
  [False, True, False]
  """
  now, before = (jnp.asarray(schedule(s)) for s in (step, step - 1))
  return (now >= 1) & (before < 1)


@arguments.checked()
def either(*whens: When) -> When:
  """True at the steps at which any of several functions is true.

  Args:
    *whens: functions from step to bool.

  Returns:
    A function from step to bool.

  Raises:
    ValueError: if no function is given.

  >>> both = either(every(4), every(3, begin=3))
  >>> [step for step in range(10) if both(step)]
  [0, 3, 4, 6, 8, 9]
  """
  if not whens:
    raise ValueError(
        'either() needs at least one function of the step, got none. Write '
        'e.g. either(every(100), every(70, begin=30)).')

  def when(step):
    return functools.reduce(lambda a, b: a | b, (w(step) for w in whens))
  return when


@arguments.checked(n=arguments.step(1), begin=_FIRST, end=_STEP)
def every(n: int, begin: int = 0, end: int | None = None) -> When:
  """True at steps `begin`, `begin + n`, ... up to `end`.

  `prune` also acts at the end of its schedule, wherever that step falls.

  Args:
    n: the period in steps.
    begin: the first step.
    end: the last step at which the function may be true; `None` for no end.

  Returns:
    A function from step to bool.

  Raises:
    ValueError: unless `n >= 1` and `begin <= end`.

  >>> [step for step in range(12) if every(4, begin=2, end=9)(step)]
  [2, 6]
  """
  if n < 1 or (end is not None and end < begin):
    raise ValueError(
        f'every(n, begin, end) needs n >= 1 and begin <= end, got n={n}, '
        f'begin={begin}, end={end}. Write e.g. every(100).')

  def when(step):
    if n == 1 and begin == 0 and end is None:
      return True  # Known while tracing: no branch is compiled.
    last = True if end is None else step <= end
    return (step >= begin) & ((step - begin) % n == 0) & last
  return when
