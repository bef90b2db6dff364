"""Examples of settings, such as a mesh: each says what it prints."""

import importlib
import inspect
import re
import tempfile

import numpy as np
import pytest

from tests._lib import commands
from tests.experiments import examples_test

pytestmark = pytest.mark.usefixtures('launched')

_FOLDER = commands.ROOT / 'experiments' / 'examples'
_EXAMPLES = ['checkpoint_resume', 'gradient_accumulation', 'maxtext_style',
             'moving_average', 'shard_map_step', 'tunix_style']


@pytest.fixture(name='example', params=_EXAMPLES)
def _example(request, monkeypatch, tmp_path):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  return importlib.import_module(f'experiments.examples.{request.param}')


def _losses(text):
  return [float(loss) for loss in re.findall(r'loss ([\d.]+)', text)]


def _without_losses(text):
  text = re.sub(r'loss [\d.]+|devices: \d+', '', text)
  return [line.strip() for line in text.strip().splitlines()]


def _said(example):
  command, said = inspect.getdoc(example).split('$ python -m ')[1].split(
      '\n', 1)
  assert command == example.__name__
  return said


def test_every_example_is_tested():
  found = {path.stem for path in _FOLDER.glob('*.py')} - {'__init__'}
  assert {name for name in found if not name.startswith('slim_')} == {
      *_EXAMPLES, *examples_test._EXAMPLES}


def test_example_is_one_page(example):
  assert len(inspect.getsource(example).splitlines()) < 80


@pytest.mark.parametrize(
    'example', ['checkpoint_resume', 'moving_average'], indirect=True)
def test_example_reaches_its_sparsity_in_few_steps(example, capsys):
  example.main(steps=8)
  shown = capsys.readouterr().out
  assert _without_losses(shown) == _without_losses(_said(example))
  assert np.isfinite(_losses(shown)).all()


@pytest.mark.slow
def test_example_prints_what_its_docstring_says(example, capsys):
  example.main()
  shown, said = capsys.readouterr().out, _said(example)
  assert _without_losses(shown) == _without_losses(said)
  assert _losses(shown) == pytest.approx(_losses(said), rel=0.5, abs=2e-3)
