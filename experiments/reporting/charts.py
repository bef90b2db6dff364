"""Charts in other tools: TensorBoard, Weights & Biases, or your own.

A chart has two methods, `log(step, values)` and `close()`. `CHARTS` holds the
names for `--charts`. Each needs an optional package, which is imported only if
it is used. A run that continues also continues its chart: rows of steps that
are computed again replace the earlier ones.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import importlib
import pathlib
import time
from typing import NamedTuple, Protocol
import uuid

import ml_collections

from experiments._utils import names
from experiments.records import metrics
from experiments.records import workdir

_WANDB_ID = 'wandb_id.txt'


class Chart(Protocol):
  """A tool that draws the numbers of a run."""

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Draws the numbers of one step. Steps increase from call to call."""

  def close(self) -> None:
    """Writes everything that is not yet written."""


class Run(NamedTuple):
  """The facts of a run that a chart gets when it is opened."""
  path: pathlib.Path  # The work directory.
  config: ml_collections.ConfigDict
  rows: list[metrics.Row]  # The measurements before the run continued.


class _TensorBoard:
  """Event files in `tensorboard/`, for `tensorboard --logdir`."""

  PACKAGE = 'tensorboardX'

  def __init__(self, run: Run):
    tensorboard = importlib.import_module(self.PACKAGE)
    folder = run.path / 'tensorboard'
    is_new = not folder.exists()
    # Readers drop what an earlier start wrote from this step on.
    start = run.rows[-1]['step'] + 1 if run.rows else 0
    # Names of files count seconds, so a start within the second of the last one
    # would overwrite its file.
    suffix = '' if is_new else f'.{len(list(folder.iterdir()))}'
    self._writer = tensorboard.SummaryWriter(
        str(folder), purge_step=None if is_new else start,
        filename_suffix=suffix)
    _draw_earlier(self, run, is_new)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    for key, value in values.items():
      self._writer.add_scalar(key, value, step)
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()


class _WandB:
  """A run of Weights & Biases, whose id is kept in the work directory.

  The project, the mode and other settings come from the environment variables
  of wandb, such as WANDB_PROJECT and WANDB_MODE=offline.
  """

  PACKAGE = 'wandb'

  def __init__(self, run: Run):
    wandb = importlib.import_module(self.PACKAGE)
    file = run.path / _WANDB_ID
    is_new = not file.exists()
    if is_new:
      workdir.write(file, uuid.uuid4().hex[:8] + '\n')
    # It names folders by the second, as TensorBoard's writer names files.
    while any((run.path / 'wandb').glob(time.strftime('*-%Y%m%d_%H%M%S-*'))):
      time.sleep(0.1)
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
    wanted: names of `CHARTS`, already checked by `check`.
    run: the run to draw.
  """
  return [CHARTS[name](run) for name in wanted]


def check(wanted: Sequence[str]):
  """Checks the names of charts.

  Raises:
    ValueError: if a name is unknown, or the package of a chart is missing.
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


def _draw_earlier(chart, run, is_new):
  """Adds the earlier rows to a chart that was requested only later."""
  for row in run.rows if is_new else ():
    chart.log(row['step'], metrics.numbers(row))

