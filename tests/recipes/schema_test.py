"""Keys of recipes: their checks, and the table of all."""

import re

import numpy as np
import pytest

from jaxsparse.recipes import completing
from jaxsparse.recipes import schema


def _half(**recipe):
  return completing.complete({'sparsity': .5, **recipe}, 1000)


# Single keys.


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
    _half(**recipe)


@pytest.mark.parametrize('key, meant', [
    ('patern', 'pattern'), ('layer', 'layers'), ('start_step', 'start')])
def test_one_key_is_suggested_at_most(key, meant):
  with pytest.raises(ValueError, match=f"Did you mean '{meant}'[?] Its keys"):
    _half(**{key: 1})


def test_a_key_like_no_other_is_told_all_of_them():
  with pytest.raises(ValueError) as error:
    _half(zzz=1)
  assert 'Did you mean' not in str(error.value)
  assert all(key in str(error.value) for key in schema.Whole.keys())


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
    ('layers', ['a'], r'layers\[0\] must be a mapping'),
    ('flow', 'sr-ste', 'Write e.g. flow: sr_ste'),
    ('flow', {'sr_ste': {'decoupled': 1}}, 'flow.sr_ste.decoupled must be'),
    ('flow', {'sr_ste': 3}, 'flow.sr_ste must be a mapping'),
    ('flow', {'sr_ste': False}, 'flow.sr_ste must be a mapping'),
    ('criterion', {'snip_momentum': True}, 'snip_momentum must be a mapping'),
    ('progressive', 4, 'progressive must be a mapping'),
    ('progressive', {'steps': 0}, 'progressive.steps must be'),
    ('lock', 'yes', 'true or false'),
    ('regularizer', 'l1', 'one of group_lasso'),
    ('regularizer', {'group_lasso': {'alpha': -1}}, 'number of 0 or more')])
def test_a_wrong_value_is_told_what_to_write(key, value, told):
  with pytest.raises(ValueError, match=f'(?s){told}'):
    _half(**{key: value})


@pytest.mark.parametrize('recipe', [None, 'sparsity: 0.9', [('sparsity', .9)]])
def test_what_is_no_mapping_is_an_error(recipe):
  with pytest.raises(ValueError, match='(?s)must be a mapping.*sparsity'):
    completing.complete(recipe, 1000)


def test_null_is_as_good_as_nothing():
  nothing = dict.fromkeys(schema.Whole.keys())
  assert completing.complete({**nothing, 'sparsity': .5}, 1000) == (
      _half())


def test_whole_numbers_of_numpy_are_whole_numbers():
  whole = _half(end=np.int32(40), frequency=np.int64(4))
  assert whole == _half(end=40, frequency=4)
  assert type(whole['end']) is int


# The table.


def test_every_key_stands_in_the_table_and_every_row_is_a_key():
  rows = re.findall(r'^\| `([\w.]+)` \|', schema.__doc__, re.MULTILINE)
  assert len(rows) == len(set(rows))
  assert {row for row in rows if '.' not in row} == set(schema.Whole.keys())
  assert {row for row in rows if row.startswith('flow.')} == {
      'flow.sr_ste.decay', 'flow.sr_ste.decoupled', 'flow.mdgf.fade',
      'flow.mdgf.start', 'flow.mdgf.end', 'flow.mdgf.straight_through'}


@pytest.mark.parametrize('key', [
    'decay', 'criterion', 'score_dtype', 'reduce', 'scope', 'flow',
    'regularizer', 'pattern'])
def test_every_choice_stands_in_its_row(key):
  with pytest.raises(ValueError) as error:
    schema.Whole.keys()[key].check(key, 'nothing')
  listed = re.search(r'one of (.*?), (got|blocks)', str(error.value))[1]
  assert len(listed.split(', ')) >= (1 if key == 'regularizer' else 2)
  row = re.search(rf'^\| `{key}` \|.*', schema.__doc__, re.MULTILINE)[0]
  assert listed in row


def test_defaults_in_the_table_are_those_of_the_least_recipe():
  whole = _half()
  for key, row in schema.Whole.keys().items():
    if row.default is not None and not row.otherwise:
      assert row.check(key, row.default) == whole[key], key
