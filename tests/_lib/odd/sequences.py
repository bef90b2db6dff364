"""State spaces, token shifts, experts and messages."""

import jax
from jax import lax
import jax.numpy as jnp

from tests._lib.odd.case import D
from tests._lib.odd.case import N
from tests._lib.odd.case import odd
from tests._lib.odd.case import over
from tests._lib.odd.case import T
from tests._lib.zoo_case import data
from tests._lib.zoo_case import tokens
from tests._lib.zoo_case import weights


@odd({'in': (D, 6), 'a': (6, 4), 'b': (6, 4), 'c': (6, 4), 'out': (6, 3)},
     (N, T, D), found=['in:1 a:0 b:0 c:0 out:0', 'a:1 b:1 c:1'])
def diagonal_state_space(p, x):
  u = jnp.swapaxes(x @ p['in'], 0, 1)
  decay = jnp.exp(-jnp.exp(p['a']))
  def step(h, u):
    h = over(decay, h) * h + over(p['b'], h) * over(u[..., None], h)
    return h, jnp.einsum('nds,ds->nd', h, p['c'])
  start = jnp.zeros((N, *p['a'].shape))
  return lax.scan(step, start, u)[1] @ p['out']


@odd(lambda: {**weights({'in': (D, 6), 'out': (6, 3)}),
              'a': lax.complex(data(6, 4), data(4, 6).T),
              'c': lax.complex(data(6, 4), data(4, 6).T)}, (N, T, D),
     found=['in:1 a:0 c:0 out:0', 'a:1 c:1'])
def complex_state_space(p, x):
  u = jnp.swapaxes(x @ p['in'], 0, 1).astype(jnp.complex64)
  decay = p['a'] / (1 + jnp.abs(p['a'])).astype(jnp.complex64)
  def step(h, u):
    h = over(decay, h) * h + over(u[..., None], h)
    return h, jnp.einsum('nds,ds->nd', h, p['c']).real
  start = jnp.zeros((N, *p['a'].shape), jnp.complex64)
  return lax.scan(step, start, u)[1] @ p['out']


@odd({'in': (D, 12), 'conv': (3, 6), 'mix': (6, 2 + 4 + 4), 'dt': (2, 6),
      'a': (6, 4), 'out': (6, 3)}, (N, T, D), any_width=False,
     found=['in:1 conv:1 mix:0 dt:1 a:0 out:0', 'mix:1 a:1', 'mix:1 dt:0'])
def mamba(p, x):
  u, z = jnp.split(x @ p['in'], 2, -1)
  padded = jnp.pad(u, ((0, 0), (2, 0), (0, 0)))
  u = jax.nn.silu(sum(
      over(p['conv'][i], u) * padded[:, i:i + T] for i in range(3)))
  dt, b, c = jnp.split(u @ p['mix'], [2, 6], -1)
  dt = jax.nn.softplus(dt @ p['dt'])
  def step(h, now):
    u, dt, b, c = now
    decay = jnp.exp(-over(dt[..., None], h) * over(jnp.exp(p['a']), h))
    h = decay * h + jnp.einsum('nd,ns->nds', dt * u, b)
    return h, jnp.einsum('nds,ns->nd', h, c)
  xs = [jnp.swapaxes(w, 0, 1) for w in (u, dt, b, c)]
  y = jnp.swapaxes(lax.scan(step, jnp.zeros((N, 6, 4)), xs)[1], 0, 1)
  return (y * jax.nn.silu(z)) @ p['out']


@odd({'table': (11, 6), 'mix': (6,), 'k': (6, 6), 'v': (6, 6), 'out': (6, 3)},
     tokens(11, N, T), found=['table:1 mix:0 k:0 v:0', 'k:1 v:1 out:0'])
def token_shift(p, i):
  x = p['table'][i]
  before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
  mixed = x * over(p['mix'], x) + before * over(1 - p['mix'], x)
  return ((mixed @ p['k']) * jax.nn.sigmoid(mixed @ p['v'])) @ p['out']


@odd({'router': (D, 4), 'up': (4, D, 6), 'down': (4, 6, 3)}, (N, D),
     found=['up:2 down:1', 'router:1 up:0 down:0'])
def two_experts_by_gather(p, x):
  gates, which = lax.top_k(jax.nn.softmax(x @ p['router']), 2)
  h = jax.nn.relu(jnp.einsum('nd,nedh->neh', x, p['up'][which]))
  return jnp.einsum('ne,neh,nehk->nk', gates, h, p['down'][which])


@odd({'router': (D, 4), 'up': (4, D, 6), 'down': (4, 6, 3)}, (5, D),
     found='up:2 down:1')
def experts_by_scatter(p, x):
  which = jnp.argmax(x @ p['router'], -1)
  taken = jax.nn.one_hot(which, 4, dtype=jnp.int32)
  place = jnp.take_along_axis(
      jnp.cumsum(taken, 0) - 1, which[:, None], 1)[:, 0]
  sent = jnp.zeros((4, 5, D)).at[which, place].add(x)
  h = jax.nn.relu(jnp.einsum('ecd,edh->ech', sent, p['up']))
  return jnp.einsum('ech,ehk->eck', h, p['down'])[which, place]


@odd({'in': (D, 6), 'w': (4, 6, 6), 'out': (6, 3)}, (5, D),
     jnp.array([2, 1, 1, 1]), found='in:1 w:1', never='w:0')
def ragged(p, x, sizes):
  return jnp.tanh(lax.ragged_dot(x @ p['in'], p['w'], sizes)) @ p['out']


@odd({'in': (D, 6), 'out': (6, 3)}, (5, D), tokens(3, 5), found='in:1 out:0')
def segments(p, x, which):
  h = jax.ops.segment_sum(jnp.tanh(x @ p['in']), which, 3)
  return h @ p['out']


@odd({'in': (D, 6), 'out': (6, 3)}, (5, D), (tokens(5, 8)), (tokens(5, 8)),
     found='in:1 out:0')
def messages(p, x, senders, receivers):
  h = x @ p['in']
  m = jnp.zeros_like(h).at[receivers].max(jnp.tanh(h)[senders])
  return (h + m) @ p['out']


@odd({'in': (D, 6), 'out': (6, 3)}, (5, D), tokens(6, 4), never='in:1 out:0')
def scattered_into_units(p, x, places):
  return (x @ p['in']).at[:, places].set(0.) @ p['out']
