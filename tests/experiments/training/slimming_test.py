"""Channels that die in training: counted, priced, cut out, gone on without."""

import json
import math
import shutil

import jax
import numpy as np
import pytest

from experiments import train
from experiments.configs.digits import chase_90
from experiments.configs.digits import dense_small_resnet
from experiments.records import checkpoints
from experiments.training import runs
from experiments.training import slimming
from experiments.training import steps
import jaxsparse

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]

_MLP = dict(model='mlp', depth=3, width=16, steps=8, batch_size=16,
            log_every=2, save_every=4)
_COSTS = {'dense_flops', 'test_flops', 'gpu_flops', 'slim_error'}


def _kernels(variables, of='layers'):
  return [np.asarray(layer['kernel'][...])
          for _, layer in sorted(variables[of].items())]


@pytest.fixture(scope='module', name='chased')
def _chased(tmp_path_factory):
  """A run that has lost channels: config, directory, result."""
  path = tmp_path_factory.mktemp('runs') / 'chased'
  config = chase_90.get_config()
  config.update(every=2, prune_every=2, **_MLP)
  return config, path, train.train(config, str(path))


@pytest.fixture(scope='module', name='slimmed')
def _slimmed(chased):
  """The last state of that run, without its dead channels."""
  config, _, result = chased
  run, dataset = runs.create(config)
  return slimming.slim(
      slimming.create(config, run, result.state, dataset), result.state)


@pytest.fixture(scope='module', name='locked')
def _locked(chased, tmp_path_factory):
  """A run that went on with what was left: config, directory, result."""
  path = tmp_path_factory.mktemp('runs') / 'locked'
  config = dense_small_resnet.get_config()
  config.update(method='lock', init_from=str(chased[1]), init_slim=True, **_MLP)
  return config, path, train.train(config, str(path))


# What a run tells.


def _alive(kernels, *, makers):
  """Units by layer that weights lead from and, with makers, to; in numpy."""
  keep = [np.ones(kernel.shape[1], bool) for kernel in kernels[:-1]]
  for _ in range(len(keep)):
    for i, now in enumerate(keep):
      after = keep[i + 1] if i + 1 < len(keep) else slice(None)
      now &= kernels[i + 1][:, after].any(1)
      if makers:
        before = keep[i - 1] if i else slice(None)
        now &= kernels[i][before].any(0)
  return {f'layers/{i}': now for i, now in enumerate(keep)}


def test_last_row_counts_the_channels_that_are_made_and_read(chased):
  _, path, result = chased
  kernels = _kernels(runs.load(str(path)))
  head = np.asarray(result.state.params['head']['kernel'][...])
  counted = {layer: [int(keep.sum()), keep.size] for layer, keep
             in _alive([*kernels, head], makers=True).items()}
  assert result.rows[-1]['channels'] == counted
  assert 0 < sum(left for left, _ in counted.values()) < 3 * 16
  first = result.rows[0]['channels']
  assert first.keys() == counted.keys()
  assert all(of == 16 for _, of in first.values())
  assert all(first[layer][0] >= left for layer, (left, _) in counted.items())


def test_rows_tell_the_share_of_weights_ever_kept(chased):
  rows = chased[2].rows
  explored = [row['explored'] for row in rows]
  assert explored == sorted(explored)
  assert 1 - rows[-1]['sparsity'] < explored[0] < explored[-1] < 0.5


def test_last_row_alone_has_the_costs_and_they_are_counted_by_hand(
    chased, slimmed):
  config, _, result = chased
  *others, last = result.rows
  assert not any(_COSTS & row.keys() for row in others)
  assert _COSTS < last.keys()
  head = result.state.params['head']['kernel'].size
  masks = jax.tree.leaves(jaxsparse.get_masks(result.state.opt_state))
  of_weights = {
      'dense_flops': head + sum(mask.size for mask in masks),
      'test_flops': head + sum(int(mask.sum()) for mask in masks),
      'gpu_flops': slimmed.variables['head']['kernel'].size + sum(
          kernel.size for kernel in _kernels(slimmed.variables))}
  for key, weights in of_weights.items():
    assert last[key] == 2 * config.batch_size * weights
  assert last['gpu_flops'] < last['dense_flops']
  assert last['slim_error'] < 1e-6


def test_summary_says_what_is_left_and_a_picture_shows_it(chased):
  _, path, result = chased
  row = result.rows[-1]
  left = sum(left for left, _ in row['channels'].values())
  share = row['gpu_flops'] / row['dense_flops']
  assert (f'. Without dead channels {left} of 48 are left, and {share:.1%} of '
          'the FLOPs of a dense network; outputs differ by '
          f'{row["slim_error"]:.0e} of the largest.\n'
         ) in (path / 'summary.txt').read_text()
  assert (path / 'channels.png').read_bytes().startswith(b'\x89PNG')


def test_run_that_is_not_asked_to_counts_no_channels(locked):
  _, path, result = locked
  for row in result.rows:
    assert not (_COSTS | {'channels'}) & row.keys()
  assert not (path / 'channels.png').exists()
  assert 'dead channels' not in result.summary


# What is cut out.


def test_what_is_left_has_weights_that_lead_to_it_and_from_it(chased, slimmed):
  _, path, result = chased
  head = np.asarray(result.state.params['head']['kernel'][...])
  kernels = [*_kernels(runs.load(str(path))), head]
  keep = _alive(kernels, makers=True)
  assert slimmed.channels == {
      layer: (int(k.sum()), k.size) for layer, k in keep.items()}
  for i, kernel in enumerate(_kernels(slimmed.variables)):
    rows = keep[f'layers/{i - 1}'] if i else slice(None)
    np.testing.assert_array_equal(
        kernel, kernels[i][rows][:, keep[f'layers/{i}']])


def test_smaller_network_has_the_outputs_of_the_sparse_one(chased, slimmed):
  config, path, _ = chased
  run, dataset = runs.create(config)
  inputs = next(iter(dataset.test())).inputs
  whole, small = (run.apply(variables, inputs) for variables in (
      runs.load(str(path)), slimmed.variables))
  np.testing.assert_allclose(whole, small, rtol=1e-5, atol=1e-6)
  assert slimmed.error < 1e-6
  assert (checkpoints.digest(runs.load(str(path), slim=True))
          == checkpoints.digest(slimmed.variables))


def test_network_without_dead_channels_stays_whole():
  config = dense_small_resnet.get_config()
  config.update(**_MLP)
  run, dataset = runs.create(config)
  state = run.init(None)
  given = slimming.create(config, run, state, dataset)
  small = slimming.slim(given, state)
  whole = {f'layers/{i}': (16, 16) for i in range(3)}
  assert small.channels == slimming.channels(given, state) == whole
  assert small.error == 0
  assert (checkpoints.digest(small.variables)
          == checkpoints.digest(steps.variables(state)))
  costs = slimming.costs(given, state)
  assert costs['dense_flops'] == costs['test_flops'] == costs['gpu_flops']


# Killed, and gone on with.


@pytest.mark.parametrize('name', ['chased', 'locked'])
def test_run_killed_at_a_checkpoint_ends_bit_identical(
    name, request, tmp_path):
  config, path, whole = request.getfixturevalue(name)
  killed = shutil.copytree(path, tmp_path / 'killed')
  shutil.rmtree(killed / 'checkpoints' / '8')  # What it was about to save.
  (killed / 'summary.txt').unlink()
  again = train.train(config, str(killed))
  assert checkpoints.digest(again.state) == checkpoints.digest(whole.state)
  for file in ('metrics.jsonl', 'summary.txt'):
    assert (killed / file).read_bytes() == (path / file).read_bytes()


def test_run_goes_on_with_smaller_arrays_and_trains_them(locked, slimmed):
  _, _, result = locked
  shapes = jax.tree.map(np.shape, slimmed.variables)
  assert jax.tree.map(np.shape, result.state.params) == shapes
  sizes = [math.prod(kernel.shape) for kernel in _kernels(slimmed.variables)]
  masks = jaxsparse.get_masks(result.state.opt_state)
  assert [mask.size for mask in _kernels(masks)] == sizes
  assert sum(sizes) < (64 + 16 + 16) * 16
  for before, after in zip(*map(_kernels, (
      slimmed.variables, steps.sparse(result.state).params))):
    np.testing.assert_array_equal(before == 0, after == 0)
    assert (before != after).any()


def _orphan(path, to):
  """A copy of a run, whose first run is not where it was."""
  shutil.copytree(path, to)
  config = json.loads((to / 'config.json').read_text())
  (to / 'config.json').write_text(json.dumps({**config, 'init_from': '/gone'}))
  return str(to)


def test_run_that_went_on_can_be_loaded_itself(locked, tmp_path):
  _, path, result = locked
  saved = checkpoints.digest(steps.variables(steps.sparse(result.state)))
  assert checkpoints.digest(runs.load(str(path))) == saved
  orphan = _orphan(path, tmp_path / 'orphan')
  assert checkpoints.digest(runs.load(orphan)) == saved


def test_network_without_a_checkpoint_cannot_be_gone_on_with(chased, tmp_path):
  config, _, _ = chased
  unsaved = tmp_path / 'unsaved'
  unsaved.mkdir()
  (unsaved / 'config.json').write_text(config.to_json())
  tuned = dense_small_resnet.get_config()
  tuned.update(init_from=str(unsaved), init_slim=True, **_MLP)
  with pytest.raises(ValueError, match='unsaved must hold a checkpoint'):
    train.train(tuned, str(tmp_path / 'tuned'))
  assert not (tmp_path / 'tuned').exists()


# With batch norms and shortcuts.


_RESNET = dict(width=4, batch_size=16, steps=4, log_every=2, save_every=2,
               observe=False)
_STAGES = (4, 8, 16)
# Stride and pixels a side that the convolutions of each block read.
_CONVS = [
    {'conv1': (1, 8), 'conv2': (1, 8)},
    {'conv1': (2, 8), 'conv2': (1, 4), 'shortcut': (2, 8)},
    {'conv1': (2, 4), 'conv2': (1, 2), 'shortcut': (2, 4)}]


@pytest.fixture(scope='module', name='resnet')
def _resnet(tmp_path_factory):
  """A residual network that lost channels: config, directory, result."""
  path = tmp_path_factory.mktemp('runs') / 'resnet'
  config = chase_90.get_config()
  config.update(every=1, prune_every=1, **_RESNET)
  return config, path, train.train(config, str(path))


def _flops(variables, batch):
  """Twice the weights, at each place where they meet a pixel, by hand."""
  total = (64 * 9 * variables['stem']['kernel'].shape[-1]
           + variables['head']['kernel'].size)
  for block, convs in enumerate(_CONVS):
    for name, (stride, pixels) in convs.items():
      taps, _, *widths = variables['blocks'][block][name]['kernel'].shape
      # Of pixels read, pixels written and taps, a side, the smaller two.
      one, two, _ = sorted((pixels, pixels // stride, taps))
      total += (one * two)**2 * math.prod(widths)
  return 2 * batch * total


def test_residual_network_loses_channels_inside_its_blocks_alone(resnet):
  config, path, result = resnet
  last = result.rows[-1]
  whole, small = runs.load(str(path)), runs.load(str(path), slim=True)
  lost = 0
  for before, after, width in zip(
      whole['blocks'].values(), small['blocks'].values(), _STAGES):
    assert before['conv1']['kernel'].shape[-1] == width
    inside = after['conv1']['kernel'].shape[-1]
    assert after['conv2']['kernel'].shape[-2:] == (inside, width)
    assert after['norm1']['mean'].shape == (inside,)
    lost += width - inside
  assert lost > 0
  assert last['dense_flops'] == _flops(whole, config.batch_size)
  assert last['gpu_flops'] == _flops(small, config.batch_size)
  run, dataset = runs.create(config)
  inputs = next(iter(dataset.test())).inputs
  np.testing.assert_allclose(
      *(run.apply(variables, inputs) for variables in (whole, small)),
      rtol=1e-4, atol=1e-5)


def test_smaller_residual_network_goes_on_averages_included(resnet, tmp_path):
  _, path, _ = resnet
  config = dense_small_resnet.get_config()
  config.update(init_from=str(path), init_slim=True, **_RESNET)
  small = runs.load(str(path), slim=True)
  run, _ = runs.create(config)
  begun = steps.variables(run.init(small))
  assert checkpoints.digest(begun) == checkpoints.digest(small)
  result = train.train(config, str(tmp_path / 'run'))
  ended = steps.variables(result.state)
  assert jax.tree.map(np.shape, ended) == jax.tree.map(np.shape, small)
  for tree in (result.state.params, result.state.averages):
    stem = tree['stem_norm']
    assert all((leaf[...] != small['stem_norm'][key][...]).any()
               for key, leaf in stem.items())
  assert np.isfinite([row['loss'] for row in result.rows]).all()
  for path in (tmp_path / 'run', _orphan(tmp_path / 'run', tmp_path / 'alone')):
    assert (checkpoints.digest(runs.load(str(path)))
            == checkpoints.digest(ended))
