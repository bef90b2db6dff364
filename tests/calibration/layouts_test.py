"""Layouts: there and back, and patterns that select the same in both."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.calibration import _layouts
from jaxsparse.graph import Kernel

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('shape, contracted, window, outputs, pattern', [
    ((8, 6), (0,), (), (1,), jaxsparse.nm(2, 4)),
    ((6, 8), (1,), (), (0,), jaxsparse.nm(2, 4, axis=-1)),
    ((2, 4, 6), (0, 1), (), (2,), jaxsparse.nm(2, 4, axis=(-3, -2))),
    ((2, 4, 6), (0, 1), (), (2,), jaxsparse.nm(1, 2, axis=0)),
    ((4, 3, 6), (0, 2), (), (1,), jaxsparse.nm(1, 2, axis=-1)),
    ((4, 3, 6), (0, 2), (), (1,), jaxsparse.nm(1, 2, axis=0)),
    ((3, 3, 8, 5), (2,), (0, 1), (3,), jaxsparse.nm(2, 4)),
    ((3, 3, 8, 5), (2,), (0, 1), (3,), jaxsparse.nm(1, 3, axis=0)),
    ((8, 6), (0,), (), (1,), jaxsparse.block((4, 1), sparsity=.5)),
    ((8, 6), (0,), (), (1,), jaxsparse.block(
        (4, 1), sparsity=.5, balanced=True)),
    ((8, 6), (0,), (), (1,), jaxsparse.channel(-1, sparsity=.5)),
    ((8, 6), (0,), (), (1,), jaxsparse.unstructured(.5)),
    ((3, 8, 6), (1,), (), (2,), jaxsparse.nm(2, 4)),
], ids=str)
def test_masks_of_matrices_are_those_of_kernels(
    shape, contracted, window, outputs, pattern):
  made = _layouts.layout(
      Kernel('w', shape, contracted, outputs, window), pattern)
  w = RNG.normal(size=shape).astype(np.float32)
  m = made.matrices(jnp.asarray(w))
  np.testing.assert_array_equal(made.kernel(m), w)
  masks = [jaxsparse.select(jnp.abs(one), made.pattern)
           for one in m.reshape(-1, *m.shape[-2:])]
  np.testing.assert_array_equal(
      made.kernel(jnp.stack(masks).reshape(m.shape)),
      jaxsparse.select(jnp.abs(w), pattern))


def test_statistics_go_along_with_the_rows():
  made = _layouts.layout(
      Kernel('w', (4, 3, 5), (0, 1), (2,)), jaxsparse.nm(1, 4, axis=0))
  x = RNG.normal(size=(7, 4, 3)).astype(np.float32)
  rows = x.swapaxes(1, 2).reshape(7, 12)
  flat = x.reshape(7, 12)
  np.testing.assert_allclose(
      made.statistic(jnp.asarray(flat.T @ flat), True), rows.T @ rows,
      rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
      made.statistic(jnp.asarray((flat**2).sum(0)), False), (rows**2).sum(0),
      rtol=1e-5)


def test_a_layer_of_it():
  made = _layouts.layout(
      Kernel('w', (2, 5, 3, 8), (3,), (1,)), jaxsparse.nm(2, 4, axis=-1))
  assert made.stack == (0, 2)
  one = made.without([0])
  assert (one.shape, one.stack, one.inputs, one.outputs) == (
      (5, 3, 8), (1,), (2,), (0,))
  w = jnp.asarray(RNG.normal(size=(2, 5, 3, 8)))
  np.testing.assert_array_equal(one.matrices(w[1]), made.matrices(w)[1])


@pytest.mark.parametrize('pattern', [
    jaxsparse.channel(-2), jaxsparse.block((2, 2)), jaxsparse.nm(2, 4, axis=-1),
    jaxsparse.nm(2, 4, transposable=True)], ids=str)
def test_outputs_are_no_inputs(pattern):
  with pytest.raises(ValueError, match='span others of the axes'):
    _layouts.layout(Kernel('w', (8, 8), (0,), (1,)), pattern)


def test_layers_are_no_inputs():
  with pytest.raises(ValueError, match='span others of the axes'):
    _layouts.layout(
        Kernel('w', (4, 8, 8), (1,), (2,)), jaxsparse.nm(2, 4, axis=0))


def test_a_kernel_with_two_kinds_of_inputs_has_none():
  with pytest.raises(ValueError, match='also contracted along 1'):
    _layouts.layout(Kernel('w', (8, 8), (0,), (1,), why=(
        'also contracted along 1')), jaxsparse.unstructured(.5))
