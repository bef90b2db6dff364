"""Guesses lie on both sides of the k-th highest score, or are passed over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import guesses
from jaxsparse.masks import topk
from jaxsparse.masks.remade import Remade

_SHAPES = (512, 256), (64,), (3, 70_000)


def _scores():
  rng = np.random.default_rng(0)
  return [jax.device_put(rng.standard_normal(s, np.float32)) for s in _SHAPES]


def _floats(keys):
  return [float(topk._float_of(key, jnp.float32)) for key in keys]


def _first(xs):
  return topk.stack([topk.start(x.dtype, x.size) for x in xs])


@pytest.mark.parametrize('share', [.001, .1, .5, .999])
def test_large_arrays_are_bracketed_closely(share):
  xs = _scores()
  kept = [max(1, int(share * x.size)) for x in xs]
  low, high = guesses.each(
      Remade(lambda: xs), counts.exactly_each(kept), _first(xs))
  for i in (0, 2):
    x, k = np.asarray(xs[i]).ravel(), kept[i]
    (at_low, at_high), threshold = _floats((low[i], high[i])), np.sort(x)[-k]
    assert at_low <= threshold <= at_high
    between = ((x >= at_low) & (x < at_high)).mean()
    assert between < .06  # Six standard errors of 2^14 scores, and a rank each.


def test_small_arrays_have_no_guess():
  xs = _scores()
  first = _first(xs)
  low, high = guesses.each(
      Remade(lambda: xs), counts.exactly_each([x.size // 2 for x in xs]), first)
  assert low[1] == high[1] == first.lo[1]


def test_nothing_is_sampled_where_nothing_is_kept():
  xs = _scores()
  first = _first(xs)
  found = guesses.each(
      Remade(lambda: xs), counts.exactly_each([0] * 3), first)
  for keys in found:
    np.testing.assert_array_equal(keys, first.lo)


def test_arrays_together_are_bracketed_as_one():
  xs = _scores()
  one = np.concatenate([np.asarray(x).ravel() for x in xs])
  low, high = jax.jit(
      lambda: guesses.together(
          Remade(lambda: xs), counts.exactly(one.size // 10)))()
  at_low, at_high = _floats((low, high))
  assert at_low <= np.sort(one)[-(one.size // 10)] <= at_high
