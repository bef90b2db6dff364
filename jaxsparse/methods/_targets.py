"""The N:M targets that a method is given."""

from typing import Any

from jaxsparse import patterns as patterns_lib
from jaxsparse.rules import Patterns


def targets(patterns: Patterns) -> dict[str, tuple[int, int, Any] | None]:
  """`(n, m, axis)` of every rule, or `None` where it says dense."""
  return {regex: None if p is None else patterns_lib.n_m_axis(p)
          for regex, p in patterns.items()}
