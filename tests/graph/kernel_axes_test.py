"""Kernels are read off jaxprs; all else stays dense."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import block
from jaxsparse import kernel_patterns
from jaxsparse import nm
from jaxsparse.graph import infer_kernels
from tests._lib.kernels import masks_of
from tests._lib.kernels import N
from tests._lib.kernels import TWO
from tests._lib.kernels import two
from tests._lib.zoo_case import data
from tests._lib.zoo_case import linen
from tests._lib.zoo_case import tokens
from tests._lib.zoo_case import weights


def over(w, like):
  return jnp.broadcast_to(w, like.shape)


# What is no kernel, and what is more than one.

def kernels_of(fn, shapes, *inputs):
  params = shapes if not isinstance(shapes, dict) else weights(shapes)
  return infer_kernels(fn, params, *inputs)


@pytest.mark.parametrize('each', [
    lambda p, x: (jax.device_put(p), x),
    lambda p, x: jax.lax.optimization_barrier((p, x))],
                         ids=['device_put', 'barrier'])
def test_what_passes_a_primitive_together_stays_itself(each):
  fn = lambda p, x: jax.nn.relu(x @ p['in']) @ p['out']
  shapes = {'in': (8, 16), 'out': (16, 4)}
  found = kernels_of(lambda p, x: fn(*each(p, x)), shapes, data(N, 8))
  assert found == kernels_of(fn, shapes, data(N, 8))
  assert all(kernel.contracted == (0,) for kernel in found.values())
  ties = jaxsparse.infer_ties(
      lambda p, x: fn(*each(p, x)), weights(shapes), data(N, 8))
  assert [tie.size for tie in ties if not tie.fixed] == [16]


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


def test_a_projection_of_learned_queries_contracts_what_it_shares_with_them():
  def pooled(p, x):
    q, k = p['queries'] @ p['q'], x @ p['k']
    return jax.nn.softmax(q @ k.T) @ (x @ p['v'])
  kernels = kernels_of(pooled, {
      'queries': (3, 8), 'q': (8, 6), 'k': (4, 6), 'v': (4, 2)}, data(N, 4))
  for name in 'qkv':
    assert (kernels[name].contracted, kernels[name].outputs) == ((0,), (1,))


@pytest.mark.parametrize('shape, fn', [
    ((32,), lambda w, x: x @ w.reshape(8, 4)),
    ((16, 4), lambda w, x: jnp.einsum('ni,iho->nho', x, w.reshape(8, 2, 4))),
    ((24, 4), lambda w, x: jnp.einsum(
        'ngi,gio->ngo', x.reshape(N, 4, 2).repeat(3, 2), w.reshape(4, 6, 4))),
    ((24, 8), lambda w, x: jax.lax.scan(
        lambda x, w: (x @ w, None), x, w.reshape(3, 8, 8))[0]),
    ((16, 8), lambda w, x: x @ w[::2])],
    ids=['flat', 'heads', 'blocks', 'layers', 'stride'])
def test_an_axis_that_is_contracted_in_part_stays_dense_with_the_reason(
    shape, fn):
  """Groups of 4 along it would have outputs in them, or parts of two blocks."""
  params = weights({'w': shape, 'out': (4, 4)})
  rules = kernel_patterns(
      lambda p, x: (fn(p['w'], x), x[:, :4] @ p['out']), params, data(N, 8),
      pattern=nm(2, 4))
  assert rules.dense == {'w': 'contracted along a part of axis 0'}
  assert [*rules] == ['out']


def test_an_axis_that_is_not_followed_stays_dense_with_the_reason():
  rules = kernel_patterns(
      lambda p, x: (x @ p['w'][:, jnp.arange(8)[::-1]].T, x @ p['out']),
      weights({'w': (4, 8), 'out': (8, 4)}), data(N, 8), pattern=nm(2, 4))
  assert rules.dense == {'w': 'contracted along an axis that is not followed'}
  assert [*rules] == ['out']


@pytest.mark.parametrize('shape, fn', [
    ((16, 4), lambda w, x: x @ w[:8] + x @ w[8:]),
    ((4, 4), lambda w, x: x @ jnp.concatenate([w, w])),
    ((8, 4), lambda w, x: jnp.einsum(
        'nhk,hkd->nd', x.reshape(N, 2, 4), w.reshape(2, 4, 4))),
    ((36, 4), lambda w, x: jax.lax.conv_general_dilated(
        x.reshape(1, N, 2, 4), w.reshape(3, 3, 4, 4), (1, 1), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC')))],
    ids=['slices', 'twice', 'heads', 'window'])
def test_slices_and_axes_that_are_contracted_with_others_are_kernels(shape, fn):
  rules = kernel_patterns(
      lambda p, x: fn(p['w'], x), weights({'w': shape}), data(N, 8),
      pattern=nm(2, 4))
  assert dict(rules) == {'w': nm(2, 4)}


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


def test_a_closed_over_batch_is_no_data():
  """The docstring asks for the batch as an input."""
  x = data(N, 8)
  with pytest.raises(ValueError):
    kernel_patterns(lambda p: x @ p['w'], weights({'w': (8, 4)}),
                    pattern=nm(2, 4))
