"""Tables: columns, lines between groups, no spaces at the ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse._utils.tables import brief
from jaxsparse._utils.tables import table


def test_columns_are_as_wide_as_their_widest_cell():
  text = table([('a', 'b')], [('long', 'x'), ('', 'wide')], [('end', '')],
               right=[1])
  assert text.split('\n') == ['a        b', '----  ----', 'long     x',
                              '      wide', '----  ----', 'end']


def test_a_table_may_be_empty_but_for_its_head():
  assert table([('a', 'b')], []) == 'a  b'


def _deep(n):
  value = 1
  for _ in range(n):
    value = [value]
  return value


class _Endless:

  def __repr__(self):
    raise AssertionError('Nobody asks for it.')


@pytest.mark.parametrize('value, text', [
    (None, 'None'), ('a' * 10**7, "'aaa"), (b'a' * 10**7, "b'aaa"),
    (10**10**5, 'an integer of 332193 bits'), (_deep(10**4), '[[[...]]]'),
    ([0] * 10**7, '[0, 0, 0, ...]'), ({}, '{}'), ((1,), '(1,)'),
    (dict.fromkeys(range(10**6), 1), '{0: 1, 1: 1, 2: 1, ...}'),
    (jnp.ones((3, 4)), 'float32[3,4]'), (np.float32(2), '2.0'),
    (_Endless(), 'an object of the class _Endless'), (_deep, 'the function'),
    ([_Endless()] * 3, '[an object of the class _Endless, '),
    (_Endless, 'the class _Endless')], ids=lambda value: type(value).__name__)
def test_any_value_has_a_few_words(value, text):
  assert brief(value).startswith(text)
  assert len(brief(value)) <= 80 and len(brief(value, 30)) <= 30


def test_a_value_within_itself_has_an_end():
  own = []
  own.append(own)
  assert brief(own) == '[[[...]]]'


def test_a_tracer_has_its_shape():
  texts = []
  jax.eval_shape(lambda x: texts.append(brief(x)) or x, jnp.ones((2, 3)))
  assert texts == ['float32[2,3]']
