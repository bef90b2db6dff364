"""Kernels read off jaxprs, and patterns that land on their axes."""

import functools
import math
import re

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import block
from jaxsparse import channel
from jaxsparse import kernel_patterns
from jaxsparse import nm
from jaxsparse import schedules
from jaxsparse import unstructured
from jaxsparse._utils import trees
from jaxsparse.graph import infer_kernels
from jaxsparse.graph.kernel_axes import last_kernels
from tests._lib import zoo
from tests._lib.zoo_case import data
from tests._lib.zoo_case import linen
from tests._lib.zoo_case import tokens
from tests._lib.zoo_case import weights

N, D = 2, 8


def masks_of(params, *args, **options):
  """Masks of `prune`, compiled as one."""
  rule = jaxsparse.prune(*args, **options)
  return jax.jit(lambda params: rule.init(params).masks)(params)


def over(w, like):
  return jnp.broadcast_to(w, like.shape)


# What the zoo knows.

@pytest.mark.parametrize('build', zoo.CASES, ids=lambda build: build.__name__)
def test_kernels_of_the_zoo(build):
  case = build()
  kernels = infer_kernels(case.fn, case.params, *case.inputs)
  shapes = {path: w.shape for path, w in trees.align(case.params)}
  assert set(kernels) == set(shapes)
  alone = {path for path, kernel in kernels.items()
           if kernel.is_kernel and not kernel.why}
  assert alone == set(case.kernels)
  for path, (contracted, outputs) in case.kernels.items():
    kernel = kernels[path]
    summed = set(kernel.contracted) | set(kernel.window)
    if kernel.window and math.prod(
        shapes[path][axis] for axis in kernel.contracted) == 1:
      # The only channel of a depthwise kernel may be called what it likes.
      assert set(kernel.outputs) == set(outputs), path
    else:
      assert summed == set(contracted), path
      assert set(kernel.outputs) == set(outputs), path
    every = set(range(len(shapes[path])))
    assert set(kernel.stacked) == every - summed - set(kernel.outputs), path
    assert kernel.path == path and kernel.shape == shapes[path]


@pytest.mark.parametrize('build', zoo.CASES, ids=lambda build: build.__name__)
def test_groups_of_the_zoo_are_along_contracted_axes(build):
  """Oracle: all contracted axes moved to the front, groups sorted there."""
  case = build()
  for pattern in (nm(1, 2), nm(1, 3), nm(2, 5)):
    try:
      found = kernel_patterns(
          case.fn, case.params, *case.inputs, pattern=pattern)
    except ValueError:
      continue
    kernels = found.kernels
    masks = masks_of(case.params, found)
    group = int(re.search(r', (\d+)', pattern.name).group(1))
    for path, w, mask in trees.align(case.params, masks):
      if path in found.dense:
        assert mask is None, path
        continue
      assert mask is not None and path in case.kernels, path
      kernel, w = kernels[path], np.abs(np.asarray(w))
      rows = math.prod(w.shape[axis] for axis in kernel.contracted)
      assert rows % group == 0
      axes = [axis for axis in range(w.ndim) if axis not in kernel.contracted]
      axes += kernel.contracted
      flat = np.transpose(w, axes).reshape(-1, group)
      chosen = np.transpose(np.asarray(mask), axes).reshape(-1, group)
      count = int(re.search(r'(\d+),', pattern.name).group(1))
      assert (chosen.sum(1) == count).all(), path
      np.testing.assert_allclose(
          (flat * chosen).sum(1), np.sort(flat, 1)[:, -count:].sum(1),
          rtol=1e-5)
    break


# Layouts of one product, and how it is written.

def einsum(equation):
  return lambda p, x: jnp.einsum(equation, x, p['w'])


LAYOUTS = {
    # name: (shape of x, shape of w, function, contracted, outputs)
    'dense': ((N, D), (D, 4), lambda p, x: x @ p['w'], (0,), (1,)),
    'torch': ((N, D), (4, D), lambda p, x: x @ p['w'].T, (1,), (0,)),
    'kernel_on_the_left': (
        (D, N), (4, D), lambda p, x: p['w'] @ x, (1,), (0,)),
    'vector': ((N, D), (D,), lambda p, x: x @ p['w'], (0,), ()),
    'dot_general': ((N, D), (4, D), lambda p, x: lax.dot_general(
        x, p['w'], (((1,), (1,)), ((), ()))), (1,), (0,)),
    'heads': ((N, 3, D), (D, 2, 4), einsum('ntd,dhk->nthk'), (0,), (1, 2)),
    'heads_out': ((N, 2, D), (2, D, 4), einsum('nhk,hkd->nd'), (0, 1), (2,)),
    'heads_out_apart': (
        (N, 2, D), (2, 4, D), einsum('nhk,hdk->nd'), (0, 2), (1,)),
    'heads_each': ((N, 2, D), (2, D, 4), einsum('nhk,hkd->nhd'), (1,), (2,)),
    'heads_middle': ((N, D), (2, D, 4), einsum('nd,hdk->nhk'), (1,), (0, 2)),
    'experts_behind': ((N, 3, D), (D, 4, 3), einsum('ned,dke->nek'),
                       (0,), (1,)),
    'flattened_heads': ((N, 2, D), (2 * D, 4), lambda p, x: (
        x.reshape(N, -1) @ p['w']), (0,), (1,)),
    'summed_afterwards': ((N, D), (D, 3, 4), lambda p, x: jnp.einsum(
        'nd,dhk->nhk', x, p['w']).sum(1), (0,), (1, 2)),
    'vmapped': ((N, D), (D, 4), lambda p, x: jax.vmap(
        lambda x: x @ p['w'])(x), (0,), (1,)),
    'vmapped_over_layers': ((3, N, D), (3, D, 4), lambda p, x: jax.vmap(
        lambda w, x: x @ w)(p['w'], x), (1,), (2,)),
    'cast': ((N, D), (D, 4), lambda p, x: (
        x.astype(jnp.bfloat16) @ p['w'].astype(jnp.bfloat16)), (0,), (1,)),
    'reshaped': ((N, D), (D, 2, 3), lambda p, x: (
        x @ p['w'].reshape(D, 6)), (0,), (1, 2)),
    'reshaped_rows': ((N, 2 * D), (2, D, 4), lambda p, x: (
        x @ p['w'].reshape(2 * D, 4)), (0, 1), (2,)),
    'masked_by_constants': ((N, D), (D, 4), lambda p, x: (
        x @ jnp.where(np.eye(D, 4) > 0, 0., p['w'])), (0,), (1,)),
    'scaled_and_shifted': ((N, D), (D, 4), lambda p, x: (
        x @ (2. * jnp.tanh(p['w']) - 0.1)), (0,), (1,)),
    'remat': ((N, D), (D, 4), jax.checkpoint(
        lambda p, x: x @ p['w']), (0,), (1,)),
    'jitted': ((N, D), (D, 4), jax.jit(lambda p, x: x @ p['w']), (0,), (1,)),
    'in_a_branch': ((N, D), (D, 4), lambda p, x: lax.cond(
        x[0, 0] > 0, lambda w: x @ w, lambda w: -(x @ w), p['w']), (0,), (1,)),
    'in_a_scan_over_steps': ((3, N, D), (D, 4), lambda p, x: lax.scan(
        lambda c, x: (c, x @ p['w']), 0., x)[1], (0,), (1,)),
    'in_a_while_loop': ((N, D), (D, D), lambda p, x: lax.fori_loop(
        0, 3, lambda i, x: jnp.tanh(x @ p['w']), x), (0,), (1,)),
    'stacked_under_scan': ((N, D), (3, D, D), lambda p, x: lax.scan(
        lambda x, w: (jnp.tanh(x @ w), None), x, p['w'])[0], (1,), (2,)),
    'stacked_twice': ((N, D), (2, 3, D, D), lambda p, x: lax.scan(
        lambda x, w: lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w),
        x, p['w'])[0], (2,), (3,)),
    'stacked_behind': ((N, D), (D, D, 3), lambda p, x: lax.scan(
        lambda x, w: (jnp.tanh(x @ w), None), x,
        jnp.moveaxis(p['w'], -1, 0))[0], (0,), (1,)),
    'stacked_torch': ((N, D), (3, D, D), lambda p, x: lax.scan(
        lambda x, w: (jnp.tanh(x @ w.T), None), x, p['w'])[0], (2,), (1,)),
    'layer_by_number': ((N, D), (3, D, D), lambda p, x: lax.fori_loop(
        0, 3, lambda i, x: jnp.tanh(x @ p['w'][i]), x), (1,), (2,)),
    'layers_unrolled': ((N, D), (3, D, D), lambda p, x: functools.reduce(
        lambda x, i: jnp.tanh(x @ p['w'][i]), range(3), x), (1,), (2,)),
    'used_three_times': ((N, D), (D, D), lambda p, x: functools.reduce(
        lambda x, _: jnp.tanh(x @ p['w']), range(3), x), (0,), (1,)),
    'half_at_a_time': ((N, D), (D, 4), lambda p, x: jnp.concatenate(
        [x @ p['w'][:, :2], jnp.sin(x) @ p['w'][:, 2:]], -1), (0,), (1,)),
}


@pytest.mark.parametrize('name', LAYOUTS)
def test_axes_of_layouts(name):
  x, shape, fn, contracted, outputs = LAYOUTS[name]
  params = weights({'w': shape, 'unused': (D, 4)})
  kernels = infer_kernels(fn, params, data(*x))
  assert kernels['w'].is_kernel and not kernels['w'].why
  assert set(kernels['w'].contracted) == set(contracted)
  assert set(kernels['w'].outputs) == set(outputs)
  assert not kernels['unused'].is_kernel


def dense_kernels(name):
  """The layout's parameter as kernels `[others, contracted, outputs]`."""
  _, shape, _, contracted, outputs = LAYOUTS[name]
  others = tuple(axis for axis in range(len(shape))
                 if axis not in contracted + outputs)
  size = lambda axes: math.prod(shape[axis] for axis in axes)
  order = others + tuple(contracted) + tuple(outputs)

  def view(w):
    return np.transpose(np.asarray(w), order).reshape(
        size(others), size(contracted), size(outputs))
  return view


# Contracted axes that are no neighbours cannot be joined by `nm`.
APART = {'heads_out_apart'}


@pytest.mark.parametrize('name', LAYOUTS)
def test_nm_is_along_the_contracted_axis(name):
  x, shape, fn, _, _ = LAYOUTS[name]
  params = weights({'w': shape, 'other': (D, 4)})
  both = lambda p, x: (fn({'w': p['w']}, x), jnp.ones((1, D)) @ p['other'])
  try:
    rules = kernel_patterns(both, params, data(*x), pattern=nm(2, 4))
  except ValueError as error:
    assert name in APART and 'w' in str(error)
    return
  masks = masks_of(params, rules)
  view = dense_kernels(name)
  kept = view(masks['w']).reshape(-1, 4, view(masks['w']).shape[-1])
  assert (kept.sum(1) == 2).all()
  w = np.abs(view(params['w'])).reshape(kept.shape)
  assert (np.where(kept, w, np.inf).min(1) >= np.where(kept, 0, w).max(1)).all()
  assert masks['other'] is None, 'no data meets it'


SOME = ['torch', 'kernel_on_the_left', 'heads_each', 'experts_behind',
        'stacked_torch', 'stacked_behind', 'stacked_twice', 'layer_by_number']


@pytest.mark.parametrize('name', SOME)
def test_channels_are_outputs_of_each_layer(name):
  """`channel(-1)` takes whole outputs, where there are layers in each."""
  x, shape, fn, _, _ = LAYOUTS[name]
  params = weights({'w': shape})
  rules = kernel_patterns(
      fn, params, data(*x), pattern=channel(-1, sparsity=0.5))
  mask = dense_kernels(name)(masks_of(params, rules)['w'])
  assert (mask.all(1) | ~mask.any(1)).all()
  w = np.abs(dense_kernels(name)(params['w'])).sum(1)
  for kept, score in zip(mask[:, 0], w):
    half = round(len(score) / 2)
    assert kept.sum() == half
    assert set(np.flatnonzero(kept)) == set(np.argsort(-score)[:half])


@pytest.mark.parametrize('name', [*SOME, 'heads_out', 'heads_out_apart'])
def test_unstructured_competes_within_a_layer(name):
  x, shape, fn, _, _ = LAYOUTS[name]
  params = weights({'w': shape})
  rules = kernel_patterns(
      fn, params, data(*x), pattern=unstructured(sparsity=0.75))
  view = dense_kernels(name)
  mask = view(masks_of(params, rules)['w'])
  w = np.abs(view(params['w']))
  for kept, magnitude in zip(mask, w):
    assert kept.sum() == round(0.25 * kept.size)
    assert magnitude[kept].min() >= magnitude[~kept].max()


@pytest.mark.parametrize('name', SOME)
def test_blocks_are_contracted_by_outputs(name):
  """A block `(4, 2)` has four rows of inputs and two columns of outputs."""
  x, shape, fn, _, _ = LAYOUTS[name]
  params = weights({'w': shape, 'more': (D, 4)})
  both = lambda p, y: (fn({'w': p['w']}, y), jnp.tanh(
      y.reshape(-1, D) @ p['more']))
  try:
    rules = kernel_patterns(
        both, params, data(*x), pattern=block((4, 2), sparsity=0.5))
  except ValueError as error:
    pytest.fail(str(error))
  if 'w' in rules.dense:
    pytest.skip('left dense: ' + rules.dense['w'])
  view = dense_kernels(name)
  mask = view(masks_of(params, rules)['w'])
  layers, rows, columns = mask.shape
  tiles = mask.reshape(layers, rows // 4, 4, columns // 2, 2)
  tiles = tiles.swapaxes(2, 3).reshape(layers, -1, 8)
  assert (tiles.all(2) | ~tiles.any(2)).all()
  assert (tiles.all(2).sum(1) == tiles.shape[1] // 2).all()


# Convolutions.

def conv(dims, groups=1, strides=(1, 1), **options):
  return lambda p, x: lax.conv_general_dilated(
      x, p['w'], strides, 'SAME', dimension_numbers=dims,
      feature_group_count=groups, **options)


CONVS = {
    # name: (x, w, function, input channels, window, outputs)
    'hwio': ((N, 5, 6, 8), (3, 2, 8, 4), conv(('NHWC', 'HWIO', 'NHWC')),
             (2,), (0, 1), (3,)),
    'oihw': ((N, 8, 5, 6), (4, 8, 3, 2), conv(('NCHW', 'OIHW', 'NCHW')),
             (1,), (2, 3), (0,)),
    'ohwi': ((N, 5, 6, 8), (4, 3, 2, 8), conv(('NHWC', 'OHWI', 'NHWC')),
             (3,), (1, 2), (0,)),
    'grouped': ((N, 5, 6, 8), (3, 2, 4, 6), conv(
        ('NHWC', 'HWIO', 'NHWC'), 2), (2,), (0, 1), (3,)),
    'one_by_one': ((N, 5, 6, 8), (1, 1, 8, 4), conv(
        ('NHWC', 'HWIO', 'NHWC'), strides=(2, 2)), (2,), (0, 1), (3,)),
    'dilated': ((N, 5, 6, 8), (3, 2, 8, 4), conv(
        ('NHWC', 'HWIO', 'NHWC'), rhs_dilation=(2, 2)), (2,), (0, 1), (3,)),
    'one_dimension': ((N, 5, 8), (3, 8, 4), lambda p, x: (
        lax.conv_general_dilated(x, p['w'], (1,), 'SAME', dimension_numbers=(
            'NHC', 'HIO', 'NHC'))), (1,), (0,), (2,)),
    'transposed': ((N, 5, 6, 8), (3, 2, 8, 4), lambda p, x: (
        lax.conv_transpose(x, p['w'], (2, 2), 'SAME')), (2,), (0, 1), (3,)),
    'transposed_kernel': ((N, 5, 6, 8), (3, 2, 4, 8), lambda p, x: (
        lax.conv_transpose(x, p['w'], (2, 2), 'SAME', transpose_kernel=True)),
                          (3,), (0, 1), (2,)),
    'cast': ((N, 5, 6, 8), (3, 2, 8, 4), lambda p, x: conv(
        ('NHWC', 'HWIO', 'NHWC'))({'w': p['w'].astype(jnp.bfloat16)}, x.astype(
            jnp.bfloat16)), (2,), (0, 1), (3,)),
    'standardised': ((N, 5, 6, 8), (3, 2, 8, 4), lambda p, x: conv(
        ('NHWC', 'HWIO', 'NHWC'))({'w': jax.nn.standardize(
            p['w'], (0, 1, 2))}, x), (2,), (0, 1), (3,)),
    'stacked': ((N, 5, 6, 8), (3, 3, 3, 8, 8), lambda p, x: lax.scan(
        lambda x, w: (conv(('NHWC', 'HWIO', 'NHWC'))({'w': w}, x), None),
        x, p['w'])[0], (3,), (1, 2), (4,)),
}


@pytest.mark.parametrize('name', CONVS)
def test_convolutions(name):
  x, shape, fn, channels, window, outputs = CONVS[name]
  params = weights({'w': shape})
  kernel = infer_kernels(fn, params, data(*x))['w']
  assert kernel.is_kernel and not kernel.why
  assert kernel.contracted == channels
  assert set(kernel.window) == set(window)
  assert kernel.outputs == outputs
  rules = kernel_patterns(fn, params, data(*x), pattern=nm(2, 4))
  mask = np.asarray(masks_of(params, rules)['w'])
  groups = np.moveaxis(mask, channels[0], -1).reshape(-1, 4)
  assert (groups.sum(1) == 2).all()
  if name not in ('oihw', 'ohwi', 'transposed_kernel', 'stacked'):
    return
  rules = kernel_patterns(
      fn, params, data(*x), pattern=channel(-1, sparsity=0.5))
  mask = np.asarray(masks_of(params, rules)['w'])
  mask = np.moveaxis(mask, outputs[0], -1)
  if name == 'stacked':
    for layer in mask:
      flat = layer.reshape(-1, layer.shape[-1])
      assert (flat.all(0) | ~flat.any(0)).all() and flat[0].sum() == 4
  else:
    flat = mask.reshape(-1, mask.shape[-1])
    assert (flat.all(0) | ~flat.any(0)).all()
    assert flat[0].sum() == flat.shape[1] // 2


def test_a_depthwise_kernel_has_nothing_to_group():
  fn = lambda p, x: conv(('NHWC', 'HWIO', 'NHWC'))(
      {'w': p['out']}, conv(('NHWC', 'HWIO', 'NHWC'), 8)(p, x))
  params = weights({'w': (3, 3, 1, 8), 'out': (1, 1, 8, 4)})
  rules = kernel_patterns(fn, params, data(N, 5, 6, 8), pattern=nm(2, 4))
  assert 'w' in rules.dense
  masks = masks_of(params, rules)
  assert masks['w'] is None and masks['out'] is not None


# What is no kernel, and what is more than one.

def kernels_of(fn, shapes, *inputs):
  params = shapes if not isinstance(shapes, dict) else weights(shapes)
  return infer_kernels(fn, params, *inputs)


def test_scales_biases_tables_and_gates_are_none():
  def fn(p, i):
    x = p['table'][i] + over(p['positions'], jnp.ones((N, 5, 8)))
    x = x * over(p['scale'], x) + over(p['bias'], x)
    x = jnp.where(x > 0, x, x * over(p['slope'], x))
    x = x @ p['kernel']
    return x * over(p['gate'], x)
  kernels = kernels_of(
      fn, {'table': (11, 8), 'positions': (5, 8), 'scale': (8,), 'bias': (8,),
           'slope': (8,), 'kernel': (8, 4), 'gate': (5, 4)}, tokens(11, N, 5))
  assert [path for path, k in kernels.items() if k.is_kernel] == ['kernel']
  for path, kernel in kernels.items():
    if path != 'kernel':
      assert not kernel.contracted and not kernel.window, path
      assert kernel.others, path


@pytest.mark.parametrize('second', ['lookup', 'transpose', 'scale'])
def test_what_is_used_in_two_ways_stays_dense(second):
  def fn(p, x, i):
    h = x @ p['w']
    if second == 'lookup':
      h = h @ p['more'] + p['w'][i] @ p['more']
    elif second == 'transpose':
      h = h @ p['w'].T @ p['w'] @ p['more']
    else:
      h = h @ p['more'] * over(p['w'][0, :4], h @ p['more'])
    return h
  params = weights({'w': (8, 8), 'more': (8, 4)})
  inputs = data(N, 8), tokens(8, N)
  kernels = infer_kernels(fn, params, *inputs)
  assert kernels['w'].is_kernel and kernels['w'].why
  rules = kernel_patterns(fn, params, *inputs, pattern=nm(2, 4))
  assert 'w' in rules.dense and 'more' not in rules.dense
  assert masks_of(params, rules)['w'] is None


def test_a_product_of_parameters_alone_has_two_kernels():
  """LoRA: both factors are met by data through their product."""
  fn = lambda p, x: x @ (p['w'] + p['a'] @ p['b'])
  kernels = kernels_of(fn, {'w': (8, 4), 'a': (8, 2), 'b': (2, 4)}, data(N, 8))
  assert kernels['w'].contracted == (0,)
  assert kernels['w'].outputs == (1,) and not kernels['w'].why
  for path in 'ab':
    kernel = kernels[path]
    assert not kernel.is_kernel or kernel.why or (
        kernel.contracted == {'a': (0,), 'b': (0,)}[path])


def test_running_averages_masks_and_quantised_scales():
  def fn(p, x):
    w = p['q'].astype(jnp.float32) * over(p['scale'], p['q'])
    w = jnp.where(p['mask'], w, 0.)
    return (x - over(p['mean'], x)) @ w
  params = {'q': tokens(100, 8, 4).astype(jnp.int8), 'mask': tokens(
      2, 8, 4) > 0, **weights({'scale': (4,), 'mean': (8,)})}
  kernels = infer_kernels(fn, params, data(N, 8))
  assert kernels['q'].is_kernel
  assert kernels['q'].contracted == (0,) and kernels['q'].outputs == (1,)
  assert not kernels['mean'].is_kernel
  for path in ('scale', 'mask'):
    assert not kernels[path].is_kernel or kernels[path].why, path


def test_weights_that_only_meet_each_other_are_none():
  fn = lambda p, x: x * jnp.vdot(p['a'], p['b'])
  kernels = kernels_of(fn, {'a': (4,), 'b': (4,)}, data(N, 4))
  assert not any(kernel.is_kernel for kernel in kernels.values())


def test_what_is_not_used_is_none():
  kernels = kernels_of(lambda p, x: x @ p['w'], {
      'w': (8, 4), 'unused': (8, 4)}, data(N, 8))
  assert not kernels['unused'].is_kernel and not kernels['unused'].others
  assert 'unused' in str(kernels)


def test_shapes_will_do():
  fn, params = linen(nn.Dense(4), data(N, 8))
  shapes = jax.eval_shape(lambda: params)
  x = jax.ShapeDtypeStruct((N, 8), jnp.float32)
  kernels = infer_kernels(fn, shapes, x)
  assert dict(kernels) == dict(infer_kernels(fn, params, data(N, 8)))
  rules = kernel_patterns(fn, shapes, x, pattern=nm(2, 4))
  assert dict(rules) == dict(kernel_patterns(
      fn, params, data(N, 8), pattern=nm(2, 4)))


def test_the_function_is_not_run():
  def fn(p, x):
    jax.debug.callback(lambda: pytest.fail('it was run'))
    return x @ p['w']
  assert kernels_of(fn, {'w': (8, 4)}, data(N, 8))['w'].is_kernel


@pytest.mark.parametrize('params', [
    np.ones((8, 4), np.float32), [np.ones((8, 4), np.float32)],
    (np.ones((8, 4), np.float32), None)], ids=['array', 'list', 'tuple'])
def test_any_tree_of_parameters(params):
  fn = lambda p, x: x @ jax.tree.leaves(p)[0]
  kernel, = infer_kernels(fn, params, data(N, 8)).values()
  assert kernel.contracted == (0,) and kernel.outputs == (1,)
  masks = jaxsparse.prune(kernel_patterns(
      fn, params, data(N, 8), pattern=nm(2, 4))).init(params).masks
  assert jax.tree.leaves(masks)[0].sum() == 16


def test_paths_with_signs_of_regular_expressions():
  """Rules are regular expressions, paths are not."""
  params = weights({'a.b': (8, 4), 'aXb': (8, 4), 'c+(d)[0]|e': (4, 4),
                    'f$': (4, 4), 'g\\d': (4, 4)})
  def fn(p, x):
    h = x @ p['a.b'] + x * jnp.broadcast_to(p['aXb'].sum(1), x.shape) @ (
        jnp.ones((8, 4)))
    return h @ p['c+(d)[0]|e'] @ p['f$'] @ p['g\\d']
  rules = kernel_patterns(fn, params, data(N, 8), pattern=nm(2, 4))
  masks = masks_of(params, rules)
  assert masks['aXb'] is None
  assert all(mask is not None for path, mask in masks.items() if path != 'aXb')


# `dense=`, totals, tables, errors.

def two(p, x):
  return jnp.tanh(x @ p['in']['kernel']) @ p['out']['kernel']


TWO = {'in': {'kernel': (8, 12)}, 'out': {'kernel': (12, 4)}}


def test_dense_paths_stay_dense():
  params = weights(TWO)
  rules = kernel_patterns(
      two, params, data(N, 8), pattern=nm(2, 4), dense=['out/.*'])
  assert set(rules.dense) == {'out/kernel'}
  masks = masks_of(params, rules)
  assert masks['out']['kernel'] is None
  assert masks['in']['kernel'] is not None
  assert 'out/kernel' in str(rules) and 'dense' in str(rules)


def test_one_expression_needs_no_list():
  """A string is not read letter by letter."""
  rules = kernel_patterns(
      two, weights(TWO), data(N, 8), pattern=nm(2, 4), dense='out/.*')
  assert set(rules.dense) == {'out/kernel'}


@pytest.mark.parametrize('dense, pattern, says', [
    (['out'], nm(2, 4), 'out'), (['nothing.*'], nm(2, 4), 'nothing'),
    (['.*'], nm(2, 4), 'dense|nothing'), ([], nm(2, 5), '5'),
    ([], nm(2, 16), '16'), ([], block((16, 16), sparsity=0.5), '16'),
    (['('], nm(2, 4), r'\('),
    ([], None, 'pattern|None'), ([], '2:4', 'pattern|2:4')])
def test_errors_say_what_was_wrong(dense, pattern, says):
  with pytest.raises(ValueError, match=says):
    kernel_patterns(
        two, weights(TWO), data(N, 8), pattern=pattern, dense=dense)


@pytest.mark.slow
@pytest.mark.parametrize('build, distribution, close', [
    (zoo.zoo_transformers.decoder_scan, jaxsparse.uniform, 0.02),
    (zoo.zoo_transformers.decoder_scan, jaxsparse.global_threshold, 1e-3),
    (zoo.zoo_transformers.linen_encoder, jaxsparse.global_threshold, 1e-3)])
def test_ninety_percent_of_all_kernels(build, distribution, close):
  case = build()
  rules = kernel_patterns(
      case.fn, case.params, *case.inputs, pattern=unstructured())
  try:
    masks = masks_of(case.params, rules, distribution=distribution(0.9))
  except ValueError as error:
    assert 'decoder_scan' == build.__name__ and 'layers' in str(error)
    assert distribution is not jaxsparse.uniform
    return
  found = jaxsparse.summary(case.params, masks)
  sizes = [w.size for path, w in trees.align(case.params)
           if path in case.kernels]
  assert sum(sizes) == sum(m.size for m in jax.tree.leaves(masks))
  kept = sum(int(m.sum()) for m in jax.tree.leaves(masks))
  assert abs(1 - kept / sum(sizes) - 0.9) < close
  assert found.sparsity == pytest.approx(1 - kept / sum(sizes))


def test_a_closed_over_batch_is_no_data():
  """The docstring asks for the batch as an input."""
  x = data(N, 8)
  with pytest.raises(ValueError):
    kernel_patterns(lambda p: x @ p['w'], weights({'w': (8, 4)}),
                    pattern=nm(2, 4))


# Transposable patterns take both axes.

@pytest.mark.parametrize('fn, shape, name, groups', [
    (lambda p, x: x @ p['w'], (8, 12), 'nm(2, 4, transposable=True)',
     ((-2, 4), (-1, 4))),
    (lambda p, x: x @ p['w'].T, (12, 8), 'nm(2, 4, axis=-1, transposable=True)',
     ((-1, 4), (-2, 4))),
    (lambda p, x: jnp.einsum('nd,dhk->nhk', x, p['w']), (8, 3, 4),
     'nm(2, 4, axis=-3, transposable=True)', ((-3, 4), ((-2, -1), 4))),
    (lambda p, x: jnp.einsum('nhk,hkd->nd', x.reshape(N, 4, 2), p['w']),
     (4, 2, 12), 'nm(2, 4, axis=(-3, -2), transposable=True)',
     (((-3, -2), 4), (-1, 4))),
    # The axes after the inputs are a window.
    (lambda p, x: lax.conv(x.reshape(N, 8, 1, 1), p['w'], (1, 1), 'SAME'),
     (4, 8, 3, 3), 'nm(2, 4, transposable=True) (in 1, out 0)',
     ((-3, 4), (-4, 4)))])
def test_transposable_groups_are_of_inputs_and_outputs(
    fn, shape, name, groups):
  params = weights({'w': shape})
  rules = kernel_patterns(
      fn, params, data(N, 8), pattern=nm(2, 4, transposable=True))
  assert str(rules['w']) == name and rules['w'].group.sizes == groups
  mask = np.asarray(masks_of(params, rules)['w'])
  for axes, _ in groups:
    joined = axes if isinstance(axes, tuple) else (axes,)
    front = np.moveaxis(mask, joined, range(len(joined)))
    size = math.prod(front.shape[:len(joined)])
    assert (front.reshape(size // 4, 4, -1).sum(1) == 2).all()


def test_a_kernel_without_outputs_is_not_transposable():
  params = weights({'out': (8,), 'w': (8, 8)})
  rules = kernel_patterns(
      lambda p, x: x @ p['w'] @ p['out'], params, data(N, 8),
      pattern=nm(2, 4, transposable=True))
  assert list(rules) == ['w'] and 'output axes' in rules.dense['out']


def test_a_transposable_pattern_on_other_axes_is_an_error():
  with pytest.raises(ValueError, match=(
      r'(?s)axis=-3, transposable=True\) is not written for kernels '
      r'\[in, out\].*Write nm\(2, 4, transposable=True\)')):
    kernel_patterns(two, weights(TWO), data(N, 8),
                    pattern=nm(2, 4, axis=-3, transposable=True))


# The last layers.

_LAST = {
    zoo.zoo_convs.channels_first: ['head'],
    zoo.zoo_convs.transposed_convolutions: ['out'],
    zoo.zoo_dense.dlrm: ['out/kernel'],
    zoo.zoo_dense.gated_residual: ['out/kernel'],
    zoo.zoo_dense.mixer: ['head/kernel'],
    zoo.zoo_dense.mixture_of_experts: ['out/kernel'],
    zoo.zoo_recurrent.fused_lstm: ['head'],
    zoo.zoo_transformers.vit: ['head/kernel'],
    zoo.zoo_transformers.decoder_scan_fused_remat: ['head'],
    zoo.zoo_transformers.decoder_tied_head: ['embedding'],
}


@pytest.mark.parametrize('build', _LAST, ids=lambda build: build.__name__)
def test_last_kernels_of_the_zoo(build):
  case = build()
  assert last_kernels(case.fn, case.params, *case.inputs) == [
      re.escape(path) for path in _LAST[build]]


HEADS = {'in.w': (8, 12), 'out': (12, 8), 'policy': (8, 4), 'value': (8, 1)}


def stream(p, x):
  return x + jnp.tanh(x @ p['in.w']) @ p['out']


def heads(p, x):
  """A residual stream with two heads, which is returned, too."""
  y = stream(p, x)
  logits = y @ p['policy']
  return {'policy': jax.nn.softmax(logits), 'stream': y,
          'liked': jnp.any(logits > 0., axis=0),
          'value': jnp.squeeze(y @ p['value'], 1)}


def test_every_head_of_a_residual_stream_is_last_and_can_stay_dense():
  params = weights(HEADS)
  last = last_kernels(heads, params, data(N, 8))
  assert last == ['policy', 'value']
  shapes = jax.eval_shape(lambda: params)
  assert last_kernels(heads, shapes, data(N, 8)) == last
  rules = kernel_patterns(
      heads, params, data(N, 8), pattern=nm(2, 4), dense=last)
  assert list(rules) == [r'in\.w', 'out']
  masks = jax.eval_shape(lambda p: jaxsparse.prune(
      {**dict.fromkeys(last), '.*': nm(2, 4)}).init(p).masks, params)
  assert sorted(trees.paths(masks)) == ['in.w', 'out']


def test_the_last_kernel_may_be_all_there_is():
  linear = lambda w, x: x @ w
  assert last_kernels(linear, jnp.ones((8, 3)), data(N, 8)) == ['']


@pytest.mark.parametrize('fn', [
    lambda p, x: jnp.mean(jnp.square(stream(p, x) @ p['policy'])), stream,
    lambda p, x: x + p['in.w'].sum(1)[None],
], ids=['a loss', 'a residual stream', 'no kernel'])
def test_a_function_without_a_last_kernel_is_a_taught_error(fn):
  with pytest.raises(ValueError, match='returns logits, not a loss'):
    last_kernels(fn, weights(HEADS), data(N, 8))


# It goes straight into training.

METHODS = {
    'prune': lambda rules: (jaxsparse.prune(rules), jaxsparse.hard()),
    'gradual': lambda rules: (jaxsparse.prune(
        rules, schedule=schedules.cubic(0, 4)), jaxsparse.hard()),
    'ste': lambda rules: jaxsparse.methods.ste(rules, 4),
    'sr_ste': lambda rules: jaxsparse.methods.sr_ste(rules, 4),
    'mdgf': lambda rules: jaxsparse.methods.mdgf_linear(rules, 4),
    'retrain': lambda rules: jaxsparse.methods.train_prune_retrain(rules, 4),
    'top_kast': lambda rules: jaxsparse.methods.top_kast(rules, 4, every=2),
}


@pytest.mark.parametrize('method, build', [
    *((method, zoo.zoo_dense.torch_layout) for method in METHODS),
    *(('prune', build) for build in (
        zoo.zoo_transformers.decoder_scan_fused_remat,
        zoo.zoo_transformers.nnx_encoder, zoo.zoo_convs.channels_first))])
def test_it_trains(method, build):
  case = build()
  rules = kernel_patterns(
      case.fn, case.params, *case.inputs, pattern=nm(1, 2))
  with (jax.numpy_dtype_promotion('standard'),
        jax.numpy_rank_promotion('allow')):
    tx = jaxsparse.sparsify(optax.sgd(1e-2), *METHODS[method](rules))
    params, state = case.params, jax.jit(tx.init)(case.params)

    @jax.jit
    def step(params, state):
      at = jaxsparse.sparse_params(params, state)
      loss, grads = jax.value_and_grad(lambda p: jnp.mean(jnp.square(
          case.fn(p, *case.inputs))))(at)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state, loss
    for _ in range(5):
      params, state, loss = step(params, state)
  assert np.isfinite(loss)
  masks = jaxsparse.get_masks(state)
  for path, _, mask in trees.align(case.params, masks):
    if path in rules.dense:
      assert mask is None
    else:
      assert mask is None or mask.mean() >= 0.5 - 1e-6
  assert any(m is not None and abs(m.mean() - 0.5) < 1e-6
             for m in jax.tree.leaves(masks))
