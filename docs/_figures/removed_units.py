"""Draws `docs/_static/removed_units.svg`.

$ python docs/_figures/removed_units.py
"""

import numpy as np

import common as c

_SIZE, _IN, _UNITS, _OUT, _DEAD = 2.6, 4, 6, 3, (1, 4)


def _pair(axes, x, units, dead, top):
  """Kernels `[in, units]` and `[units, out]`, dead units in gray."""
  alive = np.array([unit not in dead for unit in range(units)])
  colors = np.where(alive, c.KEPT, c.PRUNED)
  c.cells(axes, x, top - _IN * _SIZE, _SIZE, np.tile(colors, (_IN, 1)))
  right = x + units * _SIZE + 5
  c.cells(axes, right, top - units * _SIZE, _SIZE,
          np.tile(colors[:, None], (1, _OUT)))
  c.arrow(axes, (x + units * _SIZE + 0.6, top - 5), (right - 0.6, top - 5))
  axes.text(x + units * _SIZE / 2, top + 1.2, f'[{_IN}, {units}]', ha='center',
            fontsize=9)
  axes.text(right + _OUT * _SIZE / 2, top + 1.2, f'[{units}, {_OUT}]',
            ha='center', fontsize=9)


def main():
  figure, axes = c.canvas(76, 34)
  axes.text(18.5, 29.6, 'masked', ha='center', fontweight='bold')
  axes.text(60.5, 29.6, 'slim', ha='center', fontweight='bold')
  _pair(axes, 4, _UNITS, _DEAD, 25)
  _pair(axes, 49, _UNITS - len(_DEAD), (), 25)
  c.arrow(axes, (36, 18.5), (46, 18.5), color=c.ACCENT)
  axes.text(41, 20, 'slim(...)', ha='center', color=c.ACCENT, fontsize=9)
  axes.text(20, 4, 'no kernel reads units 1 and 4:\n'
            'their columns and rows can go', ha='center', fontsize=8.5,
            linespacing=1.35)
  axes.text(60.5, 4, 'the same function,\nsmaller dense arrays', ha='center',
            fontsize=8.5, linespacing=1.35)
  c.save(figure, 'removed_units')


if __name__ == '__main__':
  main()
