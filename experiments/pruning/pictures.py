"""A picture of the quality of pruned networks against their sparsity."""

from collections.abc import Sequence
import pathlib

from matplotlib import figure
import numpy as np

from experiments._utils import grids
from experiments.reporting import canvas
from experiments.reporting import labels
from experiments.reporting import tables

_OPEN = 0.75  # Between targets without an axis of numbers, for all methods.


def plot_quality(path: pathlib.Path, runs: Sequence[tables.Run],
                 methods: Sequence[str], targets: Sequence[str]):
  """Draws a line a method over the shares pruned, and points for each N:M.

  Args:
    path: of the picture.
    runs: a run for each pruned network.
    methods: the lines; dense is level.
    targets: the shares and the N:M.
  """
  shares = {target: 100 * grids.of_target(target)['sparsity']
            for target in targets if 'sparsity' in grids.of_target(target)}
  n_m = [target for target in targets if target not in shares]
  sparse = [name for name in methods if not tables.is_dense(name)]
  panels = [panel for panel in (shares, n_m) if panel]
  drawing = figure.Figure(figsize=(3.2 + 3.4 * len(panels), 4.2),
                          layout='constrained')
  axes = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  for axis, panel in zip(axes, panels):
    canvas.tidy(axis)
    for i, name in enumerate(sparse):
      offset = _OPEN * ((i + 0.5) / len(sparse) - 0.5)
      places = {target: panel[target] if panel is shares
                else panel.index(target) + offset for target in panel}
      _draw(axis, runs, name, places, line='-' if panel is shares else '')
    if tables.DENSE in methods:
      _level(axis, runs, targets)
    if panel is n_m:
      axis.set_xticks(range(len(n_m)), n_m)
    axis.set(xlabel='Weights pruned (%)' if panel is shares else 'N:M')
  label = tables.judged(runs)[1].axis_label
  axes[0].set(ylabel=label)
  axes[0].set_title(f'{label} after pruning', loc='left', fontweight='bold')
  drawing.legend(*axes[0].get_legend_handles_labels(),
                 loc='outside right upper', frameon=False)
  drawing.savefig(path, dpi=120)


def _draw(axis, runs, name, places, *, line):
  """Means of a method and their intervals, where each target has its place."""
  found = [(x, tables.estimate([*scores.values()]))
           for target, x in places.items()
           if (scores := tables.scores(runs, name, target))]
  found.sort(key=lambda point: point[0])
  color = labels.color(name)
  axis.errorbar(
      [x for x, _ in found], [point.mean for _, point in found],
      [np.nan_to_num(point.half) for _, point in found],
      fmt=labels.marker(name) + line, color=color, label=name,
      markerfacecolor=labels.face(name, color),
      markersize=4.5, linewidth=1.2, elinewidth=0.8, capsize=2)


def _level(axis, runs, targets):
  """The dense network."""
  dense = [*tables.scores(runs, tables.DENSE, targets[0]).values()]
  axis.axhline(np.mean(dense), color=labels.color(tables.DENSE), linewidth=1.2,
               label=tables.DENSE)
