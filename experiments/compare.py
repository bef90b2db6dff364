"""Makes a table of work directories: means with 95% intervals.

  python -m experiments.compare runs/digits/*

Runs share a row if their configs differ only in the seed and they read the same
data, wherever the data files are, and the same weights (`init_from`) and recipe
that their config names. A seed that is there twice counts once. The interval is
Student's t interval of the mean over seeds; a single run has no interval.
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
    ValueError: if a directory does not hold a finished run, or two disagree
      about the same run.
  """
  configs, groups = {}, collections.defaultdict(dict)
  for name in workdirs_:
    path = pathlib.Path(name)
    config = workdirs.read_config(path).to_dict()
    rows = metrics.ended(path / workdirs.METRICS, config['steps'])
    seed = config.pop('seed')
    config.pop('data_dir', None)
    named = {'weights': config.get('init_from'),
             workdirs.RECIPE: config.get('recipe')}
    config.update({name: found for name, found in workdirs.sources(path).items()
                   if named.get(name, True)})
    key = json.dumps(config, sort_keys=True)
    configs[key] = config
    known, row = groups[key].setdefault(seed, (path, rows[-1]))
    if json.dumps(row) != json.dumps(rows[-1]):  # NaN equals NaN.
      raise ValueError(
          f'{known} and {path} hold the same run, of seed {seed}, but measured '
          'it differently. Seeds count once: give one of them')

  groups = {key: [row for _, row in seeds.values()]
            for key, seeds in groups.items()}
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
  """The mean metric of the runs with its interval, as text."""
  key = metrics.judged_by(rows[0])
  metric = metrics.METRICS[key]
  mean, half, seeds = tables.estimate([row[key] for row in rows])
  if seeds == 1:
    return metric.show(mean)
  return f'{metric.show(mean)} +- {metric.scale * half:.{metric.digits}f}'


def _label(config, configs):
  """The method, and the other keys in which this config differs."""
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
