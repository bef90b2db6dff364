"""Wanda: magnitudes times the norms of inputs."""

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
  """The mask of the weights that add most to their output.

    score[i, j] = |w[i, j]| * sqrt(squares[i]),   squares[i] = sum of x[i]^2

  Weights of one output compete with each other, within the groups of the
  pattern if it has any. Each group keeps exactly `round((1 - sparsity) * size)`
  (halves to even), ties go to the lower index, and the weights stay as they
  are. A scale of `squares` does not matter, so a sum over all tokens does.

  Args:
    w: weights, `[in, out]`. Stacked layers and experts go through `jax.vmap`.
    squares: `[in]`, the squares of the inputs summed over tokens.
    pattern: whose units and groups run along inputs: `unstructured()`,
      `nm(2, 4)`, `block((4, 1))`.
    sparsity: the fraction pruned; `None` takes the pattern's own.

  Returns:
    A bool array of the shape of `w`, True where kept.

  Raises:
    ValueError: if shapes do not fit, weights are not floating, statistics have
      NaN (where they can be looked at, outside of `jit`), the pattern spans
      outputs, or the sparsity is missing.

  References:
    Sun et al., `A Simple and Effective Pruning Approach for Large Language
    Models <https://arxiv.org/abs/2306.11695>`_, 2023. Released code prunes the
    lower index of a tie first, and of a column `int(sparsity * in)`.

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
        f'squares has one number for each input, shape {w.shape[:1]} for '
        f'weights of shape {w.shape}, [in, out], got {squares.shape}. Write '
        'squares = (x**2).sum(0) for inputs x [tokens, in], or '
        'jnp.diagonal(h).')
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
