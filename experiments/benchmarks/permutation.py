r"""Measures how much more N:M masks keep after a permutation of columns.

  python -m experiments.benchmarks.permutation
  python -m experiments.benchmarks.permutation \
      --sizes=64x64 --others= --budgets=4000,40000,400000

The matrices are standard-normal float32, rows x columns; results are means over
seeds. The efficacy compares the kept magnitudes,

  efficacy = 100 * (after - before) / (row-wise - before),

where row-wise means that each row keeps the largest N/M of its weights.

The published numbers are from Pool and Yu, `Channel Permutations for N:M
Sparsity`, 2021, with 100 escapes from local optima, on their machine. With
three groups optimized at a time they reach 51.8 at 64x64, in 313 seconds.
"""

import statistics
import time

from absl import app
from absl import flags
import numpy as np

from experiments.benchmarks import timing
import jaxsparse
from jaxsparse import patterns
from jaxsparse.units import permutation_search

_SIZES = flags.DEFINE_list(
    'sizes', ['64x64', '64x128', '128x256', '256x512', '1024x4096'],
    'Rows x columns for 2:4.')
_OTHERS = flags.DEFINE_list(
    'others', ['1:4', '2:8', '4:8'], 'N:M besides 2:4, at 128x256.')
_BUDGETS = flags.DEFINE_list(
    'budgets', ['4000'], 'Sweeps; the default of find_permutation is 4000.')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Matrices to take the mean over.')

_PUBLISHED = {  # Efficacy and seconds for 2:4.
    '64x64': (47.8, 2.5), '64x128': (47.1, 5.9), '128x256': (38.7, 21.),
    '256x512': (29.9, 98.)}


def efficacy(w: np.ndarray, n: int, m: int, order: np.ndarray) -> float:
  """Percent of the gain of row-wise selection, for `w` `[rows, columns]`."""
  columns = np.abs(w.T)
  count = len(columns)
  before = permutation_search.kept(columns, n, m)
  after = permutation_search.kept(columns[order], n, m)
  ranked = np.sort(columns, axis=0)[count - count * n // m:]
  return 100 * (after - before) / (ranked.sum(dtype=np.float64) - before)


def measure(size: str, n_m: str, budget: int) -> list:
  """A row of the table: the mean over matrices."""
  rows, columns = (int(s) for s in size.split('x'))
  n, m = (int(s) for s in n_m.split(':'))
  seconds, efficacies = [], []
  for seed in range(_SEEDS.value):
    w = np.random.default_rng(seed).standard_normal((rows, columns), np.float32)
    start = time.perf_counter()
    order = jaxsparse.units.find_permutation(
        w, patterns.nm(n, m, axis=-1), budget=budget)
    seconds.append(time.perf_counter() - start)
    efficacies.append(efficacy(w, n, m, order))
  published = _PUBLISHED.get(size) if n_m == '2:4' else None
  return [size, n_m, budget, statistics.mean(efficacies), min(efficacies),
          statistics.mean(seconds), max(seconds), *(published or ('', ''))]


def main(argv: list[str]) -> None:
  del argv
  cases = [(size, '2:4') for size in _SIZES.value]
  cases += [('128x256', n_m) for n_m in _OTHERS.value]
  timing.print_table(
      ['rows x columns', 'N:M', 'sweeps', 'efficacy', 'least', 'seconds',
       'most', 'published', 'in seconds'],
      [measure(*case, int(budget)) for case in cases
       for budget in _BUDGETS.value])


if __name__ == '__main__':
  app.run(main)
