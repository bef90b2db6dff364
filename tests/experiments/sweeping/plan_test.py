"""Plans: which runs a sweep consists of."""

from experiments.sweeping import plan
from tests._lib import sweeps


def test_every_method_meets_every_target_and_seed(tmp_path):
  config = sweeps.small(methods=('dense', 'ste'))
  runs = plan.judged(config, tmp_path)
  assert [(run.method, run.target, run.seed) for run in runs] == [
      ('dense', None, 0), ('ste', '2:4', 0), ('ste', '1:8', 0),
      ('dense', None, 1), ('ste', '2:4', 1), ('ste', '1:8', 1)]
  assert len({run.path for run in runs}) == 6
  assert (runs[2].config.method, runs[2].config.n, runs[2].config.m) == (
      'ste', 1, 8)


def test_method_has_its_own_settings_and_no_others(tmp_path):
  ste, _, sr_ste, _, *_ = plan.judged(sweeps.small(), tmp_path)
  assert plan.differences(ste.config, sweeps.small().base) == {}
  assert plan.differences(sr_ste.config, sweeps.small().base) == {'decay': 2e-4}


def test_target_is_the_share_pruned_or_n_of_m(tmp_path):
  config = sweeps.small(
      methods=('set',), targets=('90%', '12.5%', '1:8'), seeds=(0,))
  share, fine, n_m = plan.judged(config, tmp_path)
  assert (share.config.sparsity, fine.config.sparsity) == (0.9, 0.125)
  assert (n_m.config.n, n_m.config.m) == (1, 8)
  assert 'n' not in share.config and 'm' not in share.config
  assert 'sparsity' not in n_m.config
  assert [run.path.relative_to(tmp_path).as_posix()
          for run in (share, fine, n_m)] == [
              f'runs/set/{place}/seed_0' for place in ('90', '12.5', '1_8')]


def test_variants_have_their_method_and_settings_beside_each_other(tmp_path):
  config = sweeps.small(
      methods=('dense_long', 'set', 'set_long'), only=sweeps.VARIANTS,
      targets=('80%', '90%'), seeds=(0,))
  runs = plan.judged(config, tmp_path)
  assert [(run.method, run.target, run.config.method, run.config.steps)
          for run in runs] == [
              ('dense_long', None, 'dense', 9), ('set', '80%', 'set', 6),
              ('set', '90%', 'set', 6), ('set_long', '80%', 'set', 9),
              ('set_long', '90%', 'set', 9)]
  assert [plan.differences(run.config, config.base) for run in runs[::2]] == [
      {'steps': 9}, {'every': 2}, {'steps': 9}]
  assert len({run.path for run in runs}) == 5
  assert {name: plan.method_of(config, name) for name in (
      'set_long', 'dense_long', 'set', 'rigl')} == {
          'set_long': 'set', 'dense_long': 'dense', 'set': 'set',
          'rigl': 'rigl'}
