"""ADMM: the least squares of the kept weights and their mask, in turns."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse.calibration import _common
from jaxsparse.masks.selection import Kept
from jaxsparse.patterns import Pattern


@arguments.checked(
    sparsity=_common.SPARSITY, damping=_common.DAMPING,
    steps=arguments.step(1, '300'))
def admm(w: jax.Array, h: jax.Array, pattern: Pattern,
         sparsity: float | jax.Array | None = None, *, steps: int = 20,
         ramp: int = 15, damping: float | jax.Array = 0.1
         ) -> tuple[jax.Array, jax.Array]:
  """Pruned weights and their mask, by alternating directions of multipliers.

  For inputs of norm one (`h` with a unit diagonal, `w` times the norms),

    G = h + damping I,   V = w,   D = 0
    z = V + D on the mask of the largest |V + D|, 0 elsewhere
    D = D + V - z,   V = (G + I)^-1 (G w + z - D)

  for `steps` times, and the result is z once more. The mask prunes a part of
  the `sparsity` first, `1 - (1 - t / ramp)^3` of it at turn t (counted from 1),
  and is held after turn `ramp`. As V begins at `w`, the first mask is Wanda's
  without outputs of their own: all weights of the matrix compete, or those of a
  group. Counts are exact, ties go to the lower index. Inputs that were always
  zero score zero; what a group keeps of them stays as it is. All of it is
  computed in float32.

  Args:
    w: weights, `[in, out]`. Stacked layers and experts go through `jax.vmap`.
    h: `[in, in]`, `x x^T` summed over inputs x. A scale does not matter.
    pattern: whose units and groups run along inputs: `unstructured()`,
      `nm(2, 4)`, `block((4, 1))`.
    sparsity: the fraction pruned; `None` takes the pattern's own.
    steps: how many turns. `refit` afterwards does what more turns under the
      last mask would do, and faster.
    ramp: the turns in which the sparsity grows; no more than `steps`.
    damping: what is added to the unit diagonal.

  Returns:
    The weights, in their dtype and zero where pruned, and a bool array of the
    same shape, True where kept. Under `jit` and `vmap` kept weights are NaN
    where `h` has NaN or is far from positive definite; elsewhere that is an
    error.

  Raises:
    ValueError: if shapes do not fit, weights are not floating, the pattern
      spans outputs, the sparsity is missing, `h` has NaN or is not positive
      definite.

  References:
    Boža, `Fast and Effective Weight Update for Pruned Large Language Models
    <https://arxiv.org/abs/2401.02938>`_, 2024, with its penalty of 1. Released
    code prunes all at once where a matrix competes, as `ramp=1` does here; of
    2:4 it keeps the highest 2 of 4 in every turn and ramps the rest, where here
    each group keeps its own share of the way.

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
        f'Steps and their ramp are at least 1, got steps={steps} and '
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
  h, norms = _common.to_unit_diagonal(h)
  inverse = _inverse(h + (damping + 1.) * jnp.eye(len(h), dtype=h.dtype))
  first = w.astype(jnp.float32) * norms[:, None]
  ones = jnp.ones_like(norms)

  def turn(v, dual, mask):
    z = jnp.where(mask, v + dual, 0.)
    dual = dual + v - z
    # (G + I)^-1 (G w + z - dual), with an error that vanishes where z is w.
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
  """Of a positive definite matrix; NaN if it is not."""
  factor = jax.scipy.linalg.cho_factor(a, lower=True)
  return jax.scipy.linalg.cho_solve(factor, jnp.eye(len(a), dtype=a.dtype))
