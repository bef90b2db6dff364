"""What a tap is shown, and how what it returns is summed."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import taps

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def _seen(fn, params, *inputs):
  found = []

  def tap(product):
    found.append(product)
    return jnp.sum(product.rows)
  return taps.run(fn, params, *inputs, tap=tap), found


def test_a_tap_is_shown_data_in_the_order_of_the_kernels_axes():
  w = np.ones((2, 2, 5), np.float32)
  sums, (product,) = _seen(
      lambda p, x: jnp.einsum('tba,abo->to', x.reshape(3, 2, 2), p['w']),
      {'w': w}, X)
  assert product.path == 'w' and product.batch == 0
  np.testing.assert_array_equal(
      product.rows, X.reshape(3, 2, 2).swapaxes(1, 2).reshape(3, 4))
  assert sums == {'w': X.sum()}


def test_what_passes_a_primitive_together_stays_itself():
  fn = lambda p, x: x @ p['v'] + x @ p['w']
  params = {'v': np.ones((4, 5), np.float32), 'w': np.ones((4, 5), np.float32)}
  expected, _ = _seen(fn, params, X)
  for each in (lambda p, x: (jax.device_put(p), x),
               lambda p, x: lax.optimization_barrier((p, x))):
    got, _ = _seen(lambda p, x, each=each: fn(*each(p, x)), params, X)
    assert got == expected


def test_experts_come_first():
  _, (product,) = _seen(
      lambda p, x: jnp.einsum('te,eo->teo', x, p['w']), {
          'w': np.ones((4, 2), np.float32)}, X)
  assert product.batch == 1 and product.rows.shape == (4, 3, 1)


@pytest.mark.parametrize('fn', [
    lambda p, x: p['w'] @ p['w'], lambda p, x: x + p['w'].sum(),
    lambda p, x: x @ x.T, lambda p, x: (x[:1] * p['w'][:1]) @ x.T,
    lambda p, x: x @ p['w'].reshape(2, 8).T.reshape(4, 4),
    lambda p, x: x @ p['w'][::-1], lambda p, x: x @ (p['w'] @ p['w'])])
def test_what_is_no_product_of_a_whole_parameter_with_data_is_not_shown(fn):
  sums, found = _seen(fn, {'w': np.ones((4, 4), np.float32)}, X)
  assert not found and not sums


@pytest.mark.parametrize('other', [
    lambda w: w[:, :2], lambda w: w @ w, lambda w: w[::-1] * 2.,
    lambda w: jnp.cumsum(w, 0)])
def test_a_sum_that_would_not_be_of_all_data_is_none(other):
  p = {'v': np.ones((4, 4), np.float32), 'w': np.ones((4, 4), np.float32)}
  sums, _ = _seen(lambda p, x: (
      (x @ p['w']).sum() + (x @ other(p['w'])).sum() * (x @ p['v']).sum()), p,
                  X)
  assert set(sums) == {'v'}
  sums, _ = _seen(lambda p, x: (
      (x @ p['w']).sum() + other(p['w']).sum() * x), p, X)
  assert set(sums) == {'w'}


def test_parameters_added_to_another_one_are_not_passed_over():
  """Else the sum of `w` would be that of its other product alone."""
  p = {'v': np.ones((4, 4), np.float32), 'w': np.ones((4, 4), np.float32)}
  fn = lambda p, x: x @ (p['v'] + p['w']) + jnp.tanh(x) @ p['w']
  sums, _ = _seen(fn, p, X)
  assert set(sums) == {'v'}
  # A weight that its own norm scales is still one parameter.
  fn = lambda p, x: x @ (p['v'] / jnp.sqrt((p['v']**2).sum(0, keepdims=True)))
  sums, _ = _seen(fn, {'v': p['v']}, X)
  assert set(sums) == {'v'}


def test_a_product_in_a_loop_of_what_is_made_of_a_parameter_is_not_shown():
  """Else the sum of the other product would pass for that of all data."""
  def fn(p, x):
    layers = p['w'].reshape(2, 2, 4).transpose(2, 0, 1).reshape(4, 2, 2)
    y, _ = lax.scan(lambda y, w: (y @ w, ()), x[:, :2], layers)
    return x @ p['w'], y
  sums, _ = _seen(fn, {'w': np.ones((4, 4), np.float32)}, X)
  assert not sums


def test_none_is_left_out():
  fn = lambda p, x: x @ p['w']
  assert taps.run(fn, {'w': jnp.ones((4, 2))}, X, tap=lambda product: None) == (
      {})


def test_integers_carried_and_keys_are_in_nobodys_way():
  def fn(p, x):
    key, noise = jax.random.split(p['key']), p['steps'] + 1

    def turn(i, carry):
      x, n = carry
      return jnp.tanh(x @ p['w']) + jax.random.normal(key[0], (3, 4)), n + i
    return lax.fori_loop(0, 2, turn, (x, noise))
  sums, _ = _seen(fn, {'key': jax.random.key(0), 'steps': np.int32(1),
                       'w': np.ones((4, 4), np.float32)}, X)
  assert set(sums) == {'w'} and np.isfinite(sums['w'])
