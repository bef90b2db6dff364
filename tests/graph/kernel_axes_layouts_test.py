"""Patterns land on the axes of a kernel, however its product is written."""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import block
from jaxsparse import channel
from jaxsparse import kernel_patterns
from jaxsparse import nm
from jaxsparse import unstructured
from jaxsparse.graph import infer_kernels
from tests._lib.kernels import D
from tests._lib.kernels import masks_of
from tests._lib.kernels import N
from tests._lib.kernels import TWO
from tests._lib.kernels import two
from tests._lib.zoo_case import data
from tests._lib.zoo_case import weights

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
    'flipped': ((N, D), (4, D), lambda p, x: x @ p['w'].T[::-1], (1,), (0,)),
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
    # A convolution of each member of an ensemble is one in groups.
    'of_members': ((2, N, 8, 5), (2, 8, 12, 3), lambda p, x: jax.vmap(
        lambda x, w: lax.conv_general_dilated(
            x, w, (1,), 'SAME', dimension_numbers=('NCH', 'IOH', 'NCH')))(
                x, p['w']), (1,), (3,), (0, 2)),
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
  if name == 'of_members':  # Its outputs are no neighbours.
    return
  # The inputs of an output are all but its own axis and that of layers.
  rules = kernel_patterns(
      fn, params, data(*x), pattern=unstructured(0.5, balanced=True))
  mask = np.asarray(masks_of(params, rules)['w'])
  own = (*kernel.stacked, *outputs)
  inputs = tuple(a for a in range(mask.ndim) if a not in own)
  assert (mask.sum(inputs) == mask.size // math.prod(
      mask.shape[a] for a in own) // 2).all()
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
      r'(?s)kernels \[in, out\], got .*axis=-3, transposable=True\).*'
      r'Write nm\(2, 4, transposable=True\)')):
    kernel_patterns(two, weights(TWO), data(N, 8),
                    pattern=nm(2, 4, axis=-3, transposable=True))
