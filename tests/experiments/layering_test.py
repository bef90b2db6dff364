"""Imports of experiments go one way, as `experiments/__init__.py` tells it."""

import ast
import pathlib

import pytest

import experiments

_ROOT = pathlib.Path(experiments.__file__).parent
_COMMANDS = ['train', 'sweep', 'compare', 'domains', 'prune', 'render',
             'side_by_side']
# A room -> what it may import of experiments, besides itself.
_RECORDS = {'_utils', 'records'}
_TRAINING = {*_RECORDS, 'data', 'models', 'training'}
_ALLOWED = {
    '_utils': set(), 'records': {'_utils'}, 'data': _RECORDS,
    'models': {*_RECORDS, 'data'}, 'training': {*_RECORDS, 'data', 'models'},
    'reporting': _RECORDS, 'sweeping': {*_TRAINING, 'reporting'},
    'pruning': {*_TRAINING, 'reporting'},
    'configs': set(), 'examples': set(),
    'benchmarks': {*_TRAINING, 'reporting', 'configs'},
    **dict.fromkeys(_COMMANDS, {
        *_TRAINING, 'reporting', 'sweeping', 'pruning', 'configs', *_COMMANDS}),
    'side_by_side': {*_TRAINING, 'reporting', 'benchmarks', 'train'},
}


def _imported(path):
  """Returns the rooms of experiments that a file imports."""
  names = []
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path.name} has a relative import'
      names += [f'{node.module}.{alias.name}' for alias in node.names]
  return {name.split('.')[1] for name in names
          if name.split('.')[0] == 'experiments'}


def test_every_room_is_in_the_table():
  rooms = {path.stem for path in _ROOT.glob('*.py')}
  rooms |= {path.parent.name for path in _ROOT.glob('*/*.py')}
  assert rooms - {'__init__'} == set(_ALLOWED)


@pytest.mark.parametrize('room', _ALLOWED)
def test_rooms_import_what_stands_above_them_alone(room):
  file = _ROOT / f'{room}.py'
  files = [file] if file.exists() else sorted((_ROOT / room).rglob('*.py'))
  assert files
  for path in files:
    assert _imported(path) - {room} <= _ALLOWED[room], path
