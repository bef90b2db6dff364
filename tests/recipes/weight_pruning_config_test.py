"""A `WeightPruningConfig` of Neural Compressor 2.x means what it meant there.

Defaults and names are those of its signature; what it does with N:M, with what
is given locally and with the last layer is told by messages.
"""

import json
import re

import jax.numpy as jnp
import optax
import pytest

from jaxsparse.recipes import _weight_pruning_config
from jaxsparse.recipes import from_recipe
from jaxsparse.recipes import neural_compressor

# The example of its documentation.
_LOCAL = {
    'pruning_configs': [
        {'pruning_scope': 'local', 'target_sparsity': .6,
         'op_names': ['query', 'key', 'value'], 'pattern': 'channelx1'},
        {'pruning_type': 'snip_momentum_progressive', 'target_sparsity': .5,
         'op_names': ['attention.dense'], 'pruning_frequency': 8}],
    'target_sparsity': .8, 'start_step': 1, 'end_step': 100}


def _read(config, **options):
  return from_recipe(config, total_steps=1_000, **options)


def _told(config):
  return '\n'.join(_read(config).messages)


def test_what_is_left_out_has_the_defaults_of_its_signature():
  whole = _read({'target_sparsity': None, 'end_step': 10}).recipe
  assert {key: whole[key] for key in (
      'sparsity', 'pattern', 'names', 'scope', 'decay', 'start', 'end',
      'frequency', 'min_sparsity', 'max_sparsity', 'criterion', 'reduce')} == {
          'sparsity': .9, 'pattern': '4x1', 'names': ['.*kernel'],
          'scope': 'global', 'decay': 'exponential', 'start': 0, 'end': 10,
          'frequency': 1, 'min_sparsity': 0., 'max_sparsity': .98,
          'criterion': {'snip_momentum': {'decay': .9, 'scale': 1.}},
          'reduce': 'mean'}


def test_local_configs_override_the_global_one_for_their_layers():
  one, two = _read(_LOCAL).recipe['layers']
  assert one['names'] == ['.*query.*kernel', '.*key.*kernel', '.*value.*kernel']
  assert (one['pattern'], one['sparsity'], one['scope']) == (
      'channelx1', .6, 'uniform')
  assert one['progressive'] is False
  assert two['names'] == ['.*attention.dense.*kernel']
  assert (two['pattern'], two['sparsity'], two['scope'], two['frequency']) == (
      '4x1', .5, 'global', 8)
  assert two['progressive'] == {'steps': 4, 'every': 2}
  assert {layer['start'] for layer in (one, two)} == {1}


def test_what_is_excluded_locally_replaces_what_is_globally():
  first, second = _read({
      'excluded_op_names': ['head'], 'end_step': 10, 'pruning_configs': [
          {'op_names': ['a']}, {'op_names': ['b'], 'excluded_op_names': ['c']}]
  }).recipe['layers']
  assert first['names'] == ['(?!(?:.*head.*)$).*a.*kernel']
  assert second['names'] == ['(?!(?:.*c.*)$).*b.*kernel']


@pytest.mark.parametrize('suffix', ['json', 'yaml'])
def test_it_is_read_from_a_file(tmp_path, suffix):
  path = tmp_path / f'prune.{suffix}'
  path.write_text(json.dumps(_LOCAL))  # Which is YAML, too.
  assert _read(path).recipe == _read(_LOCAL).recipe


def test_n_of_m_are_those_pruned_there_and_kept_here():
  made = _read({'pattern': '1:4', 'target_sparsity': .25, 'end_step': 0,
                'pruning_type': 'magnitude', 'pruning_scope': 'local'})
  masks = made.sparsify(optax.sgd(.1)).init(
      {'kernel': jnp.arange(1., 9.).reshape(4, 2)}).masks
  assert masks['kernel'].sum() == 6
  told = '\n'.join(made.messages)
  assert "pattern: '1:4' has 1 of every 4 weights pruned there" in told
  assert 'pruning_scope: has no meaning here, because N:M' in told


@pytest.mark.parametrize('key, value', [
    ('backend', 'itrex'), ('low_memory_usage', True),
    ('pruning_op_types', ['Linear']), ('criterion_type', 'snip'),
    ('resume_from_pruned_checkpoint', True), ('lock_init_sparsity', True)])
def test_what_has_no_meaning_here_is_told(key, value):
  assert f'{key}: has no meaning here' in _told(
      {'end_step': 10, 'target_sparsity': .5, key: value})
  local = {'end_step': 10, 'pruning_configs': [{key: value}]}
  assert f'pruning_configs[0].{key}: has no meaning here' in _told(local)


def test_the_last_layer_is_told_of():
  assert 'last_kernels' in _told({'end_step': 10, 'target_sparsity': .5})


def test_messages_have_the_names_of_2_x():
  told = _told({'pruning_type': 'pattern_lock', 'pruning_scope': 'local',
                'pruning_frequency': 3, 'max_sparsity_ratio_per_op': .9,
                'op_names': ['a']})
  for key in ('pruning_scope', 'pruning_frequency', 'op_names',
              'max_sparsity_ratio_per_op'):
    assert key in told
  assert not re.search('prune_domain|on_step|per_layer|[^_]names: ', told)


@pytest.mark.parametrize('progressive, kind', [
    ({'progressive': True}, 'snip_momentum'),
    ({'progressive': True, 'prune_type': 'magnitude'}, 'magnitude'),
    ({'pruning_type': 'snip_progressive'}, 'snip')])
def test_progressive_is_a_key_or_a_part_of_the_type(progressive, kind):
  whole = _read({
      'end_step': 100, 'pruning_frequency': 10, **progressive}).recipe
  assert whole['progressive'] and [*whole['criterion']] == [kind]


def test_a_strength_stands_in_parameters_or_alone():
  for strength in ({'reg_coeff': .1}, {'parameters': {'reg_coeff': .1}}):
    made = _read({'reg_type': 'group_lasso', 'end_step': 10, **strength})
    assert made.recipe['regularizer']['group_lasso']['alpha'] == .1


@pytest.mark.parametrize('config, told', [
    ({'target_sparsity': .5, 'pruning_scpe': 'local'}, "mean 'pruning_scope'"),
    ({'pruning_scope': 'locl'}, 'pruning_scope must be one of.*: local'),
    ({'pruning_type': 'retrain_free'}, 'pruning_type must be one of'),
    ({'pruning_type': 'snip', 'prune_type': 'snip'}, 'two names of one key'),
    ({'pruning_frequency': 0}, 'pruning_frequency must be a whole number'),
    ({'op_names': ['(']}, 'op_names must be a regular expression'),
    ({'pruning_configs': 5}, 'pruning_configs must be a list'),
    ({'pruning_configs': [5]}, r'pruning_configs\[0\] must be a mapping'),
    ({'pruning_configs': [{'end_stp': 5}]}, r"configs\[0\].*'end_step'"),
    ({'pruning_configs': [{'pruning_configs': []}]}, 'has no key'),
    ({'pattern': '5:4', 'end_step': 1}, 'pattern: .* got 5'),
    ({'reg_coeff': 'a', 'end_step': 1}, 'reg_coeff must be a number'),
    ({'sparsity': .9, 'start_step': 10}, "Did you mean 'start'"),
], ids=str)
def test_what_is_wrong_is_told(config, told):
  with pytest.raises(ValueError, match=f'(?s){told}'):
    _read(config)


def test_every_key_has_a_meaning_or_a_message():
  config = {'end_step': 10}
  for key in _weight_pruning_config._KEYS:
    assert neural_compressor.is_one({**config, key: None})


def test_a_recipe_of_ours_is_none_of_theirs():
  for recipe in ({'sparsity': .9}, {'pattern': '2:4'}, {'progressive': True},
                 {'sparsity': .9, 'target_sparsity': .9}):
    assert not neural_compressor.is_one(recipe)
