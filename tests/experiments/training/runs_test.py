"""Runs: their recipe lies beside their checkpoints."""

import pytest

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
