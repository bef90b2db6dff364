"""Averages of batch norms: those of all examples together."""

from flax import nnx
import jax
import numpy as np
import pytest

from experiments.models import batch_norm_resnet
from experiments.pruning import averages

pytestmark = pytest.mark.usefixtures('launched')


def test_averages_are_those_of_all_activations_and_params_stay():
  model = batch_norm_resnet.BatchNormResNet(
      (8, 8, 1), 3, depth=8, width=4, rngs=nnx.Rngs(0))
  variables = nnx.state(model, (nnx.Param, nnx.BatchStat))
  x = np.random.default_rng(0).normal(2., 3., size=(12, 8, 8, 1))
  x = x.astype(np.float32)
  found = averages.renewed(
      averages.by_batch(model), variables, [x[:8], x[8:]])  # Not all alike.

  # What the first norm reads does not depend on how others normalise.
  read = np.asarray(model.stem(x), np.float64)
  norm = found['stem_norm']
  np.testing.assert_allclose(norm['mean'][...], read.mean((0, 1, 2)), 1e-4,
                             1e-4)
  np.testing.assert_allclose(norm['var'][...], read.var((0, 1, 2)), 1e-3)
  before, after = (jax.tree.leaves(nnx.split_state(tree, nnx.Param, ...)[0])
                   for tree in (variables, found))
  for one, other in zip(before, after):
    np.testing.assert_array_equal(one, other)
  assert jax.tree.structure(found) == jax.tree.structure(variables)
