"""Pictures of a sweep over its steps: gradient noise, and what masks do."""

import collections
from collections.abc import Callable
from collections.abc import Sequence
import functools
import math
import pathlib

from matplotlib import figure
import ml_collections
import numpy as np

from experiments.reporting import canvas
from experiments.reporting import labels
from experiments.reporting import tables

NOISE = 'noise.png'
SECOND = 'noise_of_second_moments.png'
MASKS = 'masks.png'
NAMES = NOISE, SECOND, MASKS

# By picture, the measurement of a run, and what it is.
_NOISES = {NOISE: ('noise', 'Gradient noise, Var(|g|)'),
           SECOND: ('second', 'Noise of second moments, Var(v)')}
_SIDES = {'kept': '-', 'pruned': '--'}
# The measurements of masks, shares of 1; the first is there in every run.
_OF_MASKS = {'sparsity': 'Weights pruned (%)', 'flips': 'Flipped mask bits (%)',
             'explored': 'Weights ever kept (%)',
             'channels_left': 'Channels alive (%)'}
_PANEL_COLUMNS = 3  # At most.
_DASH = 4  # Line widths.


def pictures(runs: Sequence[tables.Run], config: ml_collections.ConfigDict,
             methods: Sequence[str], colors: labels.Colors
             ) -> dict[str, Callable[[pathlib.Path], None]]:
  """Returns the pictures that the measurements allow.

  Dense runs have no masks. Variants that train longer would hide the method
  that they are variants of.

  Args:
    runs: the measured runs of a sweep.
    config: the config of the sweep, for its targets.
    methods: its methods of which there are runs.
    colors: by method.

  Returns:
    The names of the pictures, and what draws each to a path.
  """
  sparse = [method for method in methods if not tables.is_dense(method)
            and not method.endswith(labels.LONG)]
  if not sparse or all(len(run.rows) == 1 for run in runs):
    return {}
  found = {}
  for name, (noise, _) in _NOISES.items():
    if any(canvas.has(runs, f'{noise}_{side}') for side in _SIDES):
      found[name] = functools.partial(
          plot_noise, runs=runs, methods=sparse, targets=config.targets,
          colors=colors, of=name)
  target = config.get('plot_target')
  found[MASKS] = functools.partial(
      plot_masks, runs=runs, methods=sparse, colors=colors,
      target=target if target in config.targets else config.targets[-1])
  return found


def plot_noise(path: pathlib.Path, runs: Sequence[tables.Run],
               methods: Sequence[str], targets: Sequence[str],
               colors: labels.Colors, *, of: str = NOISE):
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
  rows = math.ceil(len(targets) / _PANEL_COLUMNS)
  columns = math.ceil(len(targets) / rows)
  drawing = figure.Figure(
      figsize=(2.2 + 2.9 * columns, 0.8 + 2.4 * rows), layout='constrained')
  panels = [*drawing.subplots(
      rows, columns, sharex=True, sharey=True, squeeze=False).flat]
  for axis, target in zip(panels, targets):
    canvas.tidy(axis)
    axis.set_title(target, loc='left', fontsize='medium')
    axis.set(yscale='log', xlabel='Step')
    axis.tick_params(labelbottom=True)
    for method in methods:
      for side, style in _SIDES.items():
        steps, values = _curve(runs, method, target, f'{noise}_{side}')
        # Before anything is pruned there is no noise, nor a logarithm of it.
        axis.plot(steps, [value or math.nan for value in values],
                  linestyle=style, color=colors[method], linewidth=1.3)
  for axis in panels[len(targets):]:
    axis.remove()
  drawing.supylabel(label, fontsize='medium')
  canvas.legend(drawing, methods, colors, **_SIDES)
  drawing.savefig(path, dpi=120)


def plot_masks(path: pathlib.Path, runs: Sequence[tables.Run],
               methods: Sequence[str], target: str, colors: labels.Colors):
  """Draws sparsity and the other measurements of masks over the steps."""
  shown = {key: label for key, label in _OF_MASKS.items()
           if canvas.has(runs, key)}
  drawing = figure.Figure(
      figsize=(8, 1.2 + 2.6 * len(shown)), layout='constrained')
  all_axes = drawing.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
  for axis, (key, label) in zip(all_axes, shown.items()):
    canvas.tidy(axis)
    axis.set(ylabel=label)
    _striped(axis, colors, {method: _curve(runs, method, target, key)
                            for method in methods})
  all_axes[0].set_title(f'Masks over training at {target}', loc='left',
                        fontweight='bold')
  all_axes[0].set(ylim=(-5, 105))
  all_axes[-1].set(xlabel='Step')
  drawing.align_ylabels(all_axes)
  canvas.legend(drawing, methods, colors)
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
