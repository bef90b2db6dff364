"""Draws `docs/_static/axis_of_nm.svg`.

$ python docs/_figures/axis_of_nm.py
"""

import numpy as np

import common as c

_SIZE, _SIDE = 2.8, 8


def _kept(scores, axis):
  """True for the 2 largest of every 4 along an axis."""
  scores = np.moveaxis(scores, axis, -1).reshape(-1, 4)
  kept = np.argsort(np.argsort(-scores, -1), -1) < 2
  return np.moveaxis(kept.reshape(_SIDE, _SIDE), -1, axis)


def main():
  figure, axes = c.canvas(76, 38)
  scores = np.random.default_rng(3).random((_SIDE, _SIDE))
  y = 6
  for x, axis, title, group in (
      (10, 0, 'nm(2, 4)', 'axis -2, inputs'),
      (46, 1, 'NByM(2, 4) of jaxpruner', 'axis -1, outputs')):
    colors = np.where(_kept(scores, axis), c.KEPT, c.PRUNED)
    c.cells(axes, x, y, _SIZE, colors)
    width, height = (1, 4) if axis == 0 else (4, 1)
    axes.add_patch(c.patches.Rectangle(
        (x, y + (_SIDE - height) * _SIZE), width * _SIZE, height * _SIZE,
        fill=False, edgecolor=c.ACCENT, linewidth=2.2))
    middle = x + _SIDE * _SIZE / 2
    axes.text(middle, 33.6, title, ha='center', fontweight='bold')
    axes.text(middle, 30.2, f'groups along {group}', ha='center', fontsize=9,
              color=c.ACCENT)
    axes.text(middle, 3.2, 'outputs', ha='center', fontsize=8.5)
    axes.text(x - 2, y + _SIDE * _SIZE / 2, 'inputs', ha='center', va='center',
              rotation=90, fontsize=8.5)
  c.save(figure, 'axis_of_nm')


if __name__ == '__main__':
  main()
