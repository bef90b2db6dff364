"""Products by XLA, of any dtype, on any platform, with unpacked weights.

The dense products of gradients for all backends are here, too.
"""

from typing import Any, Callable

import jax
from jax import lax

from jaxsparse.packed import _operands
from jaxsparse.packed import layout24
from jaxsparse.packed.layout24 import Packed24


def dense(x: jax.Array, matrix: jax.Array, dtype: Any) -> jax.Array:
  """`[..., K] x [K, N]`."""
  return lax.dot_general(
      x, matrix.astype(x.dtype), (((x.ndim - 1,), (0,)), ((), ())),
      _operands.precision_of(x.dtype),
      preferred_element_type=_operands.sum_dtype(dtype)).astype(dtype)


def matmul(x: jax.Array, w: Packed24, dtype: Any) -> jax.Array:
  """`x @ w`, `[..., K] -> [..., N]`."""
  return dense(x, layout24.matrix_of(w), dtype)


def transposed(product: Callable[..., jax.Array], x: Any
               ) -> Callable[..., jax.Array]:
  """`dy @ w.T` of a product that is linear in `x`; this is the type of `x`."""
  def run(dy: jax.Array, w: Any, dtype: Any) -> jax.Array:
    return _transpose(
        lambda x: product(x, w, dy.dtype), x.update(dtype=dtype), dy)
  return run


def weight_gradient(dy: jax.Array, x: jax.Array, like: Any) -> jax.Array:
  """`x.T @ dy` in the shape and dtype of `like`."""
  return _transpose(
      lambda w: dense(x.astype(like.dtype), w, dy.dtype), like, dy)


def _transpose(f: Callable[[Any], jax.Array], like: Any, dy: jax.Array
               ) -> jax.Array:
  """The gradient to the argument of a linear function."""
  dx, = jax.linear_transpose(f, like)(dy)
  return dx
