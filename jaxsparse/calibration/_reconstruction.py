"""The error of a matrix's outputs, and the weights that minimise it."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse.calibration import _common


@arguments.checked()
def reconstruction_error(w: jax.Array, v: jax.Array, h: jax.Array) -> jax.Array:
  """The squared error of outputs, relative to the squares of the outputs.

    tr((w - v)^T h (w - v)) / tr(w^T h w) = |X (w - v)|^2 / |X w|^2

  Args:
    w: the dense weights, `[in, out]`.
    v: the pruned weights, of the same shape and of any dtype.
    h: the sum of `x x^T` over inputs x, `[in, in]`, up to a factor.

  Returns:
    A float32 scalar: 0 for equal outputs, 1 for `v` of zeros.

  Raises:
    ValueError: if shapes do not fit, weights are not floating, or `h` has NaN.

  >>> w = jnp.array([[3.], [4.]])
  >>> print(reconstruction_error(w, w.at[0].set(0.), jnp.eye(2)))
  0.36
  """
  _common.check_arrays(w, h, v)
  _common.check_weights(v)
  return _reconstruction_error(w, v, h)


@jax.jit
def _reconstruction_error(w: jax.Array, v: jax.Array, h: jax.Array
                          ) -> jax.Array:
  w, v, h = (x.astype(jnp.float32) for x in (w, v, h))
  error = jnp.sum((w - v) * _common.product(h, w - v))
  of = jnp.sum(w * _common.product(h, w))
  return jnp.where(error == 0, 0., error / of)


@arguments.checked(
    steps=arguments.step(0, '100'),
    tolerance=arguments.number(0))
def refit(w: jax.Array, h: jax.Array, mask: jax.Array, *,
          start: jax.Array | None = None, steps: int = 50,
          tolerance: float | jax.Array = 1e-4) -> jax.Array:
  """The kept weights whose outputs are closest to those of the dense weights.

    argmin over v, zero outside of the mask, of tr((v - w)^T h (v - w))

  The solver is conjugate gradients on the kept weights. It treats all outputs
  at once, with a step size for each, and scales inputs to norm one. Errors fall
  from step to step. If rounding makes the error of an output grow, this output
  keeps its start, so no output becomes worse. Weights of inputs that are zero
  in all data do not change. All computations are in float32.

  Args:
    w: the weights before pruning, `[in, out]`. Use `jax.vmap` for stacked
      layers and experts.
    h: the sum of `x x^T` over inputs x, `[in, in]`, up to a factor. With fewer
      inputs x than weights of an output, add a constant to its diagonal, or use
      few steps, because the exact solution overfits these inputs.
    mask: a bool array of the shape of `w`, True where kept.
    start: the initial weights, such as those of `sparsegpt`; `None` for `w`.
    steps: the largest number of steps; each costs one product with `h`.
    tolerance: an output is finished when its gradient is smaller than this
      fraction of its gradient at zero weights.

  Returns:
    The weights, in their dtype and zero where pruned. Under `jit` and `vmap`
    they are NaN where `h` has NaN; outside of them that is an error.

  Raises:
    ValueError: if shapes do not fit, weights are not floating, the mask is not
      bool, or `h` has NaN.

  References:
    Meng et al., `ALPS: Improved Optimization for Highly Sparse One-Shot Pruning
    for Large Language Models <https://arxiv.org/abs/2406.07831>`_, 2024, ends
    with these steps. The released code adds damping, makes 10 steps, and stops
    for all outputs together.

  >>> x = jnp.array([[1., 1.], [0., 1.]])
  >>> w = jnp.array([[1.], [2.]])
  >>> print(refit(w, x.T @ x, jnp.array([[False], [True]]))[:, 0])
  [0.  2.5]
  """
  same = (mask,) if start is None else (mask, start)
  _common.check_arrays(w, h, *same)
  if mask.dtype != jnp.bool_:
    raise ValueError(
        f'A mask must be bool, True where kept, got {mask.dtype}. Write '
        'mask != 0.')
  if start is not None:
    _common.check_weights(start)
  return fit(w, h, mask, w if start is None else start, steps, tolerance)


@jax.jit
def fit(w: jax.Array, h: jax.Array, mask: jax.Array, start: jax.Array,
        steps: int | jax.Array, tolerance: float | jax.Array) -> jax.Array:
  """`refit` without its checks."""
  h, norms = _common.to_unit_diagonal(h)
  target, first = (jnp.where(kept, x.astype(jnp.float32) * norms[:, None], 0.)
                   for x, kept in ((w, True), (start, mask)))
  along = functools.partial(jnp.sum, axis=0, keepdims=True)
  slope = _common.product(h, target - first)
  before = along((target - first) * slope)
  zero = jnp.where(mask, _common.product(h, target), 0.)
  # Below rounding, further steps would shrink only a computed gradient.
  limit = jnp.maximum(tolerance, jnp.finfo(h.dtype).eps)**2 * along(zero**2)
  # Rounding gives a small curvature to directions that no input has.
  flat = len(h) * jnp.finfo(h.dtype).eps

  def is_on(carry):
    return (carry[0] < steps) & carry[-1].any()

  def step(carry):
    i, change, r, p, square, on = carry
    hp = jnp.where(mask, _common.product(h, p), 0.)
    curvature = along(p * hp)
    on = on & (curvature > flat * along(p**2))
    size = jnp.where(on, square / jnp.where(on, curvature, 1.), 0.)
    change, r = change + size * p, r - size * hp
    new = along(r**2)
    p = r + jnp.where(on, new / jnp.where(on, square, 1.), 0.) * p
    return i + 1, change, r, jnp.where(on, p, 0.), new, on & (new > limit)

  r = jnp.where(mask, slope, 0.)
  square = along(r**2)
  _, change, *_ = lax.while_loop(is_on, step, (
      jnp.int32(0), jnp.zeros_like(r), r, r, square, square > limit))
  left = target - first - change
  after = along(left * _common.product(h, left))
  change = jnp.where(after > before, 0., change)
  change = jnp.where(jnp.isnan(after), jnp.nan, change)
  change = jnp.where(norms[:, None] == 0, 0., change) / jnp.where(
      norms == 0, 1., norms)[:, None]
  return jnp.where(mask, start.astype(jnp.float32) + change, 0.).astype(w.dtype)
