"""Blocks of a model, named by the paths of its kernels."""

import re
from typing import Callable, Sequence

# A regular expression whose first group is the name of the block, or a function
# from paths to names.
Block = str | Callable[[str], str | None]

# Finds `layers/3` in `layers/3/up/kernel`.
BEFORE_NUMBER = r'(.*?\d+)(?:/.*)?'


def name(block: Block, path: str, place: Sequence[int]
         ) -> tuple[str, tuple[int, ...]] | None:
  """The block of a kernel, or of one layer of a stacked kernel.

  If the name of the block has no number, each layer of a stacked kernel is a
  block of its own, together with the same layer of other stacked kernels with
  that name. Stacked kernels without a name count as having the same name.

  Args:
    block: the regular expression, or function, that finds the name in a path.
    path: the path of the kernel.
    place: the indices of the layer, the expert and so on in a stacked kernel.

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
