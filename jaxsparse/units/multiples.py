"""Rounding of numbers of units to multiples that suit the hardware.

Vector units and matrix units process 8, 16 or 128 numbers at once, so a layer
of 9 channels may take the time of 16. A number of units is rounded

  down to a multiple when units are chosen, and other ties get the budget;
  up to a multiple when dead units are removed, so that all live units stay.

A tie with no more units than the multiple keeps all of them. With multiple 8, a
tie with 20 units may keep 8, 16 or 20.
"""

import math
from typing import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import arguments
from jaxsparse.units.ties import Tie

# Of arguments `multiple`.
MULTIPLE = arguments.whole(1, '8')


def nested(ties: Sequence[Tie], inside: Iterable[Tie] | None = None
           ) -> tuple[set[str], set[str]]:
  """Names of ties whose units are within other units, and of those that hold.

  Dimensions of a head are within heads, which hold them.

  Args:
    ties: all of them.
    inside: others hold something only if it is of these; `None`: of all.
  """
  # Where units are that can be told apart, so the layers of a scan are none.
  places = {(m.path, m.axis, m.stride) for tie in ties if tie.free
            for m in tie.members}
  inner = {tie.name: {(m.path, *place) for m in tie.members
                      for place in m.along} & places for tie in ties}
  held = set().union(*(inner[tie.name] for tie in (
      ties if inside is None else inside)))
  return {name for name, found in inner.items() if found}, {
      tie.name for tie in ties
      if any((m.path, m.axis, m.stride) in held for m in tie.members)}


def steps(ties: Sequence[Tie], multiple: int) -> list[int]:
  """Of how many units each tie keeps a multiple.

  A unit may have several indices of an axis, as a channel has after a flatten,
  and then fewer units make a multiple there. Of heads any number will do where
  the ties within them are given, too: products run over the dimensions of a
  head, and these are rounded.

  Args:
    ties: all of them, as heads are told by what is within them.
    multiple: of how many indices the axes are to be.

  Returns:
    A number for each tie, 1 or more.

  >>> from jaxsparse.units.ties import Member
  >>> wide = Member('w', 0, stride=4, repeats=((4, 1),))
  >>> steps([Tie(64, (Member('w', 1),)), Tie(6, (wide,))], 8)
  [8, 2]
  """
  _, holding = nested(ties)

  def step(tie):
    if tie.name in holding:
      return 1
    each = [math.prod(n for n, _ in m.repeats) for m in tie.members]
    return math.lcm(*(multiple // math.gcd(multiple, n) for n in each))
  return [step(tie) for tie in ties]


def up(count: int, size: int, step: int) -> int:
  """The next number that a tie may keep: a multiple, or all of its units.

  >>> up(9, 20, 8), up(17, 20, 8)
  (16, 20)
  """
  return min(-(-count // step) * step, size)


def down(count: int, size: int, step: int) -> int:
  """The number before that a tie may keep; the first multiple stays.

  >>> down(15, 20, 8), down(20, 20, 8), down(3, 20, 8), down(3, 5, 8)
  (8, 20, 8, 5)
  """
  return size if count >= size else max(
      count // step * step, min(step, size))


def share(counts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]
          ) -> list[int]:
  """Rounds numbers so that their sum is no more than before, but near it.

  All are rounded down. What that frees goes to those that lost most by it, a
  step each.

  Args:
    counts: how many units ties would keep.
    sizes: how many they have.
    steps: of `steps`.

  Returns:
    How many they keep. The sum is more than before only where ties keep their
    first multiple.

  >>> share([10, 19, 38], [16, 32, 64], [8, 8, 8])
  [8, 16, 40]
  """
  kept = [down(*row) for row in zip(counts, sizes, steps)]
  free = sum(counts) - sum(kept)
  for i in sorted(range(len(kept)), key=lambda i: kept[i] - counts[i]):
    more = up(kept[i] + 1, sizes[i], steps[i]) - kept[i]
    if kept[i] < counts[i] and more <= free:
      kept[i], free = kept[i] + more, free - more
  return kept


def down_on_the_way(count: jax.Array, final: int, size: int, step: int
                    ) -> jax.Array:
  """`down` of a traced number, and no less than the final one."""
  return jnp.where(
      count >= size, size, jnp.maximum(count // step * step, final))


def share_by_rank(ranked: Sequence[jax.Array], total: jax.Array,
                  fewest: Sequence[int], steps: Sequence[int]
                  ) -> list[jax.Array]:
  """How many units each tie keeps, if they compete a step at a time.

  Blocks of a step of neighbours in rank compete by the means of their scores,
  the highest first, while all of a block is within the total. So the sum is
  less than a step below it, unless the fewest are more.

  Args:
    ranked: the scores of each tie, the highest first.
    total: int32, how many units all ties keep; may be traced.
    fewest: how many each keeps at least; rounded up.
    steps: of `steps`.

  Returns:
    int32 for each tie.

  >>> a, b = jnp.array([9., 5., 3., 2.]), jnp.array([6., 5., 1., 1.])
  >>> [int(k) for k in share_by_rank([a, b], jnp.int32(7), [1, 1], [2, 2])]
  [4, 2]
  """
  sizes, means, owners = [], [], []
  for i, (scores, least, step) in enumerate(zip(ranked, fewest, steps)):
    n, scores = len(scores), scores.astype(jnp.float32)
    ends = [*range(step, n, step), n]
    starts = [0, *ends[:-1]]
    whole = n // step * step
    blocks = jnp.concatenate([
        scores[:whole].reshape(-1, step).mean(-1),
        scores[whole:].mean(keepdims=True)[:whole < n]])
    # Means of equal scores may differ by their rounding.
    blocks = jax.lax.cummin(blocks)
    means.append(jnp.where(
        np.array(starts) < up(least, n, step), jnp.inf, blocks))
    sizes += [end - start for start, end in zip(starts, ends)]
    owners += [i] * len(ends)
  order = jnp.argsort(-jnp.concatenate(means), stable=True)
  taken = jnp.array(sizes, jnp.int32)[order]
  least = sum(up(*row) for row in zip(fewest, map(len, ranked), steps))
  taken = jnp.where(
      jnp.cumsum(taken) <= jnp.maximum(total, least), taken, 0)
  kept = jnp.zeros(len(ranked), jnp.int32).at[
      jnp.array(owners, jnp.int32)[order]].add(taken)
  return list(kept)
