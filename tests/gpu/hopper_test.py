"""The Hopper kernel on a Hopper GPU, against one product in float32 by XLA."""

import time

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.packed.kernels import hopper

# Errors relative to the largest entry: sums are float32, results are rounded.
_TOLERANCE = {'bfloat16': 8e-3, 'float16': 1e-3, 'float32': 2e-5}


@pytest.fixture(autouse=True)
def _hopper():
  if reason := hopper.available():
    pytest.skip(reason)


def sparse(k, n, dtype):
  """A weight with 0, 1 or 2 nonzeros in every four rows."""
  rng = np.random.default_rng(k + n)
  rank = rng.random((k // 4, 4, n)).argsort(1).argsort(1)
  kept = rank < rng.integers(0, 3, (k // 4, 1, n))
  w = np.where(kept, rng.normal(size=kept.shape), 0).reshape(k, n)
  return jnp.asarray(w, dtype)


def tokens(t, k, dtype):
  return jax.random.normal(jax.random.key(t), (t, k), dtype)


def assert_product(y, x, w):
  """`y` is `x @ w` to the precision of its dtype."""
  expected = np.float64(lax.dot(
      x.astype(jnp.float32), w.astype(jnp.float32),
      precision=lax.Precision.HIGHEST))
  assert y.shape == expected.shape
  np.testing.assert_allclose(
      np.float64(y), expected, rtol=0,
      atol=_TOLERANCE[y.dtype.name] * np.abs(expected).max())


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('out_dtype', [None, jnp.float32])
@pytest.mark.parametrize('t', [1, 3, 8, 17, 64, 200, 1024])
def test_any_number_of_tokens(t, dtype, out_dtype):
  k, n = 256 * 3, 128 * 5
  x, w = tokens(t, k, dtype), sparse(k, n, dtype)
  packed = jaxsparse.packed.with_layout(jaxsparse.pack(w), 'hopper')
  y = hopper.matmul(x, packed.values, packed.positions, out_dtype=out_dtype)
  assert y.dtype == (out_dtype or dtype)
  assert_product(y, x, w)


@pytest.mark.parametrize('t', [5, 16, 30, 64, 300])
def test_every_config_computes_the_same_product(t):
  k, n = 4096, 1024
  x, w = tokens(t, k, jnp.bfloat16), sparse(k, n, jnp.bfloat16)
  packed = jaxsparse.packed.with_layout(jaxsparse.pack(w), 'hopper')
  configs = hopper._candidates(t, k, n, 132)
  assert {c.split for c in configs} >= {1, 2, 4, 8}
  # Blocks of fewer tiles than there are, and one block of all of them.
  configs += [configs[0]._replace(band=1), configs[0]._replace(band=3)]
  for config in configs:
    y = hopper.matmul(
        x, packed.values, packed.positions, out_dtype=jnp.float32,
        config=config)
    assert_product(y, x, w)


def test_blocks_walk_over_many_tiles():
  k, n, t = 1024, 8192, 4096
  x, w = tokens(t, k, jnp.bfloat16), sparse(k, n, jnp.bfloat16)
  packed = jaxsparse.packed.with_layout(jaxsparse.pack(w), 'hopper')
  assert_product(hopper.matmul(x, packed.values, packed.positions), x, w)


def test_a_product_repeated_is_the_same_to_the_bit():
  k, n, t = 2048, 2048, 512
  x, w = tokens(t, k, jnp.bfloat16), sparse(k, n, jnp.bfloat16)
  packed = jaxsparse.packed.with_layout(jaxsparse.pack(w), 'hopper')
  f = jax.jit(hopper.matmul)
  first = f(x, packed.values, packed.positions)
  for _ in range(50):
    again = f(x, packed.values, packed.positions)
    np.testing.assert_array_equal(np.float32(first), np.float32(again))


@pytest.mark.parametrize('layout', ['planar', 'hopper'])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('t, k, n', [(1, 260, 70), (17, 1028, 333),
                                     (200, 2052, 1000), (1024, 512, 136)])
def test_the_public_product_pads_what_does_not_divide(t, k, n, dtype, layout):
  x, w = tokens(t, k, dtype), sparse(k, n, dtype)
  packed = jaxsparse.packed.with_layout(jaxsparse.pack(w), layout)
  y = jax.jit(lambda x, w: jaxsparse.matmul(x, w, implementation='gpu'))(
      x, packed)
  assert_product(y, x, w)


def test_what_tune_finds_computes_the_product(monkeypatch):
  monkeypatch.setattr(hopper, '_TUNED', {})
  k, n, t = 2048, 2048, 16
  x, w = tokens(t, k, jnp.bfloat16), sparse(k, n, jnp.bfloat16)
  packed = jaxsparse.packed.with_layout(jaxsparse.pack(w), 'hopper')
  config = hopper.tune(
      x, packed.values, packed.positions, clock=time.perf_counter)
  assert hopper.fits(config, k, n)
  assert_product(hopper.matmul(x, packed.values, packed.positions), x, w)


def test_gradients_and_stacked_weights():
  dense = jnp.stack([two_ways(512, 256, seed) for seed in range(2)])
  w = jaxsparse.packed.with_layout(
      jaxsparse.pack(dense, transposed=True), 'hopper')
  x, dy = (jnp.stack([tokens(40, k, jnp.bfloat16)] * 2) for k in (512, 256))
  product = jax.vmap(lambda x, w: jaxsparse.matmul(x, w, implementation='gpu'))
  y, back = jax.vjp(lambda x: product(x, w), x)
  dx, = back(dy)
  for i in range(2):
    assert_product(y[i], x[i], dense[i])
    assert_product(dx[i], dy[i], dense[i].T)


def test_training_packs_both_products():
  w = two_ways(512, 256, 0)
  x, dy = tokens(40, 512, jnp.bfloat16), tokens(40, 256, jnp.bfloat16)
  y, back = jax.vjp(lambda x, w: jaxsparse.packed.training_matmul(
      x, w, implementation='gpu'), x, w)
  dx, dw = back(dy)
  assert_product(y, x, w)
  assert_product(dx, dy, w.T)
  assert_product(dw, x.T, dy)


def two_ways(k, n, seed):
  """A weight that is 2:4 along both axes."""
  w = jax.random.normal(jax.random.key(seed), (k, n))
  mask = jaxsparse.select(
      jnp.abs(w), jaxsparse.nm(2, 4, transposable=True))
  return jnp.where(mask, w, 0.).astype(jnp.bfloat16)
