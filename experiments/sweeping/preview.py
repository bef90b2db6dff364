"""Reports a sweep without training: the runs of each row, and their steps."""

from collections.abc import Sequence

from experiments.sweeping import plan
from jaxsparse._utils import tables


def report(tuning: Sequence[plan.Planned],
           judged: Sequence[plan.Planned]) -> str:
  """Returns a table with a row for each method.

  Args:
    tuning: the runs that choose a value.
    judged: the runs that the sweep's table is made of.
  """
  methods = dict.fromkeys(run.method for run in judged)
  rows = [_row(name, [run for run in tuning if run.method == name],
               [run for run in judged if run.method == name])
          for name in methods]
  head = ['method', 'targets', 'seeds', 'runs', 'tuning', 'ended',
          'steps left']
  total = ['all', '', '', *(sum(row[i] for row in rows) for i in range(3, 7))]
  return tables.table(
      [head], [_text(row) for row in rows], [_text(total)], right=range(1, 7))


def _row(name, tuning, judged):
  both = [*tuning, *judged]
  left = [run.config.steps for run in both if not plan.ended(run)]
  targets, seeds = ({getattr(run, key) for run in judged}
                    for key in ('target', 'seed'))
  return [name, len(targets), len(seeds), len(judged), len(tuning),
          len(both) - len(left), sum(left)]


def _text(row):
  return [cell if isinstance(cell, str) else f'{cell:,}' for cell in row]
