"""Wanda: scores weights by magnitudes times norms of inputs."""

import functools

import jax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse.calibration import _common
from jaxsparse.masks.selection import Kept
from jaxsparse.patterns import Pattern


@arguments.checked(sparsity=_common.SPARSITY)
def wanda(w: jax.Array, squares: jax.Array, pattern: Pattern,
          sparsity: float | jax.Array | None = None) -> jax.Array:
  """The mask of the weights that contribute most to their output.

    score[i, j] = |w[i, j]| * sqrt(squares[i]),   squares[i] = sum of x[i]^2

  Weights of one output compete with each other, and within the groups of the
  pattern if it has any. Each group keeps exactly `round((1 - sparsity) * size)`
  units (halves to even), and of equal scores the lower index is kept. The
  weights do not change.

  Args:
    w: the weights, `[in, out]`. Use `jax.vmap` for stacked layers and experts.
    squares: the squares of the inputs summed over tokens, `[in]`, up to a
      factor.
    pattern: a pattern whose units and groups run along the inputs, such as
      `unstructured()`, `nm(2, 4)` or `block((4, 1))`.
    sparsity: the fraction pruned; `None` takes the sparsity of the pattern.

  Returns:
    A bool array of the shape of `w`, True where kept.

  Raises:
    ValueError: if shapes do not fit, weights are not floating, statistics have
      NaN (checked only outside of `jit`), the pattern spans outputs, or the
      sparsity is missing.

  References:
    Sun et al., `A Simple and Effective Pruning Approach for Large Language
    Models <https://arxiv.org/abs/2306.11695>`_, 2023. Of equal scores, the
    released code prunes the lower index first, and it prunes
    `int(sparsity * in)` weights of each column.

  >>> from jaxsparse import unstructured
  >>> w = jnp.array([[3., 1.], [2., 2.], [-1., 3.], [0., 4.]])
  >>> wanda(w, jnp.array([1., 1., 25., 0.]), unstructured(0.5)).astype(int)
  Array([[1, 0],
         [0, 1],
         [1, 1],
         [0, 0]], dtype=int32)
  """
  _common.check_weights(w)
  if squares.shape != w.shape[:1]:
    raise ValueError(
        f'squares must have the shape {w.shape[:1]}, one number for each '
        f'input of weights of shape {w.shape}, [in, out], got '
        f'{squares.shape}. Write squares = (x**2).sum(0) for inputs x '
        '[tokens, in], or jnp.diagonal(h).')
  _common.check_numbers(squares, 'squares')
  pattern = _common.along_inputs(pattern, w.shape)
  if _common.is_whole(pattern):
    pattern = _common.within_outputs(pattern)
  return _wanda(w, squares, _common.kept(pattern, w.shape, sparsity),
                pattern=pattern)


@functools.partial(jax.jit, static_argnames='pattern')
def _wanda(w: jax.Array, squares: jax.Array, kept: Kept, *, pattern: Pattern
           ) -> jax.Array:
  return _common.select(w.astype(jnp.float32),
                        jnp.sqrt(squares.astype(jnp.float32)), pattern, kept)
