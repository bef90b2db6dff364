"""The ratio at which a pattern costs too much, by which patterns are ranked.

Runs of one pattern at several ratios give a curve: the loss of worth by the
share of the prunable weights that is pruned. The worth of a network is its
distance from one that has learned nothing, so 1% of it is

* 1% of the accuracy, the relative drop up to which Neural Compressor's examples
  count as good, https://github.com/intel/neural-compressor;
* 1% of the AUC above 0.5;
* 1% of the bits per byte that are saved of 8.

The loss is paired: a run is compared with the dense run of its own seed, if
that one has learned anything; one that diverged says nothing of a pattern. The
ratio of a pattern is the first at which the mean loss over seeds is above the
tolerance, on straight lines between the measured ratios. Its interval ends
where the upper and the lower end of the mean's 95% interval are above it.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

from experiments.reporting import tables

TOLERANCE = 0.01
# Metric -> the score of a network that has learned nothing.
_WORTHLESS = {'accuracy': 0., 'auc': 0.5, 'bits_per_byte': 8.}

NOTE = (
    'The share of the prunable weights at whose pruning the network has lost '
    '1% of what the dense one of the same seed is worth: of its accuracy, of '
    'its AUC above 0.5, or of the bits per byte that it saves of 8. Straight '
    'lines join the means over seeds at the measured ratios. In parentheses: '
    'the same for the upper and the lower end of the 95% interval of the loss. '
    '< is before the first ratio that was measured, > after the last.')


class Point(NamedTuple):
  """The loss of worth at one ratio."""
  ratio: float  # The mean over seeds.
  lost: tables.Estimate  # A share of the worth of the dense network.


class Tolerated(NamedTuple):
  """The ratio of one pattern, with its interval.

  -inf is before the first ratio that was measured, inf after the last.
  """
  ratio: float
  low: float  # NaN for a single seed.
  high: float
  measured: tuple[float, float]  # The first ratio and the last.


def crossing(ratios: Sequence[float], losses: Sequence[float],
             tolerance: float = TOLERANCE) -> float:
  """Returns the first ratio at which a curve rises above the tolerance.

  The curve is a straight line between neighbouring ratios. A later fall below
  the tolerance does not count: the ratio is the one up to which all is well.

  Args:
    ratios: in increasing order.
    losses: one for each ratio; NaN, of runs that diverged, is no good loss.
      A line to NaN or infinity crosses at its start, one from -inf at its end.
    tolerance: the loss that is still well.

  Returns:
    The ratio, -inf if the first loss is above the tolerance, inf if none is.

  >>> round(crossing([0.8, 0.9], [0., 0.04]), 6)
  0.825
  """
  before = None
  for ratio, loss in zip(ratios, losses, strict=True):
    if not loss <= tolerance:
      if before is None:
        return -math.inf
      start, good = before
      share = 0. if not math.isfinite(loss) else 1.
      if math.isfinite(loss) and math.isfinite(good):
        share = (tolerance - good) / (loss - good)
      return start + share * (ratio - start)
    before = ratio, loss
  return math.inf


def curve(runs: Sequence[tables.Run], rows: Sequence[str]) -> list[Point]:
  """Returns the loss at every ratio of a pattern, in their order.

  Args:
    runs: the measured runs of a sweep, dense ones among them.
    rows: the methods of the sweep that prune by this pattern. A row without
      runs whose seed has a dense run that learned something has no point.
  """
  key, metric = tables.judged(runs)
  nothing = metric.scale * _WORTHLESS[key]
  sign = 1 if metric.higher_is_better else -1
  dense = {seed: score for seed, score in tables.scores(
      runs, tables.DENSE, tables.ALL).items()
           if 0 < sign * (score - nothing) < math.inf}  # Not NaN.
  points = []
  for row in rows:
    scores = tables.scores(runs, row, tables.ALL)
    lost = [(dense[seed] - scores[seed]) / (dense[seed] - nothing)
            for seed in scores if seed in dense]
    if lost:
      ratio = np.mean([run.rows[-1]['sparsity'] for run in runs
                       if run.method == row and run.seed in dense])
      points.append(Point(float(ratio), tables.estimate(lost)))
  return sorted(points)


def tolerated(points: Sequence[Point]) -> Tolerated:
  """Returns the ratio of a pattern and its interval.

  Args:
    points: those of its `curve`, at least one.
  """
  ratios = [point.ratio for point in points]
  means, halves = np.transpose([
      (point.lost.mean, point.lost.half) for point in points])
  low, high = math.nan, math.nan
  if any(point.lost.seeds > 1 for point in points):
    halves = np.nan_to_num(halves, nan=math.inf)  # A single seed may be any.
    low, high = (crossing(ratios, means + sign * halves) for sign in (1, -1))
  return Tolerated(crossing(ratios, means), low, high, (ratios[0], ratios[-1]))


def show(cell: Tolerated) -> str:
  """Returns the ratio as text, with its interval, if it has one.

  >>> show(Tolerated(0.931, 0.905, math.inf, (0.8, 0.98)))
  '93.1% (90.5 to > 98.0)'
  """
  first, last = cell.measured

  def percent(ratio):
    if math.isinf(ratio):
      return f'< {first:.1%}' if ratio < 0 else f'> {last:.1%}'
    return f'{ratio:.1%}'
  text = percent(cell.ratio)
  if not math.isnan(cell.low):
    ends = (percent(end).removesuffix('%') for end in (cell.low, cell.high))
    text += f' ({" to ".join(ends)})'
  return text


def table(found: Mapping[str, Sequence[tables.Run]],
          patterns: Mapping[str, Sequence[str]]) -> str:
  """Returns the table of ratios: a row a pattern, a column a domain.

  Args:
    found: the runs of each domain.
    patterns: the methods of the sweeps that prune by each pattern.
  """
  lines = [['pattern', *found], *([pattern] for pattern in patterns)]
  for runs in found.values():
    curves = [curve(runs, rows) for rows in patterns.values()]
    counts = [min((point.lost.seeds for point in points), default=0)
              for points in curves]
    for line, points, count in zip(lines[1:], curves, counts):
      line.append(tables.sized(show(tolerated(points)), count, max(counts))
                  if points else tables.NOT_BUILT)
  return tables.markdown(lines)
