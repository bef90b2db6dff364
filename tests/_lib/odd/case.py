"""What an odd function is, how one is listed, and what many are made of."""

import functools
from typing import Any, Callable, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests._lib.zoo_case import data
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


def normed(h, axis=-1):
  mean = jnp.broadcast_to(h.mean(axis, keepdims=True), h.shape)
  var = jnp.broadcast_to(h.var(axis, keepdims=True), h.shape)
  return (h - mean) * lax.rsqrt(var + 1e-3)


MLP = {'in': (D, 7), 'b': (7,), 'out': (7, 3)}
TIE = 'in:1 b:0 out:0'
MADE = 'in:1 b:0'
SEQ = {'in': (D, 6), 'b': (6,), 'out': (6, 3)}
STEPS = (N, T, D)


def mlp(read=7, width=7, **more):
  return {'in': (D, width), 'b': (width,), 'out': (read, 3), **more}
