"""Kernels of Flax's layers, pruned to 2:4, for the tests of `nn`."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse.patterns import attention
from jaxsparse.patterns import nm

_TOLERANCE = {jnp.float32: 2e-5, jnp.bfloat16: 2e-2}
RULES = {**attention(2, 4), '.*/kernel': nm(2, 4)}
KERNELS = {'.*/kernel': nm(2, 4)}
INPUTS = 512  # Smaller weights would get no smaller.


def assert_close(actual, expected, dtype=jnp.float32):
  """The same, relative to the largest entry."""
  assert actual.dtype == expected.dtype
  expected = np.asarray(expected, np.float32)
  scale = max(1., np.abs(expected).max())
  np.testing.assert_allclose(
      np.asarray(actual, np.float32) / scale, expected / scale, rtol=0.,
      atol=_TOLERANCE[dtype])


def tokens(*leading, dtype=jnp.float32):
  """Inputs of layers."""
  shape = (*leading, INPUTS)
  return jax.random.normal(jax.random.key(1), shape).astype(dtype)


def two_of_four(w, axes=(-2,)):
  """Keeps the first two largest of every four along the joined axes."""
  last = tuple(range(-len(axes), 0))
  moved = np.moveaxis(np.array(w), axes, last)
  fours = moved.reshape(-1, 4)
  order = np.argsort(-np.abs(fours.astype(np.float32)), 1, kind='stable')
  np.put_along_axis(fours, order[:, 2:], 0, 1)
  return jax.device_put(np.moveaxis(fours.reshape(moved.shape), last, axes))


def pruned(params):
  """All kernels 2:4, as `RULES` say."""
  def leaf(path, w):
    path = jax.tree_util.keystr(path, simple=True, separator='/')
    if 'kernel' not in path:
      return w
    if re.search('(query|key|value)/kernel', path):
      return two_of_four(w, (-3,))
    return two_of_four(w, (-3, -2) if 'out/kernel' in path else (-2,))
  return jax.tree_util.tree_map_with_path(leaf, params)
