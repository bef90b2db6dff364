"""Recipes: what a value may be, and what a misspelt key is told."""

import re

import numpy as np
import pytest

from jaxsparse.recipes import defaults as recipe_defaults
from jaxsparse.recipes import keys as recipe_keys


def _complete(**recipe):
  return recipe_defaults.complete({'sparsity': .5, **recipe}, 1000)


@pytest.mark.parametrize('recipe, where, meant', [
    ({'sparsty': .9}, 'the recipe', 'sparsity'),
    ({'target_sparsity': .9}, 'the recipe', 'sparsity'),
    ({'exclude': []}, 'the recipe', 'excluded'),
    ({'end_step': 9}, 'the recipe', 'end'),
    ({'layers': [{'names': 'a'}, {'names': 'b', 'patern': '2:4'}]},
     'layers[1]', 'pattern'),
    ({'criterion': {'snip_momentum': {'decey': .9}}},
     'criterion.snip_momentum', 'decay'),
    ({'flow': {'sr_ste': {'decoupld': True}}}, 'flow.sr_ste', 'decoupled'),
    ({'flow': {'mdgf': {'fades': 'linear'}}}, 'flow.mdgf', 'fade'),
    ({'progressive': {'step': 3}}, 'progressive', 'steps'),
    ({'regularizer': {'group_lasso': {'alpa': 1.}}},
     'regularizer.group_lasso', 'alpha'),
    ({'layers': [{'names': 'a', 'regularizer': {
        'group_lasso': {'alpha': 1., 'learningrate': .1}}}]},
     'layers[0].regularizer.group_lasso', 'learning_rate')])
def test_a_misspelt_key_is_an_error_that_names_the_right_one(
    recipe, where, meant):
  with pytest.raises(ValueError, match=(
      rf"(?s)^{re.escape(where)} has no key.*Did you mean.*'{meant}'.*keys "
      'are')):
    _complete(**recipe)


@pytest.mark.parametrize('key, meant', [
    ('patern', 'pattern'), ('layer', 'layers'), ('start_step', 'start')])
def test_one_key_is_suggested_at_most(key, meant):
  with pytest.raises(ValueError, match=f"Did you mean '{meant}'[?] Its keys"):
    _complete(**{key: 1})


def test_a_key_like_no_other_is_told_all_of_them():
  with pytest.raises(ValueError) as error:
    _complete(zzz=1)
  assert 'Did you mean' not in str(error.value)
  assert all(key in str(error.value) for key in recipe_keys.CHECKS)


@pytest.mark.parametrize('key, value, told', [
    ('sparsity', 90, r'fraction pruned.*got 90.*sparsity: 0\.9'),
    ('sparsity', '0.9', r"got '0\.9'"),
    ('sparsity', True, 'got True'),
    ('sparsity', float('nan'), 'got nan'),
    ('initial_sparsity', -.1, 'fraction pruned'),
    ('max_sparsity', 1.5, r'max_sparsity: 0\.015'),
    ('min_sparsity', [0], 'fraction'),
    ('start', .1, 'whole number of steps from 0 up'),
    ('start', True, 'whole number'),
    ('end', -1, 'whole number'),
    ('frequency', 0, 'from 1 up'),
    ('decay', 'expontial', 'Write e.g. decay: exponential'),
    ('criterion', 'magnitud', 'Write e.g. criterion: magnitude'),
    ('criterion', {'snip': {}, 'magnitude': {}}, 'one of magnitude'),
    ('criterion', {'snip_momentum': {'decay': '1e-4'}},
     'criterion.snip_momentum.decay must be.*1e-4 without a point as text'),
    ('score_dtype', 'bf16', 'bfloat16'),
    ('pattern', '2;4', "one of unstructured.*'2:4'"),
    ('pattern', 124, 'YAML reads 2:4 as 124'),
    ('pattern', '4:2', 'keeps 2 of every 4'),
    ('pattern', '0x4', 'outputs x inputs'),
    ('pattern', 'chanel', 'channel'),
    ('reduce', 'average', 'one of sum, mean, max'),
    ('scope', 'local', 'one of uniform, global, erk, er'),
    ('names', 3, r'names: \["\.\*kernel"\]'),
    ('excluded', [3], 'regular expression'),
    ('layers', {'names': 'a'}, 'list of mappings'),
    ('layers', ['a'], r'layers\[0\] is a mapping'),
    ('flow', 'sr-ste', 'Write e.g. flow: sr_ste'),
    ('flow', {'sr_ste': {'decoupled': 1}}, 'flow.sr_ste.decoupled must be'),
    ('flow', {'sr_ste': 3}, 'flow.sr_ste is a mapping'),
    ('progressive', 4, 'progressive is a mapping'),
    ('progressive', {'steps': 0}, 'progressive.steps must be'),
    ('lock', 'yes', 'true or false'),
    ('regularizer', 'l1', 'one of group_lasso'),
    ('regularizer', {'group_lasso': {'alpha': -1}}, 'number of 0 or more')])
def test_a_wrong_value_is_told_what_to_write(key, value, told):
  with pytest.raises(ValueError, match=f'(?s){told}'):
    _complete(**{key: value})


@pytest.mark.parametrize('recipe', [None, 'sparsity: 0.9', [('sparsity', .9)]])
def test_what_is_no_mapping_is_an_error(recipe):
  with pytest.raises(ValueError, match='(?s)A recipe is a mapping.*sparsity'):
    recipe_defaults.complete(recipe, 1000)


def test_null_is_as_good_as_nothing():
  nothing = dict.fromkeys(recipe_keys.CHECKS)
  assert recipe_defaults.complete({**nothing, 'sparsity': .5}, 1000) == (
      _complete())


def test_whole_numbers_of_numpy_are_whole_numbers():
  whole = _complete(end=np.int32(40), frequency=np.int64(4))
  assert whole == _complete(end=40, frequency=4)
  assert type(whole['end']) is int


def test_sides_are_those_of_blocks_and_groups_alone():
  assert recipe_keys.sides('16x1') == ('x', (16, 1))
  assert recipe_keys.sides('1:16') == (':', (1, 16))
  for text in ('x', '4x', '04x1', '4x1 ', '1xchannel', '-1:4', '4x1x2'):
    assert recipe_keys.sides(text) is None
