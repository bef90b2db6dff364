"""Distributions: how sparsity is shared among layers.

A distribution is a function

  sparsities = distribution(scores, patterns, progress)

of a tree of scores, a tree of patterns (`None` for dense leaves in both) and
the progress in [0, 1]. It returns a tree with the argument `sparsity` of
`select` at each leaf. A distribution of your own may return plain numbers. The
distributions of this module return `Kept` counts, because counts are exact and
float32 fractions are not. Rules apply the result unchanged, so a distribution
of your own must respect `pattern.sparsity` and the bounds of patterns itself.

At progress p a layer of n units that ends with k units keeps
`round(n - p*(n - k))`. A pattern with its own sparsity, such as `nm(2, 4)`,
keeps that sparsity and takes no part in sharing. `min_sparsity` and
`max_sparsity` of a pattern bound its final sparsity.
"""

import dataclasses
import math
from typing import Any, Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import guesses
from jaxsparse.masks import topk
from jaxsparse.masks import whole
from jaxsparse.masks.remade import jitted_outside
from jaxsparse.masks.remade import Remade
from jaxsparse.masks.selection import final_count
from jaxsparse.masks.selection import Kept
from jaxsparse.masks.selection import kept_count
from jaxsparse.masks.selection import on_the_way
from jaxsparse.masks.selection import on_the_way_each
from jaxsparse.masks.selection import units_of
from jaxsparse.patterns import Pattern
from jaxsparse.patterns import SPARSITY

__all__ = [
    'Distribution', 'er', 'erk', 'global_threshold', 'uniform',
]

# From scores, patterns and progress to a tree of counts to keep.
Distribution = Callable[[ArrayTree, Any, ArrayLike], Any]
arguments.register(Distribution, arguments.function(
    'a function of scores, patterns and progress', 'jaxsparse.uniform(0.9)'))


def _bounds(pattern: Pattern, units: int) -> tuple[int, int]:
  """The fewest and the most units a layer may keep at the end."""
  return (final_count(units, pattern.max_sparsity),
          final_count(units, pattern.min_sparsity))


def _leaf_by_leaf(scores: ArrayTree, patterns: Any,
                  shared: Mapping[str, int | Kept], progress: ArrayLike) -> Any:
  """Kept counts for every leaf.

  `shared` has an entry for each leaf that shares: a `Kept`, or the final number
  of units in a group. A leaf without an entry has a pattern with its own
  sparsity, or no weights at all.
  """
  units, finals = {}, {}
  for path, score, pattern in trees.align(scores, patterns):
    if isinstance(shared.get(path), Kept):
      continue
    _, units[path] = pattern.sizes(score.shape)
    finals[path] = shared.get(
        path, final_count(units[path], pattern.sparsity or 0.))
  made = {**shared, **dict(zip(units, on_the_way_each(
      [*units.values()], [*finals.values()], progress)))}
  return trees.map_with_path(lambda path, *_: made[path], scores, patterns)


@arguments.checked(sparsity=SPARSITY)
def uniform(sparsity: float | None = None) -> Distribution:
  """The same sparsity in every layer.

  Args:
    sparsity: the fraction pruned of each group, in [0, 1]. `None` requires that
      every pattern has its own sparsity.

  Returns:
    A distribution.

  Raises:
    ValueError: if the sparsity is outside [0, 1], or missing for a pattern.
  """
  def distribution(scores, patterns, progress):
    finals = {}
    for path, score, pattern in trees.align(scores, patterns):
      if pattern.sparsity is not None:
        continue
      if sparsity is None:
        raise ValueError(
            f'{trees.named(path)}: '
            f'uniform() needs a sparsity, because {pattern} has none '
            'of its own. Write prune(..., distribution=jaxsparse.uniform(0.9)) '
            'or unstructured(sparsity=0.9).')
      _, units = pattern.sizes(score.shape)
      fewest, most = _bounds(pattern, units)
      finals[path] = min(max(final_count(units, sparsity), fewest), most)
    return _leaf_by_leaf(scores, patterns, finals, progress)
  return distribution


@arguments.checked(sparsity=SPARSITY)
def erk(sparsity: float, power: float = 1.0) -> Distribution:
  """Erdos-Renyi-kernel: density falls with a layer's size.

  density_l = epsilon * (sum(shape_l) / prod(shape_l))^power

  One epsilon for all layers is chosen such that in total
  `round((1 - sparsity) * weights)` weights are kept at the end: exactly if
  units are single weights, otherwise as nearly as whole units allow. Layers
  that would be denser than 1 (or than their bounds) stay at that limit, and
  epsilon is computed again for the others.

  Every axis of a parameter counts in `shape_l`. So kernels that are stacked
  along an axis of layers, such as `[layers, in, out]` of `nn.scan`, are one
  layer, with another density than the same kernels have apart. So has a kernel
  `[in, heads, head_dim]` of attention, with another density than `[in, out]`.
  To choose their density, give their pattern a sparsity of its own, e.g.
  `unstructured(sparsity=0.9)`, or use `uniform` for all layers.

  Args:
    sparsity: the fraction pruned of all weights in layers that share.
    power: the exponent; 1 is the paper's, 0 gives all layers the same density.

  Returns:
    A distribution.

  Raises:
    ValueError: if the sparsity is outside [0, 1].

  References:
    Evci et al., `Rigging the Lottery: Making All Tickets Winners
    <https://arxiv.org/abs/1911.11134>`_, 2020
  """

  def raw(shape):
    return (sum(shape) / math.prod(shape))**power
  return _erdos_renyi(sparsity, raw)


@arguments.checked(sparsity=SPARSITY)
def er(sparsity: float) -> Distribution:
  """Erdos-Renyi: like `erk` with `(in + out) / (in * out)`, without windows.

  The last two axes of a parameter count as `in` and `out`. All axes before
  them, such as the window of a convolution or an axis of layers, do not count.
  So a kernel `[in, heads, head_dim]` of attention has the density of `[heads,
  head_dim]`. To choose another one, give its pattern a sparsity of its own,
  e.g. `unstructured(sparsity=0.9)`, or use `uniform` for all layers.

  Args:
    sparsity: the fraction pruned of all weights in layers that share.

  Returns:
    A distribution.

  Raises:
    ValueError: if the sparsity is outside [0, 1].

  References:
    Mocanu et al., `Scalable Training of Artificial Neural Networks with
    Adaptive Sparse Connectivity <https://arxiv.org/abs/1707.04780>`_, 2018
  """

  def raw(shape):
    last = shape[-2:]
    return sum(last) / math.prod(last)
  return _erdos_renyi(sparsity, raw)


def _erdos_renyi(sparsity: float, raw: Callable[[tuple[int, ...]], float]
                 ) -> Distribution:
  def distribution(scores, patterns, progress):
    rows = [
        (path, score.shape or (1,), pattern)
        for path, score, pattern in trees.align(scores, patterns)
        if pattern.sparsity is None and score.size]
    finals = _solve(rows, sparsity, raw)
    return _leaf_by_leaf(scores, patterns, finals, progress)
  return distribution


def _solve(rows: list[tuple[str, tuple[int, ...], Pattern]], sparsity: float,
           raw: Callable[[tuple[int, ...]], float]) -> dict[str, int]:
  """Final units per group of each layer, with the total exact."""
  weights = {path: math.prod(shape) for path, shape, _ in rows}
  budget = final_count(sum(weights.values()), sparsity)
  units, bounds = {}, {}
  for path, shape, pattern in rows:
    _, units[path] = pattern.sizes(shape)
    bounds[path] = _bounds(pattern, units[path])
  # Densities: some layers are held at a bound, the others are still free.
  held, wanted = {}, {path: raw(shape) for path, shape, _ in rows}
  density: dict[str, float] = {}
  while wanted:
    rest = budget - sum(d * weights[p] for p, d in held.items())
    mass = sum(r * weights[p] for p, r in wanted.items())
    if not 0 < mass < math.inf:
      raise ValueError(
          'The power of erk is too large: the ratio of densities of two layers '
          'exceeds the range of floats. Write e.g. power=1.')
    density = {p: max(rest, 0) / mass * r for p, r in wanted.items()}
    over = {p: hi / units[p] for p, (_, hi) in bounds.items()
            if p in wanted and density[p] > hi / units[p]}
    under = {p: lo / units[p] for p, (lo, _) in bounds.items()
             if p in wanted and density[p] < lo / units[p]}
    if not over and not under:
      break
    # Hold the side with the larger excess; the other side may be freed again.
    excess = sum((density[p] - d) * weights[p] for p, d in over.items())
    lack = sum((d - density[p]) * weights[p] for p, d in under.items())
    held.update(over if excess >= lack else under)
    wanted = {p: r for p, r in wanted.items() if p not in held}
  densities = {**held, **(density if wanted else {})}
  # Round down to whole units; the rest goes to the largest remainders.
  exact = {p: densities[p] * units[p] for p in units}
  finals = {p: min(max(math.floor(e + 1e-9), bounds[p][0]), bounds[p][1])
            for p, e in exact.items()}
  left = budget - sum(n * weights[p] // units[p] for p, n in finals.items())
  for p in sorted(finals, key=lambda p: finals[p] - exact[p]):
    step = weights[p] // units[p]
    room = bounds[p][1] - finals[p]
    more = min(max(left // step, 0), 1, room)
    finals[p], left = finals[p] + more, left - more * step
  smallest = min((p for p in finals if finals[p] < bounds[p][1]),
                 key=lambda p: weights[p] // units[p], default=None)
  # Weights that bounds refused go to layers with room, large units first; the
  # last, smallest units round to the nearest total.
  for p in sorted(finals, key=lambda p: -(weights[p] // units[p])):
    step = weights[p] // units[p]
    near = left + (step - 1) // 2 if p == smallest else left
    more = min(max(near // step, 0), bounds[p][1] - finals[p])
    finals[p], left = finals[p] + more, left - more * step
  return finals


@arguments.checked(sparsity=SPARSITY)
def global_threshold(sparsity: float) -> Distribution:
  """One threshold over all layers: prunes the lowest scores of the model.

  Exactly `round((1 - sparsity) * units)` units are kept over all layers that
  share. Of equal scores, the earlier layer is kept, then the lower index. The
  threshold is found by counting scores above candidates, without sorting or
  concatenating. If a bound limits a layer, the other layers make up for it.

  Args:
    sparsity: the fraction pruned of all units in layers that share.

  Returns:
    A distribution.

  Raises:
    ValueError: if the sparsity is outside [0, 1], or the units of a pattern
      compete in groups smaller than the weight.
  """
  return _GlobalThreshold(sparsity)


@dataclasses.dataclass(frozen=True)
class _GlobalThreshold:
  """The only distribution that reads scores.

  Instead of the scores, it also takes a function that makes them.
  """
  sparsity: float

  def __call__(self, scores: Any, patterns: Any, progress: ArrayLike) -> Any:
    make = scores if callable(scores) else lambda: scores
    shapes = jax.eval_shape(make)
    sharing = {}
    for i, (path, score, pattern) in enumerate(trees.align(shapes, patterns)):
      if pattern.sparsity is not None or not math.prod(score.shape):
        continue
      if pattern.sizes(score.shape)[0] > 1:
        raise ValueError(
            f'{trees.named(path)}: '
            'global_threshold needs patterns whose units compete in '
            f'the whole weight, got {pattern}, which has groups. Give the '
            'pattern a sparsity of its own, or use uniform, e.g. '
            'distribution=jaxsparse.uniform(0.9).')
      sharing[path] = i, pattern
    shared = {}
    if sharing:
      units = units_of(make, dict(sharing.values()))
      shared = dict(zip(sharing, _cut(
          units, [pattern for _, pattern in sharing.values()],
          self.sparsity, progress)))
    return _leaf_by_leaf(shapes, patterns, shared, progress)


def shares(distribution: Distribution, make: Callable[[], ArrayTree],
           patterns: Any, progress: ArrayLike) -> Any:
  """The result of a distribution, with scores made only where it reads them.

  Args:
    distribution: any distribution. `global_threshold` receives `make` itself,
      so that no scores are held in memory.
    make: a function that returns a tree of scores.
    patterns: the tree of patterns.
    progress: the progress, in [0, 1].
  """
  if isinstance(distribution, _GlobalThreshold):
    return distribution(make, patterns, progress)
  return distribution(make(), patterns, progress)


def budgets(distribution: Distribution, make: Callable[[], ArrayTree],
            patterns: Any, progress: ArrayLike) -> Any:
  """`shares` as counts alone, those of a distribution of numbers, too.

  Returns:
    A tree of `Kept`: the units that each group of each layer ends with.
  """
  def count(k, score, pattern):
    return k if isinstance(k, Kept) else Kept(
        kept_count(pattern.sizes(score.shape)[1], k))
  return jax.tree.map(
      count, shares(distribution, make, patterns, progress),
      jax.eval_shape(make), patterns, is_leaf=lambda x: isinstance(x, Kept))


def _cut(xs: Remade, patterns: Sequence[Pattern], sparsity: float,
         progress: ArrayLike) -> list[Kept]:
  """Shares one exact number of kept units among layers, by their scores."""
  sizes = [math.prod(x.shape) for x in xs.shapes]
  size = sum(sizes)
  bounds = [_bounds(p, n) for p, n in zip(patterns, sizes)]
  final = min(max(final_count(size, sparsity), sum(lo for lo, _ in bounds)),
              sum(hi for _, hi in bounds))
  # The lower bound of a layer holds at all times; the upper bound tightens from
  # all units to its final value with the progress.
  low = counts.exactly_each([fewest for fewest, _ in bounds])
  high = counts.stack([k.count for k in on_the_way_each(
      sizes, [most for _, most in bounds], progress)])
  free = tuple(bound == (0, n) for n, bound in zip(sizes, bounds))
  return keep_together(
      xs, on_the_way(size, final, progress).count, low, high, free)


@jitted_outside(4)
def keep_together(xs: Remade, k: counts.Count, fewest: counts.Count,
                  most: counts.Count, free: tuple[bool, ...]) -> list[Kept]:
  """The number of units that each of several layers keeps under one threshold.

  Args:
    xs: the scores of the units of each layer, recomputed wherever they are
      read.
    k: the number of units that all layers keep together, clipped to the bounds.
    fewest: the lower bound of each layer; a vector, because many scalars
      compile slowly.
    most: the upper bound of each layer, a vector.
    free: for each layer, whether its bounds can never limit it.

  Returns:
    A `Kept` for each layer. Of equal scores, the earlier layer is kept.
  """
  dtypes = {x.dtype for x in xs.shapes}
  if len(dtypes) > 1:  # float32 holds all narrower ones.
    widest = max(dtype.itemsize for dtype in dtypes)
    xs = xs.astype(jnp.float64 if widest == 8 else jnp.float32)
  size = sum(math.prod(x.shape) for x in xs.shapes)

  def clipped(layers):
    return counts.minimum(counts.maximum(layers, fewest), most)

  bracket = topk.start(xs.shapes[0].dtype, size)._replace(
      below=counts.sum_few(most), above=counts.sum_few(fewest))
  # Rounding leaf by leaf may differ from rounding the total.
  k = counts.minimum(counts.maximum(k, bracket.above), bracket.below)

  def at_least(key):
    return whole.at_least_each(xs, [key] * len(xs.shapes))
  found = topk.search(
      lambda key: counts.sum_few(clipped(at_least(key))), k, bracket,
      guesses.together(xs, k))
  raw = [at_least(key) for key in (found.lo, found.hi)]
  below, above = (clipped(layers) for layers in raw)
  left = counts.subtract(k, counts.sum_few(above))
  kept = counts.add(above, counts.in_turn(counts.subtract(below, above), left))
  # A layer at a bound has another threshold, which `select` searches.
  return [
      Kept(one, topk.Bracket(found.lo, found.hi, *ends) if is_free else None)
      for one, *ends, is_free in zip(*map(counts.unstack, (kept, *raw)), free)]
