"""Selection: from scores and a pattern to a mask. True means kept.

Every mask of the library is made here. The scores are summed over units, each
group keeps its highest units (`topk`, or `_transposable` for transposable
patterns), and the entry of a unit is repeated for all its members.
"""

import collections
import functools
import math
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse._utils.tables import brief
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.masks import _networks
from jaxsparse.masks import _transposable
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import topk
from jaxsparse.masks import whole
from jaxsparse.masks.remade import jitted_outside
from jaxsparse.masks.remade import Remade
from jaxsparse.patterns import DYNAMIC_SPARSITY
from jaxsparse.patterns import Pattern


class Kept(NamedTuple):
  """The exact number of units that every group keeps, from a distribution.

  Attributes:
    count: the number of kept units, exact beyond float precision.
    found: the finished search for the threshold, if the distribution made one
      (for example over several layers); `select` then uses its threshold.
  """
  count: counts.Count
  found: topk.Bracket | None = None


_SPARSITY = arguments.any_of(DYNAMIC_SPARSITY, arguments.Check(
    lambda value: isinstance(value, Kept)
    and isinstance(value.count, counts.Count), 'the Kept of a distribution'))


def unit_scores(scores: jax.Array, pattern: Pattern) -> jax.Array:
  """One score per unit, in the shape of the grid of units.

  Sums and means are taken in float32 or wider.
  """
  if not jnp.issubdtype(scores.dtype, jnp.floating):
    raise ValueError(
        f'Scores must be floating, got {scores.dtype}. Write e.g. '
        'scores.astype(jnp.float32).')
  if scores.dtype.itemsize == 1:  # The 8-bit floats.
    scores = scores.astype(jnp.float32)
  unit = pattern.unit.tile(scores.shape, f'unit of {pattern}')
  if math.prod(unit) == 1:
    return scores
  x = numerics.split_axes(scores, unit)
  axes = tuple(range(1, x.ndim, 2))
  if pattern.reduce == 'max':  # A NaN makes its unit NaN, as in a sum.
    return jnp.where(jnp.isnan(x).any(axes), jnp.nan, x.max(axes))
  x = numerics.wide(x).sum(axes)
  return x / math.prod(unit) if pattern.reduce == 'mean' else x


def keep_units(units: jax.Array, pattern: Pattern, shape: tuple[int, ...],
               kept: Kept, one: bool = False) -> jax.Array:
  """Marks the kept units on the grid of units of a weight of `shape`.

  `one` says that each group keeps one unit, known while tracing.
  """
  if _is_whole(pattern, shape):
    return keep_units_each(
        Remade(lambda: [units]), [pattern], [shape], [kept])[0]
  tile = pattern.group_tile(shape)
  if pattern.per_line is not None:
    return numerics.join_axes(_transposable.keep_highest(
        numerics.split_axes(units, tile), kept.count.lo, pattern.per_line))
  long = [a for a, t in enumerate(tile) if t > 1]
  x = numerics.split_axes(units, tile)
  axes = tuple(range(1, x.ndim, 2))

  def general(x):
    return topk.keep_highest(x, kept.count, axes)

  axis = 2 * long[0] + 1 if len(long) == 1 else None
  # The others compare entries side by side, which would be on other devices.
  if axis is None or numerics.shards(x)[axis] > 1:
    return numerics.join_axes(general(x))
  size = x.shape[axis]

  if size < 16:
    return numerics.join_axes(topk.keep_highest_of_few(x, kept.count.lo, axis))
  if one:
    return numerics.join_axes(topk.keep_best(x, axis))
  if size <= _networks.LARGEST:
    return numerics.join_axes(_networks.keep_highest(x, kept.count.lo, axis))
  return numerics.join_axes(lax.cond(
      (kept.count.hi == 0) & (kept.count.lo == 1),
      lambda x: topk.keep_best(x, axis), general, x))


def _is_whole(pattern: Pattern, shape: tuple[int, ...]) -> bool:
  """Whether all units of a weight compete with each other in one group."""
  return pattern.per_line is None and (
      pattern.group_tile(shape) == pattern.grid(shape))


def keep_units_each(units: Remade, patterns: Sequence[Pattern],
                    shapes: Sequence[tuple[int, ...]], kept: Sequence[Kept]
                    ) -> list[jax.Array]:
  """`keep_units` for several weights; weights without groups share one search.
  """
  made: dict[int, jax.Array] = {}
  together = collections.defaultdict(list)
  for i, (x, pattern, shape, k) in enumerate(
      zip(units.shapes, patterns, shapes, kept)):
    if not _is_whole(pattern, shape):
      made[i] = keep_units(units.some([i])()[0], pattern, shape, k)
      continue
    searched = x.dtype if k.found is None else topk.searched_as(
        x.dtype, k.found)
    together[searched, k.found is None].append(i)
  for (dtype, new), places in together.items():
    xs = units.some(places).astype(dtype)
    n = counts.stack([kept[i].count for i in places])
    if new:
      masks = whole.keep_highest_each(xs, n)
    else:
      found = topk.stack([kept[i].found for i in places])
      masks = whole.cut_each(xs, found, counts.subtract(n, found.above))
    made.update(zip(places, masks))
  return [made[i] for i in range(len(kept))]


def spread(mask: jax.Array, pattern: Pattern, shape: tuple[int, ...]
           ) -> jax.Array:
  """From units to weights: repeats each unit's entry over its members."""
  unit = pattern.unit.tile(shape)
  if math.prod(unit) == 1:
    return mask
  mask = mask.reshape(tuple(s for n in mask.shape for s in (n, 1)))
  full = tuple(s for n, t in zip(mask.shape[::2], unit) for s in (n, t))
  return numerics.join_axes(jnp.broadcast_to(mask, full))


def final_count(units: int, sparsity: float) -> int:
  """`round((1 - sparsity) * units)`, halves to even, in Python's numbers."""
  return round((1 - sparsity) * units)


def kept_count(units: int, sparsity: float | jax.Array) -> counts.Count:
  """`final_count` as an exact count; the sparsity may be traced."""
  if isinstance(sparsity, (int, float)):
    return counts.exactly(final_count(units, sparsity))
  everything = counts.exactly(units)
  return counts.remaining(everything, everything, sparsity)


def on_the_way(units: int, final: int, progress: jax.typing.ArrayLike) -> Kept:
  """The count of kept units, at a progress between all units and `final`."""
  return on_the_way_each([units], [final], progress)[0]


def on_the_way_each(units: Sequence[int], finals: Sequence[int],
                    progress: jax.typing.ArrayLike) -> list[Kept]:
  """`on_the_way` for several weights at one progress.

  The counts are computed as one vector, because hundreds of scalars compile
  slowly.
  """
  if not units:
    return []
  made = counts.remaining(
      counts.exactly_each(units),
      counts.exactly_each([n - k for n, k in zip(units, finals)]),
      jnp.broadcast_to(jnp.asarray(progress, jnp.float32), (len(units),)))
  return [Kept(k) for k in counts.unstack(made)]


@arguments.checked(sparsity=_SPARSITY)
def select(scores: jax.Array, pattern: Pattern,
           sparsity: float | jax.Array | Kept | None = None) -> jax.Array:
  """The mask that keeps the units with the highest scores.

  Each group keeps exactly `round((1 - sparsity) * units)` (halves to even) of
  its units. Of equal scores, the lower index is kept. NaN is pruned before any
  other score, -inf included. (If a group keeps one unit, or has fewer than 16
  units, -inf and the lowest finite number may count as equal.) A transposable
  pattern keeps the entries with the highest total, see `nm`. There scores are
  rounded to steps of `2^-19` of the largest magnitude in a tile. No array is
  sorted, and no entry of a sharded array moves.

  Args:
    scores: a floating array of any shape, e.g. `jnp.abs(w)`.
    pattern: the pattern, which defines units and groups.
    sparsity: the fraction pruned: a number in [0, 1], a traced scalar (read as
      float32), or the `Kept` of a distribution. `None` takes the sparsity of
      the pattern.

  Returns:
    A bool array of the shape of `scores`, True where kept.

  Raises:
    ValueError: if the pattern does not tile the shape, the sparsity is outside
      [0, 1] or missing, or above that of a transposable pattern.

  >>> import jax.numpy as jnp
  >>> from jaxsparse import nm
  >>> w = jnp.array([[4., 1.], [-3., 2.], [0., 5.], [1., -6.]])
  >>> select(jnp.abs(w), nm(2, 4)).astype(int)
  Array([[1, 0],
         [1, 0],
         [0, 1],
         [0, 1]], dtype=int32)
  """
  if sparsity is None:
    sparsity = pattern.sparsity
  if sparsity is None:
    raise ValueError(
        f'select needs a sparsity, because {pattern} has none of its own. '
        'Write e.g. select(scores, pattern, 0.9), where 0.9 is the fraction '
        'pruned.')
  if isinstance(sparsity, (int, float)):
    pattern.check_lines(sparsity)
  if scores.size == 0:
    pattern.sizes(scores.shape)
    return jnp.ones(scores.shape, bool)
  units = unit_scores(scores, pattern)
  one = False
  if not isinstance(sparsity, Kept):
    _, size = pattern.sizes(scores.shape)
    one = (isinstance(sparsity, (int, float))
           and final_count(size, sparsity) == 1)
    sparsity = Kept(kept_count(size, sparsity))
  return _select(units, sparsity, pattern, scores.shape, one)


def select_each(scores: ArrayTree | Callable[[], ArrayTree], patterns: Any,
                kept: Any) -> ArrayTree:
  """`select` for every leaf of a tree; weights without groups share one search.

  Args:
    scores: a tree of floating arrays; or a function that returns one. The
      function is called wherever scores are read, so that no scores are held
      inside of `jax.jit`.
    patterns: a tree like the scores, of patterns.
    kept: a tree like the scores, of `Kept` or numbers, the result of a
      distribution.

  Returns:
    A tree of masks.
  """
  make = scores if callable(scores) else lambda: scores
  trees.check_arrays('scores', None if callable(scores) else scores)
  avals = jax.eval_shape(make)
  leaves, structure = jax.tree.flatten(avals)
  rules = jax.tree.leaves(patterns)
  try:
    numbers = structure.flatten_up_to(kept)
  except ValueError:
    numbers = None
  if numbers is None or not all(map(_SPARSITY.takes, numbers)):
    raise ValueError(
        'kept must have a number or a Kept for each leaf of the scores, '
        f'{trees.few(trees.paths(avals))}, got {brief(kept)}.')
  if len(rules) != len(leaves) or not all(
      isinstance(rule, Pattern) for rule in rules):
    raise ValueError(
        'patterns must have a pattern for each leaf of the scores, '
        f'{trees.few(trees.paths(avals))}, got {brief(patterns)}.')
  rest = [i for i, (x, pattern, k) in enumerate(zip(leaves, rules, numbers))
          if math.prod(x.shape) and isinstance(k, Kept)
          and _is_whole(pattern, x.shape)]
  others = [i for i in range(len(leaves)) if i not in rest]
  made = {}
  if others:
    now = jax.tree.leaves(make())
    made = {i: select(now[i], rules[i], numbers[i]) for i in others}
  if rest:
    units = units_of(make, {i: rules[i] for i in rest})
    made.update(zip(rest, _select_whole(
        units, [numbers[i] for i in rest], tuple(rules[i] for i in rest),
        tuple(leaves[i].shape for i in rest))))
  return structure.unflatten([made[i] for i in range(len(leaves))])


def is_held(pattern: Pattern, score: Any) -> bool:
  """Whether scores of units are held instead of recomputed.

  The scores of large units are few, and their sums take time. For bfloat16 the
  CPU backend takes four times as long to compute and compare magnitudes as to
  compare only.
  """
  return (score.dtype == jnp.bfloat16
          or math.prod(pattern.unit.tile(score.shape)) >= 4)


def units_of(make: Callable[[], ArrayTree], patterns: Mapping[int, Pattern]
             ) -> Remade:
  """The scores of the units of some leaves, by their places."""
  def units(wanted):
    now = jax.tree.leaves(make()) if wanted else []
    return {i: unit_scores(now[i], patterns[i]) for i in wanted}
  scores = jax.tree.leaves(jax.eval_shape(make))
  held = units([i for i, p in patterns.items() if is_held(p, scores[i])])
  rest = [i for i in patterns if i not in held]

  def all_units():
    found = held | units(rest)
    return [found[i] for i in patterns]
  return Remade(all_units)


@jitted_outside(2, 3)
def _select_whole(
    units: Remade, kept: list[Kept], patterns: tuple[Pattern, ...],
    shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
  return [spread(mask, pattern, shape) for mask, pattern, shape in zip(
      keep_units_each(units, patterns, shapes, kept), patterns, shapes)]


# Jitted so that equal layers are compiled once, outside of jit and within.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _select(units: jax.Array, kept: Kept, pattern: Pattern,
            shape: tuple[int, ...], one: bool) -> jax.Array:
  return spread(keep_units(units, pattern, shape, kept, one), pattern, shape)
