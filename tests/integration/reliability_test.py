"""Runs that are killed, stopped, damaged or out of disk lose nothing.

Each test starts true commands. `TRIES=20 python -m pytest
tests/integration/reliability_test.py` kills and damages more of them.
"""

import contextlib
import functools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest

from experiments.records import checkpoints
from experiments.records import metrics
from experiments.reporting import results
from tests._lib import commands
from tests._lib import forks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]

_TRIES = int(os.environ.get('TRIES', 2))
_STEPS = 80
_thorough = functools.partial(
    pytest.param, marks=pytest.mark.skipif(_TRIES < 20, reason='TRIES=20'))
_SETTINGS = dict(steps=_STEPS, log_every=2, save_every=20, every=10,
                 batch_size=16, test_examples=64, observe=False)


@pytest.fixture(scope='module', name='launcher')
def _launcher(launched, tmp_path_factory):
  del launched
  launcher = forks.Launcher(tmp_path_factory.mktemp('forks'))
  yield launcher
  launcher.close()


def _command(path):
  return commands.arguments('digits/rigl_90', path, *(
      f'--config.{key}={value}' for key, value in _SETTINGS.items()))


@pytest.fixture(scope='module', name='whole')
def _whole(launcher, tmp_path_factory):
  """The directory of a run that nobody disturbed."""
  path = tmp_path_factory.mktemp('whole') / 'run'
  ended = launcher.run(*_command(path))
  assert not ended.code, ended.errors
  return path


@pytest.fixture(scope='module', name='half')
def _half(launcher, whole, tmp_path_factory):
  """The directory of a run that was killed after its checkpoint of step 40."""
  path = tmp_path_factory.mktemp('half') / 'run'
  shutil.copytree(whole, path)
  for step in (60, 80):
    shutil.rmtree(path / 'checkpoints' / str(step))
  for step in (20, 40):
    _until_step(launcher, path.parent / 'other', step)
    shutil.copytree(path.parent / 'other/checkpoints' / str(step),
                    path / 'checkpoints' / str(step))
  (path / 'summary.txt').unlink()
  return path


def _until_step(launcher, path, step):
  """Trains until there is a checkpoint of a step."""
  fork = launcher.start(*_command(path))
  while not (path / 'checkpoints' / str(step)).exists():
    time.sleep(0.001)
  fork.send(signal.SIGKILL)
  fork.wait()


def _wait_for_rows(path, count):
  limit = time.monotonic() + 120
  while len(metrics.examine(path / 'metrics.jsonl').rows) < count:
    assert time.monotonic() < limit
    time.sleep(0.002)


def _assert_same(path, whole):
  """Checks that a run ended as the one that nobody disturbed."""
  assert (path / 'metrics.jsonl').read_bytes() == (
      whole / 'metrics.jsonl').read_bytes()
  digests = [checkpoints.digest(checkpoints.load(run / 'checkpoints')[1])
             for run in (path, whole)]
  assert digests[0] == digests[1]
  assert (path / 'summary.txt').read_text() == (
      whole / 'summary.txt').read_text()


# Kills.


def _kill_at_random(launcher, path, rng):
  """Kills a run at a random time, or inside of a save; returns whether so."""
  wants_save = rng.random() < 0.5
  fork = launcher.start(*_command(path))
  partial = path / 'checkpoints' / 'partial'
  # Saves begin when it has compiled, and come three more times.
  limit = time.monotonic() + (60 if wants_save else rng.uniform(0.5, 6))
  skipped = rng.randrange(3)
  is_in_save = False
  while time.monotonic() < limit and launcher.ask(poll=fork.pid) is None:
    was, is_in_save = is_in_save, partial.exists()
    skipped -= was and not is_in_save
    if wants_save and is_in_save and skipped <= 0:
      break
    time.sleep(0.001)
  with contextlib.suppress(ProcessLookupError):
    fork.send(signal.SIGKILL)
  fork.wait()
  return is_in_save


@pytest.mark.parametrize('seed', range(-(-_TRIES // 5)))
def test_runs_killed_at_any_time_end_bit_identical(
    seed, launcher, whole, tmp_path):
  rng = random.Random(seed)
  kills = min(5, _TRIES - 5 * seed)
  in_a_save = sum(
      _kill_at_random(launcher, tmp_path / 'run', rng) for _ in range(kills))
  print(f'{kills} kills, {in_a_save} inside of a save')
  ended = launcher.run(*_command(tmp_path / 'run'))
  assert not ended.code and 'warning' not in ended.errors, ended.errors
  _assert_same(tmp_path / 'run', whole)


# Signals.


@pytest.mark.parametrize('number', [
    signal.SIGTERM, signal.SIGINT, _thorough(signal.SIGHUP)])
def test_a_signal_saves_the_step_and_costs_one_line(
    number, launcher, whole, tmp_path):
  path = tmp_path / 'run'
  fork = launcher.start(*_command(path))
  _wait_for_rows(path, 2)
  fork.send(number)
  ended = fork.wait()
  assert ended.code == 128 + number and ended.is_one_line, ended
  step, _ = checkpoints.load(path / 'checkpoints')
  assert f'stopped by {number.name} after step {step}, which is saved; ' in (
      ended.errors)
  assert 4 <= step < _STEPS and step % 20
  assert not (path / 'owner.lock').exists()
  assert not launcher.run(*_command(path)).code
  _assert_same(path, whole)


@pytest.mark.parametrize(
    'milliseconds', [400, _thorough(60), _thorough(1_500)])
def test_ctrl_c_while_a_command_starts_costs_one_line(milliseconds, tmp_path):
  process = commands.python('experiments.train', *_command(tmp_path / 'run'))
  time.sleep(milliseconds / 1_000)
  process.send_signal(signal.SIGINT)
  _, errors = process.communicate()
  if milliseconds == 60 and process.returncode == -signal.SIGINT:
    return  # Before Python itself had started.
  assert process.returncode == 130, errors
  commands.assert_one_line(errors.strip(), 'stopped by SIGINT')
  assert len(errors.splitlines()) == 1


def test_several_processes_stop_after_the_same_step(whole, tmp_path):
  del whole
  path = tmp_path / 'run'
  port = commands.free_port()
  both = [commands.python(
      'experiments.train', *_command(path), '--config.mesh=data:2',
      '--config.steps=2000', f'--coordinator=127.0.0.1:{port}',
      '--processes=2', f'--process={i}', devices=1) for i in range(2)]
  commands.wait_for_rows(both[0], path, 2)
  both[1].send_signal(signal.SIGTERM)
  ended = [process.communicate(timeout=100) for process in both]
  step = max(int(saved.name) for saved in (path / 'checkpoints').iterdir())
  for process, (_, errors) in zip(both, ended):
    assert process.returncode == 143, errors
    assert f'after step {step:,}, which is saved' in errors


# Owners.


def test_a_second_command_leaves_with_one_line(launcher, whole, tmp_path):
  path = tmp_path / 'run'
  first = launcher.start(*_command(path))
  _wait_for_rows(path, 1)
  first.send(signal.SIGSTOP)
  second = launcher.run(*_command(path))
  first.send(signal.SIGCONT)
  assert second.code == 1 and second.is_one_line, second
  assert f'{path} is in use by process {first.pid} on ' in second.errors
  assert not first.wait().code
  _assert_same(path, whole)
  assert not (path / 'owner.lock').exists()


def test_a_lock_dies_with_its_process(launcher, whole, tmp_path):
  path = tmp_path / 'run'
  _until_step(launcher, path, 20)
  assert (path / 'owner.lock').exists()  # And is nobody's.
  assert not launcher.run(*_command(path)).code
  _assert_same(path, whole)


def test_two_sweeps_share_their_runs(launcher, tmp_path):
  path = tmp_path / 'sweep'
  command = [
      '--config=experiments/configs/digits/sweep_nm.py', f'--workdir={path}',
      '--config.methods=ste,sr_ste', '--config.targets=\'2:4\'',
      '--config.seeds=0,1', '--config.base.steps=20',
      '--config.base.batch_size=16', '--config.base.log_every=2',
      '--config.base.save_every=5']
  both = [launcher.start(*command, module='sweep') for _ in range(2)]
  ended = [fork.wait(200) for fork in both]
  assert [each.code for each in ended] == [0, 0], ended
  assert len(results.read([path / 'results.jsonl']).lines) == 4
  starts = 0
  for run in path.glob('runs/*/*/seed_*'):
    rows = metrics.read(run / 'metrics.jsonl')
    assert [row['step'] for row in rows] == [*range(2, 21, 2)]
    log = (run / 'log.txt').read_text().splitlines()
    steps = [line.split()[1] for line in log if line.startswith('step')]
    assert len(steps) == len({*steps})  # Trained once.
    starts += 1
  assert starts == 4


# Damage.


def _rewrite(name, change):
  return lambda path: (path / name).write_bytes(
      change((path / name).read_bytes()))


def _replace_by(name, make):
  def damage(path):
    if (path / name).is_dir():
      shutil.rmtree(path / name)
    else:
      (path / name).unlink(missing_ok=True)
    make(path / name)
  return damage


# Damage to a run that was killed; a part of the warning with which it goes on.
_MENDED = {
    'metrics.jsonl is gone': (
        _replace_by('metrics.jsonl', lambda path: None),
        'metrics.jsonl is damaged: of the 20 rows'),
    'garbage in metrics.jsonl': (
        _rewrite('metrics.jsonl', lambda text: b'@@\n' + text),
        'metrics.jsonl is damaged: line 1'),
    'the newest checkpoint': (
        _rewrite('checkpoints/40/digests.json', lambda text: text[:-3]),
        'checkpoints/40 is damaged'),
    'a renamed checkpoint': (
        lambda path: (path / 'checkpoints/40').rename(
            path / 'checkpoints/999'), 'checkpoints/999 is damaged'),
    'no checkpoint': (
        _replace_by('checkpoints', lambda path: None),
        'holds no checkpoint: the run starts again'),
}
# Damage that is told in one line, and left as it is; a part of that line.
_REFUSED = {
    'both checkpoints': (lambda path: [
        (path / f'checkpoints/{step}/digests.json').write_text('')
        for step in (20, 40)], 'No other is whole: remove'),
    'checkpoints are a dangling link': (
        _replace_by('checkpoints', lambda path: path.symlink_to('/no/x')),
        'is no folder of checkpoints'),
    'metrics.jsonl is a folder': (
        _replace_by('metrics.jsonl', pathlib.Path.mkdir), 'metrics.jsonl'),
    'a folder in place of the summary': (
        _replace_by('summary.txt', pathlib.Path.mkdir), 'summary.txt'),
}


@pytest.mark.parametrize('kind', [
    _thorough(kind) if kind in ('a renamed checkpoint', 'no checkpoint',
                                'metrics.jsonl is gone') else kind
    for kind in _MENDED])
def test_damage_that_can_be_mended_is_told_and_mended(
    kind, launcher, whole, half, tmp_path):
  path = shutil.copytree(half, tmp_path / 'run')
  damage, part = _MENDED[kind]
  damage(path)
  ended = launcher.run(*_command(path))
  warnings = [line for line in ended.errors.splitlines()
              if line.startswith('warning: ')]
  assert not ended.code, ended.errors
  assert len(warnings) == 1 and part in warnings[0]
  _assert_same(path, whole)


@pytest.mark.parametrize('kind', _REFUSED)
def test_damage_that_cannot_be_mended_costs_one_line(
    kind, launcher, half, tmp_path):
  path = shutil.copytree(half, tmp_path / 'run')
  damage, part = _REFUSED[kind]
  damage(path)
  ended = launcher.run(*_command(path))
  assert ended.code == 1 and ended.is_one_line, ended.errors
  assert part in ended.errors


def test_a_finished_run_with_damaged_rows_is_mended(
    launcher, whole, tmp_path):
  path = shutil.copytree(whole, tmp_path / 'run')
  lines = (path / 'metrics.jsonl').read_text().splitlines(keepends=True)
  (path / 'metrics.jsonl').write_text(''.join(lines[:5] + lines[7:]))
  ended = launcher.run(*_command(path))
  assert not ended.code
  assert 'of the 40 rows up to step 80 it has 38' in ended.errors
  _assert_same(path, whole)


# Disks.


def test_a_quota_costs_one_line_that_names_the_file(launcher, whole, tmp_path):
  path = tmp_path / 'run'
  ended = launcher.run(*_command(path), file_size=3_000)
  assert ended.code == 1 and ended.is_one_line, ended.errors
  assert str(path) in ended.errors
  assert not launcher.run(*_command(path)).code  # There is room again.
  _assert_same(path, whole)


@pytest.mark.parametrize('kilobytes', [160, _thorough(24)])
def test_a_full_disk_costs_one_line_that_names_the_file(
    kilobytes, launcher, whole, tmp_path):
  disk = tmp_path / 'disk'
  disk.mkdir()
  mounted = subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'none', str(disk)],
      capture_output=True)
  if mounted.returncode:
    pytest.skip('may not mount a file system')
  try:
    ended = launcher.run(*_command(disk / 'run'))
    assert ended.code == 1 and ended.is_one_line, ended.errors
    assert str(disk) in ended.errors
    subprocess.run(['mount', '-o', 'remount,size=8m', str(disk)], check=True)
    assert not launcher.run(*_command(disk / 'run')).code
    _assert_same(disk / 'run', whole)
  finally:
    subprocess.run(['umount', '-l', str(disk)], check=True)


def test_a_directory_that_is_read_only_costs_one_line(launcher, tmp_path):
  ended = launcher.run(*_command(pathlib.Path('/proc/run')))
  assert ended.code == 1 and ended.is_one_line, ended.errors
  assert '/proc/run' in ended.errors
