"""Statistics over units, which may be permuted but not removed."""

import jax
from jax import lax
import jax.numpy as jnp

from tests._lib.odd.case import D
from tests._lib.odd.case import hidden
from tests._lib.odd.case import MLP
from tests._lib.odd.case import mlp
from tests._lib.odd.case import N
from tests._lib.odd.case import normed
from tests._lib.odd.case import odd
from tests._lib.odd.case import over
from tests._lib.odd.case import T
from tests._lib.odd.case import TIE


@odd(MLP, (N, D), found=TIE, stays=TIE)
def layer_norm_without_scale(p, x):
  return normed(hidden(p, x)) @ p['out']


@odd(MLP, (N, D), found=TIE, stays=TIE)
def rms_norm(p, x):
  h = hidden(p, x)
  rms = jnp.mean(h * h, -1, keepdims=True)
  return h * over(lax.rsqrt(rms + 1e-3), h) @ p['out']


@odd(MLP, (N, D), found=TIE)
def l2_norm(p, x):
  h = hidden(p, x)
  return h / over(jnp.linalg.norm(h, axis=-1, keepdims=True), h) @ p['out']


@odd(MLP, (N, D), found=TIE, stays=TIE)
def softmax(p, x):
  return jax.nn.softmax(hidden(p, x)) @ p['out']


@odd(mlp(14), (N, D), found=TIE, stays=TIE)
def softmax_over_repeated(p, x):
  return jax.nn.softmax(jnp.repeat(hidden(p, x), 2, -1)) @ p['out']


@odd({'in': (D, 7), 'b': (7,)}, (N, D), found='in:1 b:0', stays='in:1')
def product_of_all(p, x):
  return jnp.prod(1.5 * hidden(p, x), -1)


@odd({'in': (D, 7), 'b': (7,)}, (N, D), found='in:1 b:0', stays='in:1')
def minimum_of_all(p, x):
  return jnp.min(jax.nn.sigmoid(hidden(p, x)), -1)


@odd({'in': (D, 7), 'b': (7,)}, (N, D), found='in:1 b:0', stays='in:1')
def any_of_all(p, x):
  h = hidden(p, x)
  found = jnp.stack([jnp.any(h >= 0, -1), jnp.all(h > 1e-9, -1)], -1)
  return found.astype(h.dtype)


@odd({'in': (D, 7), 'b': (7,)}, (N, D), found='in:1 b:0', stays='in:1')
def sum_of_cosines(p, x):
  return jnp.cos(hidden(p, x)).sum(-1)


@odd({'in': (D, 7), 'b': (7,)}, (N, D), found='in:1 b:0', stays='in:1')
def counted(p, x):
  return jnp.sum(hidden(p, x) >= 0, -1)


@odd(mlp(other=(7,)), (N, D), found=TIE + ' other:0', stays=TIE)
def attention_over_units(p, x):
  h = hidden(p, x)
  shares = jax.nn.softmax(p['other'])
  return jnp.einsum('nh,h,hk->nk', h, shares, p['out'])


@odd({'in': (D, 7), 'w': (7, 7), 'out': (7, 3)}, (N, D),
     found=['in:1 w:0', 'w:1 out:0'], stays='w:0')
def softmax_of_a_kernel(p, x):
  return (x @ p['in']) @ jax.nn.softmax(p['w'], 0) @ p['out']


@odd({'in': (D, 7), 'w': (7, 5), 'out': (5, 3)}, (N, D),
     found=['in:1 w:0', 'w:1 out:0'], stays='in:1')
def kernel_made_standard(p, x):
  w = normed(p['w'], 0)
  return jnp.tanh(jnp.tanh(x @ p['in']) @ w) @ p['out']


@odd(MLP, (6, D), found=TIE)
def batch_norm_in_training(p, x):
  return normed(hidden(p, x), 0) @ p['out']


@odd({'in': (D, 6), 'b': (6,), 'out': (6, 3)}, (N, T, D),
     found='in:1 b:0 out:0')
def instance_norm(p, x):
  return normed(hidden(p, x), 1) @ p['out']


@odd({'a': (D, 6), 'b': (D, 6), 'out': (12, 3)}, (N, D), any_width=False,
     found=['a:1 out:0', 'b:1 out:0'])
def group_norm_of_two_maps(p, x):
  h = jnp.concatenate([x @ p['a'], x @ p['b']], -1)
  return normed(h.reshape(N, 4, 3)).reshape(N, 12) @ p['out']


@odd({'a': (D, 4), 'b': (D, 8), 'out': (12, 3)}, (N, D), any_width=False)
def group_norm_with_a_group_of_both(p, x):
  h = jnp.concatenate([x @ p['a'], x @ p['b']], -1)
  return normed(h.reshape(N, 2, 6)).reshape(N, 12) @ p['out']


@odd({'in': (D, 12), 'scale': (12,), 'out': (12, 3)}, (N, D), any_width=False,
     found='in:1 scale:0 out:0')
def group_norm_of_strided_groups(p, x):
  h = (x @ p['in']).reshape(N, 3, 4)
  h = normed(h, 1).reshape(N, 12)
  return (h * over(p['scale'], h)) @ p['out']
