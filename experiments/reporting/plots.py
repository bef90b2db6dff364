"""Pictures of a sweep. A method has the same colour in all pictures."""

from collections.abc import Callable
from collections.abc import Sequence
import itertools
import math
import pathlib

from matplotlib import lines
import ml_collections
import numpy as np

from experiments.records import metrics
from experiments.reporting import canvas
from experiments.reporting import labels
from experiments.reporting import step_plots
from experiments.reporting import tables

TARGETS = 'by_target.png'
ROWS = 'by_row.png'
FLOPS = 'by_flops.png'
NAMES = TARGETS, ROWS, FLOPS, *step_plots.NAMES

_MARKERS = 'os^DvPX*<>hpd8H'
_SPREAD = 0.7  # How far apart the points of a target lie; targets are at 1.


def write(path: pathlib.Path, runs: Sequence[tables.Run],
          config: ml_collections.ConfigDict):
  """Draws the measurements of the runs.

  Args:
    path: the directory of the pictures.
    runs: the measured runs of a sweep.
    config: the config of the sweep, for the order of methods and targets.
  """
  for name, draw in pictures(runs, config).items():
    draw(path / name)


def pictures(runs: Sequence[tables.Run], config: ml_collections.ConfigDict
            ) -> dict[str, Callable[[pathlib.Path], None]]:
  """Returns the pictures that the measurements allow.

  Args:
    runs: the measured runs of a sweep.
    config: the config of the sweep, for the order of methods and targets.

  Returns:
    The names of the pictures, and what draws each to a path.
  """
  runs = [run._replace(rows=[{**row, **metrics.numbers(row)}
                             for row in run.rows]) for run in runs]
  methods, targets = _present(runs, config), config.targets
  colors = labels.colors(config.methods)
  if not tables.has_targets(config):
    return {ROWS: lambda path: plot_rows(path, runs, methods)}
  found = {TARGETS: lambda path: plot_targets(
      path, runs, methods, targets, colors)}
  if canvas.has(runs, 'train_flops'):
    found[FLOPS] = lambda path: plot_flops(
        path, runs, methods, targets, colors)
  return found | step_plots.pictures(runs, config, methods, colors)


def plot_targets(path: pathlib.Path, runs: Sequence[tables.Run],
                 methods: Sequence[str], targets: Sequence[str],
                 colors: labels.Colors):
  """Draws the metric at every target, with its 95% intervals over seeds."""
  metric = tables.judged(runs)[1]
  drawing, axis = canvas.one_panel(metric.axis_label + ' by target')
  sparse = [method for method in methods if not tables.is_dense(method)]
  handles = []
  for i, method in enumerate(sparse):
    offset = _SPREAD * ((i + 0.5) / len(sparse) - 0.5)
    points = [(x + offset, tables.estimate([*scores.values()]))
              for x, target in enumerate(targets)
              if (scores := tables.scores(runs, method, target))]
    places = [x for x, _ in points]
    means = [point.mean for _, point in points]
    axis.plot(places, means, color=colors[method], linewidth=0.9, alpha=0.4)
    handles.append(axis.errorbar(
        places, means, [np.nan_to_num(point.half) for _, point in points],
        fmt=labels.marker(method), color=colors[method],
        label=labels.label(method),
        capsize=2, markersize=4.5, elinewidth=1.4,
        markerfacecolor=labels.face(method, colors[method])))
  if tables.DENSE in methods:
    dense = tables.estimate(
        [*tables.scores(runs, tables.DENSE, targets[0]).values()])
    handles.insert(0, axis.axhline(
        dense.mean, color=labels.color(tables.DENSE), linewidth=1.2,
        label='dense'))
    if not math.isnan(dense.half):
      axis.axhspan(dense.mean - dense.half, dense.mean + dense.half,
                   color=labels.color(tables.DENSE), alpha=0.1, linewidth=0)
  axis.set_xticks(range(len(targets)), targets)
  axis.set(xlabel='Target', ylabel=metric.axis_label,
           xlim=(-0.5, len(targets) - 0.5))
  drawing.legend(handles=handles, loc='outside right upper', frameon=False)
  drawing.savefig(path, dpi=120)


def plot_rows(path: pathlib.Path, runs: Sequence[tables.Run],
              methods: Sequence[str]):
  """Draws the metric of every row, with its 95% interval over seeds."""
  metric = tables.judged(runs)[1]
  drawing, axis = canvas.one_panel(metric.axis_label)
  for i, method in enumerate(methods):
    cell = tables.estimate([*tables.scores(runs, method, tables.ALL).values()])
    dense = tables.is_dense(method)
    axis.errorbar(cell.mean, i, xerr=np.nan_to_num(cell.half), fmt='o',
                  color=labels.color(tables.DENSE if dense else 'sr_ste'),
                  capsize=2)
    if dense:
      axis.axvline(cell.mean, color=labels.color(tables.DENSE), linewidth=0.8)
  axis.set_yticks(range(len(methods)),
                  [labels.label(method) for method in methods])
  axis.set(xlabel=metric.axis_label)
  axis.invert_yaxis()
  drawing.savefig(path, dpi=120)


def plot_flops(path: pathlib.Path, runs: Sequence[tables.Run],
               methods: Sequence[str], targets: Sequence[str],
               colors: labels.Colors):
  """Draws the metric against the FLOPs of training, one point for each cell.

  Points of one height reach the same, those above each other cost the same.
  """
  metric = tables.judged(runs)[1]
  drawing, axis = canvas.one_panel('What training costs and what it gives')
  markers = dict(zip([None, *targets], itertools.cycle(_MARKERS)))
  for method in methods:
    points = [
        (np.mean([run.rows[-1]['train_flops'] for run in group]),
         np.mean([*tables.scores(group, method, target).values()]), target)
        for target in markers if (group := [
            run for run in runs if (run.method, run.target) == (method, target)
            and 'train_flops' in run.rows[-1]])]
    color = colors[method]
    axis.plot([x for x, _, _ in points], [y for _, y, _ in points],
              color=color, linewidth=0.9, alpha=0.4)
    for x, y, target in points:
      axis.plot(x, y, marker=markers[target], linestyle='', color=color,
                markersize=7, markerfacecolor=labels.face(method, color))
      if method == tables.DENSE:
        axis.axhline(y, color=color, linewidth=0.8, linestyle=':')
        axis.axvline(x, color=color, linewidth=0.8, linestyle=':')
  axis.set(xlabel='Training FLOPs', ylabel=metric.axis_label,
           xscale='log')
  handles = [lines.Line2D([], [], color=colors[method], linestyle='',
                          marker='o', label=labels.label(method),
                          markerfacecolor=labels.face(method, colors[method]))
             for method in methods]
  handles += [lines.Line2D([], [], color=canvas.OTHER, linestyle='',
                           marker=markers[target], label=target)
              for target in targets]
  drawing.legend(handles=handles, loc='outside right upper', frameon=False)
  drawing.savefig(path, dpi=120)


def _present(runs, config):
  """The methods of which a run has ended."""
  measured = {run.method for run in runs}
  return [method for method in config.methods if method in measured]
