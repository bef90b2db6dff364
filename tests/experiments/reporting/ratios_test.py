"""The ratio at which a pattern costs 1%: curves by hand, and a fine grid."""

import math

import numpy as np
import pytest

from experiments.reporting import ratios
from experiments.reporting import tables

_AT = (0.8, 0.9, 0.95, 0.98)
_PATTERNS = {'weights': ('w_80', 'w_90', 'w_95'), 'channels': ('c_50',)}


def _on_a_grid(at, losses, tolerance):
  """The first point of a fine grid that is above the tolerance."""
  grid = np.linspace(at[0], at[-1], 200_001)
  above = np.flatnonzero(np.interp(grid, at, losses) > tolerance)
  if not above.size:
    return math.inf
  return grid[above[0]] if above[0] else -math.inf


@pytest.mark.parametrize('seed', range(40))
def test_crossing_is_the_first_point_of_the_curve_above_the_tolerance(seed):
  rng = np.random.default_rng(seed)
  losses = rng.uniform(-0.02, 0.04, size=4)  # Most of them rise and fall.
  at = np.sort(rng.uniform(0.3, 0.99, size=4))
  found = ratios.crossing(at, losses, 0.01)
  assert found == pytest.approx(_on_a_grid(at, losses, 0.01), abs=1e-5)


@pytest.mark.parametrize('losses,expected', [
    ((0., 0.004, 0.008, 0.01), math.inf),  # The tolerance itself is well.
    ((-0.03, -0.02, -0.02, -0.04), math.inf),
    ((0.02, 0.03, 0.05, 0.1), -math.inf),
    ((0.02, 0., 0., 0.), -math.inf),  # A later fall does not count.
    ((0., 0.02, 0., 0.02), 0.85),
    ((0., 0., 0., 0.04), 0.9575),
    ((0.01, 0.03, 0.03, 0.03), 0.8),
    ((0., 0., math.nan, 0.), 0.9),  # Up to the last that was well.
    ((0., 0., math.inf, 0.), 0.9),
    ((math.nan, 0., 0., 0.), -math.inf),
    ((0., -math.inf, 0.02, 0.), 0.95),
    ((0., -math.inf, math.inf, 0.), 0.9)])
def test_crossing_at_the_ends_and_where_runs_diverged(losses, expected):
  assert ratios.crossing(_AT, losses) == pytest.approx(expected, abs=1e-12)


def test_crossing_of_one_ratio_tells_its_side():
  assert ratios.crossing([0.8], [0.]) == math.inf
  assert ratios.crossing([0.8], [0.1]) == -math.inf


def test_a_higher_curve_crosses_no_later():
  rng = np.random.default_rng(0)
  for _ in range(50):
    lower = rng.uniform(-0.02, 0.03, size=4)
    higher = lower + rng.uniform(0, 0.02, size=4)
    assert ratios.crossing(_AT, higher) <= ratios.crossing(_AT, lower)


def _runs(metric, scores):
  """Scores by row, a list by seed; a row's name ends with its sparsity."""
  return [tables.Run(row, None, seed, [{'step': 1, 'sparsity': (
      0. if row == 'dense' else int(row.split('_')[1]) / 100), metric: value}])
          for row, values in scores.items()
          for seed, value in enumerate(values)]


@pytest.mark.parametrize('metric,dense,pruned,lost', [
    ('accuracy', 0.9, 0.81, 0.1), ('auc', 0.9, 0.86, 0.1),
    ('bits_per_byte', 2., 2.6, 0.1), ('bits_per_byte', 2., 1.4, -0.1)])
def test_loss_is_a_share_of_what_was_learned(metric, dense, pruned, lost):
  point, = ratios.curve(
      _runs(metric, {'dense': [dense], 'w_80': [pruned]}), ['w_80'])
  assert point.ratio == pytest.approx(0.8)
  assert point.lost.mean == pytest.approx(lost)
  assert point.lost.seeds == 1


def test_loss_is_paired_by_seed_and_ratios_are_in_order():
  # Dense scores differ by far more than what is lost in each seed.
  runs = _runs('accuracy', {
      'dense': [0.5, 0.8, 1.0], 'w_95': [0.45, 0.72, 0.9],
      'w_80': [0.5, 0.8]})
  first, second = ratios.curve(runs, ['w_95', 'w_90', 'w_80'])
  assert (first.ratio, second.ratio) == pytest.approx((0.8, 0.95))
  assert first.lost == (0., 0., 2)
  assert second.lost == pytest.approx((0.1, 0., 3))
  found = ratios.tolerated([first, second])
  assert found.ratio == pytest.approx(0.815)
  assert (found.low, found.high) == pytest.approx((0.815, 0.815))


def test_interval_ends_where_the_ends_of_the_means_interval_cross():
  # With two seeds the half of an interval is t(0.975, 1) / 2 times the spread.
  t = 12.7062047
  runs = _runs('accuracy', {
      'dense': [1., 1.], 'w_80': [1., 1.],
      'w_90': [1 - 0.019, 1 - 0.021], 'w_95': [0.8, 0.8]})
  found = ratios.tolerated(ratios.curve(runs, ['w_80', 'w_90', 'w_95']))
  half = t * 0.001
  assert found.ratio == pytest.approx(0.85)
  assert found.low == pytest.approx(0.8 + 0.1 * 0.01 / (0.02 + half))
  assert found.high == pytest.approx(
      0.9 + 0.05 * (0.01 - 0.02 + half) / (0.2 - 0.02 + half))


@pytest.mark.parametrize('metric, worthless, dense, pruned', [
    ('accuracy', (math.nan, 0.), 0.9, 0.81),
    ('auc', (math.nan, 0.4), 0.9, 0.86),
    ('bits_per_byte', (math.nan, math.inf, 9.), 2., 2.6)])
def test_pairs_whose_dense_run_learned_nothing_are_left_out(
    metric, worthless, dense, pruned):
  for value in worthless:
    point, = ratios.curve(_runs(metric, {
        'dense': [dense, value, dense], 'w_80': [pruned, pruned, pruned]}),
                          ['w_80'])
    assert point.lost.seeds == 2
    assert point.lost.mean == pytest.approx(0.1)
    assert not ratios.curve(_runs(metric, {
        'dense': [value], 'w_80': [pruned]}), ['w_80'])


def test_a_pruned_run_that_diverged_is_no_good():
  runs = _runs('accuracy', {
      'dense': [0.9, 0.9], 'w_80': [0.9, 0.9], 'w_90': [0.9, math.nan]})
  found = ratios.tolerated(ratios.curve(runs, ['w_80', 'w_90']))
  assert found.ratio == pytest.approx(0.8)


def test_a_single_seed_among_several_leaves_the_interval_open():
  runs = _runs('accuracy', {
      'dense': [1., 1.], 'w_80': [1., 1.], 'w_90': [0.98], 'w_95': [0.8, 0.8]})
  found = ratios.tolerated(ratios.curve(runs, ['w_80', 'w_90', 'w_95']))
  assert found.ratio == pytest.approx(0.85)
  assert (found.low, found.high) == pytest.approx((0.8, 0.95))


def test_a_seed_alone_has_no_interval():
  runs = _runs('auc', {'dense': [0.9], 'w_80': [0.9], 'w_90': [0.7]})
  found = ratios.tolerated(ratios.curve(runs, ['w_80', 'w_90']))
  assert math.isnan(found.low) and math.isnan(found.high)
  assert ratios.show(found) == '80.2%'


@pytest.mark.parametrize('cell,expected', [
    ((-math.inf, -math.inf, 0.83, (0.8, 0.98)), '< 80.0% (< 80.0 to 83.0)'),
    ((math.inf, 0.9, math.inf, (0.8, 0.98)), '> 98.0% (90.0 to > 98.0)')])
def test_text_says_on_which_side_of_the_measured_ratios(cell, expected):
  assert ratios.show(ratios.Tolerated(*cell)) == expected


_FOUND = {
    'images': _runs('accuracy', {
        'dense': [0.9], 'w_80': [0.9], 'w_90': [0.882], 'w_95': [0.5],
        'c_50': [0.9]}),
    'lm': _runs('bits_per_byte', {'dense': [2.], 'w_80': [2.12]})}


def test_table_tells_how_many_seeds_are_missing():
  runs = _runs('accuracy', {
      'dense': [0.9, 0.9], 'w_80': [0.9, 0.9], 'c_50': [0.9]})
  rows = [line.split('|')[2].strip() for line in ratios.table(
      {'images': runs}, _PATTERNS).splitlines()[2:]]
  assert rows == ['> 80.0% (> 80.0 to > 80.0)', '> 50.0% (n=1)']


def test_table_has_a_row_a_pattern_and_a_column_a_domain():
  lines = [[cell.strip() for cell in line.split('|')[1:-1]]
           for line in ratios.table(_FOUND, _PATTERNS).splitlines()]
  assert lines[0] == ['pattern', 'images', 'lm']
  assert lines[2:] == [['weights', '85.0%', '< 80.0%'],
                       ['channels', '> 50.0%', 'n/a']]
