"""Configs: each takes a step and says its command."""

import ast
import pathlib
import re

import jax
import numpy as np
import pytest

from experiments import sweep
from experiments import train
from experiments._utils import quick
from experiments.configs import permuted
from experiments.configs.mnist import sweep_dynamic
from experiments.configs.python_source import sweep_sr_ste
from experiments.models import batch_norm_resnet
from experiments.pruning import plan as pruning
from experiments.records import checkpoints
from experiments.reporting import document
from experiments.reporting import results
from experiments.reporting import tables
from experiments.sweeping import plan
from experiments.sweeping import workers
from experiments.training import runs
import jaxsparse
from tests._lib import commands
from tests._lib import data_files

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]

_ALL = [path.relative_to(commands.CONFIGS).with_suffix('').as_posix()
        for path in sorted(commands.CONFIGS.glob('*/*.py'))
        if path.stem != '__init__']
_CONFIGS = [name for name in _ALL if '/sweep_' not in name
            and '/one_shot' not in name]
_ONE_SHOT = [name for name in _ALL if '/one_shot' in name]
_SWEEPS = [name for name in _ALL if '/sweep_' in name]
_WRITERS = {'cifar10': data_files.cifar10, 'cifar100': data_files.cifar100,
            'imagenet': data_files.imagenet, 'glue/sst2': data_files.glue,
            'mnist': data_files.mnist, 'plays': data_files.plays}
_IN_A_WHEEL = {'mnist', 'plays'}  # Which tests do without.
# Depths; 2 where any will do.
_SHALLOW = {'vgg': 11, 'resnet20': 8, 'resnet50': 26}


def _small(name, path):
  """Returns a config with small sizes; files of its data go into `path`."""
  config = commands.config(name, batch_size=4, width=16, context=16,
                           image_size=16, test_examples=6)
  if config.dataset in _WRITERS:
    _WRITERS[config.dataset](path)
    config.data_dir = str(path)
  if config.depth or config.model in _SHALLOW:
    config.depth = _SHALLOW.get(config.model, 2)
  return config


def _docstring(name):
  """Returns the docstring of a config, and the commands in it on one line."""
  path = commands.CONFIGS / f'{name}.py'
  doc = ast.get_docstring(ast.parse(path.read_text()))
  return doc, ' '.join(doc.replace('\\\n', '').split())


@pytest.mark.parametrize('name', _CONFIGS)
def test_every_config_takes_a_step(name, tmp_path, monkeypatch):
  monkeypatch.setitem(  # One block a stage compiles in half the time.
      batch_norm_resnet._ARCHITECTURES, _SHALLOW['resnet50'],
      (batch_norm_resnet.Bottleneck, (1, 1, 1, 1)))
  config = _small(name, tmp_path)
  run, dataset = runs.create(config)
  if config.method == 'chase':
    # Long to compile, and slimming_test.py does: the step is traced alone.
    state = jax.eval_shape(run.init, None)
    state, loss = jax.eval_shape(
        run.train, state, dataset.train(config.seed, 1, 4))
    assert loss.shape == ()
    return
  state = run.init(None)
  before = checkpoints.digest(state.params)
  for step in (1, 2):  # The learning rate of the first is zero.
    state, loss = run.train(state, dataset.train(config.seed, step, 4))
  assert np.isfinite(loss)
  assert checkpoints.digest(state.params) != before


@pytest.mark.parametrize('name', _CONFIGS + _SWEEPS)
def test_every_config_lies_in_the_folder_of_its_data_set(name):
  config = commands.config(name)
  dataset = config.get('base', config).dataset
  assert name.split('/')[0] == dataset.split('/')[0]


@pytest.mark.parametrize('name', _CONFIGS)
def test_every_config_says_its_command_and_accuracy(name):
  doc, command = _docstring(name)
  assert ('python -m experiments.train '
          f'--config=experiments/configs/{name}.py '
          f'--workdir=runs/{name}') in command
  if commands.config(name).dataset in _WRITERS.keys() - _IN_A_WHEEL:
    assert '--config.data_dir=DIR' in command
    assert 'No accuracy is stated: the data set is not shipped.' in doc
  else:
    assert re.search('mean of [35] seeds|of one seed', doc)


@pytest.mark.parametrize('name', _SWEEPS)
def test_shipped_sweep_says_its_command_and_is_well_formed(name):
  plan.checked(commands.config(name))
  _, command = _docstring(name)
  assert ('python -m experiments.sweep --workers=2 '
          f'--config=experiments/configs/{name}.py '
          f'--workdir=runs/{name}') in command


@pytest.mark.parametrize('name', _SWEEPS)
def test_every_method_of_a_shipped_sweep_can_be_built(name, tmp_path):
  config = commands.config(name)
  config.targets = config.targets[-1:]
  config.seeds = config.seeds[:1]
  config.base.depth = _SHALLOW.get(config.base.model, config.base.depth)
  if config.base.dataset in _IN_A_WHEEL:
    _WRITERS[config.base.dataset](tmp_path)
    config.base.data_dir = str(tmp_path)
  outcomes = workers.each(plan.build, plan.judged(config, tmp_path), workers=1)
  assert {outcome.job.method: outcome.error for outcome in outcomes} == (
      dict.fromkeys(config.methods, ''))


# The rows of a sweep that are trained, shortly, and at which targets. Of other
# sweeps they are the first three and the first target.
_TRIED = {
    'digits/sweep_dynamic': (('dense', 'mest'), ('90%',)),
    'digits/sweep_nm': (('dense', 'sr_ste', 'mdgf_linear'), ('1:8',)),
    'mnist/sweep_nm': (('dense', 'ste', 'step'), ('2:4', '1:16')),
    'mnist/sweep_unstructured': (('dense', 'granet'), ('80%', '98%')),
    'plays/sweep_nm': (('dense', 'mdgf_linear'), ('1:8',)),
    'python_source/sweep_nm': (('dense', 'sdgf_stepwise'), ('1:8',)),
    'python_source/sweep_sr_ste': (('dense', 'sr_ste_2e-3'), ('1:8',)),
}


def _kept_and_all(run):
  """How many weights a target leaves, by the shapes of masks, and of how many.
  """
  made, _ = runs.create(run.config)
  sizes = [mask.size for mask in jax.tree.leaves(jaxsparse.get_masks(
      jax.eval_shape(made.init, None).opt_state))]
  if ':' in run.target:
    n, m = map(int, run.target.split(':'))
    return sum(sizes) * n // m, sum(sizes)
  pruned = int(run.target.removesuffix('%'))
  return round(sum(sizes) * (100 - pruned) / 100), sum(sizes)


@pytest.mark.parametrize('name', _SWEEPS)
def test_short_sweep_prunes_to_its_targets_and_loses_no_run(name, tmp_path):
  config = commands.config(name)
  quick.shrink(config)
  config.methods, config.targets = _TRIED.get(
      name, (config.methods[:3], config.targets))
  config.reference = config.methods[1]
  config.base.update(width=16, batch_size=8, test_examples=16)
  if config.base.model != 'lm':  # The others take a minute to compile.
    config.base.update(model='mlp', depth=2)
  if config.base.dataset in _IN_A_WHEEL:
    _WRITERS[config.base.dataset](tmp_path / 'data')
    config.base.data_dir = str(tmp_path / 'data')
  if config.base.init_from:  # A run that its docstring trains before.
    first = config.base.copy_and_resolve_references()
    first.update(method='dense', init_from=None)
    config.base.init_from = str(tmp_path / 'dense')
    train.train(first, config.base.init_from)
  path = tmp_path / 'sweep'
  swept = sweep.sweep(config, str(path))
  assert not swept.failures and not swept.not_built

  found = results.read([path / 'results.jsonl'])
  planned = plan.judged(plan.checked(config), path)
  assert [(line['method'], line['target']) for line in found.lines] == [
      (run.method, run.target) for run in planned]
  for line, run in zip(found.lines, planned):
    assert line['row']['step'] == 40
    if run.target is None:
      assert line['row']['sparsity'] == 0
      continue
    kept, of = _kept_and_all(run)
    assert round((1 - line['row']['sparsity']) * of) == kept
  table = (path / 'table.md').read_text()
  assert table == document.table_md(found) and tables.NOT_BUILT not in (
      table.split('\n\n')[1])
  for method in config.methods:
    assert f'\n| {method} ' in table


@pytest.mark.parametrize('name', _ONE_SHOT)
def test_one_shot_says_its_command_and_what_trains_before(name):
  config = pruning.checked(commands.config(name))
  _, command = _docstring(name)
  assert ('python -m experiments.prune '
          f'--config=experiments/configs/{name}.py '
          f'--workdir=runs/{name}') in command
  if config.source != 'run':
    assert name.split('/')[0] == config.source
    return
  trained = config.run.removeprefix('runs/')
  assert name.split('/')[0] == trained.split('/')[0]
  assert ('python -m experiments.train '
          f'--config=experiments/configs/{trained}.py '
          f'--workdir={config.run}') in command


@pytest.mark.parametrize('network', permuted.NETWORKS)
def test_networks_that_are_permuted_are_the_dense_ones_of_a_sweep(network):
  config = pruning.checked(permuted.get_config(network))
  if config.source != 'run':
    assert config.source == network
    return
  name = config.run.removeprefix('runs/').split('/runs/')[0]
  swept = commands.config(name)
  swept.seeds = config.seeds
  dense = {str(run.path) for run in plan.judged(
      plan.checked(swept), pathlib.Path('runs') / name)
           if tables.is_dense(run.method)}
  assert dense == {
      config.run.replace(pruning.SEED, str(seed)) for seed in config.seeds}


def test_variants_of_a_sweep_differ_in_what_their_names_say():
  config = sweep_sr_ste.get_config
  steps = [config(variant).base.steps for variant in ('adamw', 'longer')]
  assert steps[1] == 4 * steps[0]
  assert config('wider').base.width == 128
  assert config('sgd').base.optimizer == 'sgd'
  for variant in ('adamw', 'sgd', 'longer', 'wider'):
    made = plan.checked(config(variant))
    assert {method.removeprefix('sr_ste_') for method in made.methods} >= {
        'dense', 'ste', '2e-4', '2e-3', '2e-2', 'mdgf_linear'}
  assert {*config('longer').methods} - {*config('wider').methods} == {
      'mdgf_exponential', 'sdgf_stepwise', 'sdgf_geometric'}
  with pytest.raises(ValueError, match=":longer or :wider, got 'large'"):
    config('large')
  assert sweep_dynamic.get_config('long').base.steps == 450
  with pytest.raises(ValueError, match=":long, got 'longer'"):
    sweep_dynamic.get_config('longer')
