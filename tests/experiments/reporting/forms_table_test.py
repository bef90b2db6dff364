"""The table of a network in several forms."""

import json

from experiments.reporting import forms_table

_DENSE = forms_table.Row('dense', 0.951, 1_000, 0., 8_000, {1: 0.5, 32: 6.})
_MASKED = forms_table.Row('masked', 0.952, 100, 0.9, 8_000, {1: 0.5, 32: 6.})
_SMALL = forms_table.Row('condensed', 0.952, 100, 0.9, 1_600, {1: 0.25, 32: 2.})


def _compared(*rows):
  return forms_table.Comparison('accuracy', [*rows], 11, 'one core')


def test_rows_are_compared_with_the_first():
  lines = forms_table.table(_compared(_DENSE, _MASKED, _SMALL)).splitlines()
  cells = [[cell.strip() for cell in line.strip('|').split('|')]
           for line in lines]
  assert cells[0] == ['form', 'test accuracy', 'kept', 'sparsity', 'bytes',
                      'batch 1', 'batch 32']
  assert cells[2:] == [
      ['dense', '95.1%', '1,000', '0.0%', '8,000', '0.50 ms', '6.00 ms'],
      ['masked', '95.2%', '100', '90.0%', '8,000', '0.50 ms (1.0x)',
       '6.00 ms (1.0x)'],
      ['condensed', '95.2%', '100', '90.0%', '1,600', '0.25 ms (2.0x)',
       '2.00 ms (3.0x)']]


def test_the_conclusion_is_about_the_smallest_form():
  assert forms_table.conclusion([_DENSE, _MASKED, _SMALL]) == (
      'In 20% of the bytes, the condensed network is 2.0 times as fast at '
      'batch 1 and 3.0 times as fast at batch 32.')


def test_the_conclusion_says_where_the_smallest_form_is_slower():
  slow = _SMALL._replace(milliseconds={1: 1., 32: 2.})
  assert forms_table.conclusion([_DENSE, slow]) == (
      'In 20% of the bytes, the condensed network is 0.5 times as fast at '
      'batch 1 and 3.0 times as fast at batch 32. Below 1, it is slower.')


def test_the_conclusion_says_that_there_is_no_smaller_form():
  for rows in ([_MASKED], [_DENSE, _MASKED]):
    assert 'have no smaller form' in forms_table.conclusion(rows)


def test_table_and_numbers_are_written(tmp_path):
  text = forms_table.write(tmp_path, _compared(_DENSE, _SMALL))
  assert (tmp_path / forms_table.TABLE).read_text() == text
  assert 'one core' in text and 'medians of 11' in text
  written = json.loads((tmp_path / forms_table.NUMBERS).read_text())
  assert written['metric'] == 'accuracy'
  assert [row['nbytes'] for row in written['rows']] == [8_000, 1_600]
  assert written['rows'][1]['milliseconds'] == {'1': 0.25, '32': 2.}
