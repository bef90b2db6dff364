"""Blocks of a model, by the paths of its kernels."""

import re
from typing import Callable, Sequence

# A regular expression whose first group is the name, or a function of paths.
Block = str | Callable[[str], str | None]

# `layers/3` of `layers/3/up/kernel`.
BEFORE_NUMBER = r'(.*?\d+)(?:/.*)?'


def name(block: Block, path: str, place: Sequence[int]
         ) -> tuple[str, tuple[int, ...]] | None:
  """The block of a kernel, or of one of its layers.

  Layers are blocks of their own where the name has no number, together with
  those of other kernels of that name; where there is no name, with those of
  others without.

  Args:
    block: what tells the name of a path, or `None`.
    path: of the kernel.
    place: which layer it is, of which expert and so on.

  >>> name(BEFORE_NUMBER, 'layers/3/up/kernel', [])
  ('layers/3', ())
  >>> name(BEFORE_NUMBER, 'layers/up', [3])
  ('', (3,))
  >>> name(BEFORE_NUMBER, 'head', [])
  """
  if callable(block):
    found = block(path)
  else:
    match = re.fullmatch(block, path)
    found = match.group(1) if match and match.groups() else None
  if found is None:
    return ('', (place[0],)) if place else None
  return found, () if re.search(r'\d', found) or not place else (place[0],)
