"""What pictures of sweeps share: axes, legends, what was measured."""

from collections.abc import Sequence

from matplotlib import axes
from matplotlib import figure
from matplotlib import lines

from experiments.reporting import labels
from experiments.reporting import tables

OTHER = '#7F7F7F'  # Of marks that belong to no method.


def has(runs: Sequence[tables.Run], key: str) -> bool:
  """Returns whether something was measured in a run."""
  return any(key in row for run in runs for row in run.rows)


def one_panel(title: str) -> tuple[figure.Figure, axes.Axes]:
  """Returns a figure with one panel."""
  drawing = figure.Figure(figsize=(8.5, 4.5), layout='constrained')
  axis = drawing.subplots()
  tidy(axis)
  axis.set_title(title, loc='left', fontweight='bold')
  return drawing, axis


def tidy(axis: axes.Axes):
  """Draws a pale grid and no frame."""
  axis.grid(alpha=0.25)
  axis.spines[['top', 'right']].set_visible(False)


def legend(drawing: figure.Figure, methods: Sequence[str],
           colors: labels.Colors, **styles: str):
  """Tells colours, and line styles by their keywords, beside the panels."""
  handles = [lines.Line2D([], [], color=colors[method], linewidth=2,
                          label=labels.label(method)) for method in methods]
  handles += [lines.Line2D([], [], color=OTHER, linestyle=style, label=label)
              for label, style in styles.items()]
  drawing.legend(handles=handles, loc='outside right upper', frameon=False)
