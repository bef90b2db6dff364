"""Dry runs, memory and profiles: what is told before or while a run trains."""

import os

import pytest

from experiments import data
from experiments import train
from experiments.training import memory
from experiments.training import profiling
from tests._lib import commands

# The config files are loaded by ml_collections.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning'),
    pytest.mark.usefixtures('launched')]


@pytest.mark.parametrize('name, parts', [
    ('digits/sr_ste_2_4', [
        '"method": "sr_ste"',
        'layers/0/kernel 64x32 2,048 nm(2, 4) matches the regex of model',
        'head/bias 10 10 dense does not match the regex',
        'sparse 3,072', 'all 3,466',
        'the regex of model mlp: layers/', 'dense FLOPs of a batch, forward']),
    ('digits/recipe_4x1_80', ['"recipe"', 'matches', 'bytes of params']),
    ('digits/dense', ['the method leaves it', 'sparse 0']),
])
def test_a_dry_run_tells_parameters_and_costs_and_writes_nothing(
    name, parts, tmp_path, monkeypatch):
  monkeypatch.chdir(commands.ROOT)
  told = train.dry_run(commands.config(name))
  for part in parts:
    assert ' '.join(part.split()) in ' '.join(told.split())
  assert 'seconds to trace and compile a step' in told
  assert not os.listdir(tmp_path)


def test_the_command_stops_after_a_dry_run(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(train, 'train', lambda *args: pytest.fail('trained'))
  assert not commands.launch(train.main, monkeypatch, *commands.arguments(
      'digits/sr_ste_2_4', tmp_path / 'run', '--dry_run'))
  assert 'layers/0/kernel' in capsys.readouterr().out
  assert not (tmp_path / 'run').exists()


def test_memory_is_told_from_shapes_before_anything_is_made(monkeypatch):
  config = commands.config('digits/sr_ste_2_4', width=2_048)
  dataset = data.load(config)
  weights = 4 * (64 * 2_048 + 2_048 * 2_048 + 2 * 2_048 + 10 * 2_048 + 10)
  monkeypatch.setattr(memory, 'available', lambda: 4. * weights)
  memory.check(config, dataset)
  monkeypatch.setattr(memory, 'available', lambda: 4. * weights - 1)
  with pytest.raises(ValueError, match=r'config.width=2,048: .* take 0.0 GB'):
    memory.check(config, dataset)
  assert memory.available() < weights * 4


def test_a_profile_is_written_for_the_steps_asked_for(tmp_path):
  config = commands.config('digits/dense', steps=4, log_every=4, save_every=4,
                           batch_size=16)
  result = train.train(config, str(tmp_path / 'run'),
                       train.Options(profile='2:3'))
  assert [*(tmp_path / 'run/profile').rglob('*.xplane.pb')]
  assert train.train(config, str(tmp_path / 'plain')).rows == result.rows


def test_a_profile_is_written_if_the_run_is_stopped_within(tmp_path):
  profile = profiling.of('2:90', tmp_path, 100)
  profile.before(2)
  profile.close()
  assert [*tmp_path.rglob('*.xplane.pb')]
  profile.close()  # Once is enough.
  with pytest.raises(ValueError, match='end at a step of the run, which has 9'):
    profiling.of('2:90', tmp_path, 9)


@pytest.mark.parametrize('text', ['5', '0:3', '3:2', 'a:b', ':', '1:2:3'])
def test_a_profile_of_no_steps_is_refused(text, tmp_path):
  with pytest.raises(ValueError, match='FIRST:LAST'):
    profiling.of(text, tmp_path, 100)
