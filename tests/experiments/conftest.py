"""Runs and sweeps that several tests look at."""

import pathlib

import pytest

from experiments import sweep
from experiments import train
from experiments.records import metrics
from experiments.reporting import plots
from experiments.reporting import report
from tests._lib import commands
from tests._lib import sweeps

_WITH_PICTURES = ('train_test', 'report_test')


def _draw_nothing(patch):
  for name in ('plot_training', 'plot_mask'):
    patch.setattr(report, name, lambda *args, **options: None)


@pytest.fixture(scope='module', autouse=True)
def _few_pictures(request):
  """Runs draw nothing: it would take longer than short ones train.

  What they draw is looked at in the modules named here.
  """
  with pytest.MonkeyPatch.context() as patch:
    if request.module.__name__.split('.')[-1] not in _WITH_PICTURES:
      _draw_nothing(patch)
    yield


@pytest.fixture(name='undrawn')
def _undrawn(monkeypatch):
  """Nor do runs of this test."""
  _draw_nothing(monkeypatch)


@pytest.fixture(scope='module', name='finished')
def _finished(launched, tmp_path_factory):
  """A short run that has ended: its config, directory and result."""
  del launched
  path = tmp_path_factory.mktemp('runs') / 'finished'
  config = commands.config('digits/sr_ste_2_4', steps=6, log_every=2,
                           save_every=3, batch_size=16)
  return config, path, train.train(config, str(path))


@pytest.fixture(scope='module', name='swept')
def _swept(launched, tmp_path_factory):
  """A sweep that has ended: its config, directory and result."""
  del launched
  path = tmp_path_factory.mktemp('sweeps') / 'swept'
  config = sweeps.small()
  return config, path, sweep.sweep(config, str(path), command='the command')


@pytest.fixture(name='trained')
def _trained(monkeypatch):
  """Replaces training; gives the list of configs that were trained.

  Its accuracy is best at a learning rate of 3e-3, and a seed of 13 fails.
  """
  configs = []

  def fake(config, workdir):
    if config.seed == 13:
      raise ZeroDivisionError('an unlucky\nnumber')
    configs.append(config)
    path = pathlib.Path(workdir)
    (path / 'config.json').write_text(config.to_json())
    (path / 'dataset.json').write_text('{"fingerprint": "abc"}')
    metrics.append(path / 'metrics.jsonl', {
        'step': config.steps, 'loss': 1., 'sparsity': 0.5,
        'accuracy': 0.9 - abs(config.learning_rate - 3e-3) + config.seed / 1e4})
    (path / 'summary.txt').write_text('')
    return train.Result(None, [], '')

  monkeypatch.setattr(train, 'train', fake)
  monkeypatch.setattr(plots, 'write', lambda *args: None)
  return configs
