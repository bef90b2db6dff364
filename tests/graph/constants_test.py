"""Numbers of a function: what it computes with, in order, and how exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import constants


def _of(f, n=4, dtype=jnp.float32):
  return constants.numbers(
      jax.make_jaxpr(f)(jax.ShapeDtypeStruct((n,), dtype)))


def test_the_same_function_has_the_same_numbers_at_any_size():
  f = lambda w: jnp.tanh(w * 3.).sum() + 1.
  assert constants.changed(_of(f, 8), _of(f, 4)) is None


def test_a_nan_is_the_same_as_another():
  f = lambda w: jnp.where(w > 0, w, float('nan') * w).sum()
  assert constants.changed(_of(f, 8), _of(f, 4)) is None


@pytest.mark.parametrize('made', [
    lambda: np.tril(np.ones((300, 300), np.float32)),
    lambda: np.arange(6, dtype=np.float32), lambda: np.float32('nan')])
def test_arrays_that_are_made_anew_in_each_trace_are_the_same(made):
  f = lambda w: jnp.tanh(w).sum() + jnp.sin(made()).sum()
  assert constants.changed(_of(f, 8), _of(f, 4)) is None
  another = lambda w: jnp.tanh(w).sum() + jnp.sin(made() + 1).sum()
  if np.size(made()) > 1:
    told = constants.changed(_of(f), _of(another))
    assert told == 'sin with another constant'


def test_keys_that_are_closed_over_are_the_same_if_they_are_one():
  key, other = jax.random.key(0), jax.random.key(1)
  f = lambda key: lambda w: w * jax.random.uniform(key, (1,))
  assert constants.changed(_of(f(key)), _of(f(key))) is None
  assert constants.changed(_of(f(key)), _of(f(other)))


@pytest.mark.parametrize('f, told', [
    (lambda w: jax.lax.integer_pow(w[0], w.size),
     'integer_pow by 8, which becomes 4'),
    (lambda w: (w * (2 / w.size)).sum(), 'mul by 0.25, which becomes 0.5'),
    (lambda w: jax.jit(lambda v: v / v.size)(w)[:2] * 1.,
     'div by 8, which becomes 4'),
    (lambda w: jax.lax.cond(w[0] > 0, lambda: w.sum() * w.size, w.sum),
     'mul by 8, which becomes 4'),
    (lambda w: jax.lax.fori_loop(0, 3, lambda i, v: v * w.size, w).sum(),
     'mul by 8, which becomes 4'),
    (lambda w: w, 'outputs of other shapes'),
    (lambda w: (w.reshape(-1, 4) * np.full(4, w.size, 'f4')).sum(),
     'broadcast_in_dim by 8, which becomes 4'),
    (lambda w: (w.reshape(-1, 4) * np.arange(w.size, w.size + 4.)).sum(),
     'broadcast_in_dim with another constant'),
    (lambda w: w.sum() if w.size > 4 else -w.sum(), 'what it computes')])
def test_what_changes_is_told(f, told):
  with jax.numpy_dtype_promotion('standard'):
    with jax.numpy_rank_promotion('allow'):
      assert constants.changed(_of(f, 8), _of(f, 4)) == told


def test_the_precision_is_that_of_the_narrowest_floats():
  eps = lambda dtype: float(jnp.finfo(dtype).eps)
  f = lambda w, dtype: (w.astype(dtype) * dtype(2)).astype(jnp.float32)
  w = jnp.ones(3)
  of = lambda f, w: constants.precision(jax.make_jaxpr(f)(w), w)
  assert of(lambda w: w * 2., w) == eps(jnp.float32)
  assert of(lambda w: jax.jit(lambda v: f(v, jnp.bfloat16))(w), w) == eps(
      jnp.bfloat16)
  assert of(lambda w: w, jnp.arange(3)) == 0.
