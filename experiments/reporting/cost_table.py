"""A table of the FLOPs and the metric of methods, in the columns papers use.

FLOPs are given as shares of the FLOPs of the dense network: for training during
`config.base.steps` steps, for a forward pass on hardware that skips every
pruned weight, and for a dense forward pass without dead channels, which any
hardware can do.
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
  """Returns whether the runs measured the FLOPs that the table shows."""
  return all({'gpu_flops', 'train_flops'} <= {*run.rows[-1]} for run in runs)


def cost_table(runs: Sequence[tables.Run], config: ml_collections.ConfigDict
               ) -> str:
  """Returns the table: a row per method, four columns per target.

  Args:
    runs: the measured runs of a sweep with `config.base.slim`.
    config: the config of the sweep.
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
