"""Draws `docs/_static/one_shot_methods.svg`, numbers of `results/one_shot.md`.

$ python docs/_figures/one_shot_methods.py
"""

import pathlib

import common as c

_TABLE = pathlib.Path(__file__).parents[1] / 'results' / 'one_shot.md'
_ROWS = {'wanda': 'wanda', 'magnitude': 'magnitude', 'sparsegpt': 'sparsegpt',
         'magnitude_refit': 'magnitude, refit', 'admm': 'admm', 'alps': 'alps',
         'admm_reconstructed': 'admm, then reconstruct'}


def _numbers():
  """Bits per byte at 2:4, and those of the dense model, of the first table."""
  rows = [[cell.strip(' *') for cell in line.strip('|').split('|')]
          for line in _TABLE.read_text(encoding='utf-8').splitlines()
          if line.startswith('|')]
  head = rows[0].index('2:4')
  found = {}
  for row in rows[1:]:
    if row[0] not in found and row[0] in ('dense', *_ROWS):
      found[row[0]] = float((row[head] or row[1]).split()[0])
  return found


def main():
  figure, axes = c.canvas(76, 37)
  found = _numbers()
  left, top, scale = 25, 28.5, 100
  axes.text(38, 33, 'bits per byte lost at 2:4, language model: '
            'shorter is better', ha='center', fontsize=10, fontweight='bold')
  for i, (key, name) in enumerate(_ROWS.items()):
    lost = found[key] - found['dense']
    y = top - 4 * i
    alone = key in ('magnitude', 'wanda')
    color = '#9aa3ab' if alone else c.UPDATE if 'recon' in key else c.KEPT
    axes.add_patch(c.patches.Rectangle(
        (left, y - 1.2), scale * lost, 2.4, facecolor=color))
    axes.text(left - 1, y, name, ha='right', va='center', fontsize=9)
    axes.text(left + scale * lost + 0.8, y, f'{lost:.3f}', va='center',
              fontsize=9)
  for y, text, color in ((15.8, 'a mask alone', '#6a7077'),
                         (12.2, 'the kept weights\nare solved for', c.KEPT),
                         (7.4, 'blocks are trained', c.UPDATE)):
    axes.text(57, y, text, color=color, fontsize=8.5, va='center',
              linespacing=1.3)
  axes.plot([left] * 2, [2.8, 30.5], color=c.INK, linewidth=1)
  c.save(figure, 'one_shot_methods')


if __name__ == '__main__':
  main()
