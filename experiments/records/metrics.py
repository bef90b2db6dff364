"""The measurements of a run: one JSON object per line, with its step."""

from collections.abc import Callable
import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.records import workdir

Row = dict[str, Any]


class Metric(NamedTuple):
  """A number by which runs are judged, and how to print it."""
  label: str
  scale: float  # The printed number is `scale` times the number in the row.
  unit: str
  digits: int
  higher_is_better: bool

  @property
  def axis_label(self) -> str:
    """The label with its unit."""
    return f'{self.label} ({self.unit.strip()})' if self.unit else self.label

  def show(self, value: float) -> str:
    """Returns the number scaled, rounded and with its unit."""
    return f'{self.scale * value:.{self.digits}f}{self.unit}'


# The key of a row that says how good the network is: the first that a row has,
# and every row has one. The last is of masks, and judges when it is asked for.
METRICS = {
    'accuracy': Metric('Test accuracy', 100, '%', 1, True),
    'bits_per_byte': Metric('Validation loss', 1, ' bits/byte', 3, False),
    'auc': Metric('Test AUC', 1, '', 4, True),
    'kept': Metric('Magnitude kept', 100, '%', 1, True),
}


def judged_by(row: Row) -> str:
  """Returns the key of the metric in this row."""
  return next(key for key in METRICS if key in row)


def numbers(row: Row) -> dict[str, float]:
  """Returns the numbers of a row that can be drawn over steps.

  `channels_left` is the share of channels that are alive, of all layers.

  >>> numbers({'step': 4, 'loss': 0.5, 'channels': {'a': (1, 2), 'b': (2, 2)}})
  {'loss': 0.5, 'channels_left': 0.75}
  """
  found = {key: float(value) for key, value in row.items()
           if key != 'step' and isinstance(value, (int, float))}
  if row.get('channels'):
    left, of = map(sum, zip(*row['channels'].values()))
    found['channels_left'] = left / of
  return found


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


class Found(NamedTuple):
  """The content of a file."""
  rows: list[Row]
  problems: list[str]  # One text for each line that is not a row.


def append(path: pathlib.Path, row: Row):
  """Adds a row to the file and flushes it to the disk.

  Raises:
    OSError: if the row cannot be written, as on a full disk.
  """
  with workdir.naming(path), path.open('a') as file:
    file.write(_line(row))


def examine(path: pathlib.Path) -> Found:
  """Returns the rows of a file, and a problem for each line that is not a row.

  A killed run may leave half a row at the end, which is not a problem.
  """
  found = Found([], [])
  lines = path.read_bytes().split(b'\n') if path.exists() else [b'']
  for i, line in enumerate(lines):
    try:
      row = json.loads(line.decode())
    except (ValueError, RecursionError):  # Of UTF-8, or of JSON.
      row = None
    if isinstance(row, dict):
      found.rows.append(row)
    elif i < len(lines) - 1:
      found.problems.append(f'line {i + 1} is no row')
  return found


def read(path: pathlib.Path) -> list[Row]:
  """Returns the rows, without the half row that a killed run may leave.

  Raises:
    ValueError: if another line is not a row.
  """
  rows, problems = examine(path)
  if problems:
    raise ValueError(f'{path} is damaged: {problems[0]}. The command that '
                     'wrote it mends it: start that again.')
  return rows


def ended(path: pathlib.Path, steps: int) -> list[Row]:
  """Returns the rows of a run that has ended.

  Args:
    path: of the file.
    steps: of the run.

  Raises:
    ValueError: if the last row is of an earlier step, or `read` raises it.
  """
  rows = read(path)
  if not rows or rows[-1]['step'] != steps:
    raise ValueError(f'the run in {path.parent} must have ended; start its '
                     'command again to continue it')
  return rows


def restore(path: pathlib.Path, rows: list[Row], *, step: int,
            tell: Callable[[str], None]):
  """Restores a file to a checkpoint; the run measures later rows again.

  Args:
    path: the file with the rows of a run.
    rows: the rows that were saved with the checkpoint.
    step: the step of the checkpoint.
    tell: receives a message about damage that was repaired.
  """
  found, problems = examine(path)
  steps = [row['step'] if isinstance(row.get('step'), int) else 0
           for row in found]
  # Rows after the checkpoint are not damage: the run was killed later.
  until = [_line(row) for row, at in zip(found, steps) if at <= step]
  saved = [_line(row) for row in rows]
  if until != saved or steps != sorted({*steps}):
    problems.append(
        f'of the {len(saved)} rows up to step {step:,} it has '
        f'{len({*until} & {*saved})}, and {len(until)} in all')
  if problems:
    tell(f'{path} is damaged: {problems[0]}. Rows up to step {step:,} are '
         'those saved with the checkpoint; later ones are measured again.')
  rewrite(path, rows)


def rewrite(path: pathlib.Path, rows: list[Row]):
  """Replaces the content of the file by these rows."""
  workdir.write(path, text(rows))


def text(rows: list[Row]) -> str:
  """Returns rows in the format of the file."""
  return ''.join(map(_line, rows))


def parse(lines: str) -> list[Row]:
  """Returns the rows of `text`."""
  return [json.loads(line) for line in lines.splitlines()]


def describe(row: Row) -> str:
  """Returns a row as one line of text."""
  key = judged_by(row)
  metric = METRICS[key]
  bayes = f' (Bayes {metric.show(row["ceiling"])})' if 'ceiling' in row else ''
  label = metric.label[0].lower() + metric.label[1:]
  return (f'loss {row["loss"]:.4f}  {label} {metric.show(row[key])}{bayes}  '
          f'sparsity {row["sparsity"]:.1%}')


def _line(row):
  return json.dumps(row) + '\n'
