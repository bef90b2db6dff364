"""The k highest, found by counting, against a stable sort."""

import functools
import math

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import topk

_KINDS = (
    'normal', 'integers', 'constant', 'zeros', 'signed zeros', 'nan', 'all nan',
    'infinite', 'heavy', 'mostly zero', 'negative', 'tiny', 'wide', 'extreme',
    'neighbours')


def scores_of(kind, shape, dtype, seed=0):
  """Scores with a trap, as a jax array that numpy sorts the same way."""
  rng, n = np.random.default_rng(seed), math.prod(shape)
  info = jnp.finfo(dtype)
  x = {
      'normal': lambda: rng.standard_normal(n),
      'integers': lambda: rng.integers(-3, 4, n),
      'constant': lambda: np.full(n, rng.choice([1., -2.5])),
      'zeros': lambda: np.zeros(n),
      'signed zeros': lambda: rng.choice([0., -0., 1., -1.], n),
      'nan': lambda: rng.choice(
          [np.nan, -np.nan, np.inf, -np.inf, 2., 0., -0., -1.], n),
      'all nan': lambda: np.full(n, np.nan),
      'infinite': lambda: rng.choice([np.inf, -np.inf], n),
      'heavy': lambda: np.clip(
          rng.standard_cauchy(n)**3, float(info.min), float(info.max)),
      'mostly zero': lambda: rng.standard_normal(n) * (rng.random(n) < .2),
      'negative': lambda: -rng.random(n),
      'tiny': lambda: rng.integers(-5, 6, n) * float(info.tiny),
      'wide': lambda: rng.choice([-1., 1.], n) * np.exp2(
          rng.integers(int(info.minexp), int(info.maxexp), n).astype(float)),
      'extreme': lambda: rng.choice([float(info.max), float(info.min), 0.], n),
      'neighbours': lambda: 1 + rng.integers(0, 5, n) * float(info.eps),
  }[kind]()
  return jax.device_put(np.asarray(x, np.float64).reshape(shape).astype(dtype))


def highest(x, k, axes):
  """The oracle: the first k of a stable descending sort, NaN last."""
  x = np.moveaxis(np.asarray(x).astype(np.float64), axes, range(len(axes)))
  flat = x.reshape(math.prod(x.shape[:len(axes)]), -1)
  mask = np.zeros(flat.shape, bool)
  order = np.argsort(-flat, axis=0, kind='stable')
  np.put_along_axis(mask, order[:k], True, 0)
  return np.moveaxis(mask.reshape(x.shape), range(len(axes)), axes)


@functools.cache
def keep_highest(axes):
  return jax.jit(lambda x, k: topk.keep_highest(
      x, counts.Count(k >> 16, k & jnp.uint32(0xFFFF)), axes))


@functools.cache
def keep_highest_of_few(axis):
  return jax.jit(lambda x, k: topk.keep_highest_of_few(x, k, axis))


def agree(got, want, *context):
  np.testing.assert_array_equal(np.asarray(got), want, err_msg=str(context))


@pytest.mark.parametrize('shape, axes, dtype', [
    ((40,), (0,), 'float32'), ((6, 7), (0, 1), 'bfloat16'),
    ((6, 7), (0, 1), 'float16'), ((3, 20, 2), (1,), 'float32'),
    ((5, 2, 4), (0, 2), 'float32')])
def test_every_k_matches_a_stable_sort(shape, axes, dtype):
  size = math.prod(shape[a] for a in axes)
  for kind in _KINDS:
    x = scores_of(kind, shape, dtype)
    for k in range(size + 1):
      agree(keep_highest(axes)(x, jnp.uint32(k)), highest(x, k, axes), kind, k)


@given(
    st.lists(
        st.one_of(st.floats(width=32, allow_subnormal=False),
                  st.sampled_from([0., -0., 1., float('nan')])),
        min_size=40, max_size=40),
    st.integers(0, 40))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_floats_match_a_stable_sort(values, k):
  x = jnp.asarray(np.array(values, np.float32))
  agree(keep_highest((0,))(x, jnp.uint32(k)), highest(x, k, (0,)))


@pytest.mark.parametrize('shape, dtype', [
    ((300, 250), 'float32'), ((70_000,), 'bfloat16')])
def test_large_arrays_match_a_stable_sort(shape, dtype):
  axes = tuple(range(len(shape)))
  size = math.prod(shape)
  rng = np.random.default_rng(0)
  for kind in _KINDS:
    x = scores_of(kind, shape, dtype)
    flat = -np.sort(-np.asarray(x).astype(np.float64).ravel())
    # Cuts through the ties of the median and of the upper fifth, and any.
    inside = [int(np.median(np.flatnonzero(flat == flat[i])))
              for i in (size // 2, size // 5) if not np.isnan(flat[i])]
    ks = [0, 1, size - 1, size, size // 5, *inside, *rng.integers(0, size, 2)]
    for k in ks:
      agree(keep_highest(axes)(x, jnp.uint32(k)), highest(x, k, axes), kind, k)


def test_sampled_arrays_with_a_period_match_a_stable_sort():
  # What a strided sample sees is nothing like the rest.
  x = np.random.default_rng(0).standard_normal((300, 250)).astype(np.float32)
  for stride in (2, 4, 5):
    y = x.copy()
    y.reshape(-1)[::stride] = 1e6
    for k in (10, 15_000, 37_500, 74_000):
      agree(keep_highest((0, 1))(jnp.asarray(y), jnp.uint32(k)),
            highest(y, k, (0, 1)), stride, k)


@pytest.mark.parametrize('n', [1, 2, 3, 4, 7, 8, 15, 16])
def test_few_match_a_stable_sort(n):
  for kind in _KINDS:
    x = scores_of(kind, (2, n, 3), 'float32')
    if kind == 'nan':  # Here -inf counts as the lowest finite number.
      assert not (np.asarray(x) == np.finfo(np.float32).min).any()
    for k in range(n + 1):
      agree(keep_highest_of_few(1)(x, jnp.uint32(k)), highest(x, k, (1,)),
            kind, k)


@pytest.mark.parametrize('axis', [0, 1, 2])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_few_match_a_stable_sort_on_every_axis(axis, dtype):
  for kind in _KINDS:
    x = scores_of(kind, (4, 4, 4), dtype)
    for k in range(5):
      agree(keep_highest_of_few(axis)(x, jnp.uint32(k)),
            highest(x, k, (axis,)), kind, k)


@pytest.mark.parametrize('n', [1, 2, 13, 16, 17, 24, 48, 100])
def test_best_is_the_first_of_the_highest(n):
  best = jax.jit(topk.keep_best, static_argnums=1)
  for kind in _KINDS:
    x = scores_of(kind, (2, n, 3), 'float32')
    agree(best(x, 1), highest(x, 1, (1,)), kind)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_nan_is_pruned_first(dtype):
  x = jnp.asarray([jnp.nan, -jnp.inf, -jnp.nan, 1.], dtype)
  for k, want in enumerate(['0000', '0001', '0101', '1101', '1111']):
    want = np.array([c == '1' for c in want])
    agree(keep_highest((0,))(x, jnp.uint32(k)), want, k)
    agree(keep_highest_of_few(0)(x, jnp.uint32(k)), want, k)
  agree(topk.keep_best(x, 0), np.array([False, False, False, True]))
  agree(topk.keep_best(x[:1], 0), np.array([True]))


def test_zeros_are_equal():
  x = jnp.asarray([-0., 0., -0., 0.], jnp.float32)
  for k in range(5):
    agree(keep_highest((0,))(x, jnp.uint32(k)), np.arange(4) < k, k)
    agree(keep_highest_of_few(0)(x, jnp.uint32(k)), np.arange(4) < k, k)
  agree(topk.keep_best(x, 0), np.arange(4) < 1)


def test_subnormal_float16_are_ordered():
  x = scores_of('normal', (40,), 'float32')
  tiny = jnp.finfo(jnp.float16).smallest_subnormal
  x = jnp.asarray(np.round(np.asarray(x) * 9) * float(tiny), jnp.float16)
  for k in range(41):
    agree(keep_highest((0,))(x, jnp.uint32(k)), highest(x, k, (0,)), k)


def test_subnormal_float32_keep_the_count():
  # CPUs under XLA read a subnormal float32 as zero; then it ties with zero.
  x = np.random.default_rng(0).integers(-5, 6, 40) * np.float32(1e-45)
  flushed = np.where(np.abs(x) < np.finfo(np.float32).tiny, 0, x)
  for k in range(41):
    got = np.asarray(keep_highest((0,))(jnp.asarray(x), jnp.uint32(k)))
    assert got.sum() == k
    assert any((got == highest(v, k, (0,))).all() for v in (x, flushed))


def test_k_may_differ_under_vmap():
  x = jnp.stack([scores_of('integers', (40,), 'float32', i) for i in range(4)])
  ks = [0, 7, 20, 40]
  got = jax.vmap(keep_highest((0,)))(x, jnp.asarray(ks, jnp.uint32))
  for row, scores, k in zip(got, x, ks):
    agree(row, highest(scores, k, (0,)), k)


def test_groups_beyond_32_bits_are_traced():
  x = jax.ShapeDtypeStruct((48, 2**14, 2**14), jnp.float32)
  for axes in ((0, 1, 2), (1, 2), (0,)):
    mask = jax.eval_shape(keep_highest(axes), x, jnp.uint32(3))
    assert mask.shape == x.shape and mask.dtype == bool


def test_groups_that_need_the_32nd_bit_are_traced():
  x = jax.ShapeDtypeStruct((2, 9 * 2**14, 2**14), jnp.float32)
  few = lambda x, k: topk.keep_highest(x, counts.Count(k >> 16, k), (1, 2))
  assert jax.eval_shape(few, x, jnp.uint32(3)).shape == x.shape


def test_at_least_orders_all_floats():
  values = np.array(
      [-np.inf, -3e38, -1., -1e-30, 0., 1e-30, 1., 3e38, np.inf], np.float32)
  x = jnp.asarray(np.append(values, np.nan))
  lowest, highest_ = topk.start(jnp.float32, 10)[:2]
  assert topk.at_least(x, lowest).all()
  assert not topk.at_least(x, highest_).any()
  bits = values.view(np.uint32)
  keys = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
  for key, value in zip(keys, values):
    agree(topk.at_least(x, jnp.asarray(key)), np.asarray(x) >= value, value)


def test_search_ends_next_to_the_threshold_whatever_is_guessed():
  x = scores_of('integers', (60,), 'float32')
  values = np.asarray(x)
  start = topk.start(x.dtype, 60)

  @jax.jit
  def search(k, guesses):
    def count(key):
      return counts.Count(*(
          v.reshape(()) for v in counts.total(topk.at_least(x, key), (0,))))
    return topk.search(count, counts.Count(jnp.uint32(0), k), start, guesses)

  ends = [0, 1, int(start.lo), int(start.hi), 2**31, 2**32 - 1, 3_000_000_000]
  for k in (0, 1, 17, 30, 59, 60):
    for low, high in [(a, b) for a in ends for b in ends]:
      found = search(
          jnp.uint32(k), (jnp.uint32(low), jnp.uint32(high)))
      above = np.asarray(topk.at_least(x, found.hi))
      between = np.asarray(topk.at_least(x, found.lo)) & ~above
      assert above.sum() == int(found.above.lo) <= k <= (above | between).sum()
      assert above.sum() == k or len(set(values[between])) == 1


def test_search_reads_the_scores_a_bounded_number_of_times():
  reads = []

  @jax.jit
  def search(x, k):
    def count(key):
      jax.debug.callback(lambda: reads.append(None))
      return counts.Count(*(
          v.reshape(()) for v in counts.total(topk.at_least(x, key), (0,))))
    return topk.search(
        count, counts.Count(jnp.uint32(0), k), topk.start(x.dtype, x.size))

  for kind in _KINDS:
    x = scores_of(kind, (3000,), 'float32')
    for k in (1, 1500, 2999):
      reads.clear()
      jax.block_until_ready(search(x, jnp.uint32(k)))
      jax.effects_barrier()
      assert len(reads) <= 48, (kind, k)
