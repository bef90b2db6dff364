"""Files of recipes: what is read, what is told, and the bounds of both.

Whatever a file holds, it is a recipe or a short `ValueError` with the name of
the file. A bomb of aliases would not end if it were not counted.
"""

import json
import re

import pytest

from jaxsparse.recipes import _files
from jaxsparse.recipes import from_recipe
from tests._lib.deep import deep


def _error(path):
  """The message about a file, or `None` if it is read."""
  try:
    from_recipe(path, total_steps=1_000)
  except ValueError as error:
    assert type(error) is ValueError
    assert len(str(error)) < 1_500
    return str(error)
  return None


_FILES = {
    # Nothing, and other things than mappings.
    'empty.yaml': '', 'empty.json': '', 'blank.yaml': '  \n\n', 'null': 'null',
    'list': '- a', 'text': 'abc', 'number': '5', 'list.json': '[1]',
    'nan': 'sparsity: .nan', 'inf': 'sparsity: .inf',
    'nan.json': '{"sparsity": NaN}', 'broken.json': '{"sparsity": 0.9',
    'infinity.json': '{"sparsity": 0.9, "regularizer": '
                     '{"group_lasso": {"alpha": Infinity}}}',
    # Encodings.
    'latin': b'sparsity: 0.9\nnames: "\xe9\xff"', 'nul': b'sparsity: 0.9\x00',
    'utf16': 'sparsity: 0.9'.encode('utf-16'),
    'latin.json': b'{"sparsity": 0.9, "names": "\xff"}',
    # Code.
    'os': "sparsity: !!python/object/apply:os.system ['touch pwned']",
    'new': "!!python/object/new:os.system ['touch pwned']",
    'own': "!python/object/apply:os.system ['touch pwned']",
    'module': 'sparsity: !!python/module:os',
    'name': 'sparsity: !!python/name:os.system',
    # Keys.
    'twice': 'sparsity: 0.9\nsparsity: 0.5',
    'twice.json': '{"sparsity": 0.9, "sparsity": 0.5}',
    'list_key': '? [a, b]\n: 1', 'map_key': '? {a: b}\n: 1', 'emoji': '🦄: 1',
    # Syntax, aliases and merges.
    'tab': '\tsparsity: 0.9', 'open': '{sparsity: 0.9', 'undefined': 'a: *x',
    'documents': 'sparsity: 0.9\n---\nsparsity: 0.5',
    'cycle': '&a {sparsity: 0.9, layers: [*a]}', 'cycle_list': '&a [*a]',
    'cycle_names': 'sparsity: 0.9\nnames: &a [*a]',
    'cycle_key': '&a {? *a : 1}', 'merge_cycle': '<<: &a {<<: *a}',
    'merge_number': '<<: 5', 'merge_numbers': '<<: [1, 2]',
    # Tags.
    'bool': 'lock: !!bool maybe\nsparsity: 0.9', 'int': "start: !!int ''",
    'int_word': 'start: !!int abc', 'float': 'sparsity: !!float abc',
    'time': 'sparsity: !!timestamp abc', 'date': 'sparsity: 2020-99-99',
    'binary': 'sparsity: !!binary "@@@"', 'set': 'sparsity: !!set {a, b}',
    'omap': 'sparsity: !!omap [a]', 'pairs': 'sparsity: !!pairs [a: 1]',
    'bang': '!Pruner 5', 'bang_value': 'sparsity: !Foo 0.9',
    'bang_list': 'layers: !Foo [a]', 'yes': 'sparsity: yes',
    # Sizes.
    'digits': 'sparsity: ' + '9' * 10_000, 'deep': '[' * 3_000 + ']' * 3_000,
    'digits.json': '{"sparsity": ' + '9' * 10_000 + '}',
    'deep_key': 'sparsity: ' + '{a: ' * 2_000 + '1' + '}' * 2_000,
    'deep.json': '{"sparsity": ' + '[' * 10**5 + ']' * 10**5 + '}',
    'large': 'sparsity: 0.9\n' + '#' * 5_000_000,
    'long': 'sparsity: 0.9\nnames: ' + 'a' * 10**5,
    'many': 'names: [' + 'a,' * 50_000 + ']',
    'many.json': json.dumps({'names': ['a'] * 50_000}),
}


@pytest.mark.parametrize('name', _FILES)
def test_a_file_that_holds_no_recipe_is_told(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / (name if '.' in name else f'{name}.yaml')
  content = _FILES[name]
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  assert path.name in _error(path)
  assert [each.name for each in tmp_path.iterdir()] == [path.name]


def _bomb(levels):
  lists = ['&l0 [x, x, x, x, x, x, x, x, x, x]'] + [
      f'&l{i + 1} [' + ', '.join([f'*l{i}'] * 10) + ']' for i in range(levels)]
  return '\n'.join(f'- {each}' for each in lists)


@pytest.mark.parametrize('begin', ['', 'sparsity: 0.9\nnames:\n'])
def test_aliases_count_as_what_they_stand_for(tmp_path, begin):
  path = tmp_path / 'bomb.yaml'
  path.write_text(begin + _bomb(2))
  assert 'more than' not in _error(path)  # A thousand values.
  path.write_text(begin + _bomb(30))  # And more than there are atoms.
  assert 'bomb.yaml' in _error(path)
  assert f'more than {_files.MOST_VALUES} values' in _error(path)


def test_aliases_that_share_settings_are_read(tmp_path):
  path = tmp_path / 'prune.yaml'
  path.write_text('sparsity: &s 0.9\nmax_sparsity: *s\nlayers:\n'
                  '- &one {names: a/kernel, pattern: 4x1}\n'
                  '- {<<: *one, names: head/kernel}\n')
  whole = from_recipe(path, total_steps=100).recipe
  assert whole['max_sparsity'] == .9
  assert [layer['pattern'] for layer in whole['layers']] == ['4x1', '4x1']


def test_the_bounds_are_those_of_the_module():
  inside = {'a': ['x'] * 1_000}
  _files.check_bounds('it', [inside] * (_files.MOST_VALUES // 1_010))
  with pytest.raises(ValueError, match='it has more than'):
    _files.check_bounds('it', [inside] * (_files.MOST_VALUES // 1_000))
  _files.check_bounds('it', deep(_files.DEEPEST))
  with pytest.raises(ValueError, match='nested'):
    _files.check_bounds('it', deep(_files.DEEPEST + 1))
  own = {}
  own['own'] = own
  with pytest.raises(ValueError, match='nested'):
    _files.check_bounds('it', own)


def test_a_mark_of_the_byte_order_is_read(tmp_path):
  path = tmp_path / 'prune.json'
  path.write_bytes(b'\xef\xbb\xbf{"sparsity": 0.9}')
  assert _error(path) is None


@pytest.mark.parametrize('path', ['', '/dev/null', '/dev/zero', 'a\0b', '.'])
def test_what_is_no_file_is_told(path):
  assert re.search('is not the path|must be a file', _error(path))


@pytest.mark.parametrize('path', ['/nothing.yaml', 'a' * 5_000, '~'])
def test_a_file_that_is_not_there_is_an_error_of_python(path):
  with pytest.raises(OSError):
    from_recipe(path, total_steps=100)
