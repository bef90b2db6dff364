"""Refitted weights are the least squares of each output, and never worse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.calibration import reconstruction_error
from jaxsparse.calibration import refit
from jaxsparse.calibration import sparsegpt
from jaxsparse.calibration import wanda
from tests._lib import calibration as lib
from tests._lib.near import same


def least_squares(w, h, mask):
  """The closed form, output by output."""
  w, h = lib.exact(w, h)
  v = np.zeros_like(w)
  for j, kept in enumerate(np.asarray(mask).T):
    v[kept, j] = np.linalg.solve(h[np.ix_(kept, kept)], h[kept] @ w[:, j])
  return v


def masked(seed=0, **options):
  w, h = lib.problem(seed, **options)
  return w, h, wanda(w, jnp.diagonal(h), jaxsparse.unstructured(.6))


def test_the_error_is_relative_to_the_outputs():
  w, h, mask = masked()
  v = jnp.where(mask, w, 0)
  same(reconstruction_error(w, v, h), lib.reconstruction_error(w, v, h))
  assert reconstruction_error(w, w, 0 * h) == 0
  same(reconstruction_error(w, 0 * w, h), 1.)
  with pytest.raises(ValueError, match=r'same shape, got \(48, 20\) and \(3,'):
    reconstruction_error(w, v[:3], h)


@pytest.mark.parametrize('started', [False, True])
def test_kept_weights_are_the_least_squares(started):
  w, h, mask = masked()
  start = jnp.ones_like(w) if started else None
  v = refit(w, h, mask, start=start, steps=200, tolerance=1e-6)
  same(v, least_squares(w, h, mask), 1e-3)
  np.testing.assert_array_equal(v != 0, mask)


def test_a_full_mask_gives_the_weights_back():
  w, h, _ = masked()
  np.testing.assert_array_equal(refit(w, h, jnp.ones_like(w, bool)), w)


def test_errors_fall_with_steps():
  w, h, mask = masked()
  errors = [float(reconstruction_error(w, refit(
      w, h, mask, steps=steps, tolerance=0.), h)) for steps in range(8)]
  assert errors == sorted(errors, reverse=True)
  same(jnp.where(mask, w, 0), refit(w, h, mask, steps=0))


@pytest.mark.parametrize('tokens', [4, 48, 256])
def test_no_output_becomes_worse(tokens):
  for seed in range(3):
    w, h = lib.problem(seed, tokens=tokens)
    start, mask = sparsegpt(w, h, jaxsparse.unstructured(.5))
    # Far more steps than are any use, where rounding is all that is left.
    v = refit(w, h, mask, start=start, steps=500, tolerance=0.)
    w, h, v, start = lib.exact(w, h, v, start)
    before, after = (np.einsum('ij,ik,kj->j', w - x, h, w - x)
                     for x in (start, v))
    of = np.einsum('ij,ik,kj->j', w, h, w)
    assert (after <= before + 1e-6 * of).all()
    if tokens == 256:
      assert (after < before).all()


def test_weights_of_dead_inputs_stay():
  w, h, _ = masked(dead=[0, 7])
  mask = jnp.ones_like(w, bool).at[1::2].set(False)
  v = refit(w, h, mask, steps=200, tolerance=1e-6)
  np.testing.assert_array_equal(v[0], w[0])
  live = np.setdiff1d(np.arange(48), [0, 7])
  same(v[live], least_squares(
      w[live], h[np.ix_(live, live)], mask[live]), 1e-3)


def test_bfloat16_is_fitted_in_float32():
  w, h, mask = masked()
  w = w.astype(jnp.bfloat16)
  np.testing.assert_array_equal(
      refit(w, h, mask), refit(w.astype(jnp.float32), h, mask).astype(w.dtype))


def test_layers_are_mapped_and_nan_is_passed_on():
  w, h, mask = map(jnp.stack, zip(*map(masked, range(3))))
  h = h.at[2, 5, 5].set(jnp.nan)
  # To the end: a step more or less is more than rounding.
  fit = functools.partial(refit, steps=200, tolerance=1e-6)
  v = jax.jit(jax.vmap(fit))(w, h, mask)
  for i in range(2):
    same(v[i], fit(w[i], h[i], mask[i]), 1e-4)
  np.testing.assert_array_equal(jnp.isnan(v[2]), mask[2])
  with pytest.raises(ValueError, match='finite, but has NaN'):
    refit(w[2], h[2], mask[2])


def test_wrong_arguments_say_what_is_right():
  w, h, mask = masked()
  with pytest.raises(ValueError, match='bool.*got float32.*mask != 0'):
    refit(w, h, mask.astype(w.dtype))
  with pytest.raises(ValueError, match='the same shape'):
    refit(w, h, mask[:1])
  with pytest.raises(ValueError, match='must be floating'):
    refit(w, h, mask, start=mask)
