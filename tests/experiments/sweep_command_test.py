"""The command that sweeps: overrides, exit codes, one that is killed."""

import signal
import time

import pytest

from experiments import sweep
from experiments.reporting import results
from tests._lib import commands
from tests._lib import sweeps

# The config files are loaded by ml_collections.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning'),
    pytest.mark.usefixtures('launched')]


def _command(path, *overrides, **settings):
  config = path.parent / 'config.py'
  made = sweeps.small(**settings).to_dict()
  config.write_text(
      'import ml_collections\n\n\ndef get_config():\n'
      f'  return ml_collections.ConfigDict({made!r})\n')
  return [f'--config={config}', f'--workdir={path}', *overrides]


def test_killed_sweep_takes_its_workers_along_and_goes_on(
    monkeypatch, tmp_path, capsys):
  settings = dict(methods=('sr_ste',), targets=('2:4',), seeds=(0, 1, 2, 3))
  path, whole = tmp_path / 'sweep', tmp_path / 'whole'
  command = _command(path, **settings)
  process = commands.python('experiments.sweep', '--workers=2', *command)
  while not (path / 'results.jsonl').exists():  # One run has ended.
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()  # Returns once the workers have closed their ends.
  done = {file: file.stat().st_mtime_ns for file in path.rglob('summary.txt')}
  assert 1 <= len(done) < 4

  # Without workers: what they did and what is done here are the same.
  assert not commands.launch(sweep.main, monkeypatch, *command)
  assert 'table.md' in capsys.readouterr().out
  assert all(file.stat().st_mtime_ns == then for file, then in done.items())
  sweep.sweep(sweeps.small(**settings), str(whole))
  assert (results.read([path / 'results.jsonl']).lines
          == results.read([whole / 'results.jsonl']).lines)


def test_command_takes_overrides_and_shows_the_table(
    trained, monkeypatch, tmp_path, capsys):
  path = tmp_path / 'sweep'
  assert not commands.launch(sweep.main, monkeypatch, *_command(
      path, '--config.seeds=5', '--config.base.steps=3',
      '--config.targets=\'1:4,1:8\'', '--config.methods=ste,sr_ste'))
  assert [(c.method, c.seed, c.steps, c.m) for c in trained] == [
      ('ste', 5, 3, 4), ('ste', 5, 3, 8),
      ('sr_ste', 5, 3, 4), ('sr_ste', 5, 3, 8)]
  shown = capsys.readouterr().out
  assert '4/4' in shown and (path / 'table.md').read_text() in shown
  assert '--config.seeds=5' in shown


def test_command_exits_with_1_if_a_run_failed(trained, monkeypatch, tmp_path):
  message = commands.launch(sweep.main, monkeypatch, *_command(
      tmp_path / 'sweep', '--config.seeds=0,13', '--config.methods=ste',
      '--config.targets=1:4'))
  assert message.startswith('error: 1 run failed:\n')
  assert 'ste/1_4/seed_13: ZeroDivisionError' in message
  assert len(trained) == 1


@pytest.mark.parametrize('override, part', [
    ('--config.bas.steps=3', 'bas'),
    ('--config.targets=24', 'got \'24\''),
    ('--workers=0', 'workers'),
    ('surplus', 'surplus'),
])
def test_wrong_command_costs_one_line(override, part, monkeypatch, tmp_path):
  path = tmp_path / 'sweep'
  message = commands.launch(sweep.main, monkeypatch, *_command(path), override)
  commands.assert_one_line(message, part)
  assert not path.exists()


@pytest.mark.parametrize('flag', [
    '--coordinator=auto', '--process=0', '--charts=wandb', '--profile=2:3'])
def test_flags_of_a_single_run_are_refused(flag, monkeypatch, tmp_path):
  message = commands.launch(sweep.main, monkeypatch, *_command(
      tmp_path / 'sweep', flag))
  commands.assert_one_line(
      message, f'{flag.partition("=")[0]} is not read by this command',
      '--workers')
  assert not (tmp_path / 'sweep').exists()


def test_a_dry_run_trains_and_writes_nothing(
    trained, monkeypatch, tmp_path, capsys):
  assert not commands.launch(sweep.main, monkeypatch, *_command(
      tmp_path / 'sweep', '--dry_run'))
  assert 'steps left' in capsys.readouterr().out
  assert not trained and not (tmp_path / 'sweep').exists()
