"""Models: shapes, what may be sparse, published sizes."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data
from experiments import models
from experiments.configs import default
from experiments.data import dataset as datasets
import jaxsparse
from jaxsparse._utils import trees

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
    ('text_patches', _TEXTS), ('dlrm', _CLICKS), ('dlrm', _RATINGS)])
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
  paths = trees.match_rules(
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
    ('text', _TEXTS, 'blocks'), ('text_patches', _TEXTS, 'blocks'),
    ('dlrm', _CLICKS, 'top')])
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


def test_patches_read_four_bytes_and_two_beside_them():
  model = _model('text_patches', _TEXTS, width=8, depth=1)
  patches = nnx.jit(lambda model, x: model.patches(
      model.embedding(x.astype(jnp.int32))))
  text = np.arange(1, 13, dtype=np.uint8)[None]
  assert patches(model, text).shape == (1, 3, 8)
  for place in range(12):
    changed = text.copy()
    changed[0, place] = 200
    differ = (patches(model, changed) != patches(model, text)).any(-1)[0]
    assert differ.tolist() == [
        4 * i - 2 <= place < 4 * i + 6 for i in range(3)]


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


# Units that can be removed.


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


@pytest.mark.parametrize('pixels, patch', [
    (8, 2), (13, 2), (28, 4), (32, 4), (56, 8), (224, 16), (512, 16)])
def test_patches_of_vit_are_powers_of_two_from_2_to_16(pixels, patch):
  shapes = nnx.eval_shape(lambda: models.ViT(
      (pixels, pixels + 3, 1), 10, depth=1, rngs=nnx.Rngs(0)))
  assert shapes.patches.kernel.shape == (patch, patch, 1, 32)
