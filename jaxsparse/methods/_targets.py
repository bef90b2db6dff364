"""The N:M targets that a method is given."""

from typing import Any, Mapping

from jaxsparse import patterns as patterns_lib
from jaxsparse.rules import Patterns


def targets(patterns: Patterns) -> dict[str, tuple[int, int, Any] | None]:
  """`(n, m, axis)` of every rule, or `None` where it says dense."""
  if not isinstance(patterns, Mapping):
    raise ValueError(
        f'A method takes rules for parameters, got {patterns!r:.80}. Write '
        'e.g. {".*/kernel": jaxsparse.nm(2, 4)}.')
  return {regex: None if p is None else patterns_lib.n_m_axis(p)
          for regex, p in patterns.items()}
