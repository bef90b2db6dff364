"""Constants, noise, masks, and functions over all units."""

import jax
from jax import ad_checkpoint
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests._lib.odd.case import D
from tests._lib.odd.case import hidden
from tests._lib.odd.case import MADE
from tests._lib.odd.case import MLP
from tests._lib.odd.case import N
from tests._lib.odd.case import odd
from tests._lib.odd.case import over
from tests._lib.odd.case import SEQ
from tests._lib.odd.case import STEPS
from tests._lib.odd.case import T
from tests._lib.odd.case import TIE
from tests._lib.zoo_case import weights


@odd(MLP, (N, D), never=TIE, any_width=False)
def masked_by_a_constant(p, x):
  h = hidden(p, x)
  return h * over(np.float32([1, 0, 1, 1, 0, 1, 0]), h) @ p['out']


@odd({'in': (D, 7), 'b': (7,), 'out': (7, 3)}, (N, D), any_width=False,
     never=TIE)
def kernel_masked_by_a_constant(p, x):
  mask = np.random.default_rng(0).random((7, 3)) < 0.5
  return hidden(p, x) @ jnp.where(mask, p['out'], 0.)


@odd(lambda: {**weights(MLP), 'mask': jnp.asarray(
    np.random.default_rng(0).random((7, 3)) < 0.5)}, (N, D),
     found=TIE + ' mask:0')
def masked_by_parameters(p, x):
  return hidden(p, x) @ jnp.where(p['mask'], p['out'], 0.)


@odd(MLP, (N, D), found=TIE)
def masked_by_equal_constants(p, x):
  h = hidden(p, x)
  return jnp.where(h > 0.1, h, 0.3) * np.ones(h.shape, np.float32) @ p['out']


@odd(MLP, (N, D), found=TIE)
def a_constant_for_each_example(p, x):
  h = hidden(p, x)
  rows = np.broadcast_to(np.arange(N, dtype=np.float32)[:, None], h.shape)
  return (h * rows) @ p['out']


@odd(MLP, (N, D), never=TIE, any_width=False)
def a_constant_that_differs_in_the_last_place(p, x):
  h = hidden(p, x)
  rows = np.ones((2, 7), np.float32)
  rows[1, 6] = 5
  return (h * rows) @ p['out']


@odd(MLP, (N, D), never=TIE)
def dropout_with_a_given_key(p, x):
  h = hidden(p, x)
  keep = jax.random.bernoulli(jax.random.key(3), 0.5, h.shape)
  return jnp.where(keep, h / 0.5, 0.) @ p['out']


@odd(MLP, (N, D), jnp.uint32(3), never=TIE)
def dropout_with_a_seed_as_input(p, x, seed):
  h = hidden(p, x)
  keep = jax.random.bernoulli(jax.random.key(seed), 0.5, h.shape)
  return jnp.where(keep, h / 0.5, 0.) @ p['out']


@odd(MLP, (N, D), jax.random.key(5), never=TIE)
def noise_with_a_key_as_input(p, x, key):
  h = hidden(p, x)
  return (h + jax.random.normal(key, h.shape)) @ p['out']


@odd(MLP, (N, D), jax.random.key(5), found=TIE)
def noise_for_each_example(p, x, key):
  h = hidden(p, x)
  noise = jax.random.normal(key, (N, 1))
  return (h + jnp.broadcast_to(noise, h.shape)) @ p['out']


@odd(lambda: {**weights(MLP), 'key': jax.random.key(1)}, (N, D))
def a_key_among_the_parameters(p, x):
  h = hidden(p, x)
  return (h + jax.random.normal(p['key'], h.shape)) @ p['out']


@odd(MLP, (N, D), jax.random.key(5), never='out:0')
def units_shuffled_by_a_key(p, x, key):
  return jax.random.permutation(key, hidden(p, x), 1) @ p['out']


@odd(MLP, (N, D), never=TIE)
def cumulative(p, x):
  return lax.cumlogsumexp(hidden(p, x), 1) @ p['out']


@odd(MLP, (N, D), never=TIE)
def pooled_over_units(p, x):
  h = hidden(p, x)
  return lax.reduce_window(h, -jnp.inf, lax.max, (1, 3), (1, 1), 'SAME'
                           ) @ p['out']


@odd(MLP, (N, D), never=TIE)
def resized(p, x):
  h = hidden(p, x)
  g = jax.image.resize(h, (N, 5), 'linear')
  return jax.image.resize(g, h.shape, 'linear') @ p['out']


@odd({'in': (D, 6), 'out': (6, 3)}, (N, T, D), found='in:1 out:0')
def spectrum_over_tokens(p, x):
  h = jnp.tanh(x @ p['in'])
  return jnp.fft.fft(h, axis=1).real @ p['out']


@odd({'in': (D, 6), 'out': (6, 3)}, (N, T, D), never='in:1 out:0')
def spectrum_over_tokens_and_units(p, x):
  h = jnp.tanh(x @ p['in'])
  return jnp.fft.fft2(h, axes=(1, 2)).real @ p['out']


@odd({'in': (D, 6), 'filter': (T // 2 + 1, 6), 'out': (6, 3)}, (N, T, D),
     found='in:1 filter:1 out:0')
def filtered_in_the_spectrum(p, x):
  h = jnp.fft.rfft(x @ p['in'], axis=1)
  h = h * jnp.broadcast_to(p['filter'].astype(h.dtype), h.shape)
  return jnp.fft.irfft(h, T, axis=1) @ p['out']


@odd(MLP, (N, D), never=TIE, any_width=False)
def multiplied_by_a_constant_matrix(p, x):
  dct = np.cos(np.outer(np.arange(7), np.arange(7) + 0.5)).astype(np.float32)
  return jnp.tanh(hidden(p, x) @ dct) @ p['out']


@odd(MLP, (N, D), found=[MADE, 'out:0'], any_width=False)
def multiplied_by_ones(p, x):
  h = hidden(p, x)
  size = h.shape[-1]
  return jnp.tanh(h @ jnp.ones((size, size))) @ p['out']


@odd({'in': (D, 7), 'out': (7,)}, (N, D), never='out:0')
def polynomial(p, x):
  return jnp.polyval(p['out'], jnp.sum(jnp.tanh(x @ p['in']), -1))


@odd({'in': (D, 7), 'w': (3, 7), 'out': (7, 3)}, (N, T, D),
     found='in:1 w:1 out:0')
def causal_convolution_by_hand(p, x):
  h = x @ p['in']
  h = sum(over(p['w'][i], h) * jnp.roll(h, i, 1) for i in range(3))
  return h @ p['out']


@odd({'in': (D, 7), 'out': (7, 3)}, (N, D), found='in:1 out:0')
def highest_and_lowest(p, x):
  h = x @ p['in']
  h = jnp.concatenate([jnp.maximum(h, 0), jnp.minimum(h, 0)], -1)
  return h @ jnp.concatenate([p['out'], p['out']], 0)


@odd({'in': (D, 6), 'out': (12, 3)}, (N, D), found='in:1 out:0')
def crelu(p, x):
  h = x @ p['in']
  return jnp.concatenate([jax.nn.relu(h), jax.nn.relu(-h)], -1) @ p['out']


@odd(SEQ, (N, D), never=TIE)
def reduced_by_an_odd_function(p, x):
  h = hidden(p, x)
  total = lax.reduce(h, np.float32(0), lambda a, b: 0.5 * a + b, (1,))
  return total[:, None] + h @ p['out']


@odd(SEQ, (N, D), never=TIE, any_width=False)
def a_callback(p, x):
  h = hidden(p, x)
  shape = jax.ShapeDtypeStruct(h.shape, h.dtype)
  h = jax.pure_callback(
      lambda h: np.cumsum(h, -1), shape, h, vmap_method='sequential')
  return h @ p['out']


@odd({'at': (7,), 'value': (7,), **SEQ}, (N, D), never='at:0 value:0')
def interpolated(p, x):
  y = jnp.interp(x[:, :1], jnp.cumsum(p['at'] ** 2), p['value'])
  return hidden(p, x) @ p['out'] + y


@odd({**SEQ, 'w': (6, T, T)}, STEPS, found=TIE + ' w:0')
def a_product_for_every_unit(p, x):
  return jnp.einsum('nth,hts->nsh', hidden(p, x), p['w']) @ p['out']


@odd({**SEQ, 'low': (6,), 'high': (6,)}, (N, D),
     found=TIE + ' low:0 high:0')
def clamped(p, x):
  h = hidden(p, x)
  return lax.clamp(over(-p['low'] ** 2, h), h, over(p['high'] ** 2, h)
                   ) @ p['out']


@odd(SEQ, (N, D), never=TIE, any_width=False)
def a_table_of_constants_by_the_best_unit(p, x):
  h = hidden(p, x)
  table = np.float32([1, -2, 3, -4, 5, -6])
  return h @ p['out'] * jnp.asarray(table)[jnp.argmax(h, -1)][:, None]


@odd(SEQ, (N, D), never=TIE)
def parity_of_the_best_unit(p, x):
  h = hidden(p, x)
  return jnp.where((jnp.argmin(h, -1) % 2 == 0)[:, None], h, -h) @ p['out']


@odd(SEQ, (N, D), never=TIE)
def read_as_bytes(p, x):
  h = lax.bitcast_convert_type(hidden(p, x), jnp.uint8).reshape(N, -1)
  return jnp.tanh(h.astype(jnp.float32)[:, :6] * h.astype(jnp.float32)[:, 6:12]
                  ) @ p['out']


@odd({**SEQ, 'gain': (6,)}, (N, D), found=TIE + ' gain:0')
def barriers_and_names(p, x):
  h, gain = lax.optimization_barrier((hidden(p, x), p['gain']))
  h = ad_checkpoint.checkpoint_name(lax.stop_gradient(h), 'h')
  return lax.reduce_precision(h * over(gain, h), 8, 23) @ p['out']
