"""Runs: their recipe lies beside their checkpoints, and what they began from.
"""

import shutil

import pytest

from experiments import train
from experiments.configs import default
from experiments.records import checkpoints
from experiments.training import methods
from experiments.training import runs
from tests._lib import commands

pytestmark = pytest.mark.usefixtures('launched')


def test_a_recipe_that_has_changed_is_told(tmp_path):
  file, path = tmp_path / 'mine.yaml', tmp_path / 'run'
  path.mkdir()
  config = commands.config('digits/recipe_4x1_80', recipe=str(file))
  for _ in range(2):  # Started, and started again.
    file.write_text('{sparsity: 0.5, names: layers/.*kernel}')
    runs.keep_recipe(path, methods.recipe(config))
  file.write_text('{sparsity: 0.6, names: layers/.*kernel}')
  with pytest.raises(ValueError, match='sparsity is 0.5 there and 0.6 here'):
    runs.keep_recipe(path, methods.recipe(config))


@pytest.mark.slow
def test_a_run_is_read_and_goes_on_when_the_run_that_it_began_from_is_gone(
    finished, monkeypatch, tmp_path):
  first = shutil.copytree(finished[1], tmp_path / 'first')
  config = default.get_config()
  config.update(method='lock', steps=4, log_every=2, save_every=2,
                batch_size=16, init_from=str(first))
  whole = checkpoints.digest(
      train.train(config, str(tmp_path / 'whole')).state)
  commands.train_until_killed(monkeypatch, config, tmp_path / 'killed', at=4)
  shutil.rmtree(first)
  assert checkpoints.digest(
      runs.restore(str(tmp_path / 'whole')).state) == whole
  again = train.train(config, str(tmp_path / 'killed'))
  assert checkpoints.digest(again.state) == whole
