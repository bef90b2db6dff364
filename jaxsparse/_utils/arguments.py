"""Checks of arguments, whose errors say what was got, expected, and to write.

A `Check` accepts one kind of values. The decorator `checked` runs the checks
for the annotations of a function before the function, so a wrong argument
raises an error at the call. Packages `register` checks for their own types:

  register(When, function('a function of the step', 'schedules.every(100)'))

Checks read types, numbers and the shapes of arrays, but never the values of an
array on a device. So tracers pass, and no check waits for a device. Only a
`static` check reads an array, because its number must be known while tracing.
"""

import collections.abc
import dataclasses
import difflib
import functools
import inspect
import math
import re
import types
import typing
from typing import Any, Callable, Collection, TypeVar

import jax
import numpy as np
import optax

from jaxsparse._utils.tables import brief

F = TypeVar('F', bound=Callable[..., Any])
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Check:
  """The values that an argument takes, and the error for all others.

  Attributes:
    takes: a function that returns whether a value is accepted.
    expected: a description of accepted values.
    write: an example, or a function from a wrong value to an example; without
      one, the default of the argument is the example.
    make: a function that converts an accepted value for use.
    words: the accepted values, if they are words.
    joint: the separator between name and value in an example.
  """
  takes: Callable[[Any], bool]
  expected: str
  write: str | Callable[[Any], str] = ''
  make: Callable[[Any], Any] = lambda value: value
  words: Collection[str] = ()
  joint: str = '='

  def __call__(self, where: str, value: Any) -> Any:
    if self.takes(value):
      return self.make(value)
    write = self.write(value) if callable(self.write) else self.write
    example = f'{re.split("[.:] *", where)[-1]}{self.joint}{write}'
    traced = ' of a traced function' * isinstance(value, jax.core.Tracer)
    raise ValueError(
        f'{where} must be {self.expected}, got {brief(value)}{traced}.'
        f'{f" Write e.g. {example}" if write else ""}')


def is_whole(value: Any) -> bool:
  """Whether a value is a whole number, of Python or of numpy."""
  return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
  """Whether a value is a real number that a float32 holds, and is finite."""
  if isinstance(value, (float, np.floating)):
    return math.isfinite(value) and abs(float(value)) <= _LARGEST
  return is_whole(value) and abs(int(value)) <= _LARGEST


def may_hold(condition: Any) -> bool:
  """Whether a condition on a number holds, or is traced and cannot be seen.

  With `optax.inject_hyperparams` any hyperparameter may be traced.

  >>> may_hold(0.1 > 0), may_hold(np.float32(-1) > 0)
  (True, False)
  """
  return isinstance(condition, jax.core.Tracer) or bool(condition)


def is_array(value: Any) -> bool:
  """Whether a value is an array, or stands for one while JAX traces."""
  return not isinstance(value, type) and (
      hasattr(value, 'shape') and hasattr(value, 'dtype')
      or hasattr(value, '__jax_array__'))


def _is_scalar(value: Any, kind: Any) -> bool:
  return (is_array(value) and value.shape == ()
          and jax.dtypes.issubdtype(value.dtype, kind)
          and not (isinstance(value, np.ndarray) and value != value))


def _plain(value: Any) -> Any:
  """A number of numpy as one of Python, which promotes no dtype."""
  return value.item() if isinstance(value, np.generic) else value


def _real(value: Any) -> Any:
  """The same, and what int32 cannot hold as a float."""
  value = _plain(value)
  return (float(value) if isinstance(value, int) and abs(value) >= 2**31
          else value)


def whole(least: int | None = None, write: str = '', *, bits: int = 63
          ) -> Check:
  """Whole numbers, or arrays of one; 1.0 is none.

  Args:
    least: the smallest of them, if there is one.
    write: an example.
    bits: the largest number of bits, without the sign bit.
  """
  low, high = -2**bits if least is None else least, 2**bits
  return Check(
      lambda value: is_whole(value) and low <= value < high
      or not isinstance(value, np.generic) and _is_scalar(value, np.integer),
      f'a whole number{"" if least is None else f" of {least} or more"}'
      f'{f", below 2**{bits}" * (bits < 63)}', write, _plain)


def step(least: int | None = None, write: str = '1_000') -> Check:
  """Whole numbers of steps, which are counted as int32."""
  return whole(least, write, bits=31)


def number(least: float = -math.inf, most: float = math.inf,
           expected: str = '', write: str | Callable[[Any], str] = ''
           ) -> Check:
  """Finite numbers in an interval, or arrays of one."""
  bounds = (f'in [{least}, {most}]' if most < math.inf else
            f'of {least} or more' if least > -math.inf else '')
  return Check(
      lambda value: is_number(value) and least <= value <= most
      or not isinstance(value, np.generic) and _is_scalar(value, np.number)
      and not jax.dtypes.issubdtype(value.dtype, np.complexfloating),
      expected or f'a number {bounds}'.strip(), write, _real)


def _read(value: Any) -> Any:
  """The number in an array of one, if it is known."""
  known = is_array(value) and not isinstance(value, jax.core.Tracer)
  return value.item() if known and value.shape == () else value


def static(check: Check) -> Check:
  """What a check takes, as a number of Python; traced arrays are none."""
  return dataclasses.replace(
      check, takes=lambda value: not isinstance(
          value, jax.core.Tracer) and check.takes(_read(value)),
      make=lambda value: check.make(_read(value)))


def nearest(value: Any, words: Collection[str], cutoff: float = .6
            ) -> list[str]:
  """The word that was meant by a wrong one, or nothing."""
  text = value[:80] if isinstance(value, str) else brief(value)
  return difflib.get_close_matches(text, words, n=1, cutoff=cutoff)


def one_of(words: Collection[str]) -> Check:
  """Words, of which the nearest is the example."""
  def write(value):
    return repr([*nearest(value, words), *words][0])
  return Check(
      lambda value: isinstance(value, str) and value in [*words],
      f'one of {", ".join(words)}', write, words=words)


def function(expected: str = 'a function', write: str = '') -> Check:
  """Functions, and all else that can be called."""
  return Check(callable, expected, write)


def any_of(*checks: Check) -> Check:
  """What any of several checks takes; the first says what to write."""
  words = dict.fromkeys(check.expected for check in checks)
  make = next((check.make for check in checks if check.make in (
      _plain, _real)), checks[0].make)
  return Check(lambda value: any(check.takes(value) for check in checks),
               ' or '.join(words), checks[0].write, make)


def or_function(check: Check) -> Check:
  """What a check takes, or a function of the step that makes it."""
  return any_of(check, function('a function of the step'))


def state(kind: Any) -> Check:
  """A named tuple, or a mapping with its fields, as a restored one may be."""
  return Check(
      lambda value: isinstance(value, kind) or isinstance(
          value, collections.abc.Mapping) and {*value} == {*kind._fields},
      f'a {kind.__name__}, or a mapping with its fields')


def instance(kinds: type | tuple[type, ...], expected: str, write: str = ''
             ) -> Check:
  """Objects of one of several classes."""
  return Check(lambda value: isinstance(value, kinds), expected, write)


def _is_transformation(value: Any) -> bool:
  return not isinstance(value, type) and all(
      callable(getattr(value, name, None)) for name in ('init', 'update'))


def transformation(expected: str = 'an optax transformation',
                   write: str = 'optax.adam(1e-3), with its parentheses'
                   ) -> Check:
  """Whatever has the two functions of an optax transformation."""
  return Check(_is_transformation, expected, write)


def _is_dtype(value: Any) -> bool:
  try:
    # numpy has dtypes of objects and texts, too; any class is one of them.
    return value is not None and getattr(
        jax.dtypes.canonicalize_dtype(value), 'kind', 'V') not in 'OSUMm'
  except (TypeError, ValueError):
    return False


NONE = Check(lambda value: value is None, 'None')
# By annotation: those of packages, and those of Python, numpy, jax and optax.
_KINDS: dict[Any, Check] = {
    int: whole(), float: number(),
    bool: Check(lambda value: isinstance(value, (bool, np.bool_))
                or isinstance(value, jax.core.Tracer), 'True or False', 'True'),
    str: instance(str, 'a text'),
    type(None): NONE,
    jax.Array: Check(is_array, 'an array', 'jnp.ones((2, 4))'),
    np.ndarray: Check(is_array, 'an array', 'np.ones((2, 4))'),
    np.dtype: Check(_is_dtype, 'a dtype', 'jnp.bfloat16'),
    optax.GradientTransformation: transformation(),
    optax.GradientTransformationExtraArgs: transformation(),
}


def register(annotation: Any, check: Check) -> None:
  """Says what an annotation takes; unions and `None` are made of their parts.

  Args:
    annotation: a class, or a type such as `Callable[[int], float]`.
    check: the check for all arguments that have it.
  """
  _KINDS[annotation] = check


def of(annotation: Any) -> Check | None:
  """The check for an annotation, or `None` if it takes anything."""
  try:
    if annotation in _KINDS:
      return _KINDS[annotation]
  except TypeError:  # Nothing that is not hashable says what it takes.
    return None
  origin = typing.get_origin(annotation)
  parts = typing.get_args(annotation)
  if origin in (typing.Union, types.UnionType):
    if np.dtype in parts:  # `DTypeLike`, or that or `None`.
      parts = [part for part in parts if part in (np.dtype, type(None))]
    each = [of(part) for part in parts]
    known = [check for check in each if check is not None]
    return any_of(*known) if len(known) == len(each) else None
  if origin is collections.abc.Callable:
    return function()
  if origin in (collections.abc.Mapping, dict):
    return _mapping(*map(of, parts))
  if origin in (collections.abc.Sequence, list):
    return _sequence(of(parts[0]))
  if origin is tuple and parts[1:] == (...,):
    return _sequence(of(parts[0]), tuple)
  if origin is collections.abc.Iterable:
    return Check(lambda value: (hasattr(value, '__iter__')
                                or hasattr(value, '__getitem__'))
                 and not isinstance(
                     value, (str, bytes, type, collections.abc.Mapping))
                 and getattr(value, 'ndim', 1) > 0,
                 'a list, or what a loop can go through', '[batch]')
  if (isinstance(annotation, type) and not origin
      and annotation not in (Any, object, inspect.Parameter.empty)):
    if getattr(annotation, '_is_protocol', False):
      return None
    return instance(annotation, f'a {annotation.__name__}')
  return None


def _entries(check: Check | None, values: Any) -> bool:
  return check is None or all(map(check.takes, values))


def _mapping(keys: Check | None, values: Check | None) -> Check:
  of_what = '' if values is None else f', each {values.expected}'
  return Check(
      lambda value: isinstance(value, collections.abc.Mapping)
      and _entries(keys, value.keys()) and _entries(values, value.values()),
      f'a mapping{of_what}', '')


def _sequence(each: Check | None, kind: Any = collections.abc.Sequence
              ) -> Check:
  of_what = '' if each is None else f', each {each.expected}'
  return Check(
      lambda value: isinstance(value, kind)
      and not isinstance(value, (str, bytes)) and _entries(each, value),
      f'a {"tuple" if kind is tuple else "list"}{of_what}', '')


def checked(*but: str, **checks: Check) -> Callable[[F], F]:
  """Checks the arguments of a function by their annotations.

  A function that JAX traces is checked while it is traced, and never runs with
  the check in it.

  Args:
    *but: names of arguments that the function checks itself.
    **checks: checks that replace those of the annotation. `None` passes if the
      annotation allows it.

  Returns:
    A decorator.

  >>> @checked(n=whole(1, '7'))
  ... def f(n: int, end: int | None = None): return n, end
  >>> f(np.int64(2)), f(3, end=4)
  ((2, None), (3, 4))
  >>> f(0)
  Traceback (most recent call last):
  ValueError: f: n must be a whole number of 1 or more, got 0. Write e.g. n=7
  """
  def decorate(f: F) -> F:
    parameters = inspect.signature(f).parameters
    names, rest = [], None
    for name, parameter in parameters.items():
      if parameter.kind is parameter.VAR_POSITIONAL:
        rest = name
      elif parameter.kind in (parameter.POSITIONAL_ONLY,
                              parameter.POSITIONAL_OR_KEYWORD):
        names.append(name)
    known: dict[str, Check | None] = dict.fromkeys(but)

    def check(name, value):
      if name not in known:  # When it is called: modules have registered then.
        known[name] = _for_argument(checks.get(name), parameters.get(name))
      found = known[name]
      return value if found is None else found(f'{f.__name__}: {name}', value)

    def arguments(args, kwargs):
      if rest is None and len(args) > len(names):
        return args, kwargs  # Python itself says what is too many.
      return ([check(*pair) for pair in zip(names, args)]
              + [check(rest, value) for value in args[len(names):]],
              {name: check(name, value) for name, value in kwargs.items()})

    def call(*args, **kwargs):
      args, kwargs = arguments(args, kwargs)
      return f(*args, **kwargs)
    # With the globals of `f`, by which doctest knows whose function it is.
    wrapped = types.FunctionType(
        call.__code__, inspect.unwrap(f).__globals__, f.__name__, None,
        call.__closure__)
    return typing.cast(F, functools.wraps(f)(wrapped))
  return decorate


def _for_argument(given: Check | None, parameter: inspect.Parameter | None
                  ) -> Check | None:
  """The check for a parameter, `None` for one that is not there or is any."""
  if parameter is None or parameter.kind is parameter.VAR_KEYWORD:
    return None
  check = of(parameter.annotation) if given is None else given
  if check is None:
    return None
  if given is not None and type(None) in typing.get_args(parameter.annotation):
    check = any_of(given, NONE)
  default = parameter.default
  if not check.write and isinstance(default, (bool, int, float, str)):
    check = dataclasses.replace(check, write=repr(default))
  return check
