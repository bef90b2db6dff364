"""Units that are mirrored, repeated, shuffled, cut and regrouped."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests._lib.odd.case import D
from tests._lib.odd.case import hidden
from tests._lib.odd.case import MADE
from tests._lib.odd.case import MLP
from tests._lib.odd.case import mlp
from tests._lib.odd.case import N
from tests._lib.odd.case import odd
from tests._lib.odd.case import over
from tests._lib.odd.case import TIE


@odd(MLP, (N, D), never=TIE)
def mirrored_once(p, x):
  h = hidden(p, x)
  return (h * h[..., ::-1]) @ p['out']


@odd(MLP, (N, D), could=[TIE])
def mirrored_twice(p, x):
  return hidden(p, x)[..., ::-1][..., ::-1] @ p['out']


@odd(MLP, (N, D))
def mirrored_before_it_is_read(p, x):
  """Unit u is read by row -1 - u: a stride of -1 would do."""
  return hidden(p, x)[..., ::-1] @ p['out']


@odd(mlp(14), (N, D))
def read_again_from_behind(p, x):
  h = hidden(p, x)
  return jnp.concatenate([h, h[:, ::-1]], -1) @ p['out']


@odd(mlp(14), (N, D), found=TIE, any_width=False)
def repeated(p, x):
  return jnp.repeat(hidden(p, x), 2, -1) @ p['out']


@odd(mlp(14), (N, D), found=TIE)
def tiled(p, x):
  return jnp.tile(hidden(p, x), (1, 2)) @ p['out']


@odd(mlp(28), (N, D), any_width=False)
def tiled_and_repeated(p, x):
  return jnp.repeat(jnp.tile(hidden(p, x), (1, 2)), 2, -1) @ p['out']


@odd(mlp(14), (N, D), never=TIE, any_width=False)
def repeated_and_tiled_meet(p, x):
  h = hidden(p, x)
  return (jnp.repeat(h, 2, -1) * jnp.tile(h, (1, 2))) @ p['out']


@odd(MLP, (N, D))
def repeated_unevenly(p, x):
  counts = np.arange(7) % 2
  h = jnp.repeat(hidden(p, x), counts, axis=-1, total_repeat_length=3)
  return h @ p['out'][:3]


@odd(mlp(14), (N, D), found=TIE)
def krons(p, x):
  h = hidden(p, x)
  return jnp.kron(h, jnp.array([[1., -2.]])) @ p['out']


@odd(mlp(7 * 5, other=(D, 5)), (N, D), found=[TIE, 'other:1 out:0'])
def outer_product(p, x):
  h, g = hidden(p, x), jnp.sin(x @ p['other'])
  return (h[:, :, None] * g[:, None, :]).reshape(N, -1) @ p['out']


@odd(mlp(7 * 7), (N, D))
def outer_product_with_itself(p, x):
  h = hidden(p, x)
  return jnp.einsum('ni,nj->nij', h, h).reshape(N, -1) @ p['out']


@odd({'in': (D, 7), 'b': (7,), 'out': (7, 7, 3)}, (N, D), found='in:1 b:0')
def bilinear_with_itself(p, x):
  h = hidden(p, x)
  return jnp.einsum('ni,nj,ijk->nk', h, h, p['out'])


@odd({'a': (D, 7), 'b': (D, 5), 'w': (7, 5, 3)}, (N, D),
     found=['a:1 w:0', 'b:1 w:1'])
def bilinear(p, x):
  return jnp.einsum('ni,nj,ijk->nk', x @ p['a'], jnp.tanh(x @ p['b']), p['w'])


@odd({'a': (D, 7), 'b': (D, 7), 'out': (7, 3)}, (N, D),
     found='a:1 b:1 out:0')
def bilinear_of_low_rank(p, x):
  return ((x @ p['a']) * (x @ p['b'])) @ p['out']


@odd({'v': (D, 7)}, (N, D), found='v:1')
def factorisation_machine(p, x):
  one = (x @ p['v'])**2 - (x * x) @ (p['v'] * p['v'])
  return 0.5 * one.sum(-1)


@odd({'in': (D, 7), 'w': (7, 7), 'out': (7, 3)}, (N, D),
     could=['in:1 w:0 w:1 out:0'])
def a_diagonal(p, x):
  h = x @ p['in']
  return (h * jnp.broadcast_to(jnp.diagonal(p['w']), h.shape)) @ p['out']


@odd({'in': (D, 7), 'w': (7, 7), 'out': (7, 3)}, (N, D),
     could=['in:1 w:0 w:1 out:0'])
def einsum_of_a_diagonal(p, x):
  return jnp.einsum('nd,dh,hh,hk->nk', x, p['in'], p['w'], p['out'])


@odd({'in': (D, 7), 'w': (7, 7), 'out': (7, 3)}, (N, D),
     found='in:1 w:0 w:1 out:0')
def symmetric(p, x):
  h = jnp.tanh(x @ p['in'])
  return (h @ (p['w'] + p['w'].T)) @ p['out']


@odd({'in': (D, 7), 'w': (7, 7), 'out': (7, 3)}, (N, D),
     never='in:1 w:0 w:1 out:0')
def triangular(p, x):
  return jnp.tanh(x @ p['in']) @ jnp.tril(p['w']) @ p['out']


@odd({'in': (D, 7), 'w': (7, 7), 'out': (7, 3)}, (N, D),
     could=['in:1 w:0 w:1 out:0'])
def without_its_diagonal(p, x):
  w = p['w'] * (1 - jnp.eye(p['w'].shape[0]))
  return jnp.tanh(x @ p['in']) @ w @ p['out']


@odd({'in': (D, 7), 'w': (7, 7), 'out': (7, 3)}, (N, D),
     could=['in:1 w:0 w:1 out:0'])
def inverted(p, x):
  w = p['w'] @ p['w'].T + 3 * jnp.eye(p['w'].shape[0])
  return jnp.linalg.solve(w, (x @ p['in']).T).T @ p['out']


@odd({'in': (D, 7), 'w': (7, 7), 'out': (7, 3)}, (N, D))
def factorised(p, x):
  w = p['w'] @ p['w'].T + 3 * jnp.eye(p['w'].shape[0])
  return (x @ p['in']) @ jnp.linalg.cholesky(w) @ p['out']


@odd({'in': (D, 7), 'w': (7, 7), 'out': (7, 3)}, (N, D))
def made_orthogonal(p, x):
  q, _ = jnp.linalg.qr(p['w'])
  return jnp.tanh((x @ p['in']) @ q) @ p['out']


@odd(mlp(12, 7), (N, D), any_width=False)
def padded_with_zeros(p, x):
  h = jnp.pad(hidden(p, x), ((0, 0), (2, 3)))
  return h @ p['out']


@odd(mlp(13, 7), (N, D), any_width=False)
def padded_between(p, x):
  h = lax.pad(hidden(p, x), 1., ((0, 0, 0), (0, 0, 1)))
  return h @ p['out']


@odd(mlp(9, 7), (N, D), never=MADE, any_width=False)
def padded_by_its_edges(p, x):
  return jnp.pad(hidden(p, x), ((0, 0), (1, 1)), mode='edge') @ p['out']


@odd(mlp(4, 8), (N, D), any_width=False)
def cropped(p, x):
  h = lax.pad(hidden(p, x), 0., ((0, 0, 0), (-2, -2, 0)))
  return h @ p['out']


@odd(mlp(4, 8, other=(4, 3)), (N, D), any_width=False, found=[
    'in:1 b:0 out:0', 'in:1 b:0 other:0'])
def even_and_odd_units(p, x):
  h = hidden(p, x)
  return h[:, ::2] @ p['out'] + jnp.sin(h[:, 1::2]) @ p['other']


@odd(mlp(4, 8), (N, D), any_width=False, found='in:1 b:0 out:0')
def even_times_odd_units(p, x):
  h = hidden(p, x)
  return (h[:, ::2] * h[:, 1::2]) @ p['out']


@odd(mlp(4, 8), (N, D), any_width=False, found='in:1 b:0 out:0')
def the_second_half_gates_the_first(p, x):
  h = hidden(p, x)
  half = h.shape[-1] // 2
  return (h[:, half:] * jax.nn.sigmoid(h[:, :half])) @ p['out']


@odd(mlp(4, 8), (N, D), any_width=False)
def halves_from_both_ends(p, x):
  h = hidden(p, x)
  return (h[:, :4] * h[:, :3:-1]) @ p['out']


@odd(mlp(8, 8), (N, D), any_width=False, found='in:1 b:0 out:0')
def halves_change_places(p, x):
  """Rolled by one half: pairs stay together, and may turn around."""
  h = hidden(p, x)
  return (h * jnp.roll(h, 4, -1)) @ p['out']


@odd(mlp(8, 8), (N, D), any_width=False, found='in:1 b:0 out:0')
def neighbours_change_places(p, x):
  h = hidden(p, x)
  return (h * h.reshape(N, 4, 2)[..., ::-1].reshape(N, 8)) @ p['out']


@odd(mlp(9, 6, other=(D, 3)), (N, D), any_width=False,
     found=[TIE, 'other:1 out:0'])
def side_by_side(p, x):
  h, g = hidden(p, x), jnp.sin(x @ p['other'])
  return jnp.concatenate([g, h], -1) @ p['out']


@odd(mlp(12, 6, other=(D, 6)), (N, D), any_width=False,
     found=[TIE, 'other:1 out:0'])
def interleaved(p, x):
  h, g = hidden(p, x), jnp.sin(x @ p['other'])
  return jnp.stack([h, g], -1).reshape(N, -1) @ p['out']


@odd(mlp(7, other=(4, 3)), (N, D), any_width=False)
def some_are_read_twice(p, x):
  h = hidden(p, x)
  return h @ p['out'] + jnp.sin(h[:, 2:6]) @ p['other']


@odd(MLP, (N, D), any_width=False)
def shuffled_by_constants(p, x):
  return hidden(p, x)[:, np.array([3, 1, 0, 6, 5, 2, 4])] @ p['out']


@odd(mlp(7, 7, scale=(7,)), (N, D), never=TIE + ' scale:0', any_width=False)
def shuffled_meets_unshuffled(p, x):
  h = hidden(p, x)
  order = np.array([3, 1, 0, 6, 5, 2, 4])
  return (h[:, order] * over(p['scale'], h) + h) @ p['out']


@odd(mlp(6, 6), (N, D), any_width=False, found='in:1 b:0 out:0')
def channels_shuffled(p, x):
  """As in ShuffleNet: a grid of two by three units is transposed."""
  h = hidden(p, x)
  return jnp.swapaxes(h.reshape(N, 2, 3), 1, 2).reshape(N, 6) @ p['out']


@odd(mlp(6, 6), (N, D), any_width=False, never=TIE)
def channels_shuffled_around_a_residual(p, x):
  h = hidden(p, x)
  g = jnp.swapaxes(h.reshape(N, 2, 3), 1, 2).reshape(N, 6)
  return (h + jnp.sin(g)) @ p['out']


@odd({'in': (D, 6), 'out': (2, 3, 3)}, (N, D), any_width=False,
     found=['in:1 out:0', 'in:1 out:1'])
def a_grid_of_units(p, x):
  h = jnp.tanh(x @ p['in']).reshape(N, 2, 3)
  return jnp.einsum('nab,abk->nk', h, p['out'])


@odd({'in': (D, 24), 'out': (24, 3)}, (N, D), any_width=False)
def three_grids_of_units(p, x):
  h = jnp.tanh(x @ p['in'])
  a = jax.nn.softmax(h.reshape(N, 4, 6), 1).reshape(N, 24)
  b = jax.nn.softmax(h.reshape(N, 6, 4), 1).reshape(N, 24)
  return (a + b) @ p['out']


@odd({'in': (D, 24), 'out': (24, 3)}, (N, D), any_width=False)
def factors_that_do_not_divide(p, x):
  h = jnp.tanh(x @ p['in'])
  a = jax.nn.softmax(h.reshape(N, 3, 8), -1).reshape(N, 24)
  b = jax.nn.softmax(a.reshape(N, 4, 6), -1).reshape(N, 24)
  return b @ p['out']


@odd({'in': (6, 8), 'out': (8, 3)}, (N, 6), never='in:0')
def reshaped_kernel(p, x):
  """The kernel's axes are those of another order."""
  w = p['in'].reshape(8, 6).T
  return jnp.tanh(x @ w) @ p['out']


@odd({'flat': (D * 6,), 'out': (6, 3)}, (N, D), found='flat:0 out:0',
     any_width=False)
def flat_kernel(p, x):
  return jnp.tanh(x @ p['flat'].reshape(D, 6)) @ p['out']


@odd({'all': (D * 6 + 6 + 18,)}, (N, D), found='all:0', any_width=False)
def all_parameters_in_one_vector(p, x):
  w = p['all']
  h = hidden({'in': w[:24].reshape(D, 6), 'b': w[24:30]}, x)
  return h @ w[30:].reshape(6, 3)


@odd({'in': (D, 6), 'b': (6,), 'out': (12, 3)}, (N, D), any_width=False)
def tiled_and_one_half_mirrored(p, x):
  h = jnp.tile(hidden(p, x), (1, 2))
  return jnp.concatenate([h[:, :6], h[:, 11:5:-1]], -1) @ p['out']


@odd({'in': (D, 6), 'b': (6,), 'out': (12, 3)}, (N, D), any_width=False)
def tiled_and_cut_elsewhere(p, x):
  h = jnp.tile(hidden(p, x), (1, 2))
  return jnp.concatenate([h[:, 3:9], h[:, :3], h[:, 9:]], -1) @ p['out']


@odd({'in': (D, 6), 'b': (6,), 'out': (6, 3)}, (N, D), any_width=False,
     never=TIE)
def tiled_and_added_out_of_step(p, x):
  h = jnp.tile(hidden(p, x), (1, 2))
  return (h[:, :6] * h[:, 2:8]) @ p['out']


@odd({'in': (D, 6), 'b': (6,), 'out': (12, 3)}, (N, D), any_width=False,
     found=TIE)
def tiled_and_regrouped(p, x):
  """Two rows of three units; each column is a softmax of its own."""
  h = jnp.tile(hidden(p, x), (1, 2)).reshape(N, 4, 3)
  return jax.nn.softmax(h, 1).reshape(N, 12) @ p['out']
