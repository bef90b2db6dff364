"""What methods cost: shares of the dense network's FLOPs, by hand."""

import ml_collections
import pytest

from experiments import sweep
from experiments.configs import default
from experiments.reporting import cost_table
from experiments.reporting import results
from experiments.reporting import tables

pytestmark = pytest.mark.usefixtures('launched')

_STEPS, _DENSE = 10, 1_000.  # A dense training costs 3 * 10 * 1,000.
# (Method, target) -> for each seed: accuracy in percent, and in FLOPs what
# training, a test without pruned weights and one on a GPU cost.
_MEASURED = {
    ('dense', None): [(98, 30_000, 1_000, 1_000)] * 2,
    ('rigl', '80%'): [(90, 9_000, 250, 1_000), (92, 9_600, 270, 900)],
    ('rigl', '90%'): [(80, 6_000, 130, 1_000), (80, 6_000, 130, 500)],
    ('rigl_long', '90%'): [(81, 45_300, 130, 1_000)],
}


def _runs(measured):
  return [
      tables.Run(method, target, seed, [
          {'step': 5, 'accuracy': 0.}, {
              'step': 10, 'accuracy': accuracy / 100, 'dense_flops': _DENSE,
              'train_flops': train, 'test_flops': test, 'gpu_flops': gpu}])
      for (method, target), seeds in measured.items()
      for seed, (accuracy, train, test, gpu) in enumerate(seeds)]


def _config(*methods):
  return ml_collections.ConfigDict({
      'methods': methods, 'targets': ('80%', '90%'), 'seeds': (0, 1),
      'base': {'steps': _STEPS}})


def _cells(table):
  return [[cell.strip() for cell in line.strip('|').split('|')]
          for line in table.splitlines()]


def test_costs_are_shares_of_the_dense_networks_and_means_over_seeds():
  # The half of 90 and 92 is t(0.975, 1) = 12.706 * sqrt(2) / sqrt(2).
  head, _, *rows = _cells(cost_table.cost_table(
      _runs(_MEASURED), _config('dense', 'rigl', 'rigl_long')))
  assert head == [
      'method', '80%: test accuracy', 'train', 'test', 'GPU',
      '90%: test accuracy', 'train', 'test', 'GPU']
  dense = ['98.0 ± 0.0', '1.00', '1.00', '1.00']
  assert rows == [
      ['dense', *dense, *dense],
      ['rigl', '91.0 ± 12.7', '0.31', '0.26', '0.95',
       '80.0 ± 0.0', '0.20', '0.13', '0.75'],
      ['rigl_long', *['n/a'] * 4, '81.0 (n=1)', '1.51', '0.13', '1.00']]


def test_costs_are_those_of_the_last_step_of_runs_that_ended():
  runs = _runs({('rigl', '80%'): _MEASURED['rigl', '80%'][:1]})
  *_, row = _cells(cost_table.cost_table(runs, _config('rigl')))
  assert row == ['rigl', '90.0 (n=1)', '0.30', '0.25', '1.00', *['n/a'] * 4]


def test_runs_without_costs_are_told_from_those_with():
  runs = _runs(_MEASURED)
  assert cost_table.has_costs(runs)
  assert not cost_table.has_costs([
      run._replace(rows=run.rows[:1]) for run in runs])


def test_budgets_have_the_best_that_was_trained_within_them():
  measured = {
      **_MEASURED, ('set', '80%'): [(93, 15_000, 250, 1_000)] * 2,
      ('set', '90%'): [(94, 2_700, 130, 1_000)] * 2}
  runs = _runs(measured)
  assert cost_table.train_share(runs, 'rigl', '80%') == pytest.approx(.31)
  assert cost_table.train_share(runs, 'dense', '80%') == 1.
  assert cost_table.train_share(runs, 'rigl', '98%') is None
  assert cost_table.train_share(runs[2:], 'rigl', '80%') is None
  head, _, *rows = _cells(cost_table.budgets(
      runs, ('dense', 'rigl', 'rigl_long', 'set'), ('80%', '90%'), seeds=2,
      shares=(0.05, 0.2, 0.35, 1.)))
  assert head == ['method', 'up to 0.20 of dense', 'up to 0.35 of dense',
                  'up to 1.00 of dense']  # Nothing costs 0.05.
  assert rows == [
      ['dense', '-', '-', '98.0 ± 0.0'],
      ['rigl', '80.0 ± 0.0 at 90%', *['91.0 ± 12.7 † at 80%'] * 2],
      ['rigl_long', '-', '-', '-'],
      ['set', *['**94.0 ± 0.0** at 90%'] * 3]]


def test_budgets_tell_how_many_seeds_are_missing():
  *_, rigl = _cells(cost_table.budgets(
      _runs(_MEASURED), ('dense', 'rigl'), ('80%', '90%'), seeds=3,
      shares=(0.2,)))
  assert rigl == ['rigl', '**80.0 ± 0.0** (n=2) at 90%']


def _sweep(**settings):
  config = ml_collections.ConfigDict()
  config.base = default.get_config()
  config.base.update(
      steps=4, log_every=4, save_every=8, batch_size=16, width=16, **settings)
  config.base.every = 2
  config.only = {'set_long': {'method': 'set', 'steps': 6}}
  config.methods, config.targets, config.seeds = (
      ('dense', 'set_long'), ('90%',), (0,))
  return config


def test_sweep_of_slim_runs_has_a_table_of_costs(tmp_path):
  config = _sweep(slim=True)
  sweep.sweep(config, str(tmp_path))
  text = (tmp_path / 'table.md').read_text()
  costs = text.split('\n## Costs\n')[1].split('\n## ')[0]
  assert 'of a dense one with 4 steps' in costs
  table = costs.strip().split('\n\n')[0]
  _, _, dense, set_long = _cells(table)
  assert dense[0] == 'dense' and dense[2:] == ['1.00', '1.00', '1.00']
  # Of 64 * 16 + 16 * 16 weights a tenth is left, the head has 16 * 10 more;
  # SET reads no gradient of a pruned weight, and trains 1.5 times as long.
  test = (128 + 160) / (1_280 + 160)
  assert set_long[2:4] == [f'{1.5 * test:.2f}', f'{test:.2f}']
  lines = results.read([tmp_path / 'results.jsonl']).lines
  assert [(line['method'], line['target']) for line in lines] == [
      ('dense', None), ('set_long', '90%')]
  row = lines[1]['row']
  assert float(set_long[4]) == pytest.approx(
      row['gpu_flops'] / row['dense_flops'], abs=0.005)
  assert lines[1]['config'] == {'steps': 6}


def test_sweep_of_other_runs_has_no_table_of_costs(tmp_path):
  config = _sweep()
  config.methods = ('dense',)
  sweep.sweep(config, str(tmp_path))
  assert '## Costs' not in (tmp_path / 'table.md').read_text()
