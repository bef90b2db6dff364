"""The exchange of SRigL: from the masks of all layers to new ones.

Neurons without enough salient weights die; the others share the weights of the
layer equally, see `constant_fan_in.srigl`.
"""

import dataclasses
from typing import Any, Callable, NamedTuple, Sequence

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse import patterns as patterns_lib
from jaxsparse import scopes
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.masks.exact_counts import Count
from jaxsparse.patterns import Pattern
from jaxsparse.units import groups
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties


def whole(pattern: Pattern) -> Pattern:
  """The pattern in which all weights of the layer compete."""
  return dataclasses.replace(pattern, group=patterns_lib.Tiling())


class Layer(NamedTuple):
  """A sparse parameter before an exchange.

  Attributes:
    path: the path of the parameter.
    mask: its mask.
    pattern: its balanced pattern.
  """
  path: str
  mask: jax.Array
  pattern: Pattern

  @property
  def neurons(self) -> int:
    """The number of neurons, dead ones included."""
    return self.pattern.sizes(self.mask.shape)[0]

  def each(self, weights: jax.Array) -> jax.Array:
    """The number of marked weights of each neuron; size 1 along its inputs."""
    tile = self.pattern.group_tile(self.mask.shape)
    return weights.sum([a for a, n in enumerate(tile) if n > 1],
                       dtype=jnp.uint32, keepdims=True)


def layers_of(like: Any, shapes: Any) -> list[Layer]:
  """The layers of trees of masks, or parameters, and of patterns."""
  return [Layer(*row) for row in trees.align(like, shapes) if row[1].size]


# A function from layers and their living neurons, in the form of `Layer.each`,
# to masks of the places that may have weights.
Rooms = Callable[[Sequence[Layer], Sequence[jax.Array]], list[jax.Array]]


def rooms_of(ties: Ties | Sequence[Tie] | None, spare: Sequence[str],
             params: Any, masks: Any) -> Rooms:
  """The places that may have weights once neurons have died.

  Args:
    ties: the ties of the network: a dead unit also has no readers. `None` makes
      every layer stand alone.
    spare: regular expressions for layers in which no neuron dies.
    params: the parameters.
    masks: the masks.
  """
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
    """A unit lives if a living neuron with weights makes it."""
    makers = {layer.path: (layer.mask & alive).astype(jnp.float32)
              for layer, alive in zip(layers, living)}
    found = groups.masks([
        (family, groups.total(family.having('makes'), makers) > 0)
        for family in families], masks, without='beside')
    there = {path: room for path, _, room in trees.align(masks, found)}
    return [jnp.ones_like(layer.mask) if there[layer.path] is None
            else there[layer.path] for layer in layers]
  return as_units


def exchange(layers: Sequence[Layer],
             make: Callable[[], Sequence[Sequence[jax.Array]]], target: Count,
             share: jax.typing.ArrayLike, limit: Count, rooms: Rooms | None
             ) -> list[jax.Array]:
  """The new mask of every layer.

  Args:
    layers: the layers before the exchange.
    make: a function that returns the magnitudes and the gradients of all
      layers.
    target: the number of weights that each layer may have, a vector.
    share: the share of weights that the exchange drops.
    limit: the number of salient weights below which a neuron dies, a vector.
    rooms: the places that neurons leave, from `rooms_of`; `None` if none dies.
  """
  if not layers:
    return []

  def highest(i, goals, among, *, each_neuron=False, certain=None):
    """The highest of some weights, of each layer or of each neuron."""
    def again():
      return [scopes.Layer(
          layer.path, pattern := (
              layer.pattern if each_neuron else whole(layer.pattern)),
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
    # Fewer neurons could not hold the weights.
    widest = jnp.maximum(jnp.stack([
        layer.each(places).max() for layer, places in zip(layers, room)]), 1)
    fewest = counts.to_uint32(counts.divide(
        counts.add(target, counts.from_uint32(widest - 1)), widest))
    least = jnp.minimum(
        jnp.maximum(counts.to_uint32(limit), 1),
        jnp.stack([at_rank(n, rank) for n, rank in zip(salient, fewest)]))
    room = rooms(layers, [n >= x for n, x in zip(salient, least)])
  inputs = [layer.each(places) for layer, places in zip(layers, room)]
  living = jnp.stack([(n > 0).sum(dtype=jnp.uint32) for n in inputs])
  most = jnp.stack([jnp.where(n > 0, n, n.max()).min() for n in inputs])
  fan_in = counts.minimum(counts.divide(target, jnp.maximum(living, 1)),
                          counts.from_uint32(most))
  stay = highest(0, stays, [m & places for m, places in zip(masks, room)])
  stay = highest(0, fan_in, stay, each_neuron=True)
  return highest(1, fan_in, room, each_neuron=True, certain=stay)


def at_rank(numbers: jax.Array, rank: jax.Array) -> jax.Array:
  """The highest number that at least `rank` of some uint32 numbers reach.

  The search goes bit by bit, so that no device collects all numbers.

  >>> print(at_rank(jnp.array([4, 7, 1], jnp.uint32), jnp.uint32(2)))
  4
  """
  def turn(i, found):
    more = found | (jnp.uint32(1) << (31 - i))
    reached = (numbers >= more).sum(dtype=jnp.uint32)
    return jnp.where(reached >= rank, more, found)
  none = jnp.zeros_like(rank)
  none = numerics.varying_as(none, lambda: turn(jnp.uint32(0), none))
  return lax.fori_loop(jnp.uint32(0), jnp.uint32(32), turn, none)
