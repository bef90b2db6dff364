"""Checks of values, and the levels of a recipe: mappings with known keys."""

import dataclasses
import functools
import inspect
import re
from typing import Any, Callable, Collection, Mapping, NamedTuple

from jaxsparse import patterns
from jaxsparse._utils import arguments
from jaxsparse._utils.tables import brief

_Check = functools.partial(arguments.Check, joint=': ')


def _are(values: Any, takes: Callable[[Any], bool]) -> bool:
  return isinstance(values, (list, tuple)) and all(map(takes, values))


def _is_regex(value: Any) -> bool:
  if not isinstance(value, str):
    return False
  try:
    re.compile(value)
  except (re.error, OverflowError, RecursionError, ValueError):
    return False
  return True


def _is_axis(value: Any) -> bool:
  return arguments.is_whole(value) and abs(value) < _MOST_AXES


_MOST_AXES = 64


def whole(least: int, write: str) -> arguments.Check:
  """The check for whole numbers of steps; a recipe holds no arrays."""
  return _Check(
      lambda value: arguments.is_whole(value) and least <= value < 2**31,
      f'a whole number of steps from {least} up, below 2**31', write, int)


def one_of(words: Collection[str]) -> arguments.Check:
  """The check for a word of a list; an error suggests the nearest word."""
  return dataclasses.replace(
      arguments.one_of(words), make=str, joint=': ',
      write=lambda value: [*arguments.nearest(value, words), *words][0])


flag = _Check(
    lambda value: isinstance(value, bool), 'true or false', 'true', bool)
number = _Check(
    lambda value: arguments.is_number(value) and value >= 0,
    'a number of 0 or more (YAML reads 1e-4 without a point as text)', '1.0e-4',
    float)
fraction = dataclasses.replace(
    patterns.SPARSITY, takes=lambda value: (
        arguments.is_number(value) and 0 <= value <= 1),
    make=float, joint=': ')
regexes = _Check(
    lambda value: _is_regex(value) or _are(value, _is_regex),
    'a regular expression for whole paths, or a list of them', '[".*kernel"]',
    lambda value: [value] if isinstance(value, str) else [*value])
axis = _Check(
    lambda value: _is_axis(value) or _are(value, _is_axis) and len(value) > 0,
    'the contraction axis, or neighbouring ones that are contracted together, '
    'from the end', '[-3, -2]', lambda value: (
        [*map(int, value)] if isinstance(value, (list, tuple)) else int(value)))
text = _Check(lambda value: isinstance(value, str), 'a text', "'4x1'", str)
mapping = _Check(lambda value: isinstance(value, Mapping),
                 'a mapping of keys to values', '{reg_coeff: 1.0e-3}', dict)
layers = _Check(
    lambda value: isinstance(value, (list, tuple)),
    'a list of mappings with names and what is other there',
    '[{names: head/kernel, sparsity: 0.5}]', list)
total_steps = dataclasses.replace(
    whole(1, '10_000'), joint='=',
    expected='how many updates training makes, a whole number from 1 up, below '
    '2**31')


def sides(pattern: str) -> tuple[str, tuple[int, int]] | None:
  """The separator and the two numbers of a pattern such as `'4x1'` or `'2:4'`.

  >>> sides('4x1'), sides('2:4'), sides('channel')
  (('x', (4, 1)), (':', (2, 4)), None)
  """
  found = re.fullmatch(r'([1-9][0-9]{0,8})([x:])([1-9][0-9]{0,8})', pattern)
  return found and (found[2], (int(found[1]), int(found[3])))


def nm_sparsity(pattern: str) -> float | None:
  """The sparsity of an N:M pattern, or `None` for other patterns.

  >>> nm_sparsity('1:4'), nm_sparsity('4x1')
  (0.75, None)
  """
  kind, (n, m) = sides(pattern) or ('', (0, 0))
  return 1 - n / m if kind == ':' else None


def pattern(words: Collection[str]) -> arguments.Check:
  """The check for patterns: words, blocks or N:M."""
  def takes(value):
    return isinstance(value, str) and (value in words or (
        sides(value) is not None and (nm_sparsity(value) or 0) >= 0))
  return _Check(
      takes, f'one of {", ".join(words)}, blocks such as 4x1 (outputs x '
      "inputs), or '2:4', which keeps 2 of every 4 (in quotes: YAML reads 2:4 "
      'as 124)', "'2:4'", str, words)


def check_keys(where: str, mapping: Any, known: Collection[str]) -> None:
  """Raises a `ValueError` for an unknown key, and suggests the nearest one."""
  if not isinstance(mapping, Mapping):
    raise ValueError(
        f'{where or "A recipe"} must be a mapping of keys to values, got '
        f'{brief(mapping)}. Its keys are {", ".join(known)}.')
  for key in mapping:
    if key not in known:
      near = arguments.nearest(key, known, .75) or [
          name for name in known if name in brief(key).strip("'").split('_')]
      meant = f'Did you mean {near[0]!r}? ' if near else ''
      raise ValueError(
          f'{where or "the recipe"} has no key {brief(key)}. {meant}' + (
              f'Its keys are {", ".join(known)}.' if known else
              'It has none at all.'))


class Key(NamedTuple):
  """A key of a level.

  Attributes:
    check: a function from the place of a value and the value to the value in
      the recipe; it raises for a wrong value.
    default: the default as written in a file, or a function of the recipe and
      `total_steps` that computes it.
    text: a description of the key.
    otherwise: a description of the default, if its value needs one.
  """
  check: Callable[[str, Any], Any]
  default: Any
  text: str
  otherwise: str


def key(check: Callable[[str, Any], Any], default: Any, text: str,
        otherwise: str = '') -> Any:
  """A field of a `Level`; the name of the field is the key."""
  return dataclasses.field(
      metadata={'key': Key(check, default, text, otherwise)})


@dataclasses.dataclass(frozen=True)
class Level:
  """A mapping in a recipe; its keys are the fields, which are made by `key`."""

  @classmethod
  def keys(cls) -> dict[str, Key]:
    """Every key by its name."""
    return {field.name: field.metadata['key']
            for field in dataclasses.fields(cls)}

  @classmethod
  def read(cls, where: str, given: Any) -> dict[str, Any]:
    """The given keys, each value checked; a key with null counts as absent."""
    keys, prefix = cls.keys(), f'{where}.' if where else ''
    check_keys(where, given, keys)
    return {name: keys[name].check(prefix + name, value)
            for name, value in given.items() if value is not None}

  @classmethod
  def fill(cls, given: Mapping[str, Any], total_steps: int | None = None,
           around: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every key, with the given value or its default.

    A default that is a function receives the values of this level, of the
    levels `around` it, and of the function defaults before it. Without
    `total_steps` the function is not called.
    """
    keys = cls.keys()
    filled = {name: given.get(name) for name in keys}
    for name, (check, default, *_) in keys.items():
      if filled[name] is None and not (default is None or callable(default)):
        filled[name] = check(name, default)
    for name, (_, default, *_) in keys.items():
      if filled[name] is None and callable(default) and total_steps:
        filled[name] = default({**(around or {}), **filled}, total_steps)
    return filled

  def check(self, where: str, total_steps: int) -> None:
    """Raises a `ValueError` for values that do not fit together."""


@dataclasses.dataclass(frozen=True)
class Options:
  """The check for options: a mapping, true for all defaults, or false."""
  level: type[Level]

  @property
  def levels(self) -> dict[str, type[Level]]:
    """The levels of options below a key."""
    return {'': self.level}

  def __call__(self, where: str, value: Any) -> bool | dict[str, Any]:
    return value is not False and self.level.fill(
        self.level.read(where, {} if value is True else value))


@dataclasses.dataclass(frozen=True)
class Word:
  """The check for a word of a table, or `{word: options}`; makes the latter."""
  words: Mapping[str, Any]
  or_false: bool = False

  @property
  def levels(self) -> dict[str, type[Level]]:
    """The levels of options below a key."""
    return {f'{word}.': row.options for word, row in self.words.items()}

  def __call__(self, where: str, value: Any) -> bool | dict[str, Any]:
    if self.or_false and value is False:
      return False
    word, options = _word(value)
    one_of(self.words)(where, word)
    level = self.words[word].options
    return {word: level.fill(level.read(
        f'{where}.{word}', {} if options is None else options))}


def _word(value: Any) -> tuple[Any, Any]:
  """A word and its options, or `None`."""
  return (next(iter(value.items())) if isinstance(value, Mapping)
          and len(value) == 1 else (value, None))


def _of_python(value: Any) -> Any:
  """A number of numpy as one of Python, which files can hold."""
  return value.item() if hasattr(value, 'item') else value


plain = _Check(
    lambda value: value is None or isinstance(value, (bool, str))
    or arguments.is_number(value) or _are(value, arguments.is_number),
    'a number, a word, true, false or a list of numbers', '100',
    lambda value: [*map(_of_python, value)] if isinstance(
        value, (list, tuple)) else _of_python(value))


@dataclasses.dataclass(frozen=True)
class Call:
  """The check for a function's name, or `{name: arguments}`, which it becomes.

  Options are the arguments that the function takes by name alone. It checks
  their values itself, when it is called.
  """
  words: Mapping[str, Callable[..., Any]]

  def __call__(self, where: str, value: Any) -> dict[str, Any]:
    word, options = _word(value)
    one_of(self.words)(where, word)
    where, options = f'{where}.{word}', {} if options is None else options
    known = {p.name: plain(where, p.default) for p in inspect.signature(
        self.words[word]).parameters.values() if p.kind is p.KEYWORD_ONLY}
    check_keys(where, options, known)
    return {word: known | {
        name: plain(f'{where}.{name}', given)
        for name, given in options.items() if given is not None}}
