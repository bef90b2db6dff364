"""Erdos-Renyi distributions: one epsilon, exact totals."""

import functools
import math

import numpy as np
import pytest

from jaxsparse.distributions import er
from jaxsparse.distributions import erk
from jaxsparse.patterns import block
from jaxsparse.patterns import unstructured
from tests._lib.selections import FAN_IN
from tests._lib.shares import shares


def ideal(shapes, raw, total, bounds):
  """Real-valued kept weights: one epsilon, each layer clipped to its bounds."""
  def kept(epsilon):
    return [min(max(epsilon * raw(shape) * math.prod(shape), lo), hi)
            for shape, (lo, hi) in zip(shapes, bounds)]
  low, high = 0., 1e9
  for _ in range(200):
    middle = (low + high) / 2
    low, high = (middle, high) if sum(kept(middle)) < total else (low, middle)
  return kept(high)


_RAW = {
    'erk': (erk, lambda shape: sum(shape) / math.prod(shape)),
    'er': (er, lambda shape: sum(shape[-2:]) / math.prod(shape[-2:])),
    'half power': (functools.partial(erk, power=.5),
                   lambda shape: (sum(shape) / math.prod(shape))**.5),
    'flat': (functools.partial(erk, power=0.), lambda shape: 1.)}


@pytest.mark.parametrize('name', _RAW)
def test_erdos_renyi_has_one_epsilon_and_an_exact_total(name):
  make, raw = _RAW[name]
  rng = np.random.default_rng(0)
  for _ in range(25):
    shapes = [tuple(int(n) for n in rng.integers(1, 20, rng.integers(1, 5)))
              for _ in range(rng.integers(1, 6))]
    s = float(rng.choice([.05, .3, .5, .8, .9, .99, rng.random()]))
    ends = [sorted(rng.random(2).round(2).tolist()) if rng.random() < .3
            else (0., 1.) for _ in shapes]
    specs = [unstructured(min_sparsity=a, max_sparsity=b) for a, b in ends]
    sizes = [math.prod(shape) for shape in shapes]
    bounds = [(round((1 - b) * n), round((1 - a) * n))
              for n, (a, b) in zip(sizes, ends)]
    total = min(max(round((1 - s) * sum(sizes)), sum(lo for lo, _ in bounds)),
                sum(hi for _, hi in bounds))
    got = shares(make(s), shapes, specs)
    assert sum(got) == total, (shapes, s, ends)
    for k, (lo, hi), want in zip(got, bounds, ideal(
        shapes, raw, total, bounds)):
      assert lo <= k <= hi
      assert abs(k - want) <= 1 + 1e-6, (shapes, s, ends, got)


def test_erk_by_hand():
  # epsilon = 58 / (8 + 20) makes the small one denser than 1: it is held.
  assert shares(erk(.5), [(4, 4), (10, 10)]) == [16, 42]
  # epsilon = 29 / 28.
  assert shares(erk(.75), [(4, 4), (10, 10)]) == [8, 21]


def test_er_leaves_kernel_sizes_out():
  shapes = [(3, 3, 10, 10), (30, 30)]
  assert shares(er(.9), shapes) == [135, 45]
  assert shares(erk(.9), shapes) == [54, 126]


def test_erk_of_power_0_is_one_density():
  assert shares(erk(.5, power=0.), [(10, 10), (4, 4), (50,)]) == [50, 8, 25]


def test_erk_holds_several_layers_in_turn():
  # First (1, 1), then with what it leaves (4, 4) would be denser than 1.
  shapes = [(1, 1), (4, 4), (30, 30), (40, 40)]
  for s in (.1, .3, .5, .7):
    got = shares(erk(s), shapes)
    assert sum(got) == round((1 - s) * 2517)
    assert got[0] == 1 and got[1] == 16
    assert all(k <= math.prod(shape) for k, shape in zip(got, shapes))


@pytest.mark.parametrize('sparsity', [.25, .4, .5, .55, .9])
def test_erk_is_as_near_as_whole_blocks_allow(sparsity):
  got, = shares(erk(sparsity), [(10, 10)], [block((2, 2))])
  budget = round((1 - sparsity) * 100)
  assert abs(4 * got - budget) <= 2
  shapes, specs = [(8, 8), (16, 16), (8, 24)], [block((4, 4))] * 3
  got = shares(erk(sparsity), shapes, specs)
  assert abs(16 * sum(got) - round((1 - sparsity) * 512)) <= 8


@pytest.mark.parametrize('sparsity', [.3, .5, .77, .9])
def test_erk_fills_up_with_single_weights_beside_blocks(sparsity):
  shapes, specs = [(8, 8), (12, 10), (6, 6)], [
      block((4, 4)), unstructured(), FAN_IN]
  blocks, single, column = shares(erk(sparsity), shapes, specs)
  assert 16 * blocks + single + 6 * column == round((1 - sparsity) * 220)
