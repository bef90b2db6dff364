"""SparseGPT: prunes input by input; later weights compensate the error."""

import functools
from typing import Any, Callable, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse._utils.tables import brief
from jaxsparse.calibration import _common
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks.selection import Kept
from jaxsparse.patterns import Pattern

_STEP = 16  # Inputs whose weights fit a cache; used if no groups set a size.
_Result = tuple[jax.Array, jax.Array, jax.Array]  # Weights, mask and errors.


@arguments.checked(sparsity=_common.SPARSITY, damping=_common.DAMPING)
def sparsegpt(w: jax.Array, h: jax.Array, pattern: Pattern,
              sparsity: float | jax.Array | None = None, *,
              damping: float | jax.Array = 0.01, block: int | None = None,
              compete: str = 'matrix') -> tuple[jax.Array, jax.Array]:
  """Pruned weights and their mask; kept weights compensate for pruned ones.

    U^T U = (h + damping * mean(diag h) I)^-1,   U upper triangular
    score[i, j] = (w[i, j] / U[i, i])^2
    for each input i: e = pruned part of w[i] / U[i, i],   w[i:] -= U[i, i:]^T e

  Inputs are pruned from the first to the last. Scores are computed after the
  compensation for all earlier inputs: for N:M once per group, and if all
  weights of the matrix or of an output compete, once per block of inputs.

  Each group keeps exactly `round((1 - sparsity) * size)` units, and of equal
  scores the lower index is kept. Inputs that are zero in all data score zero,
  and their kept weights do not change. All computations are in float32.

  Args:
    w: the weights, `[in, out]`. Use `jax.vmap` for stacked layers and experts.
    h: the sum of `x x^T` over inputs x, `[in, in]`, up to a factor.
    pattern: a pattern whose units and groups run along the inputs, such as
      `unstructured()`, `nm(2, 4)` or `block((4, 1))`.
    sparsity: the fraction pruned; `None` takes the sparsity of the pattern.
    damping: the constant added to the diagonal of `h`, as a fraction of its
      mean.
    block: the number of inputs in a block, rounded to a multiple of N:M groups.
      `None` is a 32nd of the inputs, between 16 and 128, because masks of fewer
      than thousands of inputs are much better with small blocks. The paper's
      number is 128.
    compete: the rule for the number of kept weights of a block, if all weights
      of the matrix or of an output compete. 'matrix' (default) keeps as many as
      a mask from the scores before any pruning would. 'block' keeps the same
      share of every block, as in the paper.

  Returns:
    The weights, in their dtype and zero where pruned, and a bool array of the
    same shape, True where kept. Under `jit` and `vmap` kept weights are NaN
    where `h` is not positive definite; outside of them that is an error.

  Raises:
    ValueError: if shapes do not fit, weights are not floating, the pattern
      spans outputs, the sparsity is missing, `h` has NaN or, with its damping,
      is not positive definite.

  References:
    Frantar and Alistarh, `SparseGPT: Massive Language Models Can Be Accurately
    Pruned in One-Shot <https://arxiv.org/abs/2301.00774>`_, 2023. The released
    code prunes one more weight in each block, and all weights with an equal
    score. It sets kept weights of dead inputs to zero, and counts these inputs
    in the mean diagonal. It factors the inverse of `h`; here the factor is
    inverted. A fixed share of every block, as in the paper, works badly if
    norms of inputs grow along the axis; it can then be worse than Wanda, which
    changes no weight.

  >>> from jaxsparse import unstructured
  >>> w = jnp.array([[5.], [20.], [10.]])
  >>> h = jnp.array([[2., 1., 0.], [1., 3., 1.], [0., 1., 2.]])
  >>> v, mask = sparsegpt(w, h, unstructured(1 / 3), damping=0.)
  >>> print(v[:, 0].round(), mask[:, 0])
  [ 0. 22.  9.] [False  True  True]
  """
  _common.check_arrays(w, h)
  _common.check_damping(damping)
  if compete not in ('matrix', 'block'):
    raise ValueError(
        f"compete must be 'matrix' or 'block', got {brief(compete)}. Write "
        "e.g. compete='block' for the same share of every block.")
  if block is None:
    block = min(max(w.shape[0] // 32, 16), 128)
  if type(block) is not int or block < 1:
    raise ValueError(
        f'block must be a number of inputs, at least 1, got {brief(block)}. '
        'Write e.g. block=128.')
  pattern = _common.along_inputs(pattern, w.shape)
  sizes = _sizes(pattern, w.shape, block)
  kept = _common.kept(pattern, w.shape, sparsity)
  pruned, mask = _sparsegpt(w, h, kept, damping, pattern=pattern, sizes=sizes,
                            compete=compete)
  _common.check_factor(pruned, damping)
  return pruned, mask


class _Sizes(NamedTuple):
  """The numbers of inputs that are processed at once.

  Attributes:
    block: the inputs of a block, a multiple of `step`. Weights of later blocks
      are updated at the end of a block.
    step: the inputs of a step: whole units, and whole groups unless
      `blocks_choose`.
    blocks_choose: whether groups are the whole matrix or whole outputs. Masks
      are then chosen per block, with a given number of kept units.
  """
  block: int
  step: int
  blocks_choose: bool


def _sizes(pattern: Pattern, shape: tuple[int, ...], block: int) -> _Sizes:
  unit = pattern.unit.tile(shape)[0]
  group = unit * pattern.group_tile(shape)[0]
  blocks_choose = _common.is_whole(pattern) or group == shape[0] > block
  step = unit * max(_STEP // unit, 1) if blocks_choose else group
  step = max(step, 1)
  steps = min(block // step, -(-shape[0] // step))
  return _Sizes(step * max(steps, 1), step, blocks_choose)


def _shares(mask: jax.Array, unit: int, whole: bool) -> Kept:
  """The kept units of each block of a mask `[blocks, inputs, out]`.

  If `whole`, units are counted in the whole block. Otherwise the result is the
  number in each output: the mean over outputs, rounded such that the sum over
  blocks does not change.
  """
  found = counts.total(mask[:, ::unit], (1, 2))
  found = counts.Count(found.hi.reshape(-1), found.lo.reshape(-1))
  if whole:
    return Kept(found)
  out = mask.shape[2]
  ends = (jnp.cumsum((found.hi << 16) + found.lo, dtype=jnp.uint32)
          + jnp.uint32(out // 2)) // jnp.uint32(out)
  return _differences(counts.Count(ends >> 16, ends & 0xFFFF))


def _equal_shares(kept: Kept, sizes: _Sizes, inputs: int) -> Kept:
  """The number of units that each block keeps at equal sparsities."""
  ends = [min(i + sizes.block, inputs) / inputs
          for i in range(0, inputs, sizes.block)]
  return _differences(counts.share_of(
      jax.tree.map(lambda n: jnp.broadcast_to(n, len(ends)), kept.count),
      jnp.array(ends, jnp.float32)))


def _differences(ends: counts.Count) -> Kept:
  """The differences of running sums, the inverse of a cumulative sum."""
  starts = jax.tree.map(lambda n: jnp.pad(n[:-1], (1, 0)), ends)
  return Kept(counts.subtract(ends, starts))


@functools.partial(jax.jit, static_argnames=('pattern', 'sizes', 'compete'))
def _sparsegpt(w: jax.Array, h: jax.Array, kept: Kept,
               damping: float | jax.Array, *, pattern: Pattern, sizes: _Sizes,
               compete: str) -> tuple[jax.Array, jax.Array]:
  inputs = len(w)
  more = -inputs % sizes.block
  blocks = (inputs + more) // sizes.block
  fill = functools.partial(jnp.pad, pad_width=((0, more), (0, 0)))
  rows = w.astype(jnp.float32)
  factor = _common.inverse_factor(h, damping)
  scale = jnp.where(_common.living(h), 1 / jnp.diagonal(factor), 0.)

  choice = None  # The number that each block keeps, if blocks choose.
  whole = _common.is_whole(pattern)
  of_blocks = pattern if whole else _common.within_outputs(pattern)
  if sizes.blocks_choose and compete == 'matrix':
    ahead = fill(_common.select(rows, scale, pattern, kept))
    choice = _shares(ahead.reshape(blocks, sizes.block, -1),
                     pattern.unit.tile(w.shape)[0], whole)
  elif sizes.blocks_choose:
    choice = _equal_shares(kept, sizes, inputs)

  def of_step(rows, factor, scale, mask):
    if mask is None:
      mask = _common.select(rows, scale, pattern, kept)
    return _one_by_one(rows, factor, mask)

  def of_block(rows, factor, scale, choice):
    mask = None
    if choice is not None:
      mask = _common.select(rows, scale, of_blocks, choice).reshape(
          -1, sizes.step, rows.shape[1])
    return _in_turn(of_step, rows, factor, scale.reshape(-1, sizes.step), mask)

  # The padding is NaN, which is pruned first.
  factor = jnp.pad(factor, (0, more)) + jnp.diag(jnp.pad(
      jnp.zeros_like(scale), (0, more), constant_values=1.))
  scale = jnp.pad(scale, (0, more), constant_values=jnp.nan)
  pruned, mask, _ = _in_turn(
      of_block, fill(rows), factor, scale.reshape(blocks, -1), choice)
  return pruned[:inputs].astype(w.dtype), mask[:inputs]


def _in_turn(treat: Callable[..., _Result], rows: jax.Array, factor: jax.Array,
             *each: Any) -> _Result:
  """Processes parts of the inputs in order, each after all earlier errors.

  Args:
    treat: a function from the weights of a part, its square part of the factor,
      and its entries of `each` to weights, mask and errors.
    rows: the weights, `[in, out]`.
    factor: the factor, upper triangular, `[in, in]`.
    *each: trees of arrays whose first axis indexes parts, or `None`.
  """
  parts = len(each[0])
  size = len(rows) // parts

  def one(errors, x):
    i, part, more = x
    columns = lax.dynamic_slice_in_dim(factor, i * size, size, axis=1)
    own = lax.dynamic_slice_in_dim(columns, i * size, size)
    part -= _common.product(columns.T, errors)  # Later errors are still 0.
    part, mask, error = treat(part, own, *more)
    return lax.dynamic_update_slice_in_dim(
        errors, error, i * size, axis=0), (part, mask)

  errors, (done, mask) = lax.scan(one, jnp.zeros_like(rows), (
      jnp.arange(parts), rows.reshape(parts, size, -1), each))
  return done.reshape(rows.shape), mask.reshape(rows.shape), errors


def _one_by_one(rows: jax.Array, factor: jax.Array, mask: jax.Array) -> _Result:
  """Prunes a few inputs one by one, and updates all of them each time."""
  def one(i, carry):
    rows, errors = carry
    error = jnp.where(mask[i], 0., rows[i]) / factor[i, i]
    return rows - factor[i][:, None] * error[None], errors.at[i].set(error)
  rows, errors = lax.fori_loop(
      0, len(rows), one, (rows, jnp.zeros_like(rows)))
  return jnp.where(mask, rows, 0.), mask, errors
