"""Checks of single values, and levels: what is read and what is filled in."""

import dataclasses

import pytest

from jaxsparse.recipes import _checks


@dataclasses.dataclass(frozen=True)
class _Level(_checks.Level):
  first: int = _checks.key(_checks.whole(1, '4'), 4, 'a number')
  names: list[str] = _checks.key(_checks.regexes, 'a', 'a list')
  nothing: float = _checks.key(_checks.number, None, 'nothing')
  later: int = _checks.key(
      _checks.whole(0, '1'), lambda recipe, total_steps: (
          total_steps + recipe['first'] + recipe.get('around', 0)), 'a sum')


def test_sides_are_those_of_blocks_and_groups_alone():
  assert _checks.sides('16x1') == ('x', (16, 1))
  assert _checks.sides('1:16') == (':', (1, 16))
  for text in ('x', '4x', '04x1', '4x1 ', '1xchannel', '-1:4', '4x1x2'):
    assert _checks.sides(text) is None


def test_a_level_is_read_key_by_key():
  assert _Level.read('here', {'first': 2, 'names': None}) == {'first': 2}
  with pytest.raises(ValueError, match=r'here\.first must be a whole number'):
    _Level.read('here', {'first': 0})
  with pytest.raises(ValueError, match=r"no key 'name'. Did you mean 'names'"):
    _Level.read('here', {'name': 'b'})


def test_defaults_are_checked_values_or_functions_of_all_others():
  constant = {'first': 4, 'names': ['a'], 'nothing': None, 'later': None}
  assert _Level.fill({}) == constant
  assert _Level.fill({}, 10) == {**constant, 'later': 14}
  assert _Level.fill({'first': 1, 'other': 3}, 10, {'around': 100}) == {
      **constant, 'first': 1, 'later': 111}
  filled = _Level.fill({'later': 0, 'names': None}, 10)
  assert filled == {**constant, 'later': 0}
  filled['names'].append('b')
  assert _Level.fill({})['names'] == ['a']


def test_options_may_be_true_or_false():
  check = _checks.Options(_Level)
  assert check('here', False) is False
  assert check('here', True) == check('here', {}) == _Level.fill({})
