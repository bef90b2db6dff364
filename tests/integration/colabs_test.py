"""The notebooks run, from top to bottom, with fewer steps."""

import ast
import json
import pathlib

import jax
import jupytext
import matplotlib.pyplot as plt
import pytest

_COLABS = pathlib.Path(__file__).parents[1] / 'colabs'
_FEWER = {'STEPS': 60}
_LONG = ('dynamic_sparse', 'packed_matmul', 'nm_training', 'permutation')


@pytest.fixture(autouse=True)
def standard_settings():
  """Notebooks are run as users run them."""
  name = 'jax_disable_most_optimizations'
  before = jax.config.values[name]
  jax.config.update(name, False)
  with jax.numpy_dtype_promotion('standard'):
    with jax.numpy_rank_promotion('allow'):
      yield
  jax.config.update(name, before)
  plt.close('all')


def _cells(path):
  notebook = json.loads(path.read_text(encoding='utf-8'))
  for cell in notebook['cells']:
    if cell['cell_type'] == 'code':
      tags = cell['metadata'].get('tags', [])
      yield ''.join(cell['source']), 'parameters' in tags


def _with_fewer_steps(source):
  """Replaces the numbers assigned in a cell of parameters."""
  tree = ast.parse(source)
  for node in tree.body:
    name = node.targets[0].id
    node.value = ast.Constant(_FEWER[name])
  return ast.unparse(tree)


@pytest.mark.parametrize('path', [
    pytest.param(path, marks=[pytest.mark.slow] * (path.stem in _LONG))
    for path in sorted(_COLABS.glob('*.ipynb'))], ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch, capsys):
  monkeypatch.setattr(plt, 'show', lambda: None)
  namespace, parameters = {'__name__': '__main__'}, 0
  for source, is_parameters in _cells(path):
    parameters += is_parameters
    source = _with_fewer_steps(source) if is_parameters else source
    exec(compile(source, path.name, 'exec'), namespace)
  assert parameters == 1
  assert plt.get_fignums()  # It drew something,
  assert 'accuracy' in capsys.readouterr().out  # and measured something.


@pytest.mark.parametrize('path', sorted(_COLABS.glob('*.py')),
                         ids=lambda path: path.stem)
def test_notebook_is_that_of_its_script(path):
  """After an edit: `jupytext --to ipynb colabs/NAME.py`."""
  script = jupytext.read(path)
  notebook = jupytext.read(path.with_suffix('.ipynb'))
  assert ([(c.cell_type, c.source) for c in script.cells]
          == [(c.cell_type, c.source) for c in notebook.cells])
