"""Dynamic sparse training: SET, DSR, SNFS, RigL, ITOP, MEST and Chase.

  tx = jaxsparse.sparsify(
      optax.sgd(0.1, 0.9), methods.rigl(patterns, 0.9, total_steps=10_000))

Training is sparse from the first step to the last, and connections move. Each
function takes patterns, the final sparsity and the length of training in steps,
and gives a rule and a flow with the defaults of its paper; "1.5x" of a paper is
a training of 1.5 times the steps. Each is a few lines over `prune_and_grow`: a
score to drop by, one to grow by, and who competes with whom.

| method | drops the lowest | grows the highest | layers |
|---|---|---|---|
| `set_training` | magnitudes | random numbers | keep their counts |
| `dsr` | magnitudes, by a threshold | random numbers | share by survivors |
| `snfs` | magnitudes | mean gradients | share by mean gradients |
| `rigl`, `rigl_itop` | magnitudes | gradients | keep their counts |
| `mest` | magnitudes and gradients | random numbers | keep their counts |
| `chase` | magnitudes, and whole channels | gradients | compete for all |

`sparsity` is the fraction pruned, or a distribution; the defaults follow the
papers.

A weight that an exchange drops and grows again keeps its value and its moments,
in all of these (the released code of RigL and GraNet does so, that of MEST sets
it to zero); a weight that was pruned before starts at zero.
"""

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
from jaxsparse.methods import _targets
from jaxsparse.transform import Method
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

Sparsity = float | distributions.Distribution
_STEPS = {
    'total_steps': arguments.step(1, '10_000'), **dict.fromkeys(
        ('every', 'prune_every'), arguments.step(1, '100')),
    'sparsity': _targets.SPARSITY}


def _shared(sparsity: Sparsity, distribution) -> distributions.Distribution:
  return sparsity if callable(sparsity) else distribution(sparsity)


def _end(total_steps: int, share: float, end: int | None, every: int, *,
         name: str = 'every') -> int:
  """The step at which moving connections ends, checked."""
  end = int(total_steps * share) if end is None else end
  if not 0 < every <= end <= total_steps:
    raise ValueError(
        f'No connection would move: {name}={every} and end={end} of '
        f'total_steps={total_steps}, all in steps, need 0 < {name} <= end <= '
        f'total_steps. Write e.g. {name}={max(total_steps // 100, 1)}.')
  return end


def _check_shares(**shares: float) -> None:
  for name, share in shares.items():
    if not 0 <= share <= 1:
      raise ValueError(f'{name} is a share and lies in [0, 1], got {share}. '
                       f'For 30% write {name}=0.3.')


def _fading(every: int, end: int) -> schedules.When:
  """Exchanges while a share fades: at its end there is nothing to exchange."""
  return schedules.every(every, begin=every, end=max(end - 1, every))


@arguments.checked(**_STEPS)
def set_training(patterns: rules.Patterns, sparsity: Sparsity,
                 total_steps: int, *, fraction: float = 0.3, every: int = 100,
                 end: int | None = None, by_sign: bool = False, seed: int = 0
                 ) -> Method:
  """SET: drops a constant share of the smallest weights, grows random ones.

  Args:
    patterns: regular expressions to patterns, `None` for dense.
    sparsity: the fraction pruned, shared by `er`, or a distribution.
    total_steps: the length of training.
    fraction: the share of active weights replaced each time.
    every: how often, in steps.
    end: the last step at which; by default that of the training.
    by_sign: drops the smallest positive and the largest negative weights, each
      side its share, as the paper does; by default the smallest magnitudes, as
      most later work.
    seed: of the first masks and of growth.

  Returns:
    A method: rule and flow.

  Raises:
    ValueError: if no step is left to move connections in, or a share is none.

  References:
    Mocanu et al., `Scalable Training of Artificial Neural Networks with
    Adaptive Sparse Connectivity <https://arxiv.org/abs/1707.04780>`_, 2018
  """
  _check_shares(fraction=fraction)
  return Method(rules.prune_and_grow(
      patterns, sparsity=_shared(sparsity, distributions.er),
      drop=scores.signed_magnitude() if by_sign else scores.magnitude(),
      drop_scope=scopes.per_sign if by_sign else scopes.per_layer,
      grow=scores.random(seed + 1), fraction=fraction,
      when=schedules.every(
          every, begin=every, end=_end(total_steps, 1., end, every)),
      init=scores.random(seed)), flows.hard())


@arguments.checked(**_STEPS)
def dsr(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
        fraction: float = 0.1, every: int = 100, threshold: float = 1e-3,
        seed: int = 0) -> Method:
  """DSR: one threshold for all layers; those that keep more grow more.

  Drops every weight below a threshold, which is halved or doubled when it drops
  too many or too few, and grows as many at random, shared among layers in
  proportion to what they still have. The period doubles with each quarter of
  training: 100, 200, 400, 800 steps.

  Args:
    patterns: regular expressions to patterns, `None` for dense.
    sparsity: the fraction pruned, the same in all layers at first, or a
      distribution.
    total_steps: the length of training.
    fraction: the share of active weights that the threshold aims at.
    every: the first period, in steps.
    threshold: the first one.
    seed: of the first masks and of growth.

  Returns:
    A method: rule and flow.

  Raises:
    ValueError: if no step is left to move connections in, or a share is none.

  References:
    Mostafa and Wang, `Parameter Efficient Training of Deep Convolutional Neural
    Networks by Dynamic Sparse Reparameterization
    <https://arxiv.org/abs/1902.05967>`_, 2019. It tells numbers of weights to
    aim at, model by model, where we have a fraction.
  """
  _check_shares(fraction=fraction)
  _end(total_steps, 0.25, None, every)
  quarters = [i * total_steps // 4 for i in range(5)]
  when = schedules.either(*(
      schedules.every(every * 2**i, begin=begin + every * 2**i, end=end)
      for i, (begin, end) in enumerate(zip(quarters, quarters[1:]))
      if begin + every * 2**i <= end))
  return Method(rules.prune_and_grow(
      patterns, sparsity=_shared(sparsity, distributions.uniform),
      drop=scores.adaptive_threshold(threshold, fraction=fraction, when=when),
      drop_scope=scopes.above_one, grow=scores.random(seed + 1),
      grow_scope=scopes.by_survivors, when=when, init=scores.random(seed)),
                flows.hard())


@arguments.checked(**_STEPS)
def snfs(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
         fraction: float = 0.5, decay: float = 0.9, every: int = 100,
         end: int | None = None, seed: int = 0) -> Method:
  """SNFS: grows by running means of gradients, layers by the mean of theirs.

  The running means are of dense gradients, at every step: what training costs
  is two thirds sparse at best.

  Args:
    patterns: regular expressions to patterns, `None` for dense.
    sparsity: the fraction pruned, shared by `erk`, or a distribution.
    total_steps: the length of training.
    fraction: the share of each layer's active weights replaced at first; it
      goes to 0 by a cosine.
    decay: of the running means.
    every: how often, in steps.
    end: the last step at which; by default that of the training.
    seed: of the first masks.

  Returns:
    A method: rule and flow.

  Raises:
    ValueError: if no step is left to move connections in, or a share is none.

  References:
    Dettmers and Zettlemoyer, `Sparse Networks from Scratch: Faster Training
    without Losing Performance <https://arxiv.org/abs/1907.04840>`_, 2019. Its
    released code drops less of a layer that is over 80% dense and has more than
    an even share of the momentum: its sparsity, if that is less than the
    fraction. Here every layer drops its fraction, because who drops knows no
    momentum; so a nearly dense layer exchanges more than there, and nothing
    else differs. Growth stops at 99% of a layer's room, as in their code; but
    the total is exact, where theirs is rounded and made good for later.
  """
  _check_shares(fraction=fraction)
  end = _end(total_steps, 1., end, every)
  fade = schedules.fade_cosine(0, end)
  return Method(rules.prune_and_grow(
      patterns, sparsity=_shared(sparsity, distributions.erk),
      grow=scores.momentum(decay), grow_scope=scopes.by_mean_score,
      fraction=lambda step: fraction * fade(step), when=_fading(every, end),
      init=scores.random(seed)), flows.hard())


@arguments.checked(**_STEPS)
def rigl(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
         fraction: float = 0.3, every: int = 100, end: int | None = None,
         replace_step: bool = True, seed: int = 0) -> Method:
  """RigL: grows where the gradient is largest.

  A weight dropped and grown again at once keeps its value, as in the released
  code.

  Args:
    patterns: regular expressions to patterns, `None` for dense.
    sparsity: the fraction pruned, shared by `erk`, or a distribution.
    total_steps: the length of training.
    fraction: the share of active weights replaced at first; it goes to 0 by a
      cosine.
    every: how often, in steps.
    end: the last step at which; by default at 75% of the training.
    replace_step: whether such a step moves connections instead of weights, as
      in the paper; the optimizer then stands still, its counts included.
    seed: of the first masks.

  Returns:
    A method: rule and flow.

  Raises:
    ValueError: if no step is left to move connections in, or none to move
      weights in, or a share is none.

  References:
    Evci et al., `Rigging the Lottery: Making All Tickets Winners
    <https://arxiv.org/abs/1911.11134>`_, 2020
  """
  _check_shares(fraction=fraction)
  end = _end(total_steps, 0.75, end, every)
  if replace_step and every == 1:
    raise ValueError(
        'rigl(every=1) would replace every step of the weights, got '
        'replace_step=True. Write e.g. every=100, or replace_step=False.')
  fade = schedules.fade_cosine(0, end)
  return _by_gradient(
      patterns, sparsity, lambda step: fraction * fade(step),
      _fading(every, end), replace_step, seed)


@arguments.checked(**_STEPS)
def rigl_itop(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
              fraction: float = 0.5, last_fraction: float = 0.005,
              every: int = 4000, end: int | None = None, seed: int = 0
              ) -> Method:
  """RigL in time: long periods, large exchanges, to the end of training.

  Weights have time to grow before they are judged, and more of them get a turn:
  `observed(...)[path].explored` is the share that ever did, R_s.

  Args:
    patterns: regular expressions to patterns, `None` for dense.
    sparsity: the fraction pruned, shared by `erk`, or a distribution.
    total_steps: the length of training.
    fraction: the share of active weights replaced at first; it goes by a cosine
      to
    last_fraction: the share at the end.
    every: how often, in steps.
    end: the last step at which; by default that of the training.
    seed: of the first masks.

  Returns:
    A method: rule and flow.

  Raises:
    ValueError: if no step is left to move connections in, or a share is none.

  References:
    Liu et al., `Do We Actually Need Dense Over-Parameterization? In-Time
    Over-Parameterization in Sparse Training
    <https://arxiv.org/abs/2102.02887>`_, 2021
  """
  _check_shares(fraction=fraction, last_fraction=last_fraction)
  end = _end(total_steps, 1., end, every)
  fade = schedules.fade_cosine(0, total_steps)
  return _by_gradient(
      patterns, sparsity,
      lambda step: last_fraction + (fraction - last_fraction) * fade(step),
      schedules.every(every, begin=every, end=end), False, seed)


def _by_gradient(patterns: rules.Patterns, sparsity: Sparsity, fraction, when,
                 replace_step: bool, seed: int) -> Method:
  flow = flows.hard()
  if replace_step:
    flow = flow._replace(around=lambda inner: flows.hold_steps(inner, when))
  return Method(rules.prune_and_grow(
      patterns, sparsity=_shared(sparsity, distributions.erk),
      grow=scores.gradient(), fraction=fraction, when=when,
      init=scores.random(seed)), flow)


@arguments.checked(**_STEPS)
def mest(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
         soft_bound: bool = True, shares: Sequence[float] = (0.05, 0.025),
         scale: float = 0.01, every: int = 100, end: int | None = None,
         seed: int = 0) -> Method:
  """MEST: exchanges a share of all weights, in or beside the memory they take.

  With sparsity `s` and a share `p`, elastic mutation (EM) prunes to `s + p` and
  grows back to `s`; with the soft memory bound (EM&S) it prunes to `s` and
  grows to `s - p`. The last time prunes to `s`.

  Args:
    patterns: regular expressions to patterns, `None` for dense.
    sparsity: `s`, the same in all layers, or a distribution.
    total_steps: the length of training.
    soft_bound: EM&S instead of EM.
    shares: `p`, of all weights of a layer, in phases of equal length until
      `end`, when it becomes 0.
    scale: of gradients in the drop score `|w| + scale * |g|`.
    every: how often, in steps.
    end: the last step at which, a multiple of `every` (it is rounded down);
      by default at 75% of the training.
    seed: of the first masks and of growth.

  Returns:
    A method: rule and flow.

  Raises:
    ValueError: if no step is left to move connections in, or a share is none.

  References:
    Yuan et al., `MEST: Accurate and Fast Memory-Economic Sparse Training
    Framework on the Edge <https://arxiv.org/abs/2110.14032>`_, 2021. Its phases
    end at 90 and 120 of 160 epochs, and its code sets weights that were dropped
    and grown again in one exchange to zero, where ours keep their values.
  """
  if not isinstance(shares, (list, tuple)) or not shares:
    raise ValueError(
        f'mest takes a sequence of shares, got {brief(shares)}. Write e.g. '
        'shares=(0.05, 0.025).')
  for p in shares:
    _check_shares(shares=p)
  kept = 1.
  if not soft_bound:
    if callable(sparsity):
      raise ValueError(
          'mest(soft_bound=False) prunes to sparsity + p, so it needs a '
          f'number, got the distribution {brief(sparsity)}. Write e.g. 0.9.')
    kept -= sparsity
    if max(shares) > kept:
      raise ValueError(
          f'mest(soft_bound=False) prunes to sparsity + p = '
          f'{sparsity + max(shares):.3g}, which is more than everything. Write '
          f'shares of at most {kept:.3g}.')
  end = _end(total_steps, 0.75, end, every) // every * every
  phases = [end * (i + 1) // len(shares) for i in range(len(shares))]

  def share(step):
    phase = sum(jnp.asarray(step >= last, jnp.int32) for last in phases)
    return jnp.array([*shares, 0.], jnp.float32)[phase]

  moves: dict[str, Any] = (
      dict(fraction=0., surplus=share) if soft_bound
      else dict(fraction=lambda step: share(step) / kept))
  return Method(rules.prune_and_grow(
      patterns, sparsity=_shared(sparsity, distributions.uniform),
      drop=scores.magnitude_and_gradient(scale), grow=scores.random(seed + 1),
      when=schedules.every(every, begin=every, end=end),
      init=scores.random(seed), **moves), flows.hard())


@arguments.checked(**_STEPS)
def chase(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
          ties: Ties | Sequence[Tie], channel_sparsity: float = 0.4,
          floor: float = 0.2, multiple: int = 1, prune_skip: bool = False,
          surplus: float = 0.05, every: int = 1000, end: int | None = None,
          prune_every: int = 1000, prune_end: int | None = None,
          last_fraction: float = 0., seed: int = 0) -> Method:
  """Chase: unstructured dynamic sparse training that empties whole channels.

  Connections of all layers compete by magnitude to stay and by gradient to
  grow, with a soft memory bound: the density goes by a cosine from `surplus`
  above `1 - sparsity` down to it, each time pruned to the budget and grown to
  the bound. Meanwhile channels die, `units.prune_units`, by a cubic schedule,
  and the budget goes to the others. In the end
  `slim(params, ties, alive(params, ties))` makes the network smaller.

  Args:
    patterns: regular expressions to `unstructured()`, `None` for dense.
    sparsity: the fraction pruned, shared by `erk` at first, or a distribution.
    total_steps: the length of training.
    ties: from `infer_ties`.
    channel_sparsity: the fraction of channels that dies, `S_c`; with 0 it is
      unstructured.
    floor: how much of its fair share of channels a layer keeps at least; the
      paper's beta, 0.2 for VGG-19 and on ImageNet, 0.5 for ResNet-50 on CIFAR.
    multiple: every layer keeps a multiple of so many channels at any time, see
      `units.prune_units`; the paper's is 1.
    prune_skip: whether channels of skip paths can die, too.
    surplus: the density above the budget at first.
    every: how often connections move, in steps.
    end: when the surplus is used up, a multiple of `every` (it is rounded
      down); by default at 80% of the training.
    prune_every: how often channels die.
    prune_end: the last step at which, a multiple of `prune_every` (rounded
      down, too); by default at 80% of the training.
    last_fraction: the share of active weights that goes on being exchanged
      every `every` steps from `end` to the end of training; none by default.
      The authors' script for VGG-19 goes on, at about 0.005.
    seed: of the first masks.

  Returns:
    A method: rule and flow.

  Raises:
    ValueError: if no step is left to move connections in, or from `init` if
      there are no channels that can die.

  References:
    Yin et al., `Dynamic Sparsity Is Channel-Level Sparsity Learner
    <https://arxiv.org/abs/2305.19454>`_, 2023
  """
  _check_shares(surplus=surplus, channel_sparsity=channel_sparsity,
                floor=floor, last_fraction=last_fraction)
  end = _end(total_steps, 0.8, end, every) // every * every
  fade = schedules.fade_cosine(0, end)
  rule = rules.prune_and_grow(
      patterns, sparsity=_shared(sparsity, distributions.erk),
      drop_scope=scopes.all_layers, grow=scores.gradient(),
      grow_scope=scopes.all_layers,
      fraction=lambda step: jnp.where(step > end, last_fraction, 0.),
      surplus=lambda step: surplus * fade(step),
      when=schedules.every(
          every, begin=every, end=total_steps if last_fraction else end),
      init=scores.random(seed))
  if channel_sparsity:
    prune_end = _end(total_steps, 0.8, prune_end, prune_every,
                     name='prune_every') // prune_every * prune_every
    rule = units.prune_units(
        ties, importance=units.mean_magnitude(), sparsity=channel_sparsity,
        scope='global', normalize=False, floor=floor,
        multiple=multiple, schedule=schedules.cubic(0, prune_end),
        when=schedules.every(prune_every, begin=prune_every, end=prune_end),
        within=rule, prune_skip=prune_skip)
  return Method(rule, flows.hard())
