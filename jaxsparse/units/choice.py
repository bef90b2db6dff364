"""The choice of hidden units to keep: heads, neurons, experts, by importance.

  ties = infer_ties(apply, params, x)
  found = sensitivity(loss_fn, params, batches, ties)
  keep = {**keep_units(found, heads(ties), count=6),
          **keep_units(found, neurons(ties), sparsity=0.5, scope='global')}
  params = slim(params, ties, keep)

makes a smaller dense network. `prune_units` makes the same choice during
training, with masks.
"""

import dataclasses
import difflib
from typing import Any, Collection, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import distributions
from jaxsparse import patterns
from jaxsparse._utils import arguments
from jaxsparse._utils.tables import brief
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.masks.remade import Remade
from jaxsparse.units import multiples
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

# A group of a tie along others competes within itself.
_ROWS = patterns.Pattern(
    'units of a tie', patterns.Tiling(rest=1), patterns.Tiling(((0, 1),)))


# What a router does over all experts.
_CHOOSING = 'reduce_max', 'top_k', 'argmax', 'gather'


@arguments.checked()
def heads(ties: Ties | Sequence[Tie]) -> Ties:
  """The ties whose units are attention heads, and may be removed.

  A head is a unit that contains units of another tie, the dimensions of the
  head. The heads in the layers of a `scan` are one tie, along layers. The
  groups of a group norm do not count as heads, because the norm sums over all
  units in a group.

  Args:
    ties: the ties of a function, from `infer_ties`.

  Returns:
    The ties of heads, a subset of `ties`.
  """
  ties = ties_lib.as_ties(ties)
  own = [t for t in ties if not (t.kept or '').startswith('reduce')]
  within, holding = multiples.nested(ties.ties, own)
  return _removable(ties, holding - within)


@arguments.checked()
def neurons(ties: Ties | Sequence[Tie]) -> Ties:
  """The ties whose units are neurons or channels, and may be removed.

  These are all ties except heads and the dimensions of heads. The channels of a
  residual stream are among them unless a norm over the channels forbids their
  removal.

  Args:
    ties: the ties of a function, from `infer_ties`.

  Returns:
    The ties of neurons and channels, a subset of `ties`.
  """
  ties = ties_lib.as_ties(ties)
  within, holding = multiples.nested(ties.ties)
  return _removable(ties, {tie.name for tie in ties} - within - holding)


@arguments.checked()
def experts(ties: Ties | Sequence[Tie]) -> Ties:
  """The ties whose units are experts, changed so that these may be removed.

  Experts are units for which a router computes a number each, and which have a
  kernel each. So they are an axis of a stacked kernel over which its products
  do not sum. Products must not have this axis as an output either, unless the
  router has a softmax or chooses among the units. The softmax or `top_k` of a
  router runs over all experts, so `infer_ties` marks these units as not
  removable. This function marks them as removable: after removal the router
  distributes its weights over the other experts, which is the purpose of
  pruning experts. The biases and score corrections of the router are cut
  together with its kernel. Layers of a `scan` have one tie, along layers.

  Args:
    ties: the ties of a function, from `infer_ties`.

  Returns:
    The ties of experts, with `kept` and `read` set to `None`.

  >>> import jax
  >>> import numpy as np
  >>> from jaxsparse import infer_ties
  >>> def mixture(params, x):
  ...   shares = jax.nn.softmax(x @ params['router'])
  ...   y = jax.numpy.einsum('td,edf->tef', x, params['experts'])
  ...   return jax.numpy.einsum('te,tef->tf', shares, y)
  >>> params = {'router': np.ones((4, 8)), 'experts': np.ones((8, 4, 3))}
  >>> tie, = experts(infer_ties(mixture, params, np.ones((2, 4)), check=False))
  >>> tie.name, tie.size
  ('experts[*]', 8)
  """
  ties = ties_lib.as_ties(ties)

  def routed(tie):
    # Of stacked layers each has its own experts.
    roles = {(m.role, len(ties.shapes.get(m.path, ())) - len(m.along))
             for m in tie.members}
    if ('reads', 2) in roles:  # As a matrix reads features, or heads.
      return False
    stacked = any(
        m.role == 'beside' and len(shape) - len(m.along) > 2
        and sum(n > 1 for n in shape) - len(m.along) > 1  # Or it is a scale.
        for m in tie.members for shape in [ties.shapes.get(m.path, ())])
    if (tie.kept or '').startswith(_CHOOSING):  # And the router is a matrix.
      stacked |= ('makes', 2) in roles and any(
          rank > 2 and role == 'makes' for role, rank in roles)
    return stacked and any(
        rank > 1 and role == 'makes' for role, rank in roles)
  return Ties(tuple(
      dataclasses.replace(tie, kept=None, read=None) for tie in ties
      if tie.free and routed(tie)), ties.shapes)


def _removable(ties: Ties, names: Collection[str]) -> Ties:
  """The ties of these names whose units may be removed."""
  return Ties(tuple(
      tie for tie in ties if tie.name in names
      and not (tie.fixed or tie.kept or tie.read)), ties.shapes)


@arguments.checked(multiple=multiples.MULTIPLE)
def keep_units(importance: Mapping[str, Any], ties: Ties | Sequence[Tie], *,
               count: int | None = None, sparsity: float | None = None,
               scope: str = 'layer', multiple: int = 1
               ) -> dict[str, np.ndarray]:
  """Selects the units of highest importance, for `slim`.

  Args:
    importance: maps names of ties to arrays of `tie.shape`, such as the result
      of `sensitivity`.
    ties: the ties that lose units, such as `heads(ties)`.
    count: the number of units that each tie keeps. Give either `count` or
      `sparsity`.
    sparsity: the fraction of units to remove, of each tie or of all together.
    scope: 'layer' removes the same share of every tie. With 'global', units of
      all ties compete by their importance divided by its 2-norm in the tie, and
      each tie keeps at least one unit.
    multiple: every tie keeps a multiple of this number of units, or all of its
      units; a tie with no more than `multiple` units keeps all. Numbers are
      rounded down. The units freed by rounding go, `multiple` at a time, to the
      ties that lost most by rounding, or in the global scope to the units of
      highest importance. Leave it at 1 for heads.

  Returns:
    A dict from names of ties to bool arrays of `tie.shape`, True at units to
    keep. All groups along `Tie.along` keep equally many units, each its own.
    The global scope ranks the means over groups.

  Raises:
    ValueError: if neither or both of count and sparsity are given; if there are
      no ties; if the units of a tie may not be removed, or its importance is
      missing, not finite or of another shape; if count is not a multiple of
      `multiple`; or if a count or a multiple leaves nothing to remove.

  >>> from jaxsparse.units.ties import Member, Tie
  >>> tie = Tie(3, (Member('out', 0),), name='hidden')
  >>> keep_units({'hidden': np.array([1., 3., 2.])}, [tie], count=2)
  {'hidden': array([False,  True,  True])}
  """
  ties = tuple(ties_lib.as_ties(ties))
  budget = Budget(count, sparsity, scope)
  budget.check()
  scores = _of_ties(importance, ties)
  steps = multiples.steps(ties, multiple)
  budget.check_sizes([tie.size for tie in ties], steps)
  for tie, score in zip(ties, scores):
    if not np.isfinite(score).all():
      raise ValueError(
          f'The importance of tie {tie.name!r} must be finite, got NaN or '
          'infinity. Check the gradients of each batch.')
  return {tie.name: np.asarray(k)
          for tie, k in zip(ties, budget.keep(scores, steps=steps))}


def _of_ties(importance: Mapping[str, Any], ties: Sequence[Tie]
             ) -> list[jax.Array]:
  """The importance of each tie, checked as far as shapes tell."""
  if not ties:
    raise ValueError(
        'keep_units needs at least one tie, got none. Write print(ties) to see '
        'which units may be removed, and why others may not.')
  for tie in ties:
    if why := tie.fixed or tie.kept:
      raise ValueError(
          f'The units of tie {tie.name!r} may not be removed ({why}). Give '
          'ties with removable units, e.g. heads(ties) or neurons(ties).')
    if tie.name not in importance:
      near = difflib.get_close_matches(tie.name, [*importance], 1, .3)
      reader = f'not only kernels, but {tie.read}' if tie.read else (
          'no kernel among the params')
      raise ValueError(
          f'The importance of tie {tie.name!r} is missing, because {reader} '
          f'reads its units; got that of {near or [*importance][:3]}. '
          'Write e.g. neurons(ties), or importance={...} with this name.')
    if np.shape(importance[tie.name]) != tie.shape:
      raise ValueError(
          f'The importance of tie {tie.name!r} must have the shape '
          f'{tie.shape}, a number for each unit, got '
          f'{np.shape(importance[tie.name])}. Write e.g. '
          'sensitivity(loss_fn, params, batches, ties).')
  return [jnp.asarray(importance[tie.name], jnp.float32) for tie in ties]


class Budget(NamedTuple):
  """The numbers of units to keep: a count for each tie, or a share of all.

  Attributes:
    count: the number of units that each tie keeps, or `None`.
    sparsity: the fraction of units to remove, or `None`.
    scope: 'layer' removes the same share of every tie; with 'global', units of
      all ties compete.
    floor: the share of `(1 - sparsity) * size` units that every tie keeps at
      least in the global scope; at least one unit stays in any case.
    normalize: whether the global scope divides by the 2-norm of a tie's scores.
  """
  count: int | None = None
  sparsity: float | None = None
  scope: str = 'layer'
  floor: float = 0.
  normalize: bool = True

  def check(self) -> None:
    """Raises a `ValueError` if the numbers make no budget."""
    count, sparsity, scope = self.count, self.sparsity, self.scope
    whole = count is None or (isinstance(count, int) and count >= 1)
    if (count is None) == (sparsity is None) or not whole or not (
        0 <= (sparsity or 0) <= 1):
      raise ValueError(
          'Give either count, the number of units that a tie keeps, at least '
          '1, or sparsity, the fraction to remove, in [0, 1], got '
          f'count={count} and sparsity={sparsity}. Write e.g. sparsity=0.5.')
    if scope not in ('layer', 'global') or (
        count is not None and scope == 'global'):
      raise ValueError(
          "scope must be 'layer', or 'global' with a sparsity, got "
          f'{brief(scope)} and count={count}. Write e.g. sparsity=0.5, '
          "scope='global'.")
    if not 0 <= self.floor <= 1 or self.floor and scope != 'global':
      raise ValueError(
          'floor must be in [0, 1], the share of its proportional number of '
          "units that a tie keeps with scope='global', got "
          f'floor={self.floor} and scope={brief(scope)}. Write e.g. '
          "scope='global', floor=0.2.")

  def check_sizes(self, sizes: Sequence[int], steps: Sequence[int] = ()
                  ) -> None:
    """Raises a `ValueError` if nothing can be taken away from these sizes."""
    if self.count is not None and self.count >= max(sizes):
      raise ValueError(
          f'count={self.count} removes no unit: count is the number of units '
          f'that a tie keeps, and these ties have {sorted({*sizes})}. Write '
          f'e.g. count={max(max(sizes) // 2, 1)}.')
    if steps and max(steps) > 1 and all(n <= k for n, k in zip(sizes, steps)):
      raise ValueError(
          f'Multiples of {sorted({*steps})} units remove no unit: each tie '
          f'keeps a multiple, and these ties have {sorted({*sizes})} units. '
          f'Write e.g. multiple={max(max(sizes) // 2, 1)}.')
    for size, step in zip(sizes, steps):
      if self.count is not None and self.count < size and self.count % step:
        raise ValueError(
            f'count={self.count} must be a multiple of {step} units, as '
            f'multiple asks. Write e.g. count={-(-self.count // step) * step}.')

  def keep(self, scores: Sequence[jax.Array],
           progress: jax.typing.ArrayLike = 1., *,
           steps: Sequence[int] | None = None) -> list[jax.Array]:
    """The units to keep: a bool array of the shape of each tie's scores.

    Args:
      scores: the scores of each tie, `[..., size]`; groups along leading axes
        keep equally many units.
      progress: the share of the way from all units to the budget; may be
        traced.
      steps: for each tie, the number of units of which it keeps a multiple; 1
        by default. Numbers are rounded down at all times.

    Returns:
      The units of the highest scores; of equal scores, the lower index.
    """
    sizes = [x.shape[-1] for x in scores]
    steps = steps or [1] * len(sizes)
    if self.scope == 'global':
      kept = self._shared(scores, sizes, steps, progress)
    else:
      kept = [_stepped(selection.on_the_way(n, final, progress), final, n, step)
              for n, final, step in zip(
                  sizes, self._finals(sizes, steps), steps)]
    return [selection.select(x.reshape(-1, n), _ROWS, k).reshape(x.shape)
            for x, n, k in zip(scores, sizes, kept)]

  def _finals(self, sizes: Sequence[int], steps: Sequence[int]) -> list[int]:
    if self.count is not None:
      return [min(n, self.count) for n in sizes]
    return multiples.share(
        [max(1, selection.final_count(n, self.sparsity or 0.)) for n in sizes],
        sizes, steps)

  def _shared(self, scores: Sequence[jax.Array], sizes: Sequence[int],
              steps: Sequence[int], progress: jax.typing.ArrayLike
              ) -> list[selection.Kept]:
    """How many units each tie keeps in one rank of all."""
    # One number a rank: the mean of those that have it in every group.
    ranked = [jnp.sort(x.reshape(-1, n), axis=-1)[:, ::-1].mean(0)
              for x, n in zip(scores, sizes)]
    if self.normalize:
      ranked = [r / jnp.maximum(jnp.linalg.norm(jnp.maximum(x, 0.)), 1e-30)
                for r, x in zip(ranked, scores)]
    total, sparsity = sum(sizes), self.sparsity or 0.
    final = selection.final_count(total, sparsity)
    # 0.07 * 100 is 7, although the float is a little less.
    share = (1 - sparsity) * self.floor
    fewest = [max(1, int(share * n + 1e-6)) for n in sizes]
    together = selection.on_the_way(total, final, progress)
    if max(steps) > 1:
      return [_kept(k) for k in multiples.share_by_rank(
          ranked, _number(together), fewest, steps)]
    kept = distributions.keep_together(
        Remade(lambda: ranked), together.count, counts.exactly_each(fewest),
        counts.exactly_each(sizes), (False,) * len(sizes))
    return [selection.Kept(k.count) for k in kept]


def _stepped(kept: selection.Kept, final: int, size: int, step: int
             ) -> selection.Kept:
  """On the way to a final number, rounded down to a multiple of a step."""
  return kept if step == 1 else _kept(multiples.down_on_the_way(
      _number(kept), final, size, step))


def _number(kept: selection.Kept) -> jax.Array:
  """As int32, which numbers of units are within."""
  return counts.to_uint32(kept.count).astype(jnp.int32)


def _kept(number: jax.Array) -> selection.Kept:
  """The inverse of `_number`."""
  return selection.Kept(counts.from_uint32(number.astype(jnp.uint32)))
