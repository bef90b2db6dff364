"""Another order of channels, before the masks are made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train
from experiments.records import checkpoints
from experiments.training import channels
from experiments.training import runs
from tests._lib import commands

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]

_PERMUTING = dict(model='mlp', steps=8, batch_size=16, log_every=5,
                  save_every=3, permute_budget=50)


@pytest.fixture(scope='module', name='permuted')
def _permuted(tmp_path_factory):
  """A run that has ended and permuted channels: config, directory, result."""
  path = tmp_path_factory.mktemp('runs') / 'permuted'
  config = commands.config('digits/permute_prune_2_4', **_PERMUTING)
  return config, path, train.train(config, str(path))


def test_run_tells_what_another_order_kept(permuted):
  _, path, result = permuted
  assert [row['step'] for row in result.rows] == [4, 5, 8]
  row = result.rows[0]
  assert 0.5 < row['kept_before'] < row['kept_after'] < 1
  assert row['sparsity'] == 0.5  # It was pruned in this step.
  told = f'from {row["kept_before"]:.1%} to {row["kept_after"]:.1%}'
  assert told in (path / 'summary.txt').read_text()


@pytest.mark.parametrize('at', [6, 8])  # Goes on before, or after, step 4.
def test_run_killed_around_its_permutation_ends_bit_identical(
    permuted, at, monkeypatch, tmp_path):
  config, path, result = permuted
  commands.train_until_killed(monkeypatch, config, tmp_path, at=at)
  again = train.train(config, str(tmp_path))
  assert checkpoints.digest(again.state) == checkpoints.digest(result.state)
  for name in ('metrics.jsonl', 'summary.txt'):
    assert (tmp_path / name).read_bytes() == (path / name).read_bytes()


def _permuting(config):
  run, dataset = runs.create(config)
  state = run.init(None)
  return run, dataset, state, channels.create(config, run, state, dataset)


def test_another_order_leaves_training_as_it_was(permuted):
  config, _, _ = permuted
  run, dataset, state, permuting = _permuting(config)
  batch = dataset.train(0, 1, 16)
  for _ in range(2):  # So that the optimizer has something to remember.
    state, _ = run.train(state, batch)
  moved, _ = permuting.permute(state)
  kernels = [s.params['layers'][1]['kernel'][...] for s in (state, moved)]
  assert (kernels[0] != kernels[1]).any()
  outputs = [run.apply(run.train(s, batch)[0].params, batch.inputs)
             for s in jax.tree.map(jnp.copy, (state, moved))]
  np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-4)


def test_interrupted_search_ends_the_run(permuted, monkeypatch):
  config, _, _ = permuted
  _, _, state, permuting = _permuting(config)

  def interrupted(sweeps, **_):
    yield next(iter(sweeps))
    raise KeyboardInterrupt

  monkeypatch.setattr(channels.tqdm, 'tqdm', interrupted)
  with pytest.raises(KeyboardInterrupt):
    permuting.permute(state)


@pytest.mark.parametrize('settings, told', [
    (dict(steps=1), 'Train for at least 2 steps'),
    (dict(sparse='layers/0/kernel'), 'nothing to permute: .*layers/0/kernel')])
def test_permutation_that_would_do_nothing_is_told(settings, told):
  config = commands.config(
      'digits/permute_prune_2_4', **{**_PERMUTING, **settings})
  with pytest.raises(ValueError, match=told):
    _permuting(config)
