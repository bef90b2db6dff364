"""Draws `docs/_static/ties.svg`.

$ python docs/_figures/ties.py
"""

import common as c

_UNITS, _PLAIN = 5, '#cfdbe4'


def _grid(axes, x, y, rows, columns, unit_axis):
  values = [[c.ACCENT if (j if unit_axis else i) == 2 else _PLAIN
             for j in range(columns)] for i in range(rows)]
  c.cells(axes, x, y, 3, values)


def main():
  figure, axes = c.canvas(76, 36)
  axes.text(38, 32, 'a tie: the axes that index the same hidden units',
            ha='center', fontsize=10.5, fontweight='bold')

  _grid(axes, 5, 14, 4, _UNITS, True)
  axes.text(12.5, 27.3, 'in/kernel[:, *]', ha='center', fontsize=9)
  _grid(axes, 28, 18.5, 1, _UNITS, True)
  axes.text(35.5, 22.9, 'in/bias[*]', ha='center', fontsize=9)
  _grid(axes, 53, 12.5, _UNITS, 3, False)
  axes.text(57.5, 28.7, 'out/kernel[*]', ha='center', fontsize=9)
  for start, end in ((20.6, 27.4), (43.6, 52.4)):
    c.arrow(axes, (start, 20), (end, 20), color=c.INK)
  axes.text(48, 21, 'relu', ha='center', fontsize=8.5)

  c.box(axes, 63.5, 17, 9.5, 6, 'unit 2 is\none slice\nof each',
        color=c.ACCENT, size=7.5)
  axes.text(38, 7.6, 'permute: one order for all three; '
            'the function stays the same.', ha='center', fontsize=9)
  axes.text(38, 4.2, 'remove: the slices of a dead unit go from all three.',
            ha='center', fontsize=9)
  c.save(figure, 'ties')


if __name__ == '__main__':
  main()
