"""Indices of units: what keeps them so, and what fixes the units."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import tracing
from jaxsparse.graph.axes import leaves

W = np.ones((4, 6), np.float32)
OUT = np.ones((6, 3), np.float32)
X = np.ones((2, 4), np.float32)


def _why(use, params=None):
  """Why the six units of `w` are fixed, or `None`."""
  def fn(p, x):
    return use(jnp.argmax(x @ p['w'], -1), p)
  read = tracing.read(fn, {'w': W, 'out': OUT} | (params or {}), X)
  return leaves(read.params['w'][1])[0].fixed


@pytest.mark.parametrize('use', [
    lambda i, p: jax.nn.one_hot(i, 6) @ p['out'],
    lambda i, p: jax.nn.one_hot(i, 6, axis=0).T @ p['out'],
    lambda i, p: p['out'][i], lambda i, p: jnp.take(p['out'], i, axis=0),
    lambda i, p: p['out'].T[:, i].T,
    lambda i, p: p['out'][i.reshape(2, 1).astype(jnp.int16)][:, 0],
    lambda i, p: p['out'].at[i].get(mode='promise_in_bounds'),
    lambda i, p: jax.jit(lambda i: p['out'][i])(i),
    lambda i, p: (jnp.arange(6)[None] == i[:, None]).astype('float32') @ p[
        'out']])
def test_looking_up_the_same_units_fixes_nothing(use):
  assert _why(use) is None


@pytest.mark.parametrize('use, why', [
    (lambda i, p: i, 'an output of the function'),
    (lambda i, p: i.astype(jnp.float32) * 2., 'mul'),
    (lambda i, p: jax.nn.one_hot(5 - i, 6) @ p['out'], 'sub'),
    (lambda i, p: jax.nn.one_hot(i + 1, 6) @ p['out'], 'eq'),
    (lambda i, p: jax.nn.one_hot(i, 7) @ jnp.pad(
        p['out'], [(0, 1), (0, 0)]), 'eq'),
    (lambda i, p: jnp.where(i < 3, 1., 2.), 'lt'),
    (lambda i, p: jnp.ones((8, 2))[i], 'gather'),
    (lambda i, p: lax.map(lambda j: j * 2, i), 'scan'),
    (lambda i, p: jnp.concatenate([i, i]), 'concatenate'),
    (lambda i, p: (i[:, None] == i[None]).sum(), 'eq'),
    (lambda i, p: p['out'][jnp.where(p['out'][0, 0] > 0, i, i + 1)],
     'select_n'),
    (lambda i, p: jnp.arange(6)[::-1][i], 'iota'),
    (lambda i, p: (jnp.arange(6)[::-1][None] == i[:, None]).sum(), 'eq')])
def test_anything_else_fixes_the_units(use, why):
  with jax.numpy_dtype_promotion('standard'):
    found = _why(use)
  assert found == why, found


def test_units_whose_indices_leave_a_loop_are_fixed():
  def fn(p, x):
    which = lax.map(lambda row: jnp.argmax(row), x @ p['w'])
    return p['out'][which]
  read = tracing.read(fn, {'w': W, 'out': OUT}, X)
  assert leaves(read.params['w'][1])[0].fixed == 'control flow'


def test_values_of_the_largest_have_no_order_but_their_own():
  def fn(p, x):
    return lax.top_k(x @ p['w'], 2)[0] @ p['out'][:2]
  read = tracing.read(fn, {'w': W, 'out': OUT}, X)
  units, = leaves(read.params['w'][1])
  assert units.fixed is None and units.kept == 'top_k over it'
