"""Plans: which cells there are, and mistakes in what is asked for."""

import pytest

from experiments.configs import one_shot
from experiments.pruning import plan
import jaxsparse


def _config(**settings):
  config = one_shot.get_config()
  config.update(methods=('magnitude', 'admm'), targets=('50%', '2:4'),
                seeds=(0, 1), **settings)
  return config


def test_every_method_meets_every_target_and_dense_stands_once_a_seed():
  cells = plan.cells(_config(refit='yes'))
  assert [(cell.row, cell.target, cell.seed) for cell in cells] == [
      (row, target, seed) for seed in (0, 1) for row, target in (
          ('dense', None), ('magnitude_refit', '50%'), ('admm_refit', '50%'),
          ('magnitude_refit', '2:4'), ('admm_refit', '2:4'))]
  assert len({cell.folder for cell in cells}) == 10
  assert cells[3].folder.as_posix() == 'cells/magnitude_refit/2_4/seed_0'


def test_refit_decides_about_the_rows():
  rows = {refit: plan.rows(_config(refit=refit))
          for refit in ('no', 'yes', 'both')}
  assert rows == {
      'no': ['dense', 'magnitude', 'admm'],
      'yes': ['dense', 'magnitude_refit', 'admm_refit'],
      'both': ['dense', 'magnitude', 'magnitude_refit', 'admm', 'admm_refit']}


def test_reconstruction_comes_after_a_method():
  config = _config(refit='no')
  config.methods = ('wanda', 'wanda_reconstructed')
  _, plain, more, *_ = plan.cells(plan.checked(config))
  assert (plain.base, plain.is_reconstructed) == ('wanda', False)
  assert (more.base, more.is_reconstructed) == ('wanda', True)
  assert plain.folder != more.folder and more.row == 'wanda_reconstructed'


def test_a_permutation_comes_before_a_method():
  config = _config(refit='no')
  config.methods = ('sparsegpt', 'sparsegpt_permuted')
  _, plain, more, *_ = plan.cells(plan.checked(config))
  assert (plain.base, plain.is_permuted) == ('sparsegpt', False)
  assert (more.base, more.is_permuted) == ('sparsegpt', True)
  assert not more.is_reconstructed and more.row == 'sparsegpt_permuted'


def test_a_row_tells_its_cell():
  for cell in plan.cells(_config()):
    assert plan.cell({**cell._asdict(), 'accuracy': 0.5}) == cell


def test_targets_are_patterns():
  assert plan.pattern('12.5%') == jaxsparse.unstructured(0.125)
  assert plan.pattern('2:4') == jaxsparse.nm(2, 4)


@pytest.mark.parametrize('settings, part', [
    ({'methods': ('wand',)}, 'did you mean \'wanda\'?'),
    ({'methods': ('dense',)}, 'unknown method \'dense\''),
    ({'methods': ()}, '--config.methods=wanda,sparsegpt'),
    ({'targets': ('0.5',)}, 'got \'0.5\''),
    ({'refit': 'bot'}, 'did you mean \'both\'?'),
    ({'seeds': (0, 0)}, 'must have each entry once'),
    ({'calibration': 0}, 'config.calibration must be at least 1, got 0'),
])
def test_mistakes_are_told(settings, part):
  config = one_shot.get_config()
  config.update(settings)
  with pytest.raises(ValueError, match=part):
    plan.checked(config)
