"""What methods cost and what they give, in the columns that papers use.

Shares of the dense network's FLOPs: of its training for `config.base.steps`, of
a forward pass on hardware that skips every pruned weight, and of one on any
hardware, dense without dead channels.
"""

from collections.abc import Sequence

import ml_collections
import numpy as np

from experiments.reporting import tables

NOTE = (
    'Train: FLOPs of the training as a share of those of a dense one with '
    '{steps:,} steps. Test: of a forward pass that skips every pruned weight. '
    'GPU: of a dense forward pass without dead channels, which any hardware '
    'can have. Means over seeds; accuracies ± half of their 95% interval.')


def has_costs(runs: Sequence[tables.Run]) -> bool:
  """Returns whether runs measured what the table is made of."""
  return all({'gpu_flops', 'train_flops'} <= {*run.rows[-1]} for run in runs)


def cost_table(runs: Sequence[tables.Run], config: ml_collections.ConfigDict
               ) -> str:
  """Returns the table: a row a method, four columns a target.

  Args:
    runs: what a sweep measured, with `config.base.slim`.
    config: that of the sweep.
  """
  _, metric = tables.judged(runs)
  head = ['method']
  for target in config.targets:
    head += [f'{target}: {metric.label.lower()}', 'train', 'test', 'GPU']
  lines = [head]
  for method in config.methods:
    lines.append([method])
    for target in config.targets:
      scores = tables.scores(runs, method, target)
      if not scores:
        lines[-1] += [tables.NOT_BUILT] * 4
        continue
      shares = [_shares(run.rows[-1], config.base.steps) for run in runs
                if run.method == method and run.target in (target, None)]
      lines[-1] += [
          tables.show(tables.estimate([*scores.values()]), metric.digits),
          *(f'{share:.2f}' for share in np.mean(shares, axis=0))]
  return tables.markdown(lines)


def _shares(row, steps):
  dense = row['dense_flops']
  return (row['train_flops'] / (3 * steps * dense), row['test_flops'] / dense,
          row['gpu_flops'] / dense)
