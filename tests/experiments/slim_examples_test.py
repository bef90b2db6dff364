"""Examples that slim: each gives the same outputs, and says what it prints."""

import importlib
import inspect
import re

import pytest

import jaxsparse
from tests._lib import commands

pytestmark = [
    pytest.mark.slow, pytest.mark.usefixtures('launched'),
    # Of Keras, with newer releases of jax.
    pytest.mark.filterwarnings(
        'ignore:Explicitly requested dtype int64:UserWarning')]

_FOLDER = commands.ROOT / 'experiments' / 'examples'
_EXAMPLES = sorted(path.stem for path in _FOLDER.glob('slim_*.py'))


@pytest.fixture(name='example', params=_EXAMPLES)
def _example(request):
  return importlib.import_module(f'experiments.examples.{request.param}')


def _read(text):
  """The accuracies of three lines, and how many units are left of how many."""
  pruned, widths, slimmed = (line.strip() for line in text.splitlines())
  before, after = re.fullmatch(
      r'hidden units: (\(\d+, \d+\)) -> (\(\d+, \d+\))', widths).groups()
  numbers = lambda text: [int(n) for n in re.findall(r'\d+', text)]
  return ([float(re.fullmatch(f'{name}: test accuracy (.*)%', line)[1])
           for name, line in (('pruned', pruned), ('slimmed', slimmed))],
          numbers(before), numbers(after))


def test_example_finds_out_if_other_units_are_cut(example, monkeypatch):
  alive = jaxsparse.alive

  def others(*args):
    return {name: k[::-1] for name, k in alive(*args).items()}
  monkeypatch.setattr(jaxsparse, 'alive', others)
  with pytest.raises(AssertionError, match='Not equal to tolerance'):
    example.main(steps=8)


def test_example_is_one_page(example):
  assert len(inspect.getsource(example).splitlines()) < 80


def test_example_prints_what_its_docstring_says(example, capsys):
  command, said = inspect.getdoc(example).split(
      '$ python -m ')[1].split('\n', 1)
  assert command == example.__name__
  example.main()
  (*accuracies, before, after), found = _read(said), _read(
      capsys.readouterr().out)
  assert found[0] == pytest.approx(accuracies[0], abs=1.5)
  assert found[1] == before
  assert all(n % 8 == 0 for n in found[2])
  # A fifth of all, rounded down to multiples of 8.
  kept = .2 * sum(before)
  assert kept - 8 < sum(found[2]) <= kept
  # Which layer has them may depend on rounding, and how many there are not.
  assert sum(found[2]) == sum(after)
