"""Shared by the methods: checks, competition of weights, scaled statistics."""

import dataclasses
import functools
import math
from typing import Any, Callable

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import patterns
from jaxsparse._utils import arguments
from jaxsparse._utils import tables
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.masks.selection import Kept
from jaxsparse.patterns import Pattern

product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def shows(test: Callable[[jax.Array], jax.Array], *arrays: Any) -> bool:
  """Whether any array passes a test; traced arrays are not tested.

  The values of arrays inside of `jit` and `vmap` are not known.
  """
  if any(isinstance(x, jax.core.Tracer) for x in arrays):
    return False
  with jax.ensure_compile_time_eval():  # The caller may trace other arrays.
    return any(bool(jnp.any(test(jnp.asarray(x)))) for x in arrays)


# The check of arguments: numbers only; `kept` checks the range.
SPARSITY = arguments.number()
DAMPING = arguments.number(write='0.01')


def check_arrays(w: jax.Array, h: jax.Array, *same: jax.Array) -> None:
  """Raises if the weights or their `h` have a wrong shape or dtype."""
  check_weights(w)
  if h.shape != (w.shape[0],) * 2:
    raise ValueError(
        f'h, the sum of x x^T over inputs x, must have the shape '
        f'{(w.shape[0],) * 2} for weights of shape {w.shape}, [in, out], got '
        f'{h.shape}. Write h = x.T @ x for inputs x [tokens, in].')
  for x in same:
    if x.shape != w.shape:
      raise ValueError(
          f'Weights and masks must have the same shape, got {w.shape} and '
          f'{x.shape}. Write e.g. mask = jnp.ones(w.shape, bool).')
  check_numbers(h, 'h')


def check_weights(w: jax.Array) -> None:
  """Raises if `w` is not a matrix of floats."""
  if w.ndim != 2:
    raise ValueError(
        f'Weights must be a matrix [in, out], got the shape {w.shape}. For '
        'stacked layers write jax.vmap(method)(w, h); else reshape to '
        '[in, out].')
  if not w.size:
    raise ValueError(
        f'Weights must have entries to prune, got the shape {w.shape}. Leave '
        'these weights dense.')
  if not jnp.issubdtype(w.dtype, jnp.floating):
    raise ValueError(
        f'Weights must be floating, got {w.dtype}. Write e.g. '
        'w.astype(jnp.float32).')


def check_numbers(statistic: jax.Array, name: str) -> None:
  """Raises if a statistic is not floating or, outside of `jit`, not finite."""
  if not jnp.issubdtype(statistic.dtype, jnp.floating):
    raise ValueError(
        f'{name} must be floating, got {statistic.dtype}. Write '
        f'{name}.astype(jnp.float32).')
  if shows(lambda x: ~jnp.isfinite(x), statistic):
    raise ValueError(
        f'{name} must be finite, but has NaN or infinite entries. Sum it in '
        'float32, over batches with finite activations: write e.g. '
        'x = x.astype(jnp.float32).')


def check_factor(w: jax.Array, damping: Any) -> None:
  """Raises if a factorization of `h` failed and left NaN in the weights `w`."""
  if shows(jnp.isnan, w):
    more = max(10 * float(damping), .01)
    raise ValueError(
        f'h is not positive definite with damping={float(damping):g}, or the '
        'weights have NaN. With too few inputs h is singular: write '
        f'damping={more:g}, or sum h over more inputs, in float32.')


def check_damping(damping: Any) -> None:
  if shows(lambda x: ~(x >= 0), damping):
    raise ValueError(
        'damping must be a fraction of the mean diagonal of h, at least 0, got '
        f'{damping}. Write e.g. damping=0.01.')


def along_inputs(pattern: Pattern, shape: tuple[int, ...]) -> Pattern:
  """The pattern; raises unless its units and groups run along inputs alone."""
  unit = pattern.unit.tile(shape, f'unit of {pattern}')
  if (patterns.is_transposable(pattern) or pattern.unit.rest != 1
      or unit[1] > 1
      or not is_whole(pattern) and pattern.group_tile(shape)[1] > 1):
    raise ValueError(
        'Methods with statistics of inputs need patterns along inputs, the '
        f'first axis of weights [in, out], but {pattern} has units or groups '
        'that span outputs. Write e.g. unstructured(), nm(2, 4) or '
        'block((4, 1)).')
  return pattern


def is_whole(pattern: Pattern) -> bool:
  """Whether all units of a matrix compete with each other."""
  return pattern.group == patterns.Tiling()


def within_outputs(pattern: Pattern) -> Pattern:
  """The pattern with the same units, which compete within each output."""
  return dataclasses.replace(
      pattern, group=patterns.Tiling(((-2, None),), rest=1))


def check_fraction(sparsity: Any) -> None:
  """Raises if one of the fractions is none; traced ones are not known."""
  if not isinstance(sparsity, jax.core.Tracer) and not np.all(
      (np.asarray(sparsity) >= 0) & (np.asarray(sparsity) <= 1)):
    raise ValueError(
        'sparsity must be the fraction pruned, in [0, 1], got '
        f'{tables.brief(sparsity)}. To prune 50%, write sparsity=0.5.')


def kept(pattern: Pattern, shape: tuple[int, ...],
         sparsity: float | jax.Array | None) -> Kept:
  """The number of units that each group keeps."""
  sparsity = pattern.sparsity if sparsity is None else sparsity
  if sparsity is None:
    raise ValueError(
        f'A sparsity is needed, because {pattern} has no sparsity of its own. '
        'To prune half, write sparsity=0.5 or unstructured(0.5).')
  check_fraction(sparsity)
  return Kept(selection.kept_count(pattern.sizes(shape)[1], sparsity))


def on_the_way(pattern: Pattern, shape: tuple[int, ...], final: Kept,
               progress: jax.Array) -> Kept:
  """The number of units each group keeps, at a progress towards `final`."""
  everything = counts.exactly(pattern.sizes(shape)[1])
  return Kept(counts.remaining(
      everything, counts.subtract(everything, final.count), progress))


def select(w: jax.Array, factors: jax.Array, pattern: Pattern, kept: Kept
           ) -> jax.Array:
  """The mask of the largest `|w| * factors`, with one factor for each input.

  The score of a larger unit is the sum of squares of its members.
  """
  scores = jnp.abs(w) * factors[:, None]
  if math.prod(pattern.unit.tile(w.shape)) > 1:
    scores = jnp.square(scores)
  return selection.select(scores, pattern, kept)


def living(h: jax.Array) -> jax.Array:
  """Whether each input was ever nonzero; NaN counts as nonzero."""
  return jnp.diagonal(h) != 0


def to_unit_diagonal(h: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`h` scaled to inputs of norm one, and the norms; both 0 for dead inputs.

  Returns:
    `h` in float32, with a diagonal of 1, or of 0 for dead inputs; and the
    norms.
  """
  h = h.astype(jnp.float32)
  norms = jnp.sqrt(jnp.where(living(h), jnp.diagonal(h), 0.))
  inverse = jnp.where(living(h), 1 / norms, 0.)
  h = jnp.where(living(h)[:, None] & living(h)[None], h, 0.)
  return h * inverse[:, None] * inverse[None], norms


def damped(h: jax.Array, damping: jax.typing.ArrayLike) -> jax.Array:
  """`h` in float32 plus `damping` times its mean diagonal, except dead inputs.
  """
  h = h.astype(jnp.float32)
  live = living(h)
  h = jnp.where(live[:, None] & live[None], h, 0.)
  mean = jnp.diagonal(h).sum() / jnp.maximum(live.sum(), 1).astype(h.dtype)
  return h + jnp.diag(jnp.where(live, damping * mean, 0.))


def inverse_factor(h: jax.Array, damping: jax.typing.ArrayLike) -> jax.Array:
  """The upper triangular U with `U^T U = (h + damping * mean(diag h) I)^-1`.

  The released code inverts the matrix and factors the inverse. Here the matrix
  is factored, with its axes in reversed order, and the factor is inverted. This
  takes one factorization instead of two, and the rounding error grows with the
  condition number once instead of twice.

  Returns:
    U in float32, with rows and columns of the unit matrix for dead inputs; NaN
    if the matrix is not positive definite.
  """
  h = damped(h, damping)
  h += jnp.diag(jnp.where(living(h), 0., 1.))
  lower = jnp.linalg.cholesky(h[::-1, ::-1])
  return jax.scipy.linalg.solve_triangular(
      lower, jnp.eye(len(h), dtype=h.dtype), lower=True)[::-1, ::-1]
