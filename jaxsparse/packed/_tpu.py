"""Products by the kernels for TPUs: the weight is tiled."""

import math
from typing import Any

import jax

from jaxsparse.packed import _groups
from jaxsparse.packed import _operands
from jaxsparse.packed import layout24
from jaxsparse.packed.kernels import tpu
from jaxsparse.packed.layout24 import Packed24


def missing() -> str | None:
  """Why this machine cannot run the kernels, or `None` if it can."""
  if jax.default_backend() == 'tpu':
    return None
  return f'needs a TPU, here is {jax.default_backend()}'


@_operands.folded
def matmul(x: jax.Array, w: Packed24, dtype: Any) -> jax.Array:
  """`x @ w`, `[..., K] -> [..., N]`."""
  w = layout24.with_layout(w, 'tiled')
  x = _groups.padded(x, 1, 4 * w.values.shape[-2])
  return tpu.matmul(x, w.values, w.positions, out_dtype=dtype)


@_operands.folded
def matmul_transposed(dy: jax.Array, w: Packed24, dtype: Any) -> jax.Array:
  """`dy @ w.T`, `[..., N] -> [..., K]`."""
  w = layout24.with_layout(w, 'tiled')
  dx = tpu.matmul_transposed(dy, w.values, w.positions, out_dtype=dtype)
  return dx[:, :math.prod(w.contracted)]
