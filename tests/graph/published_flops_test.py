"""The FLOPs that papers give for ResNet-50 come out of our counter.

Every published number is one row. They are shares of the dense network's, of a
forward pass (test) or of training; where a paper leaves open which layers are
sparse, the row says what reproduces it.
"""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models.batch_norm_resnet import BatchNormResNet
import jaxsparse
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse._utils import trees
from jaxsparse.masks import exact_counts as counts
from jaxsparse.rules import base

_TOLERANCE = 0.02
_ALL = '.*kernel'
_BUT_STEM = 'blocks.*kernel|head/kernel'
_PERIOD = 100  # Steps between updates of RigL.


@functools.cache
def resnet50():
  """The counted FLOPs of ImageNet's ResNet-50, and its params as shapes."""
  def build():
    model = BatchNormResNet((224, 224, 3), 1000, depth=50, rngs=nnx.Rngs(0))
    model.eval()
    return model
  graphdef, params, rest = nnx.split(nnx.eval_shape(build), nnx.Param, ...)

  def apply(params, rest, x):
    return nnx.merge(graphdef, params, rest, copy=True)(x)
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  return jaxsparse.flops(apply, params, rest, image), params


def densities(distribution, sparse):
  """The share kept of every sparse kernel, by path."""
  _, params = resnet50()
  patterns = rules.resolve(
      {sparse: jaxsparse.unstructured(), '.*': None}, params)
  weights = base.sparse_only(params, patterns)
  kept = distribution(weights, patterns, 1.)
  return {path: float(counts.to_float(k.count)) / np.prod(w.shape)
          for path, w, k in trees.align(weights, kept)}


def forward(kept):
  counted, _ = resnet50()
  return counted.forward(kept) / counted.total


def training(kept, gradient=None):
  """The share of training where gradients of weights have other densities."""
  counted, _ = resnet50()
  return counted.training(kept, gradient or kept) / (3 * counted.total)


def looking(kept, period):
  """Densities of gradients that are dense once in `period + 1` steps."""
  return {path: (k * period + 1) / (period + 1) for path, k in kept.items()}


def test_dense_resnet50_costs_8_2_gflops_an_image():
  counted, _ = resnet50()
  assert counted.total / 1e9 == pytest.approx(8.2, abs=0.05)


@pytest.mark.parametrize('sparsity, sparse, published', [
    (0.8, _BUT_STEM, 0.23),  # With all layers sparse it would be 0.20,
    (0.9, _ALL, 0.10),       # and here 0.13 with a dense first layer.
])
def test_set(sparsity, sparse, published):
  """Uniform; the table has the same number for training and test."""
  kept = densities(jaxsparse.uniform(sparsity), sparse)
  assert forward(kept) == pytest.approx(published, abs=_TOLERANCE)
  assert training(kept) == pytest.approx(published, abs=_TOLERANCE)


@pytest.mark.parametrize('sparsity, test, train', [
    (0.8, 0.42, 0.42), (0.9, 0.24, 0.25)])
def test_rigl(sparsity, test, train):
  kept = densities(jaxsparse.erk(sparsity), _ALL)
  assert forward(kept) == pytest.approx(test, abs=_TOLERANCE)
  assert training(kept, looking(kept, _PERIOD)) == pytest.approx(
      train, abs=_TOLERANCE)


@pytest.mark.parametrize('sparsity, test, train', [
    (0.8, 0.42, 0.61), (0.9, 0.24, 0.50)])
def test_snfs(sparsity, test, train):
  """Erdos-Renyi-kernel, and all gradients at every step."""
  kept = densities(jaxsparse.erk(sparsity), _ALL)
  dense = dict.fromkeys(kept, 1.)
  assert forward(kept) == pytest.approx(test, abs=_TOLERANCE)
  assert training(kept, dense) == pytest.approx(train, abs=_TOLERANCE)


@pytest.mark.parametrize('sparsity, test, train, long', [
    (0.8, 0.34, 0.37, 0.55), (0.9, 0.21, 0.24, 0.36)])
def test_chase_without_channels(sparsity, test, train, long):
  """Training from test, through the soft memory bound.

  How Chase shares weights among layers is learned, so its test FLOPs follow
  from no shapes. Here layers share as `erk(power)` with the power that gives
  the published test FLOPs; those of training, of 1x and of 1.5x the steps, are
  then ours.
  """
  def shared(sparsity, power):
    return densities(jaxsparse.erk(sparsity, power), _ALL)
  low, high = 0., 1.
  for _ in range(12):
    power = (low + high) / 2
    low, high = ((power, high) if forward(shared(sparsity, power)) < test
                 else (low, power))
  assert forward(shared(sparsity, power)) == pytest.approx(test, abs=1e-3)
  # Twenty parts of training; connections move in the first sixteen.
  fade = schedules.fade_cosine(0, 16)
  parts = [shared(sparsity - 0.05 * float(fade(i + 0.5)), power)
           for i in range(20)]
  spent = np.mean([training(kept, looking(kept, 1000)) for kept in parts])
  assert spent == pytest.approx(train, abs=_TOLERANCE)
  assert 1.5 * spent == pytest.approx(long, abs=_TOLERANCE)
