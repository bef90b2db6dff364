"""Charts elsewhere: TensorBoard, Weights & Biases, or one of your own.

A chart has two methods, `log(step, values)` and `close()`. `CHARTS` names those
that `--charts` knows; each is an optional package, imported when it is asked
for. A run that goes on continues its chart: rows of the steps that are computed
again replace what the chart has of them.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import importlib
import pathlib
from typing import NamedTuple, Protocol
import uuid

import ml_collections

from experiments._utils import names
from experiments.records import metrics
from experiments.records import workdir

_WANDB_ID = 'wandb_id.txt'


class Chart(Protocol):
  """What draws the numbers of a run."""

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Draws the numbers of one step; steps grow."""

  def close(self) -> None:
    """Writes what is left."""


class Run(NamedTuple):
  """What a chart is told of a run when it is opened."""
  path: pathlib.Path  # Its work directory.
  config: ml_collections.ConfigDict
  rows: list[metrics.Row]  # Measured before it went on.


class _TensorBoard:
  """Event files in `tensorboard/`, for `tensorboard --logdir`."""

  PACKAGE = 'tensorboardX'

  def __init__(self, run: Run):
    tensorboard = importlib.import_module(self.PACKAGE)
    folder = run.path / 'tensorboard'
    is_new = not folder.exists()
    # Readers drop what an earlier start wrote from this step on.
    start = run.rows[-1]['step'] + 1 if run.rows else 0
    self._writer = tensorboard.SummaryWriter(
        str(folder), purge_step=None if is_new else start)
    _draw_earlier(self, run, is_new)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    for key, value in values.items():
      self._writer.add_scalar(key, value, step)
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()


class _WandB:
  """A run of Weights & Biases, whose id is kept in the work directory.

  Its project, mode and the rest come from the environment variables that wandb
  reads, as WANDB_PROJECT and WANDB_MODE=offline.
  """

  PACKAGE = 'wandb'

  def __init__(self, run: Run):
    wandb = importlib.import_module(self.PACKAGE)
    file = run.path / _WANDB_ID
    is_new = not file.exists()
    if is_new:
      workdir.write(file, uuid.uuid4().hex[:8] + '\n')
    self._run = wandb.init(
        id=file.read_text().strip(), resume='allow', dir=str(run.path),
        name=run.path.name, config=run.config.to_dict())
    self._run.define_metric('*', step_metric='step')
    _draw_earlier(self, run, is_new)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log({**values, 'step': step})

  def close(self) -> None:
    self._run.finish()


CHARTS = {'tensorboard': _TensorBoard, 'wandb': _WandB}


def open_(wanted: Sequence[str], run: Run) -> list[Chart]:
  """Returns the charts of a run.

  Args:
    wanted: names of `CHARTS`, of `check`.
    run: which one.
  """
  return [CHARTS[name](run) for name in wanted]


def check(wanted: Sequence[str]):
  """Finds mistakes in the names of charts.

  Raises:
    ValueError: if there is no such chart, or its package is not installed.
  """
  for name in wanted:
    package = getattr(
        names.lookup(CHARTS, name, kind='chart'), 'PACKAGE', None)
    if package:  # One of your own imports what it needs itself.
      try:
        importlib.import_module(package)
      except ImportError as error:
        raise ValueError(f'--charts={name} needs the package {package}: pip '
                         f'install {package}') from error


def values(row: metrics.Row) -> dict[str, float]:
  """Returns the numbers of a row that can be drawn over steps."""
  return {key: float(value) for key, value in row.items()
          if key != 'step' and isinstance(value, (int, float))}


def _draw_earlier(chart, run, is_new):
  """A chart that was asked for later has the rows from before, too."""
  for row in run.rows if is_new else ():
    chart.log(row['step'], values(row))

