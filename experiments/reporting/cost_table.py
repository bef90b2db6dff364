"""Tables of the FLOPs and the metric of methods.

One table has the columns that papers use, another compares methods at equal
FLOPs of training. FLOPs are given as shares of the FLOPs of the dense network:
for training during `config.base.steps` steps, for a forward pass on hardware
that skips every pruned weight, and for a dense forward pass without dead
channels, which any hardware can do.
"""

from collections.abc import Sequence
import math

import ml_collections
import numpy as np

from experiments.reporting import tables

NOTE = (
    'Train: FLOPs of the training as a share of those of a dense one with '
    '{steps:,} steps. Test: of a forward pass that skips every pruned weight. '
    'GPU: of a dense forward pass without dead channels, which any hardware '
    'can have. Means over seeds; accuracies ± half of their 95% interval.')
BUDGETS_NOTE = (
    'Each column: the best mean of a method among its targets whose training '
    'took at most that share of the FLOPs of dense training, with the target. '
    'The best is chosen on the runs that are shown. -: every target took '
    'more. {better} is better; **bold** and † as in the first table.')

_BUDGETS = (0.1, 0.2, 0.5, 1.)  # Shares of the FLOPs of dense training.
_TOO_MUCH = '-'


def has_costs(runs: Sequence[tables.Run]) -> bool:
  """Returns whether the runs measured the FLOPs that the table shows."""
  return all({'gpu_flops', 'train_flops'} <= {*run.rows[-1]} for run in runs)


def cost_table(runs: Sequence[tables.Run], config: ml_collections.ConfigDict,
               *, label: tables.Label = str) -> str:
  """Returns the table: a row per method, four columns per target.

  Args:
    runs: the measured runs of a sweep with `config.base.slim`.
    config: the config of the sweep.
    label: tells how a method's name is printed.
  """
  _, metric = tables.judged(runs)
  head = ['method']
  for target in config.targets:
    head += [f'{target}: {metric.label.lower()}', 'train', 'test', 'GPU']
  lines = [head]
  for method in config.methods:
    lines.append([label(method)])
    for target in config.targets:
      scores = tables.scores(runs, method, target)
      if not scores:
        lines[-1] += [tables.NOT_BUILT] * 4
        continue
      shares = [_shares(run.rows[-1], config.base.steps) for run in runs
                if run.method == method and run.target in (target, None)]
      lines[-1] += [
          tables.sized(
              tables.show(tables.estimate([*scores.values()]), metric.digits),
              len(scores), len(config.seeds)),
          *(f'{share:.2f}' for share in np.mean(shares, axis=0))]
  return tables.markdown(lines)


def train_share(runs: Sequence[tables.Run], method: str, target: str | None
                ) -> float | None:
  """Returns the FLOPs of a training as a share of those of dense training.

  Args:
    runs: the measured runs of a sweep.
    method: the method.
    target: 'N:M' or a sparsity.

  Returns:
    The quotient of the means over seeds; `None` if one was not measured.
  """
  ours, dense = (
      [run.rows[-1].get('train_flops') for run in runs
       if run.method == name and run.target in (target, None)]
      for name in (method, tables.DENSE))
  if not ours or not dense or None in ours + dense:
    return None
  return float(np.mean(ours) / np.mean(dense))


def budgets(runs: Sequence[tables.Run], methods: Sequence[str],
            targets: Sequence[str], *, seeds: int, label: tables.Label = str,
            shares: Sequence[float] = _BUDGETS) -> str:
  """Returns the table of what methods reach with equal FLOPs of training.

  Args:
    runs: the measured runs of a sweep with dense runs.
    methods: the rows.
    targets: those among which a method's best is chosen.
    seeds: the number of runs each cell should have.
    label: tells how a method's name is printed.
    shares: the columns, shares of the FLOPs of dense training. One that is too
      small for every sparse method is left out.
  """
  _, metric = tables.judged(runs)
  costs = {(method, target): share for method in methods for target in targets
           if (share := train_share(runs, method, target)) is not None}
  cells = {key: tables.estimate([*tables.scores(runs, *key).values()])
           for key in costs}
  lines = [['method']] + [[label(method)] for method in methods]
  for share in shares:
    chosen = {}
    for method in methods:
      found = {target: cells[method, target].mean for target in targets
               if costs.get((method, target), math.inf) <= share}
      if (target := tables.best(found, metric)) is not None:
        chosen[method] = target
    if all(map(tables.is_dense, chosen)):
      continue
    texts = tables.marked({key[0]: cells[key] for key in chosen.items()},
                          metric)
    lines[0].append(f'up to {share:.2f} of dense')
    for line, method in zip(lines[1:], methods):
      if method not in chosen:
        line.append(_TOO_MUCH)
        continue
      target = chosen[method]
      text = tables.sized(texts[method], cells[method, target].seeds, seeds)
      line.append(text + f' at {target}' * (not tables.is_dense(method)))
  return tables.markdown(lines)


def _shares(row, steps):
  dense = row['dense_flops']
  return (row['train_flops'] / (3 * steps * dense), row['test_flops'] / dense,
          row['gpu_flops'] / dense)
