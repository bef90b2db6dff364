"""Scopes: which weights compete when weights are dropped and grown.

A scope is a function

  chosen = scope(layers, goals)

from the layers of one exchange to the units of each that are active after it,
bool arrays on their grids of units. `goals` are the counts that each group of
each layer would have without competition between layers; a scope may keep
these counts, or their sum, or neither. `prune_and_grow` calls one to drop and
one to grow. (The scope of `prune` is its distribution.)
"""

import functools
from typing import Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from jaxsparse import distributions
from jaxsparse._utils import arguments
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
    path: its name, for messages.
    pattern: what its units are.
    shape: of the parameter.
    scores: of units; finite.
    active: units that were active before the exchange.
    certain: units that are chosen anyway.
    open: units that may be chosen, the certain ones included.
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
    """The scores, above all others where certain and below where not open."""
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
    'a list of layers, of one at least')
arguments.register(Scope, arguments.function(
    'a function of layers and goals', 'jaxsparse.scopes.all_layers'))


class Layers(list):
  """Layers that can be made again, so that no loop has to hold their arrays.

  Some are held, see `selection.is_held`.
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
  """Scores strictly between the infinities; NaN becomes the lowest of them.

  Half the lowest number: that one itself counts as -inf in small groups.
  """
  limits = jnp.finfo(x.dtype)
  x = jnp.clip(x, limits.min / 2, limits.max)
  return jnp.where(jnp.isnan(x), limits.min / 2, x)


def _highest(make: Callable[[], Sequence[Layer]], kept: Sequence[Kept]
             ) -> list[jax.Array]:
  """The highest open units, fewer where there are not so many."""
  layers = make()
  chosen = selection.keep_units_each(
      Remade(lambda: [x.ranks for x in make()]), [x.pattern for x in layers],
      [x.shape for x in layers], kept)
  return [units & layer.open for units, layer in zip(chosen, layers)]


@arguments.checked(layers=_LAYERS, goals=_GOALS)
def per_layer(layers: Sequence[Layer], goals: Sequence[Count]
              ) -> list[jax.Array]:
  """Units compete within their layer, or their group there, and it keeps its
  count. The scope of SET, RigL and MEST.
  """
  return _highest(lambda: _again(layers), [
      Kept(counts.minimum(goal, counts.exactly(
          layer.pattern.sizes(layer.shape)[1])))
      for layer, goal in zip(layers, goals)])


@arguments.checked(layers=_LAYERS, goals=_GOALS)
def per_sign(layers: Sequence[Layer], goals: Sequence[Count]
             ) -> list[jax.Array]:
  """As `per_layer`, but positive and negative units each give their share.

  Of `n` units that go, `floor(n * p)` are the smallest positive ones and the
  others the negative ones nearest to zero, where `p` is the positive share of
  the active units; a zero is positive. For the score `signed_magnitude`.

  References:
    Mocanu et al., `Scalable Training of Artificial Neural Networks with
    Adaptive Sparse Connectivity <https://arxiv.org/abs/1707.04780>`_, 2018
  """
  _check_whole('per_sign', layers)
  have = counts.total_each([layer.open for layer in layers])
  above = counts.total_each([
      layer.open & (layer.scores >= 0) for layer in layers])
  goes = counts.subtract(have, counts.minimum(have, counts.stack([*goals])))
  share = counts.to_float(above) / jnp.maximum(counts.to_float(have), 1.)
  rest = counts.subtract(have, above)
  # Rounding may ask one side for more than it has.
  other = counts.minimum(
      counts.subtract(goes, counts.share_of(goes, share)), rest)
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

  The scope of Chase. Ties go to the earlier layer, then to the lower index.
  """
  _check_whole('all_layers', layers)
  ranks = Remade(lambda: [layer.ranks for layer in _again(layers)])
  goal, least, most = (counts.sum_few(each) for each in (
      counts.stack([*goals]), counts.total_each([x.certain for x in layers]),
      counts.total_each([x.open for x in layers])))
  # Ranks say who is certain and who is not open: layers have no bounds of
  # their own.
  kept = distributions.keep_together(
      ranks, counts.minimum(counts.maximum(goal, least), most),
      counts.exactly_each([0] * len(layers)),
      counts.exactly_each([layer.scores.size for layer in layers]),
      (True,) * len(layers))
  return _highest(lambda: _again(layers), kept)


@arguments.checked(layers=_LAYERS, goals=_GOALS)
def above_one(layers: Sequence[Layer], goals: Sequence[Count]
              ) -> list[jax.Array]:
  """Every open unit with a score of 1 or more, however many these are.

  The scope in which DSR drops, by the score `adaptive_threshold`.
  """
  del goals
  return [layer.certain | (layer.open & (layer.scores >= 1))
          for layer in layers]


@arguments.checked(layers=_LAYERS, goals=_GOALS)
def by_survivors(layers: Sequence[Layer], goals: Sequence[Count]
                 ) -> list[jax.Array]:
  """Layers grow in proportion to the units that they still have.

  The scope in which DSR grows. What a layer has no room for goes to the others;
  the total is kept.

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

  The scope in which SNFS grows, by the score `momentum`: what its authors call
  redistribution. A layer grows into 99% of its room, as in their code; what it
  has no room for goes to the others, and the total is kept: if all layers are
  that full, they fill up.

  References:
    Dettmers and Zettlemoyer, `Sparse Networks from Scratch: Faster Training
    without Losing Performance <https://arxiv.org/abs/1907.04840>`_, 2019
  """
  _check_whole('by_mean_score', layers)
  # A sum of large ones would overflow.
  top = functools.reduce(jnp.maximum, (
      layer.scores.max().astype(jnp.float32) for layer in layers))
  return _shared(layers, goals, jnp.stack([
      jnp.mean(layer.scores.astype(jnp.float32) * jnp.where(
          top > 1e18, 1e-19, 1.), where=layer.active) for layer in layers]),
                 most=0.99)


def _shared(layers: Sequence[Layer], goals: Sequence[Count],
            weights: jax.Array, most: float = 1.) -> list[jax.Array]:
  """Shares what all layers may grow in proportion to weights.

  None grows into more than `most` of its room while another can.
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
          f'{layer.path}: the units of {layer.pattern} compete in groups, each '
          f'with its own count, but {name} asks for layers that compete as a '
          'whole. Use scope per_layer, or unstructured(), block(...) or '
          'channel(...).')
