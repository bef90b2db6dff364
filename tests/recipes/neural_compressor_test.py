"""Neural Compressor's files: what their keys become, and what is told."""

import re

import pytest

from jaxsparse.recipes import building
from jaxsparse.recipes import neural_compressor

_STEPS = """
version: 1.0
model:
  name: small
  framework: pytorch
tuning: {exit_policy: {max_trials: 3}}
pruning:
  train: {epoch: 3}
  approach:
    weight_compression_pytorch:
      initial_sparsity: 0.0
      target_sparsity: 0.8
      start_step: 10
      end_step: 60
      update_frequency_on_step: 5
      prune_layer_type: [Linear]
      excluded_names: [classifier, pooler$]
      pruners:
      - !Pruner
          names: ['encoder.0.*']
          extra_excluded_names: [query, 'key.weight']
          prune_type: magnitude
          prune_domain: local
          pattern: tile_pattern_4x1
          sparsity_decay_type: cos
          max_sparsity_ratio_per_layer: 0.95
      - !Pruner
          names: [encoder.1.mlp.weight]
          start_step: 20
          end_step: 20
          target_sparsity: 0.75
          prune_type: snip_momentum_progressive
          pattern: '3:4'
          update_frequency: 2
"""
_EPOCHS = """
pruning:
  approach:
    weight_compression:
      initial_sparsity: 0.1
      target_sparsity: 0.6
      start_epoch: 1
      end_epoch: 3
      pruners:
      - {prune_type: basic_magnitude, update_frequency: 0.5,
         names: [conv1.weight], method: per_tensor}
"""


def _read(tmp_path, text, **options):
  path = tmp_path / 'conf.yaml'
  path.write_text(text, encoding='utf-8')
  return building.from_recipe(
      path, total_steps=options.pop('total_steps', 100), **options)


def _config(*pruners, **shared):
  return {'pruning': {'approach': {'weight_compression_pytorch': {
      'end_step': 50, 'target_sparsity': .5, **shared,
      'pruners': [*pruners]}}}}


def _one(**pruner):
  """The recipe of one pruner, made sure that it is one, and the messages."""
  made = building.from_recipe(_config(pruner), total_steps=100)
  return made.recipe, '\n'.join(made.messages)


def test_a_file_of_steps_becomes_layers(tmp_path):
  made = _read(tmp_path, _STEPS)
  recipe, (first, second) = made.recipe, made.recipe['layers']
  assert recipe['names'] == []
  assert recipe['excluded'] == []
  want = dict(
      names=['(?!(?:.*query.*|.*key/kernel|.*classifier.*|.*pooler/.*)$)'
             '.*encoder.0.*kernel'],
      criterion={'magnitude': {}}, scope='uniform', pattern='4x1',
      decay='cosine', start=10, end=60, frequency=5, sparsity=.8,
      max_sparsity=.95, progressive=False)
  assert {key: first[key] for key in want} == want
  want = dict(
      names=['(?!(?:.*classifier.*|.*pooler/.*)$).*encoder.1.mlp/kernel'],
      scope='global', pattern='1:4',
      criterion={'snip_momentum': {'decay': .9, 'scale': 1.}}, sparsity=.75,
      decay='one_shot', start=20, end=20, progressive={'steps': 4, 'every': 1})
  assert {key: second[key] for key in want} == want


def test_every_key_without_a_meaning_is_told(tmp_path):
  messages = _read(tmp_path, _STEPS).messages
  told = '\n'.join(messages)
  for key in ('version', 'model', 'tuning', 'pruning.train',
              'prune_layer_type', 'pruners[1].update_frequency'):
    assert any(m.startswith(f'{key}: has no meaning here') for m in messages)
  assert len(set(messages)) == len(messages)
  assert "'3:4' has 3 of every 4 weights pruned there; here it is '1:4'" in told
  assert "['encoder.1.mlp.weight'] was searched in module names" in told


def test_a_file_of_epochs_needs_to_know_their_length(tmp_path):
  recipe = _read(tmp_path, _EPOCHS, steps_per_epoch=20).recipe
  want = dict(names=['.*conv1/kernel'], start=20, end=60, frequency=10,
              decay='linear', sparsity=.6, initial_sparsity=.1,
              criterion={'magnitude': {}}, pattern='unstructured', layers=[])
  assert {key: recipe[key] for key in want} == want
  with pytest.raises(ValueError, match=r'(?s)counts epochs \(1 to 3\).*steps_'):
    _read(tmp_path, _EPOCHS)
  with pytest.raises(ValueError, match='end=60 and total_steps=50'):
    _read(tmp_path, _EPOCHS, steps_per_epoch=20, total_steps=50)


def test_what_it_becomes_is_written_and_read_again(tmp_path):
  made = _read(tmp_path, _STEPS)
  again = building.from_recipe(
      building.to_recipe(made, tmp_path / 'recipe.yaml'), total_steps=100)
  assert again.recipe == made.recipe


@pytest.mark.parametrize('key, value, want', [
    ('prune_type', 'magnitude', dict(criterion={'magnitude': {}})),
    ('prune_type', 'basic_magnitude', dict(criterion={'magnitude': {}})),
    ('prune_type', 'gradient', dict(criterion={'gradient': {}})),
    ('prune_type', 'snip', dict(criterion={'snip': {}}, progressive=False)),
    ('prune_type', 'magnitude_progressive', dict(
        criterion={'magnitude': {}}, progressive={'steps': 4, 'every': 5})),
    ('prune_type', 'pattern_lock', dict(lock=True, pattern='4x1', end=None)),
    ('prune_domain', 'local', dict(scope='uniform')),
    ('prune_domain', 'global', dict(scope='global')),
    ('prune_domain', None, dict(scope='global')),
    ('sparsity_decay_type', 'exp', dict(decay='exponential')),
    ('sparsity_decay_type', 'cos', dict(decay='cosine')),
    ('sparsity_decay_type', 'cube', dict(decay='cube')),
    ('sparsity_decay_type', 'linear', dict(decay='linear')),
    ('pattern', 'tile_pattern_1x1', dict(pattern='unstructured')),
    ('pattern', '16x1', dict(pattern='16x1')),
    ('pattern', 'channelx1', dict(pattern='channelx1')),
    ('pattern', '1xchannel', dict(pattern='1xchannel')),
    ('pattern', '2:4', dict(pattern='2:4', sparsity=.5, max_sparsity=1.)),
    ('start_step', 5, dict(start=5)), ('end_step', 70, dict(end=70)),
    ('update_frequency_on_step', 5, dict(frequency=5)),
    ('initial_sparsity', .25, dict(initial_sparsity=.25)),
    ('target_sparsity', .7, dict(sparsity=.7)),
    ('target_sparsity', .99, dict(sparsity=.98, max_sparsity=.98)),
    ('max_sparsity_ratio_per_layer', .6, dict(max_sparsity=.6)),
    ('min_sparsity_ratio_per_layer', .1, dict(min_sparsity=.1)),
    ('reduce_type', 'mean', dict(reduce='mean')),
    ('excluded_names', ['a'], dict(names=['(?!(?:.*a.*)$).*kernel'])),
    ('extra_excluded_names', ['a'], dict(names=['(?!(?:.*a.*)$).*kernel'])),
    ('exclude_names', ['a'], dict(names=['(?!(?:.*a.*)$).*kernel']))])
def test_every_key_has_its_counterpart(key, value, want):
  recipe, _ = _one(**{'update_frequency_on_step': 20, key: value})
  assert {k: recipe[k] for k in want} == want


_VALUES = {
    'initial_sparsity': .1, 'target_sparsity': .5, 'start_epoch': 0,
    'end_epoch': 4, 'start_step': 10, 'end_step': 50, 'update_frequency': 1,
    'update_frequency_on_step': 2, 'excluded_names': ['a'], 'names': ['b'],
    'extra_excluded_names': ['c'], 'prune_domain': 'local',
    'prune_layer_type': ['Linear'], 'prune_type': 'magnitude',
    'pattern': '1x16', 'sparsity_decay_type': 'cos', 'reduce_type': 'mean',
    'max_sparsity_ratio_per_layer': .9, 'min_sparsity_ratio_per_layer': .1,
    'method': 'per_tensor', 'parameters': {'reg_coeff': .1},
    'reg_type': 'group_lasso', 'not_to_prune_names': ['a'],
    'exclude_names': ['c']}


@pytest.mark.parametrize('key', neural_compressor._KEYS)
@pytest.mark.parametrize('fixed', [
    {}, {'prune_type': 'pattern_lock'}, {'pattern': '2:4'}], ids=str)
def test_every_key_has_an_effect_or_one_message(key, fixed):
  def translate(**pruner):
    return neural_compressor.translate({'pruning': {'approach': {
        'weight_compression_pytorch': {'end_step': 40, 'pruners': [pruner]}}}})
  base = {'parameters': {'reg_coeff': .1}, **fixed}
  recipe, messages = translate(**{**base, key: _VALUES[key], **fixed})
  told = [m for m in messages if re.search(
      rf'(^|\.){key}(\.reg_coeff)?: has no meaning here', m)]
  effect = key in fixed or recipe != translate(**base)[0]
  assert len(told) == (not effect), messages


def test_what_has_no_meaning_is_checked_all_the_same():
  for key, value in {'target_sparsity': 90, 'sparsity_decay_type': 'cosine',
                     'prune_domain': 'all', 'start_step': -1}.items():
    with pytest.raises(ValueError, match=rf'pruners\[0\].{key} must be'):
      _one(prune_type='pattern_lock', **{key: value})


def test_n_of_m_brings_its_own_sparsity_whatever_a_pruner_inherits():
  def read(*pruners, **shared):
    return building.from_recipe(
        _config(*pruners, target_sparsity=.8, **shared), total_steps=100)
  made = read({'pattern': '2:4', 'names': ['a']}, {'names': ['b']})
  assert [part['sparsity'] for part in made.recipe['layers']] == [.5, .8]
  assert [m for m in made.messages if 'its own sparsity' in m] == [
      'pruners[0].target_sparsity: has no meaning here, because N:M has its '
      'own sparsity.']
  for made in ({'pattern': '2:4', 'target_sparsity': .8},), ():
    with pytest.raises(ValueError, match='but sparsity is 0.8'):
      read(*made, pattern='2:4')


def test_every_key_stands_in_the_table():
  for key in neural_compressor._KEYS:
    assert f'`{key}`' in neural_compressor.__doc__, key


@pytest.mark.parametrize('raw, want', [
    ('layer1.*', '.*layer1.*kernel'), ('.*', '.*kernel'),
    ('.*query', '.*query.*kernel'), ('^bert.encoder', (
        '(?:params/)?bert.encoder.*kernel')),
    ('layer1.0.conv1.weight', '.*layer1.0.conv1/kernel'),
    (r'layer\.1\.', '.*layer/1/.*kernel'), ('fc$', '.*fc/kernel'),
    ('key|query', '(?:.*key.*kernel|.*query.*kernel)'),
    ('fc/kernel', '.*fc/kernel'), ('.*fc/kernel', '.*fc/kernel'),
    ('.*fc.*kernel', '.*fc.*kernel'), ('.*kernel', '.*kernel')])
def test_names_are_searched_there_and_match_whole_paths_here(raw, want):
  recipe, messages = _one(names=[raw])
  assert recipe['names'] == [want]
  re.compile(want)
  assert (raw == '.*') == ('names' not in messages)


@pytest.mark.parametrize('raw, path, hit', [
    ('layer1.*', 'layer1/0/conv1/kernel', True),
    ('layer1.*', 'layer1/0/conv1/bias', False),
    ('layer1.0.conv1.weight', 'params/layer1/0/conv1/kernel', True),
    ('layer1.0.conv1.weight', 'layer1/0/conv11/kernel', False),
    ('fc$', 'mlp/fc/kernel', True), ('fc$', 'mlp/fc1/kernel', False),
    ('^fc', 'params/fc1/kernel', True), ('^fc', 'mlp/fc/kernel', False),
    ('^fc|conv', 'encoder/conv1/kernel', True),
    ('head|^fc', 'params/fc/kernel', True), ('head|^fc', 'a/fc/kernel', False),
    ('fc$|conv', 'fc/kernel', True), ('fc$|conv', 'fc1/kernel', False),
    ('conv1.weight|fc.weight', 'conv1/kernel', True),
    ('conv1.weight|fc.weight', 'conv11/kernel', False),
    ('(key|query).weight', 'a/query/kernel', True),
    ('[|]|fc', 'a/fc/kernel', True), ('[^|]fc', 'a/fc/kernel', True),
    ('(?i)HEAD', 'head/kernel', True), ('(?i)HEAD|^FC', 'a/fc/kernel', False)])
def test_translated_names_match_the_same_layers(raw, path, hit):
  regex, = _one(names=[raw])[0]['names']
  assert bool(re.fullmatch(regex, path)) == hit


def test_excluded_names_stay_dense():
  regex, = _one(extra_excluded_names=['query', 'fc.weight'])[0]['names']
  for path, hit in (('a/kernel', True), ('a/query/kernel', False),
                    ('a/fc/kernel', False), ('a/fc/1/kernel', True)):
    assert bool(re.fullmatch(regex, path)) == hit
  regex, = _one(extra_excluded_names=['classifier$|^conv1', '(?i)HEAD'])[
      0]['names']
  for path, hit in (('classifier/kernel', False), ('conv1/kernel', False),
                    ('mid/conv1/kernel', True), ('a/head/kernel', False)):
    assert bool(re.fullmatch(regex, path)) == hit


@pytest.mark.parametrize('raw', ['(^a|b)', 'a(b$|c)', '(a.weight|b)'])
def test_names_that_cannot_be_translated_are_an_error(raw):
  for key in 'names', 'excluded_names':
    with pytest.raises(ValueError, match='alternatives without a group'):
      _one(**{key: [raw]})


@pytest.mark.parametrize('parameters', [
    {'reg_coeff': .01}, {'alpha': .01}, {'coeff': .01, 'group_size': 4}])
def test_group_lasso_is_the_regularizer(parameters):
  for pruner in ({'reg_type': 'group_lasso'}, {'prune_type': 'group_lasso'}):
    recipe, told = _one(parameters=parameters, **pruner)
    lasso = recipe['regularizer']['group_lasso']
    assert lasso['alpha'] == .01 and lasso['form'] == 'gradient'
    assert ('group_size: has no meaning' in told) == ('group_size'
                                                      in parameters)
  inside, _ = _one(parameters={'reg_type': 'group_lasso', **parameters})
  assert inside['regularizer']['group_lasso']['alpha'] == .01


def test_a_coefficient_without_a_regularizer_is_told():
  recipe, told = _one(parameters={'reg_coeff': .1})
  assert recipe['regularizer'] is None
  assert 'parameters.reg_coeff: has no meaning here' in told


@pytest.mark.parametrize('pruner, told', [
    ({'prun_type': 'snip'}, r"pruners\[0\] has no key.*'prune_type'"),
    ({'target_sparsty': .5}, r"'target_sparsity'"),
    ({'prune_type': 'snip_momentm'}, 'Write e.g. prune_type: snip_momentum'),
    ({'prune_domain': 'globl'}, 'prune_domain: global'),
    ({'sparsity_decay_type': 'cosine'}, 'sparsity_decay_type: cos'),
    ({'parameters': {'reg_coef': 1.}}, "parameters has no key.*'reg_coeff'"),
    ({'reg_type': 'l1'}, 'reg_type must be one of group_lasso'),
    ({'reg_type': 'group_lasso'}, 'its strength, under one.*reg_coeff: 0.001'),
    ({'prune_type': 'gradient_sensitivity', 'parameters': {
        'target': 8, 'normalize': True, 'stride': 64, 'transpose': False,
        'importance_inputs': ['head_mask'], 'importance_metric': 'x'}},
     r'jaxsparse\.units\.sensitivity\(loss_fn.*jaxsparse\.units\.prune_units'),
    ({'pattern': '5:4'}, 'got 5'), ({'pattern': '4:4'}, 'got 4'),
    ({'pattern': 'tile'}, 'pattern must'),
    ({'pattern': '2:4', 'target_sparsity': .9}, 'sparsity is 0.9'),
    ({'target_sparsity': 90}, r'pruners\[0\].target_sparsity.*got 90'),
    ({'end_step': 2.5}, r'pruners\[0\].end_step must be a whole number'),
    ({'names': 3}, r'pruners\[0\].names must be a regular expression')],
                         ids=str)
def test_what_is_wrong_in_a_pruner_is_an_error(pruner, told):
  with pytest.raises(ValueError, match=f'(?s){told}'):
    _one(**pruner)


@pytest.mark.parametrize('config, told', [
    ({'aproach': {}}, "pruning has no key 'aproach'.*'approach'"),
    ({}, 'pruning.approach must be a mapping'),
    ({'approach': {'weight_compresion': {}}}, "'weight_compression'"),
    ({'approach': {}}, 'must have one section'),
    ({'approach': {'weight_compression_pytorch': {'pruner': []}}},
     "weight_compression_pytorch has no key 'pruner'.*'pruners'"),
    ({'approach': {'weight_compression': {'end_epochs': 3}}}, "'end_epoch'"),
    ({'approach': {'weight_compression': {'pruners': ['a']}}},
     r'pruners\[0\] must be a mapping')], ids=str)
def test_what_is_wrong_around_pruners_is_an_error(config, told):
  with pytest.raises(ValueError, match=f'(?s){told}'):
    building.from_recipe(
        {'pruning': config}, total_steps=100, steps_per_epoch=10)


def test_a_misspelt_pruning_section_is_an_error():
  with pytest.raises(ValueError, match="no key 'pruing'"):
    building.from_recipe({'pruing': {}}, total_steps=10)


def test_pruners_for_the_same_parameters_are_an_error():
  with pytest.raises(ValueError, match='appears twice'):
    building.from_recipe(
        _config({}, {'prune_type': 'magnitude'}), total_steps=100)


def test_defaults_of_both_sections_are_those_of_there():
  made = building.from_recipe({'pruning': {'approach': {
      'weight_compression': {}}}}, total_steps=100, steps_per_epoch=20)
  want = dict(start=0, end=80, frequency=20, sparsity=.97, max_sparsity=.98,
              scope='global', pattern='unstructured', names=['.*kernel'])
  assert {key: made.recipe[key] for key in want} == want
  recipe, _ = _one()
  want = dict(start=0, end=50, frequency=1, decay='exponential', pattern='4x1',
              criterion={'snip_momentum': {'decay': .9, 'scale': 1.}})
  assert {key: recipe[key] for key in want} == want


def test_once_by_gradients_is_at_the_first_that_there_are():
  recipe, messages = _one(end_step=0)
  assert (recipe['start'], recipe['end'], recipe['decay']) == (1, 1, 'one_shot')
  assert 'prunes at step 1, not at step 0' in messages
  recipe, messages = _one(initial_sparsity=.1, update_frequency_on_step=10)
  assert (recipe['start'], recipe['end']) == (1, 50)
  assert 'prunes at step 1, not at step 0' in messages
