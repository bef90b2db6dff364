"""Dynamic sparse training: SET, DSR, SNFS, RigL, ITOP, MEST and Chase.

  tx = jaxsparse.sparsify(
      optax.sgd(0.1, 0.9), methods.rigl(patterns, 0.9, total_steps=10_000))

Training is sparse from the first step to the last, and connections move: every
few hundred steps an exchange drops some weights and grows others. Each function
takes patterns, the final sparsity and the length of training in steps, and
returns a rule and a flow with the defaults of its paper. For the "1.5x" of a
paper, train for 1.5 times the steps. Each function is a few lines over
`prune_and_grow`: a score to drop by, a score to grow by, and a scope, which
says how layers compete.

| method | drops the lowest | grows the highest | layers |
|---|---|---|---|
| `set_training` | magnitudes | random numbers | keep their counts |
| `dsr` | magnitudes, by a threshold | random numbers | share by survivors |
| `snfs` | magnitudes | mean gradients | share by mean gradients |
| `rigl`, `rigl_itop` | magnitudes | gradients | keep their counts |
| `mest` | magnitudes and gradients | random numbers | keep their counts |
| `chase` | magnitudes, and whole channels | gradients | compete for all |

`sparsity` is the fraction pruned, or a distribution over layers. Each group of
a pattern rounds the share that it exchanges down, so patterns of small groups
need larger shares: 30% of the 2 active weights of a 2:4 group are none.

In all methods, a weight that one exchange drops and grows again keeps its value
and its moments (as in the released code of RigL and GraNet; the code of MEST
sets it to zero). A weight that was pruned before the exchange starts at zero.
"""

import math
from typing import Any, Sequence

import jax.numpy as jnp

from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scopes
from jaxsparse import scores
from jaxsparse import units
from jaxsparse._utils import arguments
from jaxsparse._utils.tables import brief
from jaxsparse.methods import _periods
from jaxsparse.methods import _targets
from jaxsparse.methods._targets import Sparsity
from jaxsparse.transform import Method
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

_STEPS = {
    'total_steps': arguments.step(1, '10_000'), **dict.fromkeys(
        ('every', 'prune_every'), arguments.step(1, '100')),
    'sparsity': _targets.SPARSITY}


@arguments.checked(**_STEPS)
def set_training(patterns: rules.Patterns, sparsity: Sparsity,
                 total_steps: int, *, fraction: float = 0.3, every: int = 100,
                 end: int | None = None, by_sign: bool = False, seed: int = 0
                 ) -> Method:
  """SET: drops a constant share of the smallest weights, and grows random ones.

  Args:
    patterns: maps regular expressions for paths to patterns; `None` is dense.
    sparsity: the fraction pruned, shared by `er`, or a distribution.
    total_steps: the length of training, in steps.
    fraction: the share of active weights that each exchange replaces.
    every: the number of steps between two exchanges.
    end: the last step at which connections move; by default the last step of
      training.
    by_sign: whether to drop the smallest positive and the largest negative
      weights in proportion to their numbers, as the paper does. It needs
      `unstructured()` patterns. By default the smallest magnitudes are dropped,
      as in most later work.
    seed: the seed of the first masks and of random growth.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if connections would never move, or a share is outside of
      [0, 1].

  References:
    Mocanu et al., `Scalable Training of Artificial Neural Networks with
    Adaptive Sparse Connectivity <https://arxiv.org/abs/1707.04780>`_, 2018
  """
  _periods.check_shares(fraction=fraction)
  return Method(rules.prune_and_grow(
      patterns, sparsity=_targets.shared(sparsity, distributions.er),
      drop=scores.signed_magnitude() if by_sign else scores.magnitude(),
      drop_scope=scopes.per_sign if by_sign else scopes.per_layer,
      grow=scores.random(seed + 1), fraction=fraction,
      when=schedules.every(
          every, begin=every, end=_periods.end_of(total_steps, 1., end, every)),
      init=scores.random(seed)), flows.hard())


@arguments.checked(**_STEPS)
def dsr(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
        fraction: float = 0.1, every: int = 100, threshold: float = 1e-3,
        seed: int = 0) -> Method:
  """DSR: one threshold for all layers; layers that keep more grow more.

  Each exchange drops every weight below a threshold, which is halved or doubled
  when it drops too many or too few weights. Then it grows as many weights at
  random, shared among layers in proportion to their remaining weights. The
  period doubles with each quarter of training: 100, 200, 400, 800 steps.

  Args:
    patterns: maps regular expressions for paths to patterns; `None` is dense.
    sparsity: the fraction pruned, at first the same in all layers, or a
      distribution.
    total_steps: the length of training, in steps.
    fraction: the share of active weights that an exchange should drop; the
      threshold adapts to it.
    every: the number of steps between two exchanges in the first quarter.
    threshold: the first threshold.
    seed: the seed of the first masks and of random growth.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if connections would never move, or a share is outside of
      [0, 1].

  References:
    Mostafa and Wang, `Parameter Efficient Training of Deep Convolutional Neural
    Networks by Dynamic Sparse Reparameterization
    <https://arxiv.org/abs/1902.05967>`_, 2019. The paper gives a number of
    weights to drop for each model; here it is a fraction.
  """
  _periods.check_shares(fraction=fraction)
  _periods.end_of(total_steps, 0.25, None, every)
  quarters = [i * total_steps // 4 for i in range(5)]
  when = schedules.either(*(
      schedules.every(every * 2**i, begin=begin + every * 2**i, end=end)
      for i, (begin, end) in enumerate(zip(quarters, quarters[1:]))
      if begin + every * 2**i <= end))
  return Method(rules.prune_and_grow(
      patterns, sparsity=_targets.shared(sparsity, distributions.uniform),
      drop=scores.adaptive_threshold(threshold, fraction=fraction, when=when),
      drop_scope=scopes.above_one, grow=scores.random(seed + 1),
      grow_scope=scopes.by_survivors, when=when, init=scores.random(seed)),
                flows.hard())


@arguments.checked(**_STEPS)
def snfs(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
         fraction: float = 0.5, decay: float = 0.9, every: int = 100,
         end: int | None = None, seed: int = 0) -> Method:
  """SNFS: grows weights, and shares growth among layers, by mean gradients.

  The running means need the dense gradient at every step. So at most two of the
  three products of a training step (forward, gradient of inputs, gradient of
  weights) can be sparse.

  Args:
    patterns: maps regular expressions for paths to patterns; `None` is dense.
    sparsity: the fraction pruned, shared by `erk`, or a distribution.
    total_steps: the length of training, in steps.
    fraction: the share of each layer's active weights that the first exchange
      replaces; it falls to 0 by a cosine.
    decay: the decay of the running means of gradients.
    every: the number of steps between two exchanges.
    end: the last step at which connections move; by default the last step of
      training.
    seed: the seed of the first masks.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if connections would never move, or a share is outside of
      [0, 1].

  References:
    Dettmers and Zettlemoyer, `Sparse Networks from Scratch: Faster Training
    without Losing Performance <https://arxiv.org/abs/1907.04840>`_, 2019. The
    released code drops less in a layer that is over 80% dense and has more than
    an even share of the momentum: the smaller of its sparsity and the fraction.
    Here every layer drops its fraction, because the drop score does not know
    the momentum; so a nearly dense layer exchanges more weights. Growth stops
    at 99% of a layer's inactive weights, as in the released code. The total is
    exact here; the released code rounds it and corrects it later.
  """
  _periods.check_shares(fraction=fraction)
  end = _periods.end_of(total_steps, 1., end, every, fades=True)
  fade = schedules.fade_cosine(0, end)
  return Method(rules.prune_and_grow(
      patterns, sparsity=_targets.shared(sparsity, distributions.erk),
      grow=scores.momentum(decay), grow_scope=scopes.by_mean_score,
      fraction=lambda step: fraction * fade(step),
      when=_periods.fading(every, end),
      init=scores.random(seed)), flows.hard())


@arguments.checked(**_STEPS)
def rigl(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
         fraction: float = 0.3, every: int = 100, end: int | None = None,
         replace_step: bool = True, seed: int = 0) -> Method:
  """RigL: drops the smallest weights, and grows where gradients are largest.

  A weight dropped and grown again at once keeps its value, as in the released
  code.

  Args:
    patterns: maps regular expressions for paths to patterns; `None` is dense.
    sparsity: the fraction pruned, shared by `erk`, or a distribution.
    total_steps: the length of training, in steps.
    fraction: the share of active weights that the first exchange replaces; it
      falls to 0 by a cosine.
    every: the number of steps between two exchanges.
    end: the last step at which connections move; by default 75% of training.
    replace_step: whether a step with an exchange leaves the weights alone, as
      in the paper. The optimizer then makes no update at that step, and its
      counts stay.
    seed: the seed of the first masks.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if connections would never move, if every step would be replaced
      by an exchange, or if a share is outside of [0, 1].

  References:
    Evci et al., `Rigging the Lottery: Making All Tickets Winners
    <https://arxiv.org/abs/1911.11134>`_, 2020
  """
  _periods.check_shares(fraction=fraction)
  end = _periods.end_of(total_steps, 0.75, end, every, fades=True)
  when, fade = _periods.fading(every, end), schedules.fade_cosine(0, end)
  flow = flows.hard()
  if replace_step:
    flow = _periods.replacing(flow, when, 'rigl', every)
  return Method(_by_gradient(
      patterns, sparsity, lambda step: fraction * fade(step), when, seed), flow)


@arguments.checked(**_STEPS)
def rigl_itop(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
              fraction: float = 0.5, last_fraction: float = 0.005,
              every: int = 4000, end: int | None = None, seed: int = 0
              ) -> Method:
  """RigL-ITOP: long periods and large exchanges, until the end of training.

  Weights have time to grow before an exchange compares them, and more weights
  are active at some time: `observed(...)[path].explored` is the share of
  weights that ever were active, the paper's R_s.

  Args:
    patterns: maps regular expressions for paths to patterns; `None` is dense.
    sparsity: the fraction pruned, shared by `erk`, or a distribution.
    total_steps: the length of training, in steps.
    fraction: the share of active weights that the first exchange replaces; it
      falls to `last_fraction` by a cosine.
    last_fraction: the share of active weights replaced at the end of training.
    every: the number of steps between two exchanges.
    end: the last step at which connections move; by default the last step of
      training.
    seed: the seed of the first masks.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if connections would never move, or a share is outside of
      [0, 1].

  References:
    Liu et al., `Do We Actually Need Dense Over-Parameterization? In-Time
    Over-Parameterization in Sparse Training
    <https://arxiv.org/abs/2102.02887>`_, 2021
  """
  _periods.check_shares(fraction=fraction, last_fraction=last_fraction)
  end = _periods.end_of(total_steps, 1., end, every)
  fade = schedules.fade_cosine(0, total_steps)
  return Method(_by_gradient(
      patterns, sparsity,
      lambda step: last_fraction + (fraction - last_fraction) * fade(step),
      schedules.every(every, begin=every, end=end), seed), flows.hard())


def _by_gradient(patterns: rules.Patterns, sparsity: Sparsity, fraction, when,
                 seed: int) -> rules.Rule:
  return rules.prune_and_grow(
      patterns, sparsity=_targets.shared(sparsity, distributions.erk),
      grow=scores.gradient(), fraction=fraction, when=when,
      init=scores.random(seed))


@arguments.checked(**_STEPS)
def mest(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
         soft_bound: bool = True, shares: Sequence[float] = (0.05, 0.025),
         scale: float = 0.01, every: int = 100, end: int | None = None,
         seed: int = 0) -> Method:
  """MEST: exchanges a share of all weights, with or without extra memory.

  With sparsity `s` and a share `p`, elastic mutation (EM) prunes to `s + p` and
  grows back to `s`. With the soft memory bound (EM&S), an exchange prunes to
  `s` and grows to `s - p`. The last exchange prunes to `s`.

  Args:
    patterns: maps regular expressions for paths to patterns; `None` is dense.
    sparsity: `s`, the same in all layers, or a distribution.
    total_steps: the length of training, in steps.
    soft_bound: whether to use EM&S instead of EM. EM needs a number as
      sparsity, and patterns without another one of their own.
    shares: the values of `p`, as shares of all weights of a layer, in phases of
      equal length until `end`; from `end` on `p` is 0.
    scale: the factor of gradients in the drop score `|w| + scale * |g|`.
    every: the number of steps between two exchanges.
    end: the last step at which connections move, rounded down to a multiple of
      `every`; by default 75% of training.
    seed: the seed of the first masks and of random growth.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if connections would never move, or a share is outside of
      [0, 1].

  References:
    Yuan et al., `MEST: Accurate and Fast Memory-Economic Sparse Training
    Framework on the Edge <https://arxiv.org/abs/2110.14032>`_, 2021. In the
    paper the phases end at 90 and 120 of 160 epochs. The released code sets
    weights that one exchange drops and grows again to zero; here they keep
    their values.
  """
  if not isinstance(shares, (list, tuple)) or not shares:
    raise ValueError(
        f'mest needs a sequence of shares, got {brief(shares)}. Write e.g. '
        'shares=(0.05, 0.025).')
  for p in shares:
    _periods.check_shares(shares=p)
  kept = 1.
  if not soft_bound:
    if callable(sparsity):
      raise ValueError(
          'mest(soft_bound=False) prunes to sparsity + p, so its sparsity must '
          f'be a number, got the distribution {brief(sparsity)}. Write e.g. '
          'sparsity=0.9.')
    _check_sparsities(patterns, sparsity)
    kept -= sparsity
    if max(shares) > kept:
      raise ValueError(
          f'mest(soft_bound=False) prunes to sparsity + p, which must be at '
          f'most 1, got {sparsity + max(shares):.3g}. Write shares of at most '
          f'{kept:.3g}.')
  end = _periods.end_of(total_steps, 0.75, end, every) // every * every
  if not soft_bound:
    _periods.end_of(total_steps, 0.75, end, every, fades=True)
  phases = [end * (i + 1) // len(shares) for i in range(len(shares))]

  def share(step):
    phase = sum(jnp.asarray(step >= last, jnp.int32) for last in phases)
    return jnp.array([*shares, 0.], jnp.float32)[phase]

  moves: dict[str, Any] = (
      dict(fraction=0., surplus=share) if soft_bound
      else dict(fraction=lambda step: share(step) / kept))
  return Method(rules.prune_and_grow(
      patterns, sparsity=_targets.shared(sparsity, distributions.uniform),
      drop=scores.magnitude_and_gradient(scale), grow=scores.random(seed + 1),
      when=schedules.every(every, begin=every, end=end),
      init=scores.random(seed), **moves), flows.hard())


def _check_sparsities(patterns: rules.Patterns, sparsity: float) -> None:
  """Raises if a layer would get another sparsity than this one."""
  for regex, pattern in patterns.items():
    if pattern is None:
      continue
    own = pattern.sparsity
    if own is None:
      own = min(max(sparsity, pattern.min_sparsity), pattern.max_sparsity)
    if not math.isclose(own, sparsity):
      raise ValueError(
          'mest(soft_bound=False) exchanges shares of layers that all have the '
          f'sparsity {sparsity}, got {pattern} for {regex!r}, which has {own}. '
          f'Write sparsity={own}, a pattern without a sparsity or bounds, or '
          'soft_bound=True.')


@arguments.checked(**_STEPS)
def chase(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
          ties: Ties | Sequence[Tie], channel_sparsity: float = 0.4,
          floor: float = 0.2, multiple: int = 1, prune_skip: bool = False,
          surplus: float = 0.05, every: int = 1000, end: int | None = None,
          prune_every: int = 1000, prune_end: int | None = None,
          last_fraction: float = 0., seed: int = 0) -> Method:
  """Chase: unstructured dynamic sparse training that empties whole channels.

  Connections of all layers compete by magnitude to stay and by gradient to
  grow, with a soft memory bound: each exchange prunes to the density
  `1 - sparsity` and grows to a density above it, by a surplus that falls from
  `surplus` to 0 by a cosine. Meanwhile `units.prune_units` prunes whole
  channels by a cubic schedule, and the other channels take over the budget of
  the pruned ones. At the end `slim(params, ties, alive(params, ties))` makes
  the network smaller.

  Args:
    patterns: maps regular expressions for paths to `unstructured()`; `None` is
      dense.
    sparsity: the fraction pruned, at first shared by `erk`, or a distribution.
    total_steps: the length of training, in steps.
    ties: the ties of the network, from `infer_ties`: which axes of parameters
      index the same channels.
    channel_sparsity: the fraction of channels pruned, the paper's `S_c`; with 0
      no channel is pruned.
    floor: the share of its proportional number of channels that a layer keeps
      at least, the paper's beta: 0.2 for VGG-19 and on ImageNet, 0.5 for
      ResNet-50 on CIFAR.
    multiple: every layer keeps a multiple of this number of channels at all
      times, see `units.prune_units`; 1 in the paper.
    prune_skip: whether channels of skip paths may be pruned, too.
    surplus: the density above the budget at the first step.
    every: the number of steps between two exchanges of connections.
    end: the step at which the surplus reaches 0, rounded down to a multiple of
      `every`; by default 80% of training.
    prune_every: the number of steps between two prunings of channels.
    prune_end: the last step that prunes channels, rounded down to a multiple of
      `prune_every`; by default 80% of training.
    last_fraction: the share of active weights exchanged every `every` steps
      after `end`, until the end of training; 0 by default. The authors' script
      for VGG-19 uses about 0.005.
    seed: the seed of the first masks.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if connections or channels would never change; or from `init` if
      no channel can be pruned.

  References:
    Yin et al., `Dynamic Sparsity Is Channel-Level Sparsity Learner
    <https://arxiv.org/abs/2305.19454>`_, 2023
  """
  _periods.check_shares(
      surplus=surplus, channel_sparsity=channel_sparsity, floor=floor,
      last_fraction=last_fraction)
  end = _periods.end_of(total_steps, 0.8, end, every) // every * every
  fade = schedules.fade_cosine(0, end)
  rule = rules.prune_and_grow(
      patterns, sparsity=_targets.shared(sparsity, distributions.erk),
      drop_scope=scopes.all_layers, grow=scores.gradient(),
      grow_scope=scopes.all_layers,
      fraction=lambda step: jnp.where(step > end, last_fraction, 0.),
      surplus=lambda step: surplus * fade(step),
      when=schedules.every(
          every, begin=every, end=total_steps if last_fraction else end),
      init=scores.random(seed))
  if channel_sparsity:
    prune_end = _periods.end_of(
        total_steps, 0.8, prune_end, prune_every, name='prune_every')
    prune_end -= prune_end % prune_every
    rule = units.prune_units(
        ties, importance=units.mean_magnitude(), sparsity=channel_sparsity,
        scope='global', normalize=False, floor=floor,
        multiple=multiple, schedule=schedules.cubic(0, prune_end),
        when=schedules.every(prune_every, begin=prune_every, end=prune_end),
        within=rule, prune_skip=prune_skip)
  return Method(rule, flows.hard())
