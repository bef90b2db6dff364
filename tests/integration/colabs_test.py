"""The notebooks run, with fewer steps, and have the outputs of a full run."""

import ast
import doctest
import json
import re
import sys

from flax import nnx
import jax
import matplotlib.pyplot as plt
import nbclient
import numpy as np
import optax
from PIL import Image
import pytest

from colabs import build
from colabs import common
import jaxsparse

_FEWER = {'STEPS': 60, 'REPEATS': 2}
_NOTEBOOKS = ('dynamic_sparse', 'newer_methods', 'nm_training', 'one_shot',
              'packed_matmul', 'permutation', 'quickstart', 'recipes')
_LONG = ('dynamic_sparse', 'newer_methods', 'nm_training', 'packed_matmul',
         'permutation')
# Of those whose steps take longest.
_FEWEST = {'dynamic_sparse': {'STEPS': 40}, 'packed_matmul': {'STEPS': 20}}
# Those that compute for longer than it takes to compile them.
_OPTIMIZED = ('packed_matmul',)


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
  tree, fewer = ast.parse(source), {**_FEWER, **_FEWEST.get(name, {})}
  for node in tree.body:
    node.value = ast.Constant(fewer[node.targets[0].id])
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


def test_notebooks_have_outputs_of_the_code_that_they_show():
  """After an edit of code: `python -m colabs.build --run`."""
  assert build.not_run() == []


def _stored(path):
  cells = json.loads(path.read_text(encoding='utf-8'))['cells']
  return [cell for cell in cells if cell['cell_type'] == 'code']


def _outputs(path):
  return [output for cell in _stored(path) for output in cell['outputs']]


def _printed(path):
  return ''.join(''.join(output.get('text', '')) for output in _outputs(path))


@pytest.mark.parametrize('name', _NOTEBOOKS)
def test_outputs_are_of_one_run_without_errors_and_warnings(name):
  path = build.FOLDER / f'{name}.ipynb'
  counts = [cell['execution_count'] for cell in _stored(path)]
  assert counts == [*range(1, len(counts) + 1)]
  for output in _outputs(path):
    if output['output_type'] == 'stream':
      assert output['name'] == 'stdout'
    else:
      assert output['output_type'] == 'display_data'
      assert {*output['data']} == {'image/png', 'text/plain'}


@pytest.mark.parametrize('name', _NOTEBOOKS)
def test_a_notebook_shows_a_figure_and_a_measurement(name):
  path = build.FOLDER / f'{name}.ipynb'
  assert all(image.width >= 600 for image in build.figures(path))
  assert [*build.figures(path)] and 'accuracy' in _printed(path)


@pytest.mark.parametrize('name', _NOTEBOOKS)
def test_outputs_name_no_place_on_a_machine(name):
  printed = _printed(build.FOLDER / f'{name}.ipynb')
  assert not re.search(r'(?m)(?:^|[\s\'"(=:])(?:/\w|~/|[A-Z]:\\)', printed)
  assert not re.search(r'0x[0-9a-f]{6}|\r|\x1b', printed)


@pytest.mark.parametrize('name', _NOTEBOOKS)
def test_a_notebook_is_small(name):
  assert (build.FOLDER / f'{name}.ipynb').stat().st_size < 300_000


@pytest.mark.parametrize('name', _NOTEBOOKS)
def test_a_thumbnail_is_a_figure_of_its_notebook(name):
  """After a run: `python docs/_figures/gallery.py`."""
  small = Image.open(
      build.FOLDER.parent / f'docs/_static/gallery/{name}.png').convert('RGB')
  differences = [
      np.abs(np.asarray(image.resize(small.size), float)
             - np.asarray(small, float)).mean()
      for image in build.figures(build.FOLDER / f'{name}.ipynb')]
  assert min(differences) < 3  # Of 255: colors were reduced.


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


_PRINTS = _SCRIPT + '''
# %%
import pathlib
print(STEPS, end=' ')
pathlib.Path('here.txt').write_text('')
print('\\x1b[31mand two\\x1b[0m')  # In red.
'''
_DRAWS = _PRINTS + '''
# %%
import matplotlib.pyplot as plt
_ = plt.plot([1, 2])
plt.show()
'''


def test_outputs_stay_until_the_code_changes(tmp_path):
  script, path = tmp_path / 'one.py', tmp_path / 'one.ipynb'
  script.write_text(_DRAWS)
  assert build.not_run(tmp_path) == [path]
  build.run(path)
  assert build.not_run(tmp_path) == build.outdated(tmp_path) == []
  assert (tmp_path / 'here.txt').exists()  # It ran in its folder.
  assert _printed(path) == '1 and two\n'
  (image,) = build.figures(path)
  assert image.width > 700 and len(image.getcolors()) <= 64
  outputs = _outputs(path)
  assert len(outputs) == 2

  script.write_text(_DRAWS.replace('# # Title', '# # Another title'))
  assert build.outdated(tmp_path) == build.build(tmp_path) == [path]
  assert 'Another title' in path.read_text()
  assert _outputs(path) == outputs and build.not_run(tmp_path) == []

  script.write_text(_DRAWS.replace('STEPS = 1', 'STEPS = 2'))
  assert build.outdated(tmp_path) == build.build(tmp_path) == [path]
  assert _outputs(path) == [] and build.not_run(tmp_path) == [path]


def test_a_run_with_warnings_is_an_error_and_writes_nothing(tmp_path):
  (tmp_path / 'one.py').write_text(
      _PRINTS + 'import warnings\nwarnings.warn("look")\n')
  with pytest.raises(ValueError, match='one.ipynb writes to stderr: .*look'):
    build.run(tmp_path / 'one.ipynb')
  assert not (tmp_path / 'one.ipynb').exists()


def test_a_run_that_fails_is_an_error_and_writes_nothing(tmp_path):
  (tmp_path / 'one.py').write_text(_PRINTS + '1 / 0\n')
  with pytest.raises(nbclient.exceptions.CellExecutionError, match='Zero'):
    build.run(tmp_path / 'one.ipynb')
  assert not (tmp_path / 'one.ipynb').exists()


def test_a_conflict_in_a_notebook_is_built_anew(tmp_path):
  (tmp_path / 'one.py').write_text(_SCRIPT)
  (tmp_path / 'one.ipynb').write_text('<<<<<<< ours\n')
  assert build.build(tmp_path) == [tmp_path / 'one.ipynb']
  assert build.outdated(tmp_path) == []


def test_a_build_makes_the_same_text_each_time():
  for script in build.scripts():
    assert build.notebook(script) == build.notebook(script)


def test_a_notebook_without_a_script_is_an_error(tmp_path):
  (tmp_path / 'lost.ipynb').write_text('{}')
  assert build.outdated(tmp_path) == [tmp_path / 'lost.ipynb']
  with pytest.raises(ValueError, match='lost.ipynb has no script.*lost.py'):
    build.build(tmp_path)
  assert (tmp_path / 'lost.ipynb').exists()


_NO_OUTPUTS = ('one.ipynb has no outputs of its code: '
               'run python -m colabs.build --run one\n')


@pytest.mark.parametrize('arguments, status, said', [
    (['--check'], 1,
     'one.ipynb is outdated: run python -m colabs.build\n' + _NO_OUTPUTS),
    ([], 0, 'wrote one.ipynb\n' + _NO_OUTPUTS),
    (['--run'], 0, 'wrote one.ipynb\nran one.ipynb\n'),
    (['--run', 'colabs/one.ipynb'], 0, 'wrote one.ipynb\nran one.ipynb\n'),
], ids=['check', 'build', 'run', 'run one'])
def test_command(arguments, status, said, tmp_path, capsys):
  (tmp_path / 'one.py').write_text(_SCRIPT)
  assert build.main(arguments, tmp_path) == status
  assert capsys.readouterr().out == said
  assert (tmp_path / 'one.ipynb').exists() == (arguments != ['--check'])
  assert build.main(['--check'], tmp_path) == ('--run' not in arguments)


def test_a_name_without_a_script_is_an_error(tmp_path):
  (tmp_path / 'one.py').write_text(_SCRIPT)
  with pytest.raises(ValueError, match="got two, expected one of .'one'."):
    build.main(['--run', 'two'], tmp_path)


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
