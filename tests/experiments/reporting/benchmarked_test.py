"""Tables of benchmarks as data."""

import datetime

import pytest

from experiments.benchmarks import timing
from experiments.reporting import benchmarked
from experiments.reporting import pages

_HEAD = ['form', 'ms', 'speed']
_ROWS = [['dense', 2., 1.], ['slimmed', 1.5, 2 / 1.5]]


def test_what_a_benchmark_prints_is_read_back(tmp_path, capsys, monkeypatch):
  path = tmp_path / 'data' / 'x.jsonl'
  monkeypatch.setattr('sys.argv', ['x', '--batch=8', '--data=x y'])
  timing.report('jax 1 on a chip', _HEAD, iter(_ROWS), data=str(path))
  shown = capsys.readouterr().out
  assert shown.startswith('jax 1 on a chip\n\n| form    | ms   | speed |\n')
  found = benchmarked.read(path)
  assert found.rows == [dict(zip(_HEAD, row)) for row in _ROWS]
  assert found.about == 'jax 1 on a chip'
  assert found.benchmark.endswith(" --batch=8 '--data=x y'")
  assert found.date == datetime.date.today().isoformat()
  # A page has the table as it was printed.
  page = tmp_path / 'page.md'
  page.write_text('<!-- table data/x.jsonl of=rows -->\n<!-- end -->\n')
  assert shown.split('\n\n')[1].strip() in pages.rendered(page)


def test_a_table_is_only_printed_unless_asked_for(tmp_path, capsys):
  timing.report('here', _HEAD, _ROWS, data=None)
  assert '| slimmed | 1.50 | 1.33  |' in capsys.readouterr().out
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('text', [
    '', '{"benchmark": "x", "about": "", "date": ""}\n',
    '{"form": "dense"}\n{"form": "slimmed"}\n'])
def test_other_files_are_told(text, tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_text(text)
  with pytest.raises(ValueError, match='x.jsonl must be the --data of'):
    benchmarked.read(path)
  with pytest.raises(ValueError, match='there is no .*y.jsonl'):
    benchmarked.read(tmp_path / 'y.jsonl')


def test_a_row_has_a_value_for_each_column(tmp_path):
  with pytest.raises(ValueError):
    benchmarked.write(tmp_path / 'x.jsonl', _HEAD, [['dense', 1.]],
                      command='', about='')
