"""Checks by annotations: what passes, what is told, and what it costs.

Every row of the tables below is a value and whether its annotation has it.
"""

import inspect
import pickle
from typing import Any, Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsparse._utils import arguments


@arguments.checked(n=arguments.whole(1, '7'))
def _function(n: int, *rest: float, name: str = 'a', end: int | None = None,
              **more: Any) -> tuple:
  """A function of this module.

  >>> 1 + 1
  2
  """
  return n, rest, name, end, more


@pytest.mark.parametrize('annotation, right, wrong', [
    (int, [0, -3, np.int64(2), np.array(2), jnp.int32(2)],
     [1., True, '1', None, np.float32(1), np.array([1]), 10**30]),
    (float, [0, .5, np.float32(.5), np.array(.5), jnp.float32(.5)],
     [True, '1', None, float('nan'), np.float32('nan'), float('inf'), 1j,
      10**400, np.array([.5]), np.array(float('nan'))]),
    (bool, [True, False, np.True_], [1, 0, 'no', None]),
    (str, ['', 'a'], [b'a', None, 1]),
    (int | None, [1, None], [1.5, 'a']),
    (float | Callable[[int], float], [.5, len], ['a', None]),
    (jax.Array, [jnp.ones(2), np.ones(2), jax.ShapeDtypeStruct((2,), int)],
     [1., [1.], 'a', None, np.ndarray]),
    (Mapping[str, int], [{}, {'a': 1}], [{1: 1}, {'a': .5}, [('a', 1)], None]),
    (Sequence[int], [[], (1, 2)], [{1}, 'ab', [.5], 1]),
    (tuple[int, ...], [(), (1, 2)], [[1], (.5,)]),
    (Iterable[Any], [[], iter([1]), (x for x in 'ab'), np.ones(2)],
     ['ab', 1, None]),
    (Callable[..., Any], [len, lambda: 0, dict], [None, 1]),
    (optax.GradientTransformation, [optax.sgd(.1), optax.MultiSteps(
        optax.sgd(.1), 2)], [optax.sgd, optax.MultiSteps, None, {}]),
    (jax.typing.DTypeLike | None, [None, 'bfloat16', jnp.float32, float],
     ['abc', object()]),
])
def test_an_annotation_says_what_is_taken(annotation, right, wrong):
  check = arguments.of(annotation)
  for value in right:
    assert check.takes(value), value
  for value in wrong:
    assert not check.takes(value), value
    with pytest.raises(ValueError, match='x must be .*, got '):
      check('f: x', value)


@pytest.mark.parametrize('annotation', [
    Any, inspect.Parameter.empty, object, Any | None, 'a text'])
def test_what_says_nothing_takes_anything(annotation):
  assert arguments.of(annotation) is None


def test_tracers_pass_and_leave_nothing_in_a_program():
  @arguments.checked()
  def twice(x: jax.Array, by: float, n: int) -> jax.Array:
    del n
    return x * by
  plain = jax.make_jaxpr(lambda x, by, n: x * by)(jnp.ones(3), 2., 1)
  assert str(jax.make_jaxpr(twice)(jnp.ones(3), 2., 1)) == str(plain)


def test_a_message_names_function_argument_value_and_an_example():
  with pytest.raises(ValueError) as error:
    _function(0)
  assert str(error.value) == (
      '_function: n must be a whole number of 1 or more, got 0. Write e.g. n=7')
  with pytest.raises(ValueError, match="name must be a text.*e.g. name='a'"):
    _function(1, name=5)
  with pytest.raises(ValueError, match='rest must be a number, got .b.'):
    _function(1, 2., 'b')
  with pytest.raises(ValueError, match='end must be a whole number or None'):
    _function(1, end=.5)


def test_numbers_of_numpy_become_those_of_python():
  n, rest, *_ = _function(np.int64(3), np.float32(.5))
  assert type(n) is int and type(rest[0]) is float


def test_what_is_not_annotated_passes_and_python_tells_of_the_rest():
  assert _function(1, other=object)[-1] == {'other': object}
  with pytest.raises(TypeError, match='missing 1 required positional'):
    _function()


def test_arguments_may_be_left_to_the_function():
  @arguments.checked('n')
  def f(n: int, m: int):
    return n, m
  assert f('a', 1) == ('a', 1)
  with pytest.raises(ValueError, match='m must be'):
    f('a', 'b')


def test_a_checked_function_is_found_as_what_it_is():
  assert _function.__name__ == '_function'
  assert _function.__globals__ is globals()  # As doctest asks.
  assert [*inspect.signature(_function).parameters] == [
      'n', 'rest', 'name', 'end', 'more']
  assert pickle.loads(pickle.dumps(_function)) is _function


def test_the_nearest_word_is_the_example():
  check = arguments.one_of(['uniform', 'global'])
  with pytest.raises(ValueError, match="scope='global'"):
    check('scope', 'globl')
  with pytest.raises(ValueError, match='uniform, global, got an integer'):
    check('scope', 10**5_000)


def test_a_kind_of_a_package_has_its_own_words():
  class Kind:
    pass
  arguments.register(Kind, arguments.instance(Kind, 'of a kind', 'Kind()'))
  with pytest.raises(ValueError, match=r'x must be of a kind.*x=Kind\(\)'):
    arguments.of(Kind)('x', 1)
  assert arguments.of(Kind | None).takes(None)
