"""What pictures of sweeps share."""

from experiments.reporting import canvas
from experiments.reporting import tables


def test_a_legend_names_methods_and_styles():
  drawing, axis = canvas.one_panel('A title')
  canvas.legend(drawing, ['sr_ste', 'block_4x1'],
                {'sr_ste': 'red', 'block_4x1': 'blue'}, kept='-', pruned='--')
  legend, = drawing.legends
  assert [text.get_text() for text in legend.get_texts()] == [
      'SR-STE', 'block 4x1', 'kept', 'pruned']
  first, *_, last = legend.get_lines()
  assert first.get_color() == 'red' and last.get_linestyle() == '--'
  assert axis.get_title('left') == 'A title'
  assert not axis.spines['top'].get_visible()


def test_something_was_measured_if_a_run_has_it():
  runs = [tables.Run('ste', '2:4', 0, [{'step': 1}]),
          tables.Run('ste', '2:4', 1, [{'step': 1}, {'step': 2, 'flips': .1}])]
  assert canvas.has(runs, 'flips') and not canvas.has(runs, 'noise')
