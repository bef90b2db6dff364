"""Permutations found for weights: axes, several arrays, dtypes and errors."""

import itertools
import re

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import block
from jaxsparse import nm
from jaxsparse import select
from jaxsparse import unstructured
from jaxsparse.units import permutation_search
from jaxsparse.units.permutation import find_permutation


def kept(w, n, m):
  """The oracle for axis -2: sort each column's groups, sum their last N."""
  groups = np.moveaxis(np.abs(np.float64(w)), -2, -1).reshape(-1, m)
  return np.sort(groups, axis=1)[:, m - n:].sum()


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def find(scores, pattern, **kwargs):
  return find_permutation(scores, pattern, **{'budget': 30, **kwargs})


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(
    st.sampled_from([4, 8, 20, 24]), st.integers(0, 4)),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_never_keeps_less_than_the_identity(w):
  p = find(w, nm(2, 4), budget=5)
  np.testing.assert_array_equal(np.sort(p), np.arange(len(w)))
  assert kept(np.take(w, p, -2), 2, 4) >= kept(w, 2, 4) * (1 - 1e-12)


def test_more_is_kept_by_select():
  w = jax.device_put(normal(32, 8))
  permuted = jnp.take(w, find(w, nm(2, 4)), axis=-2)
  before, after = (float(jnp.abs(x)[select(jnp.abs(x), nm(2, 4))].sum())
                   for x in (w, permuted))
  assert after > 1.02 * before


def test_the_sign_is_of_no_consequence():
  w = normal(32, 8)
  np.testing.assert_array_equal(
      find(w, nm(2, 4)), find(np.abs(w), nm(2, 4)))


@pytest.mark.parametrize('axis', [0, 1, 2, -1, -2, -3])
def test_any_axis_is_searched(axis):
  w = normal(20, 3, 4)
  np.testing.assert_array_equal(
      find(np.moveaxis(w, 0, axis), nm(2, 4, axis=axis)),
      find(w.reshape(20, 12), nm(2, 4)))


@pytest.mark.parametrize('axis', [(-3, -2), (0, 1)])
def test_joined_axes_are_searched_as_one_major_first(axis):
  w = normal(6, 4, 5)
  np.testing.assert_array_equal(
      find(w, nm(2, 4, axis=axis)), find(w.reshape(24, 5), nm(2, 4)))


@pytest.mark.parametrize('channels', [16, 32])
def test_several_arrays_are_searched_as_one_with_stacked_rows(channels):
  a, b = normal(channels, 3), normal(channels, 5, seed=1)
  together = find(np.concatenate([a, b], axis=1), nm(2, 4))
  for arrays in ([a, b], (a, jnp.asarray(b))):
    np.testing.assert_array_equal(find(arrays, nm(2, 4)), together)
  np.testing.assert_array_equal(
      find([a, b.T.reshape(5, channels // 4, 4)],
           [nm(2, 4), nm(2, 4, axis=(1, 2))]), together)


@pytest.mark.parametrize('dtype, exponent', [
    (np.float32, -149), (np.float32, 124), (np.float64, -1074),
    (np.float64, 1020)])
def test_scale_is_of_no_consequence(dtype, exponent):
  w = np.random.default_rng(0).integers(1, 9, (24, 6)).astype(dtype)
  np.testing.assert_array_equal(
      find(np.ldexp(w, exponent), nm(2, 4)), find(w, nm(2, 4)))


@pytest.mark.parametrize('dtype', [
    'bfloat16', 'float16', 'float64', 'int8', 'int32', 'int64', 'uint8'])
def test_every_dtype_is_searched_alike(dtype):
  w = np.random.default_rng(0).integers(0, 99, (24, 6))
  np.testing.assert_array_equal(
      find(w.astype(jnp.dtype(dtype)), nm(2, 4)),
      find(w.astype(np.float32), nm(2, 4)))


def test_the_least_integer_has_a_magnitude():
  w = np.array([[-128], [127], [1], [0]], np.int8)
  np.testing.assert_array_equal(find(w, nm(1, 2)), [0, 2, 1, 3])


def test_jax_arrays_are_searched():
  w = jax.random.normal(jax.random.key(0), (24, 6), jnp.bfloat16)
  np.testing.assert_array_equal(
      find(w, nm(2, 4)), find(np.asarray(w, np.float32), nm(2, 4)))


@pytest.mark.parametrize('shape', [(24, 0), (0, 3), (24, 3), (24,)])
def test_zeros_and_nothing_give_the_identity(shape):
  p = find(np.zeros(shape), nm(2, 4, axis=0))
  assert p.dtype == np.int32
  np.testing.assert_array_equal(p, np.arange(shape[0]))


@pytest.mark.parametrize('n, m', [(0, 4), (4, 4), (1, 1), (12, 24)])
def test_identity_where_there_is_nothing_to_choose(n, m):
  np.testing.assert_array_equal(find(normal(24, 3), nm(n, m)), np.arange(24))


def test_a_seed_gives_one_permutation():
  w = normal(64, 8)
  np.testing.assert_array_equal(
      find(w, nm(2, 4), seed=1), find(w, nm(2, 4), seed=1))
  assert (find(w, nm(2, 4), seed=1) != find(w, nm(2, 4), seed=2)).any()


def test_interrupted_gives_the_best_so_far():
  def progress(sweeps):
    yield from itertools.islice(sweeps, 10)
    raise KeyboardInterrupt
  w = normal(64, 8)
  p = find(w, nm(2, 4), budget=1000, progress=progress)
  assert kept(w[p], 2, 4) > kept(w, 2, 4)


def test_the_default_budget_keeps_more_than_a_small_one():
  columns = np.abs(normal(64, 16))
  p, q = find_permutation(columns, nm(2, 4)), find(columns, nm(2, 4))
  kept = [permutation_search.kept(columns[order], 2, 4) for order in (p, q)]
  assert kept[0] > kept[1]


@pytest.mark.parametrize('scores, pattern, options, says', [
    (np.ones((6, 2)), nm(2, 4), {}, 'multiple of 4.*with 6 on that axis'),
    (np.ones((2, 3, 5)), nm(2, 4, axis=(0, 1)), {}, 'with 6 on that axis'),
    (np.ones(8), nm(2, 4), {}, r'needs axis -2.*shape \(8,\)'),
    (np.ones((8, 2)), unstructured(), {}, 'Expected an N:M pattern'),
    (np.ones((8, 2)), block((4, 1)), {}, 'Expected an N:M pattern'),
    (np.ones((8, 2)), [nm(2, 4)] * 2, {}, '1 arrays and 2 patterns'),
    (np.ones((8, 2)), (2, 4), {}, 'must be a pattern or a list'),
    (np.ones((8, 2)), '2:4', {}, 'must be a pattern or a list'),
    ([np.ones((8, 2)), np.ones((4, 2))], nm(2, 4), {}, r'got \[8, 4\]'),
    ([], nm(2, 4), {}, '0 arrays'),
    ([np.ones((8, 2))] * 2, [nm(2, 4)], {}, '2 arrays and 1 patterns'),
    ([np.ones((8, 2))] * 2, [nm(2, 4), nm(1, 4)], {}, 'axes may differ'),
    (np.full((8, 2), np.nan), nm(2, 4), {}, 'NaN or infinity'),
    (np.full((8, 2), -np.inf), nm(2, 4), {}, 'NaN or infinity'),
    (np.ones((8, 2)), nm(2, 4), {'budget': -1}, 'got -1'),
    (np.ones((8, 2)), nm(2, 4), {'budget': 0.5}, 'got 0.5'),
])
def test_errors_say_what_to_write(scores, pattern, options, says):
  with pytest.raises(ValueError) as error:
    find(scores, pattern, **options)
  assert re.search(says, str(error.value))
  assert re.search('Write|Use|Give|Only', str(error.value))


def _mlp():
  rng = np.random.default_rng(0)
  params = {'w1': rng.normal(size=(4, 32)).astype(np.float32),
            'w2': rng.normal(size=(32, 8)).astype(np.float32)}
  return params, [jaxsparse.units.Tie(32, (('w1', 1), ('w2', 0)))]


def test_ties_by_hand_may_be_a_list():
  params, ties = _mlp()
  orders = jaxsparse.find_permutations(params, ties, {'w2': nm(2, 4)})
  moved = jaxsparse.permute(params, ties, orders)
  np.testing.assert_array_equal(
      moved['w1'], params['w1'][:, orders['w1[:, *]']])


def test_what_is_pruned_already_has_no_better_order():
  params, ties = _mlp()
  mask = jaxsparse.select(np.abs(params['w2']), nm(2, 4))
  pruned = params | {'w2': params['w2'] * np.asarray(mask)}
  with pytest.raises(ValueError, match='are N:M already'):
    jaxsparse.find_permutations(pruned, ties, {'w2': nm(2, 4)})


def test_ties_of_other_parameters_are_told():
  params, ties = _mlp()
  with pytest.raises(ValueError, match=r"must have w1, which"):
    jaxsparse.find_permutations(
        {'w2': params['w2']}, ties, {'w2': nm(2, 4)})
