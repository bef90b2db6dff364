"""The picture of patterns at several ratios: its panels and its curves."""

from matplotlib import figure
import numpy as np
import pytest

from experiments.reporting import ratio_plots
from experiments.reporting import tables


def _runs(scores):
  """Accuracies by row; a row's name ends with its sparsity."""
  return [tables.Run(row, None, 0, [{'step': 1, 'accuracy': value, 'sparsity': (
      0. if row == 'dense' else int(row.split('_')[1]) / 100)}])
          for row, value in scores.items()]


def test_every_domain_has_a_panel_and_every_pattern_a_curve(
    tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(
      figure.Figure, 'savefig', lambda self, *_, **__: drawn.append(self))
  found = {
      'images': _runs({'dense': 0.8, 'w_50': 0.8, 'w_75': 0.76, 'c_50': 0.8}),
      'texts': _runs({'dense': 0.5, 'w_50': 0.45})}
  ratio_plots.write(
      tmp_path, found, {'weights': ('w_50', 'w_75'), 'channels': ('c_50',)})
  (drawing,) = drawn
  images, texts = drawing.axes
  assert [axis.get_title('left') for axis in drawing.axes] == [*found]
  curves = [curve.lines[0].get_xydata() for curve in images.containers]
  # Halves and quarters are kept: 1 and 2 on the axis of binary logarithms.
  np.testing.assert_allclose(curves[0], [[1., 0.], [2., 5.]], atol=1e-9)
  np.testing.assert_allclose(curves[1], [[1., 0.]], atol=1e-9)
  np.testing.assert_allclose(
      texts.containers[0].lines[0].get_xydata(), [[1., 10.]])
  tolerated, *_ = images.lines
  assert tolerated.get_ydata()[0] == pytest.approx(1.)


def test_every_pattern_looks_different_however_many_there_are(
    tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(
      figure.Figure, 'savefig', lambda self, *_, **__: drawn.append(self))
  rows = {f'{name}_50': 0.4 for name in 'abcdefghi'}
  ratio_plots.write(tmp_path, {'images': _runs({'dense': 0.5, **rows})},
                    {row: (row,) for row in rows})
  curves = [curve.lines[0] for curve in drawn[0].axes[0].containers]
  told = drawn[0].legends[0]
  assert [text.get_text() for text in told.get_texts()] == [*rows]
  for shown in (curves, told.get_lines()):
    looks = {(line.get_color(), line.get_marker()) for line in shown}
    assert len(looks) == len(rows)


def test_picture_is_written(tmp_path):
  path = tmp_path / 'ratios.png'
  ratio_plots.write(path, {'images': _runs({'dense': 0.9, 'w_80': 0.9})},
                    {'weights': ('w_80',)})
  assert path.read_bytes()[:4] == b'\x89PNG'
