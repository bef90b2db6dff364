"""Weights whose masks are blocks, for the tests of condensed weights."""

import jax.numpy as jnp
import numpy as np

from tests._lib.packed import normal


def masks(k, j, s, *, leading=(), balanced=False, seed=0):
  """1 x S blocks, of which every block column keeps a third or so."""
  random = np.random.default_rng(seed).random((*leading, k, j))
  if balanced:
    return np.repeat(random.argsort(-2).argsort(-2) < k // 3, s, -1)
  return np.repeat(random < 1 / 3, s, -1)


def weight(k=12, j=5, s=4, dtype=np.float32, **options):
  """A dense masked weight, and the mask."""
  mask = masks(k, j, s, **options)
  w = normal(*mask.shape, dtype=jnp.dtype(dtype), seed=7)
  return np.where(mask, w, np.zeros((), w.dtype)), mask


def same(a, b):
  a, b = np.asarray(a), np.asarray(b)
  assert (a.shape, a.dtype) == (b.shape, b.dtype)
  assert a.tobytes() == b.tobytes()
