"""ALPS: ADMM with a penalty that grows while its mask becomes stable."""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse.calibration import _common
from jaxsparse.calibration import _reconstruction
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks.selection import Kept
from jaxsparse.patterns import Pattern

_CHECK, _LEAST = 3, 30  # Steps between changes of the penalty; minimal steps.
_RESTED = 3e-4          # The share of kept weights that may change at the end.


@arguments.checked(
    sparsity=_common.SPARSITY, damping=_common.DAMPING,
    steps=arguments.step(1, '300'))
def alps(w: jax.Array, h: jax.Array, pattern: Pattern,
         sparsity: float | jax.Array | None = None, *, steps: int = 300,
         damping: float | jax.Array = 0.01) -> tuple[jax.Array, jax.Array]:
  """Pruned weights and their mask, by ADMM with a growing penalty.

  The inputs are scaled to norm one: G is the damped `h` with a unit diagonal,
  and W is `w` times the norms. From D = W on its own mask, V = 0 and rho = 0.1,
  the iteration is

    B = (G + rho I)^-1 (G W - V + rho D)
    D = B + V / rho on the mask of its largest, 0 elsewhere
    V = V + rho (B - D)

  Every three steps the penalty rho is multiplied by 1.3 if more than 10% of the
  kept weights have changed since the last time, by 1.2 if more than 0.5% have,
  and by 1.1 if any have. As long as no such check has found more than 0.5%, rho
  is divided by 5 instead, and if any kept weight has changed, the iteration
  starts anew. The iteration ends when no kept weight changes or, after 30
  steps, when fewer than 0.03% do. Ten steps of `refit` follow.

  All weights of a matrix, or of a group, compete. Counts are exact, and of
  equal scores the lower index is kept. Inputs that are zero in all data score
  zero, and their kept weights do not change. All computations are in float32.

  Args:
    w: the weights, `[in, out]`. Use `jax.vmap` for stacked layers and experts.
    h: the sum of `x x^T` over inputs x, `[in, in]`, up to a factor.
    pattern: a pattern whose units and groups run along the inputs, such as
      `unstructured()`, `nm(2, 4)` or `block((4, 1))`.
    sparsity: the fraction pruned; `None` takes the sparsity of the pattern.
    steps: the largest number of steps.
    damping: the constant added to the diagonal of `h`, as a fraction of its
      mean.

  Returns:
    The weights, in their dtype and zero where pruned, and a bool array of the
    same shape, True where kept. Under `jit` and `vmap` kept weights are NaN
    where `h` has NaN; outside of them that is an error.

  Raises:
    ValueError: if shapes do not fit, weights are not floating, the pattern
      spans outputs, the sparsity is missing, or `h` has NaN.

  References:
    Meng et al., `ALPS: Improved Optimization for Highly Sparse One-Shot Pruning
    for Large Language Models <https://arxiv.org/abs/2406.07831>`_, 2024. The
    released code decomposes `h` in float64.

  >>> from jaxsparse import unstructured
  >>> w = jnp.array([[5.], [20.], [10.]])
  >>> h = jnp.array([[2., 1., 0.], [1., 3., 1.], [0., 1., 2.]])
  >>> v, mask = alps(w, h, unstructured(1 / 3), damping=0.)
  >>> print(v[:, 0].round(), mask[:, 0])
  [ 0. 22.  9.] [False  True  True]
  """
  _common.check_arrays(w, h)
  _common.check_damping(damping)
  if not steps >= 1:
    raise ValueError(
        f'alps needs steps >= 1, got steps={steps}. Write e.g. steps=300.')
  pattern = _common.along_inputs(pattern, w.shape)
  pruned, mask = _alps(w, h, _common.kept(pattern, w.shape, sparsity), damping,
                       steps, pattern=pattern)
  _common.check_factor(pruned, damping)
  return pruned, mask


class _Turn(NamedTuple):
  """The variables of the iteration, named as in the formulas."""
  t: jax.Array
  b: jax.Array
  d: jax.Array
  v: jax.Array
  rho: jax.Array
  mask: jax.Array   # The mask of d.
  seen: jax.Array   # The mask of d at the last change of rho.
  grown: jax.Array  # Whether rho ever grew.
  rests: jax.Array


@functools.partial(jax.jit, static_argnames='pattern')
def _alps(w: jax.Array, h: jax.Array, kept: Kept, damping: float | jax.Array,
          steps: int | jax.Array, *, pattern: Pattern
          ) -> tuple[jax.Array, jax.Array]:
  h = _common.damped(h, damping)
  g, norms = _common.to_unit_diagonal(h)
  values, vectors = jnp.linalg.eigh(g)
  target = w.astype(jnp.float32) * norms[:, None]
  project = functools.partial(
      _common.select, factors=jnp.ones_like(norms), pattern=pattern, kept=kept)

  def solve(x, rho):
    x = _common.product(vectors.T, x) / (values + rho)[:, None]
    return _common.product(vectors, x)

  def turn(c):
    # G W is (G + rho I) W - rho W, so that rounding vanishes if D is W.
    b = target + solve(c.rho * (c.d - target) - c.v, c.rho)
    x = b + c.v / c.rho
    mask = project(x)
    d = jnp.where(mask, x, 0.)
    c = c._replace(t=c.t + 1, b=b, d=d, v=c.v + c.rho * (b - d), mask=mask)
    return lax.cond(c.t % _CHECK == 0, change, lambda c: c, c)

  def change(c):
    moved, size = (counts.to_float(counts.total(x, (0, 1))).reshape(())
                   for x in (c.mask != c.seen, c.mask))
    share = moved / jnp.maximum(size, 1.)
    grown = c.grown | (share > .005)
    again = ~grown & (moved > 0)
    growth = jnp.where(share > .1, 1.3, jnp.where(share > .005, 1.2, 1.1))
    rho = jnp.where(grown, jnp.minimum(c.rho * growth, 1e6), c.rho / 5)
    return c._replace(
        rho=rho, seen=c.mask, grown=grown,
        d=jnp.where(again, jnp.where(first, target, 0.), c.d),
        v=jnp.where(again, 0., c.v),
        rests=(grown & (moved == 0)) | ((c.t > _LEAST) & (share < _RESTED)))

  first = project(target)
  no = jnp.bool_(False)
  c = lax.while_loop(
      lambda c: (c.t < steps) & ~c.rests, turn,
      _Turn(jnp.int32(0), target, jnp.where(first, target, 0.),
            jnp.zeros_like(target), jnp.float32(.1), first, first, no, no))
  mask = project(c.b)
  start = c.b / jnp.where(norms == 0, 1., norms)[:, None]
  start = jnp.where(norms[:, None] == 0, w.astype(jnp.float32), start)
  fitted = _reconstruction.fit(
      w.astype(jnp.float32), h, mask, start, 10, 1e-4)
  return fitted.astype(w.dtype), mask
