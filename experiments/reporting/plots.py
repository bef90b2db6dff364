"""Pictures of a sweep. A method has the same colour in all pictures."""

import collections
from collections.abc import Callable
from collections.abc import Sequence
import functools
import math
import pathlib

from matplotlib import axes
from matplotlib import figure
from matplotlib import lines
import ml_collections
import numpy as np

from experiments.records import metrics
from experiments.reporting import labels
from experiments.reporting import tables

TARGETS = 'by_target.png'
ROWS = 'by_row.png'
FLOPS = 'by_flops.png'
NOISE = 'noise.png'
SECOND = 'noise_of_second_moments.png'
MASKS = 'masks.png'
NAMES = TARGETS, ROWS, FLOPS, NOISE, SECOND, MASKS

Colors = dict[str, str]  # By method; of `labels.colors`.

# By picture, the measurement of a run, and what it is.
_NOISES = {NOISE: ('noise', 'Gradient noise, Var(|g|)'),
           SECOND: ('second', 'Noise of second moments, Var(v)')}
_OTHER = '#7F7F7F'
_MARKERS = 'os^DvPX*<>'
_SPREAD = 0.7  # How far apart the points of a target lie; targets are at 1.
_PANEL_COLUMNS = 3
_DASH = 4  # Line widths.


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
  if _has(runs, 'train_flops'):
    found[FLOPS] = lambda path: plot_flops(
        path, runs, methods, targets, colors)
  if all(len(run.rows) == 1 for run in runs):
    return found  # There is nothing to draw over steps.
  for name, (noise, _) in _NOISES.items():
    if _has(runs, f'{noise}_kept') or _has(runs, f'{noise}_pruned'):
      found[name] = functools.partial(
          plot_noise, runs=runs, methods=methods, targets=targets,
          colors=colors, of=name)
  sparse = [method for method in methods if not tables.is_dense(method)
            and not method.endswith(labels.LONG)]
  target = config.get('plot_target')
  if sparse:
    found[MASKS] = lambda path: plot_masks(
        path, runs, sparse, target if target in targets else targets[-1],
        colors)
  return found


def plot_targets(path: pathlib.Path, runs: Sequence[tables.Run],
                 methods: Sequence[str], targets: Sequence[str],
                 colors: Colors):
  """Draws the metric at every target, with its 95% intervals over seeds."""
  metric = tables.judged(runs)[1]
  drawing, axis = _one_panel(metric.axis_label + ' by target')
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
        fmt='o', color=colors[method], label=labels.label(method),
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
  drawing, axis = _one_panel(metric.axis_label)
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
               methods: Sequence[str], targets: Sequence[str], colors: Colors):
  """Draws the metric against the FLOPs of training, one point for each cell.

  Points of one height reach the same, those above each other cost the same.
  """
  metric = tables.judged(runs)[1]
  drawing, axis = _one_panel('What training costs and what it gives')
  markers = dict(zip([None, *targets], _MARKERS))
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
                markersize=7, markeredgecolor='white', markeredgewidth=0.5)
      if method == tables.DENSE:
        axis.axhline(y, color=color, linewidth=0.8, linestyle=':')
        axis.axvline(x, color=color, linewidth=0.8, linestyle=':')
  axis.set(xlabel='Training FLOPs', ylabel=metric.axis_label,
           xscale='log')
  handles = [lines.Line2D([], [], color=colors[method], linewidth=4,
                          label=labels.label(method)) for method in methods]
  handles += [lines.Line2D([], [], color=_OTHER, linestyle='',
                           marker=markers[target], label=target)
              for target in targets]
  drawing.legend(handles=handles, loc='outside right upper', frameon=False)
  drawing.savefig(path, dpi=120)


def plot_noise(path: pathlib.Path, runs: Sequence[tables.Run],
               methods: Sequence[str], targets: Sequence[str], colors: Colors,
               *, of: str = NOISE):
  """Draws the gradient noise of kept and pruned weights over the steps.

  Args:
    path: of the picture.
    runs: the measured runs of a sweep.
    methods: the methods to draw.
    targets: the targets, a panel each.
    colors: by method.
    of: `NOISE`, or `SECOND` for that of the second moments, which
      https://arxiv.org/abs/2402.04744 shows, too.
  """
  noise, label = _NOISES[of]
  columns = min(_PANEL_COLUMNS, len(targets))
  rows = math.ceil(len(targets) / columns)
  drawing = figure.Figure(
      figsize=(2.2 + 2.9 * columns, 0.8 + 2.4 * rows), layout='constrained')
  panels = [*drawing.subplots(
      rows, columns, sharex=True, sharey=True, squeeze=False).flat]
  for axis, target in zip(panels, targets):
    tidy(axis)
    axis.set_title(target, loc='left', fontsize='medium')
    axis.set(yscale='log', xlabel='Step')
    axis.tick_params(labelbottom=True)
    for method in methods:
      for side, style in (('kept', '-'), ('pruned', '--')):
        axis.plot(*_curve(runs, method, target, f'{noise}_{side}'),
                  linestyle=style, color=colors[method], linewidth=1.3)
  for axis in panels[len(targets):]:
    axis.remove()
  drawing.supylabel(label, fontsize='medium')
  _legend(drawing, methods, colors, kept='-', pruned='--')
  drawing.savefig(path, dpi=120)


def plot_masks(path: pathlib.Path, runs: Sequence[tables.Run],
               methods: Sequence[str], target: str, colors: Colors):
  """Draws sparsity and the other measurements of masks over the steps."""
  panels = {'sparsity': 'Weights pruned (%)'}
  if _has(runs, 'flips'):
    panels['flips'] = 'Flipped mask bits (%)'
  if _has(runs, 'explored'):
    panels['explored'] = 'Weights ever kept (%)'
  if _has(runs, 'channels_left'):
    panels['channels_left'] = 'Channels alive (%)'
  drawing = figure.Figure(
      figsize=(8, 1.2 + 2.6 * len(panels)), layout='constrained')
  all_axes = drawing.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
  for axis, (key, label) in zip(all_axes, panels.items()):
    tidy(axis)
    axis.set(ylabel=label)
    _striped(axis, colors, {method: _curve(runs, method, target, key)
                            for method in methods})
  all_axes[0].set_title(f'Masks over training at {target}', loc='left',
                        fontweight='bold')
  all_axes[0].set(ylim=(-5, 105))
  all_axes[-1].set(xlabel='Step')
  drawing.align_ylabels(all_axes)
  _legend(drawing, methods, colors)
  drawing.savefig(path, dpi=120)


def _striped(axis, colors, curves):
  """Draws percentages over steps; equal curves share a line of many colours."""
  groups = collections.defaultdict(list)
  for method, (steps, values) in curves.items():
    groups[tuple(steps), tuple(values)].append(method)
  for (steps, values), methods in groups.items():
    for i, method in enumerate(methods):
      others = len(methods) - 1
      style = (-i * _DASH, (_DASH, others * _DASH)) if others else '-'
      axis.plot(steps, 100 * np.asarray(values), color=colors[method],
                linestyle=style, linewidth=2, dash_capstyle='butt')


def _present(runs, config):
  """The methods of which a run has ended."""
  measured = {run.method for run in runs}
  return [method for method in config.methods if method in measured]


def _has(runs, key):
  return any(key in row for run in runs for row in run.rows)


def _one_panel(title):
  drawing = figure.Figure(figsize=(8.5, 4.5), layout='constrained')
  axis = drawing.subplots()
  tidy(axis)
  axis.set_title(title, loc='left', fontweight='bold')
  return drawing, axis


def tidy(axis: axes.Axes):
  """Draws a pale grid and no frame."""
  axis.grid(alpha=0.25)
  axis.spines[['top', 'right']].set_visible(False)


def _legend(drawing, methods, colors, **styles):
  handles = [lines.Line2D([], [], color=colors[method], linewidth=2,
                          label=labels.label(method)) for method in methods]
  handles += [lines.Line2D([], [], color=_OTHER, linestyle=style, label=label)
              for label, style in styles.items()]
  drawing.legend(handles=handles, loc='outside right upper', frameon=False)


def _curve(runs, method, target, key):
  """The steps at which a number was measured, and its means over seeds."""
  values = collections.defaultdict(list)
  for run in runs:
    if run.method == method and run.target in (target, None):
      for row in run.rows:
        if row.get(key) is not None:
          values[row['step']].append(row[key])
  steps = sorted(values)
  return steps, [float(np.mean(values[step])) for step in steps]
