"""Mistakes: one line, an exit code, nothing overwritten."""

import shutil

import pytest

from experiments import train
from tests._lib import commands
from tests._lib import data_files

# The config files are loaded by ml_collections.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning'),
    pytest.mark.usefixtures('launched')]


def _train(monkeypatch, name, workdir, *overrides):
  """Trains a config; returns what the command exits with."""
  return commands.launch(train.main, monkeypatch, *commands.arguments(
      name, workdir, *overrides))


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
    ('--config.seed=4294967296', ['seed', 'at most 4,294,967,295']),
    ('--config.steps=99999999999999999999', ['steps', 'at most 2,147,483,647']),
    (f'--config.steps={"9" * 300}', ['steps', '... (300 digits)']),
    ('--config.learning_rate=nan', ['learning_rate', 'got nan']),
    ('--config.learning_rate=inf', ['learning_rate must be a finite number']),
    ('--config.learning_rate=-1', ['learning_rate must be at least 0']),
    ('--config.weight_decay=-0.1', ['weight_decay must be at least 0']),
    ('--config.momentum=1.5', ['momentum', 'at most 1']),
    ('--config.decay=nan', ['config.decay must be a finite number']),
    ('--config.width=100000000', [
        'config.width=100,000,000', 'take 40,000,', 'GB, with gradients']),
    ('--config.depth=100000', ['config.depth=100,000', 'below 1,024']),
    ('--config.batch_size=1000000000', ['batch_size=1,000,000,000', 'GB']),
    ('--workdir=', ['--workdir must not be empty']),
    ('--charts=tensorbord', ['did you mean \'tensorboard\'?']),
    ('--profile=9:3', ['FIRST:LAST', '--profile=100:110']),
    ('--profile=9:9999999', ['--profile=9:9999999 should end at a step of']),
    ('--config=setup.py', ['must define get_config, so it is not run']),
    ('--config=README.md', ['must be a Python file']),
    ('--config=nowhere.py', ['must be a file']),
    ('--config.data_dir=/mine', ['ships with scikit-learn', '\'/mine\'']),
    ('--config=experiments/configs/digits/sweep_nm.py', [
        'config of a run needs method', 'experiments.sweep']),
    ('--config=experiments/configs/digits/rigl_90.py:x', ['get_config']),
    ('--config.model=resnett', ['did you mean \'resnet\'?']),
    ('--config.optimizer=sdg', ['optimizer', 'did you mean \'sgd\'?']),
    ('--config.learning_rate_schedule=step', ['did you mean \'steps\'?']),
    ('--config.dataset=digit', ['did you mean \'digits\'?']),
    ('--config.sparse=encoder/kernel', ['encoder/kernel']),
    ('--config.m=7', ['7']),
    ('--config.permute_budget=-1', ['permute_budget must be at least 0']),
    ('--config.permute_budget=9', ['config.method=\'sr_ste\'', 'retrain']),
    ('--config.mesh=data:3', ['has 3 devices, there are 8', 'data:8']),
    ('--config.mesh=date:8', ['did you mean \'data\'?']),
    ('--process=1', ['--coordinator=HOST:PORT']),
    ('--wrkdir=x', ['wrkdir', 'Did you mean: workdir']),
    ('surplus', ['surplus']),
])
def test_wrong_flag_costs_one_line(override, parts, monkeypatch, tmp_path):
  message = _train(
      monkeypatch, 'digits/sr_ste_2_4', tmp_path / 'run', override)
  commands.assert_one_line(message, *parts)
  assert not list(tmp_path.iterdir())


def test_settings_that_a_method_does_not_read_are_refused(
    monkeypatch, tmp_path):
  commands.assert_one_line(
      _train(monkeypatch, 'digits/rigl_90', tmp_path / 'run',
             '--config.transposable=true'), 'config.method=\'rigl\'')


def test_a_schedule_that_outlasts_the_run_is_told(
    monkeypatch, tmp_path, capfd):
  assert not _train(monkeypatch, 'digits/magnitude_90', tmp_path / 'run',
                    '--config.steps=2', '--config.end=100')
  assert ('warning: config.end=100 is after the last step, 2, so pruning does '
          'not reach its target') in capfd.readouterr().err


def test_unwritable_workdir_costs_one_line_and_an_exit_code(tmp_path):
  (tmp_path / 'file').write_text('mine')
  process = commands.python('experiments.train', *commands.arguments(
      'digits/sr_ste_2_4', tmp_path / 'file' / 'run'))
  _, errors = process.communicate()
  assert process.returncode == 1
  assert len(errors.splitlines()) == 1
  commands.assert_one_line(errors.strip(), 'Not a directory', 'file/run')
  assert (tmp_path / 'file').read_text() == 'mine'


def test_workdir_of_another_config_is_left_alone(finished, monkeypatch):
  _, path, _ = finished
  before = commands.hashes(path)
  message = _train(monkeypatch, 'digits/rigl_90', path)
  commands.assert_one_line(
      message, 'another config',
      'method is \'sr_ste\' there and \'rigl\' here')
  assert commands.hashes(path) == before


def test_workdir_of_other_data_is_left_alone(tmp_path):
  data_files.python_source(tmp_path / 'source')
  config = commands.config(
      'python_source/dense', batch_size=4, width=16, context=16,
      test_examples=6, steps=1, data_dir=str(tmp_path / 'source'))
  workdir = tmp_path / 'run'
  train.train(config, str(workdir))
  before = commands.hashes(workdir)
  (tmp_path / 'source' / 'new.py').write_text('new = True\n')
  with pytest.raises(ValueError, match='a run on other data: \'python_source'):
    train.train(config, str(workdir))
  assert commands.hashes(workdir) == before


def test_results_of_unknown_origin_are_left_alone(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('mine')
  with pytest.raises(ValueError, match='metrics.jsonl but no config.json'):
    train.train(commands.config('digits/sr_ste_2_4'), str(tmp_path))
  assert commands.hashes(tmp_path).keys() == {str(tmp_path / 'metrics.jsonl')}
  assert (tmp_path / 'metrics.jsonl').read_text() == 'mine'


def test_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    finished, monkeypatch, tmp_path, capfd):
  _, path, _ = finished
  copy = shutil.copytree(path, tmp_path / 'run')
  file = next(file for file in (copy / 'checkpoints' / '6').rglob('*')
              if file.is_file())
  file.write_bytes(file.read_bytes()[:-1] + b'?')
  assert not _train(
      monkeypatch, 'digits/sr_ste_2_4', copy, '--config.steps=6',
      '--config.log_every=2', '--config.save_every=3',
      '--config.batch_size=16')
  warning = [line for line in capfd.readouterr().err.splitlines()
             if line.startswith('warning')]
  assert len(warning) == 1 and 'checkpoints/6 is damaged' in warning[0]
  assert 'goes on from step 3' in warning[0]
  assert ((copy / 'metrics.jsonl').read_bytes()
          == (path / 'metrics.jsonl').read_bytes())
  assert (copy / 'checkpoints' / '6.damaged').is_dir()
