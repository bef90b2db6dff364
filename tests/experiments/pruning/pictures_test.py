"""The picture of pruned networks: shares on an axis, N:M beside it."""

from matplotlib import figure
import numpy as np
import pytest

from experiments.pruning import pictures
from experiments.reporting import tables

_RUNS = [
    tables.Run(method, target, seed, [{'accuracy': accuracy + seed / 100}])
    for method, target, accuracy in [
        ('dense', None, 0.9), ('wanda', '80%', 0.6), ('wanda', '50%', 0.8),
        ('wanda', '2:4', 0.7)]
    for seed in (0, 1)]


def _axes(monkeypatch, tmp_path, targets):
  """Draws a picture; returns its panels."""
  drawn = []
  monkeypatch.setattr(
      figure.Figure, 'savefig', lambda self, *_, **__: drawn.append(self))
  pictures.plot_quality(
      tmp_path / 'picture.png', _RUNS, ['dense', 'wanda'], targets)
  return drawn[0].axes


def test_a_method_is_a_line_over_the_shares_and_points_at_each_n_m(
    monkeypatch, tmp_path):
  shares, n_m = _axes(monkeypatch, tmp_path, ['80%', '2:4', '50%'])
  wanda, dense = shares.get_lines()[0], shares.get_lines()[-1]
  np.testing.assert_allclose(wanda.get_xydata(), [[50, 80.5], [80, 60.5]])
  np.testing.assert_allclose(dense.get_ydata(orig=False), 90.5)
  np.testing.assert_allclose(n_m.get_lines()[0].get_xydata(), [[0, 70.5]])
  assert [tick.get_text() for tick in n_m.get_xticklabels()] == ['2:4']


def test_a_method_and_its_variants_look_different(monkeypatch, tmp_path):
  names = ['dense', 'wanda', *(f'wanda_{suffix}' for suffix in (
      'refit', 'permuted', 'permuted_refit', 'reconstructed',
      'reconstructed_refit'))]
  runs = [tables.Run(name, None if name == 'dense' else '2:4', 0, [
      {'accuracy': 0.9}]) for name in names]
  drawn = []
  monkeypatch.setattr(
      figure.Figure, 'savefig', lambda self, *_, **__: drawn.append(self))
  pictures.plot_quality(tmp_path / 'picture.png', runs, names, ['2:4'])
  lines = [curve.lines[0] for curve in drawn[0].axes[0].containers]
  assert len({(line.get_marker(), line.get_markerfacecolor())
              for line in lines}) == len(lines) == 6


@pytest.mark.parametrize('targets', [['50%'], ['2:4']])
def test_one_kind_of_target_has_one_panel(targets, monkeypatch, tmp_path):
  assert len(_axes(monkeypatch, tmp_path, targets)) == 1
