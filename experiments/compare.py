"""Turns work directories into a table: a mean with its 95% interval.

  python -m experiments.compare runs/digits/*

Runs whose configs differ in the seed alone share a row, if they read the same
data, wherever they lay. The interval is Student's t of the mean over seeds; a
single run has none.
"""

import collections
from collections.abc import Sequence
import json
import pathlib
import sys

import numpy as np

from experiments.records import metrics
from experiments.records import workdir as workdirs
from experiments.reporting import tables


def table(workdirs_: Sequence[str]) -> str:
  """Returns the table of the runs in these directories.

  Raises:
    ValueError: if one of them holds no run that has ended.
  """
  configs, groups = {}, collections.defaultdict(list)
  for name in workdirs_:
    path = pathlib.Path(name)
    config = workdirs.read_config(path).to_dict()
    rows = metrics.read(path / workdirs.METRICS)
    if not rows or rows[-1]['step'] != config['steps']:
      raise ValueError(f'the run in {path} has not ended')
    del config['seed']
    config.pop('data_dir', None)
    config['data'] = workdirs.read_fingerprint(path)
    key = json.dumps(config, sort_keys=True)
    configs[key] = config
    groups[key].append(rows[-1])

  judged_by = sorted({metrics.judged_by(rows[0]) for rows in groups.values()})
  lines = [('runs', 'sparsity', ', '.join(judged_by), 'config')]
  for key, rows in groups.items():
    sparsity = np.mean([100 * row['sparsity'] for row in rows])
    lines.append((str(len(rows)), f'{sparsity:.1f}%', _interval(rows),
                  _label(configs[key], configs.values())))
  widths = [max(map(len, column)) for column in zip(*lines)]
  return '\n'.join(
      '  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
      for line in lines)


def _interval(rows):
  """The mean of what the runs are judged by, as people read it."""
  key = metrics.judged_by(rows[0])
  metric = metrics.METRICS[key]
  mean, half, seeds = tables.estimate([row[key] for row in rows])
  if seeds == 1:
    return metric.show(mean)
  return f'{metric.show(mean)} +- {metric.scale * half:.{metric.digits}f}'


def _label(config, configs):
  """The method, and whatever else tells this config from the others."""
  differing = [
      f'{key}={value}' for key, value in config.items()
      if key != 'method' and any(
          other.get(key, value) != value for other in configs)]
  return ' '.join([config['method'], *differing])


def main(argv: Sequence[str]):
  if not argv:
    sys.exit('error: which runs? python -m experiments.compare runs/digits/*')
  try:
    print(table(argv))
  except (ValueError, OSError) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  main(sys.argv[1:])
