"""Loops, scans, branches, and functions of functions."""

import jax
from jax import lax
import jax.numpy as jnp

from tests._lib.odd.case import D
from tests._lib.odd.case import hidden
from tests._lib.odd.case import MADE
from tests._lib.odd.case import MLP
from tests._lib.odd.case import mlp
from tests._lib.odd.case import N
from tests._lib.odd.case import odd
from tests._lib.odd.case import over
from tests._lib.odd.case import T
from tests._lib.odd.case import TIE


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
