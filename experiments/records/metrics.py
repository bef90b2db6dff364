"""One JSON object a line: what a run measured, at which step."""

import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.records import workdir

Row = dict[str, Any]


class Metric(NamedTuple):
  """A number by which runs are judged, and how people read it."""
  label: str
  scale: float  # What people read is `scale` times the number in the row.
  unit: str
  digits: int
  higher_is_better: bool

  @property
  def axis_label(self) -> str:
    """What the metric is, and in which unit."""
    return f'{self.label} ({self.unit.strip()})' if self.unit else self.label

  def show(self, value: float) -> str:
    """Returns the number as people read it."""
    return f'{self.scale * value:.{self.digits}f}{self.unit}'


# The key of a row that says how good the network is; every row has one.
METRICS = {
    'accuracy': Metric('Test accuracy', 100, '%', 1, True),
    'bits_per_byte': Metric('Validation loss', 1, ' bits/byte', 3, False),
    'auc': Metric('Test AUC', 1, '', 4, True),
}


def judged_by(row: Row) -> str:
  """Returns the key of the metric in this row."""
  return next(key for key in METRICS if key in row)


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
  """Returns the area under the ROC curve.

  The share of pairs of a positive and a negative example in which the positive
  one scores higher; a tie counts half.

  Args:
    scores: `[N]`.
    labels: `[N]`, of 0 and 1.

  Returns:
    The area, or NaN if all labels are the same or a score is NaN.

  >>> auc(np.array([.1, .4, .4, .8]), np.array([0, 0, 1, 1]))
  0.875
  """
  positive = np.asarray(labels) == 1
  ones = int(positive.sum())
  pairs = ones * (positive.size - ones)
  # A positive example's rank counts the positive ones up to it, too.
  ranks = stats.rankdata(scores)[positive].sum()
  return float(ranks - ones * (ones + 1) / 2) / pairs if pairs else math.nan


def append(path: pathlib.Path, row: Row):
  """Adds a row; once this returns, it outlives the process."""
  with path.open('a') as file:
    file.write(json.dumps(row) + '\n')


def read(path: pathlib.Path) -> list[Row]:
  """Returns the rows, without the half row that a killed run may leave."""
  rows = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows


def truncate(path: pathlib.Path, step: int):
  """Drops the rows after `step`: the run is about to measure them again."""
  rewrite(path, [row for row in read(path) if row['step'] <= step])


def rewrite(path: pathlib.Path, rows: list[Row]):
  """Makes these the rows, whatever there was, such as half a row."""
  workdir.write(path, ''.join(json.dumps(row) + '\n' for row in rows))


def describe(row: Row) -> str:
  """Returns a row as people read it."""
  key = judged_by(row)
  metric = METRICS[key]
  bayes = f' (Bayes {metric.show(row["ceiling"])})' if 'ceiling' in row else ''
  label = metric.label[0].lower() + metric.label[1:]
  return (f'loss {row["loss"]:.4f}  {label} {metric.show(row[key])}{bayes}  '
          f'sparsity {row["sparsity"]:.1%}')
