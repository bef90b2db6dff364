"""`results.jsonl`: what a sweep found, as data.

The first line tells about the sweep: its config, what was tuned, what could not
be built, and its command. Every other line is one run, with its last row of
measurements and, as `curves`, the numbers of all its rows; a line of
`experiments.prune` is one pruned network, without curves. Files that were
written before there was such a first line, or without curves, are read, too.
Files of several machines, or of more seeds, make one.
"""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import itertools
import json
import pathlib
from typing import Any, NamedTuple

import ml_collections

from experiments.records import metrics
from experiments.reporting import tables

FILE = 'results.jsonl'

_HEADER = 'sweep'  # The key by which the first line is known.
_LISTS = ('methods', 'targets', 'seeds')  # Which files may have in part.
_OF_A_MACHINE = frozenset({'data_dir', 'mesh'})  # No part of what was run.
_OF_A_PLACE = ('path', 'environment')
_KEYS = ('method', 'target', 'seed', 'config', 'row')
_DIGITS = 4  # Of the numbers in curves, for pictures.


class Results(NamedTuple):
  """The results of one sweep."""
  config: ml_collections.ConfigDict  # Of the sweep, maybe without its base.
  lines: list[dict[str, Any]]  # One for each run that has ended.
  tuned: tables.Tuned | None = None
  not_built: dict[tuple[str, str | None], str] = {}  # ... -> why not.
  commands: list[str] = []


def runs(results: Results) -> list[tables.Run]:
  """Returns the runs. Rows before the last one have rounded numbers only."""
  return [tables.Run(line['method'], line['target'], line['seed'],
                     _measured(line)) for line in results.lines]


def curves(rows: Sequence[metrics.Row]) -> dict[str, list[float | None]]:
  """Returns the numbers of rows as columns, with four digits.

  >>> curves([{'step': 2, 'loss': 0.12345}, {'step': 4, 'loss': 1, 'auc': 0.9}])
  {'step': [2, 4], 'loss': [0.1235, 1.0], 'auc': [None, 0.9]}
  """
  found = [metrics.numbers(row) for row in rows]
  return {'step': [row['step'] for row in rows], **{
      key: [_rounded(row.get(key)) for row in found]
      for key in dict.fromkeys(itertools.chain(*found))}}


def text(results: Results) -> str:
  """Returns the text of `results.jsonl`."""
  header = {
      _HEADER: json.loads(results.config.to_json()),
      'tuned': results.tuned and results.tuned._asdict(),
      'not_built': [[*key, why] for key, why in results.not_built.items()],
      'commands': results.commands}
  return metrics.text([header, *results.lines])


def read(paths: Sequence[pathlib.Path]) -> Results:
  """Returns the results of one or several `results.jsonl` as one.

  A run that stands in several files, or twice in one, counts once.

  Args:
    paths: the files, whose sweeps may differ in methods, targets and seeds.

  Raises:
    ValueError: if a file holds no runs or is damaged, or files disagree: about
      a run, or about what was to be run.
  """
  found = {str(path): _read(pathlib.Path(path)) for path in paths}
  config = _joined(found)
  lines = _merged(found)
  _check_seeds(lines)
  built = {(line['method'], line['target']) for line in lines}
  rank = {key: {value: i for i, value in enumerate((*config[key], None))}
          for key in _LISTS}
  lines.sort(key=lambda line: (
      rank['seeds'][line['seed']], rank['methods'][line['method']],
      rank['targets'][line['target']]))
  each = [*found.values()]
  return Results(
      config, lines, functools.reduce(_both_tuned, (one.tuned for one in each)),
      {key: why for one in each for key, why in one.not_built.items()
       if key not in built},
      [*dict.fromkeys(itertools.chain(*(one.commands for one in each)))])


def left_out(path: pathlib.Path,
             planned: Collection[tuple[str, str | None, int]]) -> str:
  """Returns a warning if a command will tell less than one before it did.

  Args:
    path: the directory of the results.
    planned: method, target and seed of all that the command will tell.

  Returns:
    A line of text; '' if nothing is left out, or nothing was told before.
  """
  try:
    earlier = read([path / FILE])
  except ValueError:  # There is none, or it is damaged and will be whole again.
    return ''
  others = [line for line in earlier.lines if (
      line['method'], line['target'], line['seed']) not in planned]
  if not others:
    return ''
  again = f', such as: {earlier.commands[-1]}' if earlier.commands else ''
  return (
      f'results and tables in {path} will no more tell {len(others)} of '
      f'{len(earlier.lines)} runs, the first {_name(others[0])} with seed '
      f'{others[0]["seed"]}. The runs stay there: a command that asks for them '
      f'tells them again, and repeats none{again}')


def _rounded(value):
  return value if value is None else float(f'{value:.{_DIGITS}g}')


def _measured(line):
  """The rows of a run; all but the last one as curves have them."""
  columns = line.get('curves', {})
  rows = [
      {key: value for key, value in zip(columns, values) if value is not None}
      for values in zip(*columns.values())]
  return [*rows[:-1], line['row']]


def _read(path):
  if not path.exists():
    raise ValueError(f'there is no {path}. Give the results.jsonl of a sweep')
  lines = metrics.read(path)
  headers = [line for line in lines if _HEADER in line]
  lines = [line for line in lines if _HEADER not in line]
  if not lines:
    raise ValueError(f'{path} must be the results.jsonl of a sweep, with a '
                     'line for each run, but holds no run')
  for i, line in enumerate(lines):
    if missing := [key for key in _KEYS if key not in line]:
      raise ValueError(f'{path} must have runs of a sweep, but its run '
                       f'{i + 1} has no {missing[0]!r}')
  if not headers:
    return Results(_inferred(lines), lines)
  header, *others = headers
  if others:
    raise ValueError(f'{path} must tell about one sweep, but has '
                     f'{len(headers)} lines with {_HEADER!r}. Give the files '
                     'that were put together one by one')
  tuned = header.get('tuned')
  return Results(
      _config(header[_HEADER]), lines, tuned and tables.Tuned(**tuned),
      {(method, target): why for method, target, why in header['not_built']},
      header['commands'])


def _config(settings):
  config = ml_collections.ConfigDict(
      {**settings, **{key: tuple(settings[key]) for key in _LISTS}})
  return config


def _inferred(lines):
  """The lists of a sweep in the order of its runs."""
  return _config({
      'methods': dict.fromkeys(line['method'] for line in lines),
      'targets': dict.fromkeys(
          line['target'] for line in lines if line['target']) or (tables.ALL,),
      'seeds': sorted({line['seed'] for line in lines})})


def _joined(found):
  """The config of all files; what one of them does not tell, others may."""
  joined, owners = {}, {}
  for path, results in found.items():
    for key, value in json.loads(results.config.to_json()).items():
      if key in _LISTS:
        joined[key] = [*dict.fromkeys([*joined.get(key, []), *value])]
        continue
      if key in joined and (difference := _difference(
          key, joined[key], value, free=_OF_A_MACHINE)):
        raise ValueError(f'{owners[key]} and {path} must be of the same sweep, '
                         f'but {difference}')
      joined.setdefault(key, value)
      owners.setdefault(key, path)
  return _config(joined)


def _merged(found):
  merged, owners = {}, {}
  for path, results in found.items():
    for line in results.lines:
      key = line['method'], line['target'], line['seed']
      if key not in merged:
        merged[key], owners[key] = line, path
      elif difference := _difference(
          '', *({name: value for name, value in one.items()
                 if name not in _OF_A_PLACE} for one in (merged[key], line))):
        raise ValueError(f'{owners[key]} and {path} disagree about '
                         f'{_name(line)} with seed {line["seed"]}: '
                         f'{difference}')
  return [*merged.values()]


def _check_seeds(lines):
  first = {}
  for line in lines:
    one = first.setdefault((line['method'], line['target']), line)
    difference = _difference('config', one['config'], line['config']) or (
        _difference('step', one['row'].get('step'), line['row'].get('step')))
    if difference:
      raise ValueError(
          f'runs of {_name(line)} must differ in their seeds only, but '
          f'{difference}, with the seeds {one["seed"]} and {line["seed"]}')


def _both_tuned(one, other):
  if one is None or other is None:
    return one or other
  for method in one.tried.keys() & other.tried.keys():
    if difference := _difference(
        f'tuned.{method}', one.tried[method], other.tried[method]):
      raise ValueError(f'files must agree about what was tuned, but '
                       f'{difference}')
  return one._replace(tried={**one.tried, **other.tried},
                      chosen={**one.chosen, **other.chosen})


def _difference(name, one, other, *, free=frozenset()):
  """Tells the first difference between two values of JSON; '' if none."""
  if not isinstance(one, Mapping) or not isinstance(other, Mapping):
    # By their text, so that NaN equals NaN.
    same = json.dumps(one) == json.dumps(other)
    return '' if same else f'{name} is {one!r} and {other!r}'
  for key in dict.fromkeys([*one, *other]):
    if key not in free and (found := _difference(
        f'{name}.{key}'.lstrip('.'), one.get(key), other.get(key), free=free)):
      return found
  return ''


def _name(line):
  return f'{line["method"]} at {line["target"]}' if line['target'] else (
      line['method'])
