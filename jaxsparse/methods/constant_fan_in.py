"""Constant fan-in: SRigL, RigL whose neurons all read equally many inputs.

  patterns = {'.*kernel': jaxsparse.unstructured(balanced=True)}
  tx = jaxsparse.sparsify(optax.sgd(0.1, 0.9), methods.srigl(
      patterns, 0.9, total_steps=10_000, ties=ties))

Neurons that earn too few weights die, and the others share their weights. In
the end `slim` removes dead neurons and `packed.condense` stores the others.
"""

import dataclasses
from typing import Any, Callable, NamedTuple, Sequence

import jax
from jax import lax
import jax.numpy as jnp
import optax

from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import patterns as patterns_lib
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scopes
from jaxsparse import scores
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.masks.exact_counts import Count
from jaxsparse.masks.selection import Kept
from jaxsparse.methods import _periods
from jaxsparse.methods import _targets
from jaxsparse.methods._targets import Sparsity
from jaxsparse.patterns import Pattern
from jaxsparse.rules import base
from jaxsparse.transform import Method
from jaxsparse.units import groups
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties


@arguments.checked(
    total_steps=arguments.step(1, '10_000'), every=arguments.step(1, '100'),
    sparsity=_targets.SPARSITY)
def srigl(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
          ties: Ties | Sequence[Tie] | None = None,
          spare: str | Sequence[str] | None = None, gamma: float = 0.3,
          fraction: float = 0.3, every: int = 100, end: int | None = None,
          replace_step: bool = True, seed: int = 0) -> Method:
  """SRigL: RigL with a constant fan-in, in which neurons die.

  A layer of `N` neurons may keep `T` weights, at least `N`. Its first fan-in is
  `T // N`. Every `every` steps an exchange drops `D = floor(f * n)` of the
  layer's `n` weights, where `f` falls from `fraction` to 0 by a cosine. The
  salient weights are the `n - D` kept weights of the largest magnitude and the
  `D` weights of the largest gradients, kept or not. A neuron with fewer than
  `max(1, floor(gamma * (T // N)))` salient weights dies. If too few neurons
  would be left to hold `T` weights, the exchange lowers `gamma`. Then

  1. the fan-in becomes `T // living`, where `living` counts the neurons that
     are left, or the number of living inputs if that is smaller;
  2. the `n - D` largest weights of the living neurons stay, but no neuron keeps
     more than the fan-in, and it keeps its largest;
  3. each living neuron grows weights up to the fan-in, where its gradients are
     largest.

  All living neurons of a layer have the same fan-in at every step. The equal
  fan-in comes before the count: a layer has at most `T` weights, and lacks
  fewer than `living` of them unless its inputs are used up.

  Args:
    patterns: maps regular expressions for paths to
      `unstructured(balanced=True)`; `None` is dense. `graph.kernel_patterns`
      finds the axes of kernels that are not `[..., in, out]`. One parameter is
      one layer, also if it stacks the kernels of several layers.
    sparsity: the fraction pruned, shared among layers by `erk`, or a
      distribution.
    total_steps: the length of training, in steps.
    ties: the ties of the function, from `infer_ties`. With ties, a neuron dies
      as a unit: every kernel that reads it loses the weights, so that
      `slim(params, ties, alive(params, ties))` removes the unit, and the unit
      stays dead. A unit can die if it may be removed, if one kernel alone makes
      it, and if all kernels that make or read it have patterns. The outputs of
      the function never die. Without ties, a dead neuron still outputs what its
      bias gives, and comes back when its gradients become salient.
    spare: a regular expression, or a sequence of them, for the kernels whose
      neurons all live. Without ties, name the last layer here, or write `()` to
      let neurons of all layers die, as in the released code.
    gamma: the share of the first fan-in that must be salient; the paper has
      0.95 for a ViT. With 0, no neuron dies.
    fraction: the share of a layer's weights that the first exchange drops.
    every: the number of steps between two exchanges.
    end: the last step at which connections move; by default 75% of training.
    replace_step: whether a step with an exchange leaves the weights alone, see
      `rigl`.
    seed: the seed of the first masks.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if a pattern is not balanced, if connections would never move,
      if every step would be replaced by an exchange, if a share is outside of
      [0, 1], or if neurons can die and there are neither ties nor `spare`; from
      `init`, if no tie has units that can die.

  References:
    Lasby et al., `Dynamic Sparse Training with Structured Sparsity
    <https://arxiv.org/abs/2305.02299>`_, 2024. Where a neuron has more salient
    weights than the fan-in, the released code keeps arbitrary ones of them;
    here the largest stay. The released code has no ties.

  >>> method = srigl({'.*': patterns_lib.unstructured(balanced=True)}, 0.75,
  ...                total_steps=100, every=10, spare=())
  >>> method.rule.init({'kernel': jnp.ones((8, 4))}).masks['kernel'].sum(0)
  Array([2, 2, 2, 2], dtype=int32)
  """
  _periods.check_shares(fraction=fraction, gamma=gamma)
  for regex, pattern in patterns.items():
    if pattern is not None and not _is_balanced(pattern):
      raise ValueError(
          f'{regex!r}: srigl needs a pattern in which the inputs of a neuron '
          f'compete, got {pattern}. Write unstructured(balanced=True).')
  if gamma and ties is None and spare is None:
    raise ValueError(
        'srigl lets neurons die, and nothing says which ones the network '
        'returns. Give ties=infer_ties(apply, params, x), or name the last '
        "layer, spare='head/kernel', spare=() for none, or write gamma=0.")
  end = _periods.end_of(total_steps, 0.75, end, every)
  when, fade = _periods.fading(every, end), schedules.fade_cosine(0, end)
  flow = flows.hard()
  if replace_step:
    flow = _periods.replacing(flow, when, 'srigl', every)
  spare = (spare,) if isinstance(spare, str) else tuple(spare or ())
  return Method(_rule(
      patterns, _targets.shared(sparsity, distributions.erk), when,
      lambda step: fraction * fade(step), gamma, scores.random(seed), ties,
      spare), flow)


def _is_balanced(pattern: Pattern) -> bool:
  """Whether single weights compete with all along some axes, and no others."""
  def sizes(tiling):
    return {tiling.rest, *(size for _, size in tiling.sizes)}
  return sizes(pattern.unit) == {1} and sizes(pattern.group) == {None, 1}


def _whole(pattern: Pattern) -> Pattern:
  """The pattern in which all weights of the layer compete."""
  return dataclasses.replace(pattern, group=patterns_lib.Tiling())


class _Layer(NamedTuple):
  """A sparse parameter before an exchange."""
  path: str
  mask: jax.Array
  pattern: Pattern

  @property
  def neurons(self) -> int:
    """How many there are, dead ones included."""
    return self.pattern.sizes(self.mask.shape)[0]

  def each(self, weights: jax.Array) -> jax.Array:
    """How many of some weights each neuron has; size 1 along its inputs."""
    tile = self.pattern.group_tile(self.mask.shape)
    return weights.sum([a for a, n in enumerate(tile) if n > 1],
                       dtype=jnp.uint32, keepdims=True)


def _layers(like: Any, shapes: Any) -> list[_Layer]:
  return [_Layer(*row) for row in trees.align(like, shapes) if row[1].size]


def _rule(patterns: rules.Patterns, distribution: distributions.Distribution,
          when: schedules.When, fraction: schedules.Schedule, gamma: float,
          first: scores.Score, ties: Ties | Sequence[Tie] | None,
          spare: Sequence[str]) -> rules.Rule:
  scored_by = [optax.with_extra_args_support(score) for score in (
      scores.magnitude(), scores.gradient())]

  def targets(make, like, shapes):
    """`T` of each layer and its first fan-in: vectors."""
    kept = distributions.budgets(
        distribution, make, jax.tree.map(_whole, shapes), 1.)
    neurons = [layer.neurons for layer in _layers(like, shapes)]
    target = counts.maximum(
        counts.stack([k.count for _, x, k in trees.align(like, kept)
                      if x.size]), counts.exactly_each(neurons))
    return target, counts.divide(target, jnp.array(neurons, jnp.uint32))

  def init(params):
    shapes = base.resolve(patterns, params)
    sparse = base.sparse_only(params, shapes)
    make = lambda: base.initial_scores(first, sparse)
    layers, fan_in = _layers(sparse, shapes), {}
    if layers:
      fan_in = dict(zip((layer.path for layer in layers), counts.unstack(
          targets(make, sparse, shapes)[1])))
    masks = selection.select_each(make, shapes, trees.map_with_path(
        lambda path, w: Kept(fan_in.get(path, counts.exactly(0))), sparse))
    if gamma:
      _rooms(ties, spare, params, masks)  # Tells what does not fit.
    return base.RuleState(
        jnp.zeros((), jnp.int32), masks,
        tuple(score.init(sparse) for score in scored_by), jnp.zeros((), bool))

  def update(grads, state, params=None, *, updates=None, **extra_args):
    step, shapes, scored = base.moment(
        patterns, state, grads, params, updates, **extra_args)
    masks = base.sparse_only(state.masks, shapes)
    both = lambda: [scored(*row) for row in zip(scored_by, state.scores)]

    def exchange():
      layers = _layers(masks, shapes)
      target, at_first = targets(lambda: both()[0][0], masks, shapes)
      new = _exchange(
          layers, lambda: [[x for _, x in trees.align(tree) if x.size]
                           for tree, _ in both()], target, fraction(step),
          counts.share_of(at_first, gamma),
          _rooms(ties, spare, params, masks) if gamma else None)
      by_path = dict(zip((layer.path for layer in layers), new))
      return trees.map_with_path(lambda path, m: by_path.get(path, m), masks)

    due = when(step)
    new = base.run_if(due, exchange, state.masks)
    return new, base.RuleState(
        step, new, tuple(memory for _, memory in both()), jnp.asarray(due))

  return base.Rule(init, update)


# From the neurons of each layer that live to where weights may be.
_Rooms = Callable[[Sequence[_Layer], Sequence[jax.Array]], list[jax.Array]]


def _rooms(ties: Ties | Sequence[Tie] | None, spare: Sequence[str], params: Any,
           masks: Any) -> _Rooms:
  """What the death of neurons means for all layers."""
  spared = {path for path, _, found in trees.align(
      params, trees.match_rules(dict.fromkeys(spare, True), params)) if found}
  if ties is None:
    def each_for_itself(layers, living):
      return [jnp.ones_like(layer.mask) & (alive | (layer.path in spared))
              for layer, alive in zip(layers, living)]
    return each_for_itself
  masks = jax.tree.map(lambda m: m if m.size else None, masks)
  shapes = {path: w.shape for path, w in trees.align(params)}
  families = [groups.of_tie(tie, shapes) for tie in groups.mortal(ties, masks)]
  families = [family for family in families if not any(
      part.path in spared for part in family.having('makes'))]

  def as_units(layers, living):
    """A unit lives that a living neuron makes, with weights it has."""
    makers = {layer.path: (layer.mask & alive).astype(jnp.float32)
              for layer, alive in zip(layers, living)}
    found = groups.masks([
        (family, groups.total(family.having('makes'), makers) > 0)
        for family in families], masks, without='beside')
    there = {path: room for path, _, room in trees.align(masks, found)}
    return [jnp.ones_like(layer.mask) if there[layer.path] is None
            else there[layer.path] for layer in layers]
  return as_units


def _exchange(layers: Sequence[_Layer],
              make: Callable[[], Sequence[Sequence[jax.Array]]], target: Count,
              share: jax.typing.ArrayLike, limit: Count, rooms: _Rooms | None
              ) -> list[jax.Array]:
  """The new mask of every layer.

  Args:
    layers: as they are.
    make: the magnitudes and the gradients of all layers.
    target: how many weights each may have, a vector.
    share: the share of weights that goes.
    limit: how many weights of a neuron have to be salient.
    rooms: what the death of neurons means; `None` if none dies.
  """
  if not layers:
    return []

  def highest(i, goals, among, *, each_neuron=False, certain=None):
    """The highest of some weights, of each layer or of each neuron."""
    def again():
      return [scopes.Layer(
          layer.path, pattern := (
              layer.pattern if each_neuron else _whole(layer.pattern)),
          x.shape, scopes.finite(selection.unit_scores(x, pattern)), some, sure,
          some) for layer, x, some, sure in zip(
              layers, make()[i], among, certain or map(jnp.zeros_like, among))]
    return scopes.per_layer(scopes.Layers(again), counts.unstack(goals))

  masks = [layer.mask for layer in layers]
  has = counts.total_each(masks)
  goes = counts.share_of(has, share)
  stays = counts.subtract(has, goes)
  room = [jnp.ones_like(mask) for mask in masks]
  if rooms is not None:
    room = rooms(layers, [jnp.bool_(True)] * len(layers))
    salient = [layer.each(a | b) for layer, a, b in zip(
        layers, highest(0, stays, masks), highest(1, goes, room))]
    # Fewer could not hold the weights.
    widest = jnp.maximum(jnp.stack([
        layer.each(places).max() for layer, places in zip(layers, room)]), 1)
    fewest = counts.to_uint32(counts.divide(
        counts.add(target, counts.from_uint32(widest - 1)), widest))
    least = jnp.minimum(
        jnp.maximum(counts.to_uint32(limit), 1),
        jnp.stack([_at_rank(n, rank) for n, rank in zip(salient, fewest)]))
    room = rooms(layers, [n >= x for n, x in zip(salient, least)])
  inputs = [layer.each(places) for layer, places in zip(layers, room)]
  living = jnp.stack([(n > 0).sum(dtype=jnp.uint32) for n in inputs])
  most = jnp.stack([jnp.where(n > 0, n, n.max()).min() for n in inputs])
  fan_in = counts.minimum(counts.divide(target, jnp.maximum(living, 1)),
                          counts.from_uint32(most))
  stay = highest(0, stays, [m & places for m, places in zip(masks, room)])
  stay = highest(0, fan_in, stay, each_neuron=True)
  return highest(1, fan_in, room, each_neuron=True, certain=stay)


def _at_rank(numbers: jax.Array, rank: jax.Array) -> jax.Array:
  """The highest number that at least `rank` of some uint32 numbers reach.

  Bit by bit: no device has to have them all.
  """
  def turn(i, found):
    more = found | (jnp.uint32(1) << (31 - i))
    reached = (numbers >= more).sum(dtype=jnp.uint32)
    return jnp.where(reached >= rank, more, found)
  none = jnp.zeros_like(rank)
  none = numerics.varying_as(none, lambda: turn(jnp.uint32(0), none))
  return lax.fori_loop(jnp.uint32(0), jnp.uint32(32), turn, none)
