"""The launcher: results, resumption and what a wrong command does."""

import ast
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from absl import app
from absl import flags
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from experiments import compare
from experiments import data
from experiments import models
from experiments import train
from experiments._utils import launch
from experiments._utils import names
from experiments.configs import default
from experiments.data import dataset as datasets
from experiments.records import checkpoints
from experiments.records import metrics
from experiments.reporting import report
from experiments.training import channels
from experiments.training import methods
from experiments.training import steps
import jaxsparse
from tests import data_files

# The config files are loaded by ml_collections.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning'),
    pytest.mark.usefixtures('launched')]

_ROOT = pathlib.Path(__file__).parent.parent
_CONFIGS = sorted(
    path for path in (_ROOT / 'experiments' / 'configs').glob('*.py')
    if path.stem not in ('__init__', 'default')
    and not path.stem.startswith('sweep_'))  # Those have their own tests.


def _config(name, **overrides):
  namespace = {}
  exec((_ROOT / f'experiments/configs/{name}.py').read_text(), namespace)  # pylint: disable=exec-used
  config = namespace['get_config']()
  config.update(overrides)
  return config


def _hashes(path):
  return {str(file): hashlib.sha256(file.read_bytes()).hexdigest()
          for file in sorted(path.rglob('*')) if file.is_file()}


def _command(name, workdir, *overrides):
  return ['-m', 'experiments.train',
          f'--config=experiments/configs/{name}.py', f'--workdir={workdir}',
          *overrides]


def _python(args, **kwargs):
  return subprocess.Popen(
      [sys.executable, *args], cwd=_ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


def _launch(monkeypatch, *args):
  """Runs the launcher in this process; returns what it exits with."""
  monkeypatch.chdir(_ROOT)
  monkeypatch.setattr(sys, 'argv', ['train', *map(str, args)])
  flags.FLAGS.unparse_flags()
  for name in [name for name in flags.FLAGS if name.startswith('config.')]:
    delattr(flags.FLAGS, name)  # The last launch's overrides.
  with pytest.raises(SystemExit) as exit_:
    app.run(train.main, flags_parser=launch.parse)
  return exit_.value.code


@pytest.fixture(scope='module', name='finished')
def _finished(tmp_path_factory):
  """A short run that has ended: its config, directory and result."""
  path = tmp_path_factory.mktemp('runs') / 'finished'
  config = _config('sr_ste_2_4', steps=6, log_every=2, save_every=3,
                   batch_size=16)
  return config, path, train.train(config, str(path))


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
  params = train.load(str(path))
  assert checkpoints.digest(params) == checkpoints.digest(expected)
  kernel = np.asarray(params['layers'][0]['kernel'][...])
  groups = (kernel != 0).reshape(-1, 4, kernel.shape[-1])
  np.testing.assert_array_equal(groups.sum(1), 2)


def test_finished_run_started_again_changes_nothing(finished):
  config, path, result = finished
  before = _hashes(path)
  again = train.train(config, str(path))
  assert checkpoints.digest(again.state) == checkpoints.digest(result.state)
  assert again.rows == result.rows
  assert _hashes(path) == before


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


# Resumption.


def test_killed_run_ends_bit_identical(tmp_path):
  settings = dict(steps=400, log_every=5, save_every=40, every=10)
  config = _config('rigl_90', **settings)
  whole = train.train(config, str(tmp_path / 'whole'))

  killed = tmp_path / 'killed'
  process = _python(_command('rigl_90', killed, *(
      f'--config.{key}={value}' for key, value in settings.items())))
  log = killed / 'metrics.jsonl'
  while len(metrics.read(log)) < 21:  # Step 105: past two checkpoints.
    assert process.poll() is None, process.communicate()
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert 21 <= len(metrics.read(log)) < 80
  start, _ = checkpoints.restore(
      killed / 'checkpoints', _run(config).init(None))
  assert 80 <= start < 400

  resumed = train.train(config, str(killed))
  assert checkpoints.digest(resumed.state) == checkpoints.digest(whole.state)
  assert log.read_bytes() == (tmp_path / 'whole/metrics.jsonl').read_bytes()
  saved = [checkpoints.restore(path / 'checkpoints', whole.state)
           for path in (tmp_path / 'whole', killed)]
  assert saved[0][0] == saved[1][0] == 400
  assert checkpoints.digest(saved[0][1]) == checkpoints.digest(saved[1][1])


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


def _killed(monkeypatch, config, path, *, at):
  """Trains until a run is killed while it saves the checkpoint of a step."""
  save = checkpoints.save

  def killed(directory, step, state):
    if step == at:
      raise KeyboardInterrupt
    save(directory, step, state)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints, 'save', killed)
    with pytest.raises(KeyboardInterrupt):
      train.train(config, str(path))


def test_run_with_running_averages_killed_ends_bit_identical(
    monkeypatch, tmp_path):
  config = _config('sr_ste_2_4', model='vgg', width=4, depth=11, steps=4,
                   log_every=2, save_every=2, batch_size=8, optimizer='sgd',
                   learning_rate_schedule='steps', observe=False)
  whole = train.train(config, str(tmp_path / 'whole'))
  _killed(monkeypatch, config, tmp_path / 'killed', at=4)
  again = train.train(config, str(tmp_path / 'killed'))
  assert checkpoints.digest(again.state) == checkpoints.digest(whole.state)
  assert again.rows == whole.rows
  loaded = train.load(str(tmp_path / 'whole'))
  assert checkpoints.digest(loaded) == checkpoints.digest(
      steps.variables(steps.sparse(whole.state)))
  assert (checkpoints.digest(_run(config).init(loaded).averages)
          == checkpoints.digest(whole.state.averages))


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  for step in (2, 4, 6):
    metrics.append(path, {'step': step})
  with path.open('a') as file:
    file.write('{"step": 8, "lo')  # What a killed run may leave.
  metrics.truncate(path, 4)
  assert metrics.read(path) == [{'step': 2}, {'step': 4}]
  assert path.read_text() == '{"step": 2}\n{"step": 4}\n'


def _run(config):
  dataset = data.load(config)
  tx = methods.create(config, lambda: steps.ties(config, dataset))
  return steps.create(config, tx, dataset)


# Another order of channels.


_PERMUTING = dict(model='mlp', steps=8, batch_size=16, log_every=5,
                  save_every=3, permute_budget=50)


@pytest.fixture(scope='module', name='permuted')
def _permuted(tmp_path_factory):
  """A run that has ended and permuted channels: config, directory, result."""
  path = tmp_path_factory.mktemp('runs') / 'permuted'
  config = _config('permute_prune_2_4', **_PERMUTING)
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
  _killed(monkeypatch, config, tmp_path, at=at)
  again = train.train(config, str(tmp_path))
  assert checkpoints.digest(again.state) == checkpoints.digest(result.state)
  for name in ('metrics.jsonl', 'summary.txt'):
    assert (tmp_path / name).read_bytes() == (path / name).read_bytes()


def _permuting(config):
  run, dataset = _run(config), data.load(config)
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
  config = _config('permute_prune_2_4', **{**_PERMUTING, **settings})
  with pytest.raises(ValueError, match=told):
    _permuting(config)


_DYNAMIC = ('set', 'dsr', 'snfs', 'rigl', 'rigl_itop', 'mest', 'chase')
_MOVING = dict(width=16, steps=8, every=2, sparsity=0.8, observe=False)


def _dynamic(method, **overrides):
  config = _config('chase_90', model='mlp', depth=2, batch_size=16)
  config.update(method=method, prune_every=2, **_MOVING, **overrides)
  return config


@pytest.mark.parametrize('method', _DYNAMIC)
def test_dynamic_method_moves_connections_and_ends_at_its_sparsity(method):
  config = _dynamic(method)
  dataset, run = data.load(config), _run(config)
  state, masks, shares = run.init(None), [], []
  for step in range(config.steps + 1):
    if step:
      state, loss = run.train(state, dataset.train(0, step, 16))
      assert np.isfinite(loss)
    mask = [layer['kernel'] for layer in jaxsparse.get_masks(
        state.opt_state)['layers'].values()]
    masks.append(np.concatenate([np.ravel(m[...]) for m in mask]))
    shares.append(steps.sparsity(state))
  weights = np.concatenate([
      np.ravel(layer['kernel'][...])
      for layer in state.params['layers'].values()])
  assert weights[masks[-1]].any() and not weights[~masks[-1]].any()
  assert (masks[0] != masks[-1]).any()
  assert shares[-1] == pytest.approx(0.8, abs=1e-3)
  surplus = 0.05 if method in ('mest', 'chase') else 0.
  assert all(0.8 - surplus - 1e-3 <= share <= 0.8 + 1e-3 for share in shares)


@pytest.mark.parametrize('method', ['sr_ste', *_DYNAMIC])
def test_one_compiled_train_step_serves_all_seeds(method):
  texts = set()
  for seed in (0, 1):
    config = (_config('sr_ste_2_4', seed=seed) if method == 'sr_ste'
              else _dynamic(method, seed=seed))
    batch = data.load(config).train(seed, 1, 4)
    run = _run(config)
    texts.add(run.train.lower(run.init(None), batch).as_text())
  assert len(texts) == 1


def test_a_train_step_leaves_what_a_run_began_with():
  config = _config('sr_ste_2_4')
  batch = data.load(config).train(0, 1, 4)
  run = _run(config)
  given = jax.tree.map(jnp.copy, run.init(None).params)
  for params in (None, given):
    first, again = (run.train(run.init(params), batch) for _ in range(2))
    assert checkpoints.digest(first) == checkpoints.digest(again)


# Dense optimizers.


def test_sgd_has_momentum_an_l2_penalty_and_steps_of_learning_rate():
  config = default.get_config()
  config.update(optimizer='sgd', learning_rate=.1, momentum=.8, steps=8,
                weight_decay=.01, learning_rate_schedule='steps')
  tx = methods.optimizer(config)
  w = expected = np.asarray([1., -2.], np.float32)
  state, velocity = tx.init(w), 0.
  for rate in (.1, .1, .1, .1, .01, .01, .001, .001):
    gradient = np.sin(expected)
    velocity = .8 * velocity + gradient + .01 * expected
    expected = expected - rate * velocity
    updates, state = tx.update(jnp.sin(w), state, w)
    w = w + updates
  np.testing.assert_allclose(w, expected, rtol=1e-5)


# Measurements.


def test_measured_are_all_examples_and_none_that_fill_up_a_batch(finished):
  config, _, result = finished
  dataset = data.load(config)
  whole = list(dataset.test())
  state = result.state
  model = nnx.merge(nnx.graphdef(models.create(
      config, dataset, rngs=nnx.Rngs(0))), steps.sparse(state).params)
  answers = np.concatenate([model(batch.inputs).argmax(-1) for batch in whole])
  labels = np.concatenate([batch.labels for batch in whole])
  assert (labels >= 0).sum() == 500 < len(labels)
  measured = _run(config).measure(state, whole)
  assert measured['accuracy'] == np.mean((answers == labels)[labels >= 0])


def test_bits_per_byte_are_the_mean_over_all_bytes():
  config = _config('lm_dense', width=8, depth=1, context=4, test_examples=5)
  run = _run(config)
  state = run.init(None)
  head = state.params['head']  # As good as a fair coin for each bit.
  params = {**state.params, 'head': jax.tree.map(jnp.zeros_like, head)}
  state = state._replace(params=nnx.State(params))
  batch = next(data.load(config).test())
  batch.labels[1] = datasets.PADDING
  assert run.measure(state, [batch, batch])['bits_per_byte'] == pytest.approx(8)


# Configs.


_WRITERS = {'cifar10': data_files.cifar10, 'cifar100': data_files.cifar100,
            'imagenet': data_files.imagenet, 'glue/sst2': data_files.glue}
# Depths; 2 where any will do.
_SHALLOW = {'vgg': 11, 'resnet20': 8, 'resnet50': 26}


@pytest.fixture(name='small')
def _small(tmp_path):
  """A function that returns a config with small sizes, its data at hand."""
  def small(name, **overrides):
    config = _config(name, batch_size=4, width=16, context=16, image_size=16,
                     test_examples=6)
    if config.dataset in _WRITERS:
      _WRITERS[config.dataset](tmp_path / 'data')
      config.data_dir = str(tmp_path / 'data')
    if config.depth or config.model in _SHALLOW:
      config.depth = _SHALLOW.get(config.model, 2)
    config.update(overrides)
    return config
  return small


@pytest.mark.parametrize('path', _CONFIGS, ids=lambda path: path.stem)
def test_every_config_takes_a_step(path, small):
  config = small(path.stem)
  dataset = data.load(config)
  run = _run(config)
  state = run.init(None)
  before = checkpoints.digest(state.params)
  for step in (1, 2):  # The learning rate of the first is zero.
    state, loss = run.train(state, dataset.train(config.seed, step, 4))
  assert np.isfinite(loss)
  assert checkpoints.digest(state.params) != before


@pytest.mark.parametrize('path', _CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_its_command_and_accuracy(path):
  doc = ast.get_docstring(ast.parse(path.read_text()))
  command = ' '.join(doc.replace('\\\n', '').split())
  assert ('python -m experiments.train '
          f'--config=experiments/configs/{path.name} '
          f'--workdir=runs/{path.stem}') in command
  if _config(path.stem).dataset in _WRITERS:
    assert '--config.data_dir=DIR' in command
    assert 'No accuracy is stated: the data set is not shipped.' in doc
  else:
    assert re.search('mean of [35] seeds|of one seed', doc)


def test_language_model_learns_and_is_judged_in_bits_per_byte(small, tmp_path):
  config = small('lm_sr_ste_2_4', steps=30, log_every=15)
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


# Mistakes: one line, an exit code, nothing overwritten.


def _assert_one_line(message, *parts):
  assert message.startswith('error: ') and '\n' not in message
  for part in parts:
    assert part in message


@pytest.mark.parametrize('override, parts', [
    ('--config.learning_rat=1', ['learning_rat', '"learning_rate"']),
    ('--config.steps=many', ['steps', 'many']),
    ('--config.steps=0', ['config.steps must be at least 1']),
    ('--config.method=sr_st', ['did you mean \'sr_ste\'?']),
    ('--config.method=rigl', ['does not set: ']),
    ('--config.method=lock', ['--config.init_from']),
    ('--config.model=lm', ['language modelling', 'use mlp or resnet or vit']),
    ('--config.dataset=cifar10', ['--config.data_dir', 'www.cs.toronto.edu']),
    ('--config.seed=-1', ['config.seed must be at least 0']),
    ('--config.model=resnett', ['did you mean \'resnet\'?']),
    ('--config.optimizer=sdg', ['optimizer', 'did you mean \'sgd\'?']),
    ('--config.learning_rate_schedule=step', ['did you mean \'steps\'?']),
    ('--config.dataset=digit', ['did you mean \'digits\'?']),
    ('--config.sparse=encoder/kernel', ['encoder/kernel']),
    ('--config.m=7', ['7']),
    ('--config.permute_budget=-1', ['permute_budget must be at least 0']),
    ('--config.permute_budget=9', ['\'sr_ste\' does not', 'retrain']),
    ('--wrkdir=x', ['wrkdir', 'Did you mean: workdir']),
    ('surplus', ['surplus']),
])
def test_wrong_flag_costs_one_line(override, parts, monkeypatch, tmp_path):
  message = _launch(
      monkeypatch, *_command('sr_ste_2_4', tmp_path / 'run')[2:], override)
  _assert_one_line(message, *parts)
  assert not list(tmp_path.iterdir())


def test_unwritable_workdir_costs_one_line_and_an_exit_code(tmp_path):
  (tmp_path / 'file').write_text('mine')
  process = _python(_command('sr_ste_2_4', tmp_path / 'file' / 'run'))
  _, errors = process.communicate()
  assert process.returncode == 1
  assert len(errors.splitlines()) == 1
  _assert_one_line(errors.strip(), 'Not a directory', 'file/run')
  assert (tmp_path / 'file').read_text() == 'mine'


def test_workdir_of_another_config_is_left_alone(finished, monkeypatch):
  _, path, _ = finished
  before = _hashes(path)
  message = _launch(monkeypatch, *_command('rigl_90', path)[2:])
  _assert_one_line(message, 'another config',
                   'method is \'sr_ste\' there and \'rigl\' here')
  assert _hashes(path) == before


def test_workdir_of_other_data_is_left_alone(small, tmp_path):
  data_files.python_source(tmp_path / 'source')
  config = small('lm_dense', steps=1, data_dir=str(tmp_path / 'source'))
  workdir = tmp_path / 'run'
  train.train(config, str(workdir))
  before = _hashes(workdir)
  (tmp_path / 'source' / 'new.py').write_text('new = True\n')
  with pytest.raises(ValueError, match='a run on other data: \'python_source'):
    train.train(config, str(workdir))
  assert _hashes(workdir) == before


def test_results_of_unknown_origin_are_left_alone(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('mine')
  with pytest.raises(ValueError, match='metrics.jsonl but no config.json'):
    train.train(_config('sr_ste_2_4'), str(tmp_path))
  assert _hashes(tmp_path).keys() == {str(tmp_path / 'metrics.jsonl')}
  assert (tmp_path / 'metrics.jsonl').read_text() == 'mine'


def _damage_each_file(path):
  """Yields after each of several ways to damage each file, then mends it."""
  for file in [file for file in path.rglob('*') if file.is_file()]:
    content = file.read_bytes()
    for damaged in (content[:-1] + b'?', content[:len(content) // 2], None):
      if damaged == content:  # An empty file cannot be cut.
        continue
      file.unlink()
      if damaged is not None:
        file.write_bytes(damaged)
      yield file
      file.write_bytes(content)


def test_every_damage_to_a_checkpoint_is_found_out(finished, tmp_path):
  config, path, _ = finished
  copy = shutil.copytree(path / 'checkpoints', tmp_path / 'checkpoints')
  state = _run(config).init(None)
  tried = 0
  for _ in _damage_each_file(copy / '6'):
    with pytest.raises(ValueError, match='checkpoints/6 is damaged'):
      checkpoints.restore(copy, state)
    tried += 1
  assert tried > 10
  assert checkpoints.restore(copy, state)[0] == 6  # All mended.


def test_damaged_run_costs_one_line(finished, monkeypatch, tmp_path):
  _, path, _ = finished
  copy = shutil.copytree(path, tmp_path / 'run')
  next(_damage_each_file(copy / 'checkpoints' / '6'))
  before = _hashes(copy)
  overrides = ['--config.steps=6', '--config.log_every=2',
               '--config.save_every=3', '--config.batch_size=16']
  arguments = _command('sr_ste_2_4', copy, *overrides)[2:]
  _assert_one_line(_launch(monkeypatch, *arguments), 'checkpoints/6 is damaged')
  assert _hashes(copy) == before

  shutil.rmtree(copy / 'checkpoints' / '6')  # As the message says.
  assert not _launch(monkeypatch, *arguments)
  assert ((copy / 'metrics.jsonl').read_bytes()
          == (path / 'metrics.jsonl').read_bytes())


def test_checkpoint_of_another_model_names_the_leaf(finished):
  config, path, _ = finished
  config = config.copy_and_resolve_references()
  config.width = 16
  widths = r'another model.*\[32, 10\] there and \S*\[16, 10\]'
  with pytest.raises(ValueError, match=widths):
    checkpoints.restore(path / 'checkpoints', _run(config).init(None))


# Small pieces.


def test_digest_sees_every_bit_and_shape():
  tree = {'w': jnp.arange(4.), 'key': jax.random.key(0), 'dense': None}
  changed = [
      {**tree, 'w': tree['w'].at[2].add(1e-6)},
      {**tree, 'w': tree['w'].reshape(2, 2)},
      {**tree, 'key': jax.random.key(1)}]
  digests = {checkpoints.digest(other) for other in [tree, *changed]}
  assert len(digests) == 4
  assert checkpoints.digest(dict(tree)) in digests


def test_comparison_pools_seeds_and_names_what_differs(tmp_path):
  runs = [('sr_ste', 0, .9), ('sr_ste', 1, .92), ('dense', 0, .95)]
  paths = []
  for method, seed, accuracy in runs:
    path = tmp_path / f'{method}_{seed}'
    path.mkdir()
    (path / 'config.json').write_text(json.dumps(
        {'method': method, 'model': 'mlp', 'steps': 3, 'seed': seed}))
    metrics.append(path / 'metrics.jsonl', {
        'step': 3, 'loss': 1., 'accuracy': accuracy,
        'sparsity': .5 if method == 'sr_ste' else 0.})
    paths.append(str(path))
  # Two values a distance d apart: t(0.975, 1 degree) = 12.706, times d / 2.
  assert compare.table(paths).splitlines() == [
      'runs  sparsity  accuracy       config',
      '2     50.0%     91.0% +- 12.7  sr_ste',
      '1     0.0%      95.0%          dense']
  (tmp_path / 'sr_ste_1' / 'dataset.json').write_text(
      '{"dataset": "digits", "fingerprint": "other"}')
  assert [line.split()[-2:] for line in compare.table(paths).splitlines()[1:]
         ] == [['sr_ste', 'data=None'], ['sr_ste', 'data=other'],
               ['dense', 'data=None']]
  (tmp_path / 'dense_0' / 'metrics.jsonl').unlink()
  with pytest.raises(ValueError, match='dense_0 has not ended'):
    compare.table(paths)


def test_comparison_shows_each_run_by_its_own_metric(tmp_path):
  for name, values in (('lm', {'bits_per_byte': 2.5}),
                       ('vit', {'accuracy': .5})):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'config.json').write_text(json.dumps(
        {'method': 'dense', 'model': name, 'steps': 3, 'seed': 0}))
    metrics.append(tmp_path / name / 'metrics.jsonl',
                   {'step': 3, 'loss': 1., 'sparsity': 0., **values})
  assert compare.table([tmp_path / 'lm', tmp_path / 'vit']).splitlines() == [
      'runs  sparsity  accuracy, bits_per_byte  config',
      '1     0.0%      2.500 bits/byte          dense model=lm',
      '1     0.0%      50.0%                    dense model=vit']


def test_pictures_show_what_else_was_measured(tmp_path):
  rows = [{'step': step, 'loss': 1 / step, 'bits_per_byte': 8 / step,
           'sparsity': .5} for step in (1, 2, 3)]
  sizes = []
  for more in ({}, {'flips': .1}, {'noise_kept': .1, 'noise_pruned': .2}):
    rows[-1] = {**rows[-1], **more}
    report.plot_training(tmp_path / 'plot.png', rows, title='title')
    with Image.open(tmp_path / 'plot.png') as picture:
      sizes.append(picture.height)
  assert sizes[0] < sizes[1] < sizes[2]  # A panel more each time.


def test_unknown_name_is_an_error_that_lists_the_names():
  with pytest.raises(ValueError, match='There are: rigl, set'):
    names.lookup({'set': 1, 'rigl': 2}, 'quux', kind='method')
