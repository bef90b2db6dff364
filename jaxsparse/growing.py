"""`prune_and_grow`: the rule of dynamic sparse training."""

from typing import Any, Callable

import jax
import jax.numpy as jnp
import optax

from jaxsparse import counts
from jaxsparse import distributions
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scopes
from jaxsparse import scores as scores_lib
from jaxsparse import selection
from jaxsparse import trees
from jaxsparse.counts import Count
from jaxsparse.rules import RuleState
from jaxsparse.selection import Kept

Share = float | Callable[[jax.Array], Any]


def prune_and_grow(
    patterns: rules.Patterns, *, sparsity: float | distributions.Distribution,
    grow: optax.GradientTransformation,
    when: schedules.When | None = None,
    fraction: Share = 0.3,
    drop: optax.GradientTransformation | None = None,
    init: optax.GradientTransformation | None = None,
    drop_scope: scopes.Scope = scopes.per_layer,
    grow_scope: scopes.Scope = scopes.per_layer,
    surplus: Share | None = None) -> rules.Rule:
  """Dynamic sparse training: drop some weights, grow as many elsewhere.

  Whenever `when(step)` holds, of the `nnz` active units of each group

    nnz - floor(fraction * nnz)

  stay, those with the highest drop score, and the places left go to the highest
  grow scores among all others, those just dropped included. The number of
  active units never changes. Scopes other than `per_layer` let layers compete:
  then these counts hold for their sum.

  With a `surplus` more units are active than the sparsity says, as long as
  there is exploring to do: each exchange leaves `budget - floor(fraction *
  budget)` and grows up to `budget + floor(surplus * size)`.

  With `hard`, grown weights start at zero with zero moments. `jaxsparse.dynamic`
  has SET, DSR, SNFS, RigL, ITOP, MEST and Chase, each a few lines over this.

  Args:
    patterns: regular expressions for parameter paths to patterns; see
      `rules.resolve`.
    sparsity: the fraction pruned in every layer, or a distribution such as
      `erk(0.9)`.
    grow: the score by which units are grown.
    when: at which steps; every 100 by default.
    fraction: the share of active units replaced, a number or an optax schedule;
      clipped to [0, 1].
    drop: the score by which active units stay; `magnitude()` by default.
    init: the score of the first masks; `random(0)` by default, as in the
      papers. Give `random(seed)` for other topologies.
    drop_scope: who competes with whom to stay; see `jaxsparse.scopes`.
    grow_scope: who competes with whom to be grown.
    surplus: density above the budget, a number or an optax schedule; clipped to
      [0, 1]. The last exchange that it allows more at decides what remains, so
      let it be 0 by then. It belongs to scopes that keep a layer's count, or
      `all_layers`.

  Returns:
    A rule, an `optax.GradientTransformationExtraArgs` with masks as updates.
    Its `update` takes `allowed`, too: a function that returns a tree of bool
    arrays, outside of which nothing stays or grows.

  Raises:
    ValueError: from `init`, see `rules.resolve`; or if a sparsity is missing.

  References:
    Evci et al., `Rigging the Lottery: Making All Tickets Winners
    <https://arxiv.org/abs/1911.11134>`_, 2020;
    Mocanu et al., `Scalable Training of Artificial Neural Networks with
    Adaptive Sparse Connectivity <https://arxiv.org/abs/1707.04780>`_, 2018

  >>> from jaxsparse.patterns import unstructured
  >>> rule = prune_and_grow(
  ...     {'.*': unstructured()}, sparsity=0.5, grow=scores_lib.gradient(),
  ...     init=scores_lib.magnitude(), when=schedules.every(1), fraction=0.5)
  >>> w = jnp.array([4., 3., 0., 0.])
  >>> state = rule.init(w)
  >>> print(rule.update(jnp.array([0., 1., 2., 9.]), state, w)[0])
  [ True False False  True]
  """
  drop, grow, first = (optax.with_extra_args_support(s) for s in (
      drop or scores_lib.magnitude(), grow, init or scores_lib.random(0)))
  rules.check_functions(
      when=(when, 'every(100)'), drop_scope=(drop_scope, 'scopes.all_layers'),
      grow_scope=(grow_scope, 'scopes.all_layers'))
  when = when or schedules.every(100)
  distribution = sparsity if callable(sparsity) else (
      distributions.uniform(sparsity))

  def budgets(scores, shapes):
    """Units that each group of each layer ends with, a tree of counts."""
    kept = distribution(scores, shapes, 1.)
    is_leaf = lambda x: isinstance(x, Kept)
    def count(k, score, pattern):
      return k if isinstance(k, Kept) else Kept(
          selection.kept_count(pattern.sizes(score.shape)[1], k))
    return jax.tree.map(count, kept, scores, shapes, is_leaf=is_leaf)

  def init_fn(params):
    shapes = rules.resolve(patterns, params)
    sparse = rules.sparse_only(params, shapes)
    scores = rules.initial_scores(first, sparse)
    if scores is None:
      raise ValueError(
          'prune_and_grow(init=...) needs a score that does without gradients, '
          'such as random(seed) or magnitude().')
    kept = budgets(scores, shapes)
    if surplus is not None:
      kept = jax.tree.map(
          lambda s, pattern, k: Kept(_with_surplus(
              k.count, pattern.sizes(s.shape)[1], _at(surplus, 0))),
          scores, shapes, kept)
    masks = rules.select(scores, shapes, kept)
    reads = rules.initial_scores(grow, sparse) is None
    return RuleState(
        jnp.zeros((), jnp.int32), masks, (drop.init(sparse), grow.init(sparse)),
        jnp.zeros((), bool) if reads else None)

  def update(grads, state, params=None, *, updates=None, allowed=None,
             **extra_args):
    step, shapes, scored = rules.moment(
        patterns, state, grads, params, updates, **extra_args)

    def exchange():
      drops, grows = (
          scored(s, t)[0] for s, t in zip((drop, grow), state.scores))
      masks = rules.sparse_only(state.masks, shapes)
      final = masks if surplus is None else budgets(drops, shapes)
      inside = masks if allowed is None else allowed()
      rows = [row for row in trees.align(
          drops, grows, masks, shapes, final, inside) if row[1].size]
      dropping = [
          _layer(path, pattern, drop_score, mask, may & mask)
          for path, drop_score, _, mask, pattern, _, may in rows]
      have = [_per_group(layer.active, layer) for layer in dropping]
      sizes = [layer.pattern.sizes(layer.shape)[1] for layer in dropping]
      base = have if surplus is None else [
          counts.minimum(n, row[5].count) for n, row in zip(have, rows)]
      share = _at(fraction, step)
      stay = drop_scope(dropping, [
          counts.subtract(n, counts.floor_of(n, share)) for n in base])
      growing = [
          _layer(path, pattern, grow_score, mask, may if allowed else None,
                 certain)
          for (path, _, grow_score, mask, pattern, _, may), certain
          in zip(rows, stay)]
      new = grow_scope(growing, have if surplus is None else [
          _with_surplus(row[5].count, size, _at(surplus, step))
          for row, size in zip(rows, sizes)])
      made = {layer.path: selection.spread(units, layer.pattern, layer.shape)
              for layer, units in zip(growing, new)}
      return trees.map_with_path(
          lambda path, mask: made.get(path, mask), masks)

    due = when(step)
    masks = rules.run_if(due, exchange, state.masks)
    scores = tuple(scored(s, t)[1] for s, t in zip((drop, grow), state.scores))
    return masks, RuleState(step, masks, scores, _dense(state, due))

  return rules.Rule(init_fn, update)


def _layer(path: str, pattern: Any, scores: jax.Array, mask: jax.Array,
           inside: jax.Array | None, certain: jax.Array | None = None
           ) -> scopes.Layer:
  """A layer on its grid of units; open are those with any weight inside."""
  def any_of(x):
    return selection.unit_scores(x.astype(jnp.float32), pattern) > 0
  active = any_of(mask)
  return scopes.Layer(
      path, pattern, mask.shape,
      scopes.finite(selection.unit_scores(scores, pattern)), active,
      jnp.zeros_like(active) if certain is None else certain,
      jnp.ones_like(active) if inside is None else any_of(inside))


def _per_group(units: jax.Array, layer: scopes.Layer) -> Count:
  """How many units of each group are marked.

  Every group of a mask made by `select` has the same number.
  """
  tile = layer.pattern.group_tile(layer.shape)
  return scopes.count(units[tuple(slice(t) for t in tile)])


def _at(share: Share, step: jax.typing.ArrayLike) -> jax.Array:
  value = share(step) if callable(share) else share
  return jnp.clip(jnp.asarray(value, jnp.float32), 0., 1.)


def _with_surplus(budget: Count, size: int, surplus: jax.Array) -> Count:
  whole = counts.exactly(size)
  return counts.minimum(
      whole, counts.add(budget, counts.floor_of(whole, surplus)))


def _dense(state: RuleState, due: bool | jax.Array) -> jax.Array | None:
  """Whether an update reads gradients of pruned weights.

  A score with a state accumulates them at every step.
  """
  if state.dense is None:
    return None
  return jnp.asarray(due) | bool(jax.tree.leaves(state.scores[1]))
