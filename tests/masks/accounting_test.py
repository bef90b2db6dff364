"""Summaries: totals by hand, the table, and what regularity is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsparse import patterns
from jaxsparse.masks import accounting
from jaxsparse.masks import selection
from jaxsparse.masks.accounting import summary


def mask_of(pattern, shape, sparsity=None, seed=0):
  scores = np.random.default_rng(seed).random(shape, np.float32)
  return selection.select(jnp.asarray(scores), pattern, sparsity)


def described(mask):
  return summary({'w': jnp.zeros(mask.shape)}, {'w': mask}).layers[0].pattern


def example():
  params = {'mlp': {'kernel': jnp.ones((6, 4)), 'bias': jnp.ones(4)},
            'conv': [jnp.ones((2, 2, 3, 5))], 'scale': jnp.ones(())}
  rng = np.random.default_rng(0)
  conv = rng.random((2, 2, 3, 5)) < .3
  kernel = rng.random((6, 4)) < .5
  masks = {'mlp': {'kernel': jnp.asarray(kernel), 'bias': None},
           'conv': [jnp.asarray(conv)], 'scale': optax.MaskedNode()}
  return params, masks, int(kernel.sum()), int(conv.sum())


def test_totals_are_exact():
  params, masks, kernel, conv = example()
  s = summary(params, masks)
  assert s.size == 24 + 4 + 60 + 1
  assert s.kept == kernel + 4 + conv + 1
  assert s.maskable == 24 + 60
  assert s.sparsity == pytest.approx(1 - (kernel + conv) / 84)
  assert s.total_sparsity == pytest.approx(1 - (kernel + conv + 5) / 89)
  rows = {layer.path: layer for layer in s.layers}
  assert set(rows) == {'mlp/kernel', 'mlp/bias', 'conv/0', 'scale'}
  assert rows['mlp/kernel'][1:2] + rows['mlp/kernel'][3:] == (
      (6, 4), 24, kernel)
  assert rows['conv/0'].kept == conv
  assert rows['conv/0'].sparsity == pytest.approx(1 - conv / 60)
  assert rows['mlp/bias'] == accounting.Layer('mlp/bias', (4,), 'dense', 4, 4)
  assert rows['scale'] == accounting.Layer('scale', (), 'dense', 1, 1)
  assert rows['scale'].sparsity == 0


def test_rows_are_in_the_order_of_leaves():
  params, masks, _, _ = example()
  assert [layer.path for layer in summary(params, masks).layers] == [
      'conv/0', 'mlp/bias', 'mlp/kernel', 'scale']


def test_the_table_shows_every_layer():
  params = {'a': jnp.ones((1, 2000)), 'b': jnp.ones((3, 3)), 'c': jnp.ones(())}
  masks = {'a': jnp.asarray(np.arange(2000)[None] % 2000 < 500),
           'b': None, 'c': None}
  text = str(summary(params, masks))
  lines = [line.split() for line in text.splitlines()]
  assert lines[0] == ['layer', 'shape', 'pattern', 'sparsity', 'kept', 'of']
  assert lines[2][0] == 'a' and lines[2][1] == '1x2000'
  assert lines[2][-3:] == ['75.0%', '500', '2,000']
  assert lines[3] == ['b', '3x3', 'dense', '-', '9', '9']
  assert lines[4] == ['c', 'scalar', 'dense', '-', '1', '1']
  assert lines[6] == ['sparse', 'layers', '75.0%', '500', '2,000']
  assert lines[7] == ['all', '74.6%', '510', '2,010']
  assert len(lines) == 8
  assert all(line == line.rstrip() for line in text.splitlines())


def test_all_dense_and_nothing_at_all():
  s = summary({'w': jnp.ones((2, 2))}, {'w': None})
  assert (s.size, s.kept, s.maskable) == (4, 4, 0)
  assert s.sparsity == s.total_sparsity == 0
  assert 'dense' in str(s)
  s = summary({}, {})
  assert (s.layers, s.size, s.kept, s.sparsity) == ((), 0, 0, 0)
  assert 'all' in str(s)


def test_none_leaves_and_empty_weights_are_no_trouble():
  s = summary({'a': None, 'b': jnp.ones((0, 4))},
              {'a': None, 'b': jnp.ones((0, 4), bool)})
  assert (s.size, s.kept, s.sparsity) == (0, 0, 0)
  assert '0x4' in str(s)


def test_everything_pruned_and_everything_kept():
  s = summary({'a': jnp.ones((4, 4)), 'b': jnp.ones((4, 4))},
              {'a': jnp.zeros((4, 4), bool), 'b': jnp.ones((4, 4), bool)})
  assert [layer.sparsity for layer in s.layers] == [1, 0]
  assert [layer.pattern for layer in s.layers] == ['all pruned', 'all kept']
  assert s.sparsity == .5 and s.maskable == 32


def test_numpy_and_shape_structs_may_stand_for_params():
  s = summary({'a': jax.ShapeDtypeStruct((4, 2), jnp.float32)},
              {'a': np.arange(8).reshape(4, 2) < 3})
  assert (s.size, s.kept) == (8, 3)


@pytest.mark.parametrize('n, m', [(2, 4), (1, 4), (3, 8), (5, 16), (9, 32)])
def test_n_of_m_is_seen(n, m):
  assert described(mask_of(patterns.nm(n, m), (2 * m, 7))) == f'{n}:{m}'


def test_n_of_m_is_seen_in_convolutions_with_its_axis():
  assert described(mask_of(patterns.nm(2, 4), (3, 3, 8, 5))) == '2:4, axis -2'


@pytest.mark.parametrize('rows', [2, 6, 8])
def test_one_of_two_is_seen(rows):
  assert described(mask_of(patterns.nm(1, 2), (rows, 9))) == '1:2'


@pytest.mark.parametrize('axis', [-1, -2, -3])
def test_n_of_m_in_three_axes_names_its_own(axis):
  mask = mask_of(patterns.nm(2, 4, axis=axis), (8, 12, 16))
  assert described(mask) == f'2:4, axis {axis}'


def test_n_of_m_along_the_outputs_of_a_matrix_says_so():
  assert described(
      mask_of(patterns.nm(2, 4, axis=-1), (3, 16))) == '2:4, axis -1'


@pytest.mark.parametrize('axis', [-1, -2])
@pytest.mark.parametrize('shape', [(6, 8), (3, 3, 4, 8)])
def test_channels_are_seen(axis, shape):
  mask = mask_of(patterns.channel(axis), shape, .5)
  assert described(mask) == f'channel({axis})'


@pytest.mark.parametrize('size', [(4, 4), (2, 2), (1, 4), (8, 1), (16, 2)])
def test_blocks_are_seen(size):
  mask = mask_of(patterns.block(size), (32, 32), .6)
  assert described(mask) == f'block{size}'


def test_single_weights_are_unstructured():
  assert described(mask_of(patterns.unstructured(), (16, 16), .5)) == (
      'unstructured')
  assert described(mask_of(patterns.unstructured(), (33,), .5)) == (
      'unstructured')


@pytest.mark.parametrize('masks', [
    {'a': np.ones((2, 2), bool)}, {'a': np.ones((2, 2), bool), 'c': None},
    {'a': {'k': np.ones((2, 2), bool)}, 'b': None},
    {'a': [np.ones((2, 2), bool), None], 'b': None}],
                         ids=['missing', 'renamed', 'deeper', 'list'])
def test_other_trees_are_an_error(masks):
  params = {'a': jnp.ones((2, 2)), 'b': jnp.ones(3)}
  with pytest.raises(ValueError, match='`masks` must have the structure'):
    summary(params, masks)


def test_mask_flips_are_counted_layer_by_layer_both_ways():
  rng = np.random.default_rng(0)
  before, after = (
      {'a': {'kernel': rng.random((16, 8)) < .5, 'bias': None},
       'b': [rng.random((2, 3, 4)) < .5]} for _ in range(2))
  flips = jax.jit(accounting.mask_flips)(before, after)
  assert flips['a']['bias'] is None
  for got, x, y in zip(jax.tree.leaves(flips), jax.tree.leaves(before),
                       jax.tree.leaves(after)):
    assert got.shape == () and got.dtype == jnp.uint32
    assert int(got) == (x & ~y).sum() + (~x & y).sum() > 0
  nothing = accounting.mask_flips(
      *(jax.tree.map(jnp.asarray, before) for _ in range(2)))
  assert not any(map(int, jax.tree.leaves(nothing)))


@pytest.mark.parametrize('shape, dtype', [
    ((2**16, 2**16 - 1), jnp.uint32), ((80, 8_192, 28_672), jnp.float32)])
def test_mask_flips_do_not_wrap_in_stacked_layers(shape, dtype):
  mask = jax.ShapeDtypeStruct(shape, bool)
  assert jax.eval_shape(accounting.mask_flips, mask, mask).dtype == dtype


def test_mask_flips_of_other_trees_are_an_error():
  mask = jnp.ones((2, 2), bool)
  for after in ({'a': mask}, {'a': mask, 'c': None}, [mask, None]):
    with pytest.raises(ValueError, match='masks of the same layers'):
      accounting.mask_flips({'a': mask, 'b': None}, after)


def test_mask_flips_of_other_sparse_layers_are_an_error():
  mask = jnp.ones((2, 2), bool)
  trees = {'a': mask, 'b': None}, {'a': None, 'b': None}
  for before, after in (trees, trees[::-1]):
    with pytest.raises(ValueError, match='masks of the same layers'):
      accounting.mask_flips(before, after)
