"""Charts: what TensorBoard and wandb are given, and that they go on."""

import types

import pytest

from experiments import train
from experiments.records import metrics
from experiments.reporting import charts
from tests._lib import commands

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


def _run(path, rows):
  return charts.Run(path, commands.config('digits/rigl_90'), rows)


def _row(step):
  return {'step': step, 'loss': 1 / step, 'channels': {'a': [1, 2]}}


@pytest.fixture(name='read')
def _read():
  """Reads scalars of a folder of event files: name -> [(step, value)]."""
  accumulator = pytest.importorskip(
      'tensorboard.backend.event_processing.event_accumulator')

  def read(path):
    events = accumulator.EventAccumulator(str(path))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)]
            for tag in events.Tags()['scalars']}
  return read


@pytest.mark.filterwarnings('ignore')  # Of TensorBoard's own imports.
def test_tensorboard_reads_a_run_that_was_stopped_and_goes_on(
    read, tmp_path, monkeypatch):
  writer = pytest.importorskip('tensorboardX.event_file_writer')
  # Both starts are within one second.
  monkeypatch.setattr(writer, 'time', types.SimpleNamespace(time=lambda: 1.7e9))
  config = commands.config('digits/sr_ste_2_4', steps=8, log_every=2,
                           save_every=3, batch_size=16)
  options = train.Options(['tensorboard'])
  append, rows = metrics.append, []

  def killed(path, row):
    append(path, row)
    rows.append(row)
    if len(rows) == 3:  # Step 6; the last checkpoint is that of step 3.
      raise KeyboardInterrupt
  with monkeypatch.context() as patch:
    patch.setattr(metrics, 'append', killed)
    with pytest.raises(KeyboardInterrupt):
      train.train(config, str(tmp_path), options)
  result = train.train(config, str(tmp_path), options)
  shown = read(tmp_path / 'tensorboard')
  assert shown.keys() == metrics.numbers(result.rows[0]).keys()
  for key, points in shown.items():
    assert points == [(row['step'], pytest.approx(row[key], rel=1e-6))
                      for row in result.rows]


@pytest.mark.filterwarnings('ignore')
def test_a_chart_that_is_asked_for_later_has_the_rows_from_before(
    read, tmp_path):
  pytest.importorskip('tensorboardX')
  chart, = charts.open_(['tensorboard'], _run(tmp_path, [_row(2), _row(4)]))
  chart.log(6, metrics.numbers(_row(6)))
  chart.close()
  assert read(tmp_path / 'tensorboard') == {
      'loss': [(step, pytest.approx(1 / step)) for step in (2, 4, 6)],
      'channels_left': [(step, 0.5) for step in (2, 4, 6)]}


@pytest.mark.filterwarnings('ignore')
def test_wandb_keeps_the_id_of_a_run(tmp_path, monkeypatch):
  wandb = pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  ids = []
  for rows in ([], [_row(2)]):
    chart, = charts.open_(['wandb'], _run(tmp_path, rows))
    ids.append(wandb.run.id)
    chart.log(4, metrics.numbers(_row(4)))
    chart.close()
  assert ids[0] == ids[1] == (tmp_path / 'wandb_id.txt').read_text().strip()
  assert len([*(tmp_path / 'wandb').glob(f'offline-run-*-{ids[0]}')]) == 2


def test_a_missing_package_is_told_with_what_to_install(monkeypatch):
  def missing(name):
    raise ImportError(name)
  monkeypatch.setattr(charts.importlib, 'import_module', missing)
  with pytest.raises(ValueError, match='needs .* pip install tensorboardX'):
    charts.check(['tensorboard'])
  with pytest.raises(ValueError, match='did you mean \'wandb\''):
    charts.check(['wand'])
  charts.check([])


def test_any_chart_of_two_methods_serves(monkeypatch, tmp_path):
  class Mine:
    def __init__(self, run):
      self.drawn = [[*run.rows]]

    def log(self, step, values):
      self.drawn.append((step, values))

    def close(self):
      self.drawn.append('closed')

  made = []
  monkeypatch.setitem(
      charts.CHARTS, 'mine', lambda run: made.append(Mine(run)) or made[-1])
  config = commands.config('digits/sr_ste_2_4', steps=2, log_every=1,
                           save_every=2, batch_size=16)
  result = train.train(config, str(tmp_path), train.Options(['mine']))
  assert made[0].drawn == [
      [], *((row['step'], metrics.numbers(row)) for row in result.rows),
      'closed']
