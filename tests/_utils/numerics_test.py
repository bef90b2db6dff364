"""Dtypes of sums, and sums of leaves of any kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse._utils import numerics


@pytest.mark.parametrize('narrow, sums', [
    (jnp.bfloat16, jnp.float32), (jnp.float16, jnp.float32),
    (jnp.float8_e4m3fn, jnp.float32), (jnp.float32, jnp.float32),
    (jnp.float64, jnp.float64)])
def test_sums_are_in_float32_or_wider(narrow, sums):
  assert numerics.at_least_float32(narrow) == sums


def test_wide_arrays_stay_as_they_are():
  x = jnp.array([1., 2.])
  assert numerics.wide(x).dtype == x.dtype
  assert numerics.wide(x.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize('x', [
    jnp.array([1., 2.]), jnp.array([1, 2]), jnp.array([1 + 2j, 3.])])
def test_numbers_are_added(x):
  more = jnp.ones((), x.dtype)
  np.testing.assert_array_equal(numerics.joined(x, more), x + more)


def test_bits_are_flipped_and_keys_stay():
  bits = jnp.array([True, False])
  np.testing.assert_array_equal(numerics.joined(bits, True), [False, True])
  key = jax.random.key(0)
  assert numerics.joined(key, 1.) is key
