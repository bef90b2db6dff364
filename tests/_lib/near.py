"""Whether trees of numbers are the same, but for rounding."""

import jax
import numpy as np

SAME = 1e-5  # Of the largest number, in f32.


def numbers(tree):
  return [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]


def same(got, expected, tolerance=SAME):
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(numbers(got), numbers(expected), strict=True):
    assert a.shape == b.shape
    if b.size:
      assert np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), 1e-3)


def differs(a, b):
  return any((x != y).any() for x, y in zip(numbers(a), numbers(b)))
