"""Draws `docs/_static/steady.svg`: the method of `guides/own_method.md`.

$ python docs/_figures/steady.py
"""

import numpy as np

import common as c

_DECAY, _STEPS = 0.9, 40


def main():
  figure, axes = c.canvas(76, 42)
  steps = np.arange(_STEPS)
  weights = (('keeps its sign', 0.5 + 0.06 * np.sin(steps), c.KEPT),
             ('changes its sign', 0.7 * np.sin(0.8 * steps), '#8a9097'))
  titles = ((14, 'a weight'), (38.5, 'score'), (51.5, 'mask'),
            (65.5, 'gradient'))
  for x, title in titles:
    axes.text(x, 37.6, title, ha='center', fontweight='bold')
  axes.text(38.5, 34.9, '|running mean|', ha='center', fontsize=8.5)
  for row, (name, w, color) in enumerate(weights):
    y = 27 - 12.5 * row
    mean = 0.
    for value in w:
      mean = _DECAY * mean + (1 - _DECAY) * value
    axes.plot([4, 24], [y, y], color=c.PRUNED, linewidth=1)
    axes.plot(4 + 20 * steps / (_STEPS - 1), y + 4.5 * w, color=color,
              linewidth=1.8)
    axes.text(14, y - 5.6, name, ha='center', fontsize=8.5)
    c.arrow(axes, (25.5, y), (32, y))
    c.box(axes, 33, y - 2.6, 11, 5.2, f'{abs(mean):.2f}', color=c.INK, size=9.5)
    c.arrow(axes, (44.6, y), (47.2, y))
    kept = row == 0
    c.box(axes, 47.8, y - 2.6, 8.4, 5.2, 'True' if kept else 'False',
          color=c.KEPT if kept else '#6a7077',
          face='#dfeaf3' if kept else '#eceef0', size=9.5)
    c.arrow(axes, (56.8, y), (59.4, y))
    c.box(axes, 60, y - 2.6, 11, 5.2, 'g' if kept else '0.5 g', color=c.UPDATE,
          size=9.5)
  c.box(axes, 33, 2.6, 23.2, 3.8, 'rule', color=c.ACCENT, face='#f3ecf7',
        size=9, weight='bold')
  c.box(axes, 60, 2.6, 11, 3.8, 'flow', color=c.UPDATE, face='#eef5ee',
        size=9, weight='bold')
  c.save(figure, 'steady')


if __name__ == '__main__':
  main()
