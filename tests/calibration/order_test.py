"""What the methods share: the order of their errors, and devices."""

import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

import jaxsparse
from jaxsparse import calibration
from tests._lib import calibration as lib
from tests._lib.near import same

pytestmark = pytest.mark.slow

_SAMPLE = 2**15  # Of scores, which `select` may gather.
_MOVES = re.compile(r'= \(?\w+\[([\d,]*)\][^=]*? '
                    r'(all-gather|all-to-all|collective-permute)')


def magnitude(w, h, pattern):
  del h
  mask = jaxsparse.select(jnp.abs(w), pattern)
  return jnp.where(mask, w, 0), mask


def wanda(w, h, pattern):
  mask = calibration.wanda(w, jnp.diagonal(h), pattern)
  return jnp.where(mask, w, 0), mask


def refitted(w, h, pattern):
  v, mask = calibration.alps(w, h, pattern)
  return calibration.refit(w, h, mask, start=v), mask


_METHODS = [magnitude, wanda, calibration.sparsegpt, calibration.admm,
            calibration.alps, refitted]


@pytest.mark.parametrize('pattern', [
    jaxsparse.unstructured(.5), jaxsparse.unstructured(.8),
    jaxsparse.nm(2, 4)], ids=str)
def test_what_is_more_work_is_better(pattern):
  for seed in range(3):
    w, h = lib.problem(seed, mixed=True)
    errors = [float(calibration.reconstruction_error(
        w, f(w, h, pattern)[0], h)) for f in _METHODS]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize('method', [
    wanda, calibration.sparsegpt, calibration.admm, refitted],
                         ids=lambda f: f.__name__)
@pytest.mark.parametrize('kind, pattern', [
    (AxisType.Auto, jaxsparse.unstructured(.5)),
    (AxisType.Explicit, jaxsparse.nm(2, 4))], ids=str)
def test_outputs_are_sharded_and_no_weight_moves(method, kind, pattern):
  w, h = lib.problem(inputs=32, out=4096)
  v, mask = method(w, h, pattern)
  expected = calibration.reconstruction_error(w, v, h)
  mesh = jax.make_mesh((8,), ('x',), axis_types=(kind,))
  with jax.set_mesh(mesh):
    w = jax.device_put(w, NamedSharding(mesh, P(None, 'x')))
    h = jax.device_put(h, NamedSharding(mesh, P()))
    f = jax.jit(lambda w, h: method(w, h, pattern)).lower(w, h).compile()
    for dims, name in _MOVES.findall(f.as_text()):
      size = int(np.prod([int(d) for d in dims.split(',') if d] or [1]))
      assert size <= _SAMPLE < w.size, f'{name} of [{dims}]'
    found, kept = f(w, h)
    assert found.sharding.is_equivalent_to(w.sharding, 2)
    assert kept.sum() == mask.sum()
    # Rounding may choose another of two weights that are as good.
    same(calibration.reconstruction_error(w, found, h), expected, 1e-4)
