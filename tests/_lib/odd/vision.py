"""Convolutions, pooling and images."""

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

CONV = ('NHWC', 'HWIO', 'NHWC')


def conv(x, w, stride=1, **options):
  return lax.conv_general_dilated(
      x, w, (stride, stride), 'SAME', dimension_numbers=CONV, **options)


@odd({'a': (3, 3, 2, 5 * 4), 'b': (3, 3, 5, 3)}, (1, 4, 4, 2),
     found='a:3 b:2', any_width=False)
def pixel_shuffle(p, x):
  h = jax.nn.relu(conv(x, p['a'])).reshape(1, 4, 4, 5, 2, 2)
  h = h.transpose(0, 1, 4, 2, 5, 3).reshape(1, 8, 8, 5)
  return conv(h, p['b'])


@odd({'a': (3, 3, 2, 5), 'b': (1, 1, 20, 3)}, (1, 4, 4, 2),
     found='a:3 b:2', any_width=False)
def space_to_depth(p, x):
  h = jax.nn.relu(conv(x, p['a'])).reshape(1, 2, 2, 2, 2, 5)
  h = h.transpose(0, 1, 3, 2, 4, 5).reshape(1, 2, 2, 20)
  return conv(h, p['b'])


@odd({'in': (2, 5), 'scale': (20,), 'merge': (20, 7), 'out': (7, 3)},
     (1, 4, 4, 2), found=['in:1 scale:0 merge:0', 'merge:1 out:0'],
     any_width=False)
def patch_merging(p, x):
  h = jnp.tanh(x @ p['in'])
  h = jnp.concatenate([h[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
  h = normed(h)
  return jnp.tanh((h * over(p['scale'], h)) @ p['merge']) @ p['out']


@odd({'in': (2, 6), 'qkv': (6, 3, 2, 4), 'proj': (2, 4, 6), 'out': (6, 3),
      'bias': (9, 2)}, (1, 4, 4, 2), any_width=False,
     found=['in:1 qkv:0 proj:2 out:0', 'qkv:2 proj:0 bias:1', 'qkv:3 proj:1'])
def shifted_windows(p, x):
  h = x @ p['in']
  w = jnp.roll(h, (-1, -1), (1, 2)).reshape(1, 2, 2, 2, 2, 6)
  w = w.transpose(0, 1, 3, 2, 4, 5).reshape(4, 4, 6)
  q, k, v = jnp.moveaxis(jnp.einsum('wtd,dchk->wtchk', w, p['qkv']), 2, 0)
  at = np.stack(np.meshgrid([0, 1], [0, 1], indexing='ij'), -1).reshape(4, 2)
  place = (at[:, None] - at[None] + 1) @ np.array([3, 1])
  bias = jnp.moveaxis(p['bias'][place], -1, 0)[None]
  logits = jnp.einsum('wthk,wshk->whts', q, k)
  shares = jax.nn.softmax(logits + jnp.broadcast_to(bias, logits.shape))
  y = jnp.einsum('whts,wshk,hkd->wtd', shares, v, p['proj'])
  y = y.reshape(1, 2, 2, 2, 2, 6).transpose(0, 1, 3, 2, 4, 5)
  y = jnp.roll(y.reshape(1, 4, 4, 6), (1, 1), (1, 2))
  return (h + y) @ p['out']


@odd({'a': (1, 1, 2, 6), 'squeeze': (6, 4), 'excite': (4, 6),
      'b': (1, 1, 6, 3)}, (1, 4, 4, 2),
     found=['a:3 squeeze:0 excite:1 b:2', 'squeeze:1 excite:0'])
def squeeze_and_excite(p, x):
  h = jax.nn.relu(conv(x, p['a']))
  gate = jax.nn.relu(h.mean((1, 2)) @ p['squeeze'])
  gate = jax.nn.sigmoid(gate @ p['excite'])
  return conv(h * jnp.broadcast_to(gate[:, None, None], h.shape), p['b'])


@odd({'a': (1, 1, 2, 6), 'depth': (3, 3, 1, 6), 'b': (1, 1, 6, 3)},
     (1, 4, 4, 2), found='a:3 depth:3 b:2')
def depthwise(p, x):
  h = conv(x, p['a'])
  h = conv(h, p['depth'], feature_group_count=h.shape[-1])
  return conv(jax.nn.relu(h), p['b'])


@odd({'a': (1, 1, 2, 6), 'depth': (3, 3, 1, 12), 'b': (1, 1, 12, 3)},
     (1, 4, 4, 2), found=['a:3 depth:3 b:2', 'depth:3 b:2'])
def depthwise_with_two_outputs_each(p, x):
  h = conv(x, p['a'])
  h = conv(h, p['depth'], feature_group_count=h.shape[-1])
  return conv(jax.nn.relu(h), p['b'])


@odd({'a': (1, 1, 2, 6), 'group': (3, 3, 3, 4), 'b': (1, 1, 4, 3)},
     (1, 4, 4, 2), any_width=False, found=['a:3 group:2', 'group:3 b:2'])
def grouped(p, x):
  h = conv(conv(x, p['a']), p['group'], feature_group_count=2)
  return conv(jax.nn.relu(h), p['b'])


@odd({'a': (1, 1, 2, 6), 'group': (3, 3, 3, 6), 'b': (1, 1, 6, 3)},
     (1, 4, 4, 2), any_width=False)
def grouped_with_a_residual(p, x):
  h = conv(x, p['a'])
  h = h + jnp.tanh(conv(h, p['group'], feature_group_count=2))
  return conv(h, p['b'])


@odd({'a': (1, 1, 2, 6), 'b': (1, 1, 6, 3)}, (4, 4, 4, 2), found='a:3 b:2')
def batch_groups(p, x):
  h = conv(x, p['a'])
  return jax.grad(lambda w: jnp.sum(jnp.sin(conv(h, w))))(p['b'])[0, 0].T @ (
      h.reshape(-1, h.shape[-1]).T)


@odd({'in': (D, 6), 'gamma_beta': (T, 12), 'out': (6, 3)}, (N, D), (N, T),
     found='in:1 gamma_beta:1 out:0', any_width=False)
def film(p, x, c):
  gamma, beta = jnp.split(c @ p['gamma_beta'], 2, -1)
  return jnp.tanh((1 + gamma) * (x @ p['in']) + beta) @ p['out']


@odd({'in': (D, 6), 'h': (6, 6), 't': (6, 6), 'tb': (6,), 'out': (6, 3)},
     (N, D), found='in:1 h:0 h:1 t:0 t:1 tb:0 out:0')
def highway(p, x):
  x = x @ p['in']
  t = jax.nn.sigmoid(x @ p['t'] + over(p['tb'], x))
  return (t * jnp.tanh(x @ p['h']) + (1 - t) * x) @ p['out']


@odd({'in': (D, 12), 'out': (4, 3)}, (N, D), any_width=False,
     found='in:1 out:0')
def maxout(p, x):
  h = (x @ p['in']).reshape(N, 4, 3).max(-1)
  return h @ p['out']


@odd({'l': (D, 40), 'a': (4, 4, 8, 10), 'b': (8,), 'c': (3, 3, 8, 2)}, (N, D),
     found=['a:3 l:1', 'a:2 b:0 c:2'])
def transposed_convolution_of_a_view(p, x):
  h = jax.nn.relu(x @ p['l']).reshape(x.shape[0], 2, 2, -1)
  h = lax.conv_transpose(h, p['a'], (2, 2), 'SAME', transpose_kernel=True,
                         dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  h = jax.nn.relu(h + over(p['b'], h))
  return lax.conv_general_dilated(h, p['c'], (1, 1), 'VALID',
                                  dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


@odd({'in': (D, 6), 'out': (6, 3)}, (N, T, D), found='in:1 out:0')
def running_sums_and_maxima(p, x):
  h = x @ p['in']
  return (jnp.cumsum(h, 1) + lax.cummax(h, 1) + jnp.flip(h, 1)) @ p['out']
