"""A network with batch norms is pruned as if they had been renewed."""

import jax
import numpy as np
import pytest

from experiments import train
from experiments.configs import one_shot
from experiments.pruning import cells
from experiments.pruning import networks
from experiments.pruning import plan
from experiments.records import checkpoints
from tests._lib import commands

pytestmark = pytest.mark.usefixtures('launched')

_STEM = 'stem'  # Its norm follows.


@pytest.fixture(name='network', scope='module')
def _network(launched, tmp_path_factory):
  del launched
  path = tmp_path_factory.mktemp('runs') / 'run'
  train.train(commands.config('digits/dense_small_resnet', steps=1,
                              batch_size=8, width=4), str(path))
  config = one_shot.get_config()
  config.update(run=str(path), calibration=32, judged=64, batch_size=16)
  return networks.load(config, 0)


def _scaled(network, factor):
  """A network whose first norm undoes the factor, if it has new averages."""
  stem = network.params[_STEM]
  return network._replace(params={
      **network.params, _STEM: {**stem, 'kernel': stem['kernel'] * factor}})


def test_norms_by_the_batch_undo_scales_and_stale_averages_do_not(network):
  inputs, scaled = network.draw(0).calibration[0], _scaled(network, 64.)
  expected = network.by_batch(network.params, inputs)
  np.testing.assert_allclose(  # The norm adds a little to the variance.
      scaled.by_batch(scaled.params, inputs), expected, rtol=1e-2, atol=1e-2)
  settled = scaled.settle(scaled.params, [inputs])
  np.testing.assert_allclose(
      scaled.apply(settled, inputs), expected, rtol=1e-2, atol=1e-2)
  with pytest.raises(AssertionError):
    np.testing.assert_allclose(
        scaled.apply(scaled.params, inputs), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('method', ['wanda', 'sparsegpt'])
def test_averages_of_the_dense_network_choose_no_weights(
    network, method, tmp_path):
  """64 times the variance of the stem must not change what is pruned."""
  cell = plan.Cell(method, '50%', False, 0)
  masks = []
  for one in (network, _scaled(network, 64.)):
    bench = cells.prepare(one, 0)
    # A power of two keeps masks bit for bit but for the norm's epsilon.
    row = cells.measure(bench, cell, tmp_path / str(len(masks)), save=True)
    assert row['sparsity'] == pytest.approx(0.5, abs=0.01)
    saved = checkpoints.read(tmp_path / str(len(masks)) / cells.PRUNED)
    masks.append(jax.tree.leaves(saved['masks']))
  same = [np.mean(a == b) for a, b in zip(*masks)]
  assert min(same) > 0.98
