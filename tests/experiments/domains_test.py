"""The tables of domains: what their sweeps are made of, and their numbers."""

import json

import pytest

from experiments import domains
from experiments import sweep
from experiments.configs import sweep_domains
from experiments.configs import sweep_ratios
from experiments.records import metrics
from experiments.reporting import document
from experiments.reporting import results
from experiments.reporting import tables
from experiments.sweeping import plan
import jaxsparse
from tests._lib import commands
from tests._lib import data_files

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


def _config(domain, *rows, **overrides):
  """A sweep of one seed with few steps of few examples."""
  config = sweep_domains.get_config(domain)
  config.methods = rows
  config.seeds = (0,)
  config.base.update(steps=40, batch_size=8, log_every=20, save_every=40,
                     test_examples=64, **overrides)
  return plan.checked(config)


@pytest.mark.parametrize('domain', sweep_domains.DOMAINS)
def test_the_largest_blocks_tile_in_every_domain(domain, tmp_path):
  """1x16 asks most of a layer; the others divide it."""
  planned, = plan.judged(_config(domain, 'block_1x16'), tmp_path)
  plan.build(planned)


def test_every_row_takes_its_targets_from_its_own_settings(tmp_path):
  config = plan.checked(sweep_domains.get_config('cv'))
  assert config.targets == (tables.ALL,)
  planned = plan.judged(config, tmp_path)
  assert len(planned) == len(config.methods) * len(config.seeds)
  assert {run.target for run in planned} == {None}
  sparse = {run.config.recipe.sparsity for run in planned
            if run.method.startswith('unstructured')}
  assert sparse == {0.8, 0.9}


@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
@pytest.mark.parametrize('flag', [
    '--config=experiments/configs/sweep_domains.py:cv', '--dry_run'])
def test_flags_that_no_domain_reads_are_refused(flag, monkeypatch, tmp_path):
  message = commands.launch(domains.main, monkeypatch,
                            f'--workdir={tmp_path / "domains"}', flag)
  commands.assert_one_line(
      message, f'{flag.partition("=")[0]} is not read by this command',
      'each domain has a config of its own')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('domain', sweep_ratios.DOMAINS)
@pytest.mark.parametrize('row', ['block_1x16_98', '1_of_16', 'channel_70'])
def test_every_pattern_tiles_in_every_domain_of_ratios(row, domain, tmp_path):
  config = sweep_ratios.get_config(domain)
  if config.base.dataset in data_files.WRITERS:
    data_files.WRITERS[config.base.dataset](tmp_path)
    config.base.data_dir = str(tmp_path)
  config.base.update(batch_size=8, test_examples=64)
  config.methods, config.seeds = (row,), (0,)
  planned, = plan.judged(plan.checked(config), tmp_path)
  plan.build(planned)


@pytest.mark.parametrize('domain', sweep_ratios.DOMAINS)
def test_every_pattern_is_pruned_ever_further_in_a_sweep_of_ratios(
    domain, tmp_path):
  config = plan.checked(sweep_ratios.get_config(domain))
  assert config.targets == (tables.ALL,)
  recipes = {run.method: jaxsparse.from_recipe(
      run.config.recipe.to_dict(), total_steps=run.config.steps).recipe
             for run in plan.judged(config, tmp_path) if run.method != 'dense'}
  assert [*recipes] == [row for rows in sweep_ratios.PATTERNS.values()
                        for row in rows] == [*config.methods][1:]
  for rows in sweep_ratios.PATTERNS.values():
    sparsities = [recipes[row]['sparsity'] for row in rows]
    assert sparsities == sorted({*sparsities}) and len(sparsities) > 2
    for row, sparsity in zip(rows, sparsities):
      # The label says the ratio.
      numbers = [int(n) for n in row.split('_') if n.isdigit()]
      share = 1 - numbers[0] / numbers[1] if '_of_' in row else (
          numbers[-1] / 100)
      assert sparsity == pytest.approx(share)


@pytest.fixture(scope='module', name='swept')
def _swept(tmp_path_factory):
  """Sensitivity, group Lasso and a recipe, in a few steps of the recommender.
  """
  path = tmp_path_factory.mktemp('domains')
  config = _config('recommendation', 'dense', 'block_4x1', 'sensitivity',
                   'group_lasso', width=4)
  with config.unlocked():
    config.only.group_lasso.alpha = 1e4  # So that something vanishes.
  return path, sweep.sweep(config, str(path))


def test_units_that_the_loss_does_not_miss_are_cut_out(swept):
  path, result = swept
  assert not result.failures and not result.not_built
  rows = {run.method: run.rows[-1] for run in result.runs}
  assert rows['dense']['sparsity'] == 0.
  assert rows['block_4x1']['sparsity'] == pytest.approx(0.8, abs=0.02)
  for name in ('sensitivity', 'group_lasso'):
    assert 0. < rows[name]['gpu_flops'] < rows[name]['dense_flops']
    assert rows[name]['slim_error'] < 1e-5
  left, of = map(sum, zip(*rows['sensitivity']['channels'].values()))
  assert left == (of - 4) // 2 + 4  # All four of the embedding stay.


def test_the_recipe_lies_beside_the_checkpoints(swept):
  path, _ = swept
  run = path / 'runs' / 'block_4x1' / 'all' / 'seed_0'
  made = jaxsparse.from_recipe(run / 'recipe.yaml', total_steps=40)
  assert made.recipe['pattern'] == '4x1'
  assert made.recipe['names'] == [r'(bottom|top)/\d+/kernel']
  assert not made.messages
  config = json.loads((run / 'config.json').read_text())
  assert config['recipe']['max_sparsity'] == made.recipe['max_sparsity']


def test_sweep_draws_and_tells_its_rows(swept):
  path, _ = swept
  assert (path / 'by_row.png').read_bytes()[:4] == b'\x89PNG'
  table = (path / 'table.md').read_text()
  assert '| sensitivity ' in table
  assert table == document.table_md(results.read([path / 'results.jsonl']))


def _runs(metric, scores, **last):
  return [tables.Run(method, None, seed, [
      {'step': 1, 'sparsity': 0. if method == 'dense' else 0.8,
       metric: value, **last}])
          for method, values in scores.items()
          for seed, value in enumerate(values)]


def test_table_has_a_column_a_domain():
  text = domains.table({
      'cv': _runs('accuracy', {'dense': [.98, .99], 'block_4x1': [.93, .94]}),
      'lm': _runs('bits_per_byte', {'dense': [2., 2.]})})
  lines = [[cell.strip() for cell in line.split('|')[1:-1]]
           for line in text.splitlines()]
  assert lines[0] == ['', 'cv: Test accuracy (%)',
                      'lm: Validation loss (bits/byte)']
  assert lines[2] == ['dense', '98.5 ± 6.4', '2.000 ± 0.000']
  # Both seeds lose five points, so that the difference has no spread.
  assert lines[3] == ['block 4x1', '**93.5 ± 6.4** (80% pruned)', 'n/a']


def test_table_tells_flops_of_what_is_smaller():
  text = domains.table({'cv': _runs(
      'accuracy', {'dense': [.9], 'sensitivity': [.8]}, dense_flops=4.,
      gpu_flops=1., test_flops=1.)})
  assert '| 80.0 (25% of FLOPs) ' in text


def test_document_of_ratios_begins_with_the_ratio_of_each_pattern():
  found = {'cv': _runs('accuracy', {'dense': [.9, .9], 'w_80': [.5, .5]})}
  ratio, note, scores, _ = domains.document(
      found, {'weights': ('w_80',)}).split('\n\n')
  assert ratio.splitlines()[-1].split('|')[1:3] == [
      ' weights ', ' < 80.0% (< 80.0 to < 80.0) ']
  assert note.startswith('The share of the prunable weights')
  assert scores == domains.table(found)
  assert domains.document(found, {}).split('\n\n')[0] == scores


def test_auc_is_a_metric():
  assert metrics.METRICS['auc'].higher_is_better
