"""ADMM: the mask and least squares of the kept weights, solved together."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse.calibration import _common
from jaxsparse.masks.selection import Kept
from jaxsparse.patterns import Pattern

# Added to the diagonal of `h`, relative to its mean, before inputs are scaled.
# Otherwise an input that is nearly zero in all data, as where a SiLU saturates,
# gets weights as large as it is small, in a group that has to keep them.
_FLOOR = 1e-6


@arguments.checked(
    sparsity=_common.SPARSITY, damping=_common.DAMPING,
    steps=arguments.step(1, '300'))
def admm(w: jax.Array, h: jax.Array, pattern: Pattern,
         sparsity: float | jax.Array | None = None, *, steps: int = 20,
         ramp: int = 15, damping: float | jax.Array = 0.1
         ) -> tuple[jax.Array, jax.Array]:
  """Pruned weights and their mask, by the alternating direction method (ADMM).

  The inputs are scaled to norm one: `h` gets a unit diagonal, and `w` is
  multiplied by the norms. Then

    G = h + damping I,   V = w,   D = 0
    z = V + D on the mask of the largest |V + D|, 0 elsewhere
    D = D + V - z,   V = (G + I)^-1 (G w + z - D)

  is iterated for `steps` steps, and the result is z computed once more. Step t,
  counted from 1, prunes the share `1 - (1 - t / ramp)^3` of the `sparsity`; the
  mask is fixed after step `ramp`. V begins at `w`, so the first mask has the
  scores of Wanda, but all weights of the matrix, or of a group, compete, not
  those of each output. Counts are exact, and of equal scores the lower index is
  kept. Inputs that are zero in all data score zero, and their kept weights do
  not change; those of inputs that are nearly zero hardly do, because `h` gets a
  millionth of its mean diagonal first. All computations are in float32.

  Args:
    w: the weights, `[in, out]`. Use `jax.vmap` for stacked layers and experts.
    h: the sum of `x x^T` over inputs x, `[in, in]`, up to a factor.
    pattern: a pattern whose units and groups run along the inputs, such as
      `unstructured()`, `nm(2, 4)` or `block((4, 1))`.
    sparsity: the fraction pruned; `None` takes the sparsity of the pattern.
    steps: the number of steps. More steps under the last mask give the same as
      `refit` afterwards, which is faster.
    ramp: the number of steps in which the sparsity grows, at most `steps`.
    damping: the constant added to the unit diagonal.

  Returns:
    The weights, in their dtype and zero where pruned, and a bool array of the
    same shape, True where kept. Under `jit` and `vmap` kept weights are NaN
    where `h` has NaN or is far from positive definite; outside of them that is
    an error.

  Raises:
    ValueError: if shapes do not fit, weights are not floating, the pattern
      spans outputs, the sparsity is missing, `h` has NaN or is not positive
      definite.

  References:
    Boža, `Fast and Effective Weight Update for Pruned Large Language Models
    <https://arxiv.org/abs/2401.02938>`_, 2024, with its penalty of 1. If all
    weights of a matrix compete, the released code prunes all at once, like
    `ramp=1` here. For 2:4, it always keeps the highest 2 of 4 and ramps the
    rest; here each group keeps the same share at each step.

  >>> from jaxsparse import unstructured
  >>> w = jnp.array([[5.], [20.], [10.]])
  >>> h = jnp.array([[2., 1., 0.], [1., 3., 1.], [0., 1., 2.]])
  >>> v, mask = admm(w, h, unstructured(1 / 3), damping=0.)
  >>> print(v[:, 0].round(), mask[:, 0])
  [ 0. 22.  9.] [False  True  True]
  """
  _common.check_arrays(w, h)
  _common.check_damping(damping)
  if not steps >= 1 <= ramp:
    raise ValueError(
        f'admm needs steps >= 1 and ramp >= 1, got steps={steps} and '
        f'ramp={ramp}. Write e.g. steps=20, ramp=15.')
  pattern = _common.along_inputs(pattern, w.shape)
  pruned, mask = _admm(w, h, _common.kept(pattern, w.shape, sparsity), damping,
                       steps, min(ramp, steps), pattern=pattern)
  _common.check_factor(pruned, damping)
  return pruned, mask


@functools.partial(jax.jit, static_argnames='pattern')
def _admm(w: jax.Array, h: jax.Array, kept: Kept, damping: float | jax.Array,
          steps: int | jax.Array, ramp: int | jax.Array, *, pattern: Pattern
          ) -> tuple[jax.Array, jax.Array]:
  h, norms = _common.to_unit_diagonal(_common.damped(h, _FLOOR))
  inverse = _inverse(h + (damping + 1.) * jnp.eye(len(h), dtype=h.dtype))
  first = w.astype(jnp.float32) * norms[:, None]
  ones = jnp.ones_like(norms)

  def turn(v, dual, mask):
    z = jnp.where(mask, v + dual, 0.)
    dual = dual + v - z
    # (G + I)^-1 (G w + z - dual), written so that rounding vanishes if z is w.
    return first + _common.product(inverse, z - dual - first), dual

  def choosing(t, carry):
    v, dual, _ = carry
    left = 1. - (t + 1).astype(jnp.float32) / jnp.float32(ramp)
    now = _common.on_the_way(pattern, w.shape, kept, 1. - left**3)
    mask = _common.select(v + dual, ones, pattern, now)
    return *turn(v, dual, mask), mask

  def holding(t, carry):
    del t
    v, dual, mask = carry
    return *turn(v, dual, mask), mask

  carry = first, jnp.zeros_like(first), jnp.zeros_like(first, bool)
  carry = lax.fori_loop(0, ramp, choosing, carry)
  v, dual, mask = lax.fori_loop(ramp, steps, holding, carry)
  live = norms[:, None] != 0
  v = (v + dual) / jnp.where(live, norms[:, None], 1.)
  return jnp.where(mask, jnp.where(live, v.astype(w.dtype), w), 0), mask


def _inverse(a: jax.Array) -> jax.Array:
  """The inverse of a positive definite matrix; NaN for any other matrix."""
  factor = jax.scipy.linalg.cho_factor(a, lower=True)
  return jax.scipy.linalg.cho_solve(factor, jnp.eye(len(a), dtype=a.dtype))
