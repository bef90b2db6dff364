"""Tables of sweeps, against numbers worked out by hand."""

import math

import pytest

from experiments.records import metrics
from experiments.reporting import tables
from tests._lib import sweeps

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


@pytest.mark.parametrize('name, dense', [
    ('dense', True), ('dense_long', True), ('set', False),
    ('densely', False), ('set_dense', False)])
def test_dense_is_what_is_named_so_before_anything_else(name, dense):
  assert tables.is_dense(name) == dense


def test_dense_variants_are_never_the_best_method_of_a_column():
  table = tables.means(
      sweeps.runs({('dense_long', None): (99, 99), ('set', '90%'): (90, 90)}),
      ('dense_long', 'set'), ('90%',), seeds=2)
  assert table.splitlines()[2:] == [
      '| dense_long | 99.0 ± 0.0     |', '| set        | **90.0 ± 0.0** |']


def test_interval_of_the_mean_is_students():
  # Mean 91, standard deviation 1, t(0.975, 2) = 4.3027 / sqrt(3) = 2.4841.
  mean, half, seeds = tables.estimate([90., 91., 92.])
  assert (mean, seeds) == (91., 3)
  assert half == pytest.approx(2.4841, abs=1e-4)
  assert str(tables.estimate([5.]).half) == 'nan'


def test_means_mark_the_best_and_what_overlaps_it():
  table = tables.means(
      sweeps.runs(sweeps.MEASURED), ('dense', 'ste', 'sr_ste', 'mdgf'),
      ('2:4', '1:8'), seeds=3)
  # The half of mdgf: t(0.975, 1) = 12.706 * sqrt(1/2) / sqrt(2) = 6.353.
  assert table.splitlines() == [
      '| method | 2:4                  | 1:8            |',
      '|--------|----------------------|----------------|',
      '| dense  | 98.0 ± 0.0           | 98.0 ± 0.0     |',
      '| ste    | 91.0 ± 2.5 †         | 80.0 ± 0.0     |',
      '| sr_ste | 94.0 ± 5.0 †         | **82.0 ± 0.0** |',
      '| mdgf   | **95.5 ± 6.4** (n=2) | n/a            |']


def test_runs_are_judged_by_another_measurement_if_asked():
  runs = sweeps.runs({('dense', None): (98,), ('ste', '2:4'): (90,)})
  runs[1].rows[-1]['kept'] = 0.75
  found, = tables.by_metric(runs, 'kept')
  assert tables.judged([found]) == ('kept', metrics.METRICS['kept'])
  assert tables.scores([found], 'ste', '2:4') == {0: 75.}
  assert tables.judged(runs)[0] == 'accuracy'  # They are as they were.
  with pytest.raises(ValueError, match='no run measured auc'):
    tables.by_metric(runs, 'auc')
  with pytest.raises(ValueError, match="did you mean 'kept'"):
    tables.by_metric(runs, 'keptt')


def test_best_is_the_lowest_where_lower_is_better():
  runs = [tables.Run(method, '1:8', 0, [{'step': 1, 'bits_per_byte': value}])
          for method, value in (('ste', 2.5), ('sr_ste', 2.25))]
  table = tables.means(runs, ('ste', 'sr_ste'), ('1:8',), seeds=1)
  assert table.splitlines()[2:] == [
      '| ste    | 2.500 †   |', '| sr_ste | **2.250** |']


def test_diverged_value_is_never_chosen():
  tried = {'ste': [[1e-3, 2.5], [1e-2, 2.1], [1e-1, float('nan')]],
           'sr_ste': [[1e-3, float('inf')], [1e-2, float('nan')]]}
  lower, higher = metrics.METRICS['bits_per_byte'], metrics.METRICS['accuracy']
  assert tables.choose(tried, lower) == {'ste': 1e-2}
  assert tables.choose(tried, higher) == {'ste': 1e-3}


def test_more_columns_stand_before_the_targets():
  table = tables.means(
      sweeps.runs({('ste', '2:4'): (90, 90)}), ('ste',), ('2:4',), seeds=2,
      label=str.upper, more={'cost': ['0.50']})
  assert table.splitlines()[::2] == ['| method | cost | 2:4            |',
                                     '| STE    | 0.50 | **90.0 ± 0.0** |']


def test_columns_mark_nothing_but_sparse_methods():
  cells = {'dense': tables.Estimate(99., 5., 2),
           'ste': tables.Estimate(90., .5, 2),
           'set': tables.Estimate(91., .5, 2),
           'rigl': tables.Estimate(89., .5, 2)}
  assert tables.marked(cells, metrics.METRICS['accuracy']) == {
      'dense': '99.0 ± 5.0', 'ste': '90.0 ± 0.5 †', 'set': '**91.0 ± 0.5**',
      'rigl': '89.0 ± 0.5'}


def test_a_single_seed_is_never_clearly_ahead_or_behind():
  cells = {'ste': tables.estimate([95.]), 'set': tables.estimate([80., 80.1]),
           'rigl': tables.estimate([81., 82.]), 'mest': tables.estimate([50.]),
           'snfs': tables.estimate([math.nan])}
  assert [name for name, text in tables.marked(
      cells, metrics.METRICS['accuracy']).items() if '†' in text] == [
          'set', 'rigl', 'mest']  # Not one that diverged.
  del cells['ste']
  assert [name for name, text in tables.marked(
      cells, metrics.METRICS['accuracy']).items() if '†' in text] == [
          'set', 'mest']
