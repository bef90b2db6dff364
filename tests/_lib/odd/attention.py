"""Attention in many forms."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests._lib.odd.case import D
from tests._lib.odd.case import N
from tests._lib.odd.case import normed
from tests._lib.odd.case import odd
from tests._lib.odd.case import over
from tests._lib.odd.case import T


def attend(q, k, v, change=lambda x: x):
  logits = change(jnp.einsum('nthk,nshk->nhts', q, k))
  return jnp.einsum('nhts,nshk->nthk', jax.nn.softmax(logits), v)


def heads(p, x, name):
  return jnp.einsum('ntd,dhk->nthk', x, p[name])


def out(p, y):
  return jnp.einsum('nthk,hkd->ntd', y, p['out'])


QKV = {'q': (D, 3, 6), 'k': (D, 3, 6), 'v': (D, 3, 5), 'out': (3, 5, 2)}
HEADS, KEYS, VALUES = 'q:1 k:1 v:1 out:0', 'q:2 k:2', 'v:2 out:1'


@odd(QKV, (N, T, D), found=[HEADS, KEYS, VALUES])
def attention(p, x):
  return out(p, attend(*(heads(p, x, i) for i in 'qkv')))


@odd({**QKV, 'k': (D, 6), 'v': (D, 5)}, (N, T, D),
     found=['q:1 out:0', 'q:2 k:1', 'v:1 out:1'])
def attention_with_one_key(p, x):
  q, k, v = heads(p, x, 'q'), x @ p['k'], x @ p['v']
  shares = jax.nn.softmax(jnp.einsum('nthk,nsk->nhts', q, k))
  return out(p, jnp.einsum('nhts,nsk->nthk', shares, v))


@odd({'q': (D, 4, 6), 'k': (D, 2, 6), 'v': (D, 2, 5), 'out': (4, 5, 3)},
     (N, T, D), any_width=False, found=['q:1 k:1 v:1 out:0', 'q:1 out:0', KEYS])
def grouped_queries_by_repeat(p, x):
  q, k, v = (heads(p, x, i) for i in 'qkv')
  return out(p, attend(q, jnp.repeat(k, 2, 2), jnp.repeat(v, 2, 2)))


@odd({'q': (D, 4, 6), 'k': (D, 2, 6), 'v': (D, 2, 5), 'out': (4, 5, 3)},
     (N, T, D), any_width=False, found=['q:1 k:1 v:1 out:0', 'q:1 out:0', KEYS])
def grouped_queries_by_tile(p, x):
  q, k, v = (heads(p, x, i) for i in 'qkv')
  return out(p, attend(
      q, jnp.tile(k, (1, 1, 2, 1)), jnp.tile(v, (1, 1, 2, 1))))


@odd({'q': (D, 4, 6), 'k': (D, 2, 6), 'v': (D, 2, 5), 'out': (4, 5, 3)},
     (N, T, D), any_width=False,
     found=[KEYS, 'q:1 v:1 out:0'])
def keys_repeated_and_values_tiled(p, x):
  """Queries are a grid: rows share keys, columns share values."""
  q, k, v = (heads(p, x, i) for i in 'qkv')
  return out(p, attend(q, jnp.repeat(k, 2, 2), jnp.tile(v, (1, 1, 2, 1))))


@odd(QKV, (N, T, D), never=HEADS, found=[KEYS, VALUES], any_width=False)
def alibi(p, x):
  slopes = np.float32([0.5, 0.25, 0.125])[:, None, None]
  far = np.abs(np.arange(T)[:, None] - np.arange(T)).astype(np.float32)
  return out(p, attend(*(heads(p, x, i) for i in 'qkv'), lambda x: (
      x - jnp.broadcast_to(slopes * far, x.shape))))


@odd(QKV, (N, T, D), found=[HEADS, KEYS, VALUES])
def sliding_window(p, x):
  near = np.abs(np.arange(T)[:, None] - np.arange(T)) < 2
  return out(p, attend(*(heads(p, x, i) for i in 'qkv'), lambda x: (
      jnp.where(np.broadcast_to(near, x.shape), x, -1e9))))


@odd({**QKV, 'bias': (2 * T - 1, 3)}, (N, T, D),
     found=[HEADS + ' bias:1', KEYS, VALUES], never='bias:0')
def relative_positions(p, x):
  place = np.arange(T)[:, None] - np.arange(T) + T - 1
  bias = jnp.moveaxis(p['bias'][place], -1, 0)[None]
  return out(p, attend(*(heads(p, x, i) for i in 'qkv'), lambda x: (
      x + jnp.broadcast_to(bias, x.shape))))


@odd({**QKV, 'k': (6, 3, 6), 'v': (6, 3, 5)}, (N, T, D), (N, 7, 6),
     found=[HEADS, KEYS, VALUES])
def cross_attention(p, x, y):
  return out(p, attend(heads(p, x, 'q'), heads(p, y, 'k'), heads(p, y, 'v'),
                       lambda x: 3. * jnp.tanh(x / 3.)))


@odd({**QKV, 'scale': (6,), 'heads': (3,)}, (N, T, D),
     found=[HEADS + ' heads:0', KEYS + ' scale:0', VALUES], stays=KEYS)
def queries_and_keys_normed(p, x):
  def norm(x):
    rms = lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-3)
    return x * over(p['scale'], x) * over(rms, x)
  q, k, v = (heads(p, x, i) for i in 'qkv')
  return out(p, attend(norm(q), norm(k), v, lambda x: (
      x * jnp.broadcast_to(p['heads'][None, :, None, None], x.shape))))


@odd({**QKV, 'scale': (3,)}, (N, T, D), found=[HEADS + ' scale:0'],
     stays=HEADS)
def normed_over_heads(p, x):
  y = attend(*(heads(p, x, i) for i in 'qkv'))
  y = normed(y, 2)
  return out(p, y * jnp.broadcast_to(p['scale'][:, None], y.shape))


@odd({'q': (D, 12), 'k': (D, 12), 'v': (D, 12), 'out': (12, 3)}, (N, T, D),
     any_width=False,
     found=['q:1 k:1 v:1 out:0', 'q:1 k:1', 'v:1 out:0'])
def heads_on_one_axis(p, x):
  q, k, v = ((x @ p[i]).reshape(N, T, 3, 4) for i in 'qkv')
  return attend(q, k, v).reshape(N, T, 12) @ p['out']


@odd({'q': (D, 12), 'k': (D, 12), 'v': (D, 12), 'out': (12, 3)}, (N, T, D),
     any_width=False,
     found=['q:1 k:1 v:1 out:0', 'q:1 k:1', 'v:1 out:0'])
def heads_come_last(p, x):
  q, k, v = (jnp.swapaxes((x @ p[i]).reshape(N, T, 4, 3), 2, 3) for i in 'qkv')
  return attend(q, k, v).reshape(N, T, 12) @ p['out']


@odd(QKV, (N, D), (N, T, 3, 6), (N, T, 3, 5), jnp.int32(2),
     never='q:1 k:1 v:1 out:0 k:2 v:2')
def cache_as_input(p, x, keys, values, i):
  q, k, v = (heads(p, x[:, None], name) for name in 'qkv')
  keys = lax.dynamic_update_slice_in_dim(keys, k, i, 1)
  values = lax.dynamic_update_slice_in_dim(values, v, i, 1)
  return out(p, attend(q, keys, values))


@odd(QKV, (N, T, D), found=[HEADS, KEYS, VALUES])
def cache_inside(p, x):
  def step(cache, now):
    i, x = now
    q, k, v = (heads(p, x[:, None], name) for name in 'qkv')
    keys = lax.dynamic_update_slice_in_dim(cache[0], k, i, 1)
    values = lax.dynamic_update_slice_in_dim(cache[1], v, i, 1)
    seen = jnp.arange(T) <= i
    y = attend(q, keys, values, lambda x: (
        jnp.where(jnp.broadcast_to(seen, x.shape), x, -1e9)))
    return (keys, values), out(p, y)
  start = (jnp.zeros((N, T, *p['k'].shape[1:])),
           jnp.zeros((N, T, *p['v'].shape[1:])))
  return lax.scan(step, start, (jnp.arange(T), jnp.swapaxes(x, 0, 1)))[1]


@odd({**QKV, 'sink_k': (2, 3, 6), 'sink_v': (2, 3, 5)}, (N, T, D),
     found=['q:1 k:1 v:1 out:0 sink_k:1 sink_v:1', 'q:2 k:2 sink_k:2',
            'v:2 out:1 sink_v:2'], stays='sink_k:0')
def learned_keys(p, x):
  """The two learned places could be permuted, too."""
  q, k, v = (heads(p, x, i) for i in 'qkv')
  wide = lambda w: jnp.broadcast_to(w, (N, *w.shape))
  k = jnp.concatenate([wide(p['sink_k']), k], 1)
  v = jnp.concatenate([wide(p['sink_v']), v], 1)
  return out(p, attend(q, k, v))


@odd(QKV, (N, T, D), found=[HEADS, KEYS, VALUES])
def linear_attention(p, x):
  q, k, v = (heads(p, x, i) for i in 'qkv')
  q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
  total = jnp.einsum('nshk,nshv->nhkv', k, v)
  norm = jnp.einsum('nthk,nhk->nth', q, k.sum(1))
  y = jnp.einsum('nthk,nhkv->nthv', q, total)
  return out(p, y / jnp.broadcast_to(norm[..., None], y.shape))


@odd(QKV, (N, T, D), never='q:2 k:2', found=[HEADS, VALUES], any_width=False)
def random_features(p, x):
  q, k, v = (heads(p, x, i) for i in 'qkv')
  features = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
  q, k = jnp.exp(0.1 * q @ features), jnp.exp(0.1 * k @ features)
  return out(p, jnp.einsum('nthk,nshk,nshv->nthv', q, k, v))


@odd({**QKV, 'talk': (3, 3)}, (N, T, D), found=[KEYS, VALUES])
def talking_heads(p, x):
  q, k, v = (heads(p, x, i) for i in 'qkv')
  return out(p, attend(q, k, v, lambda x: (
      jnp.einsum('nhts,hg->ngts', x, p['talk']))))


@odd({**QKV, 'v': (D, 3, 6)}, (N, T, D), found='q:1 k:1 v:1')
def values_are_keys_too(p, x):
  q, k, v = (heads(p, x, i) for i in 'qkv')
  return attend(q, k, v * k).sum((2, 3))
