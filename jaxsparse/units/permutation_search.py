"""Partitions of columns into groups of M that keep more magnitude under N:M.

Each row keeps the N largest entries of every group of M columns. The kept
magnitude depends on which columns share a group, but not on the order within
groups or of groups. `search` looks for the partition that keeps the most. Up to
16 columns it finds the optimum; for more, random pairs of groups swap columns,
under simulated annealing.

The **bar** of a column is the threshold, row by row, that a column in its place
must exceed to be kept: the N-th largest of the M - 1 other columns in its
group. If column j replaces column i in a group, the group gains

  `sum_r max(w[j, r], bar[i, r]) - sum_r max(w[i, r], bar[i, r])`,

so two maxima per row give the gain of a swap, for any N and M.
"""

import math
from typing import Any, Callable, Iterable, Iterator, NamedTuple

import numpy as np

Progress = Callable[[Iterable[Any]], Iterable[Any]]
_EXACT = 16  # Up to so many columns.
_CACHED = 2**18  # Floats at a time.
_HEAT = 0.2  # The first temperature, in standard deviations of a swap's gain.
_NOISE = 0.5  # What blurs the choice of a swap, in temperatures.


def search(columns: np.ndarray, n: int, m: int, *, budget: int, seed: int = 0,
           progress: Progress | None = None) -> np.ndarray:
  """Searches for an order of columns with which N:M keeps the most magnitude.

  The objective is `argmax_p sum_r sum_groups top_n(columns[p, r])`, solved
  exactly if K <= 16. For more columns, there are `budget` sweeps of simulated
  annealing. In a sweep, groups are paired at random, and each pair makes its
  best swap of two columns, with a little noise on gains, if the swap gains more
  than `-temperature * e`, where e is exponentially distributed. The temperature
  falls linearly to 0. The result is the best partition seen.

  A sweep takes about `K * M * R` maxima and as many additions.

  Args:
    columns: `[K, R]` float32, nonnegative and finite, of order 1; one row for
      each column of the weight.
    n: the number of kept entries in each group, `0 < n < m`.
    m: the size of a group; divides K.
    budget: the number of sweeps; 0 returns the identity.
    seed: the seed of the pairs and the noise.
    progress: a function that wraps the iterable of sweeps, such as `tqdm.tqdm`.

  Returns:
    The order, int32 `[K]`: ascending within groups, and groups sorted by their
    first column. It is the identity if no better order was found. After Ctrl-C,
    it is the best order so far.

  References:
    Pool and Yu, `Channel Permutations for N:M Sparsity
    <https://proceedings.neurips.cc/paper/2021/hash/6e8404c3b93a9527c8db241a1846599a-Abstract.html>`_,
    2021. The paper makes the best of all swaps until no swap gains, or
    optimises pairs and triples of groups exhaustively, and leaves local optima
    by a bounded number of random swaps. Here all groups swap at once, and the
    temperature leaves local optima.

  >>> columns = np.array([[4., 2.], [3., 1.], [0., 0.], [0., 0.]], np.float32)
  >>> search(columns, 1, 2, budget=1)
  array([0, 2, 1, 3], dtype=int32)
  """
  best = identity = np.arange(len(columns), dtype=np.int32)
  sweeps = range(budget)
  try:
    if budget and len(columns) <= _EXACT:
      best = _optimum(columns, n, m)
    else:
      for better in _annealed(
          columns, n, m, progress(sweeps) if progress else sweeps, budget,
          np.random.default_rng(seed)):
        best = better
  except KeyboardInterrupt:
    pass
  if kept(columns[best], n, m) <= kept(columns, n, m):
    return identity
  groups = np.sort(best.reshape(-1, m), axis=1)
  return groups[np.argsort(groups[:, 0])].reshape(-1).astype(np.int32)


def kept(columns: np.ndarray, n: int, m: int) -> float:
  """The magnitude that N:M keeps: the N largest of each row's groups of M.

  Sums are in float64, and exact over groups, whose order therefore is of no
  consequence.

  Args:
    columns: `[K, R]` float32, nonnegative; one row for each column of the
      weight.
    n: how many of each group are kept.
    m: the size of a group; divides K.

  Returns:
    The kept magnitude.

  >>> kept(np.array([[4.], [3.], [0.], [1.]], np.float32), 1, 2)
  5.0
  """
  count, rows = columns.shape
  groups = columns.reshape(count // m, m, rows).swapaxes(0, 1)
  return math.fsum(_top_sums(groups, n))


def is_pruned(columns: np.ndarray, n: int, m: int) -> bool:
  """Whether no group has more than N that are not zero, but some has any.

  >>> is_pruned(np.array([[1.], [0.], [0.], [2.]]), 1, 2)
  True
  """
  groups = (columns != 0).reshape(len(columns) // m, m, -1)
  return bool(groups.any() and groups.sum(1).max() <= n)


def _top_sums(columns: np.ndarray, n: int) -> np.ndarray:
  """`[m, ..., rows] -> [...]`: the N largest of each row, summed in float64."""
  return sum((t.sum(-1, dtype=np.float64) for t in _largest(columns, n)),
             np.zeros(()))


def _largest(columns: np.ndarray, count: int) -> list[np.ndarray]:
  """The `count` largest along the first axis, largest first."""
  top = []
  for column in columns:
    for i, rival in enumerate(top):
      top[i], column = np.maximum(rival, column), np.minimum(rival, column)
    if len(top) < count:
      top.append(column)
  return top


def _bars(columns: np.ndarray, n: int) -> np.ndarray:
  """`[m, ..., rows]`: the N-th largest of the others, for each of M."""
  *_, last_kept, first_pruned = _largest(columns, n + 1)
  return np.where(columns >= last_kept, first_pruned, last_kept)


def _optimum(columns: np.ndarray, n: int, m: int) -> np.ndarray:
  """The best order, by a dynamic program over sets of columns as bitmasks.

  The group that comes next always has the first column that is not yet used.
  """
  count, rows = columns.shape
  bits = (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)
  groups = np.flatnonzero(bits.sum(1) == m)
  members = np.nonzero(bits[groups])[1].reshape(-1, m)
  step = max(1, _CACHED // groups.size)
  worth, best = np.zeros((2, 2**count))
  for r in range(0, rows, step):
    worth[groups] += _top_sums(columns[members.T, r:r + step], n)
  last = np.zeros(2**count, int)
  used = np.zeros(1, int)
  for free in range(count, 0, -m):
    unused = np.nonzero(~bits[used])[1].reshape(used.size, free)
    places = members[(groups % 2 == 1) & (groups < 2**free)]
    group = (1 << unused[:, places]).sum(-1)
    after = used[:, None] | group
    total = best[used][:, None] + worth[group]
    np.maximum.at(best, after, total)
    # Of repeated indices the last assignment holds: the first of equal groups.
    chosen = np.flatnonzero(total == best[after])[::-1]
    last[after.flat[chosen]] = group.flat[chosen]
    used = np.unique(after)
  order, rest = [], 2**count - 1
  while rest:
    order.append(np.flatnonzero(bits[last[rest]]))
    rest ^= last[rest]
  return np.concatenate(order)


class _Groups(NamedTuple):
  """A partition, changed in place. Groups are along the second axis."""
  order: np.ndarray  # [m, groups]
  weights: np.ndarray  # [m, groups, rows]
  bars: np.ndarray  # [m, groups, rows]


def _gains(groups: _Groups, a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """`[m, m, pairs]`: of swapping column i of group a with column j of b."""
  # `take`, unlike `[:, a]`, gives contiguous rows: twice as fast.
  weights_a, weights_b = (groups.weights.take(g, 1) for g in (a, b))
  bars_a, bars_b = (groups.bars.take(g, 1) for g in (a, b))
  add = np.ones(weights_a.shape[-1], np.float32)
  before_a = np.maximum(weights_a, bars_a) @ add
  before_b = np.maximum(weights_b, bars_b) @ add
  return (np.maximum(weights_b, bars_a[:, None]) @ add - before_a[:, None]
          + np.maximum(weights_a[:, None], bars_b) @ add - before_b)


def _swap(groups: _Groups, a: np.ndarray, b: np.ndarray, i: np.ndarray,
          j: np.ndarray, n: int) -> None:
  """Swaps column i of group a with column j of b, in all pairs."""
  for x in (groups.order, groups.weights):
    x[i, a], x[j, b] = x[j, b], x[i, a]
  changed = np.concatenate([a, b])
  groups.bars[:, changed] = _bars(groups.weights.take(changed, 1), n)


def _annealed(columns: np.ndarray, n: int, m: int, sweeps: Iterable[int],
              budget: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
  """Yields ever better orders."""
  order = np.arange(len(columns)).reshape(-1, m).T.copy()
  weights = columns[order]
  groups = _Groups(order, weights, _bars(weights, n))
  pairs = order.shape[1] // 2
  batch = max(1, _CACHED // max(1, m * m * columns.shape[1]))
  total = best = 0.
  heat = None
  for sweep in sweeps:
    shuffled = rng.permutation(order.shape[1])
    for start in range(0, pairs, batch):
      a = shuffled[:pairs][start:start + batch]
      b = shuffled[pairs:][start:start + batch][:a.size]
      gains = _gains(groups, a, b).reshape(m * m, a.size)
      if heat is None:
        heat = _HEAT * gains.std()
      temperature = heat * (1 - sweep / budget)
      # Without noise two groups that meet again undo what they last did.
      swap = (gains + temperature * _NOISE * rng.standard_exponential(
          gains.shape, np.float32)).argmax(0)
      gain = gains[swap, np.arange(a.size)]
      taken = gain > -temperature * rng.standard_exponential(a.size)
      if taken.any():
        _swap(groups, a[taken], b[taken], *np.divmod(swap[taken], m), n)
        total += gain[taken].sum(dtype=np.float64)
    if total > best:
      best = total
      yield order.T.reshape(-1)
