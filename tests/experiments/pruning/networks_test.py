"""Networks to prune: runs, a network of a wheel, their data."""

import jax
import numpy as np
import pytest

from experiments import data
from experiments import train
from experiments.configs import one_shot
from experiments.models import magika
from experiments.pruning import networks
from experiments.training import runs
from experiments.training import steps
from tests._lib import commands

pytestmark = pytest.mark.usefixtures('launched')


def _config(**settings):
  config = one_shot.get_config()
  config.update(settings)
  return config


@pytest.fixture(name='run', scope='module')
def _run(launched, tmp_path_factory):
  del launched
  path = tmp_path_factory.mktemp('runs') / 'run'
  train.train(commands.config('digits/dense', steps=1, batch_size=8), str(path))
  return str(path)


def test_a_run_is_a_network_without_flax_that_computes_the_same(run):
  network = networks.load(_config(run=run), 0)
  trained = runs.restore(run)
  inputs = trained.dataset.train(0, 1, 4).inputs
  np.testing.assert_array_equal(
      network.apply(network.params, inputs),
      trained.run.apply(steps.variables(trained.state), inputs))
  assert network.params.keys() == {'head', 'layers'}
  assert network.params['layers'].keys() == {'0', '1'}
  assert isinstance(network.params['head']['kernel'], jax.Array)
  assert network.sparse == r'layers/\d+/kernel'
  assert networks.load(_config(run=run, sparse='.*'), 0).sparse == '.*'
  assert network.by_batch is network.apply  # It has no norms.
  assert network.settle(network.params, [inputs]) is network.params


def test_a_seed_draws_what_is_calibrated_and_as_many_are_judged(run):
  network = networks.load(
      _config(run=run, calibration=20, batch_size=8, judged=300), 0)
  drawn = network.draw(0)
  assert [len(inputs) for inputs in drawn.calibration] == [8, 8, 4]
  assert sum((batch.labels >= 0).sum() for batch in drawn.judged) == 300
  other = network.draw(1)
  assert (other.calibration[0] != drawn.calibration[0]).any()
  np.testing.assert_array_equal(
      other.judged[0].inputs, drawn.judged[0].inputs)
  whole = networks.load(_config(run=run, judged=10_000), 0).draw(0)
  assert sum((batch.labels >= 0).sum() for batch in whole.judged) == 500


def test_fingerprints_see_weights_and_data(run, tmp_path):
  train.train(commands.config('digits/dense', steps=2, batch_size=8),
              str(tmp_path / 'other'))
  ours, other = (networks.load(_config(run=path), 0)
                 for path in (run, str(tmp_path / 'other')))
  assert ours.data == other.data == data.load(
      commands.config('digits/dense')).fingerprint
  assert ours.weights != other.weights


def test_each_seed_may_have_a_network_of_its_own(tmp_path):
  for seed in (0, 3):
    train.train(commands.config('digits/dense', steps=1, batch_size=8,
                                seed=seed), str(tmp_path / f'run_{seed}'))
  config = _config(run=str(tmp_path / 'run_{seed}'))
  first, other, again = (networks.load(config, seed) for seed in (0, 3, 0))
  assert first.data == other.data and first.weights != other.weights
  assert first.weights == again.weights
  with pytest.raises(ValueError, match="must .*, got '.*run_1'"):
    networks.load(config, 1)


def test_norms_of_pruned_weights_get_averages_of_their_own(tmp_path):
  train.train(
      commands.config('digits/dense_small_resnet', steps=1, batch_size=8,
                      width=2), str(tmp_path / 'run'))
  network = networks.load(_config(run=str(tmp_path / 'run')), 0)
  settled = network.settle(network.params, [network.draw(0).calibration[0]])
  assert (jax.tree.structure(settled)
          == jax.tree.structure(network.params))
  changed = {jax.tree_util.keystr(path, simple=True, separator='/')
             for (path, one), other in zip(
                 jax.tree.leaves_with_path(settled),
                 jax.tree.leaves(network.params))
             if (np.asarray(one) != np.asarray(other)).any()}
  assert {name.split('/')[-1] for name in changed} == {'mean', 'var'}


def test_magika_reads_files_and_seeds_draw_others(monkeypatch, tmp_path):
  shapes = {
      'embedding': {'kernel': (257, 1), 'bias': (1, 1, 1)},
      'conv_norm': {'scale': (1, 512, 1), 'bias': (1, 512, 1)},
      'conv': {'kernel': (5, 4, 8), 'bias': (1, 1, 8)},
      'head_norm': {'scale': (1, 8), 'bias': (1, 8)},
      'head': {'kernel': (8, 2), 'bias': (1, 2)}}
  params = jax.tree.map(lambda shape: jax.numpy.ones(shape), shapes,
                        is_leaf=lambda node: isinstance(node, tuple))
  monkeypatch.setattr(
      magika, 'load', lambda: magika.Magika(params, ('python', 'json')))
  for i in range(20):
    (tmp_path / f'{i}.py').write_text(f'value = {i}\n')
  network = networks.load(_config(
      source='magika', folders=(str(tmp_path),), calibration=5, judged=6,
      batch_size=4), 0)
  drawn = network.draw(0)
  assert [inputs.shape for inputs in drawn.calibration] == [
      (4, 2_048), (1, 2_048)]
  assert [batch.labels.tolist() for batch in drawn.judged] == [[0] * 6]
  assert (network.draw(1).judged[0].inputs != drawn.judged[0].inputs).any()
  assert network.apply(params, drawn.calibration[0]).shape == (4, 2)


@pytest.mark.parametrize('name', [None, 'nowhere', '.'])
def test_what_is_no_run_is_told(name, tmp_path):
  path = name and str(tmp_path / name)
  with pytest.raises(ValueError, match='must be the --workdir of a '
                                       'finished run of experiments.train'):
    networks.load(_config(run=path), 0)


def test_a_run_without_checkpoint_is_told(tmp_path):
  (tmp_path / 'config.json').write_text(
      commands.config('digits/dense').to_json())
  with pytest.raises(ValueError, match='must hold a checkpoint'):
    networks.load(_config(run=str(tmp_path)), 0)


def test_unknown_source_is_told():
  with pytest.raises(ValueError, match='did you mean \'magika\'?'):
    networks.load(_config(source='magica'), 0)
