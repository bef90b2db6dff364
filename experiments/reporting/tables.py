"""The results of a sweep as Markdown: means and their intervals.

Every interval is Student's, at 95%, over seeds.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import math
import types
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from scipy import stats

from experiments._utils import names
from experiments.records import metrics

NOT_BUILT = 'n/a'
DENSE = 'dense'  # `dense` and `dense_...` are baselines, not competitors.
ALL = 'all'  # The only column of a sweep whose rows need no targets.

Tried = dict[str, list[tuple[Any, float]]]  # Method -> value, mean metric.
Label = Callable[[str], str]  # From the name of a method to that printed.

MEANS_NOTE = (
    'Mean ± half of its 95% interval over seeds; {better} is better. **Bold**: '
    'the best sparse method of the column. †: its interval overlaps that of '
    'the best; that of a single seed, which is not known, overlaps all. n=: '
    'this cell has fewer seeds than the others. n/a: nothing that could be '
    'built and ended. Dense has no target: its one value stands in every '
    'column.')


class Run(NamedTuple):
  """The measurements of one run of a sweep."""
  method: str
  target: str | None  # 'N:M' or 'S%'; None if the method has none.
  seed: int
  rows: list[metrics.Row]


class Estimate(NamedTuple):
  """A mean over seeds and half the width of its interval."""
  mean: float
  half: float  # NaN for a single seed, which has no interval.
  seeds: int


class Tuned(NamedTuple):
  """The choices of the first phase of a sweep, which tunes one key."""
  key: str
  target: str
  seeds: list[int]
  tried: Tried  # With the metric as it is printed.
  chosen: dict[str, Any]  # Method -> value.


def estimate(values: Sequence[float]) -> Estimate:
  """Returns the mean of the values and its interval.

  `half = t(0.975, n - 1) * standard deviation / sqrt(n)`

  Args:
    values: one number for each seed.

  >>> round(estimate([1., 3.]).half, 3)  # t is 12.706 for two seeds.
  12.706
  """
  half = math.nan
  if len(values) > 1:
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
  return Estimate(float(np.mean(values)), float(half), len(values))


def show(cell: Estimate, digits: int, *, sign: str = '') -> str:
  """Returns a mean with half of its interval, if it has one.

  >>> show(Estimate(2., 0.25, 5), 2, sign='+')
  '+2.00 ± 0.25'
  """
  text = f'{cell.mean:{sign}.{digits}f}'
  if not math.isnan(cell.half):
    text += f' ± {cell.half:.{digits}f}'
  return text


def sized(text: str, count: int, seeds: int) -> str:
  """Returns a cell's text, and the number of its seeds if that differs.

  >>> sized('2.0', 3, 3), sized('2.0', 1, 3)
  ('2.0', '2.0 (n=1)')
  """
  return text if count == seeds else f'{text} (n={count})'


def is_dense(name: str) -> bool:
  """Returns whether a method or its variant is a dense baseline."""
  return name.split('_')[0] == DENSE


def has_targets(config: ml_collections.ConfigDict) -> bool:
  """Returns whether a sweep has a column for each target, not only one."""
  return config.targets != (ALL,)


def judged(runs: Sequence[Run]) -> tuple[str, metrics.Metric]:
  """Returns the metric by which the runs are judged, with its key first."""
  key = metrics.judged_by(runs[0].rows[-1])
  return key, metrics.METRICS[key]


def by_metric(runs: Sequence[Run], key: str) -> list[Run]:
  """Returns the runs that measured something, judged by it alone.

  Args:
    runs: the measured runs.
    key: of `metrics.METRICS`.

  Raises:
    ValueError: if no run measured it.
  """
  names.lookup(metrics.METRICS, key, kind='metric')
  found = [run._replace(rows=[
      {name: value for name, value in row.items()
       if name not in metrics.METRICS or name == key} for row in run.rows])
           for run in runs if key in run.rows[-1]]
  if not found:
    raise ValueError(f'no run measured {key}')
  return found


def scores(runs: Sequence[Run], method: str, target: str) -> dict[int, float]:
  """Returns seed -> metric, as it is printed.

  Args:
    runs: the measured runs of a sweep.
    method: the method. One without N:M has the same scores at every target.
    target: 'N:M'.
  """
  key, metric = judged(runs)
  return {run.seed: metric.scale * run.rows[-1][key] for run in runs
          if run.method == method and run.target in (target, None)}


def means(runs: Sequence[Run], methods: Sequence[str], targets: Sequence[str],
          *, seeds: int, label: Label = str,
          more: Mapping[str, Sequence[str]] = types.MappingProxyType({})
          ) -> str:
  """Returns the table of means: a row per method, a column per target.

  Args:
    runs: the measured runs of a sweep.
    methods: the rows.
    targets: the columns.
    seeds: the number of runs each cell should have. A cell with another number
      shows it.
    label: tells how a method's name is printed.
    more: columns to put before those of the targets, a text for each method.
  """
  _, metric = judged(runs)
  lines = [['method', *more, *targets]]
  lines += [[label(method), *(column[i] for column in more.values())]
            for i, method in enumerate(methods)]
  for target in targets:
    cells = {method: estimate([*values.values()]) for method in methods
             if (values := scores(runs, method, target))}
    texts = marked(cells, metric)
    for line, method in zip(lines[1:], methods):
      line.append(sized(texts[method], cells[method].seeds, seeds)
                  if method in cells else NOT_BUILT)
  return markdown(lines)


def choose(tried: Tried, metric: metrics.Metric) -> dict[str, Any]:
  """Returns the best value of each method whose runs did not all diverge.

  Args:
    tried: the values and their mean metrics, by method.
    metric: the metric by which they are judged.
  """
  return {method: value for method, pairs in tried.items()
          if (value := best(dict(map(tuple, pairs)), metric)) is not None}


def tuning(tuned: Tuned, metric: metrics.Metric) -> str:
  """Returns the table of the results of each value, the chosen one in bold.

  Args:
    tuned: the values that were tried and chosen.
    metric: the metric by which they were judged.
  """
  values = [value for value, _ in next(iter(tuned.tried.values()))]
  lines = [['method', *(f'{tuned.key} {value}' for value in values)]]
  for method, pairs in tuned.tried.items():
    cells = [(value, f'{mean:.{metric.digits}f}') for value, mean in pairs]
    lines.append([method, *(
        f'**{cell}**' if value == tuned.chosen.get(method) else cell
        for value, cell in cells)])
  return markdown(lines)


def best(means_: Mapping[Any, float], metric: metrics.Metric) -> Any:
  """Returns the key of the best finite mean; `None` if there is none.

  Args:
    means_: the means.
    metric: the metric by which they are judged.
  """
  finite = {key: mean for key, mean in means_.items() if math.isfinite(mean)}
  extreme = max if metric.higher_is_better else min
  return extreme(finite, key=finite.get, default=None)


def marked(cells: Mapping[str, Estimate], metric: metrics.Metric
           ) -> dict[str, str]:
  """Returns a column's cells as text: the best in bold, what overlaps it as †.

  Args:
    cells: the estimate of each method; dense ones are not marked.
    metric: the metric by which they are judged.
  """
  first = best({method: cell.mean for method, cell in cells.items()
                if not is_dense(method)}, metric)
  texts = {}
  for method, cell in cells.items():
    text = show(cell, metric.digits)
    texts[method] = (f'**{text}**' if method == first else text) + (
        ' †' if _rivals(method, first, cells) else '')
  return texts


def markdown(lines: Sequence[Sequence[Any]]) -> str:
  """Returns a Markdown table; the first line is its header."""
  widths = [max(map(len, column)) for column in zip(*lines)]
  texts = ['| ' + ' | '.join(cell.ljust(width) for cell, width in
                             zip(line, widths)) + ' |' for line in lines]
  texts.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
  return '\n'.join(texts)


def _rivals(method, first, cells):
  """Whether a sparse method's interval overlaps that of the best one.

  An interval that is not known may be any.
  """
  if first is None or method == first or is_dense(method):
    return False
  one, other = cells[method], cells[first]
  halves = np.nan_to_num([one.half, other.half], nan=math.inf)
  return abs(one.mean - other.mean) <= halves.sum()
