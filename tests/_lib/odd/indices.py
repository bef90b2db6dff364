"""Units and rows that are chosen, set and gathered by indices."""

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
from tests._lib.odd.case import SEQ
from tests._lib.odd.case import T
from tests._lib.odd.case import TIE
from tests._lib.zoo_case import tokens
from tests._lib.zoo_case import weights


@odd(MLP, (N, D), could=[TIE])
def taken_along_the_axis_in_order(p, x):
  h = hidden(p, x)
  order = jnp.argsort(h, -1)
  return jnp.take_along_axis(h, order, -1)[:, -2:].sum(-1)


@odd(MLP, (N, D), never='out:0')
def read_in_order_of_size(p, x):
  h = hidden(p, x)
  return jnp.take_along_axis(h, jnp.argsort(h, -1), -1) @ p['out']


@odd(MLP, (N, D), tokens(7, N), never=TIE)
def one_unit_by_input(p, x, i):
  h = hidden(p, x)
  return h @ p['out'] + jnp.take_along_axis(h, i[:, None], 1)


@odd(MLP, (N, D), jnp.int32(2), never=TIE, any_width=False)
def window_by_input(p, x, i):
  h = hidden(p, x)
  return lax.dynamic_slice_in_dim(h, i, 4, 1) @ p['out'][:4]


@odd(lambda: {**weights(mlp(3)), 'which': jnp.array([4, 1, 6])}, (N, D),
     never=MADE, any_width=False)
def units_chosen_by_a_parameter(p, x):
  return hidden(p, x)[:, p['which']] @ p['out']


@odd(lambda: {**weights(mlp(7)), 'order': jnp.array([4, 1, 6, 0, 2, 5, 3])},
     (N, D), never=MADE, any_width=False)
def units_ordered_by_a_parameter(p, x):
  return hidden(p, x)[:, p['order']] @ p['out']


@odd(lambda: {**weights({'book': (5,), 'out': (7, 3)}),
              'codes': tokens(5, D, 7)}, (N, D),
     found='codes:1 out:0', never='book:0 codes:0')
def weights_from_a_code_book(p, x):
  return jnp.tanh(x @ p['book'][p['codes']]) @ p['out']


@odd({'in': (D, 7), 'keys': (7, 6), 'book': (6, 3)}, (N, D),
     found=['keys:1 book:0', 'in:1 keys:0'])
def nearest_of_a_code_book(p, x):
  near = jnp.argmax(jnp.tanh(x @ p['in']) @ p['keys'], -1)
  return p['book'][near]


@odd({'in': (D, 7), 'b': (7,), 'out': (7, 3)}, (N, D), found=[TIE])
def one_hot_of_the_best(p, x):
  best = jnp.argmax(hidden(p, x), -1)
  return jax.nn.one_hot(best, p['b'].shape[0]) @ p['out']


@odd(MLP, (N, D), never=TIE, any_width=False)
def one_hot_of_the_best_of_another_order(p, x):
  best = jnp.argmax(hidden(p, x)[:, ::-1], -1)
  return jax.nn.one_hot(best, 7) @ p['out']


@odd({'a': (D, 9), 'table': (11, 6), 'out': (6, 3)}, tokens(1000, N, T),
     found='table:1 out:0', never='table:0')
def hashed_buckets(p, i):
  bucket = (i * 31 + 7) % p['table'].shape[0]
  return jnp.tanh(p['table'][bucket]).sum(1) @ p['out']


@odd({'one': (4, 6), 'two': (3, 6), 'out': (6, 3)}, tokens(12, N),
     found='one:1 two:1 out:0', never='one:0 two:0')
def quotient_and_remainder(p, i):
  return (p['one'][i // 3] * p['two'][i % 3]) @ p['out']


@odd({'q': (D, 8), 'k1': (4, 5), 'k2': (4, 5), 'v': (25, 6), 'out': (6, 3)},
     (N, D), found='v:1 out:0', any_width=False)
def product_keys(p, x):
  a, b = jnp.split(x @ p['q'], 2, -1)
  scores = (a @ p['k1'])[:, :, None] + jnp.broadcast_to(
      (b @ p['k2'])[:, None, :], (N, 5, 5))
  best, places = lax.top_k(scores.reshape(N, 25), 3)
  values = p['v'][places]
  return jnp.einsum('nk,nkd->nd', jax.nn.softmax(best), values) @ p['out']


@odd({**SEQ, 'first': (7,)}, (N, D), never='first:0')
def bins_are_sorted(p, x):
  h = hidden(p, x)
  bins = jnp.cumsum(p['first'] ** 2)
  return h @ p['out'] + jnp.searchsorted(
      bins, jnp.abs(x[:, :1])).astype(h.dtype)


@odd(SEQ, (N, D), never=TIE, any_width=False)
def set_at_constant_places(p, x):
  h = hidden(p, x)
  return (h + jnp.zeros((N, 6)).at[:, 1:].set(h[:, :5])) @ p['out']


@odd(SEQ, (N, D), never=TIE, any_width=False)
def set_in_another_order(p, x):
  h = hidden(p, x)
  order = np.array([1, 0, 2, 4, 3, 5])
  return (h + jnp.zeros((N, 6)).at[:, order].set(h)) @ p['out']


@odd(SEQ, (N, D), never=TIE)
def updated_by_a_slice(p, x):
  h = hidden(p, x)
  return lax.dynamic_update_slice(h, h[:, :2], (0, 3)) @ p['out']


@odd(SEQ, (N, D), never=TIE)
def segments_of_units(p, x):
  h = hidden(p, x)
  ids = np.arange(6) // 4
  return jax.ops.segment_sum(h.T, ids, 2).T @ p['out'][:2]


@odd({**SEQ, 'table': (5, 6)}, (N, D), tokens(5, N),
     found=TIE + ' table:1', never='table:0')
def added_into_a_table(p, x, i):
  return jnp.tanh(p['table'].at[i].add(hidden(p, x))) @ p['out']


@odd({**SEQ, 'table': (5, 3, 6)}, (N, D), tokens(5, N), tokens(3, N),
     found=TIE + ' table:2')
def set_by_two_indices(p, x, i, j):
  h = jnp.tanh(p['table'].at[i, j].set(hidden(p, x), mode='drop'))
  return h @ p['out']


@odd({**SEQ, 'table': (6, 5)}, (N, D), tokens(5, N), found=TIE + ' table:0')
def scattered_columns(p, x, i):
  return jnp.tanh(p['table'].at[:, i].add(hidden(p, x).T)).T @ p['out']


@odd({**SEQ, 'idx': (6,)}, (N, D), never='idx:0')
def weights_that_are_places(p, x):
  """Values of a parameter choose units."""
  h = hidden(p, x)
  places = jnp.clip(jnp.abs(3 * p['idx']), 0, 5).astype(jnp.int32)
  return h @ p['out'] + h[:, places].sum(-1, keepdims=True) * jnp.sum(
      jnp.arange(6.) * p['idx'])
