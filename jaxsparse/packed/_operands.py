"""The operands of a product: shapes, dtypes, and tokens on one axis."""

import functools
import math
from typing import Any, Callable

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import numerics
from jaxsparse.packed import condensed
from jaxsparse.packed import layout24
from jaxsparse.packed.condensed import Condensed
from jaxsparse.packed.layout24 import Packed24


def check_operands(x: jax.Array, w: Packed24 | Condensed) -> None:
  """Raises if `matmul(x, w)` does not fit."""
  if isinstance(w, Condensed):
    condensed.check_condensed(w)
  else:
    layout24.check_packed(w)
  if len(w.shape) != len(w.contracted) + len(w.features):
    leading = w.shape[:len(w.shape) - len(w.contracted) - len(w.features)]
    raise ValueError(
        f'matmul(x, w) needs one weight, got a stack {leading} of weights of '
        f'shape {w.shape[len(leading):]}. Write jax.vmap(jaxsparse.matmul)('
        'x, w), or use jax.lax.scan.')
  rank = len(w.contracted)
  if x.ndim < rank or x.shape[x.ndim - rank:] != w.contracted:
    raise ValueError(
        f'matmul(x, w) needs x with the last axes {w.contracted}, over which '
        f'it sums, got x of shape {x.shape}. Write e.g. x.reshape(-1, '
        f'*{w.contracted}).')


def result_dtype(x: jax.Array, w: jax.Array,
                 preferred: jax.typing.DTypeLike | None) -> jnp.dtype:
  """The dtype of a product."""
  try:
    dtype = jnp.result_type(x, w)
  except ValueError as error:  # Floats of 8 bits, or promotion is strict.
    raise ValueError(
        'A product needs x and w of dtypes that JAX promotes to one, got '
        f'{x.dtype} and {w.dtype}. Write w.astype(x.dtype).') from error
  if preferred is None:  # Products of narrow integers are wider than these.
    is_narrow = jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize < 4
    preferred = jnp.int32 if is_narrow else dtype
  return jnp.dtype(preferred)


def sum_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
  """The dtype of sums whose result is to have `dtype`.

  >>> sum_dtype(jnp.bfloat16), sum_dtype(jnp.int8)
  (dtype('float32'), dtype('int32'))
  """
  if jnp.issubdtype(dtype, jnp.integer):
    return jnp.dtype(jnp.int32 if jnp.dtype(dtype).itemsize < 8 else jnp.int64)
  return jnp.dtype(numerics.at_least_float32(dtype))


def precision_of(dtype: jax.typing.DTypeLike) -> lax.Precision | None:
  """The precision of the kernels: float32 products for float32 weights."""
  return lax.Precision.HIGHEST if dtype == jnp.float32 else None


def folded(kernel: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """A kernel for `[T, K]` as one for `[..., K]`.

  Jitted, so that it is traced once for equal shapes.
  """
  @functools.partial(jax.jit, static_argnums=(2, 3))
  def run(x: jax.Array, w: Any, *settings: Any) -> jax.Array:
    y = kernel(
        x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), w, *settings)
    return y.reshape(*x.shape[:-1], y.shape[-1])
  return run
