"""ALPS is the published algorithm, in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.calibration import alps
from jaxsparse.calibration import reconstruction_error
from jaxsparse.calibration import refit
from tests._lib import calibration as lib
from tests._lib.near import same


def published(w, h, project, steps=300):
  """The released loop, up to its least squares; what it does with rho."""
  w, h = lib.exact(w, h)
  h = h + .01 * np.mean(np.diagonal(h)) * np.eye(len(h))
  norms = np.sqrt(np.diagonal(h))
  g, first = h / norms[:, None] / norms, w * norms[:, None]
  d = start = first * project(np.abs(first))
  v, rho, seen, grown, did = np.zeros_like(w), .1, start != 0, False, []
  for t in range(steps):
    b = np.linalg.solve(g + rho * np.eye(len(g)), g @ first - v + rho * d)
    d = (b + v / rho) * project(np.abs(b + v / rho))
    v = v + rho * (b - d)
    if t % 3 == 2:
      moved = np.sum(seen != (d != 0))
      share = moved / seen.sum()
      seen = d != 0
      if share > .005:
        grown, factor = True, 1.3 if share > .1 else 1.2
      elif moved:
        factor = 1.1 if grown else .2
        if not grown:
          d, v = start, np.zeros_like(w)
          did.append('again')
      elif grown:
        break
      else:
        factor = .2
      did.append(factor)
      rho *= factor
      if t >= 30 and share < 3e-4:
        break
  return project(np.abs(b)), did


@pytest.mark.parametrize('pattern, project', [
    (jaxsparse.unstructured(.6), lambda x: lib.highest(x, round(.4 * x.size))),
    (jaxsparse.nm(2, 4), lambda x: lib.highest_of_groups(x, 2, 4)),
], ids=['unstructured', '2:4'])
def test_the_mask_is_the_published_one(pattern, project):
  w, h = lib.problem()
  expected, did = published(w, h, project)
  assert len(did) > 4
  v, mask = alps(w, h, pattern)
  np.testing.assert_array_equal(mask, expected)
  np.testing.assert_array_equal(v != 0, mask)
  damped = h + .01 * jnp.mean(jnp.diagonal(h)) * jnp.eye(48)
  same(v, refit(w, damped, mask, steps=100, tolerance=1e-6), 1e-3)


@pytest.mark.parametrize('close', [False, True])
def test_a_penalty_under_which_few_weights_move_shrinks(close):
  w, h = lib.problem(inputs=32, out=32)
  w = jnp.where(w > 0, 1., .01) * (2. + jnp.abs(w))
  w /= jnp.sqrt(jnp.diagonal(h))[:, None]
  if close:  # One weight is kept in place of another at turn 6, not at 3.
    w = w.at[:2, 0].set(jnp.array([.5, .499]) / jnp.sqrt(jnp.diagonal(h)[:2]))
  h = jnp.diag(jnp.diagonal(h))
  kept = int((w * jnp.sqrt(jnp.diagonal(h))[:, None] > .4995).sum())
  expected, did = published(w, h, lambda x: lib.highest(x, kept), steps=7)
  assert did == ([.2, 'again', .2] if close else [.2, .2])
  v, mask = alps(w, h, jaxsparse.unstructured(1 - kept / w.size), steps=7)
  np.testing.assert_array_equal(mask, expected)
  same(v, jnp.where(mask, w, 0))


@pytest.mark.parametrize('pattern', [
    jaxsparse.unstructured(.37),
    jaxsparse.block((5, 1), balanced=True, sparsity=.5)], ids=str)
def test_every_group_keeps_exactly_its_count(pattern):
  w, h = lib.problem(inputs=40, out=7)
  v, mask = alps(w, h, pattern, steps=12)
  np.testing.assert_array_equal(v != 0, mask)
  assert mask.sum() == round((1 - pattern.sparsity) * w.size)
  if pattern.group != jaxsparse.unstructured().group:
    assert (mask.sum(0) == round((1 - pattern.sparsity) * 40)).all()


def test_dead_inputs_are_pruned_first_and_keep_what_they_have_to():
  dead = [0, 1, 2, 17]
  w, h = lib.problem(dead=dead)
  v, mask = alps(w, h, jaxsparse.nm(2, 4))
  np.testing.assert_array_equal(mask[:4].sum(0), 2)
  assert mask[3].all()
  np.testing.assert_array_equal(v[:3], jnp.where(mask, w, 0)[:3])


def test_layers_are_mapped_and_nan_is_passed_on():
  ws, hs = map(jnp.stack, zip(*map(lib.problem, range(2))))
  hs = hs.at[1, 5, 5].set(jnp.nan)
  vs, masks = jax.vmap(lambda w, h: alps(w, h, jaxsparse.nm(2, 4)))(ws, hs)
  v, mask = alps(ws[0], hs[0], jaxsparse.nm(2, 4))
  assert masks[0].sum() == mask.sum()
  same(reconstruction_error(ws[0], vs[0], hs[0]),
       reconstruction_error(ws[0], v, hs[0]), 1e-4)
  np.testing.assert_array_equal(jnp.isnan(vs[1]), masks[1])
