"""Groups of four: which two are kept, and that these come back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.packed import _groups
from jaxsparse.packed import layout24
from tests._lib.packed import assert_same
from tests._lib.packed import normal
from tests._lib.packed import prune
from tests._lib.packed import unpack


def test_groups_are_split_and_padded_with_zeros():
  matrix = normal(2, 7, 3)
  for count in (2, 64):
    groups = _groups.split_groups(matrix, count)
    assert groups.shape == (2, count, 4, 3)
    np.testing.assert_array_equal(groups[:, 0], matrix[:, :4])
    np.testing.assert_array_equal(groups[:, 1, :3], matrix[:, 4:])
    assert not groups[:, 1, 3].any() and not groups[:, 2:].any()
  assert _groups.split_groups(matrix).shape[1] == _groups.count(7) == 2
  assert _groups.count(7, _groups.TILE) == 64


@pytest.mark.parametrize('n, multiple, expected', [
    (0, 4, 0), (1, 4, 4), (4, 4, 4), (5, 4, 8)])
def test_sizes_are_rounded_up_and_arrays_padded_to_them(n, multiple, expected):
  assert _groups.round_up(n, multiple) == expected
  x = np.ones((2, n), np.float32)
  padded = _groups.padded(jnp.asarray(x), 1, expected)
  assert padded.shape == (2, expected) and padded.sum() == x.sum()


@pytest.mark.parametrize('rows', [
    (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], ids=str)
def test_every_pair_is_found_gathered_and_spread(rows):
  w = np.zeros((256, 1), np.float32)
  for row, value in zip(rows, (3., -2.)):
    w[row::4] = value
  bits = _groups.largest_two(w)
  assert (np.asarray(bits) == sum(1 << row for row in rows)).all()
  for got, expected in ((_groups.kept_rows(bits), rows),
                        (_groups.keep(w, bits), (3., -2.))):
    np.testing.assert_array_equal(got[:, 0, 0], expected)
  np.testing.assert_array_equal(_groups.spread(_groups.keep(w, bits), bits), w)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8'])
def test_magnitudes_are_in_order_and_zero_for_both_zeros(dtype):
  values = [-0., 0., 1, -2, 3, -100] + [np.inf, np.nan] * (dtype != 'int8')
  order = np.asarray(_groups.magnitudes(jnp.asarray(values, dtype)), np.int64)
  assert not order[:2].any() and (np.diff(order[1:]) > 0).all()


@pytest.mark.parametrize('entry', [np.nan, np.inf, 1e-45, -1e-40])
def test_what_is_not_zero_counts_however_small(entry):
  w = np.zeros((8, 1), np.float32)
  w[[4, 5, 7]] = entry
  with pytest.raises(ValueError, match='4:8'):
    layout24.pack(w)
  assert not layout24.is_24(w)


def test_zeros_of_both_signs_do_not_count():
  w = jnp.array([[0.], [-0.], [1.], [-0.]])
  assert layout24.is_24(w)
  np.testing.assert_array_equal(
      np.signbit(unpack(layout24.pack(w))), False)


def largest_two(w):
  """The oracle for `jit`: of every four the two largest, the first of ties."""
  kept = np.zeros(w.shape, bool)
  for g in range(0, len(w), 4):
    for column in range(w.shape[1]):
      sizes = np.abs(np.float64(w[g:g + 4, column]))
      kept[g + np.argsort(-sizes, kind='stable')[:2], column] = True
  return np.where(kept, w, np.zeros((), w.dtype))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16', 'int8'])
def test_within_jit_the_two_largest_stay_and_the_first_of_ties(dtype):
  w = np.round(2 * normal(64, 9)).astype(dtype)  # Of few values: many ties.
  w[:4, 0] = [-128, 1, 127, 2] if dtype == 'int8' else [1, -1, -1, 1]
  packed = jax.jit(layout24.pack)(w)
  np.testing.assert_array_equal(
      np.asarray(unpack(packed)), largest_two(w))
  pruned = largest_two(w)
  assert_same(jax.jit(layout24.pack)(pruned), layout24.pack(pruned))


def test_within_jit_nan_is_the_largest():
  w = jnp.array([[1., jnp.inf], [jnp.nan, 1.], [2., jnp.nan], [3., -jnp.inf]])
  np.testing.assert_array_equal(
      unpack(jax.jit(layout24.pack)(w)),
      [[0., jnp.inf], [jnp.nan, 0.], [0., jnp.nan], [3., 0.]])


def test_gather_takes_the_entries_where_kept_ones_are():
  w = prune(normal(12, 3))
  packed = layout24.pack(w)
  dense = normal(12, 3, seed=1)
  ones = dataclasses.replace(packed, values=jnp.ones_like(packed.values))
  kept = np.asarray(unpack(ones)) == 1
  picked = dataclasses.replace(
      packed, values=_groups.gather(dense, layout24.bits_of(packed)))
  np.testing.assert_array_equal(unpack(picked), np.where(kept, dense, 0))
