"""N:M along the wrong axis of an attention layer, which shapes do not forbid.

`nm(2, 4)` runs along axis -2, the inputs of `[..., in, out]`. The queries, keys
and values of Flax have kernels `[in, heads, head_dim]`, whose axis -2 is the
heads. No product sums over it, so no hardware and no packed kernel gains from
such groups. A convolution may have the same rank, hence two signs are needed:
Flax's names, and an `out` kernel `[heads, head_dim, ...]` beside them.
"""

import re
from typing import Mapping

from jaxsparse import patterns
from jaxsparse.patterns import Pattern

_READS_INPUTS = re.compile(r'((?:.*/)?)(?:query|key|value)/kernel')


def across_heads(path: str, pattern: Pattern | None,
                 shapes: Mapping[str, tuple[int, ...]]) -> bool:
  """Whether N:M groups of a projection of attention run across its heads.

  >>> shapes = {'query/kernel': (16, 4, 8), 'out/kernel': (4, 8, 16)}
  >>> [across_heads('query/kernel', patterns.nm(2, 4, axis=axis), shapes)
  ...  for axis in (-2, -3)]
  [True, False]
  """
  name = _READS_INPUTS.fullmatch(path)
  if name is None or pattern is None or not patterns.is_nm(pattern):
    return False
  out, shape = shapes.get(f'{name[1]}out/kernel', ()), shapes[path]
  return (pattern.group.sizes[0][0] == -2 and len(out) == len(shape) > 2
          and out[-3:-1] == shape[-2:])


def remedy(pattern: Pattern) -> str:
  """The patterns for attention, as the end of a message."""
  n, m, _ = patterns.n_m_axis(pattern)
  return (
      'Attention sums over axis -3 of queries, keys and values. Write patterns='
      'jaxsparse.kernel_patterns(apply, params, x, pattern=jaxsparse.'
      f'nm({n}, {m})), or put **jaxsparse.patterns.attention({n}, {m}) before '
      'the other patterns.')
