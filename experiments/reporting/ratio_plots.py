"""The picture of patterns at several ratios: a panel a domain."""

from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import pathlib

from matplotlib import figure
from matplotlib import lines
import numpy as np

from experiments.reporting import canvas
from experiments.reporting import ratios
from experiments.reporting import tables

_MARKERS = 'os^D'  # After the last colour, the first has the next marker.
_COLORS = ('#D55E00', '#0072B2', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_TICKS = (0.3, 0.6, 0.8, 0.9, 0.95, 0.98)
_TOP = 0.1  # A loss above it is outside.


def write(path: pathlib.Path, found: Mapping[str, Sequence[tables.Run]],
          patterns: Mapping[str, Sequence[str]]):
  """Draws the lost worth over the share that is pruned, with 95% intervals.

  Args:
    path: of the picture.
    found: the runs of each domain.
    patterns: the methods of the sweeps that prune by each pattern.
  """
  drawing = figure.Figure(
      figsize=(1.8 + 3.6 * len(found), 3.8), layout='constrained')
  styles = dict(zip(patterns, itertools.cycle(
      itertools.product(_MARKERS, _COLORS))))
  panels = drawing.subplots(1, len(found), sharey=True, squeeze=False)[0]
  for axis, (name, runs) in zip(panels, found.items()):
    canvas.tidy(axis)
    axis.set_title(name, loc='left', fontweight='bold')
    axis.axhline(100 * ratios.TOLERANCE, color='black', linewidth=1.2)
    for pattern, (marker, color) in styles.items():
      points = ratios.curve(runs, patterns[pattern])
      axis.errorbar(
          [_place(point.ratio) for point in points],
          [100 * point.lost.mean for point in points],
          [100 * np.nan_to_num(point.lost.half) for point in points],
          fmt=f'{marker}-', color=color, capsize=2, markersize=4, linewidth=1.2)
    axis.set_xticks([_place(tick) for tick in _TICKS],
                    [f'{tick:.0%}' for tick in _TICKS])
    axis.set(xlabel='Pruned', ylim=(-100 * _TOP / 5, 100 * _TOP))
  panels[0].set(ylabel='Lost of what the dense network is worth (%)')
  drawing.legend(
      handles=[lines.Line2D([], [], color=color, marker=marker, label=pattern)
               for pattern, (marker, color) in styles.items()],
      loc='outside right upper', frameon=False)
  drawing.savefig(path, dpi=120)


def _place(ratio):
  """Halving the kept weights moves a point by as much at every ratio."""
  return -np.log2(1 - ratio)
