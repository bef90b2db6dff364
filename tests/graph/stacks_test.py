"""From what units give to what sums them up, and what is in between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import _lines
from jaxsparse.graph import _stacks
from jaxsparse.graph._stacks import Lost
from jaxsparse.graph._stacks import Stack

P = {'router': np.ones((4, 3), np.float32), 'w': np.ones((3, 4, 5), np.float32),
     'out': np.ones((3, 5, 2), np.float32)}
X = np.ones((6, 4), np.float32)
STACK = Stack({'router': 1, 'w': 0, 'out': 0}, 3)


def hidden(p, x):
  return jnp.einsum('td,edf->tef', x, p['w'])


def shares(p, x):
  return jax.nn.softmax(x @ p['router'])


def both(fn):
  """The kernels that are seen, and the layer of the first."""
  traced = _lines.traced(fn, P, X, kernels=[*P], flat=True)
  steps = traced.line.data_steps()
  leaves = [found[1].path for step in steps
            if (found := _stacks.kernel_of(traced.line, STACK, step))]
  return leaves, _stacks.follow(traced, 'units', STACK, leaves[0], steps)


def layer_of(fn):
  return both(fn)[1]


def weighed(p, x, y):
  return jnp.einsum('te,tef->tf', shares(p, x), y)


def test_a_router_is_no_kernel():
  leaves, layer = both(lambda p, x: weighed(p, x, hidden(p, x)))
  assert [leaf.path for leaf in leaves] == ['w']
  assert (layer.name, layer.path, layer.index) == ('units', 'w', ())
  assert layer.features == (1,)


def test_it_begins_at_the_last_array_that_is_not_linear():
  def fn(p, x):
    y = jnp.tanh(hidden(p, x)) ** 2
    return weighed(p, x, jnp.einsum('tef,efk->tek', y, p['out']))
  layer = layer_of(fn)
  assert len(layer.reads) == 1  # The shares: the product was before it.


@pytest.mark.parametrize('fn, error', [
    (lambda p, x: weighed(p, x, hidden(p, x)) + jnp.sin(
        weighed(p, x, hidden(p, 2 * x))), 'in two ways'),
    (lambda p, x: weighed(p, x, hidden(p, x)) * (hidden(p, x)**2).mean(),
     'in two ways'),
    (lambda p, x: jnp.tanh(shares(p, x)[..., None] * hidden(p, x)).sum(1),
     'only then goes through tanh'),
    (lambda p, x: jnp.sort(hidden(p, x).reshape(6, -1)), 'not summed')])
def test_what_is_not_followed_is_told(fn, error):
  with pytest.raises(Lost, match=error):
    layer_of(fn)


@pytest.mark.parametrize('labels, old, new, expected', [
    (('units', None, 'features'), (3, 6, 4), (3, 2, 3, 4),
     ('units', None, None, 'features')),
    (('units', None, 'features'), (3, 6, 4), (3, 6, 2, 2),
     ('units', None, 'features', 'features')),
    (('units', None, 'features'), (3, 6, 4), (18, 4), ('mixed', 'features')),
    (('units', None), (1, 6), (6,), (None,)),
    (('units', 'features'), (4, 2), (2, 2, 2), ('mixed', 'mixed', 'features'))])
def test_labels_go_through_reshapes(labels, old, new, expected):
  assert _stacks._reshaped(labels, old, new) == expected
