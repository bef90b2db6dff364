"""Draws `docs/_static/condensed_blocks.svg`.

$ python docs/_figures/condensed_blocks.py
"""

import numpy as np

import common as c

_SIZE, _IN, _OUT, _BLOCK = 2.5, 8, 8, 4
_KEPT = ((1, 4, 6), (0, 2, 7))  # Inputs by column of blocks.
_COLORS = (c.KEPT, c.UPDATE)


def main():
  figure, axes = c.canvas(76, 37)
  x, y = 14, 8
  dense = np.full((_IN, _OUT), c.PRUNED, object)
  for stripe, kept in enumerate(_KEPT):
    dense[list(kept), stripe * _BLOCK:(stripe + 1) * _BLOCK] = _COLORS[stripe]
  c.cells(axes, x, y, _SIZE, dense)
  for i in range(_IN):
    axes.text(x - 1, y + (_IN - 1 - i + 0.5) * _SIZE, str(i), ha='right',
              va='center', fontsize=8)
  axes.plot([x + _BLOCK * _SIZE] * 2, [y - 1, y + _IN * _SIZE + 1],
            color=c.INK, linewidth=1, linestyle='--')
  axes.text(x + _OUT * _SIZE / 2, y + _IN * _SIZE + 3.2, 'kernel [in, out]',
            ha='center', fontweight='bold')
  axes.text(9, y + _IN * _SIZE / 2, 'inputs', ha='center', va='center',
            fontsize=9, rotation=90)
  axes.text(x + _OUT * _SIZE / 2, y - 3.4, 'blocks of 1 x 4', ha='center',
            fontsize=8.5)
  c.arrow(axes, (36.5, 18), (45, 18))
  axes.text(40.7, 19.4, 'condense', ha='center', fontsize=8.5)

  axes.text(54, y + _IN * _SIZE + 3.2, 'values', ha='center',
            fontweight='bold')
  axes.text(67.5, y + _IN * _SIZE + 3.2, 'indices', ha='center',
            fontweight='bold')
  for stripe, kept in enumerate(_KEPT):
    low = 19.5 - 11.5 * stripe
    c.cells(axes, 49, low, _SIZE,
            np.full((len(kept), _BLOCK), _COLORS[stripe], object))
    for row, index in enumerate(kept):
      middle = low + (len(kept) - 1 - row + 0.5) * _SIZE
      axes.text(67.5, middle, str(index), ha='center', va='center',
                color=_COLORS[stripe], fontsize=9.5, fontweight='bold')
      c.arrow(axes, (65, middle), (60, middle), color='#8a9097')
  axes.text(60, y - 3.4, 'the 3 inputs that 4 outputs read', ha='center',
            fontsize=8.5)
  c.save(figure, 'condensed_blocks')


if __name__ == '__main__':
  main()
