"""Draws `docs/_static/sharded_masks.svg`.

$ python docs/_figures/sharded_masks.py
"""

import numpy as np

import common as c

_DEVICES, _ROWS, _COLUMNS, _SIZE = 4, 4, 4, 2.2
_COLORS = (c.KEPT, c.UPDATE, c.GRADIENT, c.ACCENT)
_ARRAYS = ('kernel', 'mask', 'moments')


def main():
  figure, axes = c.canvas(76, 48)
  rng = np.random.default_rng(1)
  x = lambda device: 19 + 14 * device
  for row, name in enumerate(_ARRAYS):
    y = 31 - 10.8 * row
    axes.text(14, y + _ROWS * _SIZE / 2, name, ha='right', va='center',
              fontweight='bold')
    for device, color in enumerate(_COLORS):
      colors = np.full((_ROWS, _COLUMNS), color, object)
      if name == 'mask':
        kept = np.argsort(rng.normal(size=colors.shape), axis=0) < 2
        colors[~kept] = c.PRUNED
      c.cells(axes, x(device), y, _SIZE, colors)
  for device, color in enumerate(_COLORS):
    axes.add_patch(c.patches.FancyBboxPatch(
        (x(device) - 1.4, 8.4), 11.6, 32.6,
        boxstyle='round,pad=0,rounding_size=1', fill=False, edgecolor=color,
        linewidth=1.4))
    axes.text(x(device) + 4.4, 42.4, f'device {device}', ha='center',
              color=color, fontsize=9)
  axes.plot([x(0) + 4.4, x(3) + 4.4], [6.4] * 2, color=c.INK, linewidth=1.4)
  for device in range(_DEVICES):
    axes.plot([x(device) + 4.4] * 2, [6.4, 8.2], color=c.INK, linewidth=1.4)
  axes.text(44.4, 3.2, 'between devices: at most counts, for one threshold; '
            'no weights', ha='center', fontsize=9)
  c.save(figure, 'sharded_masks')


if __name__ == '__main__':
  main()
