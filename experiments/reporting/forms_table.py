"""A table of a network in several forms: dense, masked and smaller ones."""

from collections.abc import Sequence
import json
import pathlib
import textwrap
from typing import NamedTuple

from experiments.records import metrics
from experiments.records import workdir
from experiments.reporting import tables

TABLE = 'side_by_side.md'
NUMBERS = 'side_by_side.json'

_NOTE = (
    'Kept: weights of the kernels that may be pruned. Bytes: of all parameters '
    'as they are stored, with indices. Times: of a forward pass of so many '
    'examples, medians of {repeats} with all forms in turns, and in '
    'parentheses how many times as fast as the first row. {machine}.')
_NO_SMALLER = (
    'These masks have no smaller form, so the pruned network takes as much '
    'memory and time as a dense one. One fan-in for all outputs (method '
    'srigl), blocks (block), dead channels (chase) and 2:4 (sr_ste) have one.')


class Row(NamedTuple):
  """A network in one form."""
  form: str
  judged: float  # By the metric of the comparison.
  kept: int  # Weights of the prunable kernels.
  sparsity: float
  nbytes: int
  milliseconds: dict[int, float]  # Of a forward pass, by batch.


class Comparison(NamedTuple):
  """What was measured of all forms."""
  metric: str  # A key of `metrics.METRICS`.
  rows: list[Row]  # The others are compared with the first.
  repeats: int
  machine: str


def table(compared: Comparison) -> str:
  """Returns a Markdown table with a row for each form."""
  metric = metrics.METRICS[compared.metric]
  first = compared.rows[0]
  lines = [['form', metric.label.lower(), 'kept', 'sparsity', 'bytes',
            *(f'batch {batch}' for batch in first.milliseconds)]]
  for row in compared.rows:
    times = [f'{ms:.2f} ms' for ms in row.milliseconds.values()]
    if row is not first:
      times = [f'{text} ({speed:.1f}x)' for text, speed in zip(
          times, _speeds(row, first))]
    lines.append([row.form, metric.show(row.judged), f'{row.kept:,}',
                  f'{row.sparsity:.1%}', f'{row.nbytes:,}', *times])
  return tables.markdown(lines)


def conclusion(rows: Sequence[Row]) -> str:
  """Returns in words what the smallest form saves.

  Args:
    rows: the others are compared with the first.
  """
  first = rows[0]
  smallest = min(rows, key=lambda row: row.nbytes)
  if smallest.nbytes == first.nbytes:
    return _NO_SMALLER
  speeds = [
      f'{speed:.1f} times as fast at batch {batch}'
      for batch, speed in zip(first.milliseconds, _speeds(smallest, first))]
  text = (f'In {smallest.nbytes / first.nbytes:.0%} of the bytes, the '
          f'{smallest.form} network is {" and ".join(speeds)}.')
  if min(_speeds(smallest, first)) < 1:
    text += ' Below 1, it is slower.'
  return text


def write(path: pathlib.Path, compared: Comparison) -> str:
  """Writes the table and its numbers into `path`; returns the table."""
  note = _NOTE.format(repeats=compared.repeats, machine=compared.machine)
  paragraphs = [table(compared), *(
      textwrap.fill(text, 80) for text in (conclusion(compared.rows), note))]
  text = '\n\n'.join(paragraphs) + '\n'
  workdir.write(path / NUMBERS, json.dumps({
      **compared._asdict(), 'rows': [row._asdict() for row in compared.rows]},
      indent=2) + '\n')
  workdir.write(path / TABLE, text)
  return text


def _speeds(row, first):
  return [first.milliseconds[batch] / ms
          for batch, ms in row.milliseconds.items()]
