"""Loops of examples: each prunes, saves, restores, and says what it prints."""

import importlib
import inspect
import re
import tempfile

import orbax.checkpoint as ocp
import pytest

from tests._lib import commands

pytestmark = [
    pytest.mark.usefixtures('launched'),
    # Of Keras, with newer releases of jax.
    pytest.mark.filterwarnings(
        'ignore:Explicitly requested dtype int64:UserWarning')]

_EXAMPLES = ['equinox_loop', 'haiku_loop', 'keras_loop', 'linen_train_state',
             'nnx_optimizer']


@pytest.fixture(name='example', params=_EXAMPLES)
def _example(request, monkeypatch, tmp_path):
  """The module of an example, which saves to `tmp_path`."""
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  return importlib.import_module(f'experiments.examples.{request.param}')


def test_example_learns_prunes_saves_and_restores(example, capsys, tmp_path):
  example.main(steps=40)
  accuracy, *table, last = capsys.readouterr().out.splitlines()
  assert float(re.fullmatch(r'test accuracy (.*)%', accuracy)[1]) > 50
  sparse, = (line for line in table if line.startswith('sparse layers'))
  assert sparse.split()[2:] == ['90.0%', '1,894', '18,944']
  assert last == 'restored: the same masks, the same outputs'
  assert list(tmp_path.glob('*/state'))


def test_example_finds_out_if_something_else_is_restored(example, monkeypatch):
  monkeypatch.setattr(ocp.StandardCheckpointer, 'restore',
                      lambda self, path, target: target)
  with pytest.raises(AssertionError, match='not equal'):
    example.main(steps=4)


def test_example_is_one_page(example):
  assert len(inspect.getsource(example).splitlines()) < 80


@pytest.mark.slow
def test_example_prints_what_its_docstring_says(example, capsys):
  _, text = inspect.getdoc(example).split('$ python -m ')
  command, accuracy, *table = (line.strip() for line in text.splitlines())
  assert command == example.__name__
  if command.endswith('nnx_optimizer'):  # One of them as it says.
    shown, errors = commands.python(command).communicate()
    assert not errors
  else:
    example.main(steps=300)
    shown = capsys.readouterr().out
  measured, *lines = shown.splitlines()
  assert [line.strip() for line in lines] == table
  said, found = (float(re.search(r'([\d.]+)%', line)[1])
                 for line in (accuracy, measured))
  assert found == pytest.approx(said, abs=1.5)
