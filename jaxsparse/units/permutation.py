"""Permutations of channels: the same function, more magnitude kept under N:M.

  scores ──find_permutation──▶ p      np.take(w, p, axis) keeps more than w

Which of M neighbours compete is an accident of the order of channels, and that
order is free: permute the inputs of one kernel and the outputs of those that
feed it in the same way, and the network computes what it did. The search itself
is in `permutation_search`.
"""

from typing import Any, Mapping, Sequence

import jax
import numpy as np

from jaxsparse import patterns as patterns_lib
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.tables import brief
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.patterns import Pattern
from jaxsparse.units import permutation_search
from jaxsparse.units import reordering
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

Array = jax.Array | np.ndarray


@arguments.checked(seed=arguments.whole(0))
def find_permutation(
    scores: Array | Sequence[Array], pattern: Pattern | Sequence[Pattern], *,
    budget: int = 4000, seed: int = 0,
    progress: permutation_search.Progress | None = None) -> np.ndarray:
  """The order of channels in which N:M keeps the most, as far as it is found.

  `argmax_p sum_groups top_n(|scores[p]|)`, with groups of M along the pattern's
  axis, summed over all other axes and all arrays. Up to 16 channels the optimum
  is found; for more it is sought by simulated annealing, in time proportional
  to `budget * m * scores.size`. The same arguments give the same order.

  Args:
    scores: an array, or a list or tuple of arrays whose channels are permuted
      together, such as all kernels that read one activation. Only magnitudes
      count, so weights serve as well as scores.
    pattern: `nm(n, m, axis=...)`, where channels are the K places along the
      axis, or along neighbouring axes joined, major first. For several arrays
      it may be a list of patterns that differ in their axes.
    budget: the number of sweeps, in each of which every group of M meets
      another and may swap one channel; 0 gives the identity. With more, more is
      kept.
    seed: of the search.
    progress: wraps the iterable of sweeps, such as `tqdm.tqdm`.

  Returns:
    int32 `[K]`: `np.take(w, p, axis)` keeps no less than w, several arrays in
    sum. Ascending within groups of M, groups by their first channel; the
    identity if nothing found keeps more. After Ctrl-C, the best so far.

  Raises:
    ValueError: if the pattern is not N:M along one axis, so transposable, its
      axis is missing or no multiple of m, arrays have different numbers of
      channels, scores are NaN or infinite, or the budget is negative.

  References:
    Pool and Yu, `Channel Permutations for N:M Sparsity
    <https://proceedings.neurips.cc/paper/2021/hash/6e8404c3b93a9527c8db241a1846599a-Abstract.html>`_,
    2021, with another search; see `partitions.search`

  >>> from jaxsparse import nm
  >>> w = np.array([[4., -2.], [3., 1.], [0., 0.], [0., 0.]])
  >>> p = find_permutation(w, nm(1, 2))
  >>> p
  array([0, 2, 1, 3], dtype=int32)
  >>> np.take(w, p, axis=-2)[:, 0]  # 4 and 3 do not compete any more.
  array([4., 0., 3., 0.])
  """
  arrays: Sequence[Any] = (
      scores if isinstance(scores, (list, tuple)) else [scores])
  each: Sequence[Any] = (
      pattern if isinstance(pattern, (list, tuple))
      else [pattern] * len(arrays))
  if not arrays or len(each) != len(arrays):
    raise ValueError(
        f'find_permutation got {len(arrays)} arrays and {len(each)} patterns. '
        'Write one pattern for all of one or more arrays, or a list with one '
        'for each.')
  if not isinstance(budget, int) or budget < 0:
    raise ValueError(
        'budget is a number of sweeps, an integer >= 0 (0 for no search), got '
        f'{brief(budget)}. Write e.g. budget=4000.')
  for p in each:
    _check_one_axis(p)
  n_ms = {patterns_lib.n_m_axis(p)[:2] for p in each}
  if len(n_ms) != 1:
    raise ValueError(
        f'Channels that are permuted together need one N:M, got '
        f'{sorted(n_ms)}. Only axes may differ.')
  (n, m), = n_ms
  magnitudes = [_magnitudes(x, p) for x, p in zip(arrays, each)]
  channels = {len(x) for x in magnitudes}
  if len(channels) != 1:
    raise ValueError(
        'Channels that are permuted together need to be as many in each array, '
        f'got {[len(x) for x in magnitudes]} in arrays of shapes '
        f'{[np.shape(x) for x in arrays]}. Give each array its pattern with '
        'the axis that has them: [nm(n, m, axis=...), ...].')
  peak = max(float(x.max(initial=0)) for x in magnitudes)
  if not np.isfinite(peak):
    raise ValueError(
        'find_permutation needs finite scores, got NaN or infinity. Write e.g. '
        'np.nan_to_num(scores).')
  if n in (0, m) or not peak:
    return np.arange(len(magnitudes[0]), dtype=np.int32)
  # By a power of two, so that sums neither overflow nor lose what is small.
  exponent = -int(np.frexp(peak)[1])
  columns = np.concatenate(
      [np.ldexp(x, exponent).astype(np.float32) for x in magnitudes], axis=1)
  return permutation_search.search(
      columns, n, m, budget=budget, seed=seed, progress=progress)


def _check_one_axis(pattern: Pattern, where: str = '') -> None:
  if patterns_lib.is_transposable(pattern):
    n, m, axis = patterns_lib.n_m_axis(pattern)
    raise ValueError(
        f'{where}{pattern} keeps what two axes allow, but an order of channels '
        f'is sought for N:M along one. Write nm({n}, {m}, axis={axis}) here to '
        'seek it all the same, and compare what is kept, or leave it out.')


def _magnitudes(scores: Array, pattern: Pattern) -> np.ndarray:
  """`[K, rest]`, in float32 or wider."""
  _, m, axis = patterns_lib.n_m_axis(pattern)
  joined = axis if isinstance(axis, tuple) else (axis,)
  x = np.asarray(scores)
  if not all(-x.ndim <= i < x.ndim for i in joined):
    raise ValueError(
        f'{pattern} needs axis {axis}, but scores have shape {x.shape}. Write '
        'nm(n, m, axis=...) with the axis whose channels are to be permuted.')
  sizes = [x.shape[i] for i in joined]
  channels = int(np.prod(sizes))
  if channels % m:
    raise ValueError(
        f'{pattern} needs axis {axis} to be a multiple of {m}, but scores have '
        f'shape {x.shape}, with {channels} there. Use another group size or '
        'another axis.')
  front = np.moveaxis(x, joined, range(len(joined)))
  rest = x.size // channels if channels else 0
  return np.abs(front.reshape(channels, rest).astype(
      np.result_type(x.dtype, np.float32)))


@arguments.checked(seed=arguments.whole(0))
def find_permutations(
    params: ArrayTree, ties: Ties | Sequence[Tie],
    patterns: Mapping[str, Pattern | None], *, budget: int = 4000,
    seed: int = 0, progress: permutation_search.Progress | None = None
    ) -> dict[str, np.ndarray]:
  """Finds an order of the units of every tie in which N:M keeps more.

  The order matters for ties whose units are contracted by an N:M kernel. All
  such kernels of a tie, as those that read a residual stream, are searched
  jointly. If units may be ordered separately along another dimension, as in
  each head or each stacked layer, there is one search for each.

  Args:
    params: the parameters from which `ties` were inferred, or scores like them;
      not pruned yet: weights that are N:M already have no better order.
    ties: from `infer_ties`, or by hand.
    patterns: rules for `prune`, of which those with N:M matter here.
    budget: of each search, see `find_permutation`.
    seed: of the searches.
    progress: wraps the iterable of sweeps of each search, such as `tqdm.tqdm`.

  Returns:
    By name of tie, int32 of `tie.shape`, for `permute`. Empty if there are no
    such ties.

  Raises:
    ValueError: if ties or rules do not fit the parameters, a pattern is
      transposable, kernels of one tie have different N:M, or all of them have
      been pruned to it already.

  >>> from jaxsparse import infer_ties, nm
  >>> rng = np.random.default_rng(0)
  >>> params = {'w1': rng.normal(size=(4, 16)), 'w2': rng.normal(size=(16, 8))}
  >>> f = lambda p, x: jax.nn.relu(x @ p['w1']) @ p['w2']
  >>> ties = infer_ties(f, params, np.ones((2, 4)))
  >>> find_permutations(params, ties, {'w2': nm(2, 4)})['w1[:, *]'].shape
  (16,)
  """
  ties = ties_lib.as_ties(ties)
  rules = trees.match_rules(patterns, params)
  known = trees.own_paths(params)
  if lost := [m.path for tie in ties for m in tie.members
              if m.path not in known]:
    raise ValueError(
        f'Ties have {sorted(set(lost))}, but the parameters are {known}. Give '
        'the parameters from which ties were inferred.')
  sparse = {path: (w, pattern)
            for path, w, pattern in trees.align(params, rules)
            if patterns_lib.is_nm(pattern)}
  for path, (_, pattern) in sparse.items():
    _check_one_axis(pattern, f'{path}: ')
  searches = []
  for tie in ties.free:
    columns = {member: _columns(tie, member, *sparse[member.path])
               for member in tie.members if member.path in sparse}
    columns = {member: groups for member, groups in columns.items() if groups}
    kinds = {patterns_lib.n_m_axis(sparse[member.path][1])[:2]
             for member in columns}
    if len(kinds) > 1:
      raise ValueError(
          f'Kernels of tie {tie.name!r} have different N:M, {sorted(kinds)}, '
          f'and one order of units: {list(map(str, columns))}. Give them one '
          'N:M, or leave this tie out of `ties`.')
    searches += [(tie, n_m, list(zip(*columns.values()))) for n_m in kinds]
  if searches and all(permutation_search.is_pruned(kernel, *n_m)
                      for _, n_m, groups in searches
                      for group in groups for kernel in group):
    raise ValueError(
        'All kernels have their N:M already, so that no order keeps more. '
        'Permute before the update that prunes.')
  return {
      tie.name: np.stack([
          find_permutation(group, patterns_lib.nm(*n_m), budget=budget,
                           seed=seed, progress=progress)
          for group in groups]).reshape(tie.shape)
      for tie, n_m, groups in searches}


def _columns(tie: Tie, member: Member, w: Array, pattern: Pattern
             ) -> list[np.ndarray]:
  """A kernel as `[units, rest]` for every group of a tie, or nothing.

  Nothing, if groups of M are not made of this tie's units: N:M runs along
  another axis, or an order of units moves groups as wholes, as that of heads.
  """
  _, m, axis = patterns_lib.n_m_axis(pattern)
  w = np.asarray(w)
  joined = [i % w.ndim for i in (axis if isinstance(axis, tuple) else (axis,))]
  if member.axis not in joined:
    return []
  sizes = [w.shape[i] for i in joined]
  rest = [i for i in range(w.ndim) if i not in joined]
  flat = np.moveaxis(w, joined + rest, range(w.ndim)).reshape(
      -1, *(w.shape[i] for i in rest))
  groups = []
  for group in np.ndindex(*tie.along):
    here = ties_lib.positions(tie, member, group)
    at = np.zeros((tie.size, 1), int)
    for i, size in zip(joined, sizes):
      there = here.get(i, np.arange(size))
      there = there if i == member.axis else there[None]
      at = (at[:, :, None] * size + there[:, None]).reshape(tie.size, -1)
    if (at[0] % m).any() or tie.size % m or (
        at != at[0] + np.arange(tie.size)[:, None]).any():
      return []
    picked = flat[np.ix_(at.reshape(-1), *(
        here.get(i, np.arange(w.shape[i])) for i in rest))]
    groups.append(picked.reshape(tie.size, -1))
  return groups


@arguments.checked()
def permute(tree: ArrayTree, ties: Ties | Sequence[Tie],
            permutations: Mapping[str, Any]) -> ArrayTree:
  """Reorders hidden units in every array; the function stays the same.

  Every leaf whose path ends with the path of a parameter (with or without
  Linen's `params/`) is reordered with the parameter: gradients, optimizer
  state, masks, running averages. Pass them together, under the keys that ties
  know:

    params, opt_state = permute((params, opt_state), ties, permutations)

  Args:
    tree: the parameters from which `ties` were inferred, with whatever else is
      kept of them.
    ties: from `infer_ties`, or by hand; then use `check_ties` first.
    permutations: by name of tie, int arrays of `tie.shape`: unit `u` will be
      what `p[..., u]` was. All are relative to the present order.

  Returns:
    The tree with the same shapes and types.

  Raises:
    ValueError: if a name is that of no tie or of a fixed one, a permutation is
      none, or a tie does not match the tree.

  References:
    Pool and Yu, `Channel Permutations for N:M Sparsity
    <https://proceedings.neurips.cc/paper/2021/hash/6e8404c3b93a9527c8db241a1846599a-Abstract.html>`_,
    2021

  >>> from jaxsparse import infer_ties
  >>> params = {'w1': np.eye(3), 'w2': np.arange(3.)[:, None]}
  >>> ties = infer_ties(lambda p, x: x @ p['w1'] @ p['w2'], params, np.ones(3))
  >>> permute(params, ties, {'w1[:, *]': [2, 0, 1]})['w2'][:, 0]
  array([2., 0., 1.])
  """
  ties = ties_lib.as_ties(ties)
  orders = [(ties[name], p) for name, p in permutations.items()]
  for tie, _ in orders:
    if not tie.free:
      raise ValueError(
          f'The units of tie {tie.name!r} are fixed ({tie.fixed}): another '
          'order would change the function. Leave it out of `permutations`.')
  # Units within a group move before the groups that they are numbered by.
  return reordering.reorder(
      tree, sorted(orders, key=lambda order: -len(order[0].along)),
      shapes=ties.shapes)
