"""Scopes against numpy: who stays and who is grown among several layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import scopes
from jaxsparse.masks import exact_counts as counts
from tests._lib import exchanges

_SIZES = (40, 12, 25)


def _layers(kind='plain', dtype='float32', signed=False):
  """Layers of three sizes, half of each open or so, some certain."""
  rng, layers = np.random.default_rng(0), []
  for i, n in enumerate(_SIZES):
    x = rng.normal(size=n) * 2.**i
    x = np.round(x) if kind == 'ties' else x * 0 if kind == 'equal' else x
    x = x if signed else np.abs(x)
    active = rng.random(n) < .5
    layers.append(scopes.Layer(
        f'{i}/kernel', jaxsparse.unstructured(), (n,), jnp.asarray(x, dtype),
        jnp.asarray(active), jnp.zeros(n, bool), jnp.asarray(active)))
  return layers


def _growing(layers):
  """The same layers with what was open certain now, and all of them open."""
  return [x._replace(certain=x.open & (jnp.arange(x.shape[0]) % 3 > 0),
                     open=jnp.ones_like(x.open)) for x in layers]


def _array(x):
  return np.asarray(x.astype(jnp.float32), np.float64)


@functools.cache
def _compiled(scope, static):
  return jax.jit(lambda arrays, goals: scope(
      [scopes.Layer(*s, *a) for s, a in zip(static, arrays)], goals))


def _call(scope, layers, goals):
  run = _compiled(scope, tuple((x.path, x.pattern, x.shape) for x in layers))
  return [np.asarray(m) for m in run(
      [tuple(x[3:]) for x in layers], [counts.exactly(n) for n in goals])]


def _ranks(layer):
  return np.where(layer.certain, np.inf, _array(layer.scores))


_KINDS = pytest.mark.parametrize(
    'kind, dtype', [('plain', 'float32'), ('ties', 'float32'),
                    ('ties', 'bfloat16'), ('equal', 'float32')])


@_KINDS
def test_per_layer_keeps_the_goal_of_each(kind, dtype):
  layers = _layers(kind, dtype)
  chosen = _call(scopes.per_layer, layers, (7, 2, 5))
  for layer, mask, goal in zip(layers, chosen, (7, 2, 5)):
    np.testing.assert_array_equal(mask, exchanges.top(
        _array(layer.scores), np.asarray(layer.open), goal))


def test_a_goal_beyond_what_is_open_takes_all_that_is():
  layers = _layers()
  for layer, mask in zip(layers, _call(scopes.per_layer, layers, _SIZES)):
    np.testing.assert_array_equal(mask, layer.open)


@_KINDS
def test_all_layers_keep_their_total_under_one_threshold(kind, dtype):
  layers = _layers(kind, dtype)
  chosen = _call(scopes.all_layers, layers, (7, 2, 5))
  scores, open_ = (np.concatenate([f(x) for x in layers]) for f in (
      lambda x: _array(x.scores), lambda x: np.asarray(x.open)))
  np.testing.assert_array_equal(
      np.concatenate(chosen), exchanges.top(scores, open_, 14))


def test_who_is_certain_stays_in_all_layers():
  layers = _growing(_layers())
  chosen = _call(scopes.all_layers, layers, (20, 5, 10))
  ranks = np.concatenate([
      np.where(x.certain, 1e30, _array(x.scores)) for x in layers])
  np.testing.assert_array_equal(
      np.concatenate(chosen), exchanges.top(ranks, np.ones(77, bool), 35))


def test_layers_of_two_dtypes_compete():
  layers = _layers('ties')
  layers[1] = layers[1]._replace(scores=layers[1].scores.astype(jnp.bfloat16))
  mixed = _call(scopes.all_layers, layers, (7, 2, 5))
  for one, other in zip(
      mixed, _call(scopes.all_layers, _layers('ties'), (7, 2, 5))):
    np.testing.assert_array_equal(one, other)


def _by_sign(w, mask, goal):
  """Of all that go, the positive give their exact share, rounded down."""
  above, below = mask & (w >= 0), mask & (w < 0)
  have = int(mask.sum())
  goes = have - min(have, goal)
  first = goes * int(above.sum()) // have
  second = min(goes - first, int(below.sum()))
  return (exchanges.top(w, above, above.sum() - (goes - second))
          | exchanges.top(-w, below, below.sum() - second))


@_KINDS
@pytest.mark.parametrize('goals', [(7, 2, 5), (0, 0, 0), (40, 12, 25)])
def test_per_sign_takes_from_both_sides(kind, dtype, goals):
  layers = _layers(kind, dtype, signed=True)
  for layer, mask, goal in zip(
      layers, _call(scopes.per_sign, layers, goals), goals):
    np.testing.assert_array_equal(mask, _by_sign(
        _array(layer.scores), np.asarray(layer.open), goal))


def _of_signs(positive, negative):
  w = jnp.concatenate([jnp.arange(1., positive + 1),
                       -jnp.arange(1., negative + 1)])
  every = jnp.ones(w.size, bool)
  return scopes.Layer('k', jaxsparse.unstructured(), w.shape, w, every,
                      ~every, every)


@pytest.mark.parametrize('positive, negative, goal', [
    (20, 0, 11), (0, 20, 11), (15, 5, 12), (1, 19, 1)])
def test_per_sign_of_lopsided_layers(positive, negative, goal):
  layer = _of_signs(positive, negative)
  mask, = _call(scopes.per_sign, [layer], [goal])
  np.testing.assert_array_equal(mask, _by_sign(
      _array(layer.scores), np.ones(20, bool), goal))


def test_per_sign_rounds_the_exact_share():
  mask, = _call(scopes.per_sign, [_of_signs(14, 6)], [10])
  assert (~mask[:14]).sum() == 7


@pytest.mark.parametrize('pattern', [
    jaxsparse.block((1, 2)), jaxsparse.channel(-1)], ids=str)
def test_per_sign_refuses_units_whose_weights_would_cancel(pattern):
  shape = (4, 2)
  units = jnp.ones(pattern.grid(shape), bool)
  layer = scopes.Layer('a/kernel', pattern, shape, units.astype(jnp.float32),
                       units, ~units, units)
  with pytest.raises(ValueError, match='a/kernel.*per_sign.*single.*Write'):
    scopes.per_sign([layer], [counts.exactly(1)])


def test_above_one_keeps_what_reaches_one():
  layers = [x._replace(scores=x.scores.at[:2].set(jnp.array([1., .99999994])),
                       open=x.open.at[:2].set(True)) for x in _layers()]
  for layer, mask in zip(layers, _call(scopes.above_one, layers, (0, 0, 0))):
    np.testing.assert_array_equal(
        mask, np.asarray(layer.open) & (_array(layer.scores) >= 1))
    assert mask[0] and not mask[1]


def _weights(scope, layers):
  if scope is scopes.by_survivors:
    return [int(x.certain.sum()) for x in layers]
  return [_array(x.scores)[np.asarray(x.active)].mean() for x in layers]


@pytest.mark.parametrize('goals', [
    (20, 6, 13), (30, 10, 20), (40, 12, 24), (40, 12, 25), (3, 1, 2)],
    ids=['some', 'capped', 'all but one', 'all', 'fewer than certain'])
@pytest.mark.parametrize('scope', [scopes.by_survivors, scopes.by_mean_score])
def test_growth_is_shared_in_proportion_and_goes_to_the_highest(scope, goals):
  layers = _growing(_layers())
  have = np.array([int(x.certain.sum()) for x in layers])
  chosen = _call(scope, layers, goals)
  got = np.array([m.sum() for m in chosen])
  assert got.sum() == max(sum(goals), have.sum())
  room, total = np.array(_SIZES) - have, got.sum() - have.sum()
  some = np.floor(.99 * room)
  if scope is scopes.by_mean_score and total <= some.sum():
    room = some
    assert (got - have <= some).all()
  ideal = exchanges.shares(total, _weights(scope, layers), room)
  # One of each of the other layers may come with what rounding leaves.
  assert (np.abs(got - have - ideal) < len(layers)).all()
  for layer, mask in zip(layers, chosen):
    np.testing.assert_array_equal(mask, exchanges.top(
        _ranks(layer), np.ones(mask.size, bool), mask.sum()))


@pytest.mark.parametrize('scope', [scopes.by_survivors, scopes.by_mean_score])
def test_layers_without_anything_share_evenly(scope):
  layers = [x._replace(scores=jnp.zeros_like(x.scores),
                       open=jnp.ones_like(x.open)) for x in _layers()]
  got = [m.sum() for m in _call(scope, layers, (12, 6, 6))]
  assert got == [8, 8, 8]


def test_a_layer_of_enormous_scores_gets_the_largest_share():
  layers = [x._replace(scores=jnp.full(x.shape, s),
                       certain=jnp.zeros_like(x.open),
                       open=jnp.ones_like(x.open))
            for x, s in zip(_layers(), (1., 3e38, 1.))]
  got = [m.sum() for m in _call(scopes.by_mean_score, layers, (4, 4, 2))]
  assert got[1] == 10


def test_finite_puts_nan_last_and_keeps_the_order_of_the_rest():
  x = jnp.array([jnp.nan, -jnp.inf, -1., 0., 2., jnp.inf])
  y = np.asarray(scopes.finite(x))
  assert np.isfinite(y).all()
  assert (np.diff(y[1:]) > 0).all() and y[0] <= y[1]


def test_a_message_about_a_model_of_one_array_names_it():
  rule = jaxsparse.prune_and_grow(
      {'.*': jaxsparse.nm(2, 4)}, sparsity=.5, fraction=.5,
      grow=jaxsparse.gradient(), grow_scope=scopes.by_survivors)
  w = jnp.ones((8, 2))
  with pytest.raises(ValueError, match='^the parameter: the scope by_surv'):
    jax.eval_shape(lambda w: rule.update(w, rule.init(w), w), w)
