"""The directory of a run: it belongs to one config, data set and process."""

import errno
import json
import os
import pathlib

import pytest

from experiments.records import environment
from experiments.records import owner
from experiments.records import workdir
from tests._lib import commands


def _claim(path):
  return workdir.claim(str(path), commands.config('digits/rigl_90'),
                       dataset='digits', fingerprint='abc')


@pytest.mark.parametrize('name, content, part', [
    ('config.json', b'', 'cannot read .*config.json'),
    ('config.json', b'{', 'cannot read .*config.json'),
    ('config.json', b'null', 'it holds no object'),
    ('config.json', b'5', 'it holds no object'),
    ('config.json', b'\xff', 'cannot read .*config.json'),
    ('config.json', b'[' * 100_000, 'cannot read .*config.json'),
    ('config.json', None, 'holds dataset.json but no config.json'),
    ('dataset.json', b'', 'cannot read .*dataset.json'),
    ('dataset.json', b'[]', 'it holds no object'),
    ('dataset.json', b'{}', 'it holds no fingerprint'),
    ('dataset.json', b'{"fingerprint": 1}', 'it holds no fingerprint'),
    ('dataset.json', b'{"fingerprint": "x"}', 'a run on other data'),
])
def test_damaged_files_are_refused_by_name(name, content, part, tmp_path):
  _claim(tmp_path)
  (tmp_path / name).unlink()
  if content is not None:
    (tmp_path / name).write_bytes(content)
  before = commands.hashes(tmp_path)
  with pytest.raises(ValueError, match=part):
    _claim(tmp_path)
  assert commands.hashes(tmp_path) == before


def test_the_directory_of_a_sweep_is_no_run(tmp_path):
  (tmp_path / workdir.SWEEP).write_text('{}')
  with pytest.raises(ValueError, match='holds sweep.json but no config.json'):
    _claim(tmp_path)
  assert not (tmp_path / 'config.json').exists()


def _claim_from(path, weights):
  return workdir.claim(str(path), commands.config('digits/rigl_90'),
                       dataset='digits', fingerprint='abc', weights=weights)


def test_a_run_belongs_to_the_weights_that_it_began_with(tmp_path):
  _claim(tmp_path)  # By a version that did not record them.
  assert workdir.read_weights(tmp_path) is None
  for weights in ('one', 'one', None):  # None: it goes on from a checkpoint.
    _claim_from(tmp_path, weights)
    assert workdir.sources(tmp_path) == {
        'data': 'abc', 'weights': 'one', 'recipe.yaml': None}
  before = commands.hashes(tmp_path)
  with pytest.raises(ValueError, match='init_from had the fingerprint one '
                     'there and have another here. .* another --workdir'):
    _claim_from(tmp_path, 'another')
  assert commands.hashes(tmp_path) == before


def test_recipes_have_a_fingerprint(tmp_path):
  found = set()
  for text in ('{sparsity: 0.5}', '{sparsity: 0.6}', '{sparsity: 0.5}'):
    (tmp_path / 'recipe.yaml').write_text(text)
    found.add(workdir.sources(tmp_path)['recipe.yaml'])
  assert len(found) == 2


def test_errors_of_a_full_disk_name_the_file(tmp_path):
  with pytest.raises(OSError, match='No space left.*rows.jsonl') as raised:
    with workdir.naming(tmp_path / 'rows.jsonl'):
      raise OSError(errno.ENOSPC, 'No space left on device')
  assert raised.value.errno == errno.ENOSPC
  with pytest.raises(FileNotFoundError, match='nothing/there'):
    workdir.write(tmp_path / 'nothing/there', 'text')


@pytest.mark.parametrize('make', [
    lambda path: None, pathlib.Path.mkdir, lambda path: path.write_text('x'),
    lambda path: path.symlink_to('/nonexistent'),
    lambda path: (path / 'a/b').mkdir(parents=True)])
def test_whatever_is_there_is_removed(make, tmp_path):
  make(tmp_path / 'x')
  workdir.remove(tmp_path / 'x')
  assert not os.path.lexists(tmp_path / 'x')


# Owners.


def test_one_owner_at_a_time(tmp_path):
  with owner.hold(tmp_path):
    with pytest.raises(owner.InUse, match=f'in use by process {os.getpid()}'):
      with owner.hold(tmp_path):
        pytest.fail('two owners')
  with owner.hold(tmp_path):
    (tmp_path / owner.LOCK).write_text('')  # Not yet noted.
    with pytest.raises(owner.InUse, match='in use by another process'):
      with owner.hold(tmp_path):
        pytest.fail('two owners')
  assert not [*tmp_path.iterdir()]


def test_a_lock_that_its_process_left_behind_holds_nobody_out(tmp_path):
  (tmp_path / owner.LOCK).write_text('{"process": 1}')
  with owner.hold(tmp_path):
    assert f'"process": {os.getpid()}' in (tmp_path / owner.LOCK).read_text()
  assert not [*tmp_path.iterdir()]


def test_where_there_are_no_locks_nobody_is_kept_out_and_it_is_told(
    tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(owner, 'fcntl', None)
  with owner.hold(tmp_path), owner.hold(tmp_path):
    pass
  told = capsys.readouterr().err
  assert told.count('cannot be locked') == 2 and str(tmp_path) in told


# Environments.


def test_each_environment_is_noted_once(tmp_path, monkeypatch):
  environment.keep(tmp_path, 0)
  environment.keep(tmp_path, 40)
  first, = json.loads((tmp_path / 'environment.json').read_text())
  assert first['from_step'] == 0 and first['packages']['jax']
  assert first['devices']['backend'] == 'cpu'
  monkeypatch.setattr(environment, '_commit', lambda: 'another')
  environment.keep(tmp_path, 60)
  again, second = json.loads((tmp_path / 'environment.json').read_text())
  assert environment.brief(tmp_path)['commit'] == 'another'
  assert environment.brief(tmp_path, 61)['commit'] == 'another'
  assert environment.brief(tmp_path, 60)['commit'] == first['commit']
  assert environment.brief(tmp_path / 'nowhere') is None
  assert again == first
  assert (second['from_step'], second['commit']) == (60, 'another')


@pytest.mark.parametrize('content', [b'', b'[5]', b'[]', b'{}', b'\xff'])
def test_damaged_environments_are_told(content, tmp_path):
  (tmp_path / 'environment.json').write_bytes(content)
  with pytest.raises(ValueError, match='environment.json: .* Remove it'):
    environment.keep(tmp_path, 0)
