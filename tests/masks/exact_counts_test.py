"""Counts against Python integers and fractions."""

from fractions import Fraction
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.masks import exact_counts as counts
from tests._lib import exchanges

_EDGES = sorted({
    n + d for n in (0, 2**8, 2**16, 2**24, 2**31, 2**32, 2**47)
    for d in (-2, -1, 0, 1, 2) if n + d >= 0} | {2**48 - 1, 123456789012})
_FRACTIONS = [
    0., 1., .5, .25, .75, .1, .3, .9, 1 / 3, 2 / 3, 2.**-8, 2.**-9, 2.**-16,
    2.**-31, 2.**-32, 3 * 2.**-33, 1 - 2.**-24, .5 - 2.**-25, .5 + 2.**-24,
    1e-3, 5e-4, 1e-6, 1e-9]


def count_of(values):
  """A Count of the given Python integers."""
  values = [int(v) for v in np.ravel(np.asarray(values, object))]
  return counts.Count(
      jnp.asarray(np.array([v >> 16 for v in values], np.uint32)),
      jnp.asarray(np.array([v & 0xFFFF for v in values], np.uint32)))


def value_of(count):
  """The Python integers of a Count, which must be in normal form."""
  hi, lo = (np.asarray(word) for word in count)
  assert hi.dtype == lo.dtype == np.uint32
  assert (lo < 2**16).all()
  return [int(h) * 2**16 + int(w) for h, w in zip(hi.ravel(), lo.ravel())]


def pairs(condition):
  both = [(a, b) for a in _EDGES for b in _EDGES if condition(a, b)]
  a, b = zip(*both)
  return a, b


def exact_remaining(a, part, fraction):
  return round(a - part * Fraction(float(np.float32(fraction))))


@pytest.mark.parametrize('n', _EDGES)
def test_exactly_is_the_integer(n):
  assert value_of(counts.exactly(n)) == [n]


@pytest.mark.parametrize('n', [-1, 2**48, 2**60])
def test_exactly_refuses_what_a_count_cannot_hold(n):
  with pytest.raises(ValueError, match=rf'\[0, 2\*\*48\), got {n}'):
    counts.exactly(n)


def test_add_carries():
  a, b = pairs(lambda a, b: a + b < 2**48)
  got = value_of(jax.jit(counts.add)(count_of(a), count_of(b)))
  assert got == [x + y for x, y in zip(a, b)]


def test_subtract_borrows():
  a, b = pairs(lambda a, b: a >= b)
  got = value_of(jax.jit(counts.subtract)(count_of(a), count_of(b)))
  assert got == [x - y for x, y in zip(a, b)]


def test_divide_is_that_of_integers():
  a, n = pairs(lambda a, n: 0 < n < 2**31)
  got = value_of(jax.jit(counts.divide)(
      count_of(a), jnp.asarray(np.array(n, np.uint32))))
  assert got == [x // y for x, y in zip(a, n)]


def test_numbers_are_counts_and_back():
  n = np.array([x for x in _EDGES if x < 2**32], np.uint32)
  made = counts.from_uint32(jnp.asarray(n))
  assert value_of(made) == n.tolist()
  np.testing.assert_array_equal(counts.to_uint32(made), n)


def test_order_is_that_of_integers():
  a, b = pairs(lambda a, b: True)
  x, y = count_of(a), count_of(b)
  assert np.asarray(counts.less_equal(x, y)).tolist() == [
      i <= j for i, j in zip(a, b)]
  assert value_of(counts.minimum(x, y)) == [min(p) for p in zip(a, b)]
  assert value_of(counts.maximum(x, y)) == [max(p) for p in zip(a, b)]


def test_where_chooses_both_words():
  a, b = pairs(lambda a, b: True)
  odd = np.arange(len(a)) % 2 == 1
  got = value_of(counts.where(jnp.asarray(odd), count_of(a), count_of(b)))
  assert got == [x if o else y for o, x, y in zip(odd, a, b)]


def test_to_float_is_near():
  got = np.asarray(counts.to_float(count_of(_EDGES)), np.float64)
  np.testing.assert_allclose(got, np.array(_EDGES, np.float64), rtol=2.**-22)


def test_floor_of_is_the_floor_at_the_edges():
  a, f = zip(*((a, f) for a in _EDGES for f in _FRACTIONS))
  got = value_of(counts.floor_of(count_of(a), jnp.asarray(f, jnp.float32)))
  assert got == [
      math.floor(n * Fraction(float(np.float32(x)))) for n, x in zip(a, f)]


def test_remaining_rounds_halves_to_even_at_the_edges():
  a, b = pairs(lambda a, b: a >= b)
  run = jax.jit(counts.remaining)
  for f in _FRACTIONS:
    got = value_of(run(count_of(a), count_of(b), jnp.float32(f)))
    assert got == [exact_remaining(x, y, f) for x, y in zip(a, b)], f


def test_remaining_is_exact_on_random_counts():
  rng = np.random.default_rng(0)
  bits = rng.integers(1, 49, 4096)
  a = [int(rng.integers(0, 1 << int(n))) for n in bits]
  part = [int(rng.integers(0, n + 1)) for n in a]
  # Dyadic fractions of few bits make exact halves common.
  f = np.where(rng.random(4096) < .5, rng.integers(0, 257, 4096) / 256,
               10**rng.uniform(-10, 0, 4096)).astype(np.float32)
  got = value_of(jax.jit(counts.remaining)(
      count_of(a), count_of(part), jnp.asarray(f)))
  want = [exact_remaining(*row) for row in zip(a, part, f)]
  assert got == want
  halves = [
      (n - p * Fraction(float(x))).denominator == 2
      for n, p, x in zip(a, part, f)]
  assert sum(halves) > 10


def test_remaining_of_all_is_zero_and_of_none_is_all():
  whole = count_of(_EDGES)
  assert value_of(counts.remaining(whole, whole, jnp.float32(1))) == (
      [0] * len(_EDGES))
  assert value_of(counts.remaining(whole, whole, jnp.float32(0))) == _EDGES


@pytest.mark.parametrize('fraction', [1e-13, 1e-16, 1e-30, 1e-38])
def test_remaining_of_a_fraction_below_one_unit_is_all(fraction):
  a, b = pairs(lambda a, b: a >= b and b * fraction < .4)
  got = value_of(
      counts.remaining(count_of(a), count_of(b), jnp.float32(fraction)))
  assert got == list(a)


@pytest.mark.parametrize('fraction', [-2e-8, -1., 1 + 1e-6, 3.])
def test_fractions_are_clipped(fraction):
  a = count_of([10, 2**33])
  got = value_of(counts.remaining(a, a, jnp.float32(fraction)))
  assert got == ([10, 2**33] if fraction < 0 else [0, 0])


@pytest.mark.parametrize('shape, axes', [
    ((7,), (0,)), ((1,), (0,)), ((255,), (0,)), ((256,), (0,)),
    ((1000,), (0,)), ((4096,), (0,)), ((66_000,), (0,)), ((2, 300), (1,)),
    ((300, 2), (0,)), ((512, 3), (0, 1)), ((3, 5, 4), (0, 2)),
    ((3, 5, 4), (1,)), ((2, 512, 3, 320), (1, 3)), ((3, 4), ()),
    ((0, 3), (0,)), ((0, 3), (0, 1)), ((), ())])
@pytest.mark.parametrize('density', [.3, 1.])
def test_total_counts_what_is_true(shape, axes, density):
  mask = np.random.default_rng(1).random(shape) < density
  got = counts.total(jnp.asarray(mask), axes)
  want = mask.sum(axes, keepdims=True) if axes else mask
  assert got.hi.shape == got.lo.shape == want.shape
  assert value_of(got) == want.astype(int).ravel().tolist()


def test_total_is_the_same_under_vmap():
  masks = np.random.default_rng(2).random((3, 4, 300)) < .5
  got = jax.jit(jax.vmap(lambda m: counts.total(m, (0, 1))))(masks)
  assert value_of(got) == masks.sum((1, 2)).tolist()


@pytest.mark.parametrize('shape, axes', [
    ((4096,), (0,)), ((3, 500), (1,)), ((3, 5, 40), (0, 2)), ((1, 7), (0, 1))])
@pytest.mark.parametrize('low', [0, 2**32 - 1])
def test_sum_wide_is_exact_beyond_32_bits(shape, axes, low):
  rows = np.random.default_rng(3).integers(
      low, 2**32, shape, dtype=np.uint64)
  got = jax.jit(counts.sum_wide, static_argnums=1)(
      jnp.asarray(rows.astype(np.uint32)), axes)
  want = rows.sum(axes, keepdims=True)
  assert got.hi.shape == want.shape
  assert value_of(got) == [int(n) for n in want.ravel()]


def test_sum_wide_is_exact_up_to_the_largest_count():
  rows = jnp.full(2**20, 2**28 - 1, jnp.uint32)
  assert value_of(counts.sum_wide(rows, (0,))) == [2**20 * (2**28 - 1)]
  # 2^24 rows, as many as it takes: no byte's sum overflows.
  rows = jnp.full(2**24, 2**24 - 1, jnp.uint32)
  assert value_of(counts.sum_wide(rows, (0,))) == [2**24 * (2**24 - 1)]


def test_sum_wide_is_exact_over_more_rows_than_one_axis_may_have():
  """As of stacked experts: layers, experts and rows of each."""
  rows = jnp.full((2, 2**25 // 2), 2**20 - 1, jnp.uint32)
  assert value_of(counts.sum_wide(rows, (0, 1))) == [2**25 * (2**20 - 1)]


def test_remaining_holds_where_float32_fails():
  n, s = 2**30, np.float32(.1)
  want = exact_remaining(n, n, s)
  assert int(np.float32(n) - np.float32(n) * s) != want
  got = counts.remaining(counts.exactly(n), counts.exactly(n), jnp.float32(s))
  assert value_of(got) == [want]


@pytest.mark.parametrize('wanted, total, given', [
    ([3, 0, 5], 8, [3, 0, 5]), ([3, 0, 5], 4, [3, 0, 1]),
    ([3, 4, 5], 0, [0, 0, 0]), ([3], 2, [2]),
    ([2**40, 5, 2**47], 2**40 + 7, [2**40, 5, 2])])
def test_in_turn_gives_what_is_wanted_while_it_lasts(wanted, total, given):
  assert value_of(counts.in_turn(count_of(wanted), counts.exactly(total))
                  ) == given


_shared = jax.jit(counts.in_proportion)
def _in_proportion(total, weights, room):
  given = value_of(_shared(
      counts.exactly(total), jnp.asarray(weights, jnp.float32),
      count_of(room)))
  assert sum(given) == min(total, sum(room))
  assert all(g <= r for g, r in zip(given, room))
  return given


@pytest.mark.parametrize('total, weights, room, given', [
    (10, [1, 4, 0], [99, 99, 99], [2, 8, 0]),
    (10, [1, 4, 0], [99, 3, 99], [7, 3, 0]),
    (10, [1, 4, 0], [2, 3, 99], [2, 3, 5]),
    (99, [1, 4, 0], [2, 3, 4], [2, 3, 4]),
    (12, [0, 0, 0], [99, 99, 99], [4, 4, 4]),
    (12, [math.nan, math.inf, -1.], [99, 99, 99], [4, 4, 4]),
    (12, [math.nan, 2., -1.], [99, 99, 99], [0, 12, 0]),
    (0, [1, 2, 3], [9, 9, 9], [0, 0, 0]),
    (5, [1, 2, 3], [0, 0, 0], [0, 0, 0]),
    (4 * 2**40, [1, 2, 1], [2**47] * 3, [2**40, 2 * 2**40, 2**40])])
def test_in_proportion_by_hand(total, weights, room, given):
  assert _in_proportion(total, weights, room) == given


@pytest.mark.parametrize('seed', range(10))
def test_in_proportion_fills_what_is_capped_and_shares_the_rest(seed):
  rng = np.random.default_rng(seed)
  weights, room = rng.random(6) * (rng.random(6) < .8), rng.integers(0, 60, 6)
  total = int(rng.integers(0, room.sum() + 1))
  given = _in_proportion(total, weights, [int(r) for r in room])
  ideal = exchanges.shares(total, np.float32(weights), room)
  assert (np.abs(np.array(given) - ideal) < 6).all()


def test_in_proportion_is_off_by_one_at_most():
  for n in (1, 5, 9):
    given = _in_proportion(n, [1.] * 10, [100] * 10)
    assert max(abs(g - n / 10) for g in given) <= 1


@pytest.mark.parametrize('weights', [[1e-36, 3e-36], [1e38, 3e38]])
def test_in_proportion_does_not_depend_on_the_scale_of_weights(weights):
  assert _in_proportion(100, weights, [100, 100]) == [25, 75]
