"""Schedules: their formulas, their ends and when to act."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsparse import schedules

_BEGIN, _END = 100, 350
_CURVES = {
    'linear': (schedules.linear, lambda p: p),
    'cubic': (schedules.cubic, lambda p: 1 - (1 - p)**3),
    'cosine': (schedules.cosine, lambda p: 1 - np.cos(np.pi * p / 2)),
    'cube': (schedules.cube, lambda p: p**3),
    'exponential': (
        lambda begin, end: schedules.exponential(
            begin, end, final_sparsity=.9),
        lambda p: (1 - .1**p) / .9),
    'nearly dense': (
        lambda begin, end: schedules.exponential(
            begin, end, final_sparsity=.001),
        lambda p: (1 - .999**p) / .001),
}
# float32 loses up to 2^-24 / 0.001 of 'nearly dense'.
_TOLERANCE = {'nearly dense': 1e-4}


@pytest.fixture(params=_CURVES, name='curve')
def _curve(request):
  make, formula = _CURVES[request.param]
  return make, formula, _TOLERANCE.get(request.param, 1e-6)


def test_progress_is_the_formula(curve):
  make, formula, tolerance = curve
  steps = np.arange(0, 500, 7)
  p = np.clip((steps - _BEGIN) / (_END - _BEGIN), 0., 1.)
  schedule = make(_BEGIN, _END)
  got = jax.jit(jax.vmap(schedule))(jnp.asarray(steps))
  np.testing.assert_allclose(got, formula(p), atol=tolerance)
  for step in (0, 100, 101, 225, 349, 350, 1000):
    p = min(max((step - _BEGIN) / (_END - _BEGIN), 0.), 1.)
    np.testing.assert_allclose(schedule(step), formula(p), atol=tolerance)


@pytest.mark.parametrize('begin, end', [
    (0, 1), (0, 3), (7, 1000), (999, 1234), (0, 2**24 + 1), (2**30, 2**31 - 2)])
def test_progress_is_exactly_0_up_to_begin_and_1_from_end_on(
    curve, begin, end):
  schedule = curve[0](begin, end)
  traced = jax.jit(schedule)
  for step in {0, max(begin - 1, 0), begin}:
    assert float(schedule(step)) == float(traced(jnp.int32(step))) == 0.
  for step in (end, end + 1, 2**31 - 1):
    assert float(schedule(step)) == float(traced(jnp.int32(step))) == 1.


@pytest.mark.parametrize('begin, end', [(0, 1), (0, 10_000), (7, 10**6)])
def test_a_schedule_arrives_at_its_end_alone(curve, begin, end):
  """However flat it is there: `1 - (1 - p)^3` rounds to 1 before."""
  schedule = curve[0](begin, end)
  near = jnp.concatenate([jnp.arange(end - min(end, 4_000), end + 3)])
  arrived = jax.jit(jax.vmap(lambda s: schedules.arrives(schedule, s)))(near)
  assert near[arrived].tolist() == [end]


def test_progress_never_falls_and_stays_in_0_and_1(curve):
  progress = np.asarray(
      jax.jit(jax.vmap(curve[0](10, 3010)))(jnp.arange(3100)))
  assert ((0 <= progress) & (progress <= 1)).all()
  assert (np.diff(progress) >= 0).all()


def test_progress_is_a_float32_scalar(curve):
  schedule = curve[0](2, 9)
  for step in (5, np.int64(5), jnp.int32(5), jnp.uint32(5), jnp.int16(5)):
    got = schedule(step)
    assert got.shape == () and got.dtype == jnp.float32
    assert got == schedule(5)


def test_unsigned_steps_before_begin_have_no_progress(curve):
  assert jax.jit(curve[0](5, 9))(jnp.uint32(3)) == 0.


@pytest.mark.parametrize('begin', [0, 1, 1000])
def test_one_shot_is_all_or_nothing(begin):
  schedule = schedules.one_shot(begin)
  for f in (schedule, jax.jit(schedule)):
    if begin:
      assert f(0) == 0. and f(begin - 1) == 0.
    assert f(begin) == 1. and f(begin + 1) == 1.
  assert schedules.one_shot()(0) == 1.


def test_cubic_is_fast_first_and_cube_slow_first():
  middle = 50
  assert schedules.cubic(0, 100)(middle) == .875
  assert schedules.cube(0, 100)(middle) == .125
  assert schedules.linear(0, 100)(middle) == .5


def test_exponential_prunes_the_same_share_each_step():
  schedule = schedules.exponential(0, 4, final_sparsity=.9375)
  density = [1 - .9375 * float(schedule(step)) for step in range(5)]
  np.testing.assert_allclose(density, [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16],
                             rtol=1e-5)


@pytest.mark.parametrize('begin, end', [(5, 5), (6, 5), (-1, 5)])
def test_a_ramp_that_does_not_rise_is_an_error(curve, begin, end):
  with pytest.raises(
      ValueError, match=rf'(?s)0 <= begin < end.*begin={begin}.*end={end}'):
    curve[0](begin, end)


@pytest.mark.parametrize('sparsity', [0., 1., -.5, 90])
def test_exponential_needs_a_sparsity_inside_0_and_1(sparsity):
  with pytest.raises(
      ValueError, match=rf'(?s)0 < final_sparsity < 1.*{sparsity}'):
    schedules.exponential(0, 10, final_sparsity=sparsity)


# When.


@pytest.mark.parametrize('n, begin, end', [
    (1, 0, None), (1, 3, None), (1, 0, 5), (1, 3, 7), (4, 0, None), (4, 2, 9),
    (4, 2, 10), (5, 5, 5), (100, 0, 30), (7, 40, None)])
def test_every_is_true_at_its_phase(n, begin, end):
  when = schedules.every(n, begin=begin, end=end)
  last = 31 if end is None else min(end, 31)
  want = [step for step in range(32) if step in range(begin, last + 1, n)]
  assert [step for step in range(32) if when(step)] == want
  traced = jax.jit(lambda step: jnp.asarray(when(step)))
  assert [step for step in range(32) if traced(jnp.int32(step))] == want
  assert [step for step in range(32) if when(jnp.uint32(step))] == want


def test_every_step_is_known_while_tracing():
  seen = []
  jax.jit(lambda step: seen.append(schedules.every(1)(step)) or step)(0)
  assert seen == [True] and seen[0] is True
  assert schedules.every(1)(17) is True


def test_every_traced_is_one_bool():
  got = jax.eval_shape(schedules.every(4, end=9), jnp.int32(4))
  assert got.shape == () and got.dtype == bool


@pytest.mark.parametrize('n, begin, end, part', [
    (0, 0, None, 'n must be a whole number of 1 or more.*got 0'),
    (-3, 0, 5, 'n must be a whole number of 1 or more.*got -3'),
    (2, 5, 3, 'n=2, begin=5, end=3')])
def test_every_without_a_period_is_an_error(n, begin, end, part):
  with pytest.raises(ValueError, match=f'(?s){part}'):
    schedules.every(n, begin=begin, end=end)


# Steps and fades.


def test_staircase_holds_each_level_until_the_next():
  levels = {3: .25, 4: .5, 9: 1.}
  schedule = schedules.staircase(levels)
  expected = [0.] * 3 + [.25] + [.5] * 5 + [1.] * 3
  traced = jax.jit(schedule)
  assert [float(schedule(step)) for step in range(12)] == expected
  assert [float(traced(jnp.int32(step))) for step in range(12)] == expected
  np.testing.assert_array_equal(
      jax.vmap(schedule)(jnp.arange(12)), np.float32(expected))
  assert schedules.staircase({0: .5})(0) == .5
  got = jax.eval_shape(schedule, jnp.int32(4))
  assert got.shape == () and got.dtype == jnp.float32


@pytest.mark.parametrize('share', [0., .25, 1 / 3, .7, 1.])
def test_an_initial_share_comes_at_begin_and_the_rest_by_the_curve(
    curve, share):
  make, formula, tolerance = curve
  schedule = schedules.from_initial(make(_BEGIN, _END), share, begin=_BEGIN)
  steps = np.arange(0, 500, 7)
  p = np.clip((steps - _BEGIN) / (_END - _BEGIN), 0., 1.)
  want = np.where(steps < _BEGIN, 0., share + (1 - share) * formula(p))
  got = jax.jit(jax.vmap(schedule))(jnp.asarray(steps))
  np.testing.assert_allclose(got, want, atol=tolerance)
  assert schedule(_BEGIN - 1) == 0. and schedule(_END) == 1.
  np.testing.assert_allclose(schedule(_BEGIN), share, atol=1e-7)
  assert schedule(5).shape == () and schedule(5).dtype == jnp.float32


@pytest.mark.parametrize('steps', [60, 425, 1700])
def test_a_schedule_of_optax_arrives_at_its_end_however_it_is_rounded(steps):
  schedule = schedules.ending(optax.linear_schedule(0., 1., steps))
  near = jnp.arange(steps - 9, steps + 9)
  for one in (schedule, schedules.from_initial(schedule, .3)):
    arrived = jax.jit(jax.vmap(lambda s, f=one: schedules.arrives(f, s)))(near)
    assert near[arrived].tolist() == [steps]


def test_a_schedule_with_an_initial_share_arrives_at_its_end_alone():
  schedule = schedules.from_initial(schedules.cubic(3, 9), 1 / 3, begin=3)
  assert [t for t in range(12) if schedules.arrives(schedule, t)] == [9]


@pytest.mark.parametrize('share', [5 / 9, 1 - 1e-7])
def test_a_schedule_with_an_initial_share_does_not_round_to_1(share):
  schedule = schedules.from_initial(schedules.cubic(0, 3000), share)
  got = jax.jit(jax.vmap(schedule))(jnp.arange(3002))
  np.testing.assert_array_equal(np.flatnonzero(got >= 1), [3000, 3001])


def test_an_initial_share_of_1_is_there_from_the_start():
  schedule = schedules.from_initial(schedules.cubic(2, 9), 1., begin=2)
  assert [float(schedule(t)) for t in (1, 2, 3, 9)] == [0., 1., 1., 1.]


@pytest.mark.parametrize('share, begin', [
    (-.1, 0), (1.1, 0), (.5, -1)])
def test_a_share_outside_0_and_1_is_an_error(share, begin):
  with pytest.raises(
      ValueError, match=rf'(?s)share={share} and begin={begin}.*write from_i'):
    schedules.from_initial(schedules.linear(0, 9), share, begin)


@pytest.mark.parametrize('levels', [
    {}, {-1: .5}, {5: .5, 3: 1.}, {3: 1., 5: .5}, {3: 1.5}, {3: -.5, 5: 1.}],
                         ids=str)
def test_a_staircase_that_does_not_go_up_is_an_error(levels):
  with pytest.raises(
      ValueError, match=r'(?s)increasing steps.*Write e\.g\. staircase'):
    schedules.staircase(levels)


_FADES = {
    'linear': (schedules.fade_linear, lambda j: 1 - j / 250),
    'exponential': (schedules.fade_exponential,
                    lambda j: np.exp(-np.log(100.) * j / 250)),
    'exponential, a rate': (
        lambda begin, end: schedules.fade_exponential(begin, end, rate=.02),
        lambda j: np.exp(-.02 * j))}


@pytest.fixture(params=_FADES, name='fade')
def _fade(request):
  return _FADES[request.param]


def test_a_fade_is_its_formula_between_1_and_exactly_0(fade):
  make, formula = fade
  steps = np.arange(0, 500)
  want = np.where(steps <= _BEGIN, 1., np.where(
      steps >= _END, 0., formula(steps - _BEGIN)))
  gain = make(_BEGIN, _END)
  got = np.asarray(jax.jit(jax.vmap(gain))(jnp.asarray(steps)))
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert (got[:_BEGIN + 1] == 1.).all() and (got[_END:] == 0.).all()
  inside = got[_BEGIN:_END + 1]
  assert (np.diff(inside) < 0).all()
  assert got.dtype == np.float32


@pytest.mark.parametrize('begin, end', [(0, 1), (7, 1000), (0, 2**24 + 1)])
def test_a_fade_has_exact_ends_traced_or_not(fade, begin, end):
  gain = fade[0](begin, end)
  traced = jax.jit(gain)
  for step in {0, begin}:
    assert float(gain(step)) == float(traced(jnp.int32(step))) == 1.
  for step in (end, end + 1, 2**31 - 1):
    assert float(gain(step)) == float(traced(jnp.int32(step))) == 0.


@pytest.mark.parametrize('begin, end', [(5, 5), (6, 5), (-1, 5)])
def test_a_fade_that_does_not_fall_is_an_error(fade, begin, end):
  with pytest.raises(ValueError, match=r'(?s)0 <= begin < end'):
    fade[0](begin, end)


@pytest.mark.parametrize('rate', [0., -.1])
def test_an_exponential_fade_without_a_rate_is_an_error(rate):
  with pytest.raises(ValueError, match=rf'(?s)above 0.*{rate}.*leave rate'):
    schedules.fade_exponential(0, 10, rate=rate)


def test_fade_cosine_is_half_a_wave_and_exactly_zero_at_its_end():
  fade = jax.jit(schedules.fade_cosine(_BEGIN, _END))
  steps = np.arange(0, 400, 7)
  p = np.clip((steps - _BEGIN) / (_END - _BEGIN), 0, 1)
  np.testing.assert_allclose(
      [fade(t) for t in steps], (1 + np.cos(np.pi * p)) / 2, atol=1e-6)
  assert fade(0) == fade(_BEGIN) == 1
  assert fade(_END) == fade(_END + 1) == 0 < fade(_END - 1)


def test_fade_cosine_needs_an_end_behind_its_begin():
  with pytest.raises(ValueError, match='begin < end|begin.*end'):
    schedules.fade_cosine(5, 5)


@pytest.mark.parametrize('jit', [False, True])
def test_either_is_true_where_any_is(jit):
  whens = (schedules.every(4, end=9), schedules.every(3, begin=2))
  both = schedules.either(*whens)
  both = jax.jit(both) if jit else both
  for step in range(20):
    assert bool(both(step)) == any(bool(when(step)) for when in whens)


def test_either_of_one_is_that_one():
  one = schedules.either(schedules.every(3))
  assert [t for t in range(7) if one(t)] == [0, 3, 6]


def test_either_of_none_is_never_or_a_taught_error():
  try:
    assert not schedules.either()(3)
  except ValueError:
    pass
