"""The command that trains: what a run leaves, and how it goes on."""

import json
import os
import shutil

import numpy as np
import pytest

from experiments import data
from experiments import train
from experiments.configs import default
from experiments.records import checkpoints
from experiments.records import metrics
from experiments.training import runs
from experiments.training import steps
from tests._lib import commands

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


# What a run leaves.


def test_run_writes_every_result(finished):
  config, path, result = finished
  assert json.loads((path / 'config.json').read_text()) == json.loads(
      config.to_json())
  assert json.loads((path / 'dataset.json').read_text()) == {
      'dataset': 'digits', 'fingerprint': data.load(config).fingerprint}
  assert [row['step'] for row in result.rows] == [2, 4, 6]
  assert metrics.read(path / 'metrics.jsonl') == result.rows
  assert all(row['sparsity'] == 0.5 for row in result.rows)
  assert all(0 <= row['accuracy'] <= 1 and row['loss'] > 0
             for row in result.rows)
  for picture in ('training.png', 'mask.png'):
    assert (path / picture).read_bytes().startswith(b'\x89PNG')
  assert sorted(os.listdir(path / 'checkpoints')) == ['3', '6']
  summary = (path / 'summary.txt').read_text()
  assert summary == result.summary
  assert 'layers/0/kernel' in summary
  assert 'with 50.0% of the prunable weights pruned' in summary


def test_checkpoint_holds_params_and_masks_that_belong_together(finished):
  _, path, result = finished
  expected = steps.sparse(result.state).params
  params = runs.load(str(path))
  assert checkpoints.digest(params) == checkpoints.digest(expected)
  kernel = np.asarray(params['layers'][0]['kernel'][...])
  groups = (kernel != 0).reshape(-1, 4, kernel.shape[-1])
  np.testing.assert_array_equal(groups.sum(1), 2)


def test_finished_run_started_again_changes_nothing(finished):
  config, path, result = finished
  before = commands.hashes(path)
  again = train.train(config, str(path))
  assert checkpoints.digest(again.state) == checkpoints.digest(result.state)
  assert again.rows == result.rows
  assert commands.hashes(path) == before


@pytest.mark.usefixtures('undrawn')
def test_python_waits_for_steps_that_are_under_way(monkeypatch, tmp_path):
  """So that a signal is heard soon, and a bar tells what has been computed."""
  most, waited, create = [], [], runs.create

  class Loss:
    def __init__(self, loss):
      self.loss = loss

    def block_until_ready(self):
      waited.append(self)

    def __float__(self):
      return float(self.loss)

  def observed(*args):
    run, dataset = create(*args)
    computed = []

    def step(state, batch):
      most.append(len(computed) - len(waited))
      state, loss = run.train(state, batch)
      computed.append(loss)
      return state, Loss(loss)
    return run._replace(train=step), dataset
  monkeypatch.setattr(runs, 'create', observed)
  train.train(commands.config('digits/dense', steps=9, batch_size=4,
                              log_every=9), str(tmp_path / 'run'))
  assert most == [0, 1, 2, 2, 2, 2, 2, 2, 2]


@pytest.mark.usefixtures('undrawn')
def test_lock_keeps_the_zeros_of_another_run(finished, tmp_path):
  _, path, result = finished
  config = default.get_config()
  config.update(method='lock', steps=2, batch_size=16, init_from=str(path))
  locked = train.train(config, str(tmp_path / 'lock'))
  before, after = (
      steps.sparse(state).params['layers'][0]['kernel'][...]
      for state in (result.state, locked.state))
  np.testing.assert_array_equal(before == 0, after == 0)
  assert (before != after).any()


@pytest.mark.usefixtures('undrawn')
def test_language_model_learns_and_is_judged_in_bits_per_byte(tmp_path):
  config = commands.config(
      'python_source/sr_ste_2_4', batch_size=4, width=16, context=16,
      test_examples=6, steps=30, log_every=15)
  result = train.train(config, str(tmp_path / 'run'))
  first, last = result.rows
  assert first.keys() == {
      'step', 'loss', 'bits_per_byte', 'sparsity', 'train_flops', 'flips',
      'explored', 'noise_kept', 'noise_pruned', 'second_kept', 'second_pruned'}
  assert last['train_flops'] == 2 * first['train_flops'] > 0
  assert last['bits_per_byte'] < first['bits_per_byte'] < 9
  assert last['sparsity'] == 0.5
  shown = f'Validation loss {last["bits_per_byte"]:.3f} bits/byte at step 30'
  assert shown in result.summary


# Resumption.


@pytest.mark.usefixtures('undrawn')
def test_killed_run_ends_bit_identical(tmp_path):
  settings = dict(steps=200, log_every=5, save_every=20, every=10)
  config = commands.config('digits/rigl_90', **settings)
  whole = train.train(config, str(tmp_path / 'whole'))

  killed = tmp_path / 'killed'
  process = commands.python('experiments.train', *commands.arguments(
      'digits/rigl_90', killed, *(
          f'--config.{key}={value}' for key, value in settings.items())))
  log = killed / 'metrics.jsonl'
  commands.wait_for_rows(process, killed, 11)  # Step 55: past two checkpoints.
  commands.kill(process)
  assert 11 <= len(metrics.read(log)) < 40
  start, _ = checkpoints.restore(
      killed / 'checkpoints', runs.create(config)[0].init(None))
  assert 40 <= start < 200

  resumed = train.train(config, str(killed))
  assert checkpoints.digest(resumed.state) == checkpoints.digest(whole.state)
  assert log.read_bytes() == (tmp_path / 'whole/metrics.jsonl').read_bytes()
  saved = [checkpoints.restore(path / 'checkpoints', whole.state)
           for path in (tmp_path / 'whole', killed)]
  assert saved[0][0] == saved[1][0] == 200
  assert checkpoints.digest(saved[0][1]) == checkpoints.digest(saved[1][1])


@pytest.mark.usefixtures('undrawn')
def test_run_killed_before_its_first_checkpoint_starts_again(
    finished, tmp_path):
  config, path, result = finished
  copy = tmp_path / 'run'
  copy.mkdir()
  shutil.copy(path / 'config.json', copy)
  (copy / 'checkpoints' / 'partial' / 'state').mkdir(parents=True)
  lines = (path / 'metrics.jsonl').read_text()
  (copy / 'metrics.jsonl').write_text(lines[:len(lines) // 2])
  again = train.train(config, str(copy))
  assert checkpoints.digest(again.state) == checkpoints.digest(result.state)
  assert (copy / 'metrics.jsonl').read_text() == lines
  assert not (copy / 'checkpoints' / 'partial').exists()


@pytest.mark.usefixtures('undrawn')
def test_run_with_running_averages_killed_ends_bit_identical(
    monkeypatch, tmp_path):
  config = commands.config(
      'digits/sr_ste_2_4', model='vgg', width=4, depth=11, steps=4,
      log_every=2, save_every=2, batch_size=8, optimizer='sgd',
      learning_rate_schedule='steps', observe=False)
  whole = train.train(config, str(tmp_path / 'whole'))
  commands.train_until_killed(
      monkeypatch, config, tmp_path / 'killed', at=4)
  again = train.train(config, str(tmp_path / 'killed'))
  assert checkpoints.digest(again.state) == checkpoints.digest(whole.state)
  assert again.rows == whole.rows
  loaded = runs.load(str(tmp_path / 'whole'))
  assert checkpoints.digest(loaded) == checkpoints.digest(
      steps.variables(steps.sparse(whole.state)))
  assert (checkpoints.digest(runs.create(config)[0].init(loaded).averages)
          == checkpoints.digest(whole.state.averages))
