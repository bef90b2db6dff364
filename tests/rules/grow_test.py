"""`prune_and_grow`: exact exchanges, whatever the scores and the units."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scopes
from tests._lib import exchanges

_FREE = {'.*kernel': jaxsparse.unstructured()}


def _params(seed=0, shape=(16, 8)):
  return {'a': {'kernel': jax.random.normal(jax.random.key(seed), shape),
                'bias': jnp.zeros(shape[-1])}}


def _grads(seed):
  return _params(seed + 100)


def _rule(patterns=None, **options):
  """RigL at every step, with what is told otherwise."""
  return rules.prune_and_grow(patterns or _FREE, **{
      'sparsity': .5, 'grow': jaxsparse.gradient(), 'fraction': .5,
      'when': schedules.every(1), **options})


def _advance(rule, steps):
  """The masks before and after each of `steps` updates of fixed params."""
  params = _params()
  state = rule.init(params)
  update = jax.jit(lambda g, s: rule.update(g, s, params)[1])
  history = [state.masks]
  for i in range(steps):
    state = update(_grads(i), state)
    history.append(state.masks)
  return history


def _flat(tree):
  return np.asarray(
      tree['a']['kernel'].astype(jnp.float32), np.float64).ravel()


@pytest.fixture(scope='module', params=['float32', 'bfloat16'], name='exchange')
def _exchange(request):
  """Params, masks and an exchange of 30%, compiled once per dtype.

  The scores to grow by are given, because a rule replaces nothing where
  gradients are not finite.
  """
  def update(grads, state, params=None, *, given=None, **extra_args):
    del grads, extra_args
    return params if given is None else given, state
  rule = _rule(sparsity=.7, fraction=.3, grow=jaxsparse.scores.Score(
      lambda params: (), update))
  params = jax.tree.map(lambda x: x.astype(request.param), _params(0))
  state = rule.init(params)
  return params, state, jax.jit(
      lambda g, w: rule.update(w, state, w, given={
          'a': {'kernel': jnp.abs(g['a']['kernel']), 'bias': None}})[0])


_KINDS = {
    'plain': lambda w, g: (w, g),
    'ties': lambda w, g: (jnp.round(w), jnp.round(g)),
    'all equal': lambda w, g: (jnp.ones_like(w), jnp.ones_like(g)),
    'zeros': lambda w, g: (jnp.zeros_like(w), jnp.zeros_like(g)),
    'large': lambda w, g: (w, g * jnp.asarray(3e37, g.dtype)),
    'infinite': lambda w, g: (w, jnp.where(g > 1, jnp.inf, jnp.where(
        g < -1, -jnp.inf, g))),
    'NaN': lambda w, g: (w, jnp.where(g > 0, jnp.nan, g)),
    'all NaN': lambda w, g: (w, jnp.full_like(g, jnp.nan)),
    'large and infinite': lambda w, g: (w, jnp.where(
        g > 1, jnp.inf, jnp.where(g > .5, jnp.finfo(g.dtype).max / 8, g))),
    'NaN weights': lambda w, g: (jnp.where(w > 1, jnp.nan, w), g),
}


@pytest.mark.parametrize('kind', _KINDS)
def test_an_exchange_is_exact_whatever_the_scores(exchange, kind):
  params, state, update = exchange
  grads = jax.tree.map(lambda g, w: g.astype(w.dtype), _grads(1), params)
  made = jax.tree.map(_KINDS[kind], params, grads)
  params, grads = (
      {'a': {k: made['a'][k][i] for k in made['a']}} for i in (0, 1))
  params = jaxsparse.apply_masks(params, state.masks)
  masks = update(grads, params)
  old = _flat(state.masks).astype(bool)
  expected = exchanges.exchanged(
      old, np.abs(_flat(params)), np.abs(_flat(grads)),
      goes=int(.3 * old.sum()))
  np.testing.assert_array_equal(_flat(masks).astype(bool), expected)
  assert old.sum() == expected.sum() == round((1 - .7) * 128)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_where_gradients_are_not_finite_only_the_budget_changes(bad):
  params, grads = _params(), _grads(0)
  grads['a']['kernel'] = grads['a']['kernel'].at[0].set(bad)
  rule = _rule(schedule=schedules.staircase({0: .5, 2: 1.}))
  update, masks = jax.jit(rule.update), []
  state = rule.init(params)
  for _ in range(2):
    masks.append(_flat(state.masks).astype(bool))
    _, state = update(grads, state, params)
  np.testing.assert_array_equal(masks[1], masks[0])
  np.testing.assert_array_equal(_flat(state.masks), exchanges.top(
      np.abs(_flat(params)), masks[0], 64))


@pytest.mark.parametrize('pattern, axes', [
    (jaxsparse.channel(-1), (0,)), (jaxsparse.block((4, 2)), (1, 3))],
    ids=str)
def test_whole_units_are_exchanged(pattern, axes):
  tile = (16, 1) if axes == (0,) else (4, 2)
  cut = lambda x: np.abs(x).reshape(
      16 // tile[0], tile[0], 8 // tile[1], tile[1]).sum((1, 3)).ravel()
  rule, params = _rule({'.*kernel': pattern}), _params()
  state = rule.init(params)
  params = jaxsparse.apply_masks(params, state.masks)
  masks = jax.jit(rule.update)(_grads(0), state, params)[0]
  old = cut(_flat(state.masks)) > 0
  expected = exchanges.exchanged(
      old, cut(_flat(params)), cut(_flat(_grads(0))), goes=old.sum() // 2)
  np.testing.assert_array_equal(
      cut(_flat(masks)), expected * tile[0] * tile[1])
  assert (old != expected).any()


def test_groups_of_n_m_exchange_each_their_own():
  rule, params = _rule({'.*kernel': jaxsparse.nm(4, 8)}), _params()
  state = rule.init(params)
  params = jaxsparse.apply_masks(params, state.masks)
  masks = jax.jit(rule.update)(_grads(0), state, params)[0]
  groups = lambda tree: _flat(tree).reshape(2, 8, 8).swapaxes(1, 2)
  old, w, g, new = (groups(t).reshape(-1, 8) for t in (
      state.masks, params, _grads(0), masks))
  for row in range(16):
    expected = exchanges.exchanged(
        old[row] > 0, np.abs(w[row]), np.abs(g[row]), goes=2)
    np.testing.assert_array_equal(new[row] > 0, expected)


@pytest.mark.parametrize('fraction, changes', [(0., 0), (-1., 0), (7., 64)])
def test_a_fraction_is_clipped(fraction, changes):
  rule = _rule(fraction=lambda step: fraction)
  masks = _advance(rule, 1)
  fresh = np.asarray(masks[1]['a']['kernel'])
  assert fresh.sum() == 64
  score = np.abs(_flat(_grads(0)))
  expected = exchanges.top(score, np.ones(128, bool), 64)
  assert (changes == 0) == (
      fresh == np.asarray(masks[0]['a']['kernel'])).all()
  assert (changes == 64) == (fresh.ravel() == expected).all()


@pytest.mark.parametrize('fraction, moves', [
    (.3, False), (lambda step: .5 * schedules.fade_cosine(0, 100)(step), False),
    (.5, True), (schedules.linear(0, 1000), True),
    (0., True)])  # The last is what one asked for.
def test_shares_of_less_than_a_unit_are_told(fraction, moves):
  """A warning is an error in all tests."""
  rule = _rule({'.*kernel': jaxsparse.nm(2, 4)}, fraction=fraction,
               when=schedules.every(10))
  expected = contextlib.nullcontext() if moves else pytest.warns(
      UserWarning, match='a/kernel.*larger')
  with expected:
    jax.eval_shape(rule.init, _params())


def test_a_fraction_that_is_traced_is_not_looked_at():
  jax.eval_shape(lambda fraction: _rule(
      {'.*kernel': jaxsparse.nm(2, 4)}, fraction=fraction).init(_params()), .3)


def test_a_fraction_is_the_number_one_wrote():
  params = {'a': {'kernel': jnp.arange(1., 21.)}}
  rule = _rule(fraction=.7, init=jaxsparse.magnitude(), drop=None)
  state = rule.init(params)
  grads = {'a': {'kernel': (~state.masks['a']['kernel']).astype(jnp.float32)}}
  masks = jax.jit(rule.update)(grads, state, params)[0]
  assert (state.masks['a']['kernel'] & ~masks['a']['kernel']).sum() == 7


def test_with_a_surplus_a_layer_goes_between_its_budget_and_its_bound():
  rule = _rule(fraction=.25, surplus=lambda step: jnp.where(
      step < 2, .1, 0.))
  # Of 128 the budget is 64; 12 more are grown at first.
  counted = [int(m['a']['kernel'].sum()) for m in _advance(rule, 3)]
  assert counted == [76, 76, 64, 64]


def test_a_surplus_ends_where_all_are_active():
  counted = [int(m['a']['kernel'].sum()) for m in _advance(
      _rule(surplus=.9), 1)]
  assert counted == [128, 128]


def test_the_part_of_a_layer_without_room_goes_to_the_others():
  """16 are dense: of the 128 and 2 more places all are in the other layer."""
  params = {'a': {'kernel': jnp.ones((32, 32))},
            'b': {'kernel': jnp.ones((4, 4))}}
  rule = _rule(sparsity=jaxsparse.erk(.8), fraction=0., surplus=.125,
               drop_scope=scopes.all_layers, grow_scope=scopes.all_layers)
  state = rule.init(params)
  after, _ = rule.update(params, state, params)
  for masks in (state.masks, after):
    counted = {path: int(m['kernel'].sum()) for path, m in masks.items()}
    assert sum(counted.values()) == 208 + 128 + 2
  assert int(state.masks['b']['kernel'].sum()) == 16


def test_outside_of_what_is_allowed_nothing_stays_or_grows():
  rule, params = _rule(), _params()
  state = rule.init(params)
  allowed = {'a': {'kernel': (jnp.arange(16) % 4 > 0)[:, None]
                   & jnp.ones((16, 8), bool), 'bias': None}}
  masks = jax.jit(lambda s: rule.update(
      _grads(0), s, params, allowed=lambda: allowed)[0])(state)
  assert not (masks['a']['kernel'] & ~allowed['a']['kernel']).any()
  assert masks['a']['kernel'].sum() == 64


def test_a_rule_told_to_act_makes_room_and_replaces_nothing():
  rule = _rule(when=schedules.every(100, begin=100))
  params = _params()
  state = rule.init(params)
  update = jax.jit(lambda s, act: rule.update(
      _grads(0), s, params, act=act)[0])
  for act in (False, True):
    np.testing.assert_array_equal(
        _flat(update(state, jnp.array(act))), _flat(state.masks))


def test_dense_tells_whether_gradients_of_the_pruned_were_read():
  def dense(rule):
    params = _params()
    state, seen = rule.init(params), []
    update = jax.jit(lambda s: rule.update(_grads(0), s, params)[1])
    for _ in range(4):
      seen.append(state.dense if state.dense is None else bool(state.dense))
      state = update(state)
    return seen[1:]
  when = schedules.every(2)
  assert dense(_rule(when=when)) == [False, True, False]
  assert dense(_rule(when=when, grow=jaxsparse.scores.random(1))) == [None] * 3
  assert dense(_rule(when=when, grow=jaxsparse.scores.momentum())
               ) == [True] * 3


@pytest.mark.parametrize('options, message', [
    (dict(drop_scope='all_layers'), 'drop_scope.*function.*Write'),
    (dict(grow_scope=3), 'grow_scope.*function.*Write'),
    (dict(when=100), 'when.*function.*Write'),
    (dict(sparsity=2.), r'\[0, 1\].*2.0'),
])
def test_arguments_of_the_wrong_kind_are_taught_errors(options, message):
  with pytest.raises(ValueError, match=message):
    _rule(**options).init(_params())


@pytest.mark.parametrize('options, message', [
    (dict(grow=jaxsparse.gradient), 'gradient'),
    (dict(drop='magnitude'), 'magnitude'),
], ids=['grow', 'drop'])
def test_scores_and_scopes_that_are_none_are_taught_errors(options, message):
  rule = lambda: _rule(**options)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda w: rule().update(w, rule().init(w), w), _params())


@pytest.mark.parametrize('scope', [
    scopes.all_layers, scopes.by_survivors, scopes.by_mean_score,
    scopes.per_sign])
def test_scopes_of_all_layers_refuse_groups(scope):
  for name in ('drop_scope', 'grow_scope'):
    rule = _rule({'.*kernel': jaxsparse.nm(2, 4)}, **{name: scope})
    with pytest.raises(ValueError, match=(
        f'a/kernel.*{scope.__name__}.*per_layer')):
      jax.eval_shape(
          lambda w, r=rule: r.update(w, r.init(w), w), _params())


@pytest.mark.parametrize('patterns, shape', [
    ({'.*': None}, (4, 4)), (_FREE, (0, 4))], ids=['dense', 'empty'])
@pytest.mark.parametrize('scope', [scopes.all_layers, scopes.by_survivors])
def test_a_model_without_sparse_weights_is_left_alone(patterns, shape, scope):
  rule, params = _rule(patterns, grow_scope=scope), _params(shape=shape)
  masks = jax.eval_shape(
      lambda w: rule.update(w, rule.init(w), w)[0], params)
  assert masks['a']['bias'] is None


def test_growth_of_blocks_keeps_blocks_whole():
  rule = rules.prune_and_grow(
      {'.*kernel': jaxsparse.block((4, 2))}, sparsity=0.5,
      grow=jaxsparse.gradient(), fraction=0.5, when=schedules.every(1))
  for masks in _advance(rule, 3):
    cut = np.asarray(masks['a']['kernel']).reshape(4, 4, 4, 2)
    assert (cut == cut[:, :1, :, :1]).all() and cut[:, 0, :, 0].sum() == 8


def test_topologies_differ_by_seed_and_agree_for_one():
  def topology(seed):
    return np.asarray(rules.prune_and_grow(
        _FREE, sparsity=0.5, grow=jaxsparse.gradient(),
        init=jaxsparse.scores.random(seed)).init(_params()).masks['a']['kernel'])
  assert (topology(1) == topology(1)).all()
  assert (topology(1) != topology(2)).any()


def test_init_score_of_prune_and_grow_must_do_without_gradients():
  rule = rules.prune_and_grow(
      _FREE, sparsity=0.5, grow=jaxsparse.gradient(),
      init=jaxsparse.saliency())
  with pytest.raises(ValueError, match='random'):
    rule.init(_params())
