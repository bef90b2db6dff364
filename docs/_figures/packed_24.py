"""Draws `docs/_static/packed_24.svg`.

$ python docs/_figures/packed_24.py
"""

import common as c

_WEIGHTS = (0., .7, 0., -.4, .9, -.2, 0., 0.)


def _cell(axes, x, y, width, text, *, kept):
  axes.add_patch(c.patches.Rectangle(
      (x, y), width, 5, facecolor='#dfeaf3' if kept else '#eceef0',
      edgecolor='white', linewidth=1.6))
  axes.text(x + width / 2, y + 2.4, text, ha='center', va='center',
            color=c.KEPT if kept else '#6a7077', fontsize=9.5,
            fontweight='bold' if kept else 'normal')


def main():
  figure, axes = c.canvas(76, 39)
  axes.text(4, 30.9, '2:4 weight', fontsize=9, fontweight='bold')
  axes.text(4, 16.4, 'packed', fontsize=9, fontweight='bold')
  for group in range(2):
    x = 20 + 28 * group
    weights = _WEIGHTS[4 * group:4 * group + 4]
    kept = [i for i, w in enumerate(weights) if w]
    axes.text(x + 12, 35, f'inputs {4 * group} to {4 * group + 3}',
              ha='center', fontsize=9)
    for i, w in enumerate(weights):
      _cell(axes, x + 6 * i, 28.8, 6, f'{w:.1f}' if w else '0', kept=bool(w))
      axes.text(x + 6 * i + 3, 27.3, f'{i:02b}', ha='center', fontsize=7.5,
                color='#6a7077')
    for slot, i in enumerate(kept):
      _cell(axes, x + 6 * slot, 14.2, 6, f'{weights[i]:.1f}', kept=True)
      c.arrow(axes, (x + 6 * i + 3, 26.4), (x + 6 * slot + 3, 19.6),
              color=c.KEPT)
      axes.add_patch(c.patches.Rectangle(
          (x + 14 + 4 * slot, 14.2), 4, 5, facecolor='#f3ecf7',
          edgecolor='white', linewidth=1.6))
      axes.text(x + 16 + 4 * slot, 16.6, f'{i:02b}', ha='center', va='center',
                color=c.ACCENT, fontsize=9, fontweight='bold')
    axes.text(x + 6, 12, '2 values', ha='center', fontsize=8.5, color=c.KEPT)
    axes.text(x + 18, 12, '2 positions', ha='center', fontsize=8.5,
              color=c.ACCENT)
  axes.text(38, 5, 'bfloat16: 4 x 16 = 64 bits become 2 x 16 + 2 x 2 = 36, '
            '9/16 of the size', ha='center', fontsize=9)
  c.save(figure, 'packed_24')


if __name__ == '__main__':
  main()
