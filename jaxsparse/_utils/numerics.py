"""Dtypes of sums, and sums of any leaves."""

from typing import Any

import jax
import jax.numpy as jnp


def at_least_float32(dtype: Any) -> Any:
  """The dtype of sums: float32, or what is as wide or wider.

  >>> at_least_float32(jnp.bfloat16) == jnp.float32
  True
  """
  return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32


def wide(x: jax.Array) -> jax.Array:
  """An array in float32, or wider if it is."""
  return x.astype(at_least_float32(x.dtype))


def joined(x: Any, more: Any) -> jax.Array:
  """A sum of any numbers, or bits; keys stay what they are.

  A function with something added is traced to see what that belongs to.
  """
  x = jnp.asarray(x)
  if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == jnp.bool_):
    return x
  join = jnp.logical_xor if x.dtype == jnp.bool_ else jax.lax.add
  return join(x, jnp.broadcast_to(more, x.shape))
