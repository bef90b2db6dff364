"""Wanda keeps what its definition says: a sort in numpy keeps the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.calibration import wanda
from tests._lib import calibration as lib


@pytest.mark.parametrize('sparsity', [0., .3, .5, 1.])
def test_every_output_keeps_its_highest(sparsity):
  w, h = lib.problem()
  scores = np.abs(w) * np.sqrt(np.diagonal(h))[:, None]
  expected = lib.highest_of_groups(scores, round((1 - sparsity) * 48), 48)
  np.testing.assert_array_equal(
      wanda(w, jnp.diagonal(h), jaxsparse.unstructured(), sparsity), expected)


def test_every_group_keeps_its_highest():
  w, h = lib.problem()
  scores = np.abs(w) * np.sqrt(np.diagonal(h))[:, None]
  for n, m in ((2, 4), (3, 6), (12, 48)):
    np.testing.assert_array_equal(
        wanda(w, jnp.diagonal(h), jaxsparse.nm(n, m)),
        lib.highest_of_groups(scores, n, m))


def test_units_along_inputs_count_by_their_squares():
  w, h = lib.problem()
  mask = wanda(w, jnp.diagonal(h), jaxsparse.block((4, 1), sparsity=.5))
  w, h = lib.exact(w, h)
  scores = (w**2 * np.diagonal(h)[:, None]).reshape(12, 4, -1).sum(1)
  np.testing.assert_array_equal(
      mask, lib.highest_of_groups(scores, 6, 12).repeat(4, 0))


def test_ties_go_to_the_lower_index_and_dead_inputs_first():
  w = jnp.ones((6, 2), jnp.bfloat16)
  squares = jnp.array([0., 1., 1., 1., 1., 0.])
  mask = wanda(w, squares, jaxsparse.unstructured(.5))
  np.testing.assert_array_equal(mask[:, 0], [0, 1, 1, 1, 0, 0])
  mask = wanda(w, squares, jaxsparse.unstructured(1 / 6))
  np.testing.assert_array_equal(mask[:, 1], [1, 1, 1, 1, 1, 0])


def test_layers_are_mapped_and_the_sparsity_may_be_traced():
  ws, hs = map(jnp.stack, zip(*map(lib.problem, range(3))))
  f = jax.jit(jax.vmap(lambda w, h, s: wanda(
      w, jnp.diagonal(h), jaxsparse.unstructured(), s)))
  sparsities = jnp.array([.25, .5, .75])
  for mask, w, h, s in zip(f(ws, hs, sparsities), ws, hs, sparsities):
    np.testing.assert_array_equal(
        mask, wanda(w, jnp.diagonal(h), jaxsparse.unstructured(), float(s)))
