"""Models: shapes, published sizes, networks cut smaller, running averages."""

import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data
from experiments import models
from experiments.configs import default
from experiments.data import dataset as datasets
from experiments.records import checkpoints
from experiments.training import methods
from experiments.training import steps
import jaxsparse
from jaxsparse import trees

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


def _dataset(task, shape, classes, cardinalities=()):
  return data.Dataset(task, shape, classes, None, None, '', cardinalities)


_IMAGES = [_dataset(datasets.IMAGES, (8, 8, 1), 10),
           _dataset(datasets.IMAGES, (20, 12, 3), 7),
           _dataset(datasets.IMAGES, (224, 224, 3), 1000)]
_TEXTS = _dataset(datasets.TEXT, (12,), 3)
_BYTES = _dataset(datasets.NEXT_BYTE, (12,), 256)
_CLICKS = _dataset(datasets.RECOMMENDATION, (6,), 2, (5, 3, 4))
_RATINGS = _dataset(datasets.RECOMMENDATION, (2,), 2, (9, 7))


@pytest.mark.parametrize('name, dataset', [
    ('mlp', _IMAGES[0]), ('resnet', _IMAGES[0]), ('resnet', _IMAGES[1]),
    ('vit', _IMAGES[0]), ('vit', _IMAGES[1]), ('vgg', _IMAGES[0]),
    ('vgg', _IMAGES[1]), ('resnet20', _IMAGES[1]), ('resnet50', _IMAGES[0]),
    ('resnet50', _IMAGES[2]), ('lm', _BYTES), ('text', _TEXTS),
    ('dlrm', _CLICKS), ('dlrm', _RATINGS)])
def test_models_return_logits_and_say_what_may_be_sparse(name, dataset):
  config = default.get_config()
  config.update(model=name, width=16)
  model = nnx.eval_shape(
      lambda: models.create(config, dataset, rngs=nnx.Rngs(0)))
  inputs = jax.ShapeDtypeStruct((3, *dataset.shape), dataset.input_dtype)
  logits = nnx.eval_shape(lambda model, x: model(x), model, inputs)
  each_byte = dataset.shape if dataset is _BYTES else ()
  assert logits.shape == (3, *each_byte, dataset.classes)
  params = nnx.state(model, nnx.Param)
  paths = jaxsparse.trees.match_rules(
      {models.sparse_leaves(name): True, '.*': None}, params)
  kernels = jax.tree.leaves(jax.tree.map(
      lambda sparse, p: p if sparse else None, paths, params,
      is_leaf=lambda sparse: sparse is None))
  assert len(kernels) >= 2
  assert all(kernel.shape[-2] % 16 == 0 for kernel in kernels)


_call = nnx.jit(lambda model, x: model(x))


def _model(name, dataset, **sizes):
  config = default.get_config()
  config.update(model=name, **sizes)
  return models.create(config, dataset, rngs=nnx.Rngs(0))


@pytest.mark.parametrize('name, dataset, layers', [
    ('mlp', _IMAGES[0], 'layers'), ('vit', _IMAGES[0], 'blocks'),
    ('resnet', _IMAGES[0], 'blocks'), ('lm', _BYTES, 'blocks'),
    ('text', _TEXTS, 'blocks'), ('dlrm', _CLICKS, 'top')])
def test_depth_is_the_number_of_sparse_layers(name, dataset, layers):
  model = nnx.eval_shape(lambda: _model(name, dataset, width=8, depth=3))
  assert len(getattr(model, layers)) == 3


def test_language_model_sees_no_byte_to_come():
  model = _model('lm', _BYTES, width=8, depth=1)
  text = np.arange(1, 13, dtype=np.uint8)[None]
  changed = text.copy()
  changed[0, 7] = 200
  logits, others = _call(model, text), _call(model, changed)
  np.testing.assert_array_equal(logits[0, :7], others[0, :7])
  assert (logits[0, 7:] != others[0, 7:]).any(-1).all()


def test_texts_are_read_up_to_where_they_are_filled_up():
  texts = np.zeros((2, 12), np.uint8)
  texts[0, :5] = [104, 101, 108, 108, 111]
  long = _model('text', _TEXTS, width=8, depth=1)
  short = _model('text', _dataset(datasets.TEXT, (5,), 3), width=8, depth=1)
  logits = _call(long, texts)
  params = nnx.state(long, nnx.Param)
  params['positions'] = nnx.Param(params['positions'][...][:, :5])
  nnx.update(short, params)
  np.testing.assert_allclose(
      logits[:1], _call(short, texts[:1, :5]), rtol=1e-5, atol=1e-6)
  assert np.isfinite(logits).all()  # Of an empty text, too.


@pytest.mark.parametrize('name, sizes, told', [
    ('vit', {'width': 10}, 'width must be a multiple of 4,.* got 10'),
    ('resnet', {'width': 12}, 'width must be a multiple of 8,.* got 12'),
    ('mlp', {'depth': 0}, 'depth must be at least 1, got 0'),
    ('vgg', {'depth': 12}, r'one of \[11, 13, 16, 19\].* got 12')])
def test_sizes_that_no_model_has_are_told(name, sizes, told):
  with pytest.raises(ValueError, match=told):
    _model(name, _IMAGES[0], **sizes)


@pytest.mark.parametrize('name, dataset, fitting', [
    ('lm', _IMAGES[0], 'use mlp or resnet or vit or vgg'),
    ('vit', _BYTES, 'use lm'), ('mlp', _TEXTS, 'use text'),
    ('mlp', _CLICKS, 'use dlrm')])
def test_model_for_other_data_is_told_which_would_do(name, dataset, fitting):
  with pytest.raises(ValueError, match=fitting):
    _model(name, dataset)


# Published sizes.


def _evaluation(name, dataset, **sizes):
  """A model as a function of variables and images, and variables' shapes."""
  model = nnx.eval_shape(lambda: _model(name, dataset, **sizes))
  model.eval()
  graphdef, variables = nnx.split(model)
  return (lambda variables, x: nnx.merge(graphdef, variables, copy=True)(x),
          variables)


@pytest.mark.parametrize('name, pixels, classes, count', [
    ('vgg', 32, 10, 20_035_018), ('resnet20', 32, 10, 269_722),
    ('resnet32', 32, 10, 464_154), ('resnet34', 224, 1000, 21_797_672),
    ('resnet50', 224, 1000, 25_557_032)])
def test_models_have_as_many_weights_as_published(
    name, pixels, classes, count):
  images = _dataset(datasets.IMAGES, (pixels, pixels, 3), classes)
  model = nnx.eval_shape(lambda: _model(name, images))
  sizes = [w.size for path, w in trees.align(nnx.state(model, nnx.Param))
           # Those published for CIFAR have shortcuts without weights.
           if pixels > 32 or 'shortcut' not in path]
  assert sum(sizes) == count


@pytest.mark.parametrize('pixels, last', [(8, 1), (64, 8), (72, 3)])
def test_large_images_are_made_smaller_before_the_first_block(pixels, last):
  shape = (pixels, pixels, 3)
  apply, variables = _evaluation(
      'resnet50', _dataset(datasets.IMAGES, shape, 10), width=8)
  counted = jaxsparse.flops(
      apply, variables, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
  weights = variables['blocks'][15]['conv3']['kernel'].size
  assert (counted.by_parameter['blocks/15/conv3/kernel']
          == 2 * weights * last**2)


# Recommendation.


def _relu(x):
  return np.maximum(x, 0)


def test_dlrm_is_two_mlps_around_products_of_embeddings():
  model = _model('dlrm', _CLICKS, width=4, depth=1)
  inputs = np.array([[.5, -1, 2, 4, 0, 3], [0, 0, 1, 0, 2, 1]], np.float32)
  p = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
  tables = np.split(p['embedding']['embedding'], [5, 8])
  for row, logits in zip(inputs, _call(model, inputs)):
    bottom = np.pad(row[:3], (0, 13))
    for i in range(2):
      layer = p['bottom'][i]
      bottom = _relu(bottom @ layer['kernel'] + layer['bias'])
    vectors = [bottom, *(t[int(i)] for t, i in zip(tables, row[3:]))]
    products = [vectors[i] @ vectors[j] for i in range(4) for j in range(i)]
    top = np.pad(np.concatenate([bottom, products]), (0, 6))
    top = _relu(top @ p['top'][0]['kernel'] + p['top'][0]['bias'])
    expected = top @ p['head']['kernel'] + p['head']['bias']
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_units_of_both_mlps_and_of_embeddings_can_be_removed():
  apply, variables = _evaluation('dlrm', _CLICKS)
  ties = jaxsparse.infer_ties(
      apply, variables, jax.ShapeDtypeStruct((2, 6), jnp.float32))
  removable = {tie.size: {m.path for m in tie.members} for tie in ties
               if not (tie.fixed or tie.kept)}
  assert removable == {
      64: {'bottom/0/kernel', 'bottom/0/bias', 'bottom/1/kernel'},
      16: {'bottom/1/kernel', 'bottom/1/bias', 'embedding/embedding',
           'top/0/kernel'},
      256: {'top/0/kernel', 'top/0/bias', 'top/1/kernel'},
      128: {'top/1/kernel', 'top/1/bias', 'head/kernel'}}


# Running averages, and networks cut smaller.


def _begun(name, **sizes):
  """A run of a model, its state where no two units are alike, and a batch."""
  config = default.get_config()
  config.update(model=name, method='dense', observe=False, batch_size=8,
                dataset='synthetic_clicks' if name == 'dlrm' else 'digits',
                optimizer='sgd', learning_rate_schedule='steps',
                weight_decay=1e-4, **sizes)
  dataset = data.load(config)
  tx = methods.create(config, lambda: steps.ties(config, dataset))
  run = steps.create(config, tx, dataset)
  rng = np.random.default_rng(0)
  state = jax.tree.map(
      lambda w: w + rng.uniform(0, .1, w.shape).astype(w.dtype)
      if jnp.issubdtype(w.dtype, jnp.floating) else w, run.init(None))
  return run, state, dataset.train(0, 1, 8)


@pytest.fixture(scope='module', name='vgg')
def _vgg():
  return _begun('vgg', width=4, depth=11)


def test_averages_follow_the_batches_of_training(vgg):
  run, state, batch = vgg
  before = jax.tree.map(np.asarray, steps.variables(state))
  after, _ = run.train(jax.tree.map(jnp.copy, state), batch)
  y = np.asarray(jax.lax.conv_general_dilated(
      batch.inputs, before['convs'][0]['kernel'][...], (1, 1), 'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC')))
  norms = before['norms'][0], after.averages['norms'][0]
  for key, value in (('mean', y.mean((0, 1, 2))), ('var', y.var((0, 1, 2)))):
    old, new = (np.asarray(norm[key][...]) for norm in norms)
    np.testing.assert_allclose(new, .9 * old + .1 * value, rtol=1e-4)


def test_evaluation_reads_averages_and_no_other_example(vgg):
  run, state, batch = vgg
  apply = jax.jit(run.apply)
  logits = apply(steps.variables(state), batch.inputs)
  changed = batch.inputs.copy()
  changed[1:] = 0
  others = apply(steps.variables(state), changed)
  np.testing.assert_allclose(logits[0], others[0], rtol=1e-5)
  moved = state._replace(averages=jax.tree.map(lambda a: a + 1, state.averages))
  moved = apply(steps.variables(moved), batch.inputs)
  assert np.abs(moved - logits).min(-1).max() > 1e-3


def test_variables_make_a_new_state_averages_included(vgg):
  run, state, _ = vgg
  again = run.init(steps.variables(state))
  for ours, theirs in zip(again[::2], state[::2]):  # Params and averages.
    assert checkpoints.digest(ours) == checkpoints.digest(theirs)


def test_variables_are_the_params_where_there_are_no_averages():
  _, state, _ = _begun('mlp')
  assert not jax.tree.leaves(state.averages)
  assert (checkpoints.digest(steps.variables(state))
          == checkpoints.digest(state.params))


@pytest.mark.parametrize('name, depth, inside', [
    ('vgg', 11, {'convs/2/kernel', 'norms/2/bias', 'norms/2/mean',
                 'norms/2/scale', 'norms/2/var', 'convs/3/kernel'}),
    ('resnet20', 20, {
        f'blocks/4/{leaf}' for leaf in (
            'conv1/kernel', 'norm1/bias', 'norm1/mean', 'norm1/scale',
            'norm1/var', 'conv2/kernel')}),
    ('resnet50', 50, {
        f'blocks/4/{leaf}' for leaf in (
            'conv2/kernel', 'norm2/bias', 'norm2/mean', 'norm2/scale',
            'norm2/var', 'conv3/kernel')})])
def test_channels_inside_blocks_are_ties_that_can_be_removed(
    name, depth, inside):
  apply, variables = _evaluation(name, _IMAGES[2], width=4, depth=depth)
  ties = jaxsparse.infer_ties(apply, variables, jax.ShapeDtypeStruct(
      (2, *_IMAGES[2].shape), jnp.float32))
  found = [tie for tie in ties if {m.path for m in tie.members} == inside]
  assert [(tie.fixed, tie.kept) for tie in found] == [(None, None)]


# Units that stay of the model of each name; reads: what reads those that go.
_KEPT = np.array([0, 2, 3])
_HEADS = (_KEPT[:, None] * 4 + np.arange(4)).reshape(-1)  # Four dimensions.
_QKV = (np.arange(3)[:, None] * 16 + _HEADS).reshape(-1)


@pytest.mark.parametrize('name, depth, width, reads, cuts', [
    ('vgg', 11, 4, 'convs/1/kernel', {
        'convs/0/kernel': (3, _KEPT), 'norms/0/': (0, _KEPT),
        'convs/1/kernel': (2, _KEPT)}),
    ('vgg', 11, 4, 'head/kernel', {
        'convs/7/kernel': (3, _KEPT), 'norms/7/': (0, _KEPT),
        'head/kernel': (0, _KEPT)}),
    ('resnet20', 8, 4, 'blocks/1/conv2/kernel', {
        'blocks/1/conv1/kernel': (3, _KEPT), 'blocks/1/norm1/': (0, _KEPT),
        'blocks/1/conv2/kernel': (2, _KEPT)}),
    ('resnet20', 8, 4, 'blocks/(0/conv1|1/conv1|1/shortcut)/kernel', {
        'stem/kernel': (3, _KEPT), 'stem_norm/': (0, _KEPT),
        'blocks/0/conv2/kernel': (3, _KEPT), 'blocks/0/norm2/': (0, _KEPT),
        'blocks/(0/conv1|1/conv1|1/shortcut)/kernel': (2, _KEPT)}),
    pytest.param('resnet50', 26, 4, 'blocks/1/conv3/kernel', {
        'blocks/1/conv2/kernel': (3, _KEPT), 'blocks/1/norm2/': (0, _KEPT),
        'blocks/1/conv3/kernel': (2, _KEPT)}, marks=pytest.mark.slow),
    ('vit', 1, 16, 'blocks/0/out/kernel', {
        'blocks/0/qkv/kernel': (1, _QKV), 'blocks/0/qkv/bias': (0, _QKV),
        'blocks/0/out/kernel': (0, _HEADS)}),
    ('vit', 1, 16, 'blocks/0/mlp_out/kernel', {
        'blocks/0/mlp_in/kernel': (1, _KEPT),
        'blocks/0/mlp_in/bias': (0, _KEPT),
        'blocks/0/mlp_out/kernel': (0, _KEPT)}),
    ('dlrm', 1, 4, 'head/kernel', {
        'top/0/kernel': (1, _KEPT), 'top/0/bias': (0, _KEPT),
        'head/kernel': (0, _KEPT)}),
    ('dlrm', 1, 4, '(bottom/1|top/0)/kernel|embedding/embedding', {
        'bottom/1/kernel': (1, _KEPT), 'bottom/1/bias': (0, _KEPT),
        'embedding/embedding': (1, _KEPT),
        'top/0/kernel': (0, np.delete(np.arange(368), 1))}),
], ids=['channels', 'read by the head', 'in a block', 'between blocks',
        'in a bottleneck', 'heads', 'neurons', 'above products',
        'in embeddings'])
def test_network_of_smaller_arrays_runs_trains_and_is_saved(
    name, depth, width, reads, cuts, tmp_path):
  run, state, batch = _begun(name, depth=depth, width=width, steps=4)

  def in_state(path):
    return next((cut for end, cut in cuts.items()
                 if re.search(f'(^|/){end}', path)), None)

  def unread(path, w):
    if not re.search(f'(^|/){reads}', path):
      return w
    axis, kept = in_state(path)
    gone = np.delete(np.arange(w.shape[axis]), kept)
    return jnp.moveaxis(jnp.moveaxis(w, axis, 0).at[gone].set(0), 0, axis)

  def cut(path, w):
    return w if in_state(path) is None else jnp.take(
        w, in_state(path)[1], in_state(path)[0])

  state = trees.map_with_path(unread, state)
  small = trees.map_with_path(cut, state)
  assert checkpoints.digest(small.opt_state) != checkpoints.digest(
      state.opt_state)
  apply = jax.jit(run.apply)
  np.testing.assert_allclose(
      *(apply(steps.variables(s), batch.inputs) for s in (state, small)),
      rtol=1e-4, atol=1e-5)
  shapes = jax.tree.map(jnp.shape, small)
  small, loss = run.train(small, batch)
  assert np.isfinite(loss)
  assert jax.tree.map(jnp.shape, small) == shapes
  checkpoints.save(tmp_path, 1, small)
  _, saved = checkpoints.restore(tmp_path, small)
  assert checkpoints.digest(saved) == checkpoints.digest(small)
