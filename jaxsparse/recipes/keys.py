"""The keys of a recipe, and what each may hold.

`read` checks one level of a recipe, a mapping as it comes from YAML or JSON;
`recipe_files` has the table of the keys.
"""

import difflib
import re
from typing import Any, Callable, Mapping, Sequence

import numpy as np

Check = Callable[[str, Any], Any]

# What a layer may change under the sparsity it shares with all others,
SHARED = ('pattern', 'axis', 'sparsity', 'min_sparsity', 'max_sparsity',
          'reduce')
# and what makes its rule another one.
OWN = ('initial_sparsity', 'start', 'end', 'frequency', 'decay', 'criterion',
       'score_dtype', 'scope', 'progressive', 'lock', 'regularizer')


def check_keys(where: str, mapping: Any, known: Sequence[str]) -> None:
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


def _wrong(where: str, value: Any, expected: str, write: str) -> ValueError:
  return ValueError(f'{where} must be {expected}, got {value!r:.80}. Write '
                    f'e.g. {where.split(".")[-1]}: {write}')


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
  return (isinstance(value, (int, np.integer))
          and not isinstance(value, bool))


def _fraction(where: str, value: Any) -> float:
  if not _is_number(value) or not 0 <= value <= 1:
    percent = _is_number(value) and 1 < value <= 100
    raise _wrong(where, value, 'the fraction pruned, a number in [0, 1]',
                 f'{value / 100 if percent else 0.9}')
  return float(value)


def number(where: str, value: Any) -> float:
  if not _is_number(value) or not value >= 0:
    raise _wrong(where, value, 'a number of 0 or more (YAML reads 1e-4 without '
                 'a point as text)', '1.0e-4')
  return float(value)


def _whole(least: int, write: str) -> Check:
  def check(where, value):
    if not is_whole(value) or value < least:
      raise _wrong(where, value, f'a whole number of steps from {least} up',
                   write)
    return int(value)
  return check


def _flag(where: str, value: Any) -> bool:
  if not isinstance(value, bool):
    raise _wrong(where, value, 'true or false', 'true')
  return value


def one_of(*choices: str) -> Check:
  def check(where, value):
    if value not in choices:
      near = difflib.get_close_matches(str(value), choices, n=1)
      raise _wrong(where, value, f'one of {", ".join(choices)}',
                   (near or choices)[0])
    return value
  return check


def _regexes(where: str, value: Any) -> list[str]:
  regexes = [value] if isinstance(value, str) else value
  if not isinstance(regexes, (list, tuple)) or not all(
      isinstance(regex, str) for regex in regexes):
    raise _wrong(where, value, 'a regular expression for whole paths, or a '
                 'list of them', '[".*kernel"]')
  return list(regexes)


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


def _pattern(where: str, value: Any) -> str:
  known = ('unstructured', 'channel', '1xchannel', 'channelx1')
  if isinstance(value, str) and (value in known or sides(value)):
    if nm_sparsity(value) is None or nm_sparsity(value) >= 0:
      return value
  raise _wrong(
      where, value, f'one of {", ".join(known)}, blocks such as 4x1 (outputs x '
      "inputs), or '2:4', which keeps 2 of every 4 (in quotes: YAML reads 2:4 "
      'as 124)', "'2:4'")


def _axis(where: str, value: Any) -> int | list[int]:
  axes = [value] if isinstance(value, int) else value
  if not isinstance(axes, (list, tuple)) or not axes or not all(
      type(axis) is int for axis in axes):
    raise _wrong(where, value, 'the contraction axis, or neighbouring ones '
                 'that are contracted together, from the end', '[-3, -2]')
  return value if isinstance(value, int) else list(axes)


def _named(**choices: dict[str, tuple[Check, Any]]) -> Check:
  """A name, or `{name: options}`; becomes the latter with all options."""
  def check(where, value):
    name, options = (next(iter(value.items())) if isinstance(value, Mapping)
                     and len(value) == 1 else (value, None))
    one_of(*choices)(where, name)
    return {name: _options(f'{where}.{name}', {} if options is None else
                           options, choices[name])}
  return check


def _options(where: str, given: Any, known: Mapping[str, tuple[Check, Any]]
             ) -> dict[str, Any]:
  check_keys(where, given, [*known])
  return {key: default if given.get(key) is None else check(
      f'{where}.{key}', given[key]) for key, (check, default) in known.items()}


def _progressive(where: str, value: Any) -> bool | dict[str, int]:
  if value is False:
    return False
  options = {'steps': (_whole(1, '4'), 4), 'every': (_whole(1, '25'), None)}
  return _options(where, {} if value is True else value, options)


def _regularizer(where: str, value: Any) -> bool | dict[str, Any]:
  return False if value is False else _named(group_lasso={
      'alpha': (number, None),
      'form': (one_of('gradient', 'proximal'), 'gradient'),
      'learning_rate': (number, None),
      'scaled': (_flag, False)})(where, value)


def _layers(where: str, value: Any) -> list[Mapping[str, Any]]:
  if not isinstance(value, (list, tuple)):
    raise _wrong(where, value, 'a list of mappings with names and what is '
                 'other there', '[{names: head/kernel, sparsity: 0.5}]')
  return [read(f'{where}[{i}]', layer, ('names', *SHARED, *OWN))
          for i, layer in enumerate(value)]


_STEP = _whole(0, '1000')
CHECKS: dict[str, Check] = {
    'sparsity': _fraction,
    'initial_sparsity': _fraction,
    'start': _STEP,
    'end': _STEP,
    'frequency': _whole(1, '100'),
    'decay': one_of(
        'one_shot', 'linear', 'cubic', 'cosine', 'cube', 'exponential'),
    'criterion': _named(magnitude={}, snip={}, gradient={}, snip_momentum={
        'decay': (number, 1.), 'scale': (number, .9)}),
    'score_dtype': one_of('float32', 'bfloat16'),
    'pattern': _pattern,
    'axis': _axis,
    'reduce': one_of('sum', 'mean', 'max'),
    'scope': one_of('uniform', 'global', 'erk', 'er'),
    'min_sparsity': _fraction,
    'max_sparsity': _fraction,
    'names': _regexes,
    'excluded': _regexes,
    'layers': _layers,
    'flow': _named(
        hard={}, ste={},
        sr_ste={'decay': (number, 2e-4), 'decoupled': (_flag, False)},
        mdgf={'fade': (one_of('linear', 'exponential', 'cosine'), 'linear'),
              'start': (_STEP, None), 'end': (_STEP, None),
              'straight_through': (_flag, True)}),
    'progressive': _progressive,
    'lock': _flag,
    'regularizer': _regularizer,
}


def read(where: str, mapping: Any, known: Sequence[str]) -> dict[str, Any]:
  """What a mapping gives, each value checked; null is as good as nothing.

  >>> read('', {'names': '.*kernel', 'end': None}, [*CHECKS])
  {'names': ['.*kernel']}
  """
  check_keys(where, mapping, known)
  prefix = f'{where}.' if where else ''
  return {key: CHECKS[key](prefix + key, value)
          for key, value in mapping.items() if value is not None}
