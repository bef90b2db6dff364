"""Recipes from dicts and files: the rules, flows and regularisers they make."""

import builtins
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import distributions
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import units
from jaxsparse._utils import trees
from jaxsparse.recipes import _words
from jaxsparse.recipes import building
from jaxsparse.recipes import schema
from tests._lib import method_table

_STEPS = 1000
_TOP = ('names', 'excluded', 'layers', 'flow')


def _params():
  shapes = {'a': (16, 8), 'b': (8, 16), 'c': (16, 4), 'head': (4, 4)}
  return {name: {'kernel': jax.random.normal(jax.random.key(i), shape),
                 'bias': jnp.ones(shape[1])}
          for i, (name, shape) in enumerate(shapes.items())}


def _made(total_steps=_STEPS, exclude=(), **recipe):
  return building.from_recipe(
      recipe, total_steps=total_steps, exclude=exclude)


def _masks(**recipe):
  """Masks of a recipe that prunes at once."""
  recipe = {'decay': 'one_shot', **recipe}
  return _init(_made(**recipe).rule)


def _init(rule, params=None):
  return jax.jit(rule.init)(_params() if params is None else params).masks


def _same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(name='pruned')
def _pruned(monkeypatch):
  """The arguments of every rule that a recipe makes."""
  seen = []

  def note(patterns, **options):
    seen.append({'patterns': patterns, **options})
    return rules.Rule(*optax.identity())

  def pruned(**recipe):
    seen.clear()
    _made(**recipe)
    return seen
  for name in ('prune', 'lock'):
    monkeypatch.setattr(rules, name, note)
  monkeypatch.setattr(rules, 'combine', lambda *made: made[0])
  return pruned


# Patterns.


def test_blocks_are_outputs_by_inputs():
  # With numpy alone: 4 outputs of one input live or die together, and 4 inputs
  # of one output.
  masks = _masks(sparsity=.5, pattern='4x1', names='a/kernel', layers=[
      {'names': 'b/kernel', 'pattern': '1x4'}])
  a, b = (np.abs(np.asarray(_params()[name]['kernel'])) for name in 'ab')
  sums = a.reshape(16, 2, 4).sum(-1)
  np.testing.assert_array_equal(masks['a']['kernel'], np.repeat(
      sums >= np.sort(sums.ravel())[-16], 4, axis=1))
  sums = b.reshape(2, 4, 16).sum(1)
  np.testing.assert_array_equal(masks['b']['kernel'], np.repeat(
      sums >= np.sort(sums.ravel())[-16], 4, axis=0))


def test_n_of_every_m_inputs_are_kept():
  masks = _masks(pattern='1:4', names='a/kernel', layers=[
      {'names': 'b/kernel', 'pattern': '3:8'}])
  for name, n, m in (('a', 1, 4), ('b', 3, 8)):
    mask = np.asarray(masks[name]['kernel'])
    assert (mask.reshape(len(mask) // m, m, -1).sum(1) == n).all()


@pytest.mark.parametrize('text, pattern', [
    ('unstructured', jaxsparse.unstructured()), ('2:4', jaxsparse.nm(2, 4)),
    ('channel', jaxsparse.channel(-1)), ('1xchannel', jaxsparse.channel(-1)),
    ('channelx1', jaxsparse.channel(-2)), ('4x1', jaxsparse.block((1, 4))),
    ('1x16', jaxsparse.block((16, 1))), ('2x8', jaxsparse.block((8, 2)))])
def test_patterns_are_those_written_by_hand(pruned, text, pattern):
  options, = pruned(sparsity=.5, pattern=text, excluded='head.*')
  assert options['patterns'] == {'head.*': None, '.*kernel': pattern}


def test_reduce_and_bounds_reach_the_pattern(pruned):
  options, = pruned(sparsity=.6, pattern='1x2', reduce='max', min_sparsity=.4,
                    max_sparsity=.8, names=['a', 'b'])
  assert options['patterns'] == dict.fromkeys(['a', 'b'], jaxsparse.block(
      (2, 1), reduce='max', min_sparsity=.4, max_sparsity=.8))


# Who is what.


def test_layers_that_share_stay_under_one_rule(pruned):
  options, = pruned(sparsity=.6, layers=[
      {'names': 'a/kernel', 'pattern': '1:4'},
      {'names': 'b/kernel', 'sparsity': .25},
      {'names': ['c/kernel', 'd'], 'max_sparsity': .7}], excluded='head/kernel')
  bounded = jaxsparse.unstructured(max_sparsity=.7)
  assert [*options['patterns'].items()] == [
      ('head/kernel', None), ('a/kernel', jaxsparse.nm(1, 4)),
      ('b/kernel', jaxsparse.unstructured(sparsity=.25)),
      ('c/kernel', bounded), ('d', bounded),
      ('.*kernel', jaxsparse.unstructured())]


def test_layers_of_their_own_are_dense_for_all_others(pruned):
  main, own, locked = pruned(sparsity=.6, layers=[
      {'names': 'a', 'decay': 'linear', 'sparsity': .5, 'pattern': '4x1'},
      {'names': 'b', 'lock': True}, {'names': 'c', 'pattern': '2:4'}])
  assert main['patterns'] == {
      'a': None, 'b': None, 'c': jaxsparse.nm(2, 4),
      '.*kernel': jaxsparse.unstructured()}
  assert own['patterns'] == {
      'a': jaxsparse.block((1, 4)), 'b': None, 'c': None, '.*kernel': None}
  assert locked == {'patterns': {
      'a': None, 'b': jaxsparse.unstructured(), 'c': None, '.*kernel': None}}


@pytest.mark.parametrize('scope', ['uniform', 'erk', 'er'])
def test_scopes_are_the_distributions_of_that_name(pruned, scope):
  options, = pruned(sparsity=.6, scope=scope)
  kernels = {name: p['kernel'] for name, p in _params().items()}
  shapes = dict.fromkeys(kernels, jaxsparse.unstructured())
  want = getattr(distributions, scope)(.6)(kernels, shapes, 1.)
  got = options['distribution'](kernels, shapes, 1.)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_layer_with_a_scope_has_a_threshold_to_itself():
  params = _params()
  got = _masks(sparsity=.5, scope='global', layers=[
      {'names': '[ab]/kernel', 'sparsity': .75, 'scope': 'global'}])
  for names, sparsity in (('ab', .75), (('c', 'head'), .5)):
    scores = np.concatenate([
        np.abs(np.asarray(params[name]['kernel'])).ravel() for name in names])
    kept = np.concatenate([
        np.asarray(got[name]['kernel']).ravel() for name in names])
    threshold = np.sort(scores)[round(sparsity * scores.size)]
    np.testing.assert_array_equal(kept, scores >= threshold)
  assert got['a']['bias'] is None


def test_the_first_match_wins():
  params = {name: w for name, w in _params().items() if name != 'c'}
  made = _made(
      sparsity=.5, names=['.*'], excluded='a/.*', decay='one_shot',
      layers=[{'names': '(a|b)/kernel', 'sparsity': .25},
              {'names': ['(b|head)/kernel'], 'sparsity': .75,
               'scope': 'uniform'}])
  got = _init(made.rule, params)
  assert got['a'] == {'kernel': None, 'bias': None}
  assert [float(got[k]['kernel'].mean()) for k in ('b', 'head')] == [.75, .25]
  assert float(got['head']['bias'].mean()) == .5


def test_exclude_leaves_more_dense():
  rule = _made(sparsity=.5, decay='one_shot', exclude=['(a|b|c)/kernel']).rule
  masks = _init(rule)
  assert masks['a']['kernel'] is None is not masks['head']['kernel']


@pytest.mark.parametrize('recipe', [
    {'names': 'nothing.*'}, {'excluded': 'nothing.*'},
    {'layers': [{'names': 'nothing.*', 'sparsity': .1}]},
    {'layers': [{'names': 'nothing.*', 'scope': 'global'}]}], ids=str)
def test_an_expression_that_matches_nothing_is_an_error(recipe):
  with pytest.raises(ValueError, match="'nothing.*' matches no parameter"):
    _masks(sparsity=.5, **recipe)


@pytest.mark.parametrize('taker, told', [
    ({'excluded': 'a/.*'}, r'excluded .*Narrow it'),
    ({'layers': [{'names': '.*kernel', 'end': 9}]},
     r"layers\[0\].names .*Move 'a/kernel' in front of it")], ids=str)
def test_a_layer_whose_parameters_are_all_taken_is_an_error(taker, told):
  layers = [*taker.get('layers', []), {'names': 'a/kernel', 'sparsity': .1}]
  recipe = {'sparsity': .5, 'names': '.*', **taker, 'layers': layers}
  with pytest.raises(ValueError, match=f"'a/kernel' has no effect.*{told}"):
    _masks(**recipe)


# When, and by what: what reaches `prune`.


_CURVES = {
    'linear': lambda q: q, 'cubic': lambda q: 1 - (1 - q)**3,
    'cosine': lambda q: 1 - np.cos(q * np.pi / 2), 'cube': lambda q: q**3}


@pytest.mark.parametrize('initial', [0., .2, .45])
@pytest.mark.parametrize('decay', [*_CURVES, 'exponential'])
def test_sparsity_goes_from_initial_to_final_by_the_formula(
    pruned, decay, initial):
  final, start, end = .9, 100, 600
  options, = pruned(sparsity=final, initial_sparsity=initial, decay=decay,
                    start=start, end=end)
  steps = np.arange(0, 700, 9)
  q = np.clip((steps - start) / (end - start), 0, 1)
  want = (1 - (1 - initial) * ((1 - final) / (1 - initial))**q
          if decay == 'exponential'
          else initial + (final - initial) * _CURVES[decay](q))
  got = final * np.asarray(jax.vmap(options['schedule'])(jnp.asarray(steps)))
  np.testing.assert_allclose(got, np.where(steps < start, 0, want), atol=1e-6)
  assert options['schedule'](end) == 1.


def test_masks_are_made_every_frequency_steps_from_start_to_end(pruned):
  options, = pruned(sparsity=.9, start=10, end=50, frequency=15)
  assert [t for t in range(100) if options['when'](t)] == [10, 25, 40]
  options, = pruned(sparsity=.9, decay='one_shot', start=20)
  assert [t for t in range(100) if options['when'](t)] == [20]
  assert [float(options['schedule'](t)) for t in (19, 20, 99)] == [0., 1., 1.]


def test_layers_have_steps_and_decays_of_their_own(pruned):
  main, own = pruned(sparsity=.9, start=10, end=50, frequency=20, layers=[
      {'names': 'a', 'end': 70, 'decay': 'linear'},
      {'names': 'b', 'sparsity': .5}])
  assert [t for t in range(99) if main['when'](t)] == [10, 30, 50]
  assert [t for t in range(99) if own['when'](t)] == [10, 30, 50, 70]
  assert own['schedule'](40) == .5 != main['schedule'](40)


@pytest.mark.parametrize('criterion, want', [
    ('magnitude', lambda w, g: np.abs(w)), ('gradient', lambda w, g: np.abs(g)),
    ('snip', lambda w, g: np.abs(w * g)),
    ('snip_momentum', lambda w, g: (.9 + .9) * np.abs(w * g)),
    ({'snip_momentum': {'decay': .5, 'scale': 2.}},
     lambda w, g: (1. + 2.) * np.abs(w * g))],
    ids=['magnitude', 'gradient', 'snip', 'snip_momentum', 'with options'])
def test_criteria_are_their_formulas_after_two_steps(pruned, criterion, want):
  options, = pruned(sparsity=.9, criterion=criterion)
  w, g = jnp.array([1., -2.]), jnp.array([3., .5])
  state = options['score'].init(w)
  for _ in range(2):
    scores, state = options['score'].update(g, state, w)
  np.testing.assert_allclose(scores, want(np.array(w), np.array(g)), rtol=1e-6)


# Whole methods.


def test_locked_patterns_keep_zeros_while_others_are_pruned():
  params = _params()
  params['a']['kernel'] = params['a']['kernel'].at[:, :4].set(0.)
  made = _made(sparsity=.5, decay='one_shot', layers=[
      {'names': 'a/kernel', 'lock': True, 'pattern': '4x1'}])
  masks = _init(made.rule, params)
  assert masks['a']['kernel'].sum(0).tolist() == [0] * 4 + [16] * 4
  assert masks['b']['kernel'].mean() == .5
  alone = _init(_made(lock=True, pattern='4x1').rule, params)
  np.testing.assert_array_equal(alone['a']['kernel'], masks['a']['kernel'])


@pytest.mark.parametrize('flow, gains', [
    ('hard', None), ('ste', (0., 0., 0.)), ('sr_ste', (0., 0., 0.)),
    ('mdgf', (1., .5, 0.)),
    ({'mdgf': {'fade': 'cosine', 'start': 0, 'end': 800}}, (
        .5 + .5 * np.cos(np.pi / 8), .5, 0.))], ids=str)
def test_flows_have_their_gains(flow, gains):
  flow = _made(sparsity=.5, flow=flow).flow
  if gains is None:
    assert flow.gain is None
  else:
    np.testing.assert_allclose(
        [flow.gain(step) for step in (100, 400, 900)], gains, atol=1e-6)


def test_masks_of_a_flow_are_those_of_the_weights_at_hand():
  """With `frequency: 1` until the end of training, as in `methods.sr_ste`."""
  made = _made(pattern='2:4', names='a/kernel', flow='sr_ste', frequency=1,
               decay='one_shot', total_steps=9)
  tx, params = made.sparsify(optax.sgd(.5)), _params()
  state, update = tx.init(params), jax.jit(tx.update)
  for i in range(9):
    grads = jax.tree.map(
        lambda w, i=i: jax.random.normal(jax.random.key(i), w.shape), params)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(
        state.masks['a']['kernel'], jaxsparse.select(
            jnp.abs(params['a']['kernel']), jaxsparse.nm(2, 4)))


def test_sr_ste_decays_pruned_weights_as_told():
  flow = _made(sparsity=.5, flow={'sr_ste': {'decay': .25}}).flow
  w, masks = jnp.array([4., 8.]), jnp.array([True, False])
  before = optax.with_extra_args_support(flow.before)
  got, _ = before.update(jnp.ones(2), before.init(w), w, masks=masks)
  assert got.tolist() == [1., 3.]


def test_group_lasso_is_on_the_units_of_the_patterns():
  params = _params()
  zeros = jax.tree.map(jnp.zeros_like, params)
  sgd = method_table._standard(optax.sgd(.5))
  groups = {'head.*': None, 'c/kernel': jaxsparse.channel(-1),
            '.*kernel': jaxsparse.block((1, 4))}
  by_hand = {
      'gradient': optax.chain(units.add_group_lasso(.1, groups), sgd),
      'proximal': optax.chain(
          sgd, units.prox_group_lasso(.1, groups, .5))}
  for form, tx in by_hand.items():
    rate = {'learning_rate': .5} if form == 'proximal' else {}
    made = _made(
        sparsity=.5, pattern='4x1', excluded='head.*', regularizer={
            'group_lasso': {'alpha': .1, 'form': form, **rate}},
        layers=[{'names': 'c/kernel', 'pattern': 'channel'}])
    ours, want = (jax.jit(lambda w, tx=tx: tx.update(
        zeros, tx.init(w), w)[0])(params) for tx in (made.regularizer(sgd), tx))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
                 ours, want)
    assert (ours['a']['kernel'] != 0).all()
    assert not ours['head']['kernel'].any()


def test_a_layer_switches_the_regularizer_off():
  made = _made(sparsity=.5, regularizer={'group_lasso': {'alpha': .1}}, layers=[
      {'names': 'a/kernel', 'regularizer': False},
      {'names': 'b/kernel', 'regularizer': None}])
  off, inherits = made.recipe['layers']
  assert off['regularizer'] is False and 'regularizer' not in inherits
  assert _made(**made.recipe).recipe == made.recipe
  params = _params()
  tx = made.regularizer(optax.identity())
  got, _ = tx.update(
      jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  assert not got['a']['kernel'].any() and got['b']['kernel'].all()


def test_without_a_regularizer_the_optimizer_is_as_it_was():
  sgd = optax.sgd(.1)
  assert _made(sparsity=.5).regularizer(sgd) is sgd


def test_a_recipe_trains_as_what_is_written_by_hand():
  made = _made(
      total_steps=8, sparsity=.75, initial_sparsity=.25, scope='global',
      criterion='snip_momentum', frequency=2, end=6, excluded='head/kernel',
      layers=[{'names': 'a/kernel', 'pattern': '2:4',
               'criterion': 'magnitude', 'decay': 'linear'}])
  score = jaxsparse.snip_momentum()
  dense = {'head/kernel': None}
  by_hand = jaxsparse.sparsify(
      method_table._standard(optax.adam(.1)), rules.combine(
          jaxsparse.prune(
              {**dense, 'a/kernel': None, '.*kernel': jaxsparse.unstructured()},
              score=score, distribution=jaxsparse.global_threshold(.75),
              schedule=lambda t: jnp.where(t < 1, 0., 1 - (2 / 3) * (
                  1 - schedules.cubic(1, 6)(t))),
              when=schedules.every(2, begin=1, end=6)),
          jaxsparse.prune(
              {**dense, 'a/kernel': jaxsparse.nm(2, 4)},
              schedule=lambda t: jnp.where(t < 0, 0., .5 + .5 * (
                  schedules.linear(0, 6)(t))),
              when=schedules.every(2, begin=0, end=6))))
  params = _params()
  target = jax.tree.map(lambda w: jnp.roll(w, 1, 0), params)

  def train(tx):
    @jax.jit
    def step(params, state):
      grads = jax.tree.map(lambda w, t: w - t, params, target)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state
    now, state = params, tx.init(params)
    for _ in range(8):
      now, state = step(now, state)
      yield now, jaxsparse.get_masks(state)
  ours = train(made.sparsify(method_table._standard(optax.adam(.1))))
  for (w, masks), (w_hand, masks_hand) in zip(ours, train(by_hand)):
    _same(masks, masks_hand)
    _same(w, w_hand)
  shared = [masks[k]['kernel'] for k in 'bc']
  assert sum(int(m.sum()) for m in shared) == 48
  assert masks['a']['kernel'].mean() == .5


def test_progressive_takes_units_in_portions():
  made = _made(total_steps=12, sparsity=.5, pattern='4x1', start=4, end=4,
               decay='one_shot', names='a/kernel',
               progressive={'steps': 4, 'every': 2})
  params, rule = _params(), made.rule
  update = jax.jit(lambda s: rule.update(params, s, params)[1])
  state, kept = rule.init(params), []
  for _ in range(12):
    state = update(state)
    kept.append(int(state.masks['a']['kernel'].sum()))
  assert kept == [128] * 3 + [112] * 2 + [96] * 2 + [80] * 2 + [64] * 3


def test_a_recipe_within_progressive_ends_at_its_target():
  made = _made(100, names='a/kernel', pattern='channel', sparsity=.5,
               decay='linear', end=70, frequency=30)
  rule, params = rules.progressive(made.rule, steps=2, every=5), _params()
  state, update = rule.init(params), jax.jit(rule.update)
  for _ in range(70):
    masks, state = update(params, state, params)
  assert masks['a']['kernel'].mean() == .5


def test_scores_are_kept_in_bfloat16_on_request():
  made = _made(sparsity=.5, criterion='snip_momentum', score_dtype='bfloat16')
  state = made.rule.init(_params())
  assert {x.dtype for x in jax.tree.leaves(state.scores)} == {
      jnp.dtype('bfloat16')}


# Files.


_RECIPES = {
    'least': {'sparsity': .9},
    'nm': {'pattern': '2:4', 'flow': {'sr_ste': {'decay': 1e-5}}},
    'all': {
        'axis': -2, 'sparsity': .8, 'initial_sparsity': .1, 'start': 10,
        'end': 200,
        'frequency': 40, 'decay': 'exponential', 'score_dtype': 'bfloat16',
        'criterion': {'snip_momentum': {'decay': .9}}, 'pattern': '4x1',
        'reduce': 'mean', 'scope': 'global', 'min_sparsity': .1,
        'max_sparsity': .95, 'names': ['.*kernel'], 'excluded': 'head.*',
        'flow': 'hard', 'progressive': True, 'lock': False, 'regularizer': {
            'group_lasso': {'alpha': 1e-4, 'form': 'proximal',
                            'learning_rate': 1e-3}},
        'layers': [{'names': 'a/.*', 'lock': True},
                   {'names': ['b/kernel'], 'pattern': '1:4'},
                   {'names': 'c/kernel', 'decay': 'one_shot'}]}}


def test_all_keys_are_in_the_recipe_of_all_keys():
  assert {*_RECIPES['all'], 'method'} == set(schema.Whole.keys())


# Methods.


_UNUSUAL = {'granet': {'every': 50}, 'elsa': {'fisher': .9},
            'mest': {'shares': [.1, .05]}, 'step': {'switch': 'auto'},
            'rigl_itop': {'every': 100}, 'cast': {'rescale': False}}


def _of_method(word):
  beside = {'sparsity': .9} if _words.takes_sparsity(word) else {
      'pattern': '2:4'}
  return {'method': {word: _UNUSUAL.get(word, {})}, **beside}


@pytest.mark.parametrize('word', _words.METHODS)
def test_every_method_is_called_as_it_is_written(monkeypatch, tmp_path, word):
  seen = []
  function = _words.METHODS[word]
  monkeypatch.setitem(_words.METHODS, word, functools.wraps(function)(
      lambda **given: seen.append(given) or function(**given)))
  recipe = {**_of_method(word), 'excluded': 'head.*'}
  made = _made(**recipe)
  again = building.from_recipe(
      building.to_recipe(made, tmp_path / 'a.yaml'), total_steps=_STEPS)
  from_file = building.from_recipe(tmp_path / 'a.yaml', total_steps=_STEPS)
  assert again.recipe == from_file.recipe == made.recipe
  assert seen[0] == seen[1] == seen[2]
  pattern = (jaxsparse.unstructured() if 'sparsity' in recipe
             else jaxsparse.nm(2, 4))
  assert seen[0].items() >= {
      'patterns': {'head.*': None, '.*kernel': pattern}, 'total_steps': _STEPS,
      **recipe['method'][word],
      **({'sparsity': .9} if 'sparsity' in recipe else {})}.items()


def test_a_method_has_patterns_and_sparsities_of_layers():
  made = _made(sparsity=.5, scope='uniform', layers=[
      {'names': 'a/kernel', 'sparsity': .25}], method='rigl')
  assert made.flow.gain is None and made.regularizer(made) is made
  masks = _init(made.rule)
  assert int(masks['a']['kernel'].sum()) == 96
  assert int(masks['b']['kernel'].sum()) == 64
  masks = _init(_made(pattern='2:4', layers=[
      {'names': 'b/kernel', 'pattern': '1:4'}], method='elsa').rule)
  assert int(masks['a']['kernel'].sum()) == 64
  assert int(masks['b']['kernel'].sum()) == 32


@pytest.mark.parametrize('recipe, told', [
    ({'method': 'granat'}, "method must be one of.*'granat'.*method: granet"),
    ({'method': {'granet': {'evry': 9}}},
     "method.granet has no key 'evry'. Did you mean 'every'[?] Its keys are"),
    ({'method': {'ste': {'every': 9}}}, 'method.ste has no key.*It has none'),
    ({'method': {'granet': {'every': '9'}}},
     "method.granet: every must be.*got '9'.*Write"),
    ({'method': {'granet': {'every': len}}},
     'method.granet.every must be a number.*Write'),
    ({'method': {'granet': {'begin': 900}}}, 'method.granet: granet needs'),
    ({'method': {'granet': 9}}, 'method.granet must be a mapping of keys'),
    ({'method': 'granet', 'scope': 'erk'}, 'scope: .*granet.*Leave scope out'),
    ({'method': 'sr_ste', 'scope': 'erk'}, 'scope: .*sr_ste.*Leave scope out'),
    ({'method': 'sr_ste'}, r'method.sr_ste: .*nm\(2, 4\)'),
    ({'method': 'rigl', 'frequency': 9, 'start': 1},
     r"method rigl has.*\['frequency', 'start'\] have no meaning.*every"),
    ({'method': 'rigl', 'flow': 'ste'}, r"\['flow'\] have no meaning"),
    ({'method': 'rigl', 'layers': [{'names': 'a', 'lock': True}]},
     r"layers\[0\]: .*\['lock'\] have no meaning"),
    ({'method': 'rigl', 'sparsity': None}, 'has no sparsity')])
def test_what_a_method_does_not_take_is_a_taught_error(recipe, told):
  with pytest.raises(ValueError, match=f'(?s){told}'):
    _made(**{'sparsity': .9, **recipe})


@pytest.mark.parametrize('suffix', ['yaml', 'yml', 'json'])
@pytest.mark.parametrize('name', _RECIPES)
def test_what_was_written_is_read_as_the_same(tmp_path, name, suffix):
  made = _made(**_RECIPES[name])
  path = tmp_path / f'recipe.{suffix}'
  recipe = building.to_recipe(made, path)
  assert set(recipe) == set(schema.Whole.keys())
  assert [p.name for p in tmp_path.iterdir()] == [path.name]
  for source in (recipe, path, str(path)):
    again = building.from_recipe(source, total_steps=_STEPS)
    assert again.recipe == recipe and again.messages == ()


def test_what_is_returned_is_a_copy():
  made = _made(**_RECIPES['all'])
  building.to_recipe(made)['layers'][0]['names'].append('b')
  assert made.recipe['layers'][0]['names'] == ['a/.*']


def test_yaml_reads_as_it_looks(tmp_path):
  path = tmp_path / 'prune.yaml'
  path.write_text("""
# The first layers stay as they are.
sparsity: 0.9
scope: global
excluded: [a/.*]
layers:
- names: b/kernel
  pattern: '2:4'
regularizer:
  group_lasso: {alpha: 1.0e-4}
""", encoding='utf-8')
  recipe = building.from_recipe(path, total_steps=_STEPS).recipe
  assert recipe['layers'][0]['pattern'] == '2:4'
  assert recipe['regularizer']['group_lasso']['alpha'] == 1e-4


@pytest.mark.parametrize('text, told', [
    ('pattern: 2:4', 'in quotes: YAML reads 2:4 as 124.*got 124'),
    ('sparsity: 0.9\nregularizer: {group_lasso: {alpha: 1e-4}}',
     "got '1e-4'"), ('- 1', 'mapping of keys'), ('', 'got None'),
    ('a: [', 'prune.yaml is not YAML'), (
        'layers:\n- names: a\n  sparsity: 0.5\n  "sparsity": 0.5',
        "prune.yaml has the key 'sparsity' twice"),
    ('sparsity: !!python/name:os.system', 'not YAML')])
def test_what_yaml_reads_otherwise_is_told(tmp_path, text, told):
  _refused(tmp_path / 'prune.yaml', text, told)


def _refused(path, text, told):
  path.write_text(text, encoding='utf-8')
  with pytest.raises(ValueError, match=f'(?s){told}'):
    building.from_recipe(path, total_steps=_STEPS)


@pytest.mark.parametrize('text, told', [
    ('{"sparsity": 0.9,}', 'prune.json is not JSON.*column'),
    ('{"flow": {"ste": {}, "ste": {}}}', "prune.json has the key 'ste' twice"),
    ('[1]', 'mapping of keys')])
def test_what_is_wrong_in_json_is_told(tmp_path, text, told):
  _refused(tmp_path / 'prune.json', text, told)


def test_merged_keys_of_yaml_may_be_overridden(tmp_path):
  path = tmp_path / 'prune.yaml'
  path.write_text("""
sparsity: 0.9
layers:
- &first {names: a/kernel, pattern: 4x1, reduce: mean}
- &second {<<: *first, names: b/kernel, reduce: max}
- {<<: *second, names: c/kernel}
""", encoding='utf-8')
  layers = building.from_recipe(path, total_steps=_STEPS).recipe['layers']
  assert [(layer['names'], layer['reduce']) for layer in layers] == [
      (['a/kernel'], 'mean'), (['b/kernel'], 'max'), (['c/kernel'], 'max')]


@pytest.mark.parametrize('recipe', [None, [{'sparsity': .9}], 3])
def test_what_is_no_recipe_is_an_error(recipe):
  with pytest.raises(ValueError, match='recipe must be a mapping, or the path'):
    building.from_recipe(recipe, total_steps=_STEPS)


def test_what_is_no_plan_is_an_error():
  with pytest.raises(ValueError, match='the result of from_recipe, got {'):
    building.to_recipe({'sparsity': .9})


def test_json_needs_no_yaml_and_yaml_says_what_it_needs(tmp_path, monkeypatch):
  real = builtins.__import__

  def without_yaml(name, *args, **kwargs):
    if name == 'yaml':
      raise ImportError(name)
    return real(name, *args, **kwargs)
  monkeypatch.setattr(builtins, '__import__', without_yaml)
  path = tmp_path / 'prune.json'
  path.write_text(json.dumps(_RECIPES['least']), encoding='utf-8')
  made = building.from_recipe(path, total_steps=_STEPS)
  assert made.recipe['sparsity'] == .9
  with pytest.raises(ImportError, match='pip install pyyaml'):
    building.to_recipe(made, tmp_path / 'prune.yaml')
  assert [p.name for p in tmp_path.iterdir()] == ['prune.json']


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'recipe.json'
  path.write_text('old', encoding='utf-8')

  def full(self, text, encoding):
    del self, text, encoding
    raise OSError('disk is full')
  monkeypatch.setattr(pathlib.Path, 'write_text', full)
  with pytest.raises(OSError):
    building.to_recipe(_made(**_RECIPES['least']), path)
  assert path.read_text(encoding='utf-8') == 'old'


def test_the_doc_example_is_a_recipe():
  text = building.__doc__.split('of prune.yaml:\n')[1].split('`help(')[0]
  import yaml
  made = _made(**yaml.safe_load(text))
  assert [layer['pattern'] for layer in made.recipe['layers']] == ['2:4']
  assert trees.paths(made.recipe['flow']) == []


def test_groups_lie_along_the_axis_that_is_said():
  make = functools.partial(building.from_recipe, total_steps=10)
  made = make({'pattern': '2:4', 'axis': -3, 'decay': 'one_shot',
               'names': 'query', 'layers': [
                   {'names': 'out', 'axis': [-3, -2]}]})
  rng = np.random.default_rng(0)
  params = {'query': rng.normal(size=(8, 3, 2)).astype(np.float32),
            'out': rng.normal(size=(2, 4, 5)).astype(np.float32)}
  masks = made.rule.init(params).masks
  assert (np.asarray(masks['query']).reshape(2, 4, 6).sum(1) == 2).all()
  assert (np.asarray(masks['out']).reshape(2, 4, 5).sum(1) == 2).all()
  assert make(building.to_recipe(made)).recipe == made.recipe
  with pytest.raises(ValueError, match='axis is the axis of N:M groups'):
    make({'pattern': '4x1', 'sparsity': .5, 'axis': -3})
  with pytest.raises(ValueError, match='the contraction axis'):
    make({'pattern': '2:4', 'axis': 'in'})


def test_a_layer_that_comes_too_late_is_told():
  made = building.from_recipe({'sparsity': .5, 'names': 'b', 'layers': [
      {'names': '.*a'}, {'names': 'a', 'pattern': '2:4'}]}, total_steps=10)
  with pytest.raises(ValueError, match=r"layers\[1\].names: 'a' has no"):
    made.rule.init({'a': np.ones((4, 4), np.float32),
                    'b': np.ones((4, 4), np.float32)})
