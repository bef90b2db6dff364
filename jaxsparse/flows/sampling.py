"""2:4 samples of output gradients, for experiments.

  y = flows.sampled_matmul(x, w, key=key)      # dw from 2:4 samples of dy

Hardware with 2:4 products could compute the gradient of a weight, `x^T dy`,
from a 2:4 sample of `dy` in half the time. XLA uses no such products, so
sampling costs time here and saves none. Use these functions to measure how
training with samples changes the loss.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse._utils import numerics

_EPS = 1.1920929e-7  # So that zeros can be drawn where nothing else is left.


def _is_key(value: Any) -> bool:
  return arguments.is_array(value) and (
      jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
      and value.shape == () or value.dtype == jnp.uint32
      and value.shape == (2,))


_KEY = arguments.Check(_is_key, 'a key of jax.random', 'jax.random.key(0)')
_FLOATS = arguments.Check(
    lambda value: arguments.is_array(value) and jax.dtypes.issubdtype(
        value.dtype, jnp.floating), 'an array of real floats',
    'jnp.ones((4, 2))')


@arguments.checked(g=_FLOATS, key=_KEY)
def mvue24(g: jax.Array, key: jax.Array, *, axis: int = -2) -> jax.Array:
  """An unbiased 2:4 sample of an array: its mean over keys is the array.

  Two of every four entries along the axis are drawn without replacement: the
  first with the probabilities `t_i`, the second in proportion to the remaining
  `t_j`:

    t_i = a_i / sum a,  a = |g|
    p_i = t_i + a_i * sum_(j != i) t_j / (sum a - a_j)

  `p_i` is the probability that `g_i` is one of the two. Drawn entries become
  `g_i / p_i`, the others 0.

  Args:
    g: `[..., tokens, out]`, such as the gradient of a layer's outputs.
    key: the key of the draws, from `jax.random`. Use another key for each step
      and layer.
    axis: the axis along which groups of four lie; by default that of the
      tokens, which the gradient of a weight sums over.

  Returns:
    An array of the shape and dtype of `g`. In a group with a NaN or an infinity
    the two entries that are drawn are NaN.

  Raises:
    ValueError: if `g` has no such axis, or if groups of four do not tile it.

  References:
    Chmiel et al., `Minimum Variance Unbiased N:M Sparsity for the Neural
    Gradients <https://arxiv.org/abs/2203.10991>`_, 2022, and Hu et al., `S-STE:
    Continuous Pruning Function for Efficient 2:4 Sparse Pre-Training
    <https://arxiv.org/abs/2409.09099>`_, 2024. The code of S-STE adds 1.2e-7 to
    `|g|`, which is large beside small gradients. Here 1.2e-7 times the largest
    of the four is added.

  >>> g = jnp.array([[4.], [0.], [0.], [1.]])
  >>> print(mvue24(g, jax.random.key(0))[:, 0].round(3))
  [4. 0. 0. 1.]
  """
  if not -g.ndim <= axis < g.ndim or g.shape[axis] % 4:
    raise ValueError(
        f'mvue24 draws two of every four along axis={axis}, got an array of '
        f'shape {g.shape}. Write the axis of the tokens, whose number is a '
        'multiple of 4, e.g. axis=-2.')
  groups = jnp.moveaxis(g, axis, -1)
  shape = groups.shape
  groups = numerics.wide(groups.reshape(*shape[:-1], shape[-1] // 4, 4))
  largest = jnp.max(jnp.abs(groups), -1, keepdims=True, initial=0.)
  weights = jnp.abs(groups) / jnp.where(
      largest == 0, jnp.ones_like(largest), largest) + _EPS
  # The two highest of such sums are a draw without replacement.
  noise = jax.random.gumbel(key, weights.shape, weights.dtype)
  ranks = jnp.argsort(jnp.argsort(-(jnp.log(weights) + noise)))
  drawn = jnp.where(ranks < 2, groups / _drawn_with(weights), 0.)
  drawn = drawn.reshape(shape).astype(g.dtype)
  return jnp.moveaxis(drawn, -1, axis)


def _drawn_with(weights: jax.Array) -> jax.Array:
  """`p_i`, the probability that the i-th of four is one of two drawn."""
  # Sums of the others, not of all less one: they cancel where one is large.
  others = lambda x: jnp.stack([
      sum(x[..., j] for j in range(4) if j != i) for i in range(4)], -1)
  first = weights / jnp.sum(weights, -1, keepdims=True)
  return first + weights * others(first / others(weights))


@arguments.checked(x=_FLOATS, w=_FLOATS, key=_KEY)
def sampled_matmul(x: jax.Array, w: jax.Array, *, key: jax.Array) -> jax.Array:
  """`x @ w`, with the gradient of `w` from a 2:4 sample of the gradient of `y`.

    y = x w,  dx = dy w^T,  dw = x^T mvue24(dy)

  Groups lie along the tokens, which are all leading axes of `x` together. `dw`
  is unbiased, and noisier than the exact gradient.

  Args:
    x: `[..., tokens, in]`.
    w: `[in, out]`, of the same dtype.
    key: the key of the draws. Use another key for each step and layer.

  Returns:
    `[..., tokens, out]`.

  Raises:
    ValueError: if shapes do not fit, if dtypes differ, or if the number of
      tokens is not a multiple of 4.

  References:
    Hu et al., `S-STE: Continuous Pruning Function for Efficient 2:4 Sparse
    Pre-Training <https://arxiv.org/abs/2409.09099>`_, 2024

  >>> x, w = jnp.ones((4, 2)), jnp.ones((2, 3))
  >>> loss = lambda w: sampled_matmul(x, w, key=jax.random.key(0)).sum()
  >>> print(jax.grad(loss)(w))  # Of equal gradients any two do.
  [[4. 4. 4.]
   [4. 4. 4.]]
  """
  if x.ndim < 2 or w.ndim != 2 or x.shape[-1] != w.shape[0] or (
      x.dtype != w.dtype) or math.prod(x.shape[:-1]) % 4:
    raise ValueError(
        'sampled_matmul takes x of shape [..., tokens, in], with a multiple of '
        '4 of tokens, and w of shape [in, out], of one dtype, got '
        f'x={x.dtype}{x.shape} and w={w.dtype}{w.shape}. Fill x up with tokens '
        'of zeros, or write x @ w.')
  return _product(x, w, key)


@jax.custom_vjp
def _product(x, w, key):
  del key
  return x @ w


def _forward(x, w, key):
  return x @ w, (x, w, key)


def _backward(kept, dy):
  x, w, key = kept
  rows = dy.reshape(-1, dy.shape[-1])
  dw = x.reshape(-1, x.shape[-1]).T @ mvue24(rows, key)
  return dy @ w.T, dw, None


_product.defvjp(_forward, _backward)
