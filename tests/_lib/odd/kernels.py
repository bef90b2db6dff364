"""Kernels that are made of others, or used in more than one way."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests._lib.odd.case import D
from tests._lib.odd.case import hidden
from tests._lib.odd.case import N
from tests._lib.odd.case import odd
from tests._lib.odd.case import over
from tests._lib.odd.case import SEQ
from tests._lib.odd.case import T
from tests._lib.zoo_case import tokens
from tests._lib.zoo_case import weights


@odd({'in': (D, 7), 'a': (D, 2), 'b': (2, 7), 'out': (7, 3)}, (N, D),
     found=['in:1 b:1 out:0', 'a:1 b:0'])
def lora(p, x):
  return jnp.tanh(x @ (p['in'] + p['a'] @ p['b'])) @ p['out']


@odd({'in': (D, 7), 'scale': (7,), 'out': (7, 3)}, (N, D),
     found='in:1 scale:0 out:0')
def weight_norm(p, x):
  norm = jnp.linalg.norm(p['in'], axis=0) + 0.1
  return jnp.tanh(x @ (p['in'] * over(p['scale'] / norm, p['in']))) @ p['out']


@odd({'in': (D, 7), 'w': (7, 6), 'u': (6,), 'out': (6, 3)}, (N, D),
     found=['in:1 w:0', 'w:1 u:0 out:0'])
def spectral_norm(p, x):
  v = p['w'] @ p['u']
  v = v / jnp.linalg.norm(v)
  u = v @ p['w']
  sigma = v @ p['w'] @ (u / jnp.linalg.norm(u))
  return jnp.tanh(jnp.tanh(x @ p['in']) @ (p['w'] / sigma)) @ p['out']


@odd({'in': (D, 7), 'w': (7, 6), 'out': (6, 3)}, (N, D), never='w:1 out:0',
     any_width=False)
def spectral_norm_from_a_constant(p, x):
  u = np.linspace(0.1, 2, 6, dtype=np.float32)
  sigma = jnp.linalg.norm(p['w'] @ u)
  return jnp.tanh(jnp.tanh(x @ p['in']) @ (p['w'] / sigma)) @ p['out']


@odd(lambda: {'q': jnp.asarray(tokens(100, D, 7) - 50, jnp.int8),
              'out': jnp.asarray(tokens(100, 7, 3) - 50, jnp.int8),
              **weights({'q_scale': (7,), 'out_scale': (3,)})}, (N, D),
     found='q:1 q_scale:0 out:0')
def integers_with_scales(p, x):
  w = p['q'].astype(x.dtype)
  h = jnp.tanh(x @ (w * over(p['q_scale'] / 50, w)))
  w = p['out'].astype(x.dtype)
  return h @ (w * over(p['out_scale'] / 50, w))


@odd({'in': (D, 8), 'scale': (4,), 'out': (8, 3)}, (N, D), any_width=False,
     found='in:1 scale:0 out:0')
def scales_for_two_units_each(p, x):
  h = x @ p['in']
  return (h * over(jnp.repeat(p['scale'], 2), h)) @ p['out']


@odd({'w': (7, 7), 'in': (D, 7), 'out': (7, 3)}, (N, D),
     found='w:0 w:1 in:1 out:0')
def one_kernel_for_three_layers(p, x):
  h = x @ p['in']
  for _ in range(3):
    h = jnp.tanh(h @ p['w'])
  return h @ p['out']


@odd({'w': (7, 7), 'in': (D, 7), 'out': (7, 3)}, (N, D), never='w:0')
def a_kernel_on_its_input(p, x):
  """The input's places come in through the second use."""
  x = jnp.pad(x, ((0, 0), (0, 3)))
  return jnp.tanh(x @ p['in'][jnp.array([0, 1, 2, 3, 0, 1, 2])]) @ p['out'] + (
      x @ p['w'])[:, :3]


@odd({'w': (D, 7), 'out': (7, 3), 'b': (7,)}, (N, D), found='w:1 b:0 out:0')
def a_kernel_and_its_transpose(p, x):
  h = hidden({'in': p['w'], 'b': p['b']}, x)
  return (h @ p['w'].T) @ p['w'] @ p['out']


@odd({'hyper': (D, 5), 'made': (5, 7 * 3), 'in': (D, 7)}, (N, D),
     found=['hyper:1 made:0', 'in:1 made:1'], any_width=False)
def hyper_network(p, x):
  w = (jnp.tanh(x @ p['hyper']) @ p['made']).reshape(N, 7, 3)
  return jnp.einsum('nh,nhk->nk', jnp.tanh(x @ p['in']), w)


@odd({'in': (D, 7), 'fast': (7, 5), 'out': (5, 3)}, (N, T, D),
     found=['in:1 fast:0', 'fast:1 out:0'])
def fast_weights(p, x):
  def step(w, h):
    y = jnp.tanh(h @ w)
    return w + 0.1 * jnp.outer(h, y), y
  one = lambda x: lax.scan(step, p['fast'], jnp.tanh(x @ p['in']))[1]
  return jax.vmap(one)(x) @ p['out']


@odd({**SEQ, 'w': (6, 6)}, (N, D), could=['in:1 b:0 out:0 w:0 w:1'])
def exponential_of_a_matrix(p, x):
  return hidden(p, x) @ jax.scipy.linalg.expm(0.1 * p['w']) @ p['out']


@odd({**SEQ, 'w': (6, 6)}, (N, D), never='w:0 w:1')
def solved_by_a_triangle(p, x):
  w = p['w'] + 3 * jnp.eye(6)
  h = jax.scipy.linalg.solve_triangular(w, hidden(p, x).T, lower=True).T
  return h @ p['out']


@odd({**SEQ, 'w': (6, 6)}, (N, D), found='in:1 b:0 out:0 w:0 w:1')
def powers_of_a_matrix(p, x):
  return hidden(p, x) @ jnp.linalg.matrix_power(p['w'], 3) @ p['out']


@odd({**SEQ, 'w': (6, 6)}, (N, D), never='w:0')
def mirrored_kernel(p, x):
  return (hidden(p, x) @ (p['w'] + p['w'][::-1])) @ p['out']


@odd({**SEQ, 'w': (6, 6)}, (N, D), never='w:0 w:1')
def turned_kernel(p, x):
  return (hidden(p, x) @ (p['w'] + jnp.rot90(p['w']))) @ p['out']


@odd({'in': (D, 6), 'b': (6,), 'w': (2, 3, 6), 'out': (6, 3)}, (N, D),
     any_width=False)
def kernel_read_two_ways(p, x):
  """`[2, 3]` inputs in one order and in the other."""
  h = hidden(p, x)
  one = p['w'].reshape(6, 6)
  two = jnp.swapaxes(p['w'], 0, 1).reshape(6, 6)
  return (jnp.tanh(h @ one) + jnp.tanh(h @ two)) @ p['out']


@odd({'in': (D, 6), 'w': (36,), 'out': (6, 3)}, (N, D), any_width=False)
def flat_kernel_and_its_transpose(p, x):
  h = jnp.tanh(x @ p['in'])
  w = p['w'].reshape(6, 6)
  return (jnp.tanh(h @ w) + h @ w.T) @ p['out']


@odd({'in': (D, 6), 'w': (4, 9), 'out': (6, 3)}, (N, D), any_width=False)
def kernel_cut_across(p, x):
  h = jnp.tanh(x @ p['in'])
  return jnp.tanh(h @ p['w'].reshape(6, 6)) @ p['out']


@odd({'in': (D, 6), 'w': (6, 12), 'out': (6, 3)}, (N, D), any_width=False)
def two_kernels_on_one_axis(p, x):
  h = jnp.tanh(x @ p['in'])
  a, b = jnp.split(p['w'], 2, 1)
  return (h @ a) @ b @ p['out']


@odd({'in': (D, 6), 'w': (6, 12), 'out': (6, 3)}, (N, D), any_width=False)
def two_kernels_on_one_axis_and_a_transpose(p, x):
  h = jnp.tanh(x @ p['in'])
  a, b = p['w'][:, ::2], p['w'][:, 1::2]
  return (h @ a) @ b.T @ p['out']
