"""Files of results: what is kept, what is joined, and what disagrees."""

import json

import pytest

from experiments.records import metrics
from experiments.reporting import results
from experiments.reporting import tables
from tests._lib import sweeps


def _line(method, target, seed, accuracy, **more):
  return {'method': method, 'target': target, 'seed': seed, 'config': {},
          'row': {'step': 3, 'sparsity': .5, 'accuracy': accuracy}, **more}


_LINES = [_line('dense', None, 0, .98), _line('ste', '2:4', 0, .9),
          _line('ste', '1:8', 0, .8)]


@pytest.fixture(name='write')
def _write(tmp_path):
  """Writes a file of these lines, and of one about the sweep."""

  def write(name, lines, header=None):
    path = tmp_path / name
    path.write_text(metrics.text([*([header] if header else []), *lines]))
    return path
  return write


def _header(tuned=None, not_built=(), commands=('the command',), **settings):
  config = json.loads(sweeps.small(
      methods=('dense', 'ste'), seeds=(0,), **settings).to_json())
  return {'sweep': config, 'tuned': tuned, 'not_built': [*not_built],
          'commands': [*commands]}


def test_what_is_written_is_read(tmp_path):
  tuned = tables.Tuned('learning_rate', '1:8', [1000], {
      'ste': [[1e-3, 90.5], [1e-2, float('nan')]]}, {'ste': 1e-3})
  made = results.Results(
      sweeps.small(methods=('dense', 'ste'), seeds=(0,)), _LINES, tuned,
      {('ste', '1:16'): 'no room'}, ['one', 'two'])
  (tmp_path / 'x.jsonl').write_text(results.text(made))
  read = results.read([tmp_path / 'x.jsonl'])
  assert read.lines == _LINES and read.commands == ['one', 'two']
  assert read.not_built == {('ste', '1:16'): 'no room'}
  assert str(read.tuned) == str(tuned)  # Of which one is NaN.
  assert read.config.to_json() == made.config.to_json()


def test_file_without_a_line_about_the_sweep_has_the_order_of_its_runs(write):
  found = results.read([write('x.jsonl', _LINES)])
  assert found.config.to_dict() == {
      'methods': ('dense', 'ste'), 'targets': ('2:4', '1:8'), 'seeds': (0,)}
  assert [run.rows for run in results.runs(found)] == [
      [line['row']] for line in _LINES]
  found = results.read([write('x.jsonl', _LINES[:1])])
  assert not tables.has_targets(found.config)


def test_a_command_that_tells_less_than_the_one_before_is_warned_of(
    write, tmp_path):
  every = {('dense', None, 0), ('ste', '2:4', 0), ('ste', '1:8', 0)}
  assert not results.left_out(tmp_path, set())  # Nothing was told yet.
  file = write(results.FILE, _LINES, _header())
  assert not results.left_out(tmp_path, every | {('ste', '1:8', 1)})
  told = results.left_out(tmp_path, {('dense', None, 0), ('ste', '2:4', 1)})
  for part in ('no more tell 2 of 3 runs, the first ste at 2:4 with seed 0.',
               'repeats none, such as: the command'):
    assert part in told
  write(results.FILE, _LINES)  # An old file without a command.
  assert results.left_out(tmp_path, set()).endswith('repeats none')
  file.write_text('{damaged\n')
  assert not results.left_out(tmp_path, every)


def test_curves_give_the_rows_before_the_last(write):
  rows = [{'step': 1, 'loss': 0.123456, 'channels': {'a': [1, 2]}},
          {'step': 2, 'loss': float('nan'), 'explored': 0.5},
          {'step': 3, 'loss': 0.111111, 'accuracy': .9}]
  line = {**_LINES[1], 'row': rows[-1], 'curves': results.curves(rows)}
  run, = results.runs(results.read([write('x.jsonl', [line])]))
  assert str(run.rows) == str([
      {'step': 1, 'loss': 0.1235, 'channels_left': 0.5},
      {'step': 2, 'loss': float('nan'), 'explored': 0.5}, rows[-1]])


def test_files_of_more_seeds_and_methods_make_one(write):
  more = [_line('dense', None, 1, .97), _line('ste', '2:4', 1, .91),
          _line('ste', '1:8', 1, .81), _line('sr_ste', '2:4', 0, .99)]
  joined = results.read([write('a.jsonl', _LINES), write('b.jsonl', more)])
  assert [(line['method'], line['target'], line['seed'])
          for line in joined.lines] == [
              ('dense', None, 0), ('ste', '2:4', 0), ('ste', '1:8', 0),
              ('sr_ste', '2:4', 0),
              ('dense', None, 1), ('ste', '2:4', 1), ('ste', '1:8', 1)]
  assert joined.config.seeds == (0, 1)
  again = write('c.jsonl', joined.lines)
  assert results.read([again]).lines == joined.lines


def test_run_that_stands_in_two_files_counts_once(write):
  there = [{**line, 'path': 'elsewhere', 'environment': {'jax': '9'}}
           for line in _LINES]
  found = results.read([write('a.jsonl', _LINES), write('b.jsonl', there)])
  assert found.lines == _LINES


def test_files_that_disagree_about_a_run_are_named_with_it(write):
  other = [_line('ste', '2:4', 0, .91)]
  with pytest.raises(ValueError, match=(
      r'a\.jsonl and .*b\.jsonl disagree about ste at 2:4 with seed 0: '
      r'row\.accuracy is 0\.9 and 0\.91')):
    results.read([write('a.jsonl', _LINES), write('b.jsonl', other)])
  with pytest.raises(ValueError, match='disagree about dense with seed 0'):
    results.read([write('a.jsonl', [*_LINES, _line('dense', None, 0, .9)])])


def test_seeds_of_other_settings_do_not_count_as_seeds(write):
  other = _line('ste', '2:4', 1, .91)
  other['config'] = {'learning_rate': .1}
  with pytest.raises(ValueError, match=(
      r'runs of ste at 2:4 must differ in their seeds only, but '
      r'config\.learning_rate is None and 0\.1, with the seeds 0 and 1')):
    results.read([write('a.jsonl', [*_LINES, other])])
  other['config'], other['row'] = {}, {**other['row'], 'step': 9}
  with pytest.raises(ValueError, match='step is 3 and 9'):
    results.read([write('a.jsonl', [*_LINES, other])])


def test_sweeps_of_other_settings_are_not_joined(write):
  base = sweeps.small().base.to_dict()
  one = write('a.jsonl', _LINES, _header())
  other = write('b.jsonl', _LINES, _header(base={**base, 'steps': 9}))
  with pytest.raises(ValueError, match=(
      r'a\.jsonl and .*b\.jsonl must be of the same sweep, but base\.steps is '
      r'6 and 9')):
    results.read([one, other])
  moved = write('b.jsonl', _LINES, _header(base={**base, 'data_dir': '/x'}))
  assert results.read([one, moved]).config.base.steps == 6


def test_not_built_is_what_no_file_has_built(write):
  header = _header(not_built=[['ste', '1:8', 'no room'],
                              ['ste', '1:16', 'nor here']])
  one = write('a.jsonl', _LINES[:2], header)
  assert set(results.read([one]).not_built) == {('ste', '1:8'), ('ste', '1:16')}
  other = write('b.jsonl', _LINES, _header(commands=('another',)))
  joined = results.read([one, other])
  assert joined.not_built == {('ste', '1:16'): 'nor here'}
  assert joined.commands == ['the command', 'another']


def test_files_that_tuned_otherwise_are_not_joined(write):
  tuned = {'key': 'learning_rate', 'target': '1:8', 'seeds': [9],
           'tried': {'ste': [[.1, 90.]]}, 'chosen': {'ste': .1}}
  one = write('a.jsonl', _LINES, _header(tuned))
  both = results.read([one, write('b.jsonl', _LINES, _header(
      {**tuned, 'tried': {'dense': [[.1, 98.]]}, 'chosen': {'dense': .1}}))])
  assert both.tuned.chosen == {'ste': .1, 'dense': .1}
  with pytest.raises(ValueError, match='what was tuned, but tuned.ste is'):
    results.read([one, write('b.jsonl', _LINES, _header(
        {**tuned, 'tried': {'ste': [[.1, 80.]]}}))])


@pytest.mark.parametrize('text, part', [
    ('', 'x.jsonl must be the results.jsonl of a sweep'),
    ('{"step": 3}\n', 'its run 1 has no \'method\''),
    ('{"method"\n{}\n', 'x.jsonl is damaged: line 1 is no row'),
    (metrics.text([{'sweep': {}}] * 2 + _LINES), 'has 2 lines with \'sweep\''),
])
def test_other_files_are_refused(text, part, tmp_path):
  (tmp_path / 'x.jsonl').write_text(text)
  with pytest.raises(ValueError, match=part):
    results.read([tmp_path / 'x.jsonl'])
