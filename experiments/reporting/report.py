"""The report of a run: pictures and a table."""

import itertools
import pathlib
from typing import Any, NamedTuple

import jax
from matplotlib import colors
from matplotlib import figure
from matplotlib import patches
import ml_collections
import numpy as np

from experiments.records import metrics
from experiments.records import workdir
import jaxsparse
from jaxsparse._utils import trees

PyTree = Any

_BLUE, _RED, _GREY, _PALE = '#1f5a99', '#b5402c', '#555555', '#f1efe9'


class _Panel(NamedTuple):
  """One panel of a picture: the numbers of the rows to draw over the steps."""
  label: str
  keys: dict[str, str]  # Key of a row -> colour.
  factor: float = 1
  scale: str = 'linear'
  limits: tuple[float, float] | None = None


_LOSS = _Panel('Training loss', {'loss': _GREY}, scale='log')
_SPARSITY = _Panel(
    'Weights pruned (%)', {'sparsity': _RED}, 100, limits=(-5, 105))
_IF_MEASURED = (
    _Panel('Flipped mask bits (%)', {'flips': _RED}, 100),
    _Panel('Gradient noise', {'noise_kept': _BLUE, 'noise_pruned': _RED},
           scale='log'),
    _Panel('Weights ever kept (%)', {'explored': _BLUE}, 100,
           limits=(-5, 105)))


def write(path: pathlib.Path, config: ml_collections.ConfigDict,
          rows: list[metrics.Row], params: PyTree, masks: PyTree) -> str:
  """Writes the pictures and the table into `path`; returns the table."""
  title = f'{config.method}, {config.model} on {config.dataset}'
  plot_training(path / workdir.PLOT, rows, title=title)
  pruned = [row for row in trees.align(params, masks) if row[-1] is not None]
  if pruned:
    plot_mask(path / workdir.MASK, pruned[0][-1], title=pruned[0][0])
  if any('channels' in row for row in rows):
    plot_channels(path / workdir.CHANNELS, rows, title=title)
  text = f'{jaxsparse.summary(params, masks)}\n\n{conclusion(rows)}\n'
  workdir.write(path / workdir.SUMMARY, text)
  return text


def conclusion(rows: list[metrics.Row]) -> str:
  """Returns the last measurement in words, with the last one before pruning."""
  last = rows[-1]
  key = metrics.judged_by(last)
  metric = metrics.METRICS[key]
  text = (f'{metric.label} {metric.show(last[key])} at step {last["step"]:,} '
          f'with {last["sparsity"]:.1%} of the prunable weights pruned')
  dense = [*itertools.takewhile(lambda row: row['sparsity'] == 0, rows)]
  if dense and last['sparsity'] > 0:
    text += (f'; {metric.show(dense[-1][key])} at step {dense[-1]["step"]:,}, '
             'before any were')
  if 'ceiling' in last:
    text += ('. The data are synthetic: the probabilities that labels were '
             f'drawn from have {metric.show(last["ceiling"])}')
  for row in rows:
    if 'kept_after' in row:
      text += (f'. Another order of channels at step {row["step"]:,} raised '
               f'the magnitude that masks keep from {row["kept_before"]:.1%} '
               f'to {row["kept_after"]:.1%}')
  if 'channels' in last:
    left, of = map(sum, zip(*last['channels'].values()))
    text += (f'. Without dead channels {left:,} of {of:,} are left, and '
             f'{last["gpu_flops"] / last["dense_flops"]:.1%} of the FLOPs of a '
             'dense network; outputs differ by '
             f'{last["slim_error"]:.0e} of the largest')
  return text + '.'


def locations(path: str) -> str:
  """Returns a table of the results that `path` holds."""
  path = pathlib.Path(path)
  names = {
      'metrics': workdir.METRICS, 'plot': workdir.PLOT, 'mask': workdir.MASK,
      'channels': workdir.CHANNELS,
      'table': workdir.SUMMARY, 'config': workdir.CONFIG,
      'data': workdir.DATASET, 'recipe': workdir.RECIPE,
      'checkpoints': workdir.CHECKPOINTS}
  return '\n'.join(f'{label:<12} {path / name}'
                   for label, name in names.items() if (path / name).exists())


def plot_training(path: pathlib.Path, rows: list[metrics.Row], *, title: str):
  """Draws the measurements over the steps, one panel above the other."""
  panels = _panels(rows)
  drawing = figure.Figure(
      figsize=(7, 1 + 2.2 * len(panels)), layout='constrained')
  axes = drawing.subplots(len(panels), sharex=True)
  for axis, panel in zip(axes, panels):
    axis.set(ylabel=panel.label, yscale=panel.scale)
    axis.grid(alpha=0.25)
    axis.spines[['top', 'right']].set_visible(False)
    for key, color in panel.keys.items():
      name = key.split('_')[-1] + ' ' if len(panel.keys) > 1 else ''
      _draw(axis, rows, key, factor=panel.factor, color=color, name=name)
    axis.set_ylim(panel.limits)  # Last: it ends the scaling to the data.
  axes[-1].set(xlabel='Step')
  axes[0].set_title(title, loc='left', fontweight='bold')
  drawing.align_ylabels(axes)
  drawing.savefig(path, dpi=120)


def _panels(rows):
  key = metrics.judged_by(rows[-1])
  metric = metrics.METRICS[key]
  judged = _Panel(metric.axis_label, {key: _BLUE}, metric.scale)
  return [_LOSS, judged, _SPARSITY, *(
      panel for panel in _IF_MEASURED
      if all(any(key in row for row in rows) for key in panel.keys))]


def _draw(axis, rows, key, *, factor, color, name):
  points = [(row['step'], factor * row[key]) for row in rows if key in row]
  axis.plot(*zip(*points), color=color, linewidth=1.8)
  axis.annotate(f' {name}{points[-1][1]:.4g}', points[-1], color=color,
                va='center', annotation_clip=False)


def plot_channels(path: pathlib.Path, rows: list[metrics.Row], *, title: str):
  """Draws how many channels of each layer are alive, over the steps."""
  rows = [row for row in rows if 'channels' in row]
  shares = np.array([[100 * left / of for left, of in row['channels'].values()]
                     for row in rows])
  left, of = np.array([np.sum([*row['channels'].values()], axis=0)
                       for row in rows]).T
  names = [*rows[0]['channels']]
  drawing = figure.Figure(figsize=(8, 1.6 + 0.22 * len(names)),
                          layout='constrained')
  axis = drawing.subplots()
  ticks = [row['step'] for row in rows]
  image = axis.imshow(shares.T, aspect='auto', cmap='viridis', vmin=0, vmax=100,
                      interpolation='nearest')
  some = np.unique(np.linspace(0, len(ticks) - 1, 8).astype(int))
  axis.set_xticks(some, [f'{ticks[i]:,}' for i in some])
  axis.set_yticks(range(len(names)), names, fontsize='small')
  axis.set(xlabel='Step')
  axis.set_title(f'{title}: {left[-1]} of {of[-1]} channels are left',
                 loc='left', fontweight='bold')
  drawing.colorbar(image, label='Channels alive (%)')
  drawing.savefig(path, dpi=120)


def plot_mask(path: pathlib.Path, mask: jax.Array, *, title: str):
  """Draws a mask `[..., in, out]`, its inputs from left to right."""
  grid = np.asarray(mask).reshape(-1, mask.shape[-1]).T
  drawing = figure.Figure(figsize=(8, 4.5), layout='constrained')
  axis = drawing.subplots()
  axis.imshow(grid, cmap=colors.ListedColormap([_PALE, _BLUE]),
              vmin=0, vmax=1, aspect='auto', interpolation='nearest')
  axis.set(xlabel='Input (contraction axis)', ylabel='Output')
  axis.set_title(f'{title}: {1 - grid.mean():.1%} pruned', loc='left',
                 fontweight='bold')
  axis.legend(
      handles=[
          patches.Patch(facecolor=_BLUE, edgecolor=_GREY, label='kept'),
          patches.Patch(facecolor=_PALE, edgecolor=_GREY, label='pruned')],
      loc='lower right', bbox_to_anchor=(1, 1), ncols=2, frameon=False)
  drawing.savefig(path, dpi=120)
