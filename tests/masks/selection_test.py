"""`select` against a stable sort, pattern by pattern."""

from fractions import Fraction
import functools
import math

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.masks.selection import Kept
from jaxsparse.masks.selection import select
from jaxsparse.patterns import block
from jaxsparse.patterns import channel
from jaxsparse.patterns import nm
from jaxsparse.patterns import Pattern
from jaxsparse.patterns import Tiling
from jaxsparse.patterns import unstructured

# Sums over a unit of these are exact in float32, whatever their order.
_EXACT = ('integers', 'eighths', 'constant', 'zeros', 'signed zeros', 'nan',
          'infinite')
_KINDS = _EXACT + (
    'normal', 'all nan', 'heavy', 'mostly zero', 'negative', 'tiny', 'wide')


def scores_of(kind, shape, dtype='float32', seed=0):
  """Scores with a trap, as a jax array that numpy sorts the same way."""
  rng, n = np.random.default_rng(seed), math.prod(shape)
  info = jnp.finfo(dtype)
  x = {
      'integers': lambda: rng.integers(-3, 4, n),
      'eighths': lambda: rng.integers(-64, 64, n) / 8,
      'constant': lambda: np.full(n, rng.choice([1., -2.5])),
      'zeros': lambda: np.zeros(n),
      'signed zeros': lambda: rng.choice([0., -0., 1., -1.], n),
      'nan': lambda: rng.choice(
          [np.nan, -np.nan, np.inf, -np.inf, 2., 0., -0., -1.], n),
      'infinite': lambda: rng.choice([np.inf, -np.inf], n),
      'normal': lambda: rng.standard_normal(n),
      'all nan': lambda: np.full(n, np.nan),
      'heavy': lambda: np.clip(
          rng.standard_cauchy(n)**3, float(info.min), float(info.max)),
      'mostly zero': lambda: rng.standard_normal(n) * (rng.random(n) < .2),
      'negative': lambda: -rng.random(n),
      'tiny': lambda: rng.integers(-5, 6, n) * float(info.tiny),
      'wide': lambda: rng.choice([-1., 1.], n) * np.exp2(
          rng.integers(int(info.minexp), int(info.maxexp), n).astype(float)),
  }[kind]()
  return jnp.asarray(np.asarray(x, np.float64).reshape(shape).astype(dtype))


def cut(x, tile):
  """[grid of tiles..., members of a tile in index order]."""
  split = [s for n, t in zip(x.shape, tile) for s in (n // t, t)]
  order = [*range(0, 2 * x.ndim, 2), *range(1, 2 * x.ndim, 2)]
  x = x.reshape(split).transpose(order)
  return x.reshape(x.shape[:len(tile)] + (-1,))


def paste(x, tile):
  """The inverse of `cut`."""
  x = x.reshape(x.shape[:-1] + tuple(tile))
  n = len(tile)
  x = x.transpose([a for i in range(n) for a in (i, n + i)])
  return x.reshape([
      x.shape[i] * x.shape[i + 1] for i in range(0, 2 * n, 2)])


def oracle(x, k, *, unit=None, group=None, reduce='sum'):
  """Keeps k units of each group: a stable descending sort, NaN last.

  Without `unit` single weights, without `group` the whole weight.
  """
  x = np.asarray(x).astype(np.float64)
  unit = unit or (1,) * x.ndim
  with np.errstate(invalid='ignore'):  # inf - inf
    units = getattr(np, reduce)(cut(x, unit), -1)
  group = group or units.shape
  groups = cut(units, group)
  mask = np.zeros(groups.shape, bool)
  order = np.argsort(-groups, -1, kind='stable')
  np.put_along_axis(mask, order[..., :k], True, -1)
  mask = paste(mask, group)
  return paste(np.repeat(mask[..., None], math.prod(unit), -1), unit)


def keeping(n, sparsity):
  """round((1 - s) * n) in exact arithmetic, of a sparsity in float32."""
  return round((1 - Fraction(float(np.float32(sparsity)))) * n)


@functools.cache
def selector(pattern):
  """`select` of exactly k units, one compilation per shape."""
  return jax.jit(lambda x, k: select(
      x, pattern, Kept(counts.Count(k >> 16, k & jnp.uint32(0xFFFF)))))


@functools.cache
def traced(pattern):
  """`select` of a traced sparsity."""
  return jax.jit(lambda x, sparsity: select(x, pattern, sparsity))


def agree(got, want, *context):
  assert got.dtype == bool
  np.testing.assert_array_equal(np.asarray(got), want, err_msg=str(context))


def check(pattern, shape, ks, kinds=_KINDS, dtype='float32', **tiles):
  for kind in kinds:
    x = scores_of(kind, shape, dtype)
    for k in ks:
      agree(selector(pattern)(x, jnp.uint32(k)),
            oracle(x, k, reduce=pattern.reduce, **tiles), pattern, kind, k)


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
  for kind in _KINDS:
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
    for kind in _KINDS:
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
  check(block(size, reduce=reduce), shape, range(units + 1), kinds=_EXACT,
        unit=unit)


@pytest.mark.parametrize('axis, shape, unit, reduce', [
    (-1, (4, 6), (4, 1), 'sum'), (-2, (4, 6), (1, 6), 'mean'),
    (-1, (2, 3, 5), (2, 3, 1), 'max'), (0, (5, 2, 3), (1, 2, 3), 'sum')])
def test_channels_live_or_die_together(axis, shape, unit, reduce):
  check(channel(axis, reduce=reduce), shape, range(shape[axis] + 1),
        kinds=_EXACT, unit=unit)


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

_FAN_IN = Pattern('fan_in', Tiling(rest=1), Tiling(((-1, 1),)))
_PER_LAYER = Pattern('per_layer', Tiling(rest=1), Tiling(((0, 1),)))


@pytest.mark.parametrize('n', [1, 6, 16, 40])
def test_constant_fan_in_keeps_k_of_every_column(n):
  check(_FAN_IN, (n, 3), range(n + 1), group=(n, 1))


def test_constant_fan_in_of_stacked_weights_names_both_outer_axes():
  pattern = Pattern(
      'fan_in', Tiling(rest=1), Tiling(((-3, 1), (-1, 1))), sparsity=.5)
  assert pattern.sizes((2, 6, 3)) == (6, 6)
  x = scores_of('normal', (2, 6, 3))
  agree(select(x, pattern), oracle(x, 3, group=(1, 6, 1)))


def test_one_group_per_layer_of_a_stack():
  assert _PER_LAYER.sizes((3, 4, 5)) == (3, 20)
  check(_PER_LAYER, (3, 4, 5), range(21), group=(1, 4, 5))


def test_blocks_may_compete_in_groups():
  pattern = Pattern(
      'blocks 1 of 2x3', Tiling(((-1, 2),), rest=1),
      Tiling(((-2, 2), (-1, 3)), rest=1), reduce='max')
  assert pattern.grid((2, 4, 12)) == (2, 4, 6)
  assert pattern.group_tile((2, 4, 12)) == (1, 2, 3)
  assert pattern.sizes((2, 4, 12)) == (8, 6)
  check(pattern, (2, 4, 12), range(7), kinds=_EXACT, unit=(1, 1, 2),
        group=(1, 2, 3))


def test_blocks_may_be_n_of_m():
  pattern = Pattern(
      'blocks 2:4', Tiling(((-1, 4),), rest=1), Tiling(((-2, 4),), rest=1))
  check(pattern, (8, 8), range(5), kinds=_EXACT, unit=(1, 4), group=(4, 1))


# How many are kept.


@pytest.mark.parametrize('sparsity', [
    0., 1., 0, 1, .5, .25, .1, .3, .7, .9, .95, .99, 1 / 3, .999, 1e-9,
    29 / 60, 59 / 60])
def test_static_sparsity_keeps_the_rounded_share(sparsity):
  k = round((1 - sparsity) * 60)
  x = scores_of('integers', (6, 10))
  agree(select(x, unstructured(), sparsity), oracle(x, k), sparsity)
  agree(select(x, unstructured(sparsity=sparsity)), oracle(x, k), sparsity)


@pytest.mark.parametrize('n, sparsity, kept', [
    (2, .75, 0), (6, .75, 2), (10, .75, 2), (14, .75, 4), (1, .5, 0),
    (3, .5, 2), (5, .5, 2), (7, .5, 4)])
def test_halves_go_to_even(n, sparsity, kept):
  for s in (sparsity, jnp.float32(sparsity)):
    got = selection.kept_count(n, s)
    assert (int(got.hi), int(got.lo)) == (0, kept)


def test_traced_sparsity_is_read_as_float32():
  x = scores_of('integers', (6, 10))
  values = [0., 1., .5, .25, .1, .3, .9, 1 / 3, .999, 29 / 60, .5 - 2**-25,
            .5 + 2**-24, 2**-9, 1 - 2**-24]
  for s in values:
    agree(traced(unstructured())(x, jnp.float32(s)), oracle(x, keeping(60, s)),
          s)
    agree(select(x, unstructured(), jnp.float32(s)), oracle(x, keeping(60, s)),
          s)


def test_traced_counts_are_exact_for_large_layers():
  run = jax.jit(selection.kept_count, static_argnums=0)
  for n in (2**20 + 1, 2**24 + 1, 2**31 + 3, 2**32 + 5, 2**40 + 1):
    for s in (.1, .5, .9, .95, 1 / 3, 1 - 2**-20):
      got = run(n, jnp.float32(s))
      assert int(got.hi) * 2**16 + int(got.lo) == keeping(n, s), (n, s)


@pytest.mark.parametrize('n, sparsity', [
    (1000, .0005), (5000, .0003), (2**20, 1e-4), (2**26, 1e-5)])
def test_traced_counts_are_exact_for_tiny_sparsities(n, sparsity):
  got = selection.kept_count(n, jnp.float32(sparsity))
  assert int(got.hi) * 2**16 + int(got.lo) == keeping(n, sparsity)


def test_weights_beyond_32_bits_are_traced():
  x = jax.ShapeDtypeStruct((48, 2**14, 2**14), jnp.bfloat16)
  for pattern in (unstructured(), nm(2, 4), channel(0), _PER_LAYER):
    for s in (.5, jnp.float32(.5)):
      mask = jax.eval_shape(lambda x: select(x, pattern, s), x)  # noqa: B023
      assert mask.shape == x.shape and mask.dtype == bool


def test_traced_sparsity_is_clipped():
  x = scores_of('normal', (6, 10))
  assert traced(unstructured())(x, jnp.float32(-2e-8)).all()
  assert not traced(unstructured())(x, jnp.float32(1 + 1e-6)).any()


def test_sparser_masks_are_subsets():
  x = scores_of('integers', (6, 10))
  masks = [np.asarray(selector(unstructured())(x, jnp.uint32(k)))
           for k in range(61)]
  for fewer, more in zip(masks, masks[1:]):
    assert (more | ~fewer).all() and more.sum() == fewer.sum() + 1


# Transformations.


@pytest.mark.parametrize('pattern, group', [
    (unstructured(), None), (nm(2, 4), (4, 1)), (nm(8, 16), (16, 1))], ids=str)
def test_vmap_selects_row_by_row(pattern, group):
  x = jnp.stack([scores_of('integers', (32, 4), seed=i) for i in range(3)])
  s = np.array([.25, 1 / 3, 31 / 32], np.float32)
  got = jax.jit(jax.vmap(lambda x, s: select(x, pattern, s)))(x, s)
  for i in range(3):
    k = keeping(math.prod(group or (32, 4)), s[i])
    agree(got[i], oracle(x[i], k, group=group), i)


def test_vmap_keeps_a_static_share_of_blocks():
  x = jnp.stack([scores_of('integers', (4, 6), seed=i) for i in range(3)])
  got = jax.vmap(lambda x: select(x, block((2, 2)), .5))(x)
  for i in range(3):
    agree(got[i], oracle(x[i], 3, unit=(2, 2)), i)


def test_select_works_inside_scan_and_cond():
  xs = jnp.stack([scores_of('integers', (6, 10), seed=i) for i in range(4)])
  s = np.array([0., .3, .75, 1.], np.float32)

  @jax.jit
  def run(xs, s):
    def step(mask, row):
      x, s, on = row
      mask = lax.cond(
          on, lambda: select(x, unstructured(), s), lambda: mask)
      return mask, mask
    on = jnp.array([True, True, False, True])
    return lax.scan(step, jnp.zeros((6, 10), bool), (xs, s, on))[1]

  masks = run(xs, s)
  for i in (0, 1, 3):
    agree(masks[i], oracle(xs[i], keeping(60, s[i])), i)
  agree(masks[2], np.asarray(masks[1]))


@pytest.mark.parametrize('pattern', [
    unstructured(sparsity=.5), nm(8, 16)], ids=str)
def test_a_mask_made_inside_a_loss_has_no_gradient_of_its_own(pattern):
  w = scores_of('normal', (32, 4))
  mask = select(jnp.abs(w), pattern)
  got = jax.jit(jax.grad(lambda w: jnp.sum(
      w * select(jnp.abs(w), pattern).astype(w.dtype))))(w)
  np.testing.assert_array_equal(got, np.asarray(mask, np.float32))


def test_masks_are_deterministic_and_scale_free():
  x = scores_of('normal', (6, 10))
  mask = select(x, unstructured(), .7)
  agree(select(x, unstructured(), .7), np.asarray(mask))
  agree(select(x * 2.**40, unstructured(), .7), np.asarray(mask))


def test_scores_may_be_float64():
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    for x in (rng.standard_normal((6, 10)), 1 + rng.integers(0, 9, (6, 10))
              * 2.**-52, scores_of('nan', (6, 10), 'float64'),
              scores_of('heavy', (6, 10), 'float64')):
      x = jnp.asarray(x)
      assert x.dtype == jnp.float64
      for k in (0, 1, 17, 30, 59, 60):
        agree(select(x, unstructured(), (60 - k) / 60), oracle(x, k), k)
    # Traced, the sparsity is read as float32 all the same.
    got = jax.jit(lambda x, s: select(x, unstructured(), s))(
        x, jnp.float64(.1))
    agree(got, oracle(x, keeping(60, .1)))
    x = jnp.asarray(1 + rng.integers(0, 4, (8, 3)) * 2.**-52)
    agree(select(x, nm(2, 4)), oracle(x, 2, group=(4, 1)))
    # What float32 would lose in a block's sum decides.
    x = jnp.asarray([[1., 2.**-40, 1., 0.]])
    agree(select(x[:, ::-1], block((1, 2)), .5), np.array([[0, 0, 1, 1]], bool))


# Empty weights.


@pytest.mark.parametrize('shape, pattern', [
    ((0,), unstructured()), ((0, 4), unstructured()), ((0, 4), nm(2, 4)),
    ((4, 0), nm(2, 4)), ((4, 0), block((2, 2))), ((0, 4), channel(-1)),
    ((4, 0), channel(-1)), ((0, 4), channel(-1, reduce='mean')),
    ((0, 4), channel(-1, reduce='max')),
    ((4, 0), block((2, 2), reduce='max'))], ids=str)
def test_empty_weights_have_empty_masks(shape, pattern):
  mask = select(jnp.zeros(shape), pattern, .5)
  assert mask.shape == shape and mask.dtype == bool


# Errors.


@pytest.mark.parametrize('pattern, shape, message', [
    (nm(2, 4), (6, 4), r'(?s)nm\(2, 4\).*axis -2.*\(6, 4\)'),
    (nm(2, 4), (8,), r'(?s)nm\(2, 4\).*axis -2.*\(8,\).*dense'),
    (nm(2, 4, axis=3), (8, 8), r'(?s)axis 3.*\(8, 8\)'),
    (block((4, 4), sparsity=.5), (8, 6),
     r'(?s)block\(\(4, 4\).*axis -1.*\(8, 6\)'),
    (block((4, 4), sparsity=.5), (8,), r'(?s)block\(\(4, 4\).*\(8,\)'),
    (channel(-1, sparsity=.5), (), r'(?s)channel\(-1.*axis -1.*\(\)')], ids=str)
def test_a_pattern_that_does_not_tile_is_an_error(pattern, shape, message):
  with pytest.raises(ValueError, match=message):
    select(jnp.ones(shape), pattern)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda x: select(x, pattern), jnp.ones(shape))


@pytest.mark.parametrize('sparsity', [1.5, -.1, 90, float('nan')])
def test_a_sparsity_outside_of_0_and_1_is_an_error(sparsity):
  with pytest.raises(ValueError, match=r'(?s)fraction pruned.*\[0, 1\].*got '):
    select(jnp.ones(4), unstructured(), sparsity)
  with pytest.raises(ValueError, match=r'(?s)fraction pruned.*\[0, 1\].*got '):
    unstructured(sparsity=sparsity)
  with pytest.raises(ValueError, match='min_sparsity'):
    channel(min_sparsity=sparsity)


def test_a_missing_sparsity_is_an_error():
  with pytest.raises(ValueError, match=r'(?s)no sparsity.*Write e.g.'):
    select(jnp.ones(4), unstructured())


def test_integer_scores_are_an_error():
  with pytest.raises(ValueError, match=r'(?s)floating.*int32.*astype'):
    select(jnp.ones(4, jnp.int32), unstructured(), .5)
  with pytest.raises(ValueError, match=r'(?s)floating.*bool'):
    select(jnp.ones((4, 4), bool), nm(2, 4))
