"""What a run leaves for people to look at: two pictures and a table."""

import pathlib
from typing import Any

import jax
from matplotlib import colors
from matplotlib import figure
from matplotlib import patches
import ml_collections
import numpy as np

from experiments import metrics
from experiments import workdir
import jaxsparse
from jaxsparse import trees

PyTree = Any

_BLUE, _RED, _GREY, _PALE = '#1f5a99', '#b5402c', '#555555', '#f1efe9'
_PANELS = (  # Key, label, colour, scale.
    ('loss', 'Training loss', _GREY, 'log'),
    ('accuracy', 'Test accuracy (%)', _BLUE, 'linear'),
    ('sparsity', 'Weights pruned (%)', _RED, 'linear'))


def write(path: pathlib.Path, config: ml_collections.ConfigDict,
          rows: list[metrics.Row], params: PyTree, masks: PyTree) -> str:
  """Writes the pictures and the table into `path`; returns the table."""
  title = f'{config.method}, {config.model} on {config.dataset}'
  plot_training(path / workdir.PLOT, rows, title=title)
  pruned = [row for row in trees.align(params, masks) if row[-1] is not None]
  if pruned:
    plot_mask(path / workdir.MASK, pruned[0][-1], title=pruned[0][0])
  text = f'{jaxsparse.summary(params, masks)}\n\n{conclusion(rows)}\n'
  workdir.write(path / workdir.SUMMARY, text)
  return text


def conclusion(rows: list[metrics.Row]) -> str:
  """Returns the last measurement in words, beside the best dense one."""
  last = rows[-1]
  text = (f'Test accuracy {last["accuracy"]:.1%} at step {last["step"]:,} '
          f'with {last["sparsity"]:.1%} of the prunable weights pruned')
  dense = [row for row in rows[:-1] if row['sparsity'] == 0]
  if dense and last['sparsity'] > 0:
    text += (f'; {dense[-1]["accuracy"]:.1%} at step {dense[-1]["step"]:,}, '
             'before any were')
  return text + '.'


def locations(path: str) -> str:
  """Returns a table of the results that `path` holds."""
  path = pathlib.Path(path)
  names = {
      'metrics': workdir.METRICS, 'plot': workdir.PLOT, 'mask': workdir.MASK,
      'table': workdir.SUMMARY, 'config': workdir.CONFIG,
      'checkpoints': workdir.CHECKPOINTS}
  return '\n'.join(f'{label:<12} {path / name}'
                   for label, name in names.items() if (path / name).exists())


def plot_training(path: pathlib.Path, rows: list[metrics.Row], *, title: str):
  """Draws loss, accuracy and sparsity over the steps, one above the other."""
  steps = [row['step'] for row in rows]
  drawing = figure.Figure(figsize=(7, 7), layout='constrained')
  axes = drawing.subplots(len(_PANELS), sharex=True)
  for axis, (key, label, color, scale) in zip(axes, _PANELS):
    factor = 100 if label.endswith('(%)') else 1
    values = [factor * row[key] for row in rows]
    axis.plot(steps, values, color=color, linewidth=1.8)
    axis.set(ylabel=label, yscale=scale)
    axis.grid(alpha=0.25)
    axis.spines[['top', 'right']].set_visible(False)
    axis.annotate(f' {values[-1]:.3g}', (steps[-1], values[-1]), color=color,
                  va='center', annotation_clip=False)
  axes[-1].set(xlabel='Step', ylim=(-5, 105))
  axes[0].set_title(title, loc='left', fontweight='bold')
  drawing.align_ylabels(axes)
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
