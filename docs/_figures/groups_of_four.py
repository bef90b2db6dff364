"""Draws `docs/_static/groups_of_four.svg`.

$ python docs/_figures/groups_of_four.py
"""

import numpy as np

import common as c

_IN, _OUT, _SIZE = 8, 6, 2.8


def main():
  figure, axes = c.canvas(76, 40)
  w = np.random.default_rng(2).normal(size=(_IN, _OUT))
  groups = np.abs(w).reshape(-1, 4, _OUT)
  kept = (np.argsort(np.argsort(-groups, 1), 1) < 2).reshape(w.shape)
  x, y = 17, 8
  c.cells(axes, x, y, _SIZE, np.where(kept, c.KEPT, c.PRUNED))
  middle = y + 4 * _SIZE
  axes.plot([x - 1, x + _OUT * _SIZE + 1], [middle] * 2, color=c.INK,
            linewidth=1, linestyle='--')
  axes.text(x + _OUT * _SIZE / 2, y + _IN * _SIZE + 3.8, 'kernel [in, out]',
            ha='center', fontweight='bold')
  axes.text(x + _OUT * _SIZE / 2, y + _IN * _SIZE + 1.2, 'outputs',
            ha='center', fontsize=9)
  axes.text(x + _OUT * _SIZE / 2, y - 2.8, 'every column: 2 kept of every 4',
            ha='center', fontsize=8.5)
  c.arrow(axes, (13.5, y + _IN * _SIZE), (13.5, y), color=c.INK)
  axes.text(12, middle, 'inputs,\nsummed over\n(the contracted\naxis)',
            ha='right', va='center', fontsize=8.5, linespacing=1.35)

  # One group, larger.
  column = 4
  axes.add_patch(c.patches.Rectangle(
      (x + column * _SIZE, middle), _SIZE, 4 * _SIZE, fill=False,
      edgecolor=c.ACCENT, linewidth=2))
  c.arrow(axes, (x + _OUT * _SIZE + 1, middle + 2 * _SIZE),
          (46.5, middle + 2 * _SIZE), color=c.ACCENT)
  axes.text(53, 36.2, 'one group', ha='center', color=c.ACCENT,
            fontweight='bold')
  for i in range(4):
    top = 30 - 5.2 * i
    c.box(axes, 48, top - 1.4, 10, 4, f'{w[i, column]:+.2f}',
          face='#dfeaf3' if kept[i, column] else 'white',
          color=c.KEPT if kept[i, column] else '#8a9097',
          weight='bold' if kept[i, column] else 'normal')
    axes.text(60, top + 0.6, 'kept' if kept[i, column] else 'pruned',
              va='center', fontsize=9,
              color=c.KEPT if kept[i, column] else '#6a7077')
  axes.text(57, 7.6, 'the 2 largest |w| of 4 stay', ha='center', fontsize=8.5)
  c.save(figure, 'groups_of_four')


if __name__ == '__main__':
  main()
