"""Models that know their units by place: what looks like a tie is none."""

import jax
import jax.numpy as jnp

from tests._lib.zoo_case import Case
from tests._lib.zoo_case import case
from tests._lib.zoo_case import data
from tests._lib.zoo_case import DENSE
from tests._lib.zoo_case import grid
from tests._lib.zoo_case import make
from tests._lib.zoo_case import part
from tests._lib.zoo_case import units
from tests._lib.zoo_case import weights
from tests._lib.zoo_case import WHOLE
from tests._lib.zoo_dense import dense
from tests._lib.zoo_dense import shapes

N, H = 3, 12
HIDDEN = 'in/kernel:1 in/bias:0'


def hostile(change, *, read=H, out=True, either='') -> Case:
  """A perceptron whose hidden units go through `change`; nothing is free.

  Args:
    change: maps `[N, H]` to `[N, read]`.
    read: how many units the second layer reads.
    out: whether there is a second layer.
    either: axes that are better than that, if one looks closer.
  """
  def fn(p, x):
    h = change(jnp.tanh(dense(p['in'], x)))
    return dense(p['out'], h) if out else h
  params = {'in': shapes(4, H)}
  if out:
    params['out'] = shapes(read, 5)
  tie = HIDDEN
  if out and read == H:
    tie += ' out/kernel:0'
  return make(fn, weights(params), data(N, 4), kernels={'.*/kernel': DENSE},
              stuck=[tie], either=either)


@case
def returned():
  return hostile(jnp.square, out=False)


@case
def sorted_units():
  """Sorting forgets the places of its inputs, its outputs have new ones."""
  return hostile(lambda h: jnp.sort(h, -1), either=HIDDEN)


@case
def summed_up():
  return hostile(lambda h: jnp.cumsum(h, -1))


@case
def spectrum():
  return hostile(lambda h: jnp.abs(jnp.fft.rfft(h, axis=-1)), read=H // 2 + 1)


@case
def neighbours():
  return hostile(lambda h: h[:, :-1] * h[:, 1:], read=H - 1)


@case
def weighted_by_place():
  return hostile(lambda h: h * jnp.arange(H, dtype=h.dtype)[None])


@case
def masked_by_key():
  """Dropout with one key for ever."""
  def change(h):
    kept = jax.random.bernoulli(jax.random.key(0), 0.5, h.shape[1:])
    return h * kept.astype(h.dtype)[None]
  return hostile(change)


@case
def argmax():
  def change(h):
    best = jnp.argmax(h, -1)
    return best[:, None].astype(h.dtype) / H
  return hostile(change, read=1)


@case
def top_k():
  """Which units were largest is read as a number."""
  def change(h):
    values, places = jax.lax.top_k(h, 4)
    return jnp.concatenate([values, places.astype(h.dtype)], -1)
  return hostile(change, read=8)


@case
def mirrored():
  return hostile(lambda h: h + h[:, ::-1])


@case
def rolled():
  return hostile(lambda h: h + jnp.roll(h, 1, -1))


@case
def convolved_over_units():
  return hostile(lambda h: jax.vmap(
      lambda h: jnp.convolve(h, jnp.array([1., 2., 4.]), 'same'))(h))


@case
def associative():
  return hostile(lambda h: jax.lax.associative_scan(jnp.maximum, h, axis=-1))


@case
def one_unit_apart():
  """One unit is told from the others: these could be permuted without it."""
  return hostile(
      lambda h: h.at[:, 0].set(0.), either=HIDDEN + ' out/kernel:0')


@case
def sliced_unevenly():
  """Slices overlap: three parts are free if one tells them apart."""
  def fn(p, x):
    h = jnp.tanh(dense(p['in'], x))
    return h[:, :5] @ p['first'] + h[:, 4:] @ p['last']
  params = weights({'in': shapes(4, H), 'first': (5, 3), 'last': (8, 3)})
  return make(
      fn, params, data(N, 4), kernels={'.*/kernel|first|last': DENSE},
      either=HIDDEN + ' first:0 last:0', stuck=[HIDDEN])


@case
def two_grids():
  """Units are a grid of 4 by 3 for one reader, of 3 by 4 for the other."""
  def fn(p, x):
    h = jnp.tanh(dense(p['in'], x))
    a = jnp.tanh(h.reshape(N, 4, 3) @ p['a']).max(1)
    b = jnp.tanh(h.reshape(N, 3, 4) @ p['b']).max(1)
    return jnp.concatenate([a, b], -1)
  params = weights({'in': shapes(4, H), 'a': (3, 2), 'b': (4, 5)})
  return make(
      fn, params, data(N, 4), kernels={'.*/kernel|a|b': DENSE},
      stuck=[HIDDEN,
             {HIDDEN: units(grid(4, 3), 0)},
             {HIDDEN: units(grid(4, 3), 1), 'a:0': WHOLE},
             {HIDDEN: units(grid(3, 4), 0)},
             {HIDDEN: units(grid(3, 4), 1), 'b:0': WHOLE}])


@case
def positions_added():
  """The units meet a constant vector, the same for all examples."""
  return hostile(lambda h: jnp.tanh(
      h + jnp.sin(jnp.arange(H, dtype=h.dtype))[None]))


@case
def mixed_with_inputs():
  """Hidden units are added to the inputs: these have their places."""
  def fn(p, x):
    h = x + dense(p['in'], jnp.tanh(dense(p['first'], x)))
    return dense(p['out'], h)
  params = weights(
      {'first': shapes(4, 7), 'in': shapes(7, 4), 'out': shapes(4, 5)})
  return make(
      fn, params, data(N, 4), kernels={'.*/kernel': DENSE},
      free=['first/kernel:1 first/bias:0 in/kernel:0'],
      stuck=[HIDDEN + ' out/kernel:0'])


@case
def half_returned():
  """Some of the units are outputs, the others are free."""
  def fn(p, x):
    h = jnp.tanh(dense(p['in'], x))
    return jnp.concatenate([h[:, :5], h[:, 5:] @ p['out']], -1)
  params = weights({'in': shapes(4, H), 'out': (7, 3)})
  return make(
      fn, params, data(N, 4), kernels={'.*/kernel|out': DENSE},
      free=[{HIDDEN: part(5, 7), 'out:0': WHOLE}], stuck=[HIDDEN])


@case
def data_as_kernel():
  """Data of the units' size: an input has an axis for them."""
  def fn(p, x, mask):
    return dense(p['out'], jnp.tanh(dense(p['in'], x)) * mask[None])
  params = weights({'in': shapes(4, H), 'out': shapes(H, 5)})
  return make(
      fn, params, data(N, 4), data(H), kernels={'.*/kernel': DENSE},
      stuck=[HIDDEN + ' out/kernel:0'])
