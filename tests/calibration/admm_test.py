"""ADMM is the formulas of its docstring, in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.calibration import admm
from jaxsparse.calibration import refit
from tests._lib import calibration as lib
from tests._lib.near import same


def published(w, h, project, steps, ramp, damping=.1):
  """The released loop; `project(scores, progress)` gives a mask."""
  w, h = lib.exact(w, h)
  norms = np.sqrt(np.diagonal(h))
  g = h / norms[:, None] / norms + damping * np.eye(len(h))
  v = first = w * norms[:, None]
  dual = np.zeros_like(w)
  for t in range(1, steps + 1):
    if t <= ramp:
      mask = project(np.abs(v + dual), 1 - (1 - t / ramp)**3)
    z = np.where(mask, v + dual, 0)
    dual = dual + v - z
    v = np.linalg.solve(g + np.eye(len(h)), g @ first + z - dual)
  return np.where(mask, v + dual, 0) / norms[:, None], mask


@pytest.mark.parametrize('steps, ramp', [(1, 1), (4, 15), (20, 15)])
def test_a_matrix_is_pruned_as_published(steps, ramp):
  w, h = lib.problem()
  v, mask = admm(w, h, jaxsparse.unstructured(.6), steps=steps, ramp=ramp)
  expected, kept = published(
      w, h, lambda scores, progress: lib.highest(
          scores, w.size - round(progress * round(.6 * w.size))), steps,
      min(ramp, steps))
  np.testing.assert_array_equal(mask, kept)
  same(v, expected, 1e-4)


def test_every_group_goes_its_own_way_to_its_count():
  w, h = lib.problem()
  v, mask = admm(w, h, jaxsparse.nm(2, 8))
  expected, kept = published(
      w, h, lambda scores, progress: lib.highest_of_groups(
          scores, 8 - round(6 * progress), 8), 20, 15)
  np.testing.assert_array_equal(mask, kept)
  same(v, expected, 1e-4)


@pytest.mark.parametrize('pattern', [
    jaxsparse.unstructured(.37), jaxsparse.nm(11, 40),
    jaxsparse.block((5, 1), balanced=True, sparsity=.5)], ids=str)
def test_every_group_keeps_exactly_its_count(pattern):
  w, h = lib.problem(inputs=40, out=7)
  v, mask = admm(w, h, pattern)
  np.testing.assert_array_equal(v != 0, mask)
  assert mask.sum() == round((1 - pattern.sparsity) * w.size)
  if pattern.group != jaxsparse.unstructured().group:
    assert (mask.sum(0) == round((1 - pattern.sparsity) * 40)).all()


def test_more_steps_are_least_squares_under_the_last_mask():
  w, h = lib.problem()
  v, mask = admm(w, h, jaxsparse.nm(2, 4), steps=300, damping=0.)
  same(v, refit(w, h, mask, tolerance=1e-6), 1e-3)


def test_dead_inputs_are_pruned_first_and_keep_what_they_have_to():
  dead = [0, 1, 2, 17]
  w, h = lib.problem(dead=dead)
  v, mask = admm(w, h, jaxsparse.unstructured(.5))
  assert not mask[jnp.array(dead)].any()
  v, mask = admm(w, h, jaxsparse.nm(2, 4))
  np.testing.assert_array_equal(mask[:4].sum(0), 2)
  assert mask[3].all()
  np.testing.assert_array_equal(v[:3], jnp.where(mask, w, 0)[:3])
  same(admm(w, 1e6 * h, jaxsparse.nm(2, 4))[0], v)


def test_weights_of_inputs_that_are_nearly_zero_do_not_grow():
  rng = np.random.default_rng(1)
  w, data, up = (rng.normal(size=n).astype(np.float32)
                 for n in ((32, 4), (512, 8), (8, 32)))
  x = data @ up - np.where(np.arange(32) < 6, 45, 0).astype(np.float32)
  x /= 1 + np.exp(-x)  # A SiLU: the first inputs are about 1e-16.
  v, mask = admm(w, x.T @ x, jaxsparse.nm(2, 4))
  assert mask[:4].sum() == 8
  same(v[:4], np.where(mask, w, 0)[:4], 1e-2)
  assert jnp.abs(v).max() < 2 * np.abs(w).max()
