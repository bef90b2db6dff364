"""Complete recipes: defaults of all keys, and recipes with contradictions."""

import json

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from jaxsparse.recipes import completing
from jaxsparse.recipes import schema


def _complete(total_steps=1000, **recipe):
  return completing.complete(recipe, total_steps)


# Defaults.


def test_every_key_and_default_is_written_out():
  assert _complete(sparsity=.9) == {
      'names': ['.*kernel'], 'excluded': [], 'pattern': 'unstructured',
      'axis': -2, 'sparsity': .9, 'min_sparsity': 0., 'max_sparsity': 1.,
      'reduce': 'sum',
      'initial_sparsity': 0., 'start': 0, 'end': 700, 'frequency': 7,
      'decay': 'cubic', 'criterion': {'magnitude': {}}, 'score_dtype': None,
      'scope': 'uniform', 'progressive': False, 'lock': False,
      'regularizer': None, 'layers': [], 'flow': {'hard': {}},
      'method': None}
  assert set(_complete(sparsity=.9)) == set(schema.Whole.keys())


@pytest.mark.parametrize('recipe, want', [
    ({}, dict(start=0, end=700, frequency=7)),
    ({'start': 500}, dict(start=500, end=850, frequency=3)),
    ({'end': 40}, dict(start=0, end=40, frequency=1)),
    ({'criterion': 'snip'}, dict(start=1, end=700, frequency=6)),
    ({'decay': 'one_shot'}, dict(start=0, end=0, frequency=1)),
    ({'decay': 'one_shot', 'criterion': 'gradient'}, dict(start=1, end=1)),
    ({'decay': 'one_shot', 'start': 90}, dict(start=90, end=90)),
    ({'flow': 'ste'}, dict(decay='one_shot', start=0, end=1000, frequency=1)),
    ({'flow': 'sr_ste'}, dict(flow={
        'sr_ste': {'decay': 2e-4, 'decoupled': False}})),
    ({'flow': {'mdgf': {'end': 900}}}, dict(decay='one_shot', flow={'mdgf': {
        'fade': 'linear', 'start': 100, 'end': 900,
        'straight_through': True}})),
    ({'flow': 'ste', 'decay': 'cubic'}, dict(end=700, frequency=1)),
    ({'flow': 'ste', 'initial_sparsity': .5}, dict(decay='cubic', end=700)),
    ({'pattern': '1:4'}, dict(sparsity=.75)),
    ({'pattern': '1:4', 'sparsity': .75}, dict(sparsity=.75)),
    ({'criterion': 'snip_momentum'}, dict(criterion={
        'snip_momentum': {'decay': 1., 'scale': .9}})),
    ({'progressive': True, 'frequency': 40},
     dict(progressive={'steps': 4, 'every': 10})),
    ({'progressive': {'steps': 2, 'every': 5}, 'frequency': 40},
     dict(progressive={'steps': 2, 'every': 5})),
    ({'progressive': True, 'end': 40},
     dict(frequency=4, progressive={'steps': 4, 'every': 1})),
    ({'progressive': {'every': 10}, 'end': 100},
     dict(frequency=40, progressive={'steps': 4, 'every': 10})),
    ({'progressive': {'steps': 2}, 'end': 800},
     dict(frequency=8, progressive={'steps': 2, 'every': 4})),
    ({'progressive': True, 'flow': 'ste'}, dict(frequency=4)),
    ({'progressive': True, 'decay': 'one_shot'},
     dict(progressive={'steps': 4, 'every': 10})),
    ({'regularizer': {'group_lasso': {'alpha': .1}}}, dict(regularizer={
        'group_lasso': {'alpha': .1, 'form': 'gradient',
                        'learning_rate': None, 'scaled': False}}))], ids=str)
def test_defaults_follow_from_what_is_given(recipe, want):
  if 'pattern' not in recipe:
    recipe = {'sparsity': .9, **recipe}
  whole = _complete(**recipe)
  assert {key: whole[key] for key in want} == want


def test_a_layer_has_what_it_shares_or_all():
  whole = _complete(
      sparsity=.9, initial_sparsity=.3, frequency=50, layers=[
          {'names': 'a', 'pattern': '2:4'}, {'names': ['b'], 'sparsity': .5},
          {'names': 'c', 'max_sparsity': .95},
          {'names': 'd', 'decay': 'linear'},
          {'names': 'e', 'end': 400, 'pattern': '1:4'}])
  shared, other, bound, own, group = whole['layers']
  assert shared == {
      'names': ['a'], 'pattern': '2:4', 'axis': -2, 'sparsity': None,
      'min_sparsity': 0., 'max_sparsity': 1., 'reduce': 'sum'}
  assert other['sparsity'] == .5 and set(other) == set(shared)
  assert bound['max_sparsity'] == .95 and bound['sparsity'] is None
  assert set(own) == {*schema.Layer.keys()}
  assert [own[k] for k in ('sparsity', 'initial_sparsity', 'frequency',
                           'decay', 'end')] == [.9, .3, 50, 'linear', 700]
  assert [group[k] for k in ('sparsity', 'end', 'frequency')] == [.75, 400, 50]


def test_layers_alone_need_no_sparsity_of_all():
  whole = _complete(names=[], layers=[
      {'names': 'a', 'sparsity': .5, 'scope': 'global'},
      {'names': 'b', 'lock': True}])
  assert whole['names'] == [] and whole['sparsity'] is None
  assert whole['layers'][1]['lock'] and whole['layers'][1]['start'] is None


def test_a_locked_layer_inherits_patterns_only():
  layer, = _complete(sparsity=.9, pattern='4x1', end=90, layers=[
      {'names': 'a', 'lock': True}])['layers']
  assert layer['pattern'] == '4x1' and layer['end'] is None


def test_exclude_comes_first_and_once():
  whole = completing.complete(
      {'sparsity': .9, 'excluded': ['b', 'a']}, 10, exclude=['head', 'b'])
  assert whole['excluded'] == ['head', 'b', 'a']
  whole = completing.complete({'sparsity': .9}, 10, exclude='head')
  assert whole['excluded'] == ['head']


# Contradictions.


@pytest.mark.parametrize('recipe, told', [
    ({}, r'(?s)the recipe has no sparsity.*sparsity: 0\.9'),
    ({'names': [], 'layers': [{'names': 'a', 'sparsity': .5}, {
        'names': 'b', 'scope': 'erk'}]}, r'layers\[1\] has no sparsity'),
    ({'names': [], 'layers': [{'names': 'a', 'pattern': '4x1'}]},
     r'layers\[0\] has no sparsity'),
    ({'names': []}, 'nothing would be pruned'),
    ({'pattern': '2:4', 'sparsity': .9},
     r"'2:4' keeps 2 of every 4, a sparsity of 0\.5, but sparsity is 0\.9"),
    ({'sparsity': .9, 'layers': [
        {'names': 'a', 'pattern': '1:4', 'sparsity': .5}]},
     r"layers\[0\]: the pattern '1:4' keeps 1 of every 4"),
    ({'sparsity': .9, 'start': 50, 'end': 40}, 'start <= end <= total_steps'),
    ({'sparsity': .9, 'end': 1001}, 'end=1001 and total_steps=1000'),
    ({'sparsity': .9, 'start': 40, 'end': 40}, 'decay: one_shot'),
    ({'sparsity': .9, 'decay': 'one_shot', 'criterion': 'snip', 'start': 0},
     'snip needs gradients.*start: 1'),
    ({'sparsity': .9, 'initial_sparsity': .9}, 'initial_sparsity: 0'),
    ({'sparsity': .9, 'initial_sparsity': .1, 'decay': 'one_shot'},
     'initial_sparsity=0.1'),
    ({'sparsity': .9, 'max_sparsity': .8}, 'bounds.*got sparsity=0.9'),
    ({'sparsity': .9, 'layers': [{'names': 'a', 'sparsity': .99,
                                  'max_sparsity': .98}]},
     r'layers\[0\]: .*got sparsity=0.99'),
    ({'sparsity': 1., 'decay': 'exponential'}, 'decay: cubic'),
    ({'sparsity': .9, 'score_dtype': 'bfloat16'}, 'magnitude accumulates none'),
    ({'sparsity': .9, 'lock': True}, r"\['sparsity'\] have no meaning"),
    ({'lock': True, 'layers': [{'names': 'a', 'sparsity': .5}]},
     r'layers\[0\]: lock only keeps'),
    ({'sparsity': .9, 'layers': [{'sparsity': .5}]},
     r"layers\[0\] has no names.*names: \['head/kernel'\]"),
    ({'sparsity': .9, 'layers': [{'names': '.*kernel', 'sparsity': .5}]},
     r"'\.\*kernel' appears twice"),
    ({'sparsity': .9, 'regularizer': 'group_lasso'}, 'needs its strength'),
    ({'sparsity': .9, 'regularizer': {'group_lasso': {
        'alpha': .1, 'form': 'proximal'}}}, 'needs a learning_rate'),
    ({'sparsity': .9, 'regularizer': {'group_lasso': {
        'alpha': .1, 'learning_rate': .1}}}, 'gradient form takes none'),
    ({'sparsity': .9, 'flow': {'mdgf': {'start': 800}}}, 'flow.mdgf needs'),
    ({'sparsity': .9, 'progressive': True, 'frequency': 3},
     r'(?s)steps \* every = 4 \* 1.*frequency: 4'),
    ({'sparsity': .9, 'decay': 'one_shot', 'start': 975,
      'progressive': {'steps': 4, 'every': 10}},
     r'start \+ \(steps - 1\) \* every = 975 \+ 3 \* 10.*earlier start'),
    ({'sparsity': .9, 'decay': 'one_shot', 'start': 960, 'end': 1000,
      'frequency': 100, 'progressive': {'steps': 2, 'every': 50}},
     r'960 \+ 1 \* 50, after total_steps=1000'),
    ({'sparsity': .9, 'criterion': 'snip', 'initial_sparsity': .1, 'start': 0,
      'frequency': 100}, 'snip needs gradients.*start: 1'),
    *(({'names': [], **curve, 'layers': [{'names': 'a', 'sparsity': .5}]},
       r'depends on its sparsity, got none.*sparsity: 0\.9') for curve in (
           {'decay': 'exponential'}, {'initial_sparsity': .1}))], ids=str)
def test_what_contradicts_itself_is_an_error(recipe, told):
  with pytest.raises(ValueError, match=f'(?s){told}'):
    _complete(**recipe)


@pytest.mark.parametrize('recipe', [
    {'sparsity': .9, 'decay': 'one_shot', 'start': 970,
     'progressive': {'steps': 4, 'every': 10}},
    {'sparsity': .9, 'criterion': 'snip', 'initial_sparsity': .1, 'start': 0,
     'frequency': 1},
    {'names': [], 'decay': 'exponential', 'layers': [
        {'names': 'a', 'sparsity': .5, 'start': 10}]}], ids=str)
def test_what_just_fits_is_not(recipe):
  _complete(**recipe)


def test_total_steps_may_be_of_numpy():
  assert completing.complete({'sparsity': .9}, np.int64(1000)) == (
      _complete(sparsity=.9))


@pytest.mark.parametrize('steps', [0, -5, 1.5, None, True, np.True_])
def test_total_steps_are_steps(steps):
  with pytest.raises(ValueError, match='total_steps'):
    completing.complete({'sparsity': .9}, steps)


_SECTION = {
    'pattern': st.sampled_from(['unstructured', '4x1', '1xchannel']),
    'sparsity': st.floats(.3, .8), 'reduce': st.sampled_from(['sum', 'max']),
    'min_sparsity': st.floats(0, .2), 'max_sparsity': st.floats(.9, 1)}
_OWN = {
    'initial_sparsity': st.floats(0, .25), 'start': st.integers(1, 20),
    'end': st.integers(30, 100), 'frequency': st.integers(1, 50),
    'decay': st.sampled_from(['linear', 'cubic', 'exponential', 'cube']),
    'criterion': st.sampled_from(['magnitude', 'snip', {'snip_momentum': {
        'decay': .9}}]),
    'scope': st.sampled_from(['uniform', 'global', 'erk']),
    'regularizer': st.just({'group_lasso': {'alpha': .5}})}
_FLOWS = st.sampled_from(['hard', 'ste', {'sr_ste': {'decay': 1e-5}}])


@settings(deadline=None, max_examples=50)
@given(st.fixed_dictionaries({}, optional={
    **_SECTION, **_OWN, 'flow': _FLOWS, 'layers': st.lists(
        st.fixed_dictionaries({}, optional={**_SECTION, **_OWN}),
        max_size=3)}))
def test_completing_twice_changes_nothing_and_leaves_plain_data(recipe):
  recipe.setdefault('sparsity', .5)
  recipe['layers'] = [{'names': f'layer{i}', **layer} for i, layer in
                      enumerate(recipe.get('layers', []))]
  whole = _complete(100, **recipe)
  assert _complete(100, **whole) == whole
  assert json.loads(json.dumps(whole)) == whole
