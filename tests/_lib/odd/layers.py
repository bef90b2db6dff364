"""Stacks of layers and heads that meet in another order."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests._lib.odd.case import D
from tests._lib.odd.case import N
from tests._lib.odd.case import odd
from tests._lib.odd.case import over


@odd({'in': (D, 6), 'w': (3, 6, 6), 'out': (6, 3)}, (N, D))
def layers_scanned_and_summed(p, x):
  """Layers are taken by turns, and their sum is used once more."""
  h = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x @ p['in'], p['w'])[0]
  return (h + h @ p['w'].sum(0)) @ p['out']


@odd({'in': (D, 6), 'up': (3, 6, 5), 'down': (3, 5, 6), 'out': (6, 3)}, (N, D))
def layers_with_a_common_use(p, x):
  """Hidden units of layers are their own, but for the sum over layers."""
  def step(h, w):
    return h + jnp.tanh(h @ w[0]) @ w[1], None
  h = lax.scan(step, x @ p['in'], (p['up'], p['down']))[0]
  return jnp.tanh(h @ p['up'].mean(0)) @ p['down'][0] @ p['out']


@odd({'in': (D, 6), 'up': (3, 6, 5), 'down': (3, 5, 6), 'out': (6, 3)}, (N, D))
def layers_written_by_their_neighbours(p, x):
  """Layer i reads with its own kernel and writes with that of the next."""
  def step(h, w):
    return h + jnp.tanh(h @ w[0]) @ w[1], None
  xs = p['up'], jnp.roll(p['down'], 1, 0)
  return lax.scan(step, x @ p['in'], xs)[0] @ p['out']


@odd({'in': (D, 6), 'up': (3, 6, 5), 'down': (3, 5, 6), 'out': (6, 3)}, (N, D))
def layers_written_in_reverse(p, x):
  def step(h, w):
    return h + jnp.tanh(h @ w[0]) @ w[1], None
  xs = p['up'], p['down'][::-1]
  return lax.scan(step, x @ p['in'], xs)[0] @ p['out']


@odd({'in': (D, 6), 'up': (3, 6, 5), 'down': (3, 5, 6), 'out': (6, 3)}, (N, D))
def hidden_units_carried_to_the_next_layer(p, x):
  """All layers' hidden units meet in a carry: one order for all."""
  def step(carry, w):
    h, last = carry
    u = jnp.tanh(h @ w[0] + last)
    return (h + u @ w[1], u), None
  start = x @ p['in'], jnp.zeros((N, p['up'].shape[2]))
  return lax.scan(step, start, (p['up'], p['down']))[0][0] @ p['out']


@odd({'up': (3, D, 5), 'down': (3, 5, 3)}, (N, D))
def chosen_layer_by_a_loop_of_another_length(p, x):
  def body(i, y):
    w = lax.dynamic_index_in_dim(p['down'], (2 * i) % 3, 0, keepdims=False)
    return y + jnp.tanh(x @ p['up'][i]) @ w
  return lax.fori_loop(0, 3, body, jnp.zeros((N, 3)))


@odd({'a': (3, D, 5), 'b': (3, D, 5), 'w': (3, 5, 3)}, (N, D))
def stacked_by_a_loop_and_read_mirrored(p, x):
  ys = lax.scan(lambda c, w: (c, x @ w), 0., p['a'])[1]
  zs = lax.scan(lambda c, w: (c, x @ w), 0., p['b'], reverse=True)[1]
  return jnp.einsum('lnh,lnh,lhk->nk', ys, zs[::-1], p['w'])


@odd({'a': (2, D, 6), 'w': (2, 6, 3)}, (N, D))
def vmapped_layers_swapped(p, x):
  h = jax.vmap(lambda w: jnp.tanh(x @ w))(p['a'])
  return jnp.einsum('lnh,lhk->nk', h[::-1], p['w'])


@odd({'a': (D, 2, 6), 'w': (6, 2, 3)}, (N, D))
def heads_swapped(p, x):
  h = jnp.einsum('nd,dlh->nlh', x, p['a'])
  h = jnp.stack([h[:, 1], jnp.tanh(h[:, 0])], 1)
  return jnp.einsum('nlh,hlk->nk', h, p['w'])


@odd({'a': (D, 2, 6), 'w': (6, 2, 3)}, (N, D))
def heads_that_differ(p, x):
  h = jnp.einsum('nd,dlh->nlh', x, p['a'])
  h = h * jnp.arange(12.).reshape(2, 6)[None] ** jnp.float32(0)
  return jnp.einsum('nlh,hlk->nk', h, p['w'])


@odd({'a': (D, 2, 6), 'w': (6, 2, 3)}, (N, D), any_width=False)
def heads_of_which_one_is_weighted(p, x):
  h = jnp.einsum('nd,dlh->nlh', x, p['a'])
  weight = np.ones((2, 6), np.float32)
  weight[1] = np.arange(6)
  return jnp.einsum('nlh,hlk->nk', h * over(weight, h), p['w'])


@odd({'a': (D, 3, 4), 'w': (3, 4, 3)}, (N, D), any_width=False)
def a_grid_summed_over_diagonals(p, x):
  h = jnp.tanh(jnp.einsum('nd,dlh->nlh', x, p['a']))
  h = jnp.stack([jnp.roll(h[:, i], i, 1) for i in range(3)], 1)
  return jnp.tanh(h.sum(1)) @ p['w'].sum(0)
