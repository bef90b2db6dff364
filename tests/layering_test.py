"""Imports go strictly down: the house as `jaxsparse/__init__.py` tells it."""

import ast
import pathlib

_ROOT = pathlib.Path(__file__).parents[1] / 'jaxsparse'
_LEVELS = {
    'trees': 0, 'counts': 0, 'axes': 0, 'wiring': 0, 'tables': 0,
    'packing': 0, 'kernels': 0, 'recipe_keys': 0, 'condensed': 0,
    'topk': 1, 'scores': 1, 'schedules': 1, 'flows': 1, 'accounting': 1,
    'patterns': 1, 'costs': 1, 'partitions': 1, 'relations': 1, 'units': 1,
    'products': 1, 'transposable': 1, 'recipe_defaults': 1,
    'neural_compressor': 1,
    'selection': 2, 'values': 2, 'reordering': 2, 'readers': 2,
    'packed_params': 2, 'packed_sharding': 2, 'unit_sums': 2,
    'distributions': 3, 'reading': 3, 'permute': 3, 'slim': 3,
    'folding': 3, 'nn': 3,
    'rules': 4, 'scopes': 4, 'ties': 4, 'contractions': 4,
    'transform': 5, 'staging': 5, 'topkast': 5, 'growing': 5,
    'regularizers': 5, 'sensitivity': 5, 'progressive': 5, 'combining': 5,
    'observation': 6, 'recipes': 6, 'channels': 6, 'recipe_files': 6,
    'hooks': 6,
    'dynamic': 7,
}
# What thin adapters import, inside of the functions that need it.
_MORE = {'recipe_files': {'json', 'pathlib', 'yaml'}, 'hooks': {'flax'}}


def _imports(path):
  """The dotted names that a file imports, anywhere in it."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path.name} has a relative import'
      for alias in node.names:
        yield f'{node.module}.{alias.name}'


def _files(room):
  """The files of a room: one, or those of a folder."""
  file = _ROOT / f'{room}.py'
  return [file] if file.exists() else sorted((_ROOT / room).glob('*.py'))


def _rooms(path):
  """The rooms of the house that a file imports."""
  names = [n for n in _imports(path) if n.split('.')[0] == 'jaxsparse']
  assert all(len(n.split('.')) > 1 and n.split('.')[1] in _LEVELS
             for n in names), f'{path.name} imports the root or an unknown room'
  return {n.split('.')[1] for n in names}


def test_every_room_has_a_level():
  rooms = {p.stem for p in _ROOT.glob('*.py')}
  rooms |= {p.parent.name for p in _ROOT.glob('*/*.py')}
  assert rooms - {'__init__'} == set(_LEVELS)


def test_imports_go_down():
  for room, level in _LEVELS.items():
    for path in _files(room):
      for other in _rooms(path) - {room}:
        assert _LEVELS[other] < level, f'{room} imports {other}'


def test_kernels_need_only_jax_and_numpy():
  for path in _files('kernels'):
    roots = {name.split('.')[0] for name in _imports(path)}
    assert roots <= {'jax', 'jaxlib', 'numpy', 'functools', 'math', 'typing',
                     'dataclasses', 'collections', 'itertools'}, path.name


def test_the_library_needs_only_jax_optax_and_numpy():
  allowed = {'jax', 'optax', 'numpy', 'jaxsparse', 'collections', 'copy',
             'dataclasses', 'difflib', 'functools', 'itertools', 'math', 're',
             'typing'}
  for room in set(_LEVELS) - {'kernels', 'nn'}:
    path = _ROOT / f'{room}.py'
    roots = {name.split('.')[0] for name in _imports(path)}
    roots -= allowed | _MORE.get(room, set())
    assert not roots, f'{path.name}: {roots}'


def test_nothing_private_of_jax_is_imported():
  for path in _ROOT.rglob('*.py'):
    assert not [n for n in _imports(path) if '._src' in n]


def test_every_room_has_tests():
  tests = _ROOT.parent / 'tests'
  for room in _LEVELS:
    assert (tests / f'{room}_test.py').exists() or list(
        tests.glob(f'{room}_*_test.py')), room
