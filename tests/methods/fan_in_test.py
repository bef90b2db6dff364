"""Exchanges of constant fan-in: their parts against a few lines of numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import patterns
from jaxsparse.masks import exact_counts as counts
from jaxsparse.methods import _fan_in

_BALANCED = patterns.unstructured(balanced=True)


@pytest.mark.parametrize('high', [3, 2**32 - 1])
def test_at_rank_is_a_place_in_the_sorted_numbers(high):
  numbers = np.random.default_rng(0).integers(
      0, high, 12, np.uint32, endpoint=True)
  for rank in range(1, 13):
    found = jax.jit(_fan_in.at_rank)(jnp.asarray(numbers), jnp.uint32(rank))
    assert found == np.sort(numbers)[-rank]


def layer(path, inputs, neurons, seed):
  mask = np.random.default_rng(seed).random((inputs, neurons)) < .5
  return _fan_in.Layer(path, jnp.asarray(mask), _BALANCED)


def test_each_counts_by_neuron():
  found = layer('a', 6, 4, seed=0)
  assert found.neurons == 4
  np.testing.assert_array_equal(
      found.each(found.mask), np.asarray(found.mask).sum(0, keepdims=True))


def test_neurons_of_layers_that_stand_alone_leave_their_own_columns():
  layers = [layer('a', 6, 4, seed=0), layer('b', 4, 3, seed=1)]
  params = {x.path: jnp.ones(x.mask.shape) for x in layers}
  masks = {x.path: x.mask for x in layers}
  living = [jnp.array([[True, False, True, True]]),
            jnp.array([[False, True, True]])]
  a, b = _fan_in.rooms_of(None, ['b'], params, masks)(layers, living)
  np.testing.assert_array_equal(a, np.tile(living[0], (6, 1)))
  assert b.all()  # It is spared.


def test_all_neurons_have_the_fan_in_and_the_largest_weights_stay():
  layers = [layer('a', 8, 4, seed=0), layer('b', 6, 3, seed=1)]
  rng = np.random.default_rng(2)
  weights, grads = ([rng.random(x.mask.shape, np.float32) for x in layers]
                    for _ in range(2))
  weights = [np.where(x.mask, w, 0) for x, w in zip(layers, weights)]
  make = lambda: [[*map(jnp.asarray, weights)], [*map(jnp.asarray, grads)]]
  new = _fan_in.exchange(
      layers, make, counts.exactly_each([12, 9]), 0.,
      counts.exactly_each([0, 0]), None)
  for mask, x, w, g in zip(new, layers, weights, grads):
    for j in range(x.neurons):
      old = np.flatnonzero(np.asarray(x.mask)[:, j])
      stay = old[np.argsort(-w[old, j])][:3]
      free = np.setdiff1d(np.arange(len(w)), stay)
      grown = free[np.argsort(-g[free, j])][:3 - len(stay)]
      assert {*np.flatnonzero(np.asarray(mask)[:, j])} == {*stay, *grown}


def test_no_layers_have_no_exchange():
  none = counts.exactly_each([])
  assert _fan_in.exchange([], lambda: [[], []], none, 0., none, None) == []
