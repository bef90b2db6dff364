"""Looks up names in tables, and suggests a name for a misspelt one."""

from collections.abc import Mapping
import difflib
from typing import Any


def lookup(table: Mapping[str, Any], name: str, *, kind: str) -> Any:
  """Returns `table[name]`.

  Args:
    table: the entries by name.
    name: the name to look up.
    kind: the kind of entries, for the message.

  Raises:
    ValueError: if the table has no such name; it lists the names there are.

  >>> lookup({'rigl': 1, 'set': 2}, 'rigle', kind='method')
  Traceback (most recent call last):
  ValueError: unknown method 'rigle', did you mean 'rigl'? There are: rigl, set
  """
  if name in table:
    return table[name]
  near = difflib.get_close_matches(name, table, n=1)
  hint = f', did you mean {near[0]!r}?' if near else '.'
  raise ValueError(f'unknown {kind} {name!r}{hint} There are: '
                   + ', '.join(sorted(table)))
