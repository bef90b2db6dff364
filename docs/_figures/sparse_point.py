"""Draws `docs/_static/sparse_point.svg`.

$ python docs/_figures/sparse_point.py
"""

import numpy as np

import common as c

_MASK = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1], [0, 1, 0, 1]], bool)


def main():
  figure, axes = c.canvas(76, 34)
  shades = np.where(_MASK, c.KEPT, '#8fb4cd')
  sparse = np.where(_MASK, c.KEPT, '#ffffff')
  rows = {'dense point': (5, shades), 'sparse point': (31, sparse)}
  for name, (x, values) in rows.items():
    c.cells(axes, x, 12, 3, values)
    axes.add_patch(c.patches.Rectangle(
        (x, 12), 12, 12, fill=False, edgecolor=c.INK, linewidth=1))
    axes.text(x + 6, 27.5, name, ha='center', fontweight='bold')
  axes.text(11, 8.6, 'params\nheld by the optimizer', ha='center', va='center',
            fontsize=8.5, linespacing=1.35)
  axes.text(37, 8.6, 'sparse_params(...)\nseen by the forward pass',
            ha='center', va='center', fontsize=8.5, linespacing=1.35)
  c.box(axes, 56, 14.5, 14, 7, 'loss', color=c.INK, weight='bold')

  c.arrow(axes, (17.8, 20), (30.4, 20), color=c.KEPT)
  axes.text(24, 21.3, 'mask', ha='center', color=c.KEPT, fontsize=9)
  c.arrow(axes, (43.8, 19.6), (55.4, 19.6), color=c.KEPT)
  axes.text(49.6, 20.9, 'forward', ha='center', color=c.KEPT, fontsize=9)
  c.arrow(axes, (55.4, 16.4), (43.8, 16.4), color=c.GRADIENT)
  axes.text(49.6, 13.6, 'gradient', ha='center', color=c.GRADIENT, fontsize=9)
  c.arrow(axes, (30.4, 15.6), (17.8, 15.6), color=c.UPDATE)
  axes.text(24, 12.6, 'update', ha='center', color=c.UPDATE, fontsize=9)
  axes.text(38, 3.6, '1 differentiate at the sparse point', ha='right',
            fontsize=9.5, color=c.GRADIENT, fontweight='bold')
  axes.text(40.5, 3.6, '2 update the dense point', ha='left', fontsize=9.5,
            color=c.UPDATE, fontweight='bold')
  c.save(figure, 'sparse_point')


if __name__ == '__main__':
  main()
