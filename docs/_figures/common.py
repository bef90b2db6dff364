"""What the figures share: a light card, which is readable in dark mode too."""

import pathlib

import matplotlib

matplotlib.use('Agg')
from matplotlib import patches  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402

STATIC = pathlib.Path(__file__).parents[1] / '_static'
CARD, INK, KEPT, PRUNED = '#fbfaf7', '#22303c', '#2f6f9f', '#c9ced3'
GRADIENT, UPDATE, ACCENT = '#b3541e', '#2e7d4f', '#7a4a9c'

plt.rcParams.update({
    'font.family': 'DejaVu Sans', 'font.size': 10, 'text.color': INK,
    'svg.hashsalt': 'jaxsparse', 'svg.fonttype': 'path'})


def canvas(width, height):
  """Axes in units of a tenth of an inch, on a rounded card."""
  figure = plt.figure(figsize=(width / 10, height / 10))
  figure.patch.set_alpha(0.)
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set(xlim=(0, width), ylim=(0, height))
  axes.axis('off')
  axes.add_patch(patches.FancyBboxPatch(
      (1, 1), width - 2, height - 2, boxstyle='round,pad=0,rounding_size=2',
      facecolor=CARD, edgecolor='#d8d8d4', linewidth=1))
  return figure, axes


def box(axes, x, y, width, height, text, *, color=INK, face='white', size=10,
        weight='normal'):
  """A rounded box with text in the middle."""
  axes.add_patch(patches.FancyBboxPatch(
      (x, y), width, height, boxstyle='round,pad=0,rounding_size=1',
      facecolor=face, edgecolor=color, linewidth=1.4))
  axes.text(x + width / 2, y + height / 2, text, ha='center', va='center',
            color=color, fontsize=size, fontweight=weight, linespacing=1.35)


def arrow(axes, start, end, *, color=INK, bend=0., style='-|>', dashed=False):
  """An arrow between two points."""
  axes.add_patch(patches.FancyArrowPatch(
      start, end, arrowstyle=style, mutation_scale=12, color=color,
      linewidth=1.5, shrinkA=0, shrinkB=0,
      linestyle='--' if dashed else '-',
      connectionstyle=f'arc3,rad={bend}'))


def cells(axes, x, y, size, values):
  """A grid of squares, a color for each; the first row is the highest."""
  rows = len(values)
  for i, row in enumerate(values):
    for j, color in enumerate(row):
      axes.add_patch(patches.Rectangle(
          (x + j * size, y + (rows - 1 - i) * size), size, size,
          facecolor=color, edgecolor='white', linewidth=1.2))


def save(figure, name):
  """Writes `docs/_static/NAME.svg`, the same bytes every time."""
  figure.savefig(STATIC / f'{name}.svg', metadata={'Date': None},
                 transparent=False, facecolor='none')
  plt.close(figure)
