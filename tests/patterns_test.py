"""Patterns as data: how they are written, what they tile, what is refused."""

import dataclasses
import math
import re

from flax import linen
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.patterns import attention
from jaxsparse.patterns import block
from jaxsparse.patterns import channel
from jaxsparse.patterns import is_nm
from jaxsparse.patterns import is_transposable
from jaxsparse.patterns import n_m_axis
from jaxsparse.patterns import nm
from jaxsparse.patterns import Pattern
from jaxsparse.patterns import Tiling
from jaxsparse.patterns import unstructured
from jaxsparse.patterns import with_sparsity


def test_patterns_are_plain_data():
  assert nm(2, 4) == nm(2, 4) and nm(2, 4) != nm(1, 4)
  assert nm(2, 4) != nm(2, 4, axis=-1)
  assert nm(2, 4) != nm(2, 4, transposable=True)
  assert len({nm(2, 4), nm(2, 4), unstructured(), block((2, 2))}) == 3
  with pytest.raises(dataclasses.FrozenInstanceError):
    nm(2, 4).sparsity = .5


@pytest.mark.parametrize('n, m', [(0, 4), (1, 3), (2, 4), (4, 4)])
def test_nm_is_as_sparse_as_it_says(n, m):
  pattern = nm(n, m)
  assert pattern.sparsity == pytest.approx(1 - n / m)
  assert round((1 - pattern.sparsity) * m) == n


@pytest.mark.parametrize('pattern, text', [
    (unstructured(), 'unstructured()'), (nm(2, 4), 'nm(2, 4)'),
    (nm(2, 4, axis=-1), 'nm(2, 4, axis=-1)'),
    (nm(2, 4, transposable=True), 'nm(2, 4, transposable=True)'),
    (nm(1, 4, axis=(-3, -2), transposable=True),
     'nm(1, 4, axis=(-3, -2), transposable=True)'),
    (block((4, 4)), 'block((4, 4))'), (channel(), 'channel(-1)'),
    (block((1, 16), balanced=True), 'block((1, 16), balanced=True)'),
    (unstructured(sparsity=.9), 'unstructured(sparsity=0.9)'),
    (unstructured(.9, balanced=True),
     'unstructured(balanced=True, sparsity=0.9)')], ids=str)
def test_patterns_show_how_they_are_written(pattern, text):
  assert str(pattern) == text


@pytest.mark.parametrize('pattern, grid, sizes', [
    (unstructured(), (2, 8, 4), (1, 64)), (nm(2, 4), (2, 8, 4), (16, 4)),
    (nm(2, 4, axis=-1), (2, 8, 4), (16, 4)),
    (nm(2, 4, transposable=True), (2, 8, 4), (4, 16)),
    (block((4, 2)), (2, 2, 2), (1, 8)), (block((4,)), (2, 8, 1), (1, 16)),
    (block((4, 2), balanced=True), (2, 2, 2), (4, 2)),
    (block((4,), balanced=True), (2, 8, 1), (2, 8)),
    (unstructured(balanced=True), (2, 8, 4), (4, 16))],
                         ids=str)
def test_grid_and_sizes_count_units(pattern, grid, sizes):
  assert pattern.grid((2, 8, 4)) == grid
  assert pattern.sizes((2, 8, 4)) == sizes


def test_channel_has_a_unit_per_index():
  assert math.prod(channel(-1).grid((2, 8, 4))) == 4
  assert math.prod(channel(-2).grid((2, 8, 4))) == 8
  assert channel(0).sizes((2, 8, 4)) == (1, 2)


@pytest.mark.parametrize('n, m', [(3, 2), (-1, 4), (1, 0), (2, -4)])
def test_n_above_m_is_an_error(n, m):
  with pytest.raises(ValueError, match=r'(?s)n of every m.*got nm\('):
    nm(n, m)


@pytest.mark.parametrize('shape', [(), (0, 4), (-1,)])
def test_a_block_without_a_size_is_an_error(shape):
  with pytest.raises(ValueError, match=r'(?s)positive sizes, got.*block\('):
    block(shape)


@pytest.mark.parametrize('shape', [(1, 4), (4, 4), (2, 2), (4,), (1, 1),
                                   (2, 1, 4)], ids=str)
@pytest.mark.parametrize('sparsity', [.5, .75])
def test_balanced_blocks_compete_along_the_inputs_of_their_outputs(
    shape, sparsity):
  scores = np.random.default_rng(len(shape)).random((2, 16, 8), np.float32)
  mask = jaxsparse.select(scores, block(shape, balanced=True), sparsity)
  a, b, c = ((1,) * 3 + shape)[-3:]
  expected = np.zeros_like(scores, bool)
  for i in range(0, 2, a):
    for j in range(0, 8, c):
      part = slice(i, i + a), slice(None), slice(j, j + c)
      rows = scores[part].reshape(a, 16 // b, b, c).sum((0, 2, 3))
      kept = np.argsort(-rows)[:round((1 - sparsity) * len(rows))]
      expected[part] = np.isin(np.arange(16) // b, kept)[:, None]
  np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize('shape', [(12, 6), (3, 3, 2, 5), (1, 4), (7, 1)],
                         ids=str)
def test_balanced_weights_compete_with_those_of_their_output(shape):
  scores = np.random.default_rng(1).random(shape, np.float32)
  mask = jaxsparse.select(scores, unstructured(balanced=True), .6)
  columns = scores.reshape(-1, shape[-1])
  kept = round(.4 * len(columns))
  rank = np.argsort(np.argsort(-columns, 0), 0)
  np.testing.assert_array_equal(mask, (rank < kept).reshape(shape))
  assert not is_nm(unstructured(balanced=True))


def test_balanced_weights_need_an_axis_of_inputs():
  with pytest.raises(ValueError, match=(
      r'unstructured.balanced=True. needs axes along.*beside \[-1\].*\(8,\)')):
    jaxsparse.select(jnp.ones(8), unstructured(balanced=True), .5)


def test_balanced_blocks_need_an_axis_of_inputs():
  with pytest.raises(ValueError, match='group of block.*axis -2'):
    jaxsparse.select(jnp.ones(8), block((4,), balanced=True), .5)


def test_a_sparsity_is_a_number_of_python():
  assert unstructured(jnp.float32(.5)) == unstructured(.5)
  for wrong in (jnp.float32(5.), jnp.ones(2), jnp.bool_(True)):
    with pytest.raises(ValueError, match='sparsity must be'):
      unstructured(wrong)


def test_crossed_bounds_are_an_error():
  with pytest.raises(ValueError, match=r'(?s)min_sparsity=0.5.*max_sparsity'):
    unstructured(min_sparsity=.5, max_sparsity=.2)


def test_an_unknown_reduce_is_an_error():
  with pytest.raises(ValueError, match=r"(?s)'sum', 'mean' or 'max'.*'min'"):
    block((2, 2), reduce='min')


@pytest.mark.parametrize('n, m, axis', [
    (2, 4, -2), (0, 4, -1), (1, 3, 0), (7, 10, -3), (9, 128, (-3, -2)),
    (4, 4, (1, 2, 3))])
def test_n_m_axis_is_what_nm_was_called_with(n, m, axis):
  pattern = nm(n, m, axis=axis)
  assert n_m_axis(pattern) == (n, m, axis)
  assert is_nm(pattern) and not is_transposable(pattern)


@pytest.mark.parametrize('n, axis', [(2, -2), (1, -1), (3, (-3, -2))])
def test_a_transposable_pattern_is_n_m_and_says_that_it_is(n, axis):
  pattern = nm(n, 4, axis=axis, transposable=True)
  assert n_m_axis(pattern) == (n, 4, axis)
  assert is_nm(pattern) and is_transposable(pattern)
  assert not is_transposable(unstructured()) and not is_transposable(None)


@pytest.mark.parametrize('n, m, axis', [
    (0, 4, -2), (4, 4, -2), (4, 8, -2), (1, 2, -2), (2, 4, 0), (2, 4, (0, 1))])
def test_other_transposable_patterns_are_an_error(n, m, axis):
  with pytest.raises(ValueError, match=(
      r'(?s)n of 1, 2 or 3, m of 4, and axes counted from the end, got nm\('
      r'.*Write e\.g\. nm\(2, 4')):
    nm(n, m, axis=axis, transposable=True)


@pytest.mark.parametrize('pattern', [
    unstructured(sparsity=.5), block((4, 4), sparsity=.5),
    block((1, 4)), channel(-1, sparsity=.5), 'nm(2, 4)', None], ids=str)
def test_n_m_axis_of_another_pattern_is_an_error(pattern):
  with pytest.raises(ValueError, match=r'N:M pattern, got.*Write e\.g\. nm'):
    n_m_axis(pattern)


@pytest.mark.parametrize('size, sparsity', [(None, .5), (4, None)])
def test_patterns_of_ones_own_may_be_no_nm(size, sparsity):
  pattern = Pattern('mine', Tiling(rest=1), Tiling(((-2, size),), rest=1),
                    sparsity=sparsity)
  assert not is_nm(pattern)
  params = {'a': jnp.zeros((8, 4)), 'b': jnp.ones((8, 4))}
  packed = jaxsparse.pack_params(params, {'a': nm(2, 4), 'b': pattern})
  assert packed['b'] is params['b']


def test_with_sparsity_changes_how_many_and_not_who_competes():
  for pattern in (nm(1, 8), nm(1, 8, axis=(-3, -2)), block((4, 2)),
                  unstructured(sparsity=.9), nm(1, 4, transposable=True)):
    other = with_sparsity(pattern, .75)
    assert other.sparsity == .75
    assert (other.unit, other.group) == (pattern.unit, pattern.group)
  assert n_m_axis(with_sparsity(nm(1, 8, axis=-1), .75)) == (2, 8, -1)
  with pytest.raises(ValueError, match='must be the fraction'):
    with_sparsity(nm(1, 8), 1.5)


# Axes that are contracted together.


def _kept_of(mask, m):
  """How many each group of m rows keeps."""
  return np.asarray(mask).reshape(-1, m, mask.shape[-1]).sum(1)


@pytest.mark.parametrize('shape, m', [
    ((4, 8, 6), 4),   # A group is a part of a head,
    ((4, 4, 6), 4),   # a head,
    ((4, 2, 6), 4),   # two heads,
    ((4, 3, 4), 6),   # two odd heads,
    ((2, 8, 3), 16),  # or all of them.
    ((5, 1, 4), 5)])
def test_joined_axes_are_those_of_the_matrix(shape, m):
  w = jax.random.normal(jax.random.key(0), shape)
  mask = jaxsparse.select(jnp.abs(w), nm(2, m, axis=(-3, -2)))
  matrix = w.reshape(-1, shape[-1])
  expected = jaxsparse.select(jnp.abs(matrix), nm(2, m))
  np.testing.assert_array_equal(mask.reshape(matrix.shape), expected)
  assert (_kept_of(expected, m) == 2).all()


def test_three_axes_are_joined_and_leading_ones_are_not():
  w = jax.random.normal(jax.random.key(0), (3, 2, 2, 2, 5))
  mask = jaxsparse.select(jnp.abs(w), nm(3, 8, axis=(-4, -3, -2)))
  assert (np.asarray(mask).reshape(3, 8, 5).sum(1) == 3).all()


@pytest.mark.parametrize('shape, m', [
    ((4, 3, 6), 8), ((3, 2, 6), 4), ((4, 6, 3), 4), ((2, 2, 3), 8)])
def test_groups_that_do_not_tile_joined_axes_are_an_error(shape, m):
  with pytest.raises(ValueError, match=(
      rf'(?s)axis \(-3, -2\) to be a multiple of {m}.*\({shape[0]}, .*'
      'Use another group size.*dense')):
    nm(2, m, axis=(-3, -2)).sizes(shape)


@pytest.mark.parametrize('axis, shape', [
    (-2, (12, 6)), ((-3, -2), (3, 4, 6)), ((-3, -2), (4, 3, 6))])
def test_the_group_sizes_that_an_error_advises_fit(axis, shape):
  with pytest.raises(ValueError, match='one of') as error:
    nm(2, 5, axis=axis).sizes(shape)
  listed = re.search(r'one of \[(.*?)\]', str(error.value)).group(1)
  for m in map(int, listed.split(', ')):
    assert nm(1, m, axis=axis).sizes(shape) == (72 // m, m)


@pytest.mark.parametrize('pattern, shape, advice', [
    (nm(2, 4), (3, 3, 1, 8), r'Use another axis \(one of \[-1\]\), or make'),
    (nm(2, 4), (1, 1), 'Use another axis, or make it dense'),
    (nm(2, 4), (6, 8), (
        r'group size \(one of \[2, 3, 6\]\), another axis \(one of \[-1\]\)')),
    (nm(2, 4), (10**9 + 1, 3), r'group size \(one of \[7, 11, 13, .*\]')])
def test_an_error_advises_only_what_there_is(pattern, shape, advice):
  with pytest.raises(ValueError, match=advice):
    pattern.sizes(shape)


def test_joined_axes_that_a_weight_lacks_are_an_error():
  with pytest.raises(ValueError, match=r'(?s)needs axis.*\(8, 4\).*dense'):
    nm(2, 4, axis=(-3, -2)).sizes((8, 4))


@pytest.mark.parametrize('axis', [(-3, -1), (-2, -3), (), (-2, -2)], ids=str)
def test_axes_that_are_no_neighbours_are_an_error(axis):
  with pytest.raises(ValueError, match=r'(?s)neighbours.*axis=\(-3, -2\)'):
    nm(2, 4, axis=axis)


# Layers of Flax, and the matrices that multiply in them.


def _matrices(tree):
  """`[in, heads * head_dim]`, and `[heads * head_dim, out]` of the output."""
  return {name: np.asarray(leaf['kernel']).reshape(
      (-1, leaf['kernel'].shape[-1]) if name == 'out'
      else (leaf['kernel'].shape[0], -1)) for name, leaf in tree.items()}


def _attend(x, matrices, heads):
  """Self-attention by matrices alone."""
  q, k, v = ((x @ matrices[name]).reshape(len(x), heads, -1)
             for name in ('query', 'key', 'value'))
  weights = np.exp(np.einsum('qhd,khd->hqk', q, k) / np.sqrt(q.shape[-1]))
  weights /= weights.sum(-1, keepdims=True)
  mixed = np.einsum('hqk,khd->qhd', weights, v).reshape(len(x), -1)
  return mixed @ matrices['out']


def _check_attention(params, layer, heads):
  """The matrices are what the layer multiplies by, their masks 2:4 by rows."""
  x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
  with jax.numpy_rank_promotion('allow'):
    got = layer(jnp.array(x)[None])[0]
  np.testing.assert_allclose(
      got, _attend(x, _matrices(params), heads), rtol=1e-4, atol=1e-5)
  masks = jaxsparse.prune(attention(2, 4)).init(params).masks
  for mask in _matrices(masks).values():
    assert (_kept_of(mask, 4) == 2).all()


@pytest.mark.parametrize('heads, head_dim', [(2, 4), (4, 2)])
def test_attention_is_2_of_4_along_what_nnx_contracts(heads, head_dim):
  layer = nnx.MultiHeadAttention(
      num_heads=heads, in_features=8, qkv_features=heads * head_dim,
      out_features=6, use_bias=False, decode=False, rngs=nnx.Rngs(0))
  params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
  assert params['query']['kernel'].shape == (8, heads, head_dim)
  assert params['out']['kernel'].shape == (heads, head_dim, 6)
  _check_attention(params, layer, heads)


def test_attention_is_2_of_4_along_what_linen_contracts():
  layer = linen.MultiHeadDotProductAttention(
      num_heads=4, qkv_features=8, out_features=6, use_bias=False)
  params = jax.tree.map(
      lambda w: jax.random.normal(jax.random.key(0), w.shape),
      jax.eval_shape(
          layer.init, jax.random.key(0), jnp.ones((1, 2, 8)))['params'])
  # Not the same numbers in all of them.
  params['key'] = jax.tree.map(jnp.sin, params['key'])
  _check_attention(
      params, lambda x: layer.apply({'params': params}, x), heads=4)


def test_a_group_of_a_short_head_spans_heads():
  w = jnp.zeros((2, 2, 1)).at[0].set(1.)
  rule = jaxsparse.prune({'out/kernel': attention(2, 4)[r'(.*/)?out/kernel']})
  mask = rule.init({'out': {'kernel': w}}).masks['out']['kernel']
  np.testing.assert_array_equal(mask, w > 0)


def test_convolutions_are_2_of_4_along_the_rows_of_their_matrix():
  layer = nnx.Conv(8, 5, (3, 3), padding='VALID', use_bias=False,
                   rngs=nnx.Rngs(0))
  kernel = layer.kernel[...]
  x = jax.random.normal(jax.random.key(0), (2, 5, 6, 8))
  patches = jnp.concatenate(
      [x[:, i:i + 3, j:j + 4] for i in range(3) for j in range(3)], axis=-1)
  matrix = kernel.reshape(-1, 5)
  np.testing.assert_allclose(
      layer(x), patches @ matrix, rtol=1e-4, atol=1e-5)
  mask = jaxsparse.select(jnp.abs(kernel), nm(2, 4))
  assert (_kept_of(mask.reshape(matrix.shape), 4) == 2).all()
  assert (np.asarray(mask).reshape(9, 2, 4, 5).sum(2) == 2).all()
