"""The table of a benchmark as data: a line about it, then a line for each row.

    {"benchmark": "python -m ...", "about": "jax 0.10.2 on ...", "date": ...}
    {"network": "MLP", "batch 1": 3.81}
"""

from collections.abc import Sequence
import datetime
import pathlib
from typing import Any, NamedTuple

from experiments.records import metrics
from experiments.records import workdir
from experiments.reporting import tables

_HEADER = 'benchmark'  # The key by which the first line is known.


class Benchmarked(NamedTuple):
  """What a benchmark measured, and where."""
  rows: list[dict[str, Any]]  # By column.
  benchmark: str  # The command.
  about: str  # Machine, versions, sizes.
  date: str


def write(path: pathlib.Path, head: Sequence[str],
          rows: Sequence[Sequence[Any]], *, command: str, about: str):
  """Writes a table as data.

  Args:
    path: of the file.
    head: the names of the columns.
    rows: a value for each column.
    command: that repeats the benchmark.
    about: machine, versions and sizes.
  """
  header = {_HEADER: command, 'about': about,
            'date': datetime.date.today().isoformat()}
  path.parent.mkdir(parents=True, exist_ok=True)
  workdir.write(path, metrics.text(
      [header, *(dict(zip(head, row, strict=True)) for row in rows)]))


def read(path: pathlib.Path) -> Benchmarked:
  """Returns what `write` wrote.

  Raises:
    ValueError: if the file is damaged, or is not of a benchmark.
  """
  if not path.exists():
    raise ValueError(f'there is no {path}. Give the --data of a benchmark')
  header, *rows = metrics.read(path) or [{}]
  if _HEADER not in header or not rows:
    raise ValueError(f'{path} must be the --data of a benchmark, whose first '
                     f'line has the key {_HEADER!r}, and hold a row')
  return Benchmarked(rows, **header)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """Returns a Markdown table, with two digits of floats.

  >>> print(table(['form', 'speed'], [['dense', 1.], ['slimmed', 1.4142]]))
  | form    | speed |
  |---------|-------|
  | dense   | 1.00  |
  | slimmed | 1.41  |
  """
  return tables.markdown([
      [f'{cell:.2f}' if isinstance(cell, float) else str(cell) for cell in line]
      for line in (head, *rows)])
