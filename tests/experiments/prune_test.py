"""The command that prunes: what it leaves, how it goes on, mistakes."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments import prune
from experiments import train
from experiments.configs import one_shot
from experiments.pruning import cells
from experiments.records import checkpoints
from experiments.records import metrics
from experiments.reporting import results
from experiments.training import runs
import jaxsparse
from tests._lib import commands

# The config files are loaded by ml_collections.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning'),
    pytest.mark.usefixtures('launched')]


@pytest.fixture(name='run', scope='module')
def _run(launched, tmp_path_factory):
  """The directory of a run that has ended."""
  del launched
  path = tmp_path_factory.mktemp('runs') / 'run'
  train.train(commands.config('digits/dense', steps=30, batch_size=32,
                              log_every=30), str(path))
  return str(path)


def _config(run, **settings):
  config = one_shot.get_config()
  config.update(run=run, methods=('magnitude', 'wanda'), targets=('50%', '2:4'),
                seeds=(0,), refit='no', calibration=64, batch_size=32)
  config.update(settings)
  return config


@pytest.fixture(name='pruned', scope='module')
def _pruned(run, tmp_path_factory):
  path = tmp_path_factory.mktemp('pruned') / 'whole'
  config = _config(run)
  return config, path, prune.prune(config, str(path), command='the command')


def test_pruning_writes_every_result(pruned):
  config, path, (table, failures) = pruned
  assert not failures
  rows = metrics.read(path / 'cells.jsonl')
  assert [(row['method'], row['target']) for row in rows] == [
      ('dense', None), ('magnitude', '50%'), ('wanda', '50%'),
      ('magnitude', '2:4'), ('wanda', '2:4')]
  for row in rows[1:]:
    assert row['sparsity'] == 0.5 and row['seconds'] > 0
    assert row['errors'].keys() == {'layers/0/kernel', 'layers/1/kernel'}
    assert all(0 < error < 1 for error in row['errors'].values())
    assert row['accuracy'] <= 1
  assert (path / 'table.md').read_text() == table
  assert '| wanda ' in table and '`the command`' in table
  assert (path / 'quality.png').read_bytes().startswith(b'\x89PNG')
  assert json.loads((path / 'config.json').read_text()) == json.loads(
      config.to_json())
  assert not list(path.rglob('progress'))


def test_blocks_are_trained_after_a_method(run, tmp_path, monkeypatch):
  monkeypatch.setattr(cells, '_STEPS', 10)
  prune.prune(_config(
      run, methods=('magnitude', 'magnitude_reconstructed'), targets=('80%',)),
      str(tmp_path / 'pruned'))
  _, plain, more = metrics.read(tmp_path / 'pruned' / 'cells.jsonl')
  assert more['method'] == 'magnitude_reconstructed'
  assert more['sparsity'] == plain['sparsity'] and more['errors'] != (
      plain['errors'])


def test_channels_are_ordered_before_a_method(run, tmp_path):
  path = tmp_path / 'pruned'
  _, failures = prune.prune(_config(
      run, methods=('magnitude', 'magnitude_permuted'), targets=('2:4', '50%')),
      str(path))
  assert len(failures) == 1 and "For target '50%' there are none" in failures[0]
  _, plain, more, _ = metrics.read(path / 'cells.jsonl')
  assert more['sparsity'] == plain['sparsity'] == 0.5
  state = runs.restore(run).state
  before = state.params['layers'][1]['kernel'][...]

  def magnitude(row):  # Permuted weights have the same sum.
    saved = checkpoints.read(path / f'cells/{row}/2_4/seed_0/pruned')
    kernel, mask = (np.asarray(saved[name]['layers']['1']['kernel'])
                    for name in ('params', 'masks'))
    np.testing.assert_array_equal(
        mask.reshape(-1, 4, mask.shape[-1]).sum(1), 2)
    return np.abs(kernel).sum()

  assert magnitude('magnitude') < magnitude('magnitude_permuted') < (
      np.abs(before).sum())
  # Outputs are compared unit by unit: those of other units would be off by 2.
  assert all(0 < error < 0.5 for error in more['errors'].values())


def test_networks_of_several_seeds_are_pruned_each_from_its_own_weights(
    tmp_path):
  def retrain(seed, **settings):
    train.train(commands.config(
        'digits/dense', steps=2, batch_size=8, log_every=2, seed=seed,
        **settings), str(tmp_path / f'run_{seed}'))
  retrain(0)
  retrain(3)
  config = _config(str(tmp_path / 'run_{seed}'), seeds=(0, 3), targets=('2:4',),
                   methods=('magnitude', 'magnitude_permuted'))
  path = tmp_path / 'pruned'
  assert not prune.prune(config, str(path)).failures
  rows = metrics.read(path / 'cells.jsonl')
  weights = [row['weights'] for row in rows]
  assert weights == [weights[0]] * 3 + [weights[3]] * 3
  assert weights[0] != weights[3]
  for _, plain, more in (rows[:3], rows[3:]):
    assert 0.5 < plain['kept'] < more['kept'] < 1
  table = (path / 'table.md').read_text()
  assert f'weights {weights[0]}, {weights[3]}' in table
  assert '## Magnitude kept' in table
  # The same network, or none: one that was trained again has other weights.
  config.methods = ('magnitude', 'magnitude_permuted', 'wanda')
  shutil.rmtree(tmp_path / 'run_3')
  retrain(3, learning_rate=0.01)
  with pytest.raises(ValueError, match=f'seed 3 was .* {weights[3]}, and its'):
    prune.prune(config, str(path))


def test_checkpoint_holds_sparse_params_and_their_masks(pruned):
  _, path, _ = pruned
  saved = checkpoints.read(path / 'cells/wanda/2_4/seed_0/pruned')
  params, masks = saved['params'], saved['masks']
  assert masks['head'] == {'kernel': None, 'bias': None}
  kernel, mask = (np.asarray(tree['layers']['0']['kernel'])
                  for tree in (params, masks))
  assert mask.dtype == bool and not kernel[~mask].any()
  np.testing.assert_array_equal(
      mask.reshape(-1, 4, mask.shape[-1]).sum(1), 2)
  assert jax.tree.structure(params) != jax.tree.structure(masks)


def test_what_has_ended_is_not_done_again(pruned, monkeypatch):
  config, path, result = pruned
  monkeypatch.delattr(jaxsparse, 'one_shot')
  before = commands.hashes(path)
  assert prune.prune(config, str(path), command='the command') == result
  assert commands.hashes(path) == before


def test_killed_pruning_goes_on_after_its_last_kernel(
    run, pruned, monkeypatch, tmp_path):
  _, whole, _ = pruned
  save, stages = checkpoints.save, []

  def killed(directory, step, state):
    save(directory, step, state)
    stages.append(step)
    if len(stages) == 3:  # The first kernel of the second network.
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints, 'save', killed)
    with pytest.raises(KeyboardInterrupt):
      prune.prune(_config(run), str(tmp_path / 'killed'))
  log = tmp_path / 'killed/cells.jsonl'
  log.write_text(log.read_text() + '{"method": "wan')  # Half a row.

  resumed, one_shot_ = [], jaxsparse.one_shot

  def noted(*args, state=None, **kwargs):
    resumed.append(state is not None)
    return one_shot_(*args, state=state, **kwargs)
  monkeypatch.setattr(jaxsparse, 'one_shot', noted)
  prune.prune(_config(run), str(tmp_path / 'killed'))
  assert stages == [1, 2, 1]
  assert resumed == [True, False, False]
  theirs, ours = (
      [{**row, 'seconds': 0} for row in metrics.read(path / 'cells.jsonl')]
      for path in (whole, tmp_path / 'killed'))
  assert ours == theirs
  for cell in ('wanda/50', 'wanda/2_4'):
    digests = {checkpoints.digest(checkpoints.read(
        path / 'cells' / cell / 'seed_0/pruned'))
               for path in (whole, tmp_path / 'killed')}
    assert len(digests) == 1


def test_more_may_be_asked_for_and_other_settings_are_refused(
    run, monkeypatch, tmp_path, capsys):
  measured = []
  measure = cells.measure

  def noted(bench, cell, *args, **kwargs):
    measured.append((cell.row, cell.target, cell.seed))
    return measure(bench, cell, *args, **kwargs)
  monkeypatch.setattr(cells, 'measure', noted)
  config = _config(run, methods=('magnitude',), targets=('50%',),
                   save_pruned=False)
  prune.prune(config, str(tmp_path))
  assert not list(tmp_path.rglob('pruned'))
  config.methods = ('magnitude', 'wanda')
  prune.prune(config, str(tmp_path))
  assert measured == [
      ('dense', None, 0), ('magnitude', '50%', 0), ('wanda', '50%', 0)]
  assert 'warning' not in capsys.readouterr().err
  config.methods = ('wanda',)
  prune.prune(config, str(tmp_path))
  assert 'tell 1 of 3 runs, the first magnitude at 50% with seed 0. ' in (
      capsys.readouterr().err)
  before = commands.hashes(tmp_path)
  config.calibration = 32
  with pytest.raises(ValueError, match='calibration is 64 there and 32 here'):
    prune.prune(config, str(tmp_path))
  with pytest.raises(
      ValueError, match='must be a directory of experiments.prune'):
    prune.prune(config, run)
  assert commands.hashes(tmp_path) == before


def test_what_cannot_be_pruned_stops_no_other(run, monkeypatch, tmp_path):
  path = tmp_path / 'pruned'
  message = commands.launch(prune.main, monkeypatch, *commands.arguments(
      'digits/one_shot_resnet', path, f'--config.run={run}',
      '--config.methods=magnitude', '--config.targets="1:7,2:4"',
      '--config.refit=no', '--config.seeds=0'))
  first, failure = message.splitlines()
  assert first == 'error: not all could be pruned:'
  assert failure.startswith('magnitude 1:7 seed 0: ')
  assert 'to be a multiple of 7' in failure
  assert [row['target'] for row in metrics.read(path / 'cells.jsonl')] == [
      None, '2:4']
  (line,) = [line for line in (path / 'table.md').read_text().splitlines()
             if line.startswith('| magnitude')][:1]
  assert line.split('|')[2].strip() == 'n/a'


def test_networks_of_unknown_origin_are_left_alone(run, tmp_path):
  (tmp_path / 'cells.jsonl').write_text('mine')
  with pytest.raises(ValueError, match='cells.jsonl but no config.json'):
    prune.prune(_config(run), str(tmp_path))
  assert (tmp_path / 'cells.jsonl').read_text() == 'mine'


@pytest.mark.parametrize('override, parts', [
    ('--config.run=runs/nowhere', [
        'got \'runs/nowhere\'', 'python -m experiments.train']),
    ('--config.methods=wandaa', ['did you mean \'wanda\'?']),
    ('--config.targets=24', ['got \'24\'']),
    ('--config.source=wheel', ['unknown source \'wheel\'', 'magika, run']),
    ('--config.method=wanda', ['method']),
    ('--coordinator=auto', ['--coordinator is not read by this command']),
    ('--dry_run', ['--dry_run is not read by this command']),
    ('--charts=wandb', ['--charts is not read by this command']),
    ('--profile=2:3', ['--profile is not read by this command']),
])
def test_wrong_command_costs_one_line(override, parts, monkeypatch, tmp_path):
  message = commands.launch(
      prune.main, monkeypatch, *commands.arguments(
          'digits/one_shot_resnet', tmp_path / 'pruned', override))
  commands.assert_one_line(message, *parts)
  assert not list(tmp_path.iterdir())


def test_command_shows_the_table(run, monkeypatch, tmp_path, capsys):
  assert not commands.launch(prune.main, monkeypatch, *commands.arguments(
      'digits/one_shot_resnet', tmp_path / 'pruned', f'--config.run={run}',
      '--config.methods=magnitude', '--config.targets=2:4',
      '--config.refit=no', '--config.seeds=3', '--config.calibration=8'))
  shown = capsys.readouterr().out
  assert 'magnitude 2:4 seed 3: ' in shown
  assert (tmp_path / 'pruned/table.md').read_text() in shown
  assert '--config.seeds=3' in shown
  lines = results.read([tmp_path / 'pruned/results.jsonl']).lines
  assert [line['method'] for line in lines] == ['dense', 'magnitude']
  assert all(line['environment']['jax'] == jax.__version__ for line in lines)
