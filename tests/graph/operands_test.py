"""Products of parameters: the only ones, and what is added to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph.operands import find_readers
from jaxsparse.graph.operands import Reader
from jaxsparse.graph.operands import Vector

P = {'w': jnp.ones((3, 2)), 'b': jnp.ones(2), 'square': jnp.ones((3, 3))}
X = jnp.ones((4, 3))


def reader(fn, path='w', params=P, x=X):
  return find_readers(fn, params, x, paths=[path])[0][path]


def biased(y, p):
  return y + p['b'][None]


@pytest.mark.parametrize('product', [
    lambda p, x: x @ p['w'],
    lambda p, x: x @ p['w'].T.T,
    lambda p, x: (p['w'].T @ x.T).T,
    lambda p, x: x @ p['w'][None].reshape(3, 2),
    lambda p, x: x @ jax.lax.stop_gradient(p['w']),
    lambda p, x: jax.checkpoint(lambda w: x @ w)(p['w']),
    lambda p, x: jax.jit(jnp.matmul)(x, p['w'])])
def test_a_kernel_is_found_as_it_is_written(product):
  found = reader(product)
  assert found.contracted == (0,) and not found.padded and not found.window


@pytest.mark.parametrize('add, sign', [
    (lambda y, b: y + b, 1), (lambda y, b: b + y, 1), (lambda y, b: y - b, -1),
    (lambda y, b: y.astype(jnp.bfloat16).astype(jnp.float32) + b, 1),
    (lambda y, b: jax.jit(jnp.add)(y, b), 1)])
def test_a_vector_is_what_is_added_next(add, sign):
  found = reader(lambda p, x: add(x @ p['w'], p['b'][None]))
  assert found == Reader((0,), (), {1: 1}, False, Vector('b', sign, (None, 0)))


@pytest.mark.parametrize('fn, why', [
    (lambda p, x: x @ p['w'], 'no parameter'),
    (lambda p, x: p['b'][None] - x @ p['w'], 'no parameter'),
    (lambda p, x: jax.nn.relu(x @ p['w']) + p['b'][None], 'no parameter'),
    (lambda p, x: x @ p['w'] + x[:, :2] + p['b'][None], 'no parameter'),
    (lambda p, x: x @ p['w'] + 2 * p['b'][None], 'no parameter'),
    (lambda p, x: biased(x @ p['w'], p) * (x @ p['w']), 'w is used 2 times'),
    (lambda p, x: biased((y := x @ p['w']), p) * y, 'product is used 2 times'),
    (lambda p, x: biased(x @ p['w'], p) * p['b'][None], 'b is used 2 times')])
def test_what_is_not_added_alone_is_no_vector(fn, why):
  found = reader(fn)
  assert why in (found if isinstance(found, str) else found.vector)


@pytest.mark.parametrize('fn, why', [
    (lambda p, x: x @ (2 * p['w']), 'used in mul'),
    (lambda p, x: x[:, :2] @ p['w'][:2], 'used in'),
    (lambda p, x: (x @ p['w'], p['w']), 'used 2 times'),
    (lambda p, x: p['w'], 'used in an output'),
    (lambda p, x: x, 'used 0 times'),
    (lambda p, x: jax.vmap(jnp.dot)(x[:3, :2], p['w']), 'of its own'),
    (lambda p, x: jax.lax.scan(lambda h, _: (h @ p['square'], None), x, None,
                               length=2)[0], 'used in scan')])
def test_other_uses_are_told(fn, why):
  path = 'square' if why == 'used in scan' else 'w'
  assert why in reader(fn, path)


def convolution(padding, **settings):
  return lambda p, x: jax.lax.conv_general_dilated(
      x, p['w'], (1, 1), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      **settings)


@pytest.mark.parametrize('size, padding, settings, padded', [
    (3, 'SAME', {}, True), (3, 'VALID', {}, False), (1, 'SAME', {}, False),
    (1, [(0, 0)] * 2, {'lhs_dilation': (2, 2)}, True)])
def test_convolutions_tell_whether_zeros_are_around(
    size, padding, settings, padded):
  found = reader(convolution(padding, **settings),
                 params={'w': jnp.ones((size, size, 3, 2))},
                 x=jnp.ones((1, 4, 4, 3)))
  assert found[:4] == Reader((2,), (0, 1), {3: 3}, padded, '')[:4]


def test_groups_have_no_reader():
  assert 'groups' in reader(
      convolution('VALID', feature_group_count=3),
      params={'w': jnp.ones((1, 1, 1, 3))}, x=jnp.ones((1, 4, 4, 3)))


def test_what_is_seen_is_compared_at_all_places():
  x = np.ones((4, 5, 3), np.float32)
  x[1, 2, 1] = 2
  _, look = find_readers(lambda p, x: jnp.einsum('ntd,dk->nkt', x, p['w']),
                         P, x, paths=['w'])
  seen = look(P, x)['w']
  assert seen.same.tolist() == [True, False, True]
  np.testing.assert_array_equal(seen.first, [1, 1, 1])
