"""The transformer that benchmarks prune, in a loop or a scan."""

import functools
from typing import Any, Callable

import jax
from jax import lax
import jax.numpy as jnp

_HEADS = 4


def block(x: jax.Array, p: dict[str, Any],
          product: Callable[[jax.Array, Any], jax.Array] = jnp.matmul
          ) -> jax.Array:
  """Attention and an MLP.

  Args:
    x: `[batch, time, width]`.
    p: the kernels.
    product: the function that multiplies with a kernel.
  """
  n, t, width = x.shape
  h = x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  q, k, v = (product(h, p[name]).reshape(n, t, _HEADS, -1) for name in 'qkv')
  scores = jnp.einsum('nthd,nshd->nhts', q, k) / (width / _HEADS)**.5
  scores = jnp.where(jnp.tri(t, dtype=bool), scores, -jnp.inf)
  a = jnp.einsum('nhts,nshd->nthd', jax.nn.softmax(scores), v)
  x = x + product(a.reshape(x.shape), p['out'])
  h = x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x + product(jax.nn.gelu(product(h, p['up'])), p['down'])


def model(width: int, depth: int, scanned: bool) -> tuple[Any, Any, list[Any]]:
  """Returns the function, its parameters and batches.

  Args:
    width: the width of the residual stream.
    depth: the number of blocks.
    scanned: whether the blocks are the layers of a scan.
  """
  keys = iter(jax.random.split(jax.random.key(0), 6 * depth + 6))
  shapes = {**dict.fromkeys(('q', 'k', 'v', 'out'), (width, width)),
            'up': (width, 4 * width), 'down': (4 * width, width)}
  draw = lambda shape: jax.random.normal(next(keys), shape) / shape[0]**.5
  layers = [jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))
            for _ in range(depth)]
  if scanned:
    layers = jax.tree.map(lambda *ws: jnp.stack(ws), *layers)

  def apply(params, x):
    if scanned:
      return lax.scan(lambda x, p: (block(x, p), ()), x, params)[0]
    return functools.reduce(block, params, x)
  return apply, layers, [
      jax.random.normal(next(keys), (8, 128, width)) for _ in range(4)]
