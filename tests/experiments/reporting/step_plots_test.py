"""Pictures over steps: which are drawn, of which methods, and of what."""

import pytest

from experiments.reporting import labels
from experiments.reporting import step_plots
from tests._lib import sweeps

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


@pytest.fixture(name='drawn')
def _drawn(monkeypatch):
  """What would be saved: the figures, by the names of their files."""
  found = {}
  monkeypatch.setattr(
      step_plots.figure.Figure, 'savefig',
      lambda self, path, dpi: found.update({path: self}))
  return found


def _pictures(drawn, targets=('2:4', '1:8'), **measured):
  """Draws three rows and dense, of which these numbers were measured."""
  config = sweeps.small(
      methods=('dense', 'ste', 'sr_ste', 'sr_ste_long'), targets=targets)
  runs = sweeps.runs({
      **sweeps.MEASURED, ('sr_ste_long', '2:4'): (92, 93, 94)})
  for run in runs:
    if run.target:
      last, = run.rows
      run.rows[:] = [{**last, 'step': step, **{
          key: values[step] for key, values in measured.items()}}
                     for step in range(3)]
  made = step_plots.pictures(
      runs, config, config.methods, labels.colors(config.methods))
  for name, draw in made.items():
    draw(name)
  return drawn


def test_noise_has_a_panel_a_target_and_gaps_where_nothing_is_pruned(drawn):
  shown = _pictures(drawn, noise_kept=(3e-6, 2e-6, 1e-6),
                    noise_pruned=(0., 0., 1e-7))
  assert [*shown] == [step_plots.NOISE, step_plots.MASKS]
  panels = shown[step_plots.NOISE].axes
  assert [axis.get_title('left') for axis in panels] == ['2:4', '1:8']
  for axis in panels:
    kept, pruned, *others = axis.lines
    assert len(others) == 2  # Of SR-STE; dense and long have none.
    assert kept.get_ydata() == pytest.approx([3e-6, 2e-6, 1e-6])
    assert pruned.get_ydata() == pytest.approx([
        float('nan'), float('nan'), 1e-7], nan_ok=True)


def test_legends_name_what_is_drawn(drawn):
  shown = _pictures(drawn, noise_kept=(3e-6, 2e-6, 1e-6), flips=(.1, .2, .3))
  for name, more in ((step_plots.NOISE, ['kept', 'pruned']),
                     (step_plots.MASKS, [])):
    legend, = shown[name].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        'STE', 'SR-STE', *more]


@pytest.mark.parametrize('count, rows', [(1, 1), (3, 1), (4, 2), (6, 2)])
def test_rows_of_panels_are_full_if_they_can_be(count, rows, drawn):
  shown = _pictures(drawn, ('2:4', '1:8', '1:16', '1:32', '1:64', '1:128')
                    [:count], noise_kept=(1e-6,) * 3)
  panels = shown[step_plots.NOISE].axes
  assert len(panels) == count
  assert {panel.get_subplotspec().get_gridspec().nrows
          for panel in panels} == {rows}


def test_masks_are_shown_of_what_was_measured_in_percent(drawn):
  shown = _pictures(drawn, flips=(.1, .2, .3))
  sparsity, flips = shown[step_plots.MASKS].axes
  assert sparsity.get_ylabel() == 'Weights pruned (%)'
  assert flips.get_ylabel() == 'Flipped mask bits (%)'
  # Equal curves share a line of two colours.
  for line in flips.lines:
    assert line.get_ydata() == pytest.approx([10, 20, 30])
  assert len({line.get_color() for line in flips.lines}) == 2
