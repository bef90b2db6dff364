"""Permutations of channels, with which N:M keeps more magnitude.

  scores ──find_permutation──▶ p      np.take(w, p, axis) keeps more than w

The order of channels decides which M neighbours compete, and this order is
free: if the inputs of one kernel and the outputs of the kernels before it are
permuted in the same way, the network computes the same function. The search
itself is in `permutation_search`.
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
  """Searches for an order of channels with which N:M keeps the most magnitude.

  The objective is `argmax_p sum_groups top_n(|scores[p]|)`, with groups of M
  along the pattern's axis, summed over all other axes and all arrays. For up to
  16 channels the search finds the optimum. For more channels it uses simulated
  annealing, in time proportional to `budget * m * scores.size`. The same
  arguments give the same order.

  Args:
    scores: an array, or a list or tuple of arrays whose channels are permuted
      together, such as all kernels that read one activation. Only magnitudes
      count, so weights may be given as scores.
    pattern: a pattern `nm(n, m, axis=...)`. The channels are the K indices of
      the axis, or of neighbouring axes joined, major first. For several arrays,
      it may be a list of patterns that differ in their axes.
    budget: the number of sweeps. In a sweep, every group of M channels is
      paired with another and may swap one channel. More sweeps keep more
      magnitude; 0 returns the identity.
    seed: the seed of the search.
    progress: a function that wraps the iterable of sweeps, such as `tqdm.tqdm`.

  Returns:
    The order `p`, int32 `[K]`. `np.take(w, p, axis)` keeps at least as much
    magnitude as w, summed over all arrays. `p` is ascending within groups of M,
    and groups are sorted by their first channel. It is the identity if no
    better order was found. After Ctrl-C, it is the best order so far.

  Raises:
    ValueError: if the pattern is not N:M along one axis (such as a transposable
      one), its axis is missing or not a multiple of m, arrays have different
      numbers of channels, scores are NaN or infinite, or the budget is
      negative.

  References:
    Pool and Yu, `Channel Permutations for N:M Sparsity
    <https://proceedings.neurips.cc/paper/2021/hash/6e8404c3b93a9527c8db241a1846599a-Abstract.html>`_,
    2021. The paper uses another search, see `permutation_search.search`.

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
        'find_permutation needs at least one array, and one pattern for all '
        f'arrays or one for each, got {len(arrays)} arrays and {len(each)} '
        'patterns. Write e.g. find_permutation(w, nm(2, 4)).')
  if not isinstance(budget, int) or budget < 0:
    raise ValueError(
        'budget must be a number of sweeps, an integer >= 0 (0 for no search), '
        f'got {brief(budget)}. Write e.g. budget=4000.')
  for p in each:
    _check_one_axis(p)
  n_ms = {patterns_lib.n_m_axis(p)[:2] for p in each}
  if len(n_ms) != 1:
    raise ValueError(
        'Arrays whose channels are permuted together must have the same N:M, '
        f'got {sorted(n_ms)}. Write e.g. nm(2, 4, axis=...) for each; axes '
        'may differ.')
  (n, m), = n_ms
  magnitudes = [_magnitudes(x, p) for x, p in zip(arrays, each)]
  channels = {len(x) for x in magnitudes}
  if len(channels) != 1:
    raise ValueError(
        'Arrays whose channels are permuted together must have equally many '
        f'channels, got {[len(x) for x in magnitudes]} in arrays of shapes '
        f'{[np.shape(x) for x in arrays]}. Give each array a pattern with its '
        'axis of channels: [nm(n, m, axis=...), ...].')
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
        f'{where}a search for an order of channels needs N:M along one axis, '
        f'got {pattern}, which is N:M along two. Write nm({n}, {m}, '
        f'axis={axis}) here and compare the kept magnitude, or leave it out.')


def _magnitudes(scores: Array, pattern: Pattern) -> np.ndarray:
  """`[K, rest]`, in float32 or wider."""
  _, m, axis = patterns_lib.n_m_axis(pattern)
  joined = axis if isinstance(axis, tuple) else (axis,)
  x = np.asarray(scores)
  if not all(-x.ndim <= i < x.ndim for i in joined):
    raise ValueError(
        f'{pattern} needs axis {axis}, but scores have shape {x.shape}. Write '
        'nm(n, m, axis=...) with the axis whose channels to permute.')
  sizes = [x.shape[i] for i in joined]
  channels = int(np.prod(sizes))
  if channels % m:
    raise ValueError(
        f'{pattern} needs axis {axis} to be a multiple of {m}, but scores have '
        f'shape {x.shape}, with {channels} on that axis. Use another group '
        'size or another axis.')
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
  """Finds an order of the units of every tie with which N:M keeps more.

  The order matters for ties whose units an N:M kernel contracts. All such
  kernels of a tie, for example all readers of a residual stream, are searched
  jointly. If units have a separate order along another dimension, such as in
  each head or each stacked layer, there is one search for each.

  Args:
    params: the parameters from which `ties` were inferred, or scores like them.
      The parameters must not be pruned yet, because weights that already are
      N:M have no better order.
    ties: the ties, from `infer_ties` or written by hand.
    patterns: the patterns for `prune`; only N:M patterns matter here.
    budget: the number of sweeps of each search, see `find_permutation`.
    seed: the seed of the searches.
    progress: a function that wraps the iterable of sweeps of each search, such
      as `tqdm.tqdm`.

  Returns:
    A dict from names of ties to int32 arrays of `tie.shape`, for `permute`. It
    is empty if no N:M kernel contracts units of a tie.

  Raises:
    ValueError: if ties or patterns do not fit the parameters, a pattern is
      transposable, kernels of one tie have different N:M, or all kernels are
      N:M already.

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
        f'The parameters must have {trees.few(sorted(set(lost)))}, which are '
        f'in the ties, got {trees.few([*known])}. Give the parameters from '
        'which ties were inferred.')
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
          f'Kernels of tie {tie.name!r}, which share one order of units, must '
          f'have the same N:M, got {sorted(kinds)} for '
          f'{trees.few(list(map(str, columns)))}. Give them one N:M, or leave '
          'this tie out of `ties`.')
    searches += [(tie, n_m, list(zip(*columns.values()))) for n_m in kinds]
  if searches and all(permutation_search.is_pruned(kernel, *n_m)
                      for _, n_m, groups in searches
                      for group in groups for kernel in group):
    raise ValueError(
        'params must not be pruned yet, but all kernels are N:M already, so no '
        'order keeps more. Permute before the update that prunes.')
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
  Linen's `params/`) is reordered together with the parameter: gradients,
  optimizer state, masks, running averages. Pass them together, under the same
  keys as for `infer_ties`:

    params, opt_state = permute((params, opt_state), ties, permutations)

  Args:
    tree: the parameters from which `ties` were inferred, together with
      optimizer state, masks and the like.
    ties: the ties, from `infer_ties`, or written by hand and checked by
      `check_ties`.
    permutations: maps names of ties to int arrays `p` of `tie.shape`. The new
      unit `u` is the old unit `p[..., u]`. All permutations refer to the
      current order.

  Returns:
    The tree with the same shapes and types.

  Raises:
    ValueError: if a name belongs to no tie or to a fixed one, an array is not a
      permutation, or a tie does not match the tree.

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
          f'The units of tie {tie.name!r} are fixed ({tie.fixed}), so another '
          'order would change the function. Leave this tie out of '
          '`permutations`.')
  # Units within a group move before the groups that they are numbered by.
  return reordering.reorder(
      tree, sorted(orders, key=lambda order: -len(order[0].along)),
      shapes=ties.shapes)
