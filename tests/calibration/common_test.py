"""Factors are those of linear algebra; wrong arguments say what is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import calibration
from jaxsparse.calibration import _common
from tests._lib import calibration as lib
from tests._lib.near import same

_HALF = jaxsparse.unstructured(0.5)
_METHODS = {
    'wanda': lambda w, h, p, s=None: calibration.wanda(
        w, jnp.diagonal(h), p, s),
    'sparsegpt': calibration.sparsegpt,
    'admm': calibration.admm,
    'alps': calibration.alps,
}


def test_the_factor_is_that_of_the_inverse():
  _, h = lib.problem()
  u = _common.inverse_factor(h, 0.01)
  h, = lib.exact(h)
  damped = h + .01 * np.trace(h) / len(h) * np.eye(len(h))
  same(u, np.linalg.cholesky(np.linalg.inv(damped)).T, 1e-4)


def test_dead_inputs_are_rows_of_the_unit_matrix_and_in_no_mean():
  dead = [0, 5, 47]
  _, h = lib.problem(dead=dead)
  rest = np.setdiff1d(np.arange(48), dead)
  u = np.asarray(_common.inverse_factor(h, 0.01))
  np.testing.assert_array_equal(u[dead], np.eye(48)[dead])
  np.testing.assert_array_equal(u[:, dead], np.eye(48)[:, dead])
  same(u[np.ix_(rest, rest)],
       _common.inverse_factor(h[np.ix_(rest, rest)], 0.01), 1e-4)


def test_a_unit_diagonal_comes_with_the_norms():
  _, h = lib.problem(dead=[3])
  unit, norms = _common.to_unit_diagonal(h)
  np.testing.assert_array_equal(jnp.stack([unit[3], unit[:, 3]]), 0)
  assert norms[3] == 0
  same(unit * norms[:, None] * norms[None], h)
  same(jnp.delete(jnp.diagonal(unit), 3), np.ones(47))


@pytest.mark.parametrize('pattern', [
    jaxsparse.nm(2, 4, axis=-1), jaxsparse.nm(2, 4, transposable=True),
    jaxsparse.block((4, 4), sparsity=.5), jaxsparse.channel(-1, sparsity=.5),
    jaxsparse.channel(-2, sparsity=.5)], ids=str)
@pytest.mark.parametrize('method', _METHODS)
def test_patterns_across_outputs_are_refused(method, pattern):
  with pytest.raises(ValueError, match='patterns along.*span outputs'):
    _METHODS[method](*lib.problem(), pattern)


@pytest.mark.parametrize('method', _METHODS)
def test_wrong_arguments_say_what_is_right(method):
  f = _METHODS[method]
  w, h = lib.problem(inputs=8, out=4)
  for message, arguments in {
      'no sparsity of its own.*0.5': (w, h, jaxsparse.unstructured()),
      r'in \[0, 1\], got 50.*write sparsity=0.5': (w, h, _HALF, 50),
      'matrix .in, out.*jax.vmap': (w[None], h, _HALF),
      'entries to prune': (w[:, :0], h, _HALF),
      'must be floating, got int32.*astype': (w.astype(int), h, _HALF),
      'finite, but has NaN': (w, h.at[0, 0].set(jnp.nan), _HALF),
      'must be floating, got int32': (w, h.astype(int), _HALF),
      'multiple of 3': (w, h, jaxsparse.nm(1, 3)),
  }.items():
    with pytest.raises(ValueError, match=message):
      f(*arguments)
  with pytest.raises(ValueError, match=r'\(8,.*got \(7,|squares'):
    f(w, h[:7, :7], _HALF)


@pytest.mark.parametrize('f', [
    calibration.sparsegpt, calibration.admm, calibration.alps])
def test_wrong_options_say_what_is_right(f):
  w, h = lib.problem(inputs=8, out=4)
  with pytest.raises(ValueError, match=r'\(8, 8\).*h = x.T @ x'):
    f(w, h[:, :7], _HALF)
  with pytest.raises(ValueError, match='at least 0, got -1'):
    f(w, h, _HALF, damping=-1.)
  option = {'block': 0} if f is calibration.sparsegpt else {'steps': 0}
  with pytest.raises(ValueError, match='got.*0.*Write e.g.'):
    f(w, h, _HALF, **option)


@pytest.mark.parametrize('method', ['sparsegpt', 'admm', 'alps'])
def test_statistics_may_be_known_where_weights_are_traced(method):
  w, h = lib.problem(inputs=8, out=4)
  f = jax.jit(lambda w: _METHODS[method](w, h, _HALF))
  expected = _METHODS[method](w, h, _HALF)
  same(jax.tree.leaves(f(w)), jax.tree.leaves(expected))
  bad = h.at[0, 0].set(jnp.nan)
  with pytest.raises(ValueError, match='finite, but has NaN'):
    jax.jit(lambda w: _METHODS[method](w, bad, _HALF))(w)


@pytest.mark.parametrize('f', [calibration.sparsegpt, calibration.admm])
def test_what_cannot_be_factored_is_an_error_and_nan_under_jit(f):
  w, h = lib.problem(inputs=8, out=4)
  h = h - 2 * jnp.diag(jnp.diagonal(h))
  with pytest.raises(ValueError, match='not positive definite.*damping=0.1'):
    f(w, h, _HALF, damping=.01)
  v, mask = jax.jit(lambda w, h: f(w, h, _HALF))(w, h)
  assert jnp.isnan(v).sum() == mask.sum() == w.size // 2
