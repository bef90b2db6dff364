"""Draws `docs/_static/rule_and_flow.svg`.

$ python docs/_figures/rule_and_flow.py
"""

import common as c


def main():
  figure, axes = c.canvas(76, 44)
  axes.text(38, 40, 'one call of tx.update(grads, opt_state, params)',
            ha='center', fontsize=10.5, fontweight='bold')

  # The rule.
  axes.add_patch(c.patches.FancyBboxPatch(
      (4, 22.5), 42, 14.5, boxstyle='round,pad=0,rounding_size=1.5',
      facecolor='#f3ecf7', edgecolor=c.ACCENT, linewidth=1.2))
  axes.text(6, 34.3, 'rule: which weights are kept, and when masks change',
            color=c.ACCENT, fontsize=9, fontweight='bold')
  for i, (name, example) in enumerate([
      ('score', '|w|'), ('pattern', '2 of 4'), ('distribution', 'ERK'),
      ('schedule', 'cubic')]):
    c.box(axes, 6 + 9.9 * i, 24.5, 8.6, 7.6, f'{name}\n{example}',
          color=c.ACCENT, size=8)
  c.box(axes, 55, 25.5, 16, 8.5, 'masks\nTrue = kept', color=c.KEPT, size=9.5,
        weight='bold')
  c.arrow(axes, (46.3, 29.7), (54.6, 29.7), color=c.ACCENT)

  # The flow.
  axes.add_patch(c.patches.FancyBboxPatch(
      (4, 5), 68, 13, boxstyle='round,pad=0,rounding_size=1.5',
      facecolor='#eef5ee', edgecolor=c.UPDATE, linewidth=1.2))
  axes.text(6, 15.4, 'flow: what pruned weights give and get', color=c.UPDATE,
            fontsize=9.5, fontweight='bold')
  c.box(axes, 6, 6.7, 15, 6.8, 'gate the gradient\n(before)', color=c.UPDATE,
        size=8.5)
  c.box(axes, 30.5, 6.7, 15, 6.8, 'any optax optimizer\n(inner)', size=8.5)
  c.box(axes, 55, 6.7, 15, 6.8, 'change the update\n(after)', color=c.UPDATE,
        size=8.5)
  c.arrow(axes, (21.3, 10.1), (30.1, 10.1))
  c.arrow(axes, (45.8, 10.1), (54.6, 10.1))
  axes.plot([58, 58, 13.5, 13.5], [25.2, 20.3, 20.3, 19], color=c.KEPT,
            linestyle='--', linewidth=1.5)
  c.arrow(axes, (13.5, 19), (13.5, 18.3), color=c.KEPT)
  c.arrow(axes, (63, 25.2), (63, 18.4), color=c.KEPT, dashed=True)
  c.save(figure, 'rule_and_flow')


if __name__ == '__main__':
  main()
