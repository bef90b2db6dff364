"""The targets of methods: N:M patterns, or a sparsity."""

from typing import Any, Callable

from jaxsparse import distributions
from jaxsparse import patterns as patterns_lib
from jaxsparse._utils import arguments
from jaxsparse.rules import Patterns

# A fraction, or a distribution over layers.
Sparsity = float | distributions.Distribution
SPARSITY = arguments.any_of(
    patterns_lib.SPARSITY, arguments.function('a distribution'))


def targets(patterns: Patterns) -> dict[str, tuple[int, int, Any] | None]:
  """`(n, m, axis)` of every entry of the patterns, or `None` for dense."""
  return {regex: None if p is None else patterns_lib.n_m_axis(p)
          for regex, p in patterns.items()}


def shared(sparsity: Sparsity,
           distribution: Callable[[float], distributions.Distribution]
           ) -> distributions.Distribution:
  """The distribution that was given, or that of a fraction."""
  return sparsity if callable(sparsity) else distribution(sparsity)
