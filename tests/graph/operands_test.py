"""Products of parameters: the only ones, and what is added to them."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse.graph.operands import find_readers
from jaxsparse.graph.operands import Reader
from jaxsparse.graph.operands import Vector

PARAMS = {'w': jnp.ones((3, 2)), 'b': jnp.ones(2), 'square': jnp.ones((3, 3))}
X = jnp.ones((4, 3))


def reader(fn, path='w', params=PARAMS, x=X):
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
                         PARAMS, x, paths=['w'])
  seen = look(PARAMS, x)['w']
  assert seen.same.tolist() == [True, False, True]
  np.testing.assert_array_equal(seen.first, [1, 1, 1])


def _sharded(fn, specs, rows=('d',)):
  mesh = jax.make_mesh((2, 2), ('d', 'm'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)
  return jax.shard_map(
      fn, mesh=mesh, in_specs=(specs, P(*rows)), out_specs=P('d'),
      check_vma=False)


@pytest.mark.parametrize('specs, gather', [
    (P(), lambda w: w),
    ({**dict.fromkeys(PARAMS, P()), 'w': P(None, 'm')}, lambda w:
     jax.lax.all_gather(w, 'm', axis=1, tiled=True))])
def test_devices_that_have_all_of_a_kernel_are_one(specs, gather):
  fn = lambda p, x: biased(x @ gather(p['w']), p)
  readers, look = find_readers(_sharded(fn, specs), PARAMS, X, paths=['w'])
  assert readers['w'] == reader(lambda p, x: biased(x @ p['w'], p))
  x = X.at[3, 1].set(2.)
  seen = look(PARAMS, x)['w']
  assert seen.same.tolist() == [True, False, True]
  np.testing.assert_array_equal(seen.first, [1, 1, 1])


@pytest.mark.parametrize('specs, fn, why', [
    ({'w': P(None, 'm'), 'b': P('m')}, lambda p, x: biased(x @ p['w'], p),
     'w is shared out among devices'),
    ({'w': P(), 'b': P('m')}, lambda p, x: biased(x @ p['w'], {
        'b': jnp.concatenate([p['b'], p['b']])}), 'no parameter'),
    ({'w': P(), 'b': P('m')}, lambda p, x: x @ p['w'][:, :1] + p['b'][None],
     'w is used in'),
    ({'w': P(), 'b': P()}, lambda p, x: jax.lax.psum(x @ p['w'], 'm')
     + p['b'][None], 'no parameter'),
    ({'w': P(), 'b': P()}, lambda p, x: jax.lax.ppermute(
        x, 'd', [(0, 1), (1, 0)]) @ p['w'], 'not all that it meets is seen'),
    ({'w': P(), 'b': P()}, lambda p, x: x @ p['w'], 'no parameter')])
def test_what_devices_do_otherwise_is_told(specs, fn, why):
  found = reader(_sharded(fn, {**specs, 'square': P()}))
  assert why in (found if isinstance(found, str) else found.vector)


def test_what_meets_no_data_has_no_reader():
  found, look = find_readers(
      lambda p, x: x @ p['w'] + jnp.ones((4, 3)) @ p['square'][:, :2].T.T,
      PARAMS, X, paths=['w', 'square'])
  assert isinstance(found['w'], Reader) and isinstance(found['square'], str)
  found, look = find_readers(
      lambda p, x: x @ p['w'] + (jnp.ones((4, 3)) @ p['square'])[:, :2],
      PARAMS, X, paths=['w', 'square'])
  assert 'square meets no data' in found['square'] and [*look(PARAMS, X)] == [
      'w']
