"""Meshes: what is divided, among which devices, and that results stay."""

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from experiments import data
from experiments.data import dataset as datasets
from experiments.records import checkpoints
from experiments.training import meshes
from experiments.training import runs
from experiments.training import steps
from tests._lib import commands

pytestmark = pytest.mark.usefixtures('launched')


def _config(mesh, **settings):
  return commands.config('digits/sr_ste_2_4', mesh=mesh, **settings)


def _specs(mesh, *shapes):
  arrays = [np.zeros(shape) for shape in shapes]
  made = meshes.shardings(arrays, meshes.create(_config(mesh)))
  return [tuple(sharding.spec) for sharding in made]


# What lies where.


def test_no_mesh_is_one_device():
  assert meshes.create(_config('')) is None
  dataset = data.load(_config(''))
  assert meshes.divide(dataset, None) is dataset
  state = {'w': np.ones(2)}
  assert meshes.on_one_device(state, None) is state


def test_axes_stand_in_the_order_of_the_text():
  mesh = meshes.create(_config('model:2, data:4'))
  assert dict(mesh.shape) == {'model': 2, 'data': 4}
  assert mesh.axis_names == ('model', 'data')


@pytest.mark.parametrize('mesh, shape, expected', [
    ('data:2,model:4', (64, 32), (None, 'model')),
    ('data:2,model:4', (3, 3, 8, 10), (None, None, 'model', None)),
    ('data:2,model:4', (7, 10), (None, None)),
    ('data:2,model:4', (32,), (None,)),  # A bias.
    ('data:2,model:4', (), ()),
    ('data:8', (64, 32), (None, None)),
    ('fsdp:8', (64, 32), (None, 'fsdp')),
    ('model:4,fsdp:2', (64, 32), ('fsdp', 'model')),
    ('model:4,fsdp:2', (64, 10), ('model', 'fsdp')),
    ('model:4,fsdp:2', (5, 64), (None, 'model')),
])
def test_weights_are_divided_by_their_last_axes(mesh, shape, expected):
  assert _specs(mesh, shape) == [expected]


def test_the_axis_of_nm_groups_is_divided_last():
  mesh = meshes.create(_config('data:2,model:4'))
  run, _ = runs.create(_config('data:2,model:4'), mesh)
  state = run.init(None)
  kernel = state.params['layers'][0]['kernel']
  mask = state.opt_state.inner.rule.masks['layers'][0]['kernel']
  for x in (kernel, mask, state.opt_state.second['layers'][0]['kernel']):
    assert x[...].sharding.spec == P(None, 'model')
  assert state.opt_state.count.sharding.is_fully_replicated


@pytest.mark.parametrize('mesh, parts', [
    ('data:2,model:4', 2), ('data:4,fsdp:2', 8), ('model:8', 1)])
def test_batches_are_divided_by_examples_and_are_the_same(mesh, parts):
  config = _config(mesh)
  dataset = data.load(config)
  divided = meshes.divide(dataset, meshes.create(config))
  expected, batch = (d.train(3, 5, 16) for d in (dataset, divided))
  for x, whole in zip(batch, expected):
    assert {shard.data.shape[0] for shard in x.addressable_shards} == {
        16 // parts}
    np.testing.assert_array_equal(x, whole)


def test_test_batches_are_filled_up_with_padding():
  config = commands.config('python_source/dense', context=8, test_examples=5,
                           mesh='data:2,model:4')
  dataset = data.load(config)
  divided = meshes.divide(dataset, meshes.create(config))
  (whole,), (batch,) = dataset.test(), divided.test()
  assert (len(whole.labels), len(batch.labels)) == (5, 6)
  np.testing.assert_array_equal(batch.inputs[:5], whole.inputs)
  np.testing.assert_array_equal(batch.labels[:5], whole.labels)
  assert (np.asarray(batch.labels)[5:] == datasets.PADDING).all()


def test_a_process_makes_what_its_devices_need(monkeypatch):
  """As the second of two processes, which has half of the devices."""
  config = _config('data:4,model:2')
  dataset, made = data.load(config), []

  def train(seed, step, size, part=datasets.WHOLE):
    made.append(part)
    return dataset.train(seed, step, size, part)
  monkeypatch.setattr(meshes, '_here', lambda *_: slice(8, 16))
  monkeypatch.setattr(meshes, '_assemble', lambda batch, *_: batch)
  batch = meshes.divide(
      dataset._replace(train=train), meshes.create(config)).train(0, 1, 16)
  assert made == [slice(8, 16)]
  for x, whole in zip(batch, dataset.train(0, 1, 16)):
    np.testing.assert_array_equal(x, whole[8:])


def test_there_and_back():
  mesh = meshes.create(_config('data:2,model:4'))
  tree = {'w': np.arange(64.).reshape(8, 8), 'b': np.arange(8), 'no': None}
  placed = meshes.put(tree, meshes.shardings(tree, mesh))
  assert len(placed['w'].sharding.device_set) == 8
  back = meshes.on_one_device(placed, mesh)
  for name in ('w', 'b'):
    assert len(back[name].sharding.device_set) == 1
    np.testing.assert_array_equal(back[name], tree[name])


# Results. Sums over devices round otherwise, and nothing else may differ.

_MODELS = {
    'mlp': ('digits/sr_ste_2_4', {}),
    'vit': ('digits/sr_ste_2_4', dict(model='vit', width=16, depth=1)),
    'resnet': ('digits/sr_ste_2_4', dict(model='resnet', width=8)),
    'resnet20': ('digits/sr_ste_2_4', dict(model='resnet20', width=4, depth=8)),
    'vgg': ('digits/sr_ste_2_4', dict(model='vgg', width=4, depth=11)),
    'lm': ('python_source/dense', dict(
        width=16, depth=1, context=16, test_examples=6)),
    'text': ('packages/dense', dict(
        width=16, depth=1, context=16, test_examples=16)),
    'dlrm': ('synthetic_clicks/dense', dict(width=8, test_examples=16)),
}


def _three_steps(name, mesh):
  """The variables after three steps of SGD, which scales no small gradient."""
  config, settings = _MODELS[name]
  config = commands.config(
      config, mesh=mesh, steps=6, batch_size=16, optimizer='sgd',
      learning_rate=0.1, observe=False, **settings)
  mesh = meshes.create(config)
  run, dataset = runs.create(config, mesh)
  state, batches = run.init(None), meshes.divide(dataset, mesh)
  for step in (1, 2, 3):
    state, _ = run.train(state, batches.train(0, step, 16))
  return jax.tree.leaves(steps.variables(state)), run.measure(
      state, batches.test())


@pytest.mark.parametrize('name', ['rigl_90', 'set_90', 'sr_ste_2_4'])
def test_a_run_starts_from_the_same_bits_on_every_mesh(name):
  digests = set()
  for mesh in ('', 'data:2,model:4', 'fsdp:8'):
    config = commands.config(f'digits/{name}', mesh=mesh)
    digests.add(checkpoints.digest(
        runs.create(config, meshes.create(config))[0].init(None)))
  assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize('name', _MODELS)
def test_a_model_trains_as_on_one_device(name):
  (one, measured), (many, again) = (
      _three_steps(name, mesh) for mesh in ('', 'data:2,model:4'))
  for x, y in zip(one, many, strict=True):
    np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-4 * np.abs(x).max())
  assert again == pytest.approx(measured, rel=1e-4)


# Mistakes.


@pytest.mark.parametrize('text, message', [
    ('data:3', "has 3 devices, there are 8: .*--config.mesh='data:8'"),
    ('data:2,model:2', 'has 4 devices, there are 8'),
    ('date:8', "unknown axis of config.mesh 'date', did you mean 'data'"),
    ('data', "'data' of .* name:devices"),
    ('data:2,data:4', "'data:4' of .* each name once"),
    ('data:0', "'data:0' of"),
    ('data:-8', "'data:-8' of"),
    ('8', "'8' of"),
    ('data:8,', "'' of"),
])
def test_wrong_meshes_are_told(text, message):
  with pytest.raises(ValueError, match=message):
    meshes.create(_config(text))


@pytest.mark.parametrize('size, advice', [(12, 8), (20, 16), (4, 8)])
def test_batches_that_do_not_divide_are_told(size, advice):
  with pytest.raises(ValueError, match=(
      f'batch_size={size} does not divide into the 8 parts .*'
      f'--config.batch_size={advice}$')):
    meshes.create(_config('data:4,fsdp:2', batch_size=size))


def test_several_processes_need_a_mesh(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match="2 processes.*--config.mesh='data:8'"):
    meshes.create(_config(''))
