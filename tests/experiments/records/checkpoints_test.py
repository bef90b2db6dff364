"""Checkpoints: damage is found out, digests see every bit."""

import json
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.records import checkpoints
from experiments.records import environment
from experiments.training import runs
from tests._lib import commands

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


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
  state = runs.create(config)[0].init(None)
  tried = 0
  for _ in _damage_each_file(copy / '6'):
    with pytest.raises(ValueError, match='checkpoints/6 is damaged'):
      checkpoints.restore(copy, state)
    tried += 1
  assert tried > 10
  assert checkpoints.restore(copy, state)[0] == 6  # All mended.


def _damages(path):
  """What happens to a folder of the checkpoints 1 and 2."""
  newest, digests = path / '2', path / '2' / 'digests.json'

  def rewritten(**changes):
    content = {**json.loads(digests.read_text()), **changes}
    digests.write_text(json.dumps(
        {key: value for key, value in content.items() if value is not None}))

  def emptied():
    shutil.rmtree(newest)
    newest.mkdir()
  return {
      'no shapes': lambda: rewritten(shapes=None),
      'shapes of another kind': lambda: rewritten(shapes=[]),
      'another step': lambda: rewritten(step=7),
      'no list': lambda: digests.write_text('[]'),
      'a number': lambda: digests.write_text('5'),
      'empty': lambda: digests.write_text(''),
      'deep': lambda: digests.write_text('[' * 100_000),
      'binary': lambda: digests.write_bytes(b'\xff\xfe\0'),
      'an extra file': lambda: (newest / 'state/extra').write_text('x'),
      'another text': lambda: (newest / 'rows').write_text('x'),
      'no text': (newest / 'rows').unlink,
      'no state': lambda: shutil.rmtree(newest / 'state'),
      'an empty folder': emptied,
      'a file': lambda: (shutil.rmtree(newest), newest.write_text('x')),
      'a dangling link': lambda: (
          shutil.rmtree(newest), newest.symlink_to('/nonexistent/x')),
      'a link to itself': lambda: (
          shutil.rmtree(newest), newest.symlink_to(newest)),
      'renamed': lambda: newest.rename(path / '999'),
      'half of another': lambda: (path / '3').mkdir(),
  }


@pytest.fixture(scope='module', name='saved')
def _saved(tmp_path_factory):
  """A folder of two checkpoints."""
  path = tmp_path_factory.mktemp('saved')
  for step in (1, 2):
    checkpoints.save(path, step, {'w': jnp.arange(4.) + step},
                     {'rows': f'until {step}'})
  return path


@pytest.mark.parametrize('kind', _damages(pathlib.Path()))
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_read(
    kind, saved, tmp_path):
  path = shutil.copytree(saved, tmp_path / 'saved')
  _damages(path)[kind]()
  with pytest.raises(ValueError, match='is damaged'):
    checkpoints.load(path)
  told = []
  step, state = checkpoints.load(path, tell=told.append)
  message, = told
  assert 'is damaged' in message and f'from step {step}' in message
  assert step == (2 if kind == 'half of another' else 1)
  np.testing.assert_array_equal(state['w'], np.arange(4.) + step)
  assert checkpoints.text(path, step, 'rows') == f'until {step}'
  assert checkpoints.load(path, tell=pytest.fail)[0] == step  # Moved aside.
  checkpoints.save(path, 3, state)
  assert checkpoints.load(path)[0] == 3


@pytest.mark.parametrize('kind', _damages(pathlib.Path()))
def test_shapes_are_those_of_the_last_checkpoint_that_tells_them(
    kind, saved, tmp_path):
  path = shutil.copytree(saved, tmp_path / 'saved')
  _damages(path)[kind]()
  assert checkpoints.shapes(path) == {"['w']": (4,)}
  assert checkpoints.shapes(tmp_path / 'none') == {}


def test_if_no_checkpoint_is_whole_the_run_is_not_begun_anew(saved, tmp_path):
  path = shutil.copytree(saved, tmp_path / 'saved')
  for step in '12':
    (path / step / 'digests.json').write_text('{}')
  with pytest.raises(ValueError, match='2 is damaged.*No other is whole: rem'):
    checkpoints.load(path, tell=pytest.fail)
  for place in ('file', 'link'):
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'link').unlink(missing_ok=True)
    (tmp_path / 'link').symlink_to('/nonexistent/x')
    with pytest.raises(ValueError, match='is no folder of checkpoints'):
      checkpoints.load(tmp_path / place, tell=pytest.fail)


@pytest.mark.parametrize(
    'name', ['²', '0080', '-1', '1.5', 'notes', '2.damaged'])
def test_other_names_in_the_folder_are_left_alone(name, saved, tmp_path):
  path = shutil.copytree(saved, tmp_path / 'saved')
  (path / name).mkdir()
  assert checkpoints.load(path)[0] == 2
  assert (path / name).is_dir()


@pytest.mark.parametrize('make', [
    lambda path: path.write_text('x'),
    lambda path: path.symlink_to('/nonexistent/x'),
    lambda path: (path / 'state/x').mkdir(parents=True)])
def test_whatever_a_killed_save_left_is_written_over(make, saved, tmp_path):
  path = shutil.copytree(saved, tmp_path / 'saved')
  make(path / 'partial')
  checkpoints.save(path, 3, {'w': jnp.ones(4)})
  assert checkpoints.load(path)[0] == 3
  assert sorted(file.name for file in path.iterdir()) == ['2', '3']


def test_checkpoint_of_another_model_names_the_leaf(finished):
  config, path, _ = finished
  config = config.copy_and_resolve_references()
  config.width = 16
  widths = r'another model.*\[32, 10\] there and \S*\[16, 10\]'
  with pytest.raises(ValueError, match=widths):
    checkpoints.restore(path / 'checkpoints', runs.create(config)[0].init(None))


class _Old(NamedTuple):
  count: jax.Array
  forward: Any = None


class _New(NamedTuple):
  count: jax.Array


@pytest.mark.parametrize('there, here, told', [
    ({'a': jnp.ones(2), 'b': jnp.ones(2)}, {'a': jnp.ones(3), 'c': jnp.ones(2)},
     r"\['a'\] is float32\[2\] there and float32\[3\] here; \['b'\] is "
     r"float32\[2\] there and missing here; \['c'\] is missing there"),
    ({'s': _Old(jnp.ones(2))}, {'s': _New(jnp.ones(2))},
     's/forward is present there and missing here'),
    ({'s': _New(jnp.ones(2))}, {'s': _Old(jnp.ones(2))},
     's/forward is missing there and present here'),
    (dict.fromkeys('abcde', jnp.ones(2)), {'a': jnp.ones(2)},
     r".*\['d'\] is float32\[2\] there and missing here and 1 more\. Give")])
def test_checkpoint_of_another_layout_names_the_leaves_that_differ(
    there, here, told, tmp_path):
  checkpoints.save(tmp_path / 'checkpoints', 1, there)
  with pytest.raises(ValueError, match=(
      f'checkpoints/1 is of another model, method or version.*: {told}')):
    checkpoints.restore(tmp_path / 'checkpoints', here)
  step, _ = checkpoints.restore(tmp_path / 'checkpoints', there)
  assert step == 1


def _written_by(path, *versions):
  """An environment that began every two steps, with another version."""
  (path / 'environment.json').write_text(json.dumps([
      {'from_step': 2 * i, 'commit': commit, 'packages': {'jaxsparse': version}}
      for i, (version, commit) in enumerate(versions)]))


def test_checkpoint_of_another_version_names_the_version(tmp_path):
  checkpoints.save(tmp_path / 'checkpoints', 3, {'a': jnp.ones(2)})

  def told():
    with pytest.raises(ValueError, match='version of jaxsparse') as error:
      checkpoints.restore(tmp_path / 'checkpoints', {'b': jnp.ones(2)})
    return str(error.value)
  _written_by(tmp_path, ('0.0.7', None), ('0.0.8', 'abc'), ('0.0.9', None))
  here = environment.current()
  assert told().endswith(
      'It was written by jaxsparse 0.0.8 at commit abc, and this is jaxsparse '
      f'{here["packages"]["jaxsparse"]} at commit {here["commit"]}. Give '
      'another --workdir, or use that version.')
  _written_by(tmp_path, (here['packages']['jaxsparse'], here['commit']))
  assert told().endswith('here. Give another --workdir.')
  for damaged in ('[', '{}', '[{}]', '[5]'):
    (tmp_path / 'environment.json').write_text(damaged)
    assert told().endswith('here. Give another --workdir.')


def test_checkpoint_without_the_digest_of_digests_is_old_and_stays(
    saved, tmp_path):
  path = shutil.copytree(saved, tmp_path / 'saved')
  file = path / '2' / 'digests.json'
  content = json.loads(file.read_text())
  file.write_text(json.dumps(
      {key: content[key] for key in ('files', 'shapes')}))
  before = commands.hashes(path)
  with pytest.raises(ValueError, match='an older version.*another --workdir'):
    checkpoints.load(path, tell=pytest.fail)
  assert commands.hashes(path) == before


def test_digest_sees_every_bit_and_shape():
  tree = {'w': jnp.arange(4.), 'key': jax.random.key(0), 'dense': None}
  changed = [
      {**tree, 'w': tree['w'].at[2].add(1e-6)},
      {**tree, 'w': tree['w'].reshape(2, 2)},
      {**tree, 'key': jax.random.key(1)}]
  digests = {checkpoints.digest(other) for other in [tree, *changed]}
  assert len(digests) == 4
  assert checkpoints.digest(dict(tree)) in digests


def test_what_is_saved_is_read_without_knowing_what_it_was(tmp_path):
  tree = {'done': jnp.int32(2), 'masks': {'a/b': jnp.ones(3, bool), 'c': None}}
  assert checkpoints.load(tmp_path / 'none') == (0, None)
  for step in (1, 2):
    checkpoints.save(tmp_path / 'saved', step, tree)
  step, found = checkpoints.load(tmp_path / 'saved')
  assert step == 2 and checkpoints.digest(found) == checkpoints.digest(tree)
  for _ in range(2):  # Over what a killed run may have left.
    checkpoints.export(tmp_path / 'given', tree)
  given = checkpoints.read(tmp_path / 'given')
  assert checkpoints.digest(given) == checkpoints.digest(tree)
  assert given['masks']['c'] is None
