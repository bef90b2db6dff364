"""The files that a run writes while it trains: rows, charts, checkpoints.

With several processes, each has a journal, but only the first process writes
rows and charts.
"""

from collections.abc import Sequence
import pathlib
from typing import Any

import ml_collections

from experiments._utils import launch
from experiments._utils import processes
from experiments.records import checkpoints
from experiments.records import environment
from experiments.records import metrics
from experiments.records import workdir
from experiments.reporting import charts

PyTree = Any


class Journal:
  """The journal of a run that is new or continues from its last checkpoint.

  Attributes:
    start: the step of the last checkpoint, or 0.
    state: the state of the last checkpoint, or the given one.
    rows: all measurements so far.
  """

  def __init__(self, path: pathlib.Path, config: ml_collections.ConfigDict,
               state: PyTree, drawn: Sequence[str]):
    """Restores the files to the last checkpoint; prints what was repaired.

    Args:
      path: the work directory.
      config: the config of the run.
      state: a new state.
      drawn: the charts to draw, names of `charts.CHARTS`.

    Raises:
      ValueError: if all checkpoints are damaged, or they are of another model.
      OSError: if a file cannot be written.
    """
    self._log = path / workdir.METRICS
    self._saved = path / workdir.CHECKPOINTS
    self.start, self.state = checkpoints.restore(
        self._saved, state, tell=launch.warn)
    self.rows = metrics.parse(checkpoints.text(
        self._saved, self.start, workdir.METRICS)) if self.start else []
    processes.first(lambda: self._mend(path, config))
    self._charts = charts.open_(
        drawn if processes.is_first() else (),
        charts.Run(path, config, self.rows))

  def add(self, row: metrics.Row):
    """Writes the measurements after a step."""
    self.rows += metrics.parse(metrics.text([row]))  # As it will be read.
    if processes.is_first():
      metrics.append(self._log, row)
      for chart in self._charts:
        chart.log(row['step'], metrics.numbers(row))

  def save(self, step: int, state: PyTree):
    """Saves a checkpoint, which includes the rows up to this step."""
    checkpoints.save(
        self._saved, step, state, {workdir.METRICS: metrics.text(self.rows)})

  def close(self):
    """Closes the charts."""
    for chart in self._charts:
      chart.close()

  def _mend(self, path, config):
    if not self.start and any(
        row.get('step', 0) > config.save_every
        for row in metrics.examine(self._log).rows):
      launch.warn(f'{path} holds no checkpoint: the run starts again.')
    metrics.restore(self._log, self.rows, step=self.start, tell=launch.warn)
    environment.keep(path, self.start)
