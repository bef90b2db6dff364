"""Arrays that hold the same units twice: halves, skips, experts, groups."""

import jax
import jax.numpy as jnp
import numpy as np

from tests._lib.odd.attention import attend
from tests._lib.odd.attention import HEADS
from tests._lib.odd.attention import heads
from tests._lib.odd.attention import out
from tests._lib.odd.case import D
from tests._lib.odd.case import N
from tests._lib.odd.case import normed
from tests._lib.odd.case import odd
from tests._lib.odd.case import over
from tests._lib.odd.case import T

_ROPE = {'q': (D, 3, 6), 'k': (D, 3, 6), 'v': (D, 3, 5), 'out': (3, 5, 2)}
_GQA = {'q': (D, 6, 4), 'k': (D, 2, 4), 'v': (D, 2, 5), 'out': (6, 5, 3)}


def _angle(x, n):
  steps = jnp.arange(x.shape[1], dtype=jnp.float32)
  return over((steps[:, None] / jnp.arange(1., n + 1)[None])[:, None],
              x[..., :n])


def _rope(x):
  """Both halves of a head meet the same frequencies."""
  a, b = jnp.split(x, 2, -1)
  t = _angle(x, a.shape[-1])
  return jnp.concatenate([a * jnp.cos(t) - b * jnp.sin(t),
                          b * jnp.cos(t) + a * jnp.sin(t)], -1)


@odd(_ROPE, (N, T, D), found=[HEADS, 'v:2 out:1'], any_width=False)
def rotary_by_halves(p, x):
  q, k, v = (heads(p, x, i) for i in 'qkv')
  return out(p, attend(_rope(q), _rope(k), v))


@odd(_ROPE, (N, T, D), found=[HEADS, 'v:2 out:1'], any_width=False)
def rotary_by_minus_the_other_half(p, x):
  def rotate(x):
    a, b = jnp.split(x, 2, -1)
    t = _angle(x, a.shape[-1])
    both = lambda f: jnp.concatenate([f(t), f(t)], -1)
    return x * both(jnp.cos) + jnp.concatenate([-b, a], -1) * both(jnp.sin)
  q, k, v = (heads(p, x, i) for i in 'qkv')
  return out(p, attend(rotate(q), rotate(k), v))


@odd({**_ROPE, 'f': (3,)}, (N, T, D),
     found=[HEADS, 'q:2 k:2 f:0', 'v:2 out:1'], any_width=False)
def rotary_with_learned_frequencies(p, x):
  def rotate(x):
    a, b = jnp.split(x, 2, -1)
    t = over(p['f'], a)
    return jnp.concatenate([a * jnp.cos(t) - b * jnp.sin(t),
                            b * jnp.cos(t) + a * jnp.sin(t)], -1)
  q, k, v = (heads(p, x, i) for i in 'qkv')
  return out(p, attend(rotate(q), rotate(k), v))


@odd({**_ROPE, 'q': (D, 3, 8), 'k': (D, 3, 8)}, (N, T, D),
     found=[HEADS, 'v:2 out:1'], any_width=False)
def rotary_of_one_part(p, x):
  rotate = lambda x: jnp.concatenate([_rope(x[..., :4]), x[..., 4:]], -1)
  q, k, v = (heads(p, x, i) for i in 'qkv')
  return out(p, attend(rotate(q), rotate(k), v))


@odd({'q': (D, 18), 'k': (D, 18), 'v': (D, 18), 'out': (18, 2)}, (N, T, D),
     found='q:1 k:1 v:1 out:0', any_width=False)
def rotary_by_halves_of_reshaped_heads(p, x):
  q, k, v = ((x @ p[i]).reshape(*x.shape[:2], 3, 6) for i in 'qkv')
  y = attend(_rope(q), _rope(k), v)
  return y.reshape(*x.shape[:2], 18) @ p['out']


@odd(_GQA, (N, T, D), found=['q:1 k:1 v:1 out:0', 'v:2 out:1'],
     any_width=False)
def grouped_queries_with_rotary(p, x):
  q, k, v = (heads(p, x, i) for i in 'qkv')
  q = _rope(q).reshape(*x.shape[:2], 2, 3, 4)
  logits = jnp.einsum('ntgrk,nsgk->ngrts', q, _rope(k))
  y = jnp.einsum('ngrts,nsgk->ntgrk', jax.nn.softmax(logits), v)
  return out(p, y.reshape(*x.shape[:2], 6, -1))


@odd(_GQA, (N, T, D), found=['q:1 k:1 v:1 out:0', 'v:2 out:1'],
     any_width=False)
def grouped_queries_with_rotary_by_repeat(p, x):
  q, k, v = (heads(p, x, i) for i in 'qkv')
  k, v = (jnp.repeat(y, 3, 2) for y in (_rope(k), v))
  return out(p, attend(_rope(q), k, v))


@odd(_GQA, (N, T, D), found=['q:1 k:1 v:1 out:0', 'v:2 out:1'],
     any_width=False)
def grouped_queries_of_normed_keys(p, x):
  q, k, v = (heads(p, x, i) for i in 'qkv')
  q, k = _rope(normed(q)), _rope(normed(k))
  k, v = (jnp.broadcast_to(y[:, :, :, None], (
      *y.shape[:3], 3, y.shape[3])).reshape(*y.shape[:2], 6, -1)
          for y in (k, v))
  return out(p, attend(q, k, v))


_EXPERTS = {'gate': (D, 4), 'up': (4, D, 12), 'down': (4, 6, 3)}


def _mixed(p, x, h):
  y = jnp.einsum('tef,efd->ted', h, p['down'])
  return jnp.einsum('ted,te->td', y, jax.nn.softmax(x @ p['gate']))


@odd(_EXPERTS, (T, D), found=['gate:1 up:0 down:0', 'up:2 down:1'])
def experts_with_gates_in_halves(p, x):
  a, b = jnp.split(jnp.einsum('td,edf->tef', x, p['up']), 2, -1)
  return _mixed(p, x, a * jax.nn.silu(b))


@odd(_EXPERTS, (T, D), found=['gate:1 up:0 down:0', 'up:2 down:1'])
def experts_with_gates_in_turn(p, x):
  y = jnp.einsum('td,edf->tef', x, p['up'])
  return _mixed(p, x, y[..., ::2] * jax.nn.silu(y[..., 1::2]))


@odd({**_EXPERTS, 'up': (4, D, 2, 6)}, (T, D),
     found=['gate:1 up:0 down:0', 'up:3 down:1'])
def experts_with_gates_beside(p, x):
  y = jnp.einsum('td,edgf->tegf', x, p['up'])
  return _mixed(p, x, y[:, :, 0] * jax.nn.silu(y[:, :, 1]))


@odd({'phi': (D, 4, 2), 'up': (4, D, 6), 'down': (4, 6, 3)}, (T, D),
     found=['phi:1 up:0 down:0', 'up:2 down:1'])
def soft_experts(p, x):
  """Soft mixture: slots are means of tokens, tokens are means of slots."""
  logits = jnp.einsum('td,dep->tep', x, p['phi'])
  slots = jnp.einsum('tep,td->epd', jax.nn.softmax(logits, 0), x)
  y = jnp.einsum('epd,edf->epf', slots, p['up'])
  y = jnp.einsum('epf,efd->epd', jnp.tanh(y), p['down'])
  shares = jax.nn.softmax(logits.reshape(T, -1)).reshape(logits.shape)
  return jnp.einsum('epd,tep->td', y, shares)


_SKIP = {'a': (D, 16), 'b': (16, 16), 'scale': (32,), 'bias': (32,),
         'out': (32, 3)}


@odd(_SKIP, (T, D), found='a:1 b:0 b:1 scale:0 bias:0 out:0', any_width=False)
def a_skip_under_a_group_norm(p, x):
  """Both halves of what a U-Net joins are one residual stream."""
  h = x @ p['a']
  y = jnp.concatenate([h + jnp.tanh(h) @ p['b'], h], -1)
  y = normed(y.reshape(T, 8, 4)).reshape(T, 32)
  return jnp.tanh(y * over(p['scale'], y) + over(p['bias'], y)) @ p['out']


@odd({**_SKIP, 'scale': (48,), 'bias': (48,), 'out': (48, 3)}, (T, D),
     found='a:1 b:0 b:1 scale:0 bias:0 out:0', any_width=False)
def a_skip_of_three(p, x):
  h = x @ p['a']
  y = jnp.concatenate([h, jnp.tanh(h) @ p['b'] + h, jnp.tanh(h)], -1)
  return jnp.tanh(y * over(p['scale'], y) + over(p['bias'], y)) @ p['out']


@odd({'in': (D, 6), 'out': (12, 3)}, (N, D), found='in:1 out:0')
def concatenated_relu(p, x):
  h = x @ p['in']
  return jax.nn.relu(jnp.concatenate([h, -h], -1)) @ p['out']


@odd({'in': (D, 12), 'b': (12,), 'out': (6, 3)}, (N, D), found='in:1 b:0 out:0')
def maxout_of_halves(p, x):
  h = x @ p['in']
  a, b = jnp.split(h + over(p['b'], h), 2, -1)
  return jnp.maximum(a, b) @ p['out']


@odd({'in': (D, 3, 8), 'out': (3, 4, 2)}, (N, D),
     found=['in:1 out:0', 'in:2 out:1'])
def gated_halves_of_groups(p, x):
  a, b = jnp.split(jnp.einsum('nd,dgf->ngf', x, p['in']), 2, -1)
  return jnp.einsum('ngf,gfo->no', a * jax.nn.sigmoid(b), p['out'])


@odd({'in': (D, 3, 8), 'w': (3, 8, 4), 'out': (3, 4, 2)}, (N, D),
     found=['in:1 w:0 out:0'], any_width=False)
def halves_in_another_order(p, x):
  h = jnp.einsum('nd,dgf->ngf', x, p['in'])
  a, b = jnp.split(h, 2, -1)
  y = jnp.einsum('ngf,gfk->ngk', h * jnp.tanh(jnp.concatenate([b, a], -1)),
                 p['w'])
  return jnp.einsum('ngf,gfo->no', y, p['out'])


@odd({'in': (D, 2, 3, 4), 'out': (3, 4, 2)}, (N, D),
     found=['in:2 out:0', 'in:3 out:1'])
def parts_that_meet_each_other(p, x):
  h = jnp.einsum('nd,dgfk->ngfk', x, p['in'])
  return jnp.einsum('nfk,fko->no', h[:, 0] * jnp.tanh(h[:, 1]), p['out'])


@odd({'in': (D, 4), 'out': (16, 2)}, (N, D), found='in:1 out:0')
def a_product_with_itself(p, x):
  h = x @ p['in']
  y = h[:, :, None] * jnp.tanh(h)[:, None, :]
  return y.reshape(y.shape[0], -1) @ p['out']


@odd({'q': (D, 3, 4), 'k': (D, 3, 4), 'v': (D, 3, 5), 'out': (3, 5, 2)},
     (N, T, D), found=[HEADS, 'v:2 out:1'], any_width=False)
def rotary_as_complex_numbers(p, x):
  angles = np.arange(T)[:, None] / np.array([1., 7.])
  turn = np.exp(1j * angles)[None, :, None].astype('complex64')

  def rotate(x):
    a, b = jnp.split(x, 2, -1)
    y = jax.lax.complex(a, b)
    y = y * over(jnp.asarray(turn), y)
    return jnp.concatenate([y.real, y.imag], -1)
  q, k, v = (heads(p, x, i) for i in 'qkv')
  return out(p, attend(rotate(q), rotate(k), v))


_ROUTED = {'router': (D, 4), 'up': (4, D, 6), 'down': (4, 6, 3)}
_OF_EXPERTS = 'router:1 up:0 down:0'


def _experts(p, x):
  h = jax.nn.relu(jnp.einsum('nd,edh->neh', x, p['up']))
  return jnp.einsum('neh,ehk->nek', h, p['down'])


@odd(_ROUTED, (N, D), found=[_OF_EXPERTS, 'up:2 down:1'])
def experts_by_one_hot(p, x):
  gates, which = jax.lax.top_k(jax.nn.softmax(x @ p['router']), 2)
  taken = jax.nn.one_hot(which, p['router'].shape[1])
  return jnp.einsum('nk,nke,neo->no', gates, taken, _experts(p, x))


@odd({**_ROUTED, 'bias': (4,), 'correction': (4,)}, (N, D),
     found=[f'{_OF_EXPERTS} bias:0 correction:0', 'up:2 down:1'])
def experts_with_a_correction_of_scores(p, x):
  logits = x @ p['router']
  scores = jax.nn.sigmoid(logits + over(p['bias'], logits))
  _, which = jax.lax.top_k(scores + over(p['correction'], scores), 2)
  gates = jnp.take_along_axis(scores, which, -1)
  gates = gates / jnp.broadcast_to(gates.sum(-1, keepdims=True), gates.shape)
  taken = jax.nn.one_hot(which, p['router'].shape[1])
  return jnp.einsum('nk,nke,neo->no', gates, taken, _experts(p, x))


@odd(_ROUTED, (N, D), found=[_OF_EXPERTS, 'up:2 down:1'])
def the_best_expert_alone(p, x):
  which = jnp.argmax(x @ p['router'], -1)
  return jnp.einsum('ne,neo->no', jax.nn.one_hot(which, 4), _experts(p, x))


@odd(_ROUTED, (N, D), found='up:2 down:1', never='router:1')
def experts_whose_number_is_read(p, x):
  gates, which = jax.lax.top_k(jax.nn.softmax(x @ p['router']), 2)
  taken = jax.nn.one_hot(which, 4)
  y = jnp.einsum('nk,nke,neo->no', gates, taken, _experts(p, x))
  return y + which.astype(jnp.float32).sum(-1, keepdims=True) * jnp.ones((1, 3))


@odd(_ROUTED, (N, D), found='up:2 down:1', never='router:1')
def experts_of_another_order(p, x):
  which = jnp.argmax(x @ p['router'], -1)
  return jnp.einsum('ne,neo->no', jax.nn.one_hot(3 - which, 4), _experts(p, x))


@odd(_ROUTED, (N, D), found='up:2 down:1', never='router:1')
def experts_chosen_in_a_loop(p, x):
  def best(_, row):
    return 0, jnp.argmax(row)
  which = jax.lax.scan(best, 0, x @ p['router'])[1]
  y = _experts(p, x)
  return y[jnp.arange(y.shape[0]), which]


@odd(_ROUTED, (N, D), found='up:2 down:1', never='router:1')
def experts_sorted_by_their_number(p, x):
  _, which = jax.lax.top_k(x @ p['router'], 2)
  which = jnp.sort(which, -1)
  taken = jax.nn.one_hot(which, 4) * jnp.array([1., 2.])[None, :, None]
  return jnp.einsum('nke,neo->no', taken, _experts(p, x))
