"""One kernel: methods by name, groups, and what of a statistic is wrong."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import calibration
from jaxsparse.calibration import _kernels
from jaxsparse.calibration import _layouts
from jaxsparse.calibration import Statistic
from jaxsparse.graph import Kernel

RNG = np.random.default_rng(0)
HALF = jaxsparse.unstructured(0.5)


def array(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def layout(shape, contracted, outputs, pattern=HALF, **more):
  return _layouts.layout(
      Kernel('w', shape, contracted, outputs, **more), pattern)


@pytest.mark.parametrize('name, kind', [
    ('magnitude', None), ('wanda', 'norm'), ('sparsegpt', 'moment'),
    ('admm', 'moment'), ('alps', 'moment')])
def test_a_refit_needs_moments_and_a_method_what_it_needs(name, kind):
  assert _kernels.method(name, False).kind == kind
  assert _kernels.method(name, True).kind == 'moment'


def test_wanda_is_the_same_of_norms_and_of_moments():
  w, x = array(8, 4), array(20, 8)
  how, of = _kernels.method('wanda', False), layout((8, 4), (0,), (1,))
  norm, moment = (
      _kernels.prune('w', w, Statistic(s, jnp.float32(20)), of, m, None)
      for s, m in ((jnp.asarray((x**2).sum(0)), how),
                   (jnp.asarray(x.T @ x), how._replace(kind='moment'))))
  np.testing.assert_array_equal(norm.mask, moment.mask)
  assert jnp.isnan(norm.error)
  np.testing.assert_allclose(moment.error, calibration.reconstruction_error(
      w, jnp.where(norm.mask, w, 0), x.T @ x), rtol=1e-5)


def test_magnitude_competes_as_the_pattern_says():
  w = array(2, 8, 4)
  of = layout((2, 8, 4), (1,), (2,))
  got = _kernels.prune(
      'w', jnp.asarray(w), None, of, _kernels.method('magnitude', False), None)
  for layer, mask in zip(w, got.mask):
    np.testing.assert_array_equal(mask, jaxsparse.select(jnp.abs(layer), HALF))


def test_errors_name_the_kernel():
  w, of = array(8, 4), layout((8, 4), (0,), (1,))
  how = _kernels.method('sparsegpt', False)
  with pytest.raises(ValueError, match='mlp/up: the inputs of this kernel'):
    _kernels.prune('mlp/up', w, Statistic(
        jnp.full((8, 8), jnp.nan), jnp.float32(1)), of, how, None)
  stacked = layout((2, 8, 4), (1,), (2,))
  bad = Statistic(-jnp.ones((2, 8, 8)), jnp.ones(2))
  with pytest.raises(ValueError, match='mlp/up: h is not positive.*damping'):
    _kernels.prune('mlp/up', array(2, 8, 4), bad, stacked, how, None)
