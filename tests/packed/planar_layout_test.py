"""Positions of planar weights: every group has its bits, and padding none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.packed import _planar_layout


@pytest.mark.parametrize('groups', [0, 1, 2, 9, 63, 64, 65, 75, 128, 200])
@pytest.mark.parametrize('leading', [(), (2,)], ids=str)
def test_words_hold_the_bits_of_all_groups(groups, leading):
  bits = np.random.default_rng(groups).integers(
      0, 16, (*leading, groups, 3), np.uint32)
  words = jax.jit(_planar_layout.to_words)(jnp.asarray(bits))
  assert words.shape == (*leading, -(-groups // 8), 3)
  assert words.dtype == jnp.int32
  count = lambda x: sum(int(word).bit_count() for word in np.ravel(x))
  assert count(np.asarray(words).view(np.uint32)) == count(bits)
  np.testing.assert_array_equal(_planar_layout.to_bits(words, groups), bits)
