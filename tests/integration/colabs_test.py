"""The notebooks run, from top to bottom, with fewer steps."""

import ast
import doctest
import json
import sys

from flax import nnx
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest

from colabs import build
from colabs import common
import jaxsparse

_FEWER = {'STEPS': 60}
_NOTEBOOKS = ('dynamic_sparse', 'newer_methods', 'nm_training', 'one_shot',
              'packed_matmul', 'permutation', 'quickstart', 'recipes')
_LONG = ('dynamic_sparse', 'newer_methods', 'nm_training', 'packed_matmul',
         'permutation')
# Those whose steps take longest.
_FEWEST = {'dynamic_sparse': 40, 'packed_matmul': 20}
# Those that compute for longer than it takes to compile them.
_OPTIMIZED = ('dynamic_sparse', 'packed_matmul')


@pytest.fixture
def standard_settings(monkeypatch):
  """Notebooks are run as users run them, in their own folder."""
  monkeypatch.syspath_prepend(str(build.FOLDER))
  monkeypatch.setattr(plt, 'show', lambda: None)
  with jax.numpy_dtype_promotion('standard'):
    with jax.numpy_rank_promotion('allow'):
      with plt.rc_context():
        yield
  plt.close('all')
  sys.modules.pop('common', None)


@pytest.fixture
def optimized(name):
  setting = 'jax_disable_most_optimizations'
  before = jax.config.values[setting]
  jax.config.update(setting, before and name not in _OPTIMIZED)
  yield
  jax.config.update(setting, before)


def _cells(text):
  for cell in json.loads(text)['cells']:
    if cell['cell_type'] == 'code':
      tags = cell['metadata'].get('tags', [])
      yield ''.join(cell['source']), 'parameters' in tags


def _with_fewer_steps(source, name):
  """Replaces the numbers assigned in a cell of parameters."""
  tree = ast.parse(source)
  for node in tree.body:
    steps = _FEWER[node.targets[0].id]
    node.value = ast.Constant(_FEWEST.get(name, steps))
  return ast.unparse(tree)


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[pytest.mark.slow] * (name in _LONG))
    for name in _NOTEBOOKS])
@pytest.mark.usefixtures('standard_settings', 'optimized')
def test_notebook_runs(name, capsys):
  path = build.FOLDER / f'{name}.ipynb'
  namespace, parameters = {'__name__': '__main__'}, 0
  for source, is_parameters in _cells(path.read_text(encoding='utf-8')):
    parameters += is_parameters
    source = _with_fewer_steps(source, name) if is_parameters else source
    exec(compile(source, path.name, 'exec'), namespace)
  assert parameters == 1
  assert plt.get_fignums()  # It drew something,
  assert 'accuracy' in capsys.readouterr().out  # and measured something.


def test_every_notebook_is_tested():
  assert tuple(path.stem for path in build.scripts()) == _NOTEBOOKS


def test_notebooks_are_those_of_their_scripts():
  """After an edit: `python -m colabs.build`."""
  assert build.outdated() == []


_SCRIPT = '''# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Title

# %% tags=["parameters"]
STEPS = 1
'''


def test_a_build_writes_what_is_outdated(tmp_path):
  script = tmp_path / 'one.py'
  script.write_text(_SCRIPT)
  (tmp_path / 'module.py').write_text('"""No notebook."""\n')
  path = tmp_path / 'one.ipynb'
  assert build.outdated(tmp_path) == [path]
  assert build.build(tmp_path) == [path]
  assert build.build(tmp_path) == []
  assert [*_cells(path.read_text())] == [('STEPS = 1', True)]
  script.write_text(_SCRIPT.replace('STEPS = 1', 'STEPS = 2'))
  assert build.outdated(tmp_path) == [path]
  build.build(tmp_path)
  assert [*_cells(path.read_text())] == [('STEPS = 2', True)]


def test_a_build_makes_the_same_text_each_time():
  for script in build.scripts():
    assert build.notebook(script) == build.notebook(script)


def test_a_notebook_without_a_script_is_an_error(tmp_path):
  (tmp_path / 'lost.ipynb').write_text('{}')
  assert build.outdated(tmp_path) == [tmp_path / 'lost.ipynb']
  with pytest.raises(ValueError, match='lost.ipynb has no script.*lost.py'):
    build.build(tmp_path)
  assert (tmp_path / 'lost.ipynb').exists()


@pytest.mark.parametrize('arguments, status, said', [
    (['--check'], 1, 'one.ipynb is outdated: run python -m colabs.build\n'),
    ([], 0, 'wrote one.ipynb\n')], ids=['check', 'build'])
def test_command(arguments, status, said, tmp_path, capsys):
  (tmp_path / 'one.py').write_text(_SCRIPT)
  assert build.main(arguments, tmp_path) == status
  assert capsys.readouterr().out == said
  assert (tmp_path / 'one.ipynb').exists() == (status == 0)


def test_examples_of_the_shared_module():
  assert doctest.testmod(common).attempted == 2
  assert doctest.testmod(common).failed == 0


def test_the_digits_are_split_alike():
  images, test_images, labels, test_labels = common.load_digits()
  assert images.shape == (1297, 64) and test_images.shape == (500, 64)
  assert labels.shape == (1297,) and test_labels.shape == (500,)
  assert images.min() == -0.5 and images.max() == 0.5
  np.testing.assert_array_equal(images, common.load_digits()[0])


@pytest.mark.usefixtures('standard_settings')
def test_training_stays_at_the_sparse_point_and_learns():
  apply, params = common.functional(common.MLP(8, 8, rngs=nnx.Rngs(0)))
  tx = jaxsparse.sparsify(optax.sgd(0.1), jaxsparse.prune(
      {'hidden/.*/kernel': jaxsparse.nm(2, 4), '.*': None}))
  x_train, _, y_train, _ = common.load_digits()

  def loss_fn(params, x, y):
    return common.cross_entropy(apply(params, x), y)

  def record(loss, params, opt_state):
    kernel = params['hidden'][0]['kernel'][...]
    return loss, (kernel != 0).mean()

  _, _, (losses, kept) = common.train(
      tx, params, loss_fn=loss_fn, data=(x_train, y_train), steps=30,
      record=record)
  np.testing.assert_array_equal(kept, np.full(30, 0.5))
  assert losses.shape == (30,)
  assert losses[-5:].mean() < losses[:5].mean()
