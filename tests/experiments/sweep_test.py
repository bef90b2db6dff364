"""Sweeps: what they train and write, and what they do about failures."""

import json
import os
import shutil
import signal

import pytest

from experiments import sweep
from experiments import train
from experiments._utils import stopping
from experiments.records import metrics
from experiments.reporting import document
from experiments.reporting import plots
from experiments.reporting import report
from experiments.reporting import results
from experiments.reporting import step_plots
from tests._lib import commands
from tests._lib import sweeps

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]

_PNG = b'\x89PNG'
_TUNE = {'key': 'learning_rate', 'values': (1e-3, 3e-3, 1e-2),
         'target': '1:8', 'seeds': (1_000, 1_001)}


# What a sweep leaves.


def test_sweep_writes_every_result(swept):
  config, path, result = swept
  lines = results.read([path / 'results.jsonl']).lines
  assert len(lines) == len(result.runs) == 8
  assert not result.failures and not result.not_built
  assert {(line['method'], line['n'], line['m'], line['seed'])
          for line in lines} == {
              (method, n, m, seed) for method in ('ste', 'sr_ste')
              for n, m in ((2, 4), (1, 8)) for seed in (0, 1)}
  for line in lines:
    assert line['config'] == (
        {'decay': 2e-4} if line['method'] == 'sr_ste' else {})
    assert line['row']['step'] == 6
    assert line['row']['sparsity'] == 1 - line['n'] / line['m']
    assert line['environment'].keys() == {'commit', 'jax', 'device'}
    assert 'step      6' in (path / line['path'] / 'log.txt').read_text()
  assert json.loads((path / 'sweep.json').read_text()) == json.loads(
      config.to_json())
  for picture in (plots.TARGETS, step_plots.MASKS):
    assert (path / picture).read_bytes().startswith(_PNG)


def test_pictures_over_steps_can_be_drawn_from_the_results_alone(swept):
  config, path, found = swept
  read = results.runs(results.read([path / 'results.jsonl']))
  assert plots.pictures(read, config).keys() == {
      file.name for file in path.glob('*.png')}
  for one, other in zip(read, found.runs, strict=True):
    for row, whole in zip(one.rows, other.rows, strict=True):
      assert row == pytest.approx(whole, rel=1e-3, abs=1e-12)


def test_table_says_what_was_run(swept):
  _, path, _ = swept
  table = (path / 'table.md').read_text()
  assert table.startswith('# Test accuracy (%) by method and target\n')
  for part in ('| sr_ste ', '## Paired differences to sr_ste', '- seeds 0, 1\n',
               'mlp on digits, 6 steps', '- `the command`'):
    assert part in table
  fingerprint = json.loads(
      (path / 'runs/ste/2_4/seed_0/dataset.json').read_text())['fingerprint']
  assert f'- data {fingerprint}\n' in table


def test_table_is_made_of_the_results_alone(swept):
  _, path, _ = swept
  assert document.table_md(results.read([path / 'results.jsonl'])) == (
      (path / 'table.md').read_text())


def test_a_network_that_changed_between_runs_is_told(tmp_path):
  first = commands.config('digits/dense', width=16, steps=2, log_every=2,
                          save_every=2, batch_size=16)
  config = sweeps.small(methods=('ste',), targets=('2:4',), only={})
  config.base.init_from = first_path = str(tmp_path / 'dense')
  tables_ = []
  for seed, first.seed in enumerate((7, 7, 8)):  # The same one, another one.
    shutil.rmtree(first_path, ignore_errors=True)
    train.train(first, first_path)
    config.seeds = tuple(range(seed + 1))
    sweep.sweep(config, str(tmp_path / 'sweep'))
    tables_.append((tmp_path / 'sweep' / 'table.md').read_text())
  assert ['weights changed' in text for text in tables_] == [
      False, False, True]
  assert all('\n- weights ' in text for text in tables_)


def test_finished_sweep_started_again_trains_nothing(swept, trained):
  config, path, result = swept
  before = commands.hashes(path)
  assert sweep.sweep(config, str(path), command='the command') == result
  assert commands.hashes(path) == before
  assert not trained


def test_interrupted_sweep_goes_on_from_the_last_checkpoint(
    swept, monkeypatch, tmp_path):
  _, whole, _ = swept
  config = sweeps.small(methods=('sr_ste',), targets=('2:4',))
  append, calls = metrics.append, []

  def interrupted(*args):
    calls.append(args)
    if len(calls) == 6:  # The last row of the second run: step 4 is saved.
      raise KeyboardInterrupt
    append(*args)

  with monkeypatch.context() as patch:
    patch.setattr(metrics, 'append', interrupted)
    with pytest.raises(KeyboardInterrupt):
      sweep.sweep(config, str(tmp_path))
  run = 'runs/sr_ste/2_4/seed_{}'
  assert len(results.read([tmp_path / 'results.jsonl']).lines) == 1
  before = commands.hashes(tmp_path / run.format(0))
  sweep.sweep(config, str(tmp_path))
  assert commands.hashes(tmp_path / run.format(0)) == before
  log = (tmp_path / run.format(1) / 'log.txt').read_text().splitlines()
  assert [line.split()[1] for line in log if line.startswith('step')] == [
      '2', '4', '6']
  for seed in (0, 1):
    rows = (tmp_path / run.format(seed) / 'metrics.jsonl').read_text()
    assert rows == (whole / run.format(seed) / 'metrics.jsonl').read_text()


def test_a_signal_at_the_end_of_a_run_stops_the_sweep(
    swept, monkeypatch, tmp_path):
  config, whole, _ = swept
  write = report.write

  def stopped(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    return write(*args)
  with monkeypatch.context() as patch, stopping.raised():
    patch.setattr(report, 'write', stopped)
    with pytest.raises(stopping.Stopped, match='by SIGTERM; the same command'):
      sweep.sweep(config, str(tmp_path))
  summaries = [*tmp_path.rglob('summary.txt')]
  assert len(summaries) == 1  # Of a run that has ended as ever.
  assert summaries[0].read_text() == (
      whole / summaries[0].relative_to(tmp_path)).read_text()


# What is to be trained.


def test_variants_are_swept_under_their_names(trained, tmp_path):
  config = sweeps.small(
      methods=('dense_long', 'set', 'set_long'), only=sweeps.VARIANTS,
      targets=('80%', '90%'), reference='set')
  config.base.every = 3
  swept = sweep.sweep(config, str(tmp_path))
  assert not swept.failures and not swept.not_built
  assert len(trained) == 2 * (1 + 2 + 2)
  lines = results.read([tmp_path / 'results.jsonl']).lines
  assert {(line['method'], line['target']) for line in lines} == {
      ('dense_long', None), ('set', '80%'), ('set', '90%'),
      ('set_long', '80%'), ('set_long', '90%')}
  table = (tmp_path / 'table.md').read_text()
  assert '| method     | 80% ' in table
  assert '## Paired differences to set\n' in table


def test_tuning_uses_the_best_value_and_no_judging_seed(trained, tmp_path):
  swept = sweep.sweep(sweeps.small(tune=_TUNE), str(tmp_path))
  tuning = [c for c in trained if c.seed >= 1_000]
  assert len(tuning) == 2 * 3 * 2
  assert {(c.method, c.learning_rate) for c in tuning} == {
      (method, value) for method in ('ste', 'sr_ste')
      for value in _TUNE['values']}
  assert len(swept.runs) == 8
  assert {c.learning_rate for c in trained if c.seed < 1_000} == {3e-3}
  tuned = json.loads((tmp_path / 'tuned.json').read_text())
  assert tuned['chosen'] == {'ste': 3e-3, 'sr_ste': 3e-3}
  table = (tmp_path / 'table.md').read_text()
  assert '| method | learning_rate 0.001 | learning_rate 0.003 |' in table
  assert document.table_md(results.read([tmp_path / 'results.jsonl'])) == table
  assert '**100.0**' in table  # 90% and the tuning seeds' 10%.


@pytest.mark.parametrize('settings, part', [
    ({'seeds': ()}, 'config.seeds must not be empty'),
    ({'seeds': (1, 1)}, 'config.seeds must have each entry once'),
    ({'seeds': ('one',)}, 'must be whole numbers, got \'one\''),
    ({'methods': ('sr_st',)}, 'did you mean \'sr_ste\'?'),
    ({'targets': ('2-4',)}, 'got \'2-4\''),
    ({'targets': ('4:2',)}, 'got \'4:2\''),
    ({'targets': ('0:4',)}, 'got \'0:4\''),
    ({'targets': ('90%', '120%')}, 'such as \'90%\', got \'120%\''),
    ({'targets': ('100%',)}, 'such as \'90%\', got \'100%\''),
    ({'targets': ('-5%',)}, 'such as \'90%\', got \'-5%\''),
    ({'targets': ('0.9',)}, 'such as \'90%\', got \'0.9\''),
    ({'targets': ('x',)}, 'got \'x\''),
    ({'tune': {**_TUNE, 'target': '120%'}}, 'tune.target must .* got \'120%\''),
    ({'methods': ('ste_long',)}, 'unknown method \'ste_long\''),
    ({'only': {'ste_long': {'method': 'stee'}}}, 'did you mean \'ste\'?'),
    ({'only': {'ste_long': {'steps': 9}}}, 'unknown method \'ste_long\''),
    ({'tune': {**_TUNE, 'seeds': (7, 1)}}, r'both have \[1\]'),
    ({'tune': {**_TUNE, 'seeds': ()}}, 'config.tune.seeds must not be empty'),
    ({'tune': {**_TUNE, 'key': 'learning_rat'}}, 'got \'learning_rat\''),
    ({'tune': {**_TUNE, 'key': 'seed'}}, 'got \'seed\''),
    ({'tune': _TUNE, 'only': {'ste': {'learning_rate': 1.}}},
     'config.only.ste sets learning_rate'),
])
def test_mistake_in_the_config_is_told_before_anything_trains(
    settings, part, trained, tmp_path):
  with pytest.raises(ValueError, match=part):
    sweep.sweep(sweeps.small(**settings), str(tmp_path / 'sweep'))
  assert not list(tmp_path.iterdir()) and not trained


# What cannot be, or fails.


def test_impossible_target_is_left_out_before_anything_trains(
    trained, tmp_path, capsys):
  swept = sweep.sweep(sweeps.small(targets=('2:4', '1:7')), str(tmp_path))
  assert set(swept.not_built) == {('ste', '1:7'), ('sr_ste', '1:7')}
  first = capsys.readouterr().out.splitlines()[0]
  assert first.startswith('n/a: ste 1:7: layers/0/kernel')
  assert {c.m for c in trained} == {4}
  table = (tmp_path / 'table.md').read_text().splitlines()
  assert [line.split('|')[3].strip() for line in table
          if line.startswith('| ste')] == ['n/a', 'n/a']
  assert document.table_md(results.read(
      [tmp_path / 'results.jsonl'])).splitlines() == table
  with pytest.raises(ValueError, match='layers/0/kernel'):
    sweep.sweep(sweeps.small(targets=('1:7',)), str(tmp_path / 'other'))


def test_method_that_knows_no_such_target_is_left_out(trained, tmp_path):
  config = sweeps.small(
      methods=('ste', 'set'), targets=('2:4', '90%'), seeds=(0,))
  config.base.every = 2
  swept = sweep.sweep(config, str(tmp_path))
  assert set(swept.not_built) == {('ste', '90%'), ('set', '2:4')}
  assert 'does not set: ' in swept.not_built['set', '2:4']
  assert [(c.method, c.get('sparsity')) for c in trained] == [
      ('ste', None), ('set', 0.9)]


def test_failing_run_is_named_and_the_others_finish(trained, tmp_path):
  config = sweeps.small(seeds=(13, 0, 1), methods=('ste',), targets=('2:4',))
  swept = sweep.sweep(config, str(tmp_path))
  path = tmp_path / 'runs/ste/2_4/seed_13'
  assert swept.failures == [f'{path}: ZeroDivisionError: an unlucky number']
  assert 'Traceback' in (path / 'log.txt').read_text()
  assert sorted(run.seed for run in swept.runs) == [0, 1]
  assert '(n=2)' in (tmp_path / 'table.md').read_text()
  with pytest.raises(ValueError, match='every run failed.*unlucky'):
    sweep.sweep(sweeps.small(seeds=(13,)), str(tmp_path / 'other'))


def test_a_part_of_a_finished_sweep_is_told_alone_and_the_rest_is_kept(
    trained, tmp_path, capsys):
  sweep.sweep(sweeps.small(), str(tmp_path), command='all of it')
  whole = (tmp_path / 'results.jsonl').read_text()
  assert 'warning' not in capsys.readouterr().err
  part = sweeps.small(methods=('ste',))
  sweep.sweep(part, str(tmp_path), command='a part')
  assert 'tell 4 of 8 runs, the first sr_ste at 2:4 with seed 0. ' in (
      told := capsys.readouterr().err) and 'such as: all of it' in told
  assert 'sr_ste' not in (tmp_path / 'table.md').read_text()
  sweep.sweep(sweeps.small(), str(tmp_path), command='all of it')
  assert (tmp_path / 'results.jsonl').read_text() == whole
  assert len(trained) == 8


def test_seeds_can_be_added_and_other_settings_are_refused(trained, tmp_path):
  sweep.sweep(sweeps.small(), str(tmp_path))
  assert len(trained) == 8
  sweep.sweep(sweeps.small(seeds=(0, 1, 2)), str(tmp_path))
  assert len(trained) == 12
  config = sweeps.small()
  config.base.batch_size = 8
  before = commands.hashes(tmp_path)
  with pytest.raises(ValueError, match='batch_size is 16 there and 8 here'):
    sweep.sweep(config, str(tmp_path))
  with pytest.raises(ValueError, match='holds a single run'):
    sweep.sweep(config, str(tmp_path / 'runs/ste/2_4/seed_0'))
  assert commands.hashes(tmp_path) == before
