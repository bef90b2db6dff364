"""Scopes: which weights compete when weights are dropped and grown.

A scope is a function

  chosen = scope(layers, goals)

that takes the layers of one exchange, and returns for each layer a bool array
on its grid of units: the units that are active after the exchange. `goals` are
the counts that each group of each layer would have without competition between
layers. A scope may keep these counts, or their sum, or neither.
`prune_and_grow` calls one scope to drop and one scope to grow. (`prune` has no
scope; its distribution decides how layers compete.)
"""

import functools
from typing import Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from jaxsparse import distributions
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.masks.exact_counts import Count
from jaxsparse.masks.remade import Remade
from jaxsparse.masks.selection import Kept
from jaxsparse.patterns import Pattern

__all__ = [
    'above_one', 'all_layers', 'by_mean_score', 'by_survivors', 'Layer',
    'per_layer', 'per_sign', 'Scope',
]


class Layer(NamedTuple):
  """A sparse parameter, on its grid of units.

  Attributes:
    path: the name of the parameter, for messages.
    pattern: the pattern, which defines units and groups.
    shape: the shape of the parameter.
    scores: the scores of units; finite numbers.
    active: True at units that were active before the exchange.
    certain: True at units that must be chosen.
    open: True at units that may be chosen, the certain ones included.
  """
  path: str
  pattern: Pattern
  shape: tuple[int, ...]
  scores: jax.Array
  active: jax.Array
  certain: jax.Array
  open: jax.Array

  @property
  def ranks(self) -> jax.Array:
    """The scores, with inf at certain units and -inf at units not open."""
    return jnp.where(
        self.certain, jnp.inf, jnp.where(self.open, self.scores, -jnp.inf))


Scope = Callable[[Sequence[Layer], Sequence[Count]], list[jax.Array]]
_GOALS = arguments.Check(
    lambda value: isinstance(value, (list, tuple)) and len(value) > 0 and all(
        isinstance(goal, Count) for goal in value),
    'a list of counts, one for each layer')
_LAYERS = arguments.Check(
    lambda value: isinstance(value, (list, tuple)) and len(value) > 0 and all(
        isinstance(layer, Layer) for layer in value),
    'a list of at least one layer')
arguments.register(Scope, arguments.function(
    'a function of layers and goals', 'jaxsparse.scopes.all_layers'))


class Layers(list):
  """A list of layers whose arrays are recomputed, so that no loop holds them.

  The exceptions are the layers for which `selection.is_held` is true.
  """

  def __init__(self, make: Callable[[], list[Layer]]):
    super().__init__(make())
    self._make = make

  def again(self) -> list[Layer]:
    return [
        first if selection.is_held(first.pattern, jax.ShapeDtypeStruct(
            first.shape, first.scores.dtype)) else new
        for first, new in zip(self, self._make())]


def _again(layers: Sequence[Layer]) -> Sequence[Layer]:
  return layers.again() if isinstance(layers, Layers) else layers


def finite(x: jax.Array) -> jax.Array:
  """Clips scores to finite numbers; NaN becomes the lowest of these.

  The lowest is half of the lowest float, because small groups take the lowest
  float itself as -inf.
  """
  limits = jnp.finfo(x.dtype)
  x = jnp.clip(x, limits.min / 2, limits.max)
  return jnp.where(jnp.isnan(x), limits.min / 2, x)


def _highest(make: Callable[[], Sequence[Layer]], kept: Sequence[Kept]
             ) -> list[jax.Array]:
  """The open units of highest rank, fewer than `kept` where fewer are open."""
  layers = make()
  chosen = selection.keep_units_each(
      Remade(lambda: [x.ranks for x in make()]), [x.pattern for x in layers],
      [x.shape for x in layers], kept)
  return [units & layer.open for units, layer in zip(chosen, layers)]


@arguments.checked(layers=_LAYERS, goals=_GOALS)
def per_layer(layers: Sequence[Layer], goals: Sequence[Count]
              ) -> list[jax.Array]:
  """Units compete within their layer, or within their group in the layer.

  Each layer keeps its count. This is the scope of SET, RigL and MEST.
  """
  return _highest(lambda: _again(layers), [
      Kept(counts.minimum(goal, counts.exactly(
          layer.pattern.sizes(layer.shape)[1])))
      for layer, goal in zip(layers, goals)])


@arguments.checked(layers=_LAYERS, goals=_GOALS)
def per_sign(layers: Sequence[Layer], goals: Sequence[Count]
             ) -> list[jax.Array]:
  """Like `per_layer`, with positive and negative units dropped in proportion.

  Let `p` be the share of positive units among the active ones; a zero counts as
  positive. Of `n` dropped units, `floor(n * p)` are the smallest positive ones,
  and the others are the negative ones nearest to zero. This scope needs the
  score `signed_magnitude`, and patterns whose units are single weights: the
  signed weights of a block would cancel.

  References:
    Mocanu et al., `Scalable Training of Artificial Neural Networks with
    Adaptive Sparse Connectivity <https://arxiv.org/abs/1707.04780>`_, 2018
  """
  _check_whole('per_sign', layers)
  for layer in layers:
    if layer.pattern.grid(layer.shape) != layer.shape:
      raise ValueError(
          f'{trees.named(layer.path)}: '
          'the scope per_sign needs patterns whose units are '
          f'single weights, got {layer.pattern}: the signed weights of a unit '
          'would cancel. Write unstructured(), or for SET with such units '
          'by_sign=False (scopes.per_layer and the score magnitude()).')
  have = counts.total_each([layer.open for layer in layers])
  above = counts.total_each([
      layer.open & (layer.scores >= 0) for layer in layers])
  goes = counts.subtract(have, counts.minimum(have, counts.stack([*goals])))
  share = counts.to_float(above) / jnp.maximum(counts.to_float(have), 1.)
  rest = counts.subtract(have, above)
  # Rounding may ask either side for more than it has.
  first = counts.minimum(counts.share_of(goes, share), above)
  other = counts.minimum(counts.subtract(goes, first), rest)
  both = (counts.subtract(above, counts.subtract(goes, other)),
          counts.subtract(rest, other))
  kept = [Kept(k) for pair in zip(*map(counts.unstack, both)) for k in pair]

  def sides():
    return [layer._replace(scores=jnp.abs(layer.scores),
                           open=layer.open & ((layer.scores >= 0) == positive))
            for layer in _again(layers) for positive in (True, False)]
  chosen = _highest(sides, kept)
  return [one | other for one, other in zip(chosen[::2], chosen[1::2])]


@arguments.checked(layers=_LAYERS, goals=_GOALS)
def all_layers(layers: Sequence[Layer], goals: Sequence[Count]
               ) -> list[jax.Array]:
  """All units of all layers compete under one threshold; the total is kept.

  This is the scope of Chase. Of equal scores, the earlier layer wins, then the
  lower index.
  """
  _check_whole('all_layers', layers)
  ranks = Remade(lambda: [layer.ranks for layer in _again(layers)])
  goal, least, most = (counts.sum_few(each) for each in (
      counts.stack([*goals]), counts.total_each([x.certain for x in layers]),
      counts.total_each([x.open for x in layers])))
  # The ranks mark certain units and units that are not open, so layers need no
  # bounds on their counts.
  kept = distributions.keep_together(
      ranks, counts.minimum(counts.maximum(goal, least), most),
      counts.exactly_each([0] * len(layers)),
      counts.exactly_each([layer.scores.size for layer in layers]),
      (True,) * len(layers))
  return _highest(lambda: _again(layers), kept)


@arguments.checked(layers=_LAYERS, goals=_GOALS)
def above_one(layers: Sequence[Layer], goals: Sequence[Count]
              ) -> list[jax.Array]:
  """Chooses every open unit with a score of 1 or more; no count is kept.

  DSR drops in this scope, by the score `adaptive_threshold`.
  """
  del goals
  return [layer.certain | (layer.open & (layer.scores >= 1))
          for layer in layers]


@arguments.checked(layers=_LAYERS, goals=_GOALS)
def by_survivors(layers: Sequence[Layer], goals: Sequence[Count]
                 ) -> list[jax.Array]:
  """Layers grow in proportion to their units that survived the drop.

  DSR grows in this scope. If a layer has no room for its share, the other
  layers grow the rest; the total is kept.

  References:
    Mostafa and Wang, `Parameter Efficient Training of Deep Convolutional Neural
    Networks by Dynamic Sparse Reparameterization
    <https://arxiv.org/abs/1902.05967>`_, 2019
  """
  _check_whole('by_survivors', layers)
  return _shared(layers, goals, counts.to_float(
      counts.total_each([layer.certain for layer in layers])))


@arguments.checked(layers=_LAYERS, goals=_GOALS)
def by_mean_score(layers: Sequence[Layer], goals: Sequence[Count]
                  ) -> list[jax.Array]:
  """Layers grow in proportion to the mean score of their active units.

  SNFS grows in this scope, by the score `momentum`; its authors call this
  redistribution. As in their code, a layer fills at most 99% of its inactive
  units, and the other layers grow the rest of its share. The total is kept: if
  all layers reach 99%, they fill up further.

  References:
    Dettmers and Zettlemoyer, `Sparse Networks from Scratch: Faster Training
    without Losing Performance <https://arxiv.org/abs/1907.04840>`_, 2019
  """
  _check_whole('by_mean_score', layers)
  # A sum of large scores would overflow.
  top = functools.reduce(jnp.maximum, (
      layer.scores.max().astype(jnp.float32) for layer in layers))
  return _shared(layers, goals, jnp.stack([
      jnp.mean(layer.scores.astype(jnp.float32) * jnp.where(
          top > 1e18, 1e-19, 1.), where=layer.active) for layer in layers]),
                 most=0.99)


def _shared(layers: Sequence[Layer], goals: Sequence[Count],
            weights: jax.Array, most: float = 1.) -> list[jax.Array]:
  """Shares the units to grow among layers in proportion to `weights`.

  No layer fills more than the share `most` of its inactive units while another
  layer has room below that share.
  """
  has, can = (counts.total_each(column) for column in (
      [layer.certain for layer in layers], [layer.open for layer in layers]))
  goal = counts.sum_few(counts.stack([*goals]))
  have = counts.sum_few(has)
  total = counts.subtract(counts.maximum(goal, have), have)
  room = counts.subtract(can, has)
  if most < 1:
    some = counts.floor_of(room, most)
    room = counts.where(
        counts.less_equal(total, counts.sum_few(some)), some, room)
  grown = counts.in_proportion(total, weights, room)
  return per_layer(layers, counts.unstack(counts.add(has, grown)))


def _check_whole(name: str, layers: Sequence[Layer]) -> None:
  for layer in layers:
    if layer.pattern.sizes(layer.shape)[0] > 1:
      raise ValueError(
          f'{trees.named(layer.path)}: '
          f'the scope {name} needs patterns whose units compete '
          f'in the whole layer, got {layer.pattern}, whose groups each keep '
          'their own count. Write scopes.per_layer, or a pattern such as '
          'unstructured(), block((1, 16)) or channel(-1).')
