"""Functions over steps, beside the units."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests._lib.odd.case import hidden
from tests._lib.odd.case import N
from tests._lib.odd.case import odd
from tests._lib.odd.case import SEQ
from tests._lib.odd.case import STEPS
from tests._lib.odd.case import T
from tests._lib.odd.case import TIE
from tests._lib.zoo_case import tokens


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
