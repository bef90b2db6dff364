"""The command that trains, on many devices and in several processes."""

import json
import os
import shutil

import optax
import pytest

from experiments import train
from experiments.records import checkpoints
from experiments.records import metrics
from experiments.training import meshes
from experiments.training import runs
import jaxsparse
from jaxsparse._utils import trees
from tests._lib import commands

# The config files are loaded by ml_collections.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning'),
    pytest.mark.usefixtures('launched')]

_MESH = 'data:2,model:2'
# Of SGD: Adam makes as much of a small gradient, and its error, as of a large.
_SETTINGS = dict(steps=24, log_every=2, save_every=8, every=4, batch_size=16,
                 optimizer='sgd', learning_rate=0.03, weight_decay=0.)


def _config(mesh=''):
  return commands.config('digits/rigl_90', mesh=mesh, **_SETTINGS)


def _assert_near(rows, others):
  """Sums over devices round otherwise; here that is less than 1e-4."""
  assert len(rows) == len(others)
  for row, other in zip(rows, others):
    assert row == pytest.approx(other, rel=1e-4)


def _start(path, *overrides):
  """Starts two processes of two devices each."""
  return [commands.python(
      'experiments.train', *commands.arguments(
          'digits/rigl_90', path, f'--config.mesh={_MESH}',
          *(f'--config.{key}={value}' for key, value in _SETTINGS.items()),
          *overrides),
      f'--coordinator=127.0.0.1:{port}', '--processes=2', f'--process={i}',
      devices=2) for port in [commands.free_port()] for i in range(2)]


def _end(processes):
  """Waits for both; returns what each has printed."""
  ended = [process.communicate() for process in processes]
  for process, (_, errors) in zip(processes, ended):
    assert process.returncode == 0, errors
  return [shown for shown, _ in ended]


@pytest.fixture(scope='module', name='one')
def _one(launched, tmp_path_factory):
  """The run on one device."""
  del launched
  return train.train(_config(), str(tmp_path_factory.mktemp('one') / 'run'))


@pytest.fixture(scope='module', name='two')
def _two(launched, tmp_path_factory):
  """The directory of the run in two processes, and what these printed."""
  del launched
  path = tmp_path_factory.mktemp('two') / 'run'
  return path, _end(_start(path))


@pytest.fixture(scope='module', name='spread')
def _spread(launched, tmp_path_factory):
  """The run on eight devices: its directory and result."""
  del launched
  path = tmp_path_factory.mktemp('spread') / 'run'
  return path, train.train(_config('data:2,model:4'), str(path))


# One process, many devices.


@pytest.mark.parametrize('mesh', ['data:2,model:4', 'fsdp:8'])
def test_a_mesh_trains_as_one_device(mesh, one, spread, tmp_path):
  result = (train.train(_config(mesh), str(tmp_path / 'run'))
            if mesh == 'fsdp:8' else spread[1])
  _assert_near(result.rows, one.rows)
  momentum, = trees.nodes(result.state.opt_state, optax.TraceState)
  kernel, mask, moment = (tree['layers'][0]['kernel'][...] for tree in (
      result.state.params, jaxsparse.get_masks(result.state.opt_state),
      momentum.trace))
  assert kernel.sharding == mask.sharding == moment.sharding
  assert not kernel.sharding.is_fully_replicated
  assert 'with 90.0% of the prunable weights pruned' in result.summary


def test_a_run_goes_on_on_other_devices(one, tmp_path, monkeypatch):
  path = tmp_path / 'run'
  commands.train_until_killed(
      monkeypatch, _config('data:2,model:4'), path, at=16)
  again = train.train(_config(), str(path))
  _assert_near(again.rows, one.rows)
  assert json.loads((path / 'config.json').read_text())[
      'mesh'] == 'data:2,model:4'  # As it began.


def test_killed_on_a_mesh_it_ends_bit_identical(tmp_path, monkeypatch):
  config = _config('data:4,fsdp:2')
  whole = train.train(config, str(tmp_path / 'whole'))
  commands.train_until_killed(monkeypatch, config, tmp_path / 'killed', at=24)
  again = train.train(config, str(tmp_path / 'killed'))
  assert again.rows == whole.rows
  assert checkpoints.digest(again.state) == checkpoints.digest(whole.state)


def test_channels_are_permuted_and_weights_kept_on_a_mesh(tmp_path):
  rows = []
  for mesh in ('', 'data:2,model:4'):
    config = commands.config(
        'digits/permute_prune_2_4', mesh=mesh, steps=4, log_every=4,
        batch_size=16, width=16, permute_budget=50)
    result = train.train(config, str(tmp_path / f'run_{mesh}'))
    rows.append(result.rows)
  assert rows[0][0]['kept_after'] > rows[0][0]['kept_before']
  _assert_near(*rows)


def test_a_run_on_a_mesh_starts_from_another(spread, tmp_path):
  ends = []
  for mesh in ('', 'fsdp:8'):
    config = _config(mesh)
    config.init_from = str(spread[0])
    path = tmp_path / f'then_{mesh}'
    ended = train.train(config, str(path))
    ends.append(ended.rows)
    config.init_from = '/gone'  # Its checkpoint is all that it needs.
    (path / 'config.json').write_text(config.to_json())
    assert checkpoints.digest(runs.restore(
        str(path), meshes.create(config)).state) == checkpoints.digest(
            ended.state)
  _assert_near(*ends)


# Two processes.


def test_two_processes_measure_what_one_does(one, two):
  path, (first, second) = two
  _assert_near(metrics.read(path / 'metrics.jsonl'), one.rows)
  summary = (path / 'summary.txt').read_text()
  assert 'with 90.0% of the prunable weights pruned' in summary
  assert f'step {24:>6,}' in first and summary in first
  assert 'step' not in second
  assert sorted(os.listdir(path / 'checkpoints')) == ['16', '24']
  assert (path / 'training.png').read_bytes().startswith(b'\x89PNG')


def test_their_checkpoint_is_read_by_one_process(two):
  path, _ = two
  alone = runs.restore(str(path)).state
  mesh = meshes.create(_config('data:2,model:4'))
  spread = runs.restore(str(path), mesh).state
  assert not spread.params['layers'][0]['kernel'][
      ...].sharding.is_fully_replicated
  assert checkpoints.digest(alone) == checkpoints.digest(spread)


def test_their_run_goes_on_in_one_process(one, two, tmp_path):
  path = shutil.copytree(two[0], tmp_path / 'run')
  shutil.rmtree(path / 'checkpoints' / '24')
  _assert_near(train.train(_config(), str(path)).rows, one.rows)


def test_one_of_two_killed_and_both_started_again_end_bit_identical(
    two, tmp_path):
  path = tmp_path / 'run'
  first, second = _start(path)
  commands.wait_for_rows(first, path, 6)  # Step 12: past a checkpoint.
  commands.kill(second)
  first.kill()  # It would end by itself once it misses the other.
  first.communicate()
  assert not (path / 'summary.txt').exists()

  _end(_start(path))
  logs = [(p / 'metrics.jsonl').read_bytes() for p in (path, two[0])]
  assert logs[0] == logs[1]
  ended, whole = (runs.restore(str(p)).state for p in (path, two[0]))
  assert checkpoints.digest(ended) == checkpoints.digest(whole)


def test_a_mistake_is_told_by_all_processes(two):
  path, _ = two
  before = commands.hashes(path)
  for process in _start(path, '--config.seed=1'):
    _, errors = process.communicate()
    assert process.returncode == 1
    commands.assert_one_line(
        errors.splitlines()[-1], 'another config', 'seed is 0 there and 1 here')
  assert commands.hashes(path) == before
