"""Tables for people: what `print` shows of a summary."""

import functools
import itertools
import pathlib
import types
from typing import Any, Collection, Iterable, Sequence

import jax
import numpy as np


def table(*groups: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
  """Aligned columns, with a line between groups of rows.

  Args:
    *groups: rows of texts, all of one length; the first group is the head.
    right: columns that are aligned on the right, as numbers are.

  Returns:
    The lines, without spaces at their ends.

  >>> print(table([('layer', 'size')], [('in', '10'), ('out', '9')], right=[1]))
  layer  size
  -----  ----
  in       10
  out       9
  """
  blocks = [rows for rows in map(list, groups) if rows]
  widths = [max(map(len, column))
            for column in zip(*(row for block in blocks for row in block))]

  def line(row):
    cells = [cell.rjust(width) if i in right else cell.ljust(width)
             for i, (cell, width) in enumerate(zip(row, widths))]
    return '  '.join(cells).rstrip()
  rule = line(['-' * width for width in widths])
  return f'\n{rule}\n'.join('\n'.join(map(line, block)) for block in blocks)


def one_line(text: object, width: int) -> str:
  """The first line of a text, cut off where it is wider than a message takes.

  >>> one_line('no room\\nat all', 80), one_line('no room at all', 12)
  ('no room', 'no room  ...')
  """
  line = str(text).strip().partition('\n')[0].strip()
  return line if len(line) < width else f'{line[:width - 4]} ...'


def brief(value: object, width: int = 80) -> str:
  """A value in a few words, in bounded time and memory, whatever it is.

  Containers show their first entries, arrays their dtype and shape. Of what
  others have defined only the type is named: its `repr` may take any time.

  >>> brief([1] * 10**6), brief(np.ones((2, 3))), brief({'a': {'b': [[]]}})
  ('[1, 1, 1, ...]', 'float64[2,3]', "{'a': {'b': [...]}}")
  """
  text = _brief(value, 3, width)
  return text if len(text) <= width else f'{text[:width - 4]} ...'


def _brief(value: object, depth: int, width: int) -> str:
  if isinstance(value, (str, bytes)):
    return repr(value[:width]) + ' ...' * (len(value) > width)
  if isinstance(value, int) and value.bit_length() > 128:
    return f'an integer of {value.bit_length()} bits'  # Its digits take long.
  if isinstance(value, (np.bool_, np.number)):
    return repr(value.item())
  if value is None or isinstance(value, (bool, int, float, complex)):
    return repr(value)
  if isinstance(value, types.FunctionType):
    return f'the function {value.__name__[:width]}'
  if isinstance(value, type):
    return f'the class {value.__name__[:width]}'
  if isinstance(value, (np.ndarray, jax.Array, jax.ShapeDtypeStruct)):
    return f'{value.dtype}[{",".join(map(str, value.shape[:8]))}]'
  if isinstance(value, pathlib.PurePath):
    return _brief(str(value), depth, width)
  return _brief_container(value, depth - 1, width)


def _brief_container(value: Any, depth: int, width: int) -> str:
  kind = type(value)
  within = functools.partial(_brief, depth=depth, width=width)
  if isinstance(value, tuple) and hasattr(kind, '_fields'):
    parts = [(f'{name}=', x) for name, x in zip(kind._fields, value)]
    sides = f'{kind.__name__}(', ')'
  elif isinstance(value, dict):
    parts = [(f'{within(key)}: ', value[key])
             for key in itertools.islice(value, 4)]
    sides = '{', '}'
  elif isinstance(value, (list, tuple, set, frozenset)):
    parts = [('', x) for x in itertools.islice(value, 4)]
    sides = {list: '[]', tuple: '()'}.get(kind, '{}')
    if kind is tuple and len(value) == 1:
      sides = '(', ',)'
  else:
    return f'an object of the class {kind.__name__[:width]}'
  if not depth and parts:
    return f'{sides[0]}...{sides[1]}'
  texts = [name + within(x) for name, x in parts[:3]]
  more = ['...'] * (len(parts) > 3)
  return sides[0] + ', '.join(texts + more) + sides[1]


def shape_text(shape: Sequence[int]) -> str:
  """A shape in one word.

  >>> shape_text((3, 4)), shape_text(())
  ('3x4', 'scalar')
  """
  return 'x'.join(map(str, shape)) or 'scalar'
