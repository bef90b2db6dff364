"""Products by the kernel for Hopper GPUs, with weights in Hopper's layout."""

import math
from typing import Any

import jax

from jaxsparse._utils import numerics
from jaxsparse.packed import _groups
from jaxsparse.packed import _hopper_layout
from jaxsparse.packed import _operands
from jaxsparse.packed import layout24
from jaxsparse.packed.kernels import hopper
from jaxsparse.packed.layout24 import Packed24


def missing() -> str | None:
  """Why this machine cannot run the kernel, or `None` if it can."""
  return hopper.available()


def matmul(x: jax.Array, w: Packed24, dtype: Any) -> jax.Array:
  """`x @ w`, `[..., K] -> [..., N]`."""
  if w.dtype not in _hopper_layout.DTYPES:
    raise NotImplementedError(
        f'the Hopper layout has bfloat16 and float16, not {w.dtype}')
  w = layout24.with_layout(w, 'hopper')
  # Static, and asked for each time: it may have been tuned since.
  config = hopper.config_of(
      math.prod(x.shape[:-1]), w.values.shape, x.dtype)
  return _kernel(x, w, dtype, config)


@_operands.folded
def _kernel(x: jax.Array, w: Packed24, dtype: Any, config: Any) -> jax.Array:
  x = _groups.padded(x, 1, 2 * w.values.shape[-1])
  y = hopper.matmul(
      x, w.values, w.positions, out_dtype=dtype, config=config)
  # Mosaic GPU does not tell `jax.shard_map` how results vary.
  y = numerics.vary(y, numerics.varies((x, w.values, w.positions)))
  return y[:, :math.prod(w.features)]


def matmul_transposed(dy: jax.Array, w: Packed24, dtype: Any) -> jax.Array:
  """`dy @ w.T`, `[..., N] -> [..., K]`."""
  if w.transposed is None:
    raise NotImplementedError('needs pack(w, transposed=True)')
  return matmul(dy, w.transposed, dtype)


def matmul_packing(x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
  """`x @ w` of a dense 2:4 weight `[K, N]`, packed on the way."""
  return matmul(x, layout24.pack(w), dtype)
