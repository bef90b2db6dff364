"""What the methods share: checks, who competes with whom, statistics scaled."""

import dataclasses
import functools
import math
from typing import Any, Callable

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse import patterns
from jaxsparse._utils import arguments
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.masks.selection import Kept
from jaxsparse.patterns import Pattern

product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def shows(test: Callable[[jax.Array], jax.Array], *arrays: Any) -> bool:
  """Whether any array passes a test, as far as values can be looked at.

  Traced ones, those of `jit` and `vmap`, cannot.
  """
  if any(isinstance(x, jax.core.Tracer) for x in arrays):
    return False
  with jax.ensure_compile_time_eval():  # Around us may be a trace of others.
    return any(bool(jnp.any(test(jnp.asarray(x)))) for x in arrays)


# Of arguments: what is no number is told here, and what is none of these there.
SPARSITY = arguments.number()
DAMPING = arguments.number(write='0.01')


def check_arrays(w: jax.Array, h: jax.Array, *same: jax.Array) -> None:
  """Raises if the weights or their `h` are not what every method takes."""
  check_weights(w)
  if h.shape != (w.shape[0],) * 2:
    raise ValueError(
        f'h is the sum of x x^T over inputs x, of shape {(w.shape[0],) * 2} '
        f'for weights of shape {w.shape}, [in, out], got {h.shape}. Write '
        'h = x.T @ x for inputs x [tokens, in].')
  for x in same:
    if x.shape != w.shape:
      raise ValueError(
          f'Weights and masks have one shape, got {w.shape} and {x.shape}.')
  check_numbers(h, 'h')


def check_weights(w: jax.Array) -> None:
  """Raises if `w` is no matrix of floats."""
  if w.ndim != 2:
    raise ValueError(
        f'Weights are a matrix [in, out], got the shape {w.shape}. For stacked '
        'layers write jax.vmap(method)(w, h); else reshape to [in, out].')
  if not w.size:
    raise ValueError(
        f'Weights of shape {w.shape} have nothing to prune. Leave them dense.')
  if not jnp.issubdtype(w.dtype, jnp.floating):
    raise ValueError(
        f'Weights must be floating, got {w.dtype}. Write e.g. '
        'w.astype(jnp.float32).')


def check_numbers(statistic: jax.Array, name: str) -> None:
  """Raises if a statistic is no array of finite floats, where one can see."""
  if not jnp.issubdtype(statistic.dtype, jnp.floating):
    raise ValueError(
        f'{name} must be floating, got {statistic.dtype}. Write '
        f'{name}.astype(jnp.float32).')
  if shows(lambda x: ~jnp.isfinite(x), statistic):
    raise ValueError(
        f'{name} has entries that are NaN or infinite. Sum it in float32, over '
        'batches whose activations are finite: x = x.astype(jnp.float32).')


def check_factor(w: jax.Array, damping: Any) -> None:
  """Raises if a factorization of `h` failed and left NaN in the weights `w`."""
  if shows(jnp.isnan, w):
    more = max(10 * float(damping), .01)
    raise ValueError(
        f'h is not positive definite with damping={float(damping):g}, or the '
        'weights have NaN. With too few inputs h is singular: write '
        f'damping={more:g}, or sum over more of them, in float32.')


def check_damping(damping: Any) -> None:
  if shows(lambda x: ~(x >= 0), damping):
    raise ValueError(
        'damping is a fraction of the mean diagonal of h and must be at least '
        f'0, got {damping}. Write e.g. damping=0.01.')


def along_inputs(pattern: Pattern, shape: tuple[int, ...]) -> Pattern:
  """The pattern, if its units and groups run along inputs alone."""
  unit = pattern.unit.tile(shape, f'unit of {pattern}')
  if (patterns.is_transposable(pattern) or pattern.unit.rest != 1
      or unit[1] > 1
      or not is_whole(pattern) and pattern.group_tile(shape)[1] > 1):
    raise ValueError(
        f'{pattern} has units or groups that span outputs, the second axis of '
        'weights [in, out]. Methods with statistics of inputs take patterns '
        'along inputs: unstructured(), nm(2, 4), nm(n, inputs) or '
        'block((4, 1)).')
  return pattern


def is_whole(pattern: Pattern) -> bool:
  """Whether all units of a matrix compete with each other."""
  return pattern.group == patterns.Tiling()


def within_outputs(pattern: Pattern) -> Pattern:
  """The same units, which compete with those of the same output."""
  return dataclasses.replace(
      pattern, group=patterns.Tiling(((-2, None),), rest=1))


def kept(pattern: Pattern, shape: tuple[int, ...],
         sparsity: float | jax.Array | None) -> Kept:
  """How many units each group keeps."""
  sparsity = pattern.sparsity if sparsity is None else sparsity
  if sparsity is None:
    raise ValueError(
        f'{pattern} has no sparsity of its own. To prune half write '
        'sparsity=0.5, or unstructured(0.5).')
  if isinstance(sparsity, (int, float)) and not 0 <= sparsity <= 1:
    raise ValueError(
        'sparsity is the fraction pruned and must lie in [0, 1], got '
        f'{sparsity}. For 50% pruned write 0.5.')
  return Kept(selection.kept_count(pattern.sizes(shape)[1], sparsity))


def on_the_way(pattern: Pattern, shape: tuple[int, ...], final: Kept,
               progress: jax.Array) -> Kept:
  """How many units each group keeps at a share of the way to `final`."""
  everything = counts.exactly(pattern.sizes(shape)[1])
  return Kept(counts.remaining(
      everything, counts.subtract(everything, final.count), progress))


def select(w: jax.Array, factors: jax.Array, pattern: Pattern, kept: Kept
           ) -> jax.Array:
  """The mask of the largest `|w| * factors`, with one factor for each input.

  Members of larger units count by their squares.
  """
  scores = jnp.abs(w) * factors[:, None]
  if math.prod(pattern.unit.tile(w.shape)) > 1:
    scores = jnp.square(scores)
  return selection.select(scores, pattern, kept)


def living(h: jax.Array) -> jax.Array:
  """Which inputs were ever other than zero; NaN counts as that."""
  return jnp.diagonal(h) != 0


def to_unit_diagonal(h: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`h` for inputs of norm one, and their norms; zeros where inputs are dead.

  Returns:
    `h` in float32 with a diagonal of 1 and 0, and the norms.
  """
  h = h.astype(jnp.float32)
  norms = jnp.sqrt(jnp.where(living(h), jnp.diagonal(h), 0.))
  inverse = jnp.where(living(h), 1 / norms, 0.)
  h = jnp.where(living(h)[:, None] & living(h)[None], h, 0.)
  return h * inverse[:, None] * inverse[None], norms


def damped(h: jax.Array, damping: jax.typing.ArrayLike) -> jax.Array:
  """`h` in float32, with `damping` of the mean diagonal; dead inputs stay 0."""
  h = h.astype(jnp.float32)
  live = living(h)
  h = jnp.where(live[:, None] & live[None], h, 0.)
  mean = jnp.diagonal(h).sum() / jnp.maximum(live.sum(), 1).astype(h.dtype)
  return h + jnp.diag(jnp.where(live, damping * mean, 0.))


def inverse_factor(h: jax.Array, damping: jax.typing.ArrayLike) -> jax.Array:
  """The upper triangular U with `U^T U = (h + damping * mean(diag h) I)^-1`.

  The released code inverts the matrix and factors the inverse. Here the matrix,
  its axes in reversed order, is factored and the factor inverted: one
  factorization instead of two, and the condition number counts once.

  Returns:
    U in float32, with rows and columns of the unit matrix for dead inputs; NaN
    where the matrix is not positive definite.
  """
  h = damped(h, damping)
  h += jnp.diag(jnp.where(living(h), 0., 1.))
  lower = jnp.linalg.cholesky(h[::-1, ::-1])
  return jax.scipy.linalg.solve_triangular(
      lower, jnp.eye(len(h), dtype=h.dtype), lower=True)[::-1, ::-1]
