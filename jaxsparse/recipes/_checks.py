"""Checks of values, and levels, the mappings that a recipe is made of."""

import dataclasses
import difflib
import re
from typing import Any, Callable, Collection, Mapping, NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Check:
  """The values that a key takes, and the error for all others.

  Attributes:
    takes: whether a value is one of them.
    make: turns such a value into that of the recipe.
    expected: the values in words.
    write: an example, or a function that makes one of a wrong value.
    words: the values, if they are words.
  """
  takes: Callable[[Any], bool]
  make: Callable[[Any], Any]
  expected: str
  write: str | Callable[[Any], str]
  words: Collection[str] = ()

  def __call__(self, where: str, value: Any) -> Any:
    if self.takes(value):
      return self.make(value)
    write = self.write(value) if callable(self.write) else self.write
    raise ValueError(
        f'{where} must be {self.expected}, got {value!r:.80}. Write e.g. '
        f'{where.split(".")[-1]}: {write}')


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
  """Whether a value is a whole number, of Python or of numpy."""
  return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _are(values: Any, kind: type) -> bool:
  """Whether several values are all of a kind, of which a bool is none."""
  return isinstance(values, (list, tuple)) and all(
      isinstance(value, kind) and not isinstance(value, bool)
      for value in values)


def whole(least: int, write: str) -> Check:
  return Check(lambda value: is_whole(value) and value >= least, int,
               f'a whole number of steps from {least} up', write)


def one_of(words: Collection[str]) -> Check:
  def nearest(value):
    return [*difflib.get_close_matches(str(value), words, n=1), *words][0]
  return Check(lambda value: value in [*words], str,
               f'one of {", ".join(words)}', nearest, words)


flag = Check(
    lambda value: isinstance(value, bool), bool, 'true or false', 'true')
number = Check(
    lambda value: _is_number(value) and value >= 0, float,
    'a number of 0 or more (YAML reads 1e-4 without a point as text)', '1.0e-4')
fraction = Check(
    lambda value: _is_number(value) and 0 <= value <= 1, float,
    'the fraction pruned, a number in [0, 1]', lambda value: str(
        value / 100 if _is_number(value) and 1 < value <= 100 else .9))
regexes = Check(
    lambda value: isinstance(value, str) or _are(value, str),
    lambda value: [value] if isinstance(value, str) else [*value],
    'a regular expression for whole paths, or a list of them', '[".*kernel"]')
axis = Check(
    lambda value: _are([value], int) or _are(value, int) and len(value) > 0,
    lambda value: value if isinstance(value, int) else [*value],
    'the contraction axis, or neighbouring ones that are contracted together, '
    'from the end', '[-3, -2]')


def sides(pattern: str) -> tuple[str, tuple[int, int]] | None:
  """The sides of `'4x1'` or `'2:4'`, with what stands between them.

  >>> sides('4x1'), sides('2:4'), sides('channel')
  (('x', (4, 1)), (':', (2, 4)), None)
  """
  found = re.fullmatch(r'([1-9]\d*)([x:])([1-9]\d*)', pattern)
  return found and (found[2], (int(found[1]), int(found[3])))


def nm_sparsity(pattern: str) -> float | None:
  """The sparsity that a pattern brings itself, if it is N:M.

  >>> nm_sparsity('1:4'), nm_sparsity('4x1')
  (0.75, None)
  """
  kind, (n, m) = sides(pattern) or ('', (0, 0))
  return 1 - n / m if kind == ':' else None


def pattern(words: Collection[str]) -> Check:
  def takes(value):
    return isinstance(value, str) and (value in words or (
        sides(value) is not None and (nm_sparsity(value) or 0) >= 0))
  return Check(
      takes, str, f'one of {", ".join(words)}, blocks such as 4x1 (outputs x '
      "inputs), or '2:4', which keeps 2 of every 4 (in quotes: YAML reads 2:4 "
      'as 124)', "'2:4'", words)


def check_keys(where: str, mapping: Any, known: Collection[str]) -> None:
  """Raises a `ValueError` that says which key was meant."""
  if not isinstance(mapping, Mapping):
    raise ValueError(
        f'{where or "A recipe"} is a mapping of keys to values, got '
        f'{mapping!r:.80}. Its keys are {", ".join(known)}.')
  for key in mapping:
    if key not in known:
      near = difflib.get_close_matches(str(key), known, n=1, cutoff=.75) or [
          name for name in known if name in str(key).split('_')]
      meant = f'Did you mean {near[0]!r}? ' if near else ''
      raise ValueError(
          f'{where or "the recipe"} has no key {key!r}. {meant}'
          f'Its keys are {", ".join(known)}.')


class Key(NamedTuple):
  """A key of a level.

  Attributes:
    check: makes of a value's place and the value that of the recipe, or raises.
    default: as in a file, or a function of the recipe and `total_steps`.
    text: what the key holds.
    otherwise: the default in words, where it does not speak for itself.
  """
  check: Callable[[str, Any], Any]
  default: Any
  text: str
  otherwise: str


def key(check: Callable[[str, Any], Any], default: Any, text: str,
        otherwise: str = '') -> Any:
  """A field of a `Level`, whose name is the key's."""
  return dataclasses.field(
      metadata={'key': Key(check, default, text, otherwise)})


@dataclasses.dataclass(frozen=True)
class Level:
  """A mapping in a recipe, whose keys are fields made by `key`."""

  @classmethod
  def keys(cls) -> dict[str, Key]:
    """Every key by its name."""
    return {field.name: field.metadata['key']
            for field in dataclasses.fields(cls)}

  @classmethod
  def read(cls, where: str, given: Any) -> dict[str, Any]:
    """What is given, each value checked; null is as good as nothing."""
    keys, prefix = cls.keys(), f'{where}.' if where else ''
    check_keys(where, given, keys)
    return {name: keys[name].check(prefix + name, value)
            for name, value in given.items() if value is not None}

  @classmethod
  def fill(cls, given: Mapping[str, Any], total_steps: int | None = None,
           around: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every key, with the value that is given or its default.

    A default that is a function sees the values of this level and of those
    `around` it, of other functions only the ones before; without `total_steps`
    it is not called.
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
  """The check for options, or true for their defaults, or false."""
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
  """The check for a word of a table, or `{word: options}`, which it becomes."""
  words: Mapping[str, Any]
  or_false: bool = False

  @property
  def levels(self) -> dict[str, type[Level]]:
    """The levels of options below a key."""
    return {f'{word}.': row.options for word, row in self.words.items()}

  def __call__(self, where: str, value: Any) -> bool | dict[str, Any]:
    if self.or_false and value is False:
      return False
    word, options = (next(iter(value.items())) if isinstance(value, Mapping)
                     and len(value) == 1 else (value, None))
    one_of(self.words)(where, word)
    level = self.words[word].options
    return {word: level.fill(level.read(
        f'{where}.{word}', {} if options is None else options))}
