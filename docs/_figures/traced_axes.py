"""Draws `docs/_static/traced_axes.svg`.

$ python docs/_figures/traced_axes.py
"""

import common as c


def main():
  figure, axes = c.canvas(76, 38)
  axes.text(38, 34, 'infer_ties follows the hidden units through the jaxpr',
            ha='center', fontsize=10.5, fontweight='bold')
  y = 22
  boxes = ((4, 12, 'x @ first', c.INK), (25, 13, 'by_largest', c.ACCENT),
           (47, 13, 'h @ second', c.INK), (65.5, 7, 'output', c.INK))
  for x, width, text, color in boxes:
    c.box(axes, x, y, width, 6, text, color=color, size=9,
          weight='bold' if color == c.ACCENT else 'normal')
  c.arrow(axes, (60.4, y + 3), (65.2, y + 3))
  for start, end in ((16.4, 24.6), (38.4, 46.6)):
    c.arrow(axes, (start, y + 3), (end, y + 3))
    axes.text((start + end) / 2, y + 4.2, '[n, *]', ha='center', fontsize=8)
  for x, name in ((10, 'first[:, *]'), (53.5, 'second[*]')):
    c.box(axes, x - 6, 13, 12, 5, name, color=c.KEPT, face='#dfeaf3', size=9)
    c.arrow(axes, (x, 18.4), (x, y - 0.3), color=c.KEPT)
  c.box(axes, 21.5, 11, 20, 7.4, 'its wiring: axis 1 of the\nresult is axis 1 '
        'of the\noperand', color=c.ACCENT, face='#f3ecf7', size=8)
  c.arrow(axes, (31.5, 18.7), (31.5, y - 0.3), color=c.ACCENT)
  axes.text(38, 6.6, 'without a wiring the axis is lost, and the units stay '
            'fixed.', ha='center', fontsize=9)
  axes.text(38, 3.4, 'with it the columns of first and the rows of second are '
            'one tie.', ha='center', fontsize=9)
  c.save(figure, 'traced_axes')


if __name__ == '__main__':
  main()
