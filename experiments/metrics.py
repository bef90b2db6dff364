"""One JSON object a line: what a run measured, at which step."""

import json
import pathlib
from typing import Any

from experiments import workdir

Row = dict[str, Any]


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
  rows = [row for row in read(path) if row['step'] <= step]
  workdir.write(path, ''.join(json.dumps(row) + '\n' for row in rows))


def describe(row: Row) -> str:
  """Returns a row as people read it."""
  return (f'loss {row["loss"]:.4f}  accuracy {row["accuracy"]:.1%}  '
          f'sparsity {row["sparsity"]:.1%}')
