"""Odd functions of which it is known what may be permuted; see `odd_test`.

Every model is a function of parameters and inputs whose widths come from the
parameters' shapes, so that units can be taken out of it. The file is long
because it is a table: 249 functions of a few lines each.
"""

import functools
from typing import Any, Callable, NamedTuple

import jax
from jax import ad_checkpoint
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests._lib.zoo_case import data
from tests._lib.zoo_case import tokens
from tests._lib.zoo_case import weights

SAME = 1e-5  # Of the largest output, in f32.
N, T, D = 2, 5, 4  # Examples, steps, inputs.


class Odd(NamedTuple):
  """A function and what is true of it.

  Attributes:
    fn: `fn(params, *inputs)`.
    params: random parameters.
    inputs: a tuple of arrays.
    found: axes that index the same units, `'path:axis path:axis'`; each string
      must be found as a tie that is free.
    never: axes of which no part may be called free.
    could: as `found`; true ties that are called fixed, or not joined.
    stays: axes whose ties, if free, must say why units cannot be removed.
    any_width: whether units can be taken out of the function.
  """
  fn: Callable[..., Any]
  params: Any
  inputs: tuple[Any, ...]
  found: tuple[str, ...]
  never: str
  could: tuple[str, ...]
  stays: str
  any_width: bool


ODD: dict[str, Callable[[], Odd]] = {}


def odd(shapes, *inputs, found=(), never='', could=(), stays='',
        any_width=True):
  """Lists a function `fn(params, *inputs)`; `inputs` are shapes or arrays."""
  def add(fn):
    @functools.cache
    def build():
      as_tuple = lambda x: (x,) if isinstance(x, str) else tuple(x)
      made = tuple(data(*x) if isinstance(x, tuple) else x for x in inputs)
      params = shapes() if callable(shapes) else weights(shapes)
      # What is NumPy's stays it, and permuting that compiles nothing.
      params = jax.tree.map(lambda w: w if jnp.issubdtype(
          w.dtype, jax.dtypes.prng_key) else np.asarray(w), params)
      return Odd(fn, params, made, as_tuple(found), never, as_tuple(could),
                 stays, any_width)
    assert fn.__name__ not in ODD
    ODD[fn.__name__] = build
    return fn
  return add


def axes(words: str) -> set[tuple[str, int]]:
  return {(path, int(axis)) for path, axis in
          (word.rsplit(':', 1) for word in words.split())}


def over(w, like):
  """`w` along the last axes of `like`."""
  return jnp.broadcast_to(w, like.shape)


def hidden(p, x):
  h = x @ p['in']
  return jnp.tanh(h + over(p['b'], h))


MLP = {'in': (D, 7), 'b': (7,), 'out': (7, 3)}
TIE = 'in:1 b:0 out:0'
MADE = 'in:1 b:0'


def mlp(read=7, width=7, **more):
  return {'in': (D, width), 'b': (width,), 'out': (read, 3), **more}


# Control flow.

@odd(MLP, (N, D), found=TIE)
def vmapped_over_units(p, x):
  unit = lambda w, b: jnp.tanh(x @ w + b)
  return jax.vmap(unit, (1, 0), 1)(p['in'], p['b']) @ p['out']


@odd(MLP, (N, D), found=TIE)
def vmapped_over_examples_and_units(p, x):
  unit = lambda w, b, x: jnp.tanh(jnp.vdot(x, w) + b)
  units = jax.vmap(unit, (1, 0, None))
  return jax.vmap(lambda x: units(p['in'], p['b'], x) @ p['out'])(x)


@odd(MLP, (N, D), could=[TIE])
def mapped_over_units(p, x):
  h = lax.map(lambda wb: jnp.tanh(x @ wb[0] + wb[1]), (p['in'].T, p['b']))
  return h.T @ p['out']


@odd(MLP, (N, D), could=[TIE])
def summed_over_units_in_a_scan(p, x):
  def step(total, unit):
    w, b, out = unit
    return total + jnp.outer(jnp.tanh(x @ w + b), out), None
  start = jnp.zeros((N, 3))
  return lax.scan(step, start, (p['in'].T, p['b'], p['out']))[0]


@odd(MLP, (N, D), never=TIE)
def discounted_over_units_in_a_scan(p, x):
  def step(total, unit):
    w, b, out = unit
    return 0.5 * total + jnp.outer(jnp.tanh(x @ w + b), out), None
  start = jnp.zeros((N, 3))
  return lax.scan(step, start, (p['in'].T, p['b'], p['out']))[0]


@odd(MLP, (N, D), never=MADE)
def carried_past_units(p, x):
  """The units are not summed: each sees those before it."""
  def step(before, unit):
    now = jnp.tanh(x @ unit[0] + unit[1] + before)
    return now, now
  h = lax.scan(step, jnp.zeros(N), (p['in'].T, p['b']))[1]
  return h.T @ p['out']


@odd({'in': (D, 6), 'w': (3, 6, 6), 'u': (6, 6), 'out': (6, 3)}, (N, T, D),
     found='in:1 w:1 w:2 u:0 u:1 out:0')
def layers_in_a_scan_in_a_scan(p, x):
  def step(h, x):
    h = jnp.tanh(h @ p['u'] + x @ p['in'])
    h = lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), h, p['w'])[0]
    return h, h @ p['out']
  start = jnp.zeros((N, p['u'].shape[0]))
  return lax.scan(step, start, jnp.swapaxes(x, 0, 1))[1]


@odd({'in': (D, 6), 'up': (3, 6, 7), 'down': (3, 7, 6), 'out': (6, 3)}, (N, D),
     found=['in:1 up:1 down:2 out:0', 'up:2 down:1'])
def layers_taken_by_number(p, x):
  def step(i, h):
    up = lax.dynamic_index_in_dim(p['up'], i, 0, keepdims=False)
    down = lax.dynamic_slice_in_dim(p['down'], i, 1, 0)[0]
    return h + jnp.tanh(h @ up) @ down
  return lax.fori_loop(0, 3, step, x @ p['in']) @ p['out']


@odd({'in': (D, 6), 'w': (4, 6, 6), 'out': (6, 3)}, (N, D),
     never='w:0', found='in:1 w:1 w:2 out:0')
def layers_in_reverse(p, x):
  step = lambda h, w: (h + jnp.tanh(h @ w), None)
  return lax.scan(step, x @ p['in'], p['w'], reverse=True)[0] @ p['out']


@odd({'in': (D, 6), 'w': (4, 6, 6), 'out': (6, 3)}, (N, D),
     never='in:1 w:1 w:2 out:0')
def every_other_layer_mirrored(p, x):
  def step(h, layer):
    i, w = layer
    h = lax.cond(i % 2 == 1, lambda h: h[:, ::-1], lambda h: h, h)
    return h + jnp.tanh(h @ w), None
  return lax.scan(step, x @ p['in'], (jnp.arange(4), p['w']))[0] @ p['out']


@odd({'in': (D, 6), 'w': (6, 6), 'out': (6, 3)}, (N, D),
     found='in:1 w:0 w:1 out:0')
def iterated_until_it_is_small(p, x):
  def body(state):
    i, h = state
    return i + 1, 0.5 * jnp.tanh(h @ p['w'])
  going = lambda state: (state[0] < 5) & (jnp.max(jnp.abs(state[1])) > 0.1)
  return lax.while_loop(going, body, (0, x @ p['in']))[1] @ p['out']


@odd({'in': (D, 6), 'w': (6, 6), 'out': (6, 3)}, (N, D),
     never='in:1 w:0 w:1 out:0')
def iterated_until_one_unit_is_small(p, x):
  body = lambda state: (state[0] + 1, 0.5 * jnp.tanh(state[1] @ p['w']))
  going = lambda state: (state[0] < 5) & (jnp.abs(state[1][0, 0]) > 0.1)
  return lax.while_loop(going, body, (0, x @ p['in']))[1] @ p['out']


@odd({'in': (D, 6), 'w': (6, 6), 'out': (6, 3)}, (N, D),
     never='in:1 w:0 w:1 out:0')
def rolled_in_a_loop(p, x):
  body = lambda _, h: jnp.roll(jnp.tanh(h @ p['w']), 1, -1)
  return lax.fori_loop(0, 3, body, x @ p['in']) @ p['out']


@odd({'in': (D, 6), 'w': (6, 6), 'out': (6, 3)}, (N, D),
     never='in:1 w:0 w:1 out:0')
def one_more_unit_cleared_each_time(p, x):
  body = lambda i, h: jnp.tanh(h @ p['w']).at[:, i].set(0.)
  return lax.fori_loop(0, 3, body, x @ p['in']) @ p['out']


@odd({'a': (D, 6), 'b': (D, 6), 'w': (6, 6), 'out': (6, 3)}, (N, D),
     found='a:1 b:1 w:0 w:1 out:0')
def carries_that_change_places(p, x):
  def step(carry, _):
    a, b = carry
    return (b, jnp.tanh(a @ p['w'])), None
  return lax.scan(step, (x @ p['a'], x @ p['b']), None, 3)[0][0] @ p['out']


@odd({'a': (D, 6), 'b': (D, 6), 'c': (D, 6), 'one': (6, 3), 'two': (6, 3)},
     (N, D), found='a:1 b:1 c:1 one:0 two:0')
def a_line_of_carries(p, x):
  """It takes three steps until the last carry has met the first."""
  def step(carry, _):
    a, b, c = carry
    return (jnp.tanh(a), a, b), None
  start = tuple(x @ p[k] for k in 'abc')
  a, _, c = lax.scan(step, start, None, 2)[0]
  return a @ p['one'] + c @ p['two']


@odd(MLP, (N, D), never=TIE)
def mirrored_in_one_branch(p, x):
  h = hidden(p, x)
  h = lax.cond(jnp.sum(x) > 1e6, lambda h: h[:, ::-1], lambda h: h, h)
  return h @ p['out']


@odd(MLP, (N, D), found=TIE)
def branches_alike(p, x):
  h = hidden(p, x)
  h = lax.cond(jnp.sum(h) > 0, jnp.sin, lambda h: -h, h)
  return h @ p['out']


@odd(MLP, (N, D), never=TIE)
def branch_by_the_first_unit(p, x):
  h = hidden(p, x)
  return lax.cond(h[0, 0] > 0, jnp.sin, lambda h: -h, h) @ p['out']


@odd(mlp(other=(7, 3)), (N, D), jnp.int32(1), found=MADE + ' out:0 other:0')
def switched_by_input(p, x, i):
  h = hidden(p, x)
  return lax.switch(i, [
      lambda h: h @ p['out'], lambda h: jnp.sin(h) @ p['other'],
      lambda h: (h * h) @ p['out']], h)


@odd(mlp(other=(7, 3)), (N, D), jnp.int32(0), never=TIE + ' other:0')
def switched_by_input_to_a_bad_branch(p, x, i):
  h = hidden(p, x)
  return lax.switch(i, [
      lambda h: h @ p['out'], lambda h: jnp.cumsum(h, -1) @ p['other']], h)


@jax.custom_vjp
def _clipped(h):
  return jnp.clip(h, -0.5, 0.5)


_clipped.defvjp(lambda h: (_clipped(h), None), lambda _, g: (g,))


@odd(MLP, (N, D), found=TIE)
def with_a_gradient_of_its_own(p, x):
  return _clipped(hidden(p, x)) @ p['out']


@odd(MLP, (N, D), found=TIE)
def rematerialised_and_jitted(p, x):
  f = jax.checkpoint(jax.jit(lambda p, x: jax.nn.gelu(hidden(p, x))))
  return jax.jit(f)(p, x) @ p['out']


@odd(MLP, (N, D), could=[TIE])
def one_step_of_training_inside(p, x):
  def loss(p):
    return jnp.mean((hidden(p, x) @ p['out'])**2)
  grads = jax.grad(loss)(p)
  new = jax.tree.map(lambda w, g: w - 0.5 * g, p, grads)
  return hidden(new, x) @ new['out']


@odd(MLP, (N, D), found=TIE)
def tangents(p, x):
  f = lambda x: hidden(p, x) @ p['out']
  return jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


@odd(MLP, (N, D), found=TIE)
def gradient_of_the_input(p, x):
  return jax.grad(lambda x: jnp.sum((hidden(p, x) @ p['out'])**2))(x)


@odd({'in': (D, 6), 'a': (6,), 'out': (6, 3)}, (N, T, D),
     found='in:1 a:0 out:0')
def associative_scan_over_steps(p, x):
  def join(left, right):
    return left[0] * right[0], right[0] * left[1] + right[1]
  u = x @ p['in']
  a = jnp.broadcast_to(jax.nn.sigmoid(p['a']), u.shape)
  return lax.associative_scan(join, (a, u), axis=1)[1] @ p['out']


@odd(MLP, (N, D), could=[TIE])
def units_taken_one_by_one(p, x):
  h = hidden(p, x)
  def body(i, y):
    return y + jnp.outer(h[:, i], p['out'][i])
  return lax.fori_loop(0, p['b'].shape[0], body, jnp.zeros((N, 3)))


@odd(MLP, (N, D), never=TIE)
def units_taken_by_the_wrong_number(p, x):
  h = hidden(p, x)
  size = p['b'].shape[0]
  def body(i, y):
    return y + jnp.outer(h[:, i], p['out'][(i + 1) % size])
  return lax.fori_loop(0, size, body, jnp.zeros((N, 3)))


@odd({'in': (D, 6), 'b': (6,), 'out': (6, 3)}, (N, D), never='b:0')
def scan_collects_and_reads_late(p, x):
  """What is stacked by a scan comes out in another order."""
  h = lax.scan(lambda c, w: (c, jnp.tanh(x @ w)), 0., p['in'].T)[1].T
  return (h + over(p['b'][::-1], h)) @ p['out']


# Indices.

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
     could=['keys:1 book:0'], found='in:1 keys:0')
def nearest_of_a_code_book(p, x):
  near = jnp.argmax(jnp.tanh(x @ p['in']) @ p['keys'], -1)
  return p['book'][near]


@odd({'in': (D, 7), 'b': (7,), 'out': (7, 3)}, (N, D), could=[TIE])
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


# Orders of units.

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


# What meets the units.

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


# Statistics: to be permuted, not to be removed.

def _normed(h, axis=-1):
  mean = jnp.broadcast_to(h.mean(axis, keepdims=True), h.shape)
  var = jnp.broadcast_to(h.var(axis, keepdims=True), h.shape)
  return (h - mean) * lax.rsqrt(var + 1e-3)


@odd(MLP, (N, D), found=TIE, stays=TIE)
def layer_norm_without_scale(p, x):
  return _normed(hidden(p, x)) @ p['out']


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
  w = _normed(p['w'], 0)
  return jnp.tanh(jnp.tanh(x @ p['in']) @ w) @ p['out']


@odd(MLP, (6, D), found=TIE)
def batch_norm_in_training(p, x):
  return _normed(hidden(p, x), 0) @ p['out']


@odd({'in': (D, 6), 'b': (6,), 'out': (6, 3)}, (N, T, D),
     found='in:1 b:0 out:0')
def instance_norm(p, x):
  return _normed(hidden(p, x), 1) @ p['out']


@odd({'a': (D, 6), 'b': (D, 6), 'out': (12, 3)}, (N, D), any_width=False,
     found=['a:1 out:0', 'b:1 out:0'])
def group_norm_of_two_maps(p, x):
  h = jnp.concatenate([x @ p['a'], x @ p['b']], -1)
  return _normed(h.reshape(N, 4, 3)).reshape(N, 12) @ p['out']


@odd({'a': (D, 4), 'b': (D, 8), 'out': (12, 3)}, (N, D), any_width=False)
def group_norm_with_a_group_of_both(p, x):
  h = jnp.concatenate([x @ p['a'], x @ p['b']], -1)
  return _normed(h.reshape(N, 2, 6)).reshape(N, 12) @ p['out']


@odd({'in': (D, 12), 'scale': (12,), 'out': (12, 3)}, (N, D), any_width=False,
     found='in:1 scale:0 out:0')
def group_norm_of_strided_groups(p, x):
  h = (x @ p['in']).reshape(N, 3, 4)
  h = _normed(h, 1).reshape(N, 12)
  return (h * over(p['scale'], h)) @ p['out']


# Weights made of others.

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


# Vision.

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
  h = _normed(h)
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


# Attention.

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
  y = _normed(y, 2)
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


# Sequences.

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


# Experts.

@odd({'router': (D, 4), 'up': (4, D, 6), 'down': (4, 6, 3)}, (N, D),
     found='up:2 down:1', could=['router:1 up:0 down:0'])
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


# Once more: primitives on other axes, and functions that hide an order.

SEQ = {'in': (D, 6), 'b': (6,), 'out': (6, 3)}
STEPS = (N, T, D)


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


@odd({**SEQ, 'first': (7,)}, (N, D), never='first:0')
def bins_are_sorted(p, x):
  h = hidden(p, x)
  bins = jnp.cumsum(p['first'] ** 2)
  return h @ p['out'] + jnp.searchsorted(
      bins, jnp.abs(x[:, :1])).astype(h.dtype)


@odd({'at': (7,), 'value': (7,), **SEQ}, (N, D), never='at:0 value:0')
def interpolated(p, x):
  y = jnp.interp(x[:, :1], jnp.cumsum(p['at'] ** 2), p['value'])
  return hidden(p, x) @ p['out'] + y


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


@odd(SEQ, STEPS, (tokens(T, N)), found=TIE)
def steps_taken_along_the_axis(p, x, i):
  h = hidden(p, x)
  i = jnp.broadcast_to(i[:, None, None], (N, 1, h.shape[-1]))
  return jnp.take_along_axis(h, i, 1)[:, 0] @ p['out']


@odd(SEQ, STEPS, found=TIE)
def sorted_over_steps(p, x):
  return jnp.sort(hidden(p, x), 1) @ p['out']


@odd(SEQ, STEPS, found=TIE)
def best_steps_of_every_unit(p, x):
  h = lax.top_k(jnp.swapaxes(hidden(p, x), 1, 2), 2)[0]
  return jnp.einsum('nhk,ho->nko', h, p['out'])


@odd(SEQ, STEPS, never=TIE)
def steps_sorted_by_the_first_unit(p, x):
  h = hidden(p, x)
  order = jnp.argsort(h[..., 0], 1)
  return jnp.take_along_axis(h, order[..., None], 1) @ p['out']


@odd(SEQ, STEPS, found=TIE)
def cumulative_over_steps(p, x):
  h = hidden(p, x)
  h = lax.cummax(jnp.cumsum(h, 1), 1, reverse=True)
  return lax.associative_scan(jnp.minimum, h, reverse=True, axis=1) @ p['out']


@odd(SEQ, STEPS, found=TIE)
def pooled_over_steps(p, x):
  h = lax.reduce_window(hidden(p, x), 0., lax.add, (1, 3, 1), (1, 2, 1), 'SAME')
  return h @ p['out']


@odd(SEQ, STEPS, could=[TIE])
def gradient_through_a_maximum_over_steps(p, x):
  def energy(h):
    return jnp.sum(lax.reduce_window(
        h, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), 'VALID') ** 2)
  return jax.grad(energy)(hidden(p, x)) @ p['out']


@odd(SEQ, STEPS, never=TIE)
def pooled_over_steps_and_units(p, x):
  h = lax.reduce_window(hidden(p, x), 0., lax.add, (1, 3, 2), (1, 1, 1), 'SAME')
  return h @ p['out']


@odd(SEQ, STEPS, found=TIE)
def padded_over_steps(p, x):
  h = lax.pad(hidden(p, x), 0.5, ((0, 0, 0), (-1, 2, 1), (0, 0, 0)))
  return h @ p['out']


@odd(SEQ, STEPS, found=TIE)
def spectrum_of_more_steps(p, x):
  return jnp.abs(jnp.fft.fft(hidden(p, x), 8, axis=1)) @ p['out']


@odd(SEQ, STEPS, found=TIE)
def tiled_over_steps(p, x):
  return jnp.tile(hidden(p, x), (2, 3, 1)) @ p['out']


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


@odd(SEQ, STEPS, found=TIE)
def units_as_places_of_a_convolution(p, x):
  """A window of one place tells no neighbours; steps are channels."""
  w = np.random.default_rng(0).normal(size=(1, T, 4)).astype(np.float32)
  h = lax.conv_general_dilated(
      jnp.swapaxes(hidden(p, x), 1, 2), w, (1,), 'VALID',
      dimension_numbers=('NHC', 'HIO', 'NHC'))
  return jnp.swapaxes(h, 1, 2) @ p['out']


@odd(SEQ, STEPS, never=TIE)
def units_as_places_of_a_wider_convolution(p, x):
  w = np.random.default_rng(0).normal(size=(3, T, 4)).astype(np.float32)
  h = lax.conv_general_dilated(
      jnp.swapaxes(hidden(p, x), 1, 2), w, (1,), 'SAME',
      dimension_numbers=('NHC', 'HIO', 'NHC'))
  return jnp.swapaxes(h, 1, 2) @ p['out']


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


@odd({**SEQ, 'idx': (6,)}, (N, D), never='idx:0')
def weights_that_are_places(p, x):
  """Values of a parameter choose units."""
  h = hidden(p, x)
  places = jnp.clip(jnp.abs(3 * p['idx']), 0, 5).astype(jnp.int32)
  return h @ p['out'] + h[:, places].sum(-1, keepdims=True) * jnp.sum(
      jnp.arange(6.) * p['idx'])


@odd({**SEQ, 'gain': (6,)}, (N, D), found=TIE + ' gain:0')
def barriers_and_names(p, x):
  h, gain = lax.optimization_barrier((hidden(p, x), p['gain']))
  h = ad_checkpoint.checkpoint_name(lax.stop_gradient(h), 'h')
  return lax.reduce_precision(h * over(gain, h), 8, 23) @ p['out']


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


# Trees and ends.

@odd(lambda: {**weights({**MLP, 'unused': (7, 5), 'scalar': ()}),
              'empty': jnp.zeros((0, 7))}, (N, D), found=TIE,
     any_width=False)
def unused_empty_and_scalar(p, x):
  nothing = jnp.zeros((N, 0)) @ p['empty']
  return p['scalar'] * ((hidden(p, x) + nothing) @ p['out'])


@odd({'one': (7, 1), 'two': (1, 7), 'in': (D, 1)}, (N, D),
     found='one:0 two:1')
def axes_of_one(p, x):
  return (x @ p['in']) @ (p['two'] @ p['one'])


@odd({'in': (D, 7), 'b': (7,)}, (N, D), never='in:1 b:0')
def returned_in_a_dict(p, x):
  h = hidden(p, x)
  return {'sum': h.sum(-1), 'h': h}


@odd({'in': (D, 7), 'b': (7,), 'out': (7, 3)}, (N, D), never=TIE)
def a_parameter_returned(p, x):
  return hidden(p, x) @ p['out'], p['b']


@odd({'in': (D, 7), 'b': (7,), 'out': (7, 3)}, (N, D), found=TIE)
def a_penalty_returned(p, x):
  return hidden(p, x) @ p['out'], sum(jnp.sum(w**2) for w in p.values())


@odd(MLP, data(N, D).astype(jnp.bfloat16), found=TIE)
def mixed_precision(p, x):
  h = jnp.tanh(x @ p['in'].astype(x.dtype)).astype(jnp.float32)
  return (h + over(p['b'], h)) @ p['out']
