"""Scores by hand, their state, and what they do without gradients."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import scores

_ALL = {
    'magnitude': scores.magnitude, 'gradient': scores.gradient,
    'saliency': scores.saliency, 'snip_momentum': scores.snip_momentum,
    'random': lambda: scores.random(0)}
_OF_GRADIENTS = ('gradient', 'saliency', 'snip_momentum')


def params_of(dtype='float32'):
  return {'mlp': {'kernel': jnp.asarray([[-2., 1.], [0., 4.]], dtype),
                  'bias': jnp.asarray([.5, -.5], dtype)},
          'head': [jnp.asarray([[-3.]], dtype)]}


def grads_of(dtype='float32'):
  return {'mlp': {'kernel': jnp.asarray([[.5, -2.], [3., -1.]], dtype),
                  'bias': jnp.asarray([0., 8.], dtype)},
          'head': [jnp.asarray([[-.25]], dtype)]}


def table(kernel, bias, head):
  return {'mlp': {'kernel': np.array(kernel, np.float32),
                  'bias': np.array(bias, np.float32)},
          'head': [np.array(head, np.float32)]}


def agree(got, want, **tolerance):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      np.asarray(a, np.float32), b, **tolerance), got, want)


_BY_HAND = {
    'magnitude': table([[2, 1], [0, 4]], [.5, .5], [[3]]),
    'gradient': table([[.5, 2], [3, 1]], [0, 8], [[.25]]),
    'saliency': table([[1, 2], [0, 4]], [0, 4], [[.75]]),
    'snip_momentum': table([[.9, 1.8], [0, 3.6]], [0, 3.6], [[.675]])}


@pytest.mark.parametrize('name', _BY_HAND)
def test_scores_by_hand(name):
  score, params = _ALL[name](), params_of()
  got, _ = score.update(grads_of(), score.init(params), params)
  agree(got, _BY_HAND[name], rtol=1e-6)
  got, _ = jax.jit(score.update)(grads_of(), score.init(params), params)
  agree(got, _BY_HAND[name], rtol=1e-6)


@pytest.mark.parametrize('name', [n for n in _BY_HAND if n != 'snip_momentum'])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_scores_keep_the_dtype_of_the_weight_but_products_are_wide(
    name, dtype):
  score, params = _ALL[name](), params_of(dtype)
  got, _ = score.update(grads_of(dtype), score.init(params), params)
  assert {w.dtype for w in jax.tree.leaves(got)} == {
      jnp.dtype('float32' if name == 'saliency' else dtype)}
  agree(got, _BY_HAND[name])  # Powers of two: exact.


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_a_sum_of_narrow_products_goes_on_growing(dtype):
  score, w = scores.snip_momentum(scale=1.), jnp.ones(2, dtype)
  state = score.init(w)._replace(accumulated=jnp.full(2, 4096., jnp.float32))
  got, state = score.update(w, state, w)  # 4097 is no bfloat16 or float16.
  assert got.dtype == state.accumulated.dtype == jnp.float32
  np.testing.assert_array_equal(got, [4097., 4097.])


def _tenth(scores):
  """The highest tenth."""
  order = np.argsort(-np.asarray(scores, np.float64), kind='stable')
  return set(order[:len(order) // 10].tolist())


@pytest.mark.parametrize('decay', [1., 0.9])
def test_a_narrow_sum_keeps_nearly_the_weights_of_a_wide_one(decay):
  """99.1% and 99.7% of the highest tenth after 100 steps were the same."""
  draw = np.random.default_rng(0)
  w = draw.normal(size=20_000).astype('float32')
  size = np.exp(draw.normal(size=w.size) / 2).astype('float32')
  score = scores.snip_momentum(decay, dtype='bfloat16')
  update = jax.jit(lambda g, s, w: score.update(g, s, w))
  state, wide = score.init(jnp.asarray(w)), np.zeros(w.size)
  for _ in range(100):
    g = (draw.normal(size=w.size) * size).astype('float32')
    got, state = update(g, state, w)
    wide = decay * wide + 0.9 * np.abs(w.astype('float64') * g)
  assert got.dtype == state.accumulated.dtype == jnp.bfloat16
  same = len(_tenth(got) & _tenth(wide)) / (w.size // 10)
  assert same > {1.: 0.985, 0.9: 0.99}[decay]


def test_narrow_sums_are_made_wide_and_rounded_once():
  w = jnp.ones(3, 'bfloat16')
  score = scores.snip_momentum(scale=0.75, dtype='bfloat16')
  state = scores.SnipMomentumState(jnp.full(3, 256., 'bfloat16'))
  # bfloat16 has 256, 258 and 260: 0.75 is lost, 1.5 and 3.75 are rounded.
  got, state = score.update(jnp.array([1., 2., 5.], 'bfloat16'), state, w)
  np.testing.assert_array_equal(got.astype('float32'), [256., 258., 260.])
  mean = scores.momentum(0.5, dtype=jnp.float16)
  got, state = mean.update(jnp.full(2, -3.), mean.init(jnp.ones(2)))
  assert got.dtype == state.mean.dtype == jnp.float16
  np.testing.assert_array_equal(state.mean, np.full(2, -1.5, 'float16'))


@pytest.mark.parametrize('make', [scores.snip_momentum, scores.momentum])
def test_a_dtype_that_is_not_floating_is_a_taught_error(make):
  with pytest.raises(ValueError, match="dtype='bfloat16'"):
    make(dtype='int8')


@pytest.mark.parametrize('name', ['saliency', 'snip_momentum'])
def test_products_take_gradients_of_another_dtype(name):
  score, params = _ALL[name](), params_of('bfloat16')
  got, state = score.update(grads_of(), score.init(params), params)
  assert {w.dtype for w in jax.tree.leaves((got, state))} == {
      jnp.dtype('float32')}
  agree(got, _BY_HAND[name], rtol=2.**-7)


@pytest.mark.parametrize('name', ['saliency', 'snip_momentum'])
def test_products_are_taken_where_the_gradient_was(name):
  score, point = _ALL[name](), params_of()
  params = jax.tree.map(lambda w: w * 100. + 7., point)
  got, _ = score.update(grads_of(), score.init(params), params, point=point)
  agree(got, _BY_HAND[name], rtol=1e-6)


def test_magnitude_is_of_the_weights_the_mask_is_for():
  params = params_of()
  point = jax.tree.map(lambda w: w * 100., params)
  score = scores.magnitude()
  got, _ = score.update(grads_of(), score.init(params), params, point=point)
  agree(got, _BY_HAND['magnitude'])


@pytest.mark.parametrize('name', _OF_GRADIENTS)
def test_scores_of_gradients_are_none_without_gradients(name):
  score, params = _ALL[name](), params_of()
  state = score.init(params)
  got, after = score.update(None, state, params)
  assert got is None
  chex.assert_trees_all_equal(after, state)


@pytest.mark.parametrize('name', ['magnitude', 'random'])
def test_other_scores_need_no_gradients(name):
  score, params = _ALL[name](), params_of()
  got, _ = score.update(None, score.init(params), params)
  assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize('name', _ALL)
def test_scores_ignore_extra_arguments_they_do_not_know(name):
  score, params = _ALL[name](), params_of()
  score.update(grads_of(), score.init(params), params, masks=None, value=3.)


@pytest.mark.parametrize('name', _ALL)
def test_scores_keep_none_leaves_and_empty_trees(name):
  score = _ALL[name]()
  for params in ({}, {'a': None, 'b': jnp.ones(3)}):
    got, _ = score.update(params, score.init(params), params)
    assert jax.tree.structure(got) == jax.tree.structure(params)


@pytest.mark.parametrize('name', _ALL)
def test_states_hold_arrays_of_constant_type(name):
  score, params = _ALL[name](), params_of()
  state = score.init(params)
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
  _, after = score.update(grads_of(), state, params)
  assert jax.tree.structure(state) == jax.tree.structure(after)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after)):
    assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)


@pytest.mark.parametrize('decay, scale', [(1., .9), (.9, 1.), (.5, .25)])
def test_snip_momentum_accumulates_every_step(decay, scale):
  rng = np.random.default_rng(0)
  score, params = scores.snip_momentum(decay, scale), params_of()
  state, want = score.init(params), jax.tree.map(np.zeros_like, params)
  for _ in range(6):
    point = jax.tree.map(lambda w: rng.standard_normal(w.shape), params)
    grads = jax.tree.map(lambda w: rng.standard_normal(w.shape), params)
    want = jax.tree.map(
        lambda s, w, g: decay * s + scale * np.abs(w * g), want, point, grads)
    f32 = lambda tree: jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), tree)
    got, state = score.update(f32(grads), state, params, point=f32(point))
    agree(got, jax.tree.map(np.float32, want), rtol=1e-5)
    agree(state.accumulated, jax.tree.map(np.float32, want), rtol=1e-5)


def test_snip_momentum_defaults_are_the_documented_formula():
  score, w = scores.snip_momentum(), jnp.ones(1)
  state = score.init(w)
  for _ in range(3):
    got, state = score.update(w, state, w)
  np.testing.assert_allclose(got, [2.7], rtol=1e-6)


def random_steps(seed, params, steps=3):
  score = scores.random(seed)
  state, drawn = score.init(params), []
  for _ in range(steps):
    got, state = score.update(None, state, params)
    drawn.append(jax.tree.map(np.asarray, got))
  return drawn


def equal(a, b):
  return all(jax.tree.leaves(jax.tree.map(lambda x, y: (x == y).all(), a, b)))


def test_random_repeats_by_seed_and_changes_by_step():
  params = {'a': jnp.ones((3, 4)), 'b': [jnp.ones(12), jnp.ones((2, 6))]}
  first, again, other = (random_steps(s, params) for s in (7, 7, 8))
  for x, y, z in zip(first, again, other):
    assert equal(x, y) and not equal(x, z)
  assert not equal(first[0], first[1]) and not equal(first[1], first[2])


def test_random_differs_among_leaves_and_entries():
  params = {'a': jnp.ones((3, 4)), 'b': jnp.ones((3, 4))}
  drawn = random_steps(0, params, 1)[0]
  values = np.concatenate([drawn['a'].ravel(), drawn['b'].ravel()])
  assert len(set(values.tolist())) == 24


def test_random_is_uniform_in_0_and_1():
  drawn = random_steps(0, jnp.ones((100, 100)), 1)[0]
  assert drawn.dtype == np.float32
  assert 0 <= drawn.min() and drawn.max() < 1
  counts, _ = np.histogram(drawn, 10, (0, 1))
  assert (np.abs(counts - 1000) < 150).all()


def test_random_ignores_the_weights_and_jit():
  params = params_of()
  score = scores.random(3)
  state = score.init(params)
  a, _ = score.update(None, state, params)
  b, _ = jax.jit(score.update)(
      grads_of(), state, jax.tree.map(lambda w: w * 2., params))
  assert equal(a, b)


def test_momentum_is_a_running_mean_of_gradients():
  score, w = scores.momentum(.75), params_of()
  state, mean = score.init(w), 0.
  for i in range(1, 6):
    g = jax.tree.map(lambda x, i=i: x * (-1)**i * i, grads_of())
    out, state = score.update(g, state, w)
    mean = .75 * mean + .25 * (-1)**i * i
    agree(out, jax.tree.map(lambda x, m=mean: abs(np.asarray(x) * m),
                            grads_of()), rtol=1e-6)


def test_momentum_of_bf16_is_kept_in_float32():
  score, w = scores.momentum(), params_of('bfloat16')
  state = score.init(w)
  for _ in range(200):
    out, state = score.update(grads_of('bfloat16'), state, w)
  assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype('float32')}
  agree(out, jax.tree.map(lambda x: abs(np.asarray(x)), grads_of()), rtol=1e-5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_magnitude_and_gradient_is_their_weighted_sum(dtype):
  score, w = scores.magnitude_and_gradient(.25), params_of(dtype)
  out, _ = score.update(grads_of(dtype), score.init(w), w)
  agree(out, table([[2.125, 1.5], [.75, 4.25]], [.5, 2.5], [[3.0625]]),
        rtol=2.**-8 if dtype == 'bfloat16' else 0.)


def test_signed_magnitude_is_the_weight():
  score, w = scores.signed_magnitude(), params_of()
  agree(score.update(None, score.init(w), w)[0], w)


def test_scores_of_gradients_wait_for_them():
  w = params_of()
  for score in (scores.momentum(), scores.magnitude_and_gradient()):
    state = score.init(w)
    out, after = score.update(None, state, w)
    assert out is None and jax.tree.structure(after) == jax.tree.structure(
        state)


def _thresholds(w, masks, steps, *, initial=1., fraction=.25, period=1):
  score = scores.adaptive_threshold(
      initial, fraction=fraction, when=lambda step: step % period == 0)
  state, seen = score.init(w), []
  update = jax.jit(lambda s: score.update(None, s, w, masks=masks)[1])
  for _ in range(steps):
    state = update(state)
    seen.append(float(state.threshold))
  return seen


def _of(values, kept=None):
  w = {'a': {'kernel': jnp.asarray(values, jnp.float32), 'bias': None}}
  keep = jnp.ones(len(values), bool) if kept is None else jnp.asarray(kept)
  return w, {'a': {'kernel': keep, 'bias': None}}


@pytest.mark.parametrize('below, expected', [
    (5, .5), (4, 1.), (3, 2.), (0, 2.), (16, .5)])
def test_the_threshold_is_halved_or_doubled_towards_its_share(below, expected):
  w, masks = _of([.9] * below + [1.] * (16 - below))
  assert _thresholds(w, masks, 1) == [expected]


def test_only_active_weights_move_the_threshold_and_only_when_due():
  w, masks = _of([0.] * 12 + [9.] * 4, [False] * 12 + [True] * 4)
  assert _thresholds(w, masks, 4, period=2) == [1., 2., 2., 4.]


def test_the_scores_of_a_step_are_by_the_threshold_before_it():
  score = scores.adaptive_threshold(
      .5, fraction=.25, when=lambda step: step > 0)
  w, masks = _of([-1., .25, 0.])
  out, state = score.update(None, score.init(w), w, masks=masks)
  np.testing.assert_array_equal(out['a']['kernel'], [2., .5, 0.])
  out, _ = score.update(None, state, w, masks=masks)
  np.testing.assert_array_equal(out['a']['kernel'], [4., 1., 0.])


@pytest.mark.parametrize('values', [[0.] * 4, [math.inf] * 4])
def test_a_threshold_can_always_come_back(values):
  w, masks = _of(values)
  last = _thresholds(w, masks, 300)[-1]
  assert 0 < last < math.inf


def test_products_of_float16_do_not_underflow():
  w = jnp.full(4, 1e-4, 'float16')
  g = jnp.arange(1., 5.).astype('float16') / 2e3
  for score in (scores.saliency(), scores.snip_momentum()):
    got, _ = score.update(g, score.init(w), w)
    assert got.dtype == jnp.float32 and (np.diff(got) > 0).all() and got[0] > 0


@pytest.mark.parametrize('name', ['snip_momentum', 'momentum'])
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_step_with_bad_gradients_leaves_sums_as_they_were(name, bad):
  score, params = getattr(scores, name)(), params_of()
  _, state = score.update(grads_of(), score.init(params), params)
  leaves, structure = jax.tree.flatten(grads_of())
  leaves[0] = leaves[0].at[0].set(bad)
  got, after = jax.jit(score.update)(
      structure.unflatten(leaves), state, params)
  agree(after, state)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(got))


def test_products_of_complex_weights_are_real():
  w = jnp.array([1. + 1.j, 2.j])
  score = scores.snip_momentum(scale=1.)
  got, state = score.update(jnp.array([2.j, 1. + 0.j]), score.init(w), w)
  np.testing.assert_allclose(got, [2. * 2.**.5, 2.], rtol=1e-6)
  assert state.accumulated.dtype == jnp.float32


def test_the_adaptive_threshold_reads_magnitudes_of_complex_weights():
  w = jnp.array([1j, .5])
  score = scores.adaptive_threshold(.1, fraction=.1, when=lambda step: False)
  np.testing.assert_allclose(
      score.update(None, score.init(w), w)[0], [10., 5.], rtol=1e-6)
