"""Layers of stacked arrays."""

import jax.numpy as jnp
import numpy as np

from jaxsparse.graph import slices

X = jnp.arange(24).reshape(2, 3, 4)


def test_what_is_taken_is_put_back():
  for index in ((), ((0, 1),), ((1, 2),), ((2, 0), (0, 1)), (
      (0, 1), (1, 0), (2, 3))):
    place = [slice(None)] * 3
    for axis, k in index:
      place[axis] = k
    got = slices.take(X, index)
    np.testing.assert_array_equal(got, X[tuple(place)])
    np.testing.assert_array_equal(
        slices.put(X, -got, index), X.at[tuple(place)].set(-got))


def test_what_is_put_takes_the_dtype():
  assert slices.put(X, jnp.float32(7.), ((0, 0), (1, 0), (2, 0))).dtype == (
      X.dtype)
