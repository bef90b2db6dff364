"""Draws `docs/_static/cubic.svg`: sparsity by step in the quickstart.

$ python docs/_figures/cubic.py
"""

import numpy as np

import common as c

_BEGIN, _END, _STEPS, _EVERY, _SPARSITY = 200, 800, 1_000, 20, 0.9
_ROWS, _COLUMNS = 5, 8


def _sparsity(step):
  step = step // _EVERY * _EVERY
  t = np.clip((step - _BEGIN) / (_END - _BEGIN), 0, 1)
  return _SPARSITY * (1 - (1 - t) ** 3)


def main():
  figure, axes = c.canvas(76, 38)
  x = lambda step: 11 + 60 * step / _STEPS
  y = lambda sparsity: 8 + 24 * sparsity
  axes.plot([x(0), x(_STEPS)], [y(0)] * 2, color=c.INK, linewidth=1)
  axes.plot([x(0)] * 2, [y(0), y(1)], color=c.INK, linewidth=1)
  axes.plot([x(0), x(_STEPS)], [y(_SPARSITY)] * 2, color=c.PRUNED,
            linestyle='--', linewidth=1)
  steps = np.arange(_STEPS + 1)
  axes.plot(x(steps), y(_sparsity(steps)), color=c.KEPT, linewidth=2.2)
  for sparsity in (0, _SPARSITY):
    axes.text(x(0) - 1, y(sparsity), f'{sparsity:.0%}', ha='right', va='center',
              fontsize=9)
  for step, name in ((0, ''), (_BEGIN, 'begin'), (_END, 'end'), (_STEPS, '')):
    axes.plot([x(step)] * 2, [y(0), y(0) - 0.7], color=c.INK, linewidth=1)
    axes.text(x(step), y(0) - 1.3, f'{step:,}\n{name}', ha='center', va='top',
              fontsize=9, linespacing=1.3)
  axes.text(x(500), y(0) - 1.3, 'step', ha='center', va='top', fontsize=9)
  axes.text(x(0) - 1, 34, 'sparsity', fontsize=9.5, fontweight='bold',
            ha='center')

  order = np.random.default_rng(0).permutation(_ROWS * _COLUMNS)
  for step in (100, 450, 900):
    kept = round((1 - _sparsity(step)) * order.size)
    colors = np.where(order < kept, c.KEPT, c.PRUNED)
    c.cells(axes, x(step) - 5, 11.3, 1.25, colors.reshape(_ROWS, _COLUMNS))
    axes.text(x(step), 9.2, f'{kept} of {order.size} kept', ha='center',
              fontsize=7.5)
    if step > _BEGIN:
      c.arrow(axes, (x(step), 18), (x(step), y(_sparsity(step)) - 0.5),
              color='#8a9097')
  c.save(figure, 'cubic')


if __name__ == '__main__':
  main()
