"""The house: imports go down, names are exported once, rooms have tests.

The order of the packages stands in CONTRIBUTING.md, once, for people and for
this test.
"""

import ast
import contextlib
import importlib
import pathlib
import pkgutil
import re
import types

import pytest

import jaxsparse

_ROOT = pathlib.Path(__file__).parents[2]
_LIBRARY = _ROOT / 'jaxsparse'
_STANDARD = {'collections', 'copy', 'dataclasses', 'difflib', 'functools',
             'inspect', 'itertools', 'json', 'math', 'operator', 're',
             'types', 'typing', 'warnings'}
# Words after `jaxsparse.` that are no names: suffixes of files, a bad import.
_ELSEWHERE = {'egg'}
# Imported inside of the functions that need it.
_MORE = {'_utils.tables': {'pathlib'},
         'recipes._files': {'pathlib', 'stat', 'yaml'},
         'recipes.building': {'pathlib'},
         'training.hooks': {'flax'}}


def _order():
  """The packages of the library, from the lowest to the highest."""
  text = (_ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
  block = re.search(
      r'## The order of the packages\n.*?```\w*\n(.*?)```', text, re.DOTALL)
  return [line.split()[0] for line in block[1].splitlines() if line.strip()]


def _modules():
  """Every file of the library, by its name below `jaxsparse`."""
  files = sorted(_LIBRARY.rglob('*.py'))
  names = ['.'.join(path.relative_to(_LIBRARY).with_suffix('').parts)
           for path in files]
  return {name.removesuffix('.__init__'): path
          for name, path in zip(names, files) if name != '__init__'}


def _imports(path):
  """The dotted names that a file imports, anywhere in it."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path.name} has a relative import'
      for alias in node.names:
        yield f'{node.module}.{alias.name}'


def _own(path):
  """What a file imports of the library, below `jaxsparse`."""
  names = [n for n in _imports(path) if n.split('.')[0] == 'jaxsparse']
  return [name.removeprefix('jaxsparse.') for name in names]


def _module_of(name, modules):
  """The module that an imported name is or stands in."""
  return name if name in modules else name.rpartition('.')[0]


def _packages():
  """The packages and the modules of the vocabulary, imported."""
  return [importlib.import_module(f'jaxsparse.{name}') for name in _order()
          if not name.startswith('_')]


def test_every_package_has_its_place_in_the_order():
  rooms = {name.split('.')[0] for name in _modules()} - {'_version'}
  assert sorted(rooms) == sorted(_order())


def test_imports_go_down():
  order = ['_version', *_order()]
  for name, path in _modules().items():
    here = order.index(name.split('.')[0])
    for other in _own(path):
      there = order.index(other.split('.')[0])
      assert there <= here, f'{name} imports {other}, which stands above it'


def test_modules_of_a_package_import_each_other_in_no_circle():
  modules = _modules()
  below = {name: {_module_of(other, modules) for other in _own(path)} - {name}
           for name, path in modules.items()}
  while below:
    lowest = [name for name, others in below.items() if not others & {*below}]
    assert lowest, f'a circle of imports among {sorted(below)}'
    for name in lowest:
      del below[name]


def test_private_modules_stay_in_their_package():
  for name, path in _modules().items():
    for other in _own(path):
      package, *inside = other.split('.')
      if any(part.startswith('_') for part in inside):
        assert package == name.split('.')[0], f'{name} imports {other}'


def test_kernels_need_only_jax_and_numpy():
  for path in (_LIBRARY / 'packed/kernels').glob('*.py'):
    roots = {name.split('.')[0] for name in _imports(path)}
    assert roots <= {'jax', 'jaxlib', 'numpy'} | _STANDARD, path.name


def test_the_library_needs_only_jax_optax_and_numpy():
  allowed = {'jax', 'optax', 'numpy', 'jaxsparse'} | _STANDARD
  for name, path in _modules().items():
    if name.split('.')[0] != 'nn' and 'kernels' not in name:
      roots = {other.split('.')[0] for other in _imports(path)}
      assert roots <= allowed | _MORE.get(name, set()), name


def test_nothing_private_of_jax_is_imported():
  for path in _LIBRARY.rglob('*.py'):
    assert not [n for n in _imports(path) if '._src' in n], path


def test_the_root_has_at_most_sixty_names():
  assert len(jaxsparse.__all__) == len({*jaxsparse.__all__}) <= 60
  for name in jaxsparse.__all__:
    assert hasattr(jaxsparse, name), name


@pytest.mark.parametrize('package', _packages(), ids=lambda p: p.__name__)
def test_all_names_of_a_package_exist_and_none_is_a_module(package):
  assert package.__doc__
  for name in package.__all__:
    thing = getattr(package, name)
    assert not isinstance(thing, types.ModuleType), name
    # A name that is private elsewhere is not made public by an import.
    assert not name.startswith('_')


@pytest.mark.parametrize('package', _packages(), ids=lambda p: p.__name__)
def test_no_function_shares_its_name_with_a_module_beside_it(package):
  for module in pkgutil.iter_modules(getattr(package, '__path__', ())):
    thing = getattr(package, module.name, None)
    assert thing is None or isinstance(thing, types.ModuleType), module.name
  with pytest.raises(ImportError):
    importlib.import_module('jaxsparse.slim')


def _mentioned():
  """All names of the package in code, docstrings and messages."""
  for folder in ('jaxsparse', 'experiments', 'colabs', 'tests'):
    for path in sorted((_ROOT / folder).rglob('*.py')):
      text = path.read_text(encoding='utf-8')
      for name in {*re.findall(r'\bjaxsparse((?:\.[A-Za-z]\w*)+)', text)}:
        yield path.relative_to(_ROOT), name


def test_names_that_are_mentioned_exist():
  for path, name in _mentioned():
    thing = jaxsparse
    for part in name.split('.')[1:]:
      if not hasattr(thing, part) and isinstance(thing, types.ModuleType):
        with contextlib.suppress(ImportError):
          importlib.import_module(f'{thing.__name__}.{part}')
      if part in _ELSEWHERE or not isinstance(thing, types.ModuleType):
        break
      assert hasattr(thing, part), f'{path} says jaxsparse{name}'
      thing = getattr(thing, part)


def test_every_module_has_tests_of_its_name():
  tests = {path.relative_to(_ROOT / 'tests')
           for path in (_ROOT / 'tests').rglob('*_test.py')}
  for name in _modules():
    *rooms, module = name.split('.')
    folder = pathlib.Path(*rooms)
    if (_LIBRARY / name.replace('.', '/')).is_dir() or module == '_version':
      continue
    stem = module.lstrip('_')
    assert any(test.parent == folder and test.stem in (
        f'{stem}_test',) or test.parent == folder and test.stem.startswith(
            f'{stem}_') for test in tests), f'no tests/{folder}/{stem}_test.py'
