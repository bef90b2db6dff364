"""Draws `docs/_static/nm_phases.svg`.

$ python docs/_figures/nm_phases.py
"""

import numpy as np

import common as c

_DENSE, _TUNE = 0.1, 0.7
_FRAMES = {'sdgf_stepwise': ['7:8', '4:8', '2:8', '1:8'],
           'sdgf_geometric': ['16:128', '8:64', '4:32', '2:16', '1:8']}


def main():
  figure, axes = c.canvas(76, 46)
  x = lambda share: 20 + 52 * share
  ends = (_DENSE, _TUNE)
  for share in ends:
    axes.plot([x(share)] * 2, [7, 40], color=c.PRUNED, linestyle='--',
              linewidth=1)
  for share, text in ((0.05, 'dense'), (0.4, 'getting sparser'),
                      (0.85, 'fine-tuning')):
    axes.text(x(share), 41.6, text, ha='center', fontsize=9, fontweight='bold')

  # The gain of pruned weights, from 1 down to 0.
  low, high = 26, 38
  share = np.linspace(0, 1, 501)
  t = np.clip((share - _DENSE) / (_TUNE - _DENSE), 0, 1)
  fading = np.where(share < _TUNE, 0.01 ** t, 0)
  gains = (('mdgf_linear', 1 - t, c.KEPT),
           ('mdgf_exponential', fading, c.ACCENT))
  axes.plot([x(0), x(1)], [low] * 2, color=c.INK, linewidth=1)
  axes.plot([x(0)] * 2, [low, high + 1], color=c.INK, linewidth=1)
  for y, (name, gain, color) in zip((35, 32), gains):
    axes.plot(x(share), low + (high - low) * gain, color=color, linewidth=2)
    axes.text(x(0.73), y, name, color=color, fontsize=8.5)
  axes.text(x(0) - 1, high, '1', ha='right', va='center', fontsize=9)
  axes.text(x(0) - 1, low, '0', ha='right', va='center', fontsize=9)
  axes.text(16, (low + high) / 2, 'gain of\npruned\nweights', ha='right',
            va='center', fontsize=9, linespacing=1.3)

  # Frames of N:M.
  for row, (name, frames) in enumerate(_FRAMES.items()):
    y = 17.5 - 7.5 * row
    axes.text(18.5, y + 2, name, ha='right', va='center', fontsize=8.5)
    edges = np.linspace(_DENSE, _TUNE, len(frames) + 1)
    parts = [(0, _DENSE, 'all'), *zip(edges[:-1], edges[1:], frames)]
    parts[-1] = (parts[-1][0], 1, frames[-1])
    for i, (begin, end, text) in enumerate(parts):
      shade = 0.12 + 0.5 * i / (len(parts) - 1)
      axes.add_patch(c.patches.Rectangle(
          (x(begin), y), x(end) - x(begin), 4.2, facecolor=c.UPDATE,
          alpha=shade, edgecolor='none'))
      axes.add_patch(c.patches.Rectangle(
          (x(begin), y), x(end) - x(begin), 4.2, fill=False, edgecolor='white',
          linewidth=1.4))
      axes.text((x(begin) + x(end)) / 2, y + 2, text, ha='center', va='center',
                fontsize=8)
  for share, text in ((0, '0'), (_DENSE, '10%'), (_TUNE, '70%'),
                      (1, '100% of the steps')):
    axes.text(x(share), 5, text, ha='right' if share == 1 else 'center',
              fontsize=8.5)
  c.save(figure, 'nm_phases')


if __name__ == '__main__':
  main()
