"""`select` against a stable sort, pattern by pattern."""

import functools
import math

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.masks import selection
from jaxsparse.masks.selection import select
from jaxsparse.patterns import block
from jaxsparse.patterns import channel
from jaxsparse.patterns import nm
from jaxsparse.patterns import Pattern
from jaxsparse.patterns import Tiling
from jaxsparse.patterns import unstructured
from tests._lib.selections import agree
from tests._lib.selections import check
from tests._lib.selections import cut
from tests._lib.selections import EXACT
from tests._lib.selections import FAN_IN
from tests._lib.selections import keeping
from tests._lib.selections import KINDS
from tests._lib.selections import oracle
from tests._lib.selections import PER_LAYER
from tests._lib.selections import scores_of
from tests._lib.selections import selector
from tests._lib.selections import traced

# Unstructured.

@pytest.mark.parametrize('shape, dtype', [
    ((1,), 'float32'), ((6, 10), 'float32'), ((6, 10), 'bfloat16'),
    ((6, 10), 'float16'), ((3, 2, 2, 5), 'float32')])
def test_unstructured_keeps_the_k_highest(shape, dtype):
  check(unstructured(), shape, range(math.prod(shape) + 1), dtype=dtype)


@given(
    st.lists(
        st.one_of(st.floats(width=32, allow_subnormal=False),
                  st.sampled_from([0., -0., 1., float('nan')])),
        min_size=60, max_size=60),
    st.integers(0, 60))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_unstructured_keeps_the_k_highest_of_any_floats(values, k):
  x = jnp.asarray(np.array(values, np.float32).reshape(6, 10))
  agree(selector(unstructured())(x, jnp.uint32(k)), oracle(x, k))


def test_unstructured_keeps_the_k_highest_of_many():
  shape, dtype = (2, 180, 190), 'float32'
  n = math.prod(shape)
  assert n > 2**16
  rng = np.random.default_rng(0)
  for kind in KINDS:
    x = scores_of(kind, shape, dtype)
    flat = -np.sort(-np.asarray(x).astype(np.float64).ravel())
    # A cut straight through the ties of the upper fifth.
    tied = int(np.median(np.flatnonzero(flat == flat[n // 5]))) if (
        not np.isnan(flat[n // 5])) else n // 5
    for k in (0, 1, tied, n // 2, n - 1, n, int(rng.integers(0, n))):
      agree(selector(unstructured())(x, jnp.uint32(k)), oracle(x, k), kind, k)


def test_scalars_are_units():
  w = jnp.float32(2.)
  assert not select(w, unstructured(), .5)  # round(0.5) is 0.
  assert select(w, unstructured(), .25)
  assert select(w, unstructured(), 0.).shape == ()


# N:M.

@pytest.mark.parametrize('m', [2, 3, 4, 5, 7, 8, 16])
def test_nm_keeps_n_of_every_m(m):
  shape, group = (2, 2 * m, 2), (1, m, 1)
  check(nm(1, m), shape, range(m + 1), group=group)
  for n in {0, 1, m // 2, m}:  # By its own sparsity.
    run = jax.jit(functools.partial(select, pattern=nm(n, m)))
    for kind in KINDS:
      x = scores_of(kind, shape)
      agree(run(x), oracle(x, n, group=group), n, m, kind)


@pytest.mark.parametrize('axis', [-2, -1, 0])
@pytest.mark.parametrize('m, dtype', [
    (4, 'float32'), (4, 'bfloat16'), (7, 'float16')])
def test_nm_runs_along_its_axis(m, dtype, axis):
  shape, group = [3, 2, 2], [1, 1, 1]
  shape[axis], group[axis] = 2 * m, m
  check(nm(1, m, axis=axis), tuple(shape), range(m + 1), dtype=dtype,
        group=tuple(group))


@pytest.mark.parametrize('m, axis, shape, ks', [
    (32, -2, (2, 64, 3), (0, 1, 8, 31, 32)), (64, 0, (128, 3), (1, 32, 64)),
    (17, -1, (2, 34), (0, 1, 2, 17))])
def test_nm_of_long_groups(m, axis, shape, ks):
  group = [1] * len(shape)
  group[axis] = m
  check(nm(1, m, axis=axis), shape, ks, group=tuple(group))


@pytest.mark.parametrize('shape, axis, group', [
    ((12,), -1, (4,)), ((8, 3), -2, (4, 1)), ((2, 3, 8, 2), -2, (1, 1, 4, 1)),
    ((3, 8, 2, 2), 1, (1, 4, 1, 1)), ((4,), 0, (4,))])
def test_nm_takes_weights_of_any_rank(shape, axis, group):
  check(nm(2, 4, axis=axis), shape, range(5), group=group,
        kinds=('normal', 'integers', 'signed zeros', 'all nan'))


def test_nm_ties_nan_and_infinity_by_hand():
  nan, inf = np.nan, np.inf
  x = jnp.asarray([
      [1., 1., 1., 1.], [-0., 0., -0., 0.], [nan, -inf, nan, nan],
      [nan, nan, nan, nan], [-inf, -inf, nan, 5.], [inf, nan, inf, inf],
      [-1., -2., -3., -4.]], jnp.float32)
  agree(select(x, nm(2, 4, axis=-1)), np.array([
      [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 1],
      [1, 0, 1, 0], [1, 1, 0, 0]], bool))


@pytest.mark.parametrize('m, groups', [(4, 1), (4, 2), (16, 2), (32, 2)])
def test_nm_may_tie_minus_infinity_with_the_lowest_finite_number(m, groups):
  x = np.full((groups, m), np.nan, np.float32)
  x[:, :3] = -np.inf, np.finfo(np.float32).min, 1.
  mask = np.asarray(select(jnp.asarray(x.reshape(-1, 1)), nm(2, m)))
  for row in mask.reshape(groups, m):
    assert row[2] and row[0] != row[1] and not row[3:].any()


def test_nm_brings_its_own_sparsity():
  x = scores_of('normal', (8, 3))
  agree(select(x, nm(1, 4)), oracle(x, 1, group=(4, 1)))
  # Under way it is told another one.
  for s in (0., .125, .375, .5, .875, 1.):
    agree(select(x, nm(1, 4), s), oracle(x, round((1 - s) * 4), group=(4, 1)))
    agree(traced(nm(1, 4))(x, jnp.float32(s)),
          oracle(x, keeping(4, s), group=(4, 1)), s)


# Blocks and channels.

@pytest.mark.parametrize('shape, size, unit, reduce', [
    ((4, 8), (1, 4), (1, 4), 'sum'), ((8, 4), (4, 1), (4, 1), 'mean'),
    ((8, 4), (4, 1), (4, 1), 'max'), ((4, 4, 6), (2, 2, 2), (2, 2, 2), 'sum'),
    ((2, 3, 8), (4,), (1, 1, 4), 'max'),
    ((2, 2, 6, 6), (3, 3), (1, 1, 3, 3), 'mean')])
def test_blocks_live_or_die_together(shape, size, unit, reduce):
  units = math.prod(shape) // math.prod(unit)
  check(block(size, reduce=reduce), shape, range(units + 1), kinds=EXACT,
        unit=unit)


@pytest.mark.parametrize('axis, shape, unit, reduce', [
    (-1, (4, 6), (4, 1), 'sum'), (-2, (4, 6), (1, 6), 'mean'),
    (-1, (2, 3, 5), (2, 3, 1), 'max'), (0, (5, 2, 3), (1, 2, 3), 'sum')])
def test_channels_live_or_die_together(axis, shape, unit, reduce):
  check(channel(axis, reduce=reduce), shape, range(shape[axis] + 1),
        kinds=EXACT, unit=unit)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_units_of_narrow_floats_are_summed_in_float32(dtype):
  # A bfloat16 counts to 256: what its sum would lose decides.
  x = np.zeros((2, 2048), np.float32)
  x[0, :1025], x[1, :1024] = 1., 1.
  x[0, 1024], x[1, 1500] = .5, .25
  x = jnp.asarray(x, dtype)
  scores = selection.unit_scores(x, block((1, 2048)))
  assert scores.dtype == jnp.float32
  np.testing.assert_array_equal(scores, [[1024.5], [1024.25]])
  agree(select(x[::-1], block((1, 2048)), .5),
        np.repeat([[False], [True]], 2048, 1))
  scores = selection.unit_scores(x, block((1, 2048), reduce='mean'))
  np.testing.assert_array_equal(scores, [[1024.5 / 2048], [1024.25 / 2048]])


@pytest.mark.parametrize('shape', [(4, 8), (64, 64), (2, 3000)])
@pytest.mark.parametrize('pattern', [
    block((2, 2), reduce='max'), channel(-1, reduce='max'), block((1, 4)),
    channel(-2, reduce='mean')], ids=str)
def test_a_nan_makes_its_unit_nan(pattern, shape):
  x = np.asarray(scores_of('nan', shape))
  unit = pattern.unit.tile(shape)
  with np.errstate(invalid='ignore'):
    want = getattr(np, pattern.reduce)(cut(x, unit), -1)
  got = jax.jit(lambda x: selection.unit_scores(x, pattern))(jnp.asarray(x))
  np.testing.assert_array_equal(np.asarray(got), want)


def test_channels_with_nan_are_pruned_first():
  x = np.random.default_rng(0).random((2, 70_000)).astype(np.float32)
  x[0, ::7] = np.nan
  mask = select(jnp.asarray(x), channel(-1, reduce='max'), 1 / 7)
  agree(mask, np.broadcast_to(np.arange(70_000) % 7 != 0, x.shape))




# Patterns of one's own.

@pytest.mark.parametrize('n', [1, 6, 16, 40])
def test_constant_fan_in_keeps_k_of_every_column(n):
  check(FAN_IN, (n, 3), range(n + 1), group=(n, 1))


def test_constant_fan_in_of_stacked_weights_names_both_outer_axes():
  pattern = Pattern(
      'fan_in', Tiling(rest=1), Tiling(((-3, 1), (-1, 1))), sparsity=.5)
  assert pattern.sizes((2, 6, 3)) == (6, 6)
  x = scores_of('normal', (2, 6, 3))
  agree(select(x, pattern), oracle(x, 3, group=(1, 6, 1)))


def test_one_group_per_layer_of_a_stack():
  assert PER_LAYER.sizes((3, 4, 5)) == (3, 20)
  check(PER_LAYER, (3, 4, 5), range(21), group=(1, 4, 5))


def test_blocks_may_compete_in_groups():
  pattern = Pattern(
      'blocks 1 of 2x3', Tiling(((-1, 2),), rest=1),
      Tiling(((-2, 2), (-1, 3)), rest=1), reduce='max')
  assert pattern.grid((2, 4, 12)) == (2, 4, 6)
  assert pattern.group_tile((2, 4, 12)) == (1, 2, 3)
  assert pattern.sizes((2, 4, 12)) == (8, 6)
  check(pattern, (2, 4, 12), range(7), kinds=EXACT, unit=(1, 1, 2),
        group=(1, 2, 3))


def test_blocks_may_be_n_of_m():
  pattern = Pattern(
      'blocks 2:4', Tiling(((-1, 4),), rest=1), Tiling(((-2, 4),), rest=1))
  check(pattern, (8, 8), range(5), kinds=EXACT, unit=(1, 4), group=(4, 1))
