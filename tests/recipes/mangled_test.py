"""However a recipe is mangled, a short error names the key.

Recipes are changed at each of their places, by values and keys that are none.
What is asked of each: that it is read as it was meant, or is a `ValueError`, no
longer than a few lines, with the key in it; `files_test` has the files.
"""

import copy
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsparse.recipes import from_recipe
from tests._lib.deep import deep

_LONGEST = 1_500  # Characters of a message.
_RECIPES = [
    {'sparsity': .9, 'pattern': '4x1', 'criterion': 'snip_momentum',
     'scope': 'global', 'max_sparsity': .98, 'start': 100, 'end': 700,
     'excluded': 'head/kernel', 'initial_sparsity': .1, 'frequency': 10,
     'decay': 'cubic', 'score_dtype': 'float32', 'reduce': 'sum',
     'min_sparsity': 0., 'names': ['.*kernel'], 'flow': {'hard': {}},
     'progressive': False, 'lock': False,
     'regularizer': {'group_lasso': {'alpha': 1e-4}}},
    {'pattern': '2:4', 'axis': -2,
     'flow': {'sr_ste': {'decay': 2e-4, 'decoupled': False}}},
    {'sparsity': .9, 'progressive': {'steps': 2, 'every': 2},
     'layers': [{'names': 'a/kernel', 'sparsity': .5, 'criterion': 'snip'}],
     'flow': {'mdgf': {'fade': 'linear', 'start': 10, 'end': 20,
                       'straight_through': True}}},
    {'sparsity': .9, 'scope': 'erk', 'names': ['.*kernel'], 'method': {
        'rigl': {'every': 10, 'fraction': .3, 'end': 700, 'seed': 1,
                 'replace_step': False}}},
    {'pruning': {'approach': {'weight_compression_pytorch': {
        'start_step': 0, 'end_step': 100, 'update_frequency_on_step': 10,
        'excluded_names': ['head'], 'pruners': [
            {'pattern': '4x1', 'target_sparsity': .5, 'names': ['.*'],
             'prune_type': 'snip_momentum', 'prune_domain': 'global',
             'sparsity_decay_type': 'cube', 'reg_type': 'group_lasso',
             'parameters': {'reg_coeff': 1e-3}, 'reduce_type': 'sum'}]}}}},
]
_IDS = ['hard', 'nm', 'mdgf', 'method', 'nc']


def _cycle():
  own = {}
  own['own'] = own
  return own


_WRONG = [
    math.nan, math.inf, -math.inf, -1, -.5, 1e30, 10**30, 10**400, 'abc', '',
    [], {}, [None], {'x': 1}, True, b'x', object(), np.array([1, 2]),
    np.float32(.5), np.array(math.nan), (1, 2), set(), 2 + 3j, len, deep(3),
    deep(5_000), {'a': {'b': {'c': 1}}}, 1.5, '2020-01-01', float, _cycle(),
    'x' * 10**6, ['x'] * 10**5, '(', '9' * 500 + 'x1', '(' * 10**4, [['(']]]


def _places(value, before=()):
  """Every place of a recipe, as its keys and indices."""
  for key, inside in (value.items() if isinstance(value, dict)
                      else enumerate(value)):
    yield (*before, key)
    if isinstance(inside, (dict, list)):
      yield from _places(inside, (*before, key))


def _at(recipe, place):
  for key in place:
    recipe = recipe[key]
  return recipe


def _put(recipe, place, value):
  recipe = copy.deepcopy(recipe)
  _at(recipe, place[:-1])[place[-1]] = value
  return recipe


def _misspelt(recipe, place, rng):
  recipe = copy.deepcopy(recipe)
  level, key = _at(recipe, place[:-1]), place[-1]
  i = rng.randrange(len(key))
  wrong = rng.choice([key[:i] + key[i + 1:], key[:i] + 'q' + key[i:],
                      key.upper() + 'S', f'{key} ', f'{key}-x', '\0', key * 99])
  level[wrong] = level.pop(key)
  return recipe


def _values(recipe):
  return [(place, _put(recipe, place, wrong))
          for place in _places(recipe) for wrong in _WRONG]


def _keys(recipe, times):
  rng = random.Random(0)
  return [(place, _misspelt(recipe, place, rng))
          for place in _places(recipe) if isinstance(place[-1], str)
          for _ in range(times)]


def _error(recipe, **options):
  """The message about a recipe, or `None` if it makes masks."""
  params = {'a': {'kernel': jnp.arange(64.).reshape(8, 8) + 1},
            'head': {'kernel': jnp.ones((8, 8))}}
  try:
    made = from_recipe(recipe, **{
        'total_steps': 1_000, 'steps_per_epoch': 10, **options})
    jax.eval_shape(made.sparsify(optax.sgd(.1)).init, params)
  except ValueError as error:
    assert type(error) is ValueError
    assert len(str(error)) < _LONGEST
    return str(error)
  return None


def _is_told(mutants):
  """How many are refused; each message has a key of the place."""
  told = 0
  for place, recipe in mutants:
    message = _error(recipe)
    told += message is not None
    keys = [str(key) for key in place if isinstance(key, str)]
    assert message is None or any(key in message for key in (
        *keys, 'in_names', 'recipe', 'matches no parameter', 'group_lasso')), (
            place, message)
  return told


def _sample(mutants, n):
  return random.Random(1).sample(mutants, min(n, len(mutants)))


@pytest.mark.parametrize('recipe', _RECIPES, ids=_IDS)
def test_what_was_changed_is_as_it_was_before(recipe):
  assert _error(recipe) is None


@pytest.mark.parametrize('recipe', _RECIPES, ids=_IDS)
def test_a_wrong_value_is_told(recipe):
  assert _is_told(_sample(_values(recipe), 60)) > 30


@pytest.mark.parametrize('recipe', _RECIPES, ids=_IDS)
def test_a_wrong_key_is_told(recipe):
  mutants = _sample(_keys(recipe, 2), 20)
  assert _is_told(mutants) == len(mutants)


@pytest.mark.slow
def test_each_wrong_value_at_each_place_is_told():
  mutants = [x for recipe in _RECIPES for x in _values(recipe)]
  assert len(mutants) > 1_500
  assert _is_told(mutants) > .75 * len(mutants)


@pytest.mark.slow
def test_each_wrong_key_at_each_place_is_told():
  mutants = [x for recipe in _RECIPES for x in _keys(recipe, 5)]
  assert len(mutants) > 200
  assert _is_told(mutants) == len(mutants)


@pytest.mark.parametrize('key', [
    None, 1, 1.5, True, ('a',), b'sparsity', math.nan, 'x' * 10**6], ids=type)
def test_a_key_that_is_no_word_is_told(key):
  assert 'has no key' in _error({'sparsity': .9, key: 1})


@pytest.mark.parametrize('recipe', [
    None, 5, 5., [], [{}], (), b'x', object(), set(), np.zeros(3), math.nan,
    len, _cycle()], ids=type)
def test_what_is_no_recipe_is_told(recipe):
  assert 'recipe' in _error(recipe)


_WRONG_NUMBERS = [0, -1, 1.5, 'a', math.nan, True, [], {}, 10**12, 10**30,
                  2**31, np.array([1, 2]), object()]


@pytest.mark.parametrize('steps', [*_WRONG_NUMBERS, None], ids=type)
def test_a_wrong_number_of_steps_is_told(steps):
  assert 'total_steps' in _error({'sparsity': .9}, total_steps=steps)


@pytest.mark.parametrize('steps', _WRONG_NUMBERS, ids=type)
def test_a_wrong_number_of_steps_per_epoch_is_told(steps):
  assert 'steps_per_epoch' in _error({'sparsity': .9}, steps_per_epoch=steps)


@pytest.mark.parametrize('exclude', [
    None, 5, [5], [None], {'a': 1}, '(', ['('], object(), 'a{99999999999}'],
                         ids=type)
def test_a_wrong_exclude_is_told(exclude):
  assert 'exclude' in _error({'sparsity': .9}, exclude=exclude)
