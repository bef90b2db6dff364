"""The command that makes tables of results."""

import pytest

from experiments import render
from experiments.records import metrics
from experiments.reporting import results
from tests._lib import sweeps


@pytest.fixture(name='file')
def _file(tmp_path):
  """Writes the runs of some seeds; returns the file."""

  def write(name, seeds):
    path = tmp_path / name
    path.write_text(metrics.text([
        {'method': run.method, 'target': run.target, 'seed': run.seed,
         'config': {}, 'row': run.rows[-1]}
        for run in sweeps.runs(sweeps.MEASURED) if run.seed in seeds]))
    return path
  return write


def test_files_of_more_seeds_make_the_table_of_all(file, tmp_path, capsys):
  render.main([str(file('all.jsonl', {0, 1, 2}))])
  table = capsys.readouterr().out
  assert '| mdgf   | **95.5 ± 6.4** (n=2) |' in table
  out = tmp_path / 'made' / 'joined.jsonl'
  render.main([str(file('a.jsonl', {0})), str(file('b.jsonl', {1, 2})),
               f'--out={out}', f'--pictures={tmp_path / "drawn"}'])
  assert capsys.readouterr().out == table
  assert results.read([out]).lines == results.read(
      [tmp_path / 'all.jsonl']).lines
  assert [path.name for path in (tmp_path / 'drawn').iterdir()] == [
      'by_target.png']


def test_pages_are_checked_and_written(file, tmp_path, capsys):
  file('x.jsonl', {0, 1, 2})
  page = tmp_path / 'page.md'
  page.write_text('<!-- table x.jsonl -->\n<!-- end -->\n')
  before = page.read_text()
  with pytest.raises(SystemExit, match='error: outdated.*\n.*page.md has'):
    render.main([str(page), '--check'])
  assert page.read_text() == before
  render.main([str(page)])
  assert '| STE    | 91.0 ± 2.5 †' in page.read_text()
  render.main([str(page), '--check'])
  assert not capsys.readouterr().out


@pytest.mark.parametrize('args, part', [
    (['x.jsonl', 'page.md'], 'files must be pages (.md) or results (.jsonl)'),
    (['x.txt'], 'got x.txt'),
    (['x.jsonl', '--check'], '--check needs pages'),
    (['page.md', '--out=y.jsonl'], '--out and --pictures need results'),
    (['none.jsonl'], 'there is no none.jsonl'),
    (['none.md'], 'none.md'),
])
def test_wrong_command_costs_one_line(args, part):
  with pytest.raises(SystemExit) as exit_:
    render.main(args)
  message = str(exit_.value)
  assert message.startswith('error: ') and part in message
  assert '\n' not in message
