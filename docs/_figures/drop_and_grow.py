"""Draws `docs/_static/drop_and_grow.svg`.

$ python docs/_figures/drop_and_grow.py
"""

import numpy as np

import common as c

_SIZE, _SIDE, _MOVED = 3, 6, 3


def _outline(axes, x, y, i, j, color):
  axes.add_patch(c.patches.Rectangle(
      (x + j * _SIZE, y + (_SIDE - 1 - i) * _SIZE), _SIZE, _SIZE, fill=False,
      edgecolor=color, linewidth=2.2))


def main():
  figure, axes = c.canvas(76, 37)
  rng = np.random.default_rng(4)
  before = np.zeros(_SIDE ** 2, bool)
  before[rng.choice(before.size, 10, replace=False)] = True
  dropped = rng.choice(np.flatnonzero(before), _MOVED, replace=False)
  grown = rng.choice(np.flatnonzero(~before), _MOVED, replace=False)
  after = before.copy()
  after[dropped], after[grown] = False, True
  y = 10
  corners = {'step 100': (5, before, dropped, c.GRADIENT),
             'step 101': (53, after, grown, c.UPDATE)}
  for name, (x, mask, marked, color) in corners.items():
    colors = np.where(mask, c.KEPT, c.PRUNED).reshape(_SIDE, _SIDE)
    c.cells(axes, x, y, _SIZE, colors)
    for k in marked:
      _outline(axes, x, y, *divmod(int(k), _SIDE), color)
    axes.text(x + 9, y + 20, name, ha='center', fontweight='bold')
    axes.text(x + 9, y - 3.2, f'{int(mask.sum())} of {mask.size} active',
              ha='center', fontsize=9)
  c.box(axes, 28, 21.5, 20, 6, 'drop 3 active weights\nof least magnitude',
        color=c.GRADIENT, size=8.5)
  c.box(axes, 28, 11, 20, 6, 'grow 3 inactive weights\nof largest gradient',
        color=c.UPDATE, size=8.5)
  c.arrow(axes, (23.6, 24.5), (27.6, 24.5), color=c.GRADIENT)
  c.arrow(axes, (38, 21.2), (38, 17.4))
  c.arrow(axes, (48.4, 14), (52.4, 14), color=c.UPDATE)
  axes.text(38, 3.2, 'between two moves, training updates the active weights',
            ha='center', fontsize=8.5)
  c.save(figure, 'drop_and_grow')


if __name__ == '__main__':
  main()
