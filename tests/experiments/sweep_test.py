"""Sweeps: what they train, what they write, and what they do about failures."""

import ast
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from absl import app
from absl import flags
import ml_collections
import pytest

from experiments import sweep
from experiments import train
from experiments._utils import launch
from experiments.configs import default
from experiments.configs.digits import sweep_dynamic
from experiments.configs.digits import sweep_nm as sweep_digits
from experiments.configs.python_source import sweep_nm as sweep_lm
from experiments.records import metrics
from experiments.reporting import plots
from experiments.reporting import tables
from experiments.sweeping import plan
from experiments.sweeping import workers

# The config files are loaded by ml_collections.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning'),
    pytest.mark.usefixtures('launched')]

_ROOT = pathlib.Path(__file__).parent.parent
_PNG = b'\x89PNG'


def _config(**settings):
  """Two methods at two targets with two seeds, six steps each."""
  config = ml_collections.ConfigDict()
  config.base = default.get_config()
  config.base.update(
      steps=6, log_every=2, save_every=2, batch_size=16, width=16)
  config.methods = ('ste', 'sr_ste')
  config.targets = ('2:4', '1:8')
  config.seeds = (0, 1)
  config.only = {'sr_ste': {'decay': 2e-4}}
  config.update(settings)
  return config


_TUNE = {'key': 'learning_rate', 'values': (1e-3, 3e-3, 1e-2),
         'target': '1:8', 'seeds': (1_000, 1_001)}

@pytest.fixture(scope='module', name='swept')
def _swept(tmp_path_factory):
  """A sweep that has ended: its config, directory and result."""
  path = tmp_path_factory.mktemp('sweeps') / 'swept'
  config = _config()
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

  monkeypatch.setattr(train, 'train', fake)
  monkeypatch.setattr(plots, 'write', lambda *args: None)
  return configs


def _contents(path):
  return {str(file): file.read_bytes() for file in sorted(path.rglob('*'))
          if file.is_file()}


# What a sweep leaves.


def test_sweep_writes_every_result(swept):
  config, path, result = swept
  lines = metrics.read(path / 'results.jsonl')
  assert len(lines) == len(result.runs) == 8
  assert not result.failures and not result.not_built
  assert {(line['method'], line['n'], line['m'], line['seed'])
          for line in lines} == {
              (method, n, m, seed) for method in ('ste', 'sr_ste')
              for n, m in ((2, 4), (1, 8)) for seed in (0, 1)}
  for line in lines:
    assert line['config'] == (
        {'decay': 2e-4} if line['method'] == 'sr_ste' else {})
    assert line['row']['step'] == 6
    assert line['row']['sparsity'] == 1 - line['n'] / line['m']
    assert 'step      6' in (path / line['path'] / 'log.txt').read_text()
  assert json.loads((path / 'sweep.json').read_text()) == json.loads(
      config.to_json())
  for picture in (plots.TARGETS, plots.MASKS):
    assert (path / picture).read_bytes().startswith(_PNG)


def test_table_says_what_was_run(swept):
  _, path, _ = swept
  table = (path / 'table.md').read_text()
  assert table.startswith('# Test accuracy (%) by method and target\n')
  for part in ('| sr_ste ', '## Paired differences to sr_ste', '- seeds 0, 1\n',
               'mlp on digits, 6 steps', '- `the command`'):
    assert part in table
  fingerprint = json.loads(
      (path / 'runs/ste/2_4/seed_0/dataset.json').read_text())['fingerprint']
  assert f'- data {fingerprint}\n' in table


def test_finished_sweep_started_again_trains_nothing(swept, trained):
  config, path, result = swept
  before = _contents(path)
  assert sweep.sweep(config, str(path), command='the command') == result
  assert _contents(path) == before
  assert not trained


def test_interrupted_sweep_goes_on_from_the_last_checkpoint(
    swept, monkeypatch, tmp_path):
  _, whole, _ = swept
  config = _config(methods=('sr_ste',), targets=('2:4',))
  append, calls = metrics.append, []

  def interrupted(*args):
    calls.append(args)
    if len(calls) == 6:  # The last row of the second run: step 4 is saved.
      raise KeyboardInterrupt
    append(*args)

  with monkeypatch.context() as patch:
    patch.setattr(metrics, 'append', interrupted)
    with pytest.raises(KeyboardInterrupt):
      sweep.sweep(config, str(tmp_path))
  run = 'runs/sr_ste/2_4/seed_{}'
  assert len(metrics.read(tmp_path / 'results.jsonl')) == 1
  before = _contents(tmp_path / run.format(0))
  sweep.sweep(config, str(tmp_path))
  assert _contents(tmp_path / run.format(0)) == before
  log = (tmp_path / run.format(1) / 'log.txt').read_text().splitlines()
  assert [line.split()[1] for line in log if line.startswith('step')] == [
      '2', '4', '6']
  for seed in (0, 1):
    rows = (tmp_path / run.format(seed) / 'metrics.jsonl').read_text()
    assert rows == (whole / run.format(seed) / 'metrics.jsonl').read_text()


def _command(path, *overrides):
  config = path.parent / 'config.py'
  config.write_text(
      'import ml_collections\n\n\ndef get_config():\n'
      f'  return ml_collections.ConfigDict({_config().to_dict()!r})\n')
  return [f'--config={config}', f'--workdir={path}', *overrides]


def test_killed_sweep_takes_its_workers_along_and_goes_on(swept, tmp_path):
  _, whole, _ = swept
  path = tmp_path / 'sweep'
  command = [sys.executable, '-m', 'experiments.sweep', '--workers=2',
             *_command(path)]
  kwargs = dict(cwd=_ROOT, text=True, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE)
  process = subprocess.Popen(command, **kwargs)
  while not (path / 'results.jsonl').exists():  # One run has ended.
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()  # Returns once the workers have closed their ends.
  done = {file: file.stat().st_mtime_ns for file in path.rglob('summary.txt')}
  assert 1 <= len(done) < 8

  again = subprocess.run(command, check=False, **kwargs)
  assert again.returncode == 0, again.stderr
  assert 'table.md' in again.stdout
  assert all(file.stat().st_mtime_ns == then for file, then in done.items())
  assert ((path / 'results.jsonl').read_text()
          == (whole / 'results.jsonl').read_text())


# What is to be trained.


def test_every_method_meets_every_target_and_seed(tmp_path):
  config = _config(methods=('dense', 'ste'))
  runs = plan.judged(config, tmp_path)
  assert [(run.method, run.target, run.seed) for run in runs] == [
      ('dense', None, 0), ('ste', '2:4', 0), ('ste', '1:8', 0),
      ('dense', None, 1), ('ste', '2:4', 1), ('ste', '1:8', 1)]
  assert len({run.path for run in runs}) == 6
  assert (runs[2].config.method, runs[2].config.n, runs[2].config.m) == (
      'ste', 1, 8)


def test_method_has_its_own_settings_and_no_others(tmp_path):
  ste, _, sr_ste, _, *_ = plan.judged(_config(), tmp_path)
  assert plan.differences(ste.config, _config().base) == {}
  assert plan.differences(sr_ste.config, _config().base) == {'decay': 2e-4}


def test_target_is_the_share_pruned_or_n_of_m(tmp_path):
  config = _config(methods=('set',), targets=('90%', '12.5%', '1:8'),
                   seeds=(0,))
  share, fine, n_m = plan.judged(config, tmp_path)
  assert (share.config.sparsity, fine.config.sparsity) == (0.9, 0.125)
  assert (n_m.config.n, n_m.config.m) == (1, 8)
  assert 'n' not in share.config and 'm' not in share.config
  assert 'sparsity' not in n_m.config
  assert [run.path.relative_to(tmp_path).as_posix()
          for run in (share, fine, n_m)] == [
              f'runs/set/{place}/seed_0' for place in ('90', '12.5', '1_8')]


_VARIANTS = {'set_long': {'method': 'set', 'steps': 9}, 'set': {'every': 2},
             'dense_long': {'method': 'dense', 'steps': 9}}


def test_variants_have_their_method_and_settings_beside_each_other(tmp_path):
  config = _config(methods=('dense_long', 'set', 'set_long'), only=_VARIANTS,
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


def test_variants_are_swept_under_their_names(trained, tmp_path):
  config = _config(methods=('dense_long', 'set', 'set_long'), only=_VARIANTS,
                   targets=('80%', '90%'), reference='set')
  config.base.every = 3
  swept = sweep.sweep(config, str(tmp_path))
  assert not swept.failures and not swept.not_built
  assert len(trained) == 2 * (1 + 2 + 2)
  lines = metrics.read(tmp_path / 'results.jsonl')
  assert {(line['method'], line['target']) for line in lines} == {
      ('dense_long', None), ('set', '80%'), ('set', '90%'),
      ('set_long', '80%'), ('set_long', '90%')}
  table = (tmp_path / 'table.md').read_text()
  assert '| method     | 80% ' in table
  assert '## Paired differences to set\n' in table


@pytest.mark.parametrize('name, dense', [
    ('dense', True), ('dense_long', True), ('set', False),
    ('densely', False), ('set_dense', False)])
def test_dense_is_what_is_named_so_before_anything_else(name, dense):
  assert tables.is_dense(name) == dense


def test_dense_variants_are_never_the_best_method_of_a_column():
  table = tables.means(
      _runs({('dense_long', None): (99, 99), ('set', '90%'): (90, 90)}),
      ('dense_long', 'set'), ('90%',), seeds=2)
  assert table.splitlines()[2:] == [
      '| dense_long | 99.0 ± 0.0     |', '| set        | **90.0 ± 0.0** |']


def test_tuning_uses_the_best_value_and_no_judging_seed(trained, tmp_path):
  swept = sweep.sweep(_config(tune=_TUNE), str(tmp_path))
  tuning = [c for c in trained if c.seed >= 1_000]
  assert len(tuning) == 2 * 3 * 2
  assert {(c.method, c.learning_rate) for c in tuning} == {
      (method, value) for method in ('ste', 'sr_ste')
      for value in _TUNE['values']}
  assert len(swept.runs) == 8
  assert {c.learning_rate for c in trained if c.seed < 1_000} == {3e-3}
  tuned = json.loads((tmp_path / 'tuned.json').read_text())
  assert tuned['chosen'] == {'ste': 3e-3, 'sr_ste': 3e-3}
  table = (tmp_path / 'table.md').read_text()
  assert '| method | learning_rate 0.001 | learning_rate 0.003 |' in table
  assert '**100.0**' in table  # 90% and the tuning seeds' 10%.


def test_diverged_value_is_never_chosen():
  tried = {'ste': [[1e-3, 2.5], [1e-2, 2.1], [1e-1, float('nan')]],
           'sr_ste': [[1e-3, float('inf')], [1e-2, float('nan')]]}
  lower, higher = metrics.METRICS['bits_per_byte'], metrics.METRICS['accuracy']
  assert tables.choose(tried, lower) == {'ste': 1e-2}
  assert tables.choose(tried, higher) == {'ste': 1e-3}


@pytest.mark.parametrize('settings, part', [
    ({'seeds': ()}, 'config.seeds is empty'),
    ({'seeds': (1, 1)}, 'config.seeds names something twice'),
    ({'seeds': ('one',)}, '\'one\', expected a whole number'),
    ({'methods': ('sr_st',)}, 'did you mean \'sr_ste\'?'),
    ({'targets': ('2-4',)}, '\'2-4\', expected N:M'),
    ({'targets': ('4:2',)}, '\'4:2\', expected N:M'),
    ({'targets': ('0:4',)}, '\'0:4\', expected N:M'),
    ({'targets': ('90%', '120%')}, '\'120%\', expected .* such as \'90%\''),
    ({'targets': ('100%',)}, '\'100%\', expected .* the share pruned'),
    ({'targets': ('-5%',)}, '\'-5%\', expected .* the share pruned'),
    ({'targets': ('0.9',)}, '\'0.9\', expected .* the share pruned'),
    ({'targets': ('x',)}, '\'x\', expected N:M'),
    ({'tune': {**_TUNE, 'target': '120%'}}, 'tune.target has \'120%\''),
    ({'methods': ('ste_long',)}, 'unknown method \'ste_long\''),
    ({'only': {'ste_long': {'method': 'stee'}}}, 'did you mean \'ste\'?'),
    ({'only': {'ste_long': {'steps': 9}}}, 'unknown method \'ste_long\''),
    ({'tune': {**_TUNE, 'seeds': (7, 1)}}, r'share \[1\]'),
    ({'tune': {**_TUNE, 'seeds': ()}}, 'config.tune.seeds is empty'),
    ({'tune': {**_TUNE, 'key': 'learning_rat'}}, '\'learning_rat\', expected'),
    ({'tune': {**_TUNE, 'key': 'seed'}}, '\'seed\', expected'),
    ({'tune': _TUNE, 'only': {'ste': {'learning_rate': 1.}}},
     'config.only.ste sets learning_rate'),
])
def test_mistake_in_the_config_is_told_before_anything_trains(
    settings, part, trained, tmp_path):
  with pytest.raises(ValueError, match=part):
    sweep.sweep(_config(**settings), str(tmp_path / 'sweep'))
  assert not list(tmp_path.iterdir()) and not trained


# What cannot be, or fails.


def test_impossible_target_is_left_out_before_anything_trains(
    trained, tmp_path, capsys):
  swept = sweep.sweep(_config(targets=('2:4', '1:7')), str(tmp_path))
  assert set(swept.not_built) == {('ste', '1:7'), ('sr_ste', '1:7')}
  first = capsys.readouterr().out.splitlines()[0]
  assert first.startswith('n/a: ste 1:7: layers/0/kernel')
  assert {c.m for c in trained} == {4}
  table = (tmp_path / 'table.md').read_text().splitlines()
  assert [line.split('|')[3].strip() for line in table
          if line.startswith('| ste')] == ['n/a', 'n/a']
  with pytest.raises(ValueError, match='layers/0/kernel'):
    sweep.sweep(_config(targets=('1:7',)), str(tmp_path / 'other'))


def test_method_that_knows_no_such_target_is_left_out(trained, tmp_path):
  config = _config(methods=('ste', 'set'), targets=('2:4', '90%'), seeds=(0,))
  config.base.every = 2
  swept = sweep.sweep(config, str(tmp_path))
  assert set(swept.not_built) == {('ste', '90%'), ('set', '2:4')}
  assert 'does not set: ' in swept.not_built['set', '2:4']
  assert [(c.method, c.get('sparsity')) for c in trained] == [
      ('ste', None), ('set', 0.9)]


def test_failing_run_is_named_and_the_others_finish(trained, tmp_path):
  config = _config(seeds=(13, 0, 1), methods=('ste',), targets=('2:4',))
  swept = sweep.sweep(config, str(tmp_path))
  path = tmp_path / 'runs/ste/2_4/seed_13'
  assert swept.failures == [f'{path}: ZeroDivisionError: an unlucky number']
  assert 'Traceback' in (path / 'log.txt').read_text()
  assert sorted(run.seed for run in swept.runs) == [0, 1]
  assert '(n=2)' in (tmp_path / 'table.md').read_text()
  with pytest.raises(ValueError, match='every run failed.*unlucky'):
    sweep.sweep(_config(seeds=(13,)), str(tmp_path / 'other'))


def test_worker_that_dies_costs_its_job_alone():
  jobs = ['1 + 1', '1 / 0', '__import__("os")._exit(3)', '2', '3']
  outcomes = list(workers.each(eval, jobs, workers=2))
  assert {outcome.job: outcome.error for outcome in outcomes} == {
      '1 + 1': '', '2': '', '3': '',
      '1 / 0': 'ZeroDivisionError: division by zero',
      '__import__("os")._exit(3)': 'its process died (exit code 3)'}


def test_seeds_can_be_added_and_other_settings_are_refused(trained, tmp_path):
  sweep.sweep(_config(), str(tmp_path))
  assert len(trained) == 8
  sweep.sweep(_config(seeds=(0, 1, 2)), str(tmp_path))
  assert len(trained) == 12
  config = _config()
  config.base.batch_size = 8
  before = _contents(tmp_path)
  with pytest.raises(ValueError, match='batch_size is 16 there and 8 here'):
    sweep.sweep(config, str(tmp_path))
  with pytest.raises(ValueError, match='holds a single run'):
    sweep.sweep(config, str(tmp_path / 'runs/ste/2_4/seed_0'))
  assert _contents(tmp_path) == before


# The command.


def _launch(monkeypatch, *args):
  """Runs the command in this process; returns what it exits with."""
  monkeypatch.chdir(_ROOT)
  monkeypatch.setattr(sys, 'argv', ['sweep', *map(str, args)])
  flags.FLAGS.unparse_flags()
  for name in [name for name in flags.FLAGS if name.startswith('config.')]:
    delattr(flags.FLAGS, name)  # The last launch's overrides.
  with pytest.raises(SystemExit) as exit_:
    app.run(sweep.main, flags_parser=launch.parse)
  return exit_.value.code


def test_command_takes_overrides_and_shows_the_table(
    trained, monkeypatch, tmp_path, capsys):
  path = tmp_path / 'sweep'
  assert not _launch(monkeypatch, *_command(
      path, '--config.seeds=5', '--config.base.steps=3',
      '--config.targets=\'1:4,1:8\'', '--config.methods=ste,sr_ste'))
  assert [(c.method, c.seed, c.steps, c.m) for c in trained] == [
      ('ste', 5, 3, 4), ('ste', 5, 3, 8),
      ('sr_ste', 5, 3, 4), ('sr_ste', 5, 3, 8)]
  shown = capsys.readouterr().out
  assert '4/4' in shown and (path / 'table.md').read_text() in shown
  assert '--config.seeds=5' in shown


def test_command_exits_with_1_if_a_run_failed(trained, monkeypatch, tmp_path):
  message = _launch(monkeypatch, *_command(
      tmp_path / 'sweep', '--config.seeds=0,13', '--config.methods=ste',
      '--config.targets=1:4'))
  assert message.startswith('error: 1 run failed:\n')
  assert 'ste/1_4/seed_13: ZeroDivisionError' in message
  assert len(trained) == 1


@pytest.mark.parametrize('override, part', [
    ('--config.bas.steps=3', 'bas'),
    ('--config.targets=24', '\'24\', expected N:M'),
    ('--workers=0', 'workers'),
    ('surplus', 'surplus'),
])
def test_wrong_command_costs_one_line(override, part, monkeypatch, tmp_path):
  path = tmp_path / 'sweep'
  message = _launch(monkeypatch, *_command(path), override)
  assert message.startswith('error: ') and '\n' not in message
  assert part in message
  assert not path.exists()


@pytest.mark.parametrize('module', [sweep_digits, sweep_lm, sweep_dynamic])
def test_shipped_sweep_says_its_command_and_is_well_formed(module):
  plan.checked(module.get_config())
  name = module.__name__.split('.')[-1]
  doc = ast.get_docstring(ast.parse(pathlib.Path(module.__file__).read_text()))
  command = ' '.join(doc.replace('\\\n', '').split())
  assert (f'python -m experiments.sweep --workers=2 '
          f'--config=experiments/configs/{name}.py '
          f'--workdir=runs/{name}') in command


@pytest.mark.parametrize('module', [sweep_digits, sweep_lm, sweep_dynamic])
def test_every_method_of_a_shipped_sweep_can_be_built(module, tmp_path):
  config = module.get_config()
  config.targets = config.targets[-1:]
  config.seeds = config.seeds[:1]
  outcomes = workers.each(plan.build, plan.judged(config, tmp_path), workers=1)
  assert {outcome.job.method: outcome.error for outcome in outcomes} == (
      dict.fromkeys(config.methods, ''))


# Tables and pictures, against numbers worked out by hand.


def _runs(accuracies):
  """Runs from {(method, target): accuracies in percent, one a seed}."""
  return [
      tables.Run(method, target, seed, [
          {'step': 3, 'sparsity': 0.5, 'accuracy': value / 100}])
      for (method, target), values in accuracies.items()
      for seed, value in enumerate(values) if value is not None]


_MEASURED = {
    ('dense', None): (98, 98, 98),
    ('ste', '2:4'): (90, 91, 92), ('sr_ste', '2:4'): (92, 94, 96),
    ('mdgf', '2:4'): (95, 96, None), ('ste', '1:8'): (80, 80, 80),
    ('sr_ste', '1:8'): (82, 82, 82)}


def test_interval_of_the_mean_is_students():
  # Mean 91, standard deviation 1, t(0.975, 2) = 4.3027 / sqrt(3) = 2.4841.
  mean, half, seeds = tables.estimate([90., 91., 92.])
  assert (mean, seeds) == (91., 3)
  assert half == pytest.approx(2.4841, abs=1e-4)
  assert str(tables.estimate([5.]).half) == 'nan'


def test_means_mark_the_best_and_what_overlaps_it():
  table = tables.means(_runs(_MEASURED), ('dense', 'ste', 'sr_ste', 'mdgf'),
                       ('2:4', '1:8'), seeds=3)
  # The half of mdgf: t(0.975, 1) = 12.706 * sqrt(1/2) / sqrt(2) = 6.353.
  assert table.splitlines() == [
      '| method | 2:4                  | 1:8            |',
      '|--------|----------------------|----------------|',
      '| dense  | 98.0 ± 0.0           | 98.0 ± 0.0     |',
      '| ste    | 91.0 ± 2.5 †         | 80.0 ± 0.0     |',
      '| sr_ste | 94.0 ± 5.0 †         | **82.0 ± 0.0** |',
      '| mdgf   | **95.5 ± 6.4** (n=2) | n/a            |']


def test_differences_are_paired_by_seed():
  table = tables.differences(_runs(_MEASURED), ('ste', 'sr_ste', 'mdgf'),
                             ('2:4', '1:8'), reference='sr_ste')
  # ste: -2, -3, -4, which is -3 +- 2.484; unpaired it would be 4.1.
  # mdgf: 3, 2 on the seeds both have, which is 2.5 +- 6.353.
  assert table.splitlines() == [
      '| method - sr_ste | 2:4            | 1:8            |',
      '|-----------------|----------------|----------------|',
      '| ste             | **-3.0 ± 2.5** | **-2.0 ± 0.0** |',
      '| mdgf            | +2.5 ± 6.4     | n/a            |']


def test_best_is_the_lowest_where_lower_is_better():
  runs = [tables.Run(method, '1:8', 0, [{'step': 1, 'bits_per_byte': value}])
          for method, value in (('ste', 2.5), ('sr_ste', 2.25))]
  table = tables.means(runs, ('ste', 'sr_ste'), ('1:8',), seeds=1)
  assert table.splitlines()[2:] == [
      '| ste    | 2.500     |', '| sr_ste | **2.250** |']


def test_data_that_changed_between_runs_is_told():
  table = tables.document(_runs(_MEASURED), _config(), tuned=None,
                          not_built={}, data=['abc', 'def'], command='')
  assert '- data abc, def (**the data changed' in table


def test_pictures_are_drawn_for_what_was_measured(tmp_path):
  config = _config(methods=('dense', 'ste', 'sr_ste', 'mdgf'))
  runs = _runs(_MEASURED)
  plots.write(tmp_path, runs, config)
  assert sorted(os.listdir(tmp_path)) == [plots.TARGETS, plots.MASKS]
  for run in runs:
    run.rows[0].update(
        train_flops=1e9, flips=0.1, noise_kept=1e-3, noise_pruned=None)
  plots.write(tmp_path, runs, config)
  assert sorted(os.listdir(tmp_path)) == sorted(
      [plots.TARGETS, plots.FLOPS, plots.NOISE, plots.MASKS])
  for file in tmp_path.iterdir():
    assert file.read_bytes().startswith(_PNG)
