"""The search for permutations, against sorting and against all partitions."""

import functools
import itertools

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from jaxsparse.units import permutation_search as partitions

_N_OF_M = ((2, 4), (1, 4), (2, 8), (4, 8))


def kept(columns, n, m):
  """The oracle: sort each row's groups, sum their last N."""
  groups = columns.astype(np.float64).T.reshape(-1, m)
  return np.sort(groups, axis=1)[:, m - n:].sum()


def uniform(count, rows, seed=0):
  return np.random.default_rng(seed).random((count, rows), np.float32)


def efficacy(columns, n, m, p):
  """Percent of what choosing in whole rows would gain over the identity."""
  k = len(columns)
  before, ideal = kept(columns, n, m), kept(columns, k * n // m, k)
  return 100 * (kept(columns[p], n, m) - before) / (ideal - before)


def optimum(columns, n, m):
  """The best over all partitions, each group with the first column left."""
  worth = functools.cache(lambda group: kept(columns[list(group)], n, m))

  @functools.cache
  def best(left):
    if not left:
      return 0.
    groups = ((left[0], *g) for g in itertools.combinations(left[1:], m - 1))
    return max(worth(g) + best(tuple(c for c in left if c not in g))
               for g in groups)
  return best(tuple(range(len(columns))))


def stopping_after(count):
  """A progress bar at which Ctrl-C is pressed after `count` sweeps."""
  def progress(sweeps):
    yield from itertools.islice(sweeps, count)
    raise KeyboardInterrupt
  return progress


@pytest.mark.parametrize('n, m', [*_N_OF_M, (1, 2), (3, 4), (3, 3)])
def test_kept_is_what_sorting_keeps(n, m):
  columns = uniform(3 * m, 7)
  np.testing.assert_allclose(
      partitions.kept(columns, n, m), kept(columns, n, m), rtol=1e-12)


@pytest.mark.parametrize('n, m', [*_N_OF_M, (1, 2), (3, 4), (4, 16)])
@pytest.mark.parametrize('ties', [False, True])
def test_the_gain_of_a_swap_is_what_is_kept_more(n, m, ties):
  columns = uniform(4 * m, 6)
  columns = np.round(3 * columns) if ties else columns
  order = np.arange(4 * m).reshape(4, m).T
  groups = partitions._Groups(
      order, columns[order], partitions._bars(columns[order], n))
  gains = partitions._gains(groups, np.array([0, 1]), np.array([3, 2]))
  for i, j, (pair, (a, b)) in itertools.product(
      range(m), range(m), enumerate([(0, 3), (1, 2)])):
    p = order.copy()
    p[i, a], p[j, b] = p[j, b], p[i, a]
    gain = kept(columns[p.T.ravel()], n, m) - kept(columns, n, m)
    np.testing.assert_allclose(gains[i, j, pair], gain, atol=1e-5)


@pytest.mark.parametrize('n, m, count', [
    (1, 2, 8), (2, 4, 8), (1, 3, 9), (2, 3, 12), (2, 5, 10), (2, 4, 12)])
def test_few_columns_get_the_best_of_all_partitions(n, m, count):
  columns = uniform(count, 5)
  p = partitions.search(columns, n, m, budget=1)
  np.testing.assert_allclose(
      kept(columns[p], n, m), optimum(columns, n, m), rtol=1e-12)


@pytest.mark.parametrize('n, m', _N_OF_M)
@pytest.mark.parametrize('seed', [0, 1])
def test_sixteen_columns_get_the_optimum(n, m, seed):
  columns = uniform(16, 32, seed)
  p = partitions.search(columns, n, m, budget=1)
  np.testing.assert_allclose(
      kept(columns[p], n, m), optimum(columns, n, m), rtol=1e-12)


def test_annealing_finds_the_optimum_of_twelve_columns(monkeypatch):
  columns = uniform(12, 8)
  monkeypatch.setattr(partitions, '_EXACT', 0)
  p = partitions.search(columns, 2, 4, budget=1000)
  np.testing.assert_allclose(
      kept(columns[p], 2, 4), optimum(columns, 2, 4), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_never_worse_than_the_identity_and_canonical(data):
  m = data.draw(st.integers(2, 9))
  n = data.draw(st.integers(1, m - 1))
  count = m * data.draw(st.integers(1, 7))
  rng = np.random.default_rng(data.draw(st.integers(0, 99)))
  columns = rng.standard_normal((count, data.draw(st.integers(0, 5))))
  columns = np.abs(columns).astype(np.float32)
  columns *= rng.random(columns.shape) < data.draw(st.sampled_from([.1, 1.]))
  p = partitions.search(columns, n, m, budget=data.draw(st.integers(0, 9)))
  assert p.dtype == np.int32
  np.testing.assert_array_equal(np.sort(p), np.arange(count))
  groups = p.reshape(-1, m)
  assert (np.diff(groups, axis=1) > 0).all()
  assert (np.diff(groups[:, 0]) > 0).all()
  assert kept(columns[p], n, m) >= kept(columns, n, m) * (1 - 1e-12)


@pytest.mark.parametrize('columns', [
    np.zeros((32, 3)), np.ones((32, 3)), np.ones((32, 0)), np.eye(32, 3),
    np.tile([[2.], [2.], [1.], [1.]], (8, 5))])
def test_identity_where_no_partition_keeps_more(columns):
  columns = columns.astype(np.float32)
  p = partitions.search(columns, 2, 4, budget=20)
  np.testing.assert_array_equal(p, np.arange(len(columns)))


@pytest.mark.parametrize('count, m, budget', [
    (32, 4, 0), (8, 4, 0), (32, 32, 9), (4, 4, 9)])
def test_identity_without_budget_or_with_one_group(count, m, budget):
  p = partitions.search(uniform(count, 8), 2, m, budget=budget)
  np.testing.assert_array_equal(p, np.arange(count))


@pytest.mark.parametrize('count', [16, 40])
def test_what_is_found_depends_on_nothing_but_the_arguments(count):
  columns = uniform(count, 8)
  first, second = (
      partitions.search(columns, 2, 4, budget=50, seed=3) for _ in range(2))
  np.testing.assert_array_equal(first, second)


def test_batches_of_pairs_cover_every_group(monkeypatch):
  columns = uniform(36, 8)
  whole = partitions.search(columns, 2, 4, budget=300)
  monkeypatch.setattr(partitions, '_CACHED', 3 * 16 * 8)
  batched = partitions.search(columns, 2, 4, budget=300)
  assert efficacy(columns, 2, 4, batched) > .9 * efficacy(
      columns, 2, 4, whole) > 0


def test_interrupted_gives_the_best_so_far():
  columns = uniform(64, 32)
  found = [kept(columns[partitions.search(
      columns, 2, 4, budget=200, progress=stopping_after(count))], 2, 4)
      for count in (0, 10, 100, 200)]
  assert found[0] == kept(columns, 2, 4)
  assert found[0] < found[1] < found[2] < found[3]
  whole = partitions.search(columns, 2, 4, budget=200)
  assert found[3] == kept(columns[whole], 2, 4)


def test_progress_sees_every_sweep():
  seen = []
  def progress(sweeps):
    for sweep in sweeps:
      seen.append(sweep)
      yield sweep
  partitions.search(uniform(20, 4), 2, 4, budget=7, progress=progress)
  assert seen == list(range(7))


def test_planted_groups_are_found():
  rng = np.random.default_rng(0)
  fits = np.argsort(rng.random((16, 4, 64)), axis=1) < 2
  columns = (fits * rng.random(fits.shape)).reshape(64, 64)
  columns = columns.astype(np.float32)[rng.permutation(64)]
  p = partitions.search(columns, 2, 4, budget=1000)
  np.testing.assert_allclose(kept(columns[p], 2, 4), columns.sum(), rtol=1e-6)


def test_more_is_kept_than_by_published_searches():
  def mean(rows, count, n, m):
    found = []
    for seed in range(3):
      columns = np.abs(np.random.default_rng(seed).standard_normal(
          (count, rows), np.float32))
      found.append(efficacy(
          columns, n, m, partitions.search(columns, n, m, budget=2000)))
    return np.mean(found)
  assert mean(64, 64, 2, 4) > 47.8
  assert mean(64, 128, 2, 4) > 47.1
  assert mean(128, 256, 2, 4) > 38.7
