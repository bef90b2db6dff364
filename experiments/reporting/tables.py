"""The results of a sweep as Markdown: means, their intervals and differences.

Every interval is Student's, at 95%, over seeds. Differences are paired: runs
with the same seed share their first weights and their batches, so the effect
of these cancels.
"""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from scipy import stats

from experiments.records import metrics

NOT_BUILT = 'n/a'
DENSE = 'dense'  # `dense` and `dense_...` are baselines, not competitors.
ALL = 'all'  # The only column of a sweep whose rows need no targets.

Tried = dict[str, list[tuple[Any, float]]]  # Method -> value, mean metric.

MEANS_NOTE = (
    'Mean ± half of its 95% interval over seeds; {better} is better. **Bold**: '
    'the best sparse method of the column. †: its interval overlaps that of '
    'the best. n=: this cell has fewer seeds than the others. n/a: nothing '
    'that could be built and ended. Dense has no target: its one value stands '
    'in every column.')
DIFFERENCES_NOTE = (
    'Mean over seeds of the method minus {reference} with the same seed ± half '
    'of its 95% interval (paired t); {better} is better. **Bold**: the '
    'interval excludes zero, which one in twenty does by chance.')
_TUNED_NOTE = (
    'Every method was tried with the same values of {key}, at {target}, on '
    'seeds {seeds}, which judge nothing else; the best, in bold, is what the '
    'tables above use.')
_EDGE_NOTE = 'Best at an end of the grid, so maybe better beyond it: '
_MIXED_NOTE = ' (**the data changed between runs: they do not compare**)'


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


def document(runs: Sequence[Run], config: ml_collections.ConfigDict, *,
             tuned: Tuned | None,
             not_built: dict[tuple[str, str | None], str],
             data: Sequence[str], command: str, costs: str = '') -> str:
  """Returns the text of `table.md`.

  Args:
    runs: the measured runs of the sweep.
    config: the config of the sweep.
    tuned: the choices of the first phase, if there was one.
    not_built: method, target -> why its runs could not be built.
    data: the fingerprints of the data that the runs read.
    command: the command that repeats the sweep.
    costs: a table of FLOPs, if they were measured.
  """
  _, metric = judged(runs)
  better = 'higher' if metric.higher_is_better else 'lower'
  order = config.methods, config.targets
  parts = [
      f'# {metric.axis_label} by method and target',
      means(runs, *order, seeds=len(config.seeds)),
      MEANS_NOTE.format(better=better)]
  reference = config.get('reference', 'sr_ste')
  if reference in config.methods and len(config.methods) > 1:
    parts += [f'## Paired differences to {reference}',
              differences(runs, *order, reference=reference),
              DIFFERENCES_NOTE.format(better=better, reference=reference)]
  parts += ['## Costs', costs] if costs else []
  parts += _tuning_parts(tuned, metric) if tuned else []
  if not_built:
    parts += ['## Not built', '\n'.join(
        f'- {method} {target}: {why}'
        for (method, target), why in not_built.items())]
  base = config.base
  parts += ['## How', '\n'.join([
      f'- {base.model} on {base.dataset}, {base.steps:,} steps',
      f'- seeds {_numbers(config.seeds)}',
      f'- data {", ".join(data)}' + _MIXED_NOTE * (len(data) > 1),
      f'- `{command}`' if command else '- called from Python'])]
  return '\n\n'.join(parts) + '\n'


def means(runs: Sequence[Run], methods: Sequence[str], targets: Sequence[str],
          *, seeds: int) -> str:
  """Returns the table of means: a row per method, a column per target.

  Args:
    runs: the measured runs of a sweep.
    methods: the rows.
    targets: the columns.
    seeds: the number of runs each cell should have. A cell with another number
      shows it.
  """
  _, metric = judged(runs)
  lines = [['method', *targets]] + [[method] for method in methods]
  for target in targets:
    cells = {method: estimate(list(values.values())) for method in methods
             if (values := scores(runs, method, target))}
    best = _best({method: cell.mean for method, cell in cells.items()
                  if not is_dense(method)}, metric)
    for line, method in zip(lines[1:], methods):
      cell = cells.get(method)
      text = NOT_BUILT
      if cell:
        text = show(cell, metric.digits)
        text = f'**{text}**' if method == best else text
        text += ' †' if _rivals(method, best, cells) else ''
        text += f' (n={cell.seeds})' if cell.seeds != seeds else ''
      line.append(text)
  return markdown(lines)


def differences(runs: Sequence[Run], methods: Sequence[str],
                targets: Sequence[str], *, reference: str) -> str:
  """Returns the table of paired differences to one method.

  Args:
    runs: the measured runs of a sweep.
    methods: the rows; the reference has no row.
    targets: the columns.
    reference: the method whose metric is subtracted, seed by seed.
  """
  _, metric = judged(runs)
  others = [method for method in methods if method != reference]
  lines = [[f'method - {reference}', *targets]]
  for method in others:
    lines.append([method])
    for target in targets:
      theirs = scores(runs, method, target)
      ours = scores(runs, reference, target)
      pairs = [theirs[seed] - ours[seed] for seed in ours if seed in theirs]
      text = NOT_BUILT
      if pairs:
        cell = estimate(pairs)
        text = show(cell, metric.digits, sign='+')
        text = f'**{text}**' if abs(cell.mean) > cell.half else text
      lines[-1].append(text)
  return markdown(lines)


def choose(tried: Tried, metric: metrics.Metric) -> dict[str, Any]:
  """Returns the best value of each method whose runs did not all diverge.

  Args:
    tried: the values and their mean metrics, by method.
    metric: the metric by which they are judged.
  """
  return {method: best for method, pairs in tried.items()
          if (best := _best(dict(map(tuple, pairs)), metric)) is not None}


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


def markdown(lines: Sequence[Sequence[Any]]) -> str:
  """Returns a Markdown table; the first line is its header."""
  widths = [max(map(len, column)) for column in zip(*lines)]
  texts = ['| ' + ' | '.join(cell.ljust(width) for cell, width in
                             zip(line, widths)) + ' |' for line in lines]
  texts.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
  return '\n'.join(texts)


def _best(means_, metric):
  finite = {key: mean for key, mean in means_.items() if math.isfinite(mean)}
  extreme = max if metric.higher_is_better else min
  return extreme(finite, key=finite.get, default=None)


def _rivals(method, best, cells):
  """Whether a sparse method's interval overlaps that of the best one."""
  if best is None or method == best or is_dense(method):
    return False
  one, other = cells[method], cells[best]
  return abs(one.mean - other.mean) <= one.half + other.half


def _tuning_parts(tuned, metric):
  parts = ['## Tuned equally', tuning(tuned, metric),
           _TUNED_NOTE.format(key=tuned.key, target=tuned.target,
                              seeds=_numbers(tuned.seeds))]
  ends = {method: (min(pairs)[0], max(pairs)[0])
          for method, pairs in tuned.tried.items()}
  edges = [method for method, value in tuned.chosen.items()
           if value in ends[method]]
  return parts + ([_EDGE_NOTE + ', '.join(edges)] if edges else [])


def _numbers(seeds):
  return ', '.join(map(str, seeds))
