"""The table of pruned networks, and their results as data."""

import json

import pytest

from experiments.configs import one_shot
from experiments.pruning import plan
from experiments.pruning import report
from experiments.reporting import pages
from experiments.reporting import results

_ACCURACY = {'dense': 0.9, 'wanda': 0.8, 'wanda_refit': 0.85}


def _rows(config, skip=()):
  rows = []
  for i, cell in enumerate(plan.cells(config)):
    row = cell._asdict() | {
        'accuracy': _ACCURACY[cell.row] + cell.seed / 100, 'sparsity': 0.5}
    if cell.target:
      row |= {'seconds': 2. + cell.seed, 'errors': {
          'a': 0.1 * (1 + cell.seed), 'b': 0.3}}
    if i not in skip:
      rows.append(row)
  return rows


def _write(tmp_path, config, rows):
  return report.write(tmp_path, rows, config, title='a network', data='abc-def',
                      command='the command')


def test_table_has_means_differences_seconds_and_errors(tmp_path):
  config = one_shot.get_config()
  config.update(methods=('wanda',), targets=('50%', '2:4'), seeds=(0, 1))
  table = _write(tmp_path, config, _rows(config))
  assert (tmp_path / 'table.md').read_text() == table
  assert (tmp_path / 'quality.png').read_bytes().startswith(b'\x89PNG')
  cells = [[cell.strip() for cell in line.strip('|').split('|')]
           for line in table.splitlines() if line.startswith('|')]
  # Half of an interval of two seeds is 12.706 standard errors.
  assert ['dense', '90.5 ± 6.4', '90.5 ± 6.4'] in cells
  assert ['wanda', '**-10.0 ± 0.0**', '**-10.0 ± 0.0**'] in cells
  assert ['wanda_refit', '2.5', '2.5'] in cells
  assert cells[-3:] == [['all', '0.2250', '0.2250'], ['a', '0.1500', '0.1500'],
                        ['b', '0.3000', '0.3000']]
  for part in ('- a network, 256 examples', '- seeds 0, 1\n', 'abc-def',
               '- `the command`'):
    assert part in table


def test_table_of_a_part_says_what_is_missing(tmp_path):
  config = one_shot.get_config()
  config.update(methods=('wanda',), targets=('50%',), seeds=(0,), refit='yes')
  rows = _rows(config)
  assert '| dense ' in _write(tmp_path, config, rows[:1])
  config.targets = ('50%', '70%')
  table = _write(tmp_path, config, rows)
  assert [line.split('|')[3].strip() for line in table.splitlines()
          if line.startswith('| wanda_refit')] == ['n/a'] * 4
  config.methods = ('admm',)  # Others are not looked at.
  assert 'wanda' not in _write(tmp_path, config, rows)


def test_every_table_tells_how_many_seeds_are_missing(tmp_path):
  config = one_shot.get_config()
  config.update(methods=('wanda',), targets=('50%',), seeds=(0, 1), refit='no')
  rows = _rows(config, skip=(3,))  # wanda with the second seed.
  for row in rows[1:2]:
    row['kept'] = 0.7
  table = _write(tmp_path, config, rows)
  cells = [[cell.strip() for cell in line.strip('|').split('|')]
           for line in table.splitlines() if line.startswith('|')]
  assert [row[1] for row in cells if row[0] in ('wanda', 'all', 'a')] == [
      '**80.0** (n=1)', '-10.0 (n=1)', '70.0% (n=1)', '2.0 (n=1)',
      '0.2000 (n=1)', '0.1000 (n=1)']


def test_rows_keep_their_environment_when_others_are_lost(tmp_path):
  config = one_shot.get_config()
  config.update(methods=('wanda',), targets=('50%', '2:4'), seeds=(0,))
  rows = _rows(config)
  (tmp_path / 'environment.json').write_text(json.dumps([
      {'from_step': start, 'commit': commit, 'packages': {'jax': '1'},
       'devices': {'kind': 'cpu'}}
      for start, commit in ((0, 'old'), (2, 'new'))]))

  def told(rows):
    _write(tmp_path, config, rows)
    lines = results.read([tmp_path / 'results.jsonl']).lines
    assert not any('environment' in line['row'] for line in lines)
    return [line['environment']['commit'] for line in lines]
  assert told(rows) == ['old'] * 2 + ['new'] * 3  # Before rows told it.
  for row, commit in zip(rows, ['old'] * 2 + ['new'] * 3):
    row['environment'] = {'commit': commit, 'jax': '1', 'device': 'cpu'}
  assert told(rows[:1] + rows[2:]) == ['old'] + ['new'] * 3


def test_results_are_data_as_those_of_a_sweep(tmp_path):
  config = one_shot.get_config()
  config.update(methods=('wanda',), targets=('50%', '2:4'), seeds=(0, 1))
  rows = _rows(config)
  for row in rows:
    if row['target']:
      row['kept'] = 0.7 + row['refit'] / 10
  table = _write(tmp_path, config, rows)
  found = results.read([tmp_path / 'results.jsonl'])
  assert found.config.methods == ('dense', 'wanda', 'wanda_refit')
  assert found.commands == ['the command'] and len(found.lines) == len(rows)
  assert {line['data'] for line in found.lines} == {'abc-def'}
  assert found.lines[1]['row']['errors'] == {'a': 0.1, 'b': 0.3}
  # A page makes the same tables of it, and others.
  page = tmp_path / 'page.md'

  def made(options):
    page.write_text(
        f'<!-- table results.jsonl{options} -->\n<!-- end -->')
    return [[cell.strip() for cell in line.strip('|').split('|')]
            for line in pages.rendered(page).splitlines()
            if line.startswith('|')]
  assert ['wanda refit', '85.5 ± 6.4', '85.5 ± 6.4'] in [
      [cell.strip('*') .removesuffix('**') for cell in row]
      for row in made('')]
  assert '85.5 ± 6.4' in table
  assert made(' metric=kept')[2:] == [
      ['dense', 'n/a', 'n/a'], ['wanda', '70.0 ± 0.0', '70.0 ± 0.0'],
      ['wanda refit', '**80.0 ± 0.0**', '**80.0 ± 0.0**']]
  assert made(' of=differences reference=wanda metric=kept')[-1] == [
      'wanda refit', '**+10.0 ± 0.0**', '**+10.0 ± 0.0**']
  with pytest.raises(ValueError, match='no run measured auc'):
    made(' metric=auc')
