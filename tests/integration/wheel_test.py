"""The package as users get it: a wheel, installed where there is no Flax."""

from importlib import metadata
import os
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

import jaxsparse

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
_SOURCES = {'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'jaxsparse'}
_PRUNE = """
import jax
import jax.numpy as jnp
import jaxsparse
import optax

params = {'kernel': jnp.arange(1., 9.).reshape(4, 2), 'bias': jnp.ones(2)}
tx = jaxsparse.sparsify(optax.sgd(0.5), jaxsparse.prune(
    {'kernel': jaxsparse.nm(2, 4), '.*': None}))
updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
params = optax.apply_updates(params, updates)
print(jaxsparse.__file__)
print(jaxsparse.__version__)
print(params['bias'].tolist(), params['kernel'].tolist())
"""
_IMPORT_NN = """
try:
  import jaxsparse.nn
except ImportError as error:
  print(error)
else:
  print('imported')
"""


def _run(*command, folder):
  """The lines that a command prints; a failure shows them."""
  # Nothing is found by way of this repository.
  env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  done = subprocess.run(
      [str(part) for part in command], cwd=folder, env=env, text=True,
      timeout=300, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT)
  assert done.returncode == 0, done.stdout
  return done.stdout.splitlines()


def _with_requirements(*names):
  """Distributions that are installed here, and all those that they need."""
  found, todo = {}, [*names]
  while todo:
    name = canonicalize_name(todo.pop())
    if name not in found:
      found[name] = metadata.distribution(name)
      required = map(Requirement, found[name].requires or ())
      todo += [r.name for r in required
               if r.marker is None or r.marker.evaluate({'extra': ''})]
  return found.values()


@pytest.fixture(scope='module', name='wheel')
def _wheel(tmp_path_factory):
  """The wheel, built from a copy because a build writes beside its sources."""
  folder = tmp_path_factory.mktemp('wheel')

  def left_out(path, names):
    return {'__pycache__'} | (
        {*names} - _SOURCES if pathlib.Path(path) == _ROOT else set())
  shutil.copytree(_ROOT, folder / 'source', ignore=left_out)
  _run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '-w', folder,
       folder / 'source', folder=folder)
  (wheel,) = folder.glob('*.whl')
  return wheel


@pytest.fixture(scope='module', name='python')
def _python(wheel, tmp_path_factory):
  """The Python of an environment with the wheel and what it requires.

  Requirements are linked from here, so that nothing is downloaded, and pip
  then finds them as if it had installed them.
  """
  folder = tmp_path_factory.mktemp('environment')
  venv.create(folder)
  (packages,) = folder.glob('lib/python*/site-packages')
  for distribution in _with_requirements('jax', 'numpy', 'optax'):
    tops = {pathlib.PurePath(file).parts[0] for file in distribution.files}
    for top in tops - {'..', '__pycache__'}:
      (packages / top).symlink_to(distribution.locate_file(top))
  python = folder / 'bin/python'
  _run(sys.executable, '-m', 'pip', '--python', python, 'install',
       '--no-index', wheel, folder=folder)
  return python


def test_wheel_holds_every_module_py_typed_and_nothing_else(wheel):
  files = {str(path.relative_to(_ROOT))
           for path in (_ROOT / 'jaxsparse').rglob('*.py')}
  assert 'jaxsparse/packed/kernels/__init__.py' in files
  with zipfile.ZipFile(wheel) as archive:
    held = {name for name in archive.namelist() if '.dist-info/' not in name}
  assert held == files | {'jaxsparse/py.typed'}
  assert wheel.name.startswith(f'jaxsparse-{jaxsparse.__version__}-')


def test_every_folder_of_the_library_is_a_package():
  for path in (_ROOT / 'jaxsparse').rglob('*.py'):
    assert path.with_name('__init__.py').is_file(), path


def test_library_prunes_where_there_is_no_flax(python, tmp_path):
  file, version, params = _run(python, '-I', '-c', _PRUNE, folder=tmp_path)
  assert python.parents[1] in pathlib.Path(file).parents
  assert version == jaxsparse.__version__
  assert params == '[0.5, 0.5] [[0.0, 0.0], [0.0, 0.0], [2.5, 3.0], [3.5, 4.0]]'


def test_layers_of_flax_say_that_flax_is_missing(python, tmp_path):
  (said,) = _run(python, '-I', '-c', _IMPORT_NN, folder=tmp_path)
  assert said == "No module named 'flax'"
