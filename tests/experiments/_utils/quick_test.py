"""--quick: what it leaves of a config."""

import ml_collections
import pytest

from experiments import domains
from experiments import prune
from experiments import sweep
from experiments import train
from experiments._utils import quick
from experiments.configs import permuted
from experiments.configs import sweep_ratios
from experiments.records import metrics
from tests._lib import commands
from tests._lib import sweeps


def test_a_training_shrinks_with_all_that_counts_its_steps():
  config = commands.config('digits/rigl_90')
  before = config.to_dict()
  quick.shrink(config)
  assert config.steps == 40 and config.log_every == config.save_every == 20
  assert config.every == max(2, round(before['every'] * 40 / before['steps']))
  changed = {key for key, value in config.to_dict().items()
             if value != before[key]}
  assert changed <= {'steps', 'every', 'begin', 'end', 'log_every',
                     'save_every'}
  again = config.to_dict()
  quick.shrink(config)
  assert config.to_dict() == again


def test_a_short_training_stays():
  config = commands.config('digits/rigl_90', steps=12, every=3)
  quick.shrink(config)
  assert (config.steps, config.every, config.log_every) == (12, 3, 6)


def test_a_sweep_keeps_its_rows_and_no_more():
  config = sweeps.small(only={'set_long': {'method': 'set', 'steps': 90}})
  config.base.steps = 60
  config.tune = {'key': 'learning_rate', 'values': (1e-3,), 'target': '1:8',
                 'seeds': (1_000,)}
  config.plot_target = '1:8'
  quick.shrink(config)
  assert config.methods == ('ste', 'sr_ste') and 'tune' not in config
  assert (config.seeds, config.targets) == ((0,), ('2:4',))
  assert config.plot_target == '2:4'
  # A row that trains for longer still does.
  assert (config.base.steps, config.only.set_long.steps) == (40, 60)


@pytest.mark.parametrize('given, left', [(('1:8,2:4',), ('1:8',)), ((), ())])
def test_targets_may_come_from_a_flag_or_be_none(given, left):
  config = sweeps.small(targets=given)
  config.plot_target = '2:4'
  quick.shrink(config)
  assert config.targets == left and config.plot_target == (*left, '2:4')[0]


def test_recipes_and_networks_to_prune_shrink():
  config = sweep_ratios.get_config('texts')
  quick.shrink(config)
  assert {row.recipe.frequency for row in config.only.values()} == {2}
  config = permuted.get_config('mlp')
  quick.shrink(config)
  assert (config.calibration, config.judged, config.seeds) == (32, 128, (0,))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
@pytest.mark.usefixtures('launched')
def test_every_command_has_it(tmp_path, monkeypatch, capsys):
  run, swept, pruned, compared = (
      tmp_path / name for name in ('run', 'swept', 'pruned', 'domains'))
  assert not commands.launch(train.main, monkeypatch, *commands.arguments(
      'digits/dense', run, '--quick'))
  assert metrics.read(run / 'metrics.jsonl')[-1]['step'] == 40
  assert not commands.launch(prune.main, monkeypatch, *commands.arguments(
      'digits/one_shot_resnet', pruned, f'--config.run={run}', '--quick',
      '--config.methods=magnitude,wanda'))
  assert {row['seed'] for row in metrics.read(pruned / 'cells.jsonl')} == {0}
  assert not commands.launch(sweep.main, monkeypatch, *commands.arguments(
      'digits/sweep_nm', swept, '--quick', '--config.methods=ste,sr_ste',
      '--config.base.model=mlp', '--config.base.width=16'))
  header, *lines = metrics.read(swept / 'results.jsonl')
  assert [line['row']['step'] for line in lines] == [40, 40]
  assert '--quick' in header['commands'][0]

  def small(domain):
    config = sweeps.small(targets=(), methods=('dense',), only={})
    config.base.update(steps=400)
    assert domain == 'images'
    return config
  monkeypatch.setattr(domains.sweep_ratios, 'get_config', small)
  assert not commands.launch(
      domains.main, monkeypatch, '--quick', '--ratios', '--domains=images',
      f'--workdir={compared}')
  assert '| dense' in (compared / 'table.md').read_text()
  lines = metrics.read(compared / 'images' / 'results.jsonl')[1:]
  assert [line['row']['step'] for line in lines] == [40]


def test_other_configs_are_left_alone():
  config = ml_collections.ConfigDict({'name': 'x'})
  quick.shrink(config)
  assert config.to_dict() == {'name': 'x'}
