"""Draws `docs/_static/recipe_timeline.svg`.

$ python docs/_figures/recipe_timeline.py
"""

import numpy as np

import common as c

_START, _END, _FREQUENCY, _STEPS = 100, 700, 50, 1_000


def main():
  figure, axes = c.canvas(76, 34)
  x = lambda step: 12 + 58 * np.asarray(step) / _STEPS
  y = lambda sparsity: 12 + 16 * sparsity
  axes.plot([x(0), x(_STEPS)], [y(0)] * 2, color=c.INK, linewidth=1)
  axes.plot([x(0)] * 2, [y(0), y(1)], color=c.INK, linewidth=1)
  steps = np.arange(_STEPS + 1)
  acted = np.clip(steps // _FREQUENCY * _FREQUENCY, _START, _END)
  progress = 1 - (1 - (acted - _START) / (_END - _START)) ** 3
  axes.plot(x(steps), y(0.9 * progress), color=c.KEPT, linewidth=2)
  axes.text(x(0) - 1, y(0.9), '0.9', ha='right', va='center', fontsize=9)
  axes.text(x(0) - 1, y(0), '0', ha='right', va='center', fontsize=9)
  axes.text(x(0), y(1) + 0.9, 'sparsity', ha='center', fontsize=9,
            fontweight='bold')
  moments = np.arange(_START, _END + 1, _FREQUENCY)
  axes.vlines(x(moments), y(0) - 2.2, y(0) - 0.4, color=c.ACCENT, linewidth=1.6)
  axes.text(x(400), y(0) - 4.6, 'frequency: masks change every 50 steps',
            ha='center', color=c.ACCENT, fontsize=8.5)
  for step, text in ((0, '0'), (_START, 'start: 100'), (_END, 'end: 700'),
                     (_STEPS, 'total_steps')):
    axes.text(x(step), 3.6, text, ha='center', fontsize=8.5)
    axes.plot([x(step)] * 2, [5.2, y(0) - 2.6], color=c.PRUNED, linewidth=1)
  axes.text(x(50), y(0.1), 'dense', ha='center', fontsize=8.5)
  axes.text(x(850), y(0.9) - 3, 'masks are fixed,\ntraining goes on',
            ha='center', va='center', fontsize=8.5, linespacing=1.3)
  c.save(figure, 'recipe_timeline')


if __name__ == '__main__':
  main()
