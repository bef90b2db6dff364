"""Sums of taps in control flow are those of loops that are written out."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import _walk
from jaxsparse.graph import taps
from jaxsparse.graph._known import DATA
from jaxsparse.graph._known import Known
from jaxsparse.graph._known import Tag

RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 4, 4)).astype(np.float32)
X = RNG.normal(size=(2, 4)).astype(np.float32)


def _seen(fn, p):
  return taps.run(fn, p, X, tap=lambda product: jnp.square(
      product.rows).sum(0))['']


def _layer(x, w):
  return jnp.tanh(x @ w)


@pytest.mark.parametrize('reverse', [False, True])
@pytest.mark.parametrize('unroll', [1, 2])
def test_a_kernel_of_each_turn_has_a_sum_of_its_own(reverse, unroll):
  fn = lambda p, x: lax.scan(lambda x, w: (_layer(x, w), None), x, p,
                             reverse=reverse, unroll=unroll)[0]
  x, order = X, [2, 1, 0] if reverse else [0, 1, 2]
  expected = np.zeros((3, 4), np.float32)
  for i in order:
    expected[i] = np.square(x).sum(0)
    x = np.tanh(x @ W[i])
  np.testing.assert_allclose(_seen(fn, W), expected, rtol=1e-5)


@pytest.mark.parametrize('loop', [
    lambda w, x: lax.scan(
        lambda x, _: (_layer(x, w), None), x, None, length=3)[0],
    lambda w, x: lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, _layer(c[1], w)), (0, x))[1],
    lambda w, x: lax.fori_loop(0, 3, lambda i, x: lax.cond(
        i >= 0, lambda x: _layer(x, w), lambda x: x, x), x)])
def test_a_kernel_of_all_turns_has_their_sum(loop):
  expected, x = 0., X
  for _ in range(3):
    expected = expected + np.square(x).sum(0)
    x = np.tanh(x @ W[0])
  np.testing.assert_allclose(_seen(loop, W[0]), expected, rtol=1e-5)


def test_a_loop_of_no_turns_has_seen_nothing():
  fn = lambda p, x: lax.scan(lambda x, w: (_layer(x, w), None), x, p)[0]
  assert _seen(fn, W[:0]).shape == (0, 4)
  assert not _seen(lambda p, x: lax.fori_loop(
      0, 0, lambda i, x: _layer(x, p), x), W[0]).any()


def test_what_is_carried_may_be_data_from_the_second_turn_on():
  """The first turn multiplies zeros, which are no data yet."""
  fn = lambda p, x: lax.fori_loop(
      0, 2, lambda i, h: _layer(h, p) + x, jnp.zeros_like(x))
  np.testing.assert_allclose(
      _seen(fn, W[0]), np.square(X).sum(0), rtol=1e-5)


def test_results_of_the_function_do_not_change():
  fn = lambda p, x: lax.scan(lambda x, w: (_layer(x, w), x.sum()), x, p)
  closed = jax.make_jaxpr(fn)(W, X)
  walk = taps.Walk(lambda product: None)
  eqn, = closed.jaxpr.eqns
  results = _walk.step(walk, closed.jaxpr, eqn, [
      Known(X, DATA) if v is closed.jaxpr.invars[1] else Known(
          W, Tag.of('', 3)) for v in eqn.invars])
  for got, expected in zip(results, fn(W, X)):
    np.testing.assert_allclose(got.value, expected, rtol=1e-6)
  assert [got.tag for got in results] == [DATA] * 2 and not walk.sums
