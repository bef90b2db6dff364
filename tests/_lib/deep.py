"""Values within values."""

from typing import Any


def deep(n: int) -> Any:
  """Returns a number in a list in a list, `n` lists deep."""
  value = 1
  for _ in range(n):
    value = [value]
  return value
