"""`prune_and_grow`: the rule of dynamic sparse training."""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import distributions
from jaxsparse import schedules
from jaxsparse import scopes
from jaxsparse import scores as scores_lib
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse._utils import warning
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.masks.exact_counts import Count
from jaxsparse.patterns import Pattern
from jaxsparse.rules import base
from jaxsparse.rules.base import RuleState

Share = float | Callable[[jax.Array], jax.typing.ArrayLike]
_SHARE = arguments.or_function(arguments.number(0, 1, write='0.3'))
_LOOK_AHEAD = 10_000  # Steps in which an exchange should move a connection.


@arguments.checked(
    patterns=base.SOME_PATTERNS, grow=scores_lib.SCORE, drop=scores_lib.SCORE,
    init=scores_lib.SCORE, fraction=_SHARE, surplus=_SHARE)
def prune_and_grow(
    patterns: base.Patterns, *, sparsity: float | distributions.Distribution,
    grow: optax.GradientTransformation,
    when: schedules.When | None = None,
    fraction: Share = 0.3,
    drop: optax.GradientTransformation | None = None,
    init: optax.GradientTransformation | None = None,
    drop_scope: scopes.Scope | None = None,
    grow_scope: scopes.Scope | None = None,
    surplus: Share | None = None,
    schedule: schedules.Schedule | None = None,
    init_sparsity: float | distributions.Distribution | None = None
    ) -> base.Rule:
  """Dynamic sparse training: drops some weights and grows as many elsewhere.

  The rule makes an exchange whenever `when(step)` holds. Of the `nnz` active
  units of each group, the

    nnz - floor(fraction * nnz)

  units with the highest drop scores stay, and the others are dropped. Then as
  many units grow: those with the highest grow scores among all inactive units,
  the units just dropped included. The number of active units never changes. A
  scope is the set of units that compete. Scopes other than `per_layer` let
  layers compete; then the counts above hold for the sum over layers.

  With a `surplus`, more units are active than the sparsity says while the
  surplus is above 0: each exchange drops to `budget - floor(fraction * budget)`
  units and grows up to `budget + floor(surplus * size)`.

  With a `schedule` the budget itself changes. Each exchange, and the step at
  which the schedule reaches its end, first sets the budget to `schedule(step)`
  times the sparsity, shared among layers by the drop scores of the active
  units. Then weights are dropped and grown under that budget. So with
  `global_threshold(0.9)` each exchange begins with a global pruning.

  Under the flow `hard`, pruned weights that grow start at zero with the
  optimizer's initial moments, and take part in the step that grows them.
  Weights that one exchange drops and grows again keep their values and moments.
  If a score reads gradients and one of these is not finite, an exchange
  replaces no weight; it still sets the budget, and a surplus.
  `jaxsparse.methods` has SET, DSR, SNFS, RigL, ITOP, MEST, Chase and GraNet,
  each a few lines over this rule.

  Args:
    patterns: maps regular expressions for parameter paths to patterns; see
      `rules.resolve`.
    sparsity: the fraction pruned in every layer, or a distribution such as
      `erk(0.9)`.
    grow: the score by which units are grown.
    when: a function from step to bool, true at the steps with an exchange;
      every 100 steps by default.
    fraction: the share of active units that an exchange replaces: a number in
      [0, 1], or an optax schedule, whose values are clipped to [0, 1]. Each
      group rounds its share down: 30% of the 2 units of a 2:4 group are none.
      It takes 50% there, and more than that if a schedule begins to fall before
      the first exchange.
    drop: the score by which active units stay; `magnitude()` by default.
    init: the score of the first masks; `random(0)` by default, as in the
      papers. Write `random(seed)` for other topologies.
    drop_scope: the scope in which units compete to stay; `scopes.per_layer` by
      default, see `jaxsparse.scopes`.
    grow_scope: the scope in which units compete to be grown;
      `scopes.per_layer` by default.
    surplus: the density above the budget: a number in [0, 1], or an optax
      schedule, whose values are clipped to [0, 1]. It should be 0 at the last
      exchange, otherwise the extra units stay active. A surplus needs
      `all_layers`, where other layers take the share of a layer that is full,
      or a scope that keeps each layer's count, where that share is lost.
    schedule: a function from step to the share of the final sparsity; the full
      sparsity from the start by default. With a schedule that starts above 0,
      such as `schedules.from_initial`, training starts sparse.
    init_sparsity: the sparsity of the first masks, or a distribution; by
      default `schedule(0)` times the final sparsity. A pattern with its own
      sparsity starts at `schedule(0)` times that in any case.

  Returns:
    A rule, an `optax.GradientTransformationExtraArgs` with masks as updates.
    Its `update` takes three more arguments. `allowed` is a function that
    returns a tree of bool arrays; units outside of these neither stay nor grow.
    `act` is a bool scalar that triggers an exchange at a step that `when`
    leaves out. `begins` is a bool scalar, true if the masks are those of
    another rule, as at the first step of a stage: then all layers get the
    number of units that the sparsity says, and nothing else is exchanged.

  Raises:
    ValueError: from `init`, see `rules.resolve`; or if a sparsity is missing.

  Warns:
    UserWarning: from `init`, if all groups are so small that no exchange of the
      first 10,000 steps would move a connection.

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
  drop_scope, grow_scope = (
      scope or scopes.per_layer for scope in (drop_scope, grow_scope))
  when = when or schedules.every(100)
  distribution, at_first = (
      s if callable(s) else distributions.uniform(s) for s in (
          sparsity, sparsity if init_sparsity is None else init_sparsity))
  progress = schedules.ending(schedule or schedules.one_shot())

  def to_the_bound(masks, shapes, make):
    """Fills the first masks up by the score that made them."""
    def layers():
      scores = make()
      none = jax.tree.map(lambda m: None, masks)
      return [_Layer(*row) for row in trees.align(
          masks, shapes, scores, scores, none) if row[1].size]
    new = _exchange(layers, {}, scopes.per_layer, grow_scope,
                    jnp.zeros((), jnp.float32), _at(surplus or 0., 0))
    return trees.map_with_path(lambda path, m: new.get(path, m), masks)

  def init_fn(params):
    shapes = base.resolve(patterns, params)
    sparse = base.sparse_only(params, shapes)
    if drop_scope is scopes.per_layer and schedule is None:
      _warn_of_small_groups(sparse, shapes, when, fraction, surplus or 0.)
    make = lambda: base.initial_scores(first, sparse)
    if jax.eval_shape(make) is None:
      raise ValueError(
          'prune_and_grow(init=...) needs a score without gradients, got one '
          'that reads them. Write e.g. init=scores.random(0), or magnitude().')
    kept = distributions.budgets(at_first, make, shapes, (
        progress(0) if init_sparsity is None else 1.))
    if init_sparsity is not None and schedule is not None:
      # Of patterns with their own sparsity, which only the schedule raises.
      own = distributions.budgets(
          distributions.uniform(0.), make, shapes, progress(0))
      kept = jax.tree.map(
          lambda pattern, k, o: k if pattern.sparsity is None else o, shapes,
          kept, own)
    masks = selection.select_each(make, shapes, kept)
    if surplus is not None:
      masks = to_the_bound(masks, shapes, make)
    states = drop.init(sparse), grow.init(sparse)
    return RuleState(jnp.zeros((), jnp.int32), masks, states,
                     _reads_dense(grow, sparse, states[1], False))

  def update(grads, state, params=None, *, updates=None, allowed=None,
             act=None, begins=False, **extra_args):
    step, shapes, scored = base.moment(
        patterns, state, grads, params, updates, **extra_args)

    own = when(step)
    sparse = base.sparse_only(params, shapes)

    def layers():
      """Made again wherever they are read: no step holds scores."""
      drops, grows = (
          scored(s, t)[0] for s, t in zip((drop, grow), state.scores))
      masks = base.sparse_only(state.masks, shapes)
      none = jax.tree.map(lambda m: None, masks)
      return [_Layer(*row) for row in trees.align(
          masks, shapes, drops, grows,
          none if allowed is None else allowed()) if row[1].size]

    def exchange(anew=False):
      budgets = {}
      if anew or surplus is not None or schedule is not None:
        kept = distributions.budgets(distribution, lambda: jax.tree.map(
            # An active weight of zero counts more than a pruned one.
            lambda m, x: jnp.where(m, x, -jnp.inf),
            base.sparse_only(state.masks, shapes),
            scored(drop, state.scores[0])[0]), shapes, progress(step))
        budgets = {path: k.count for path, _, k in trees.align(
            base.sparse_only(state.masks, shapes), kept)}
      apart = anew and surplus is None  # The budgets are those of layers.
      replaces = own & (not anew)
      if any(_reads_gradients(score, sparse) for score in (drop, grow)):
        # A NaN would be the lowest score of trained weights.
        replaces &= numerics.all_finite(base.sparse_only(grads, shapes))
      new = _exchange(
          layers, budgets, scopes.per_layer if anew else drop_scope,
          scopes.per_layer if apart else grow_scope,
          # A requested `act` only makes room; it does not replace weights.
          jnp.where(replaces, _at(fraction, step), 0.),
          _at(surplus or 0., step))
      return trees.map_with_path(
          lambda path, m: new.get(path, m),
          base.sparse_only(state.masks, shapes))

    due = own if schedule is None else base.is_due(when, progress, step)
    due = due if act is None else due | act
    masks = base.run_if(
        begins, lambda: exchange(anew=True),
        base.run_if(due, exchange, state.masks))
    due = due | begins
    scores = tuple(scored(s, t)[1] for s, t in zip((drop, grow), state.scores))
    return masks, RuleState(step, masks, scores, _reads_dense(
        grow, sparse, state.scores[1], due))

  rule = base.Rule(init_fn, update)
  rule.progress = schedule and progress
  return rule


def _warn_of_small_groups(sparse: Any, shapes: Any, when: schedules.When,
                          fraction: Share, surplus: Share) -> None:
  """Warns if the shares to move are less than a unit in every group."""
  rows = [(path, pattern, *pattern.sizes(jnp.shape(w)))
          for path, w, pattern in trees.align(sparse, shapes) if jnp.size(w)]
  if not rows or any(groups == 1 for _, _, groups, _ in rows):
    return  # The shares of whole layers are not worth a compilation.

  def highest():
    return [jnp.where(jax.vmap(when)(steps), jax.vmap(
        lambda step, share=share: _at(share, step))(steps), 0.).max()
            for share in (fraction, surplus)]
  steps = np.arange(1, _LOOK_AHEAD + 1)
  with jax.ensure_compile_time_eval():
    shares = jax.jit(highest)()
  if any(isinstance(share, jax.core.Tracer) for share in shares):
    return  # A hyperparameter that is traced.
  fewer, more = map(float, shares)
  # Bounds of patterns say how many units are active at most.
  active = [selection.final_count(size, p.min_sparsity if p.sparsity is None
                                  else p.sparsity) for _, p, _, size in rows]
  if fewer + more > 0 and not any(
      # With the tolerance of `share_of`.
      fewer * n + 1e-3 >= 1 or more * size + 1e-3 >= 1
      for n, (*_, size) in zip(active, rows)):
    warning.warn(
        f'No connection would move in the first {_LOOK_AHEAD:,} steps: each '
        'group moves its share of units, rounded down, and the largest share, '
        f'{max(fewer, more):.3g}, is less than one unit in the groups of '
        f'{trees.few([trees.named(path) for path, *_ in rows])} '
        f'({rows[0][1]}). Write a larger share, or patterns with larger '
        'groups, such as nm(8, 16).')


def _reads_dense(grow: scores_lib.Score, sparse: Any, state: Any,
                 due: bool | jax.Array) -> jax.Array | None:
  """Whether gradients of pruned weights are read; `None` for never.

  A score with a state accumulates them at every step.
  """
  if not _reads_gradients(grow, sparse):
    return None
  return jnp.asarray(due) | bool(jax.tree.leaves(state))


def _reads_gradients(score: scores_lib.Score, sparse: Any) -> bool:
  # By shapes: a step makes no scores only to know that it could.
  return jax.eval_shape(
      lambda w: base.initial_scores(score, w), sparse) is None


class _Layer(NamedTuple):
  """A sparse parameter at an exchange.

  `allowed` is where weights may be, `None` for anywhere.
  """
  path: str
  mask: jax.Array
  pattern: Pattern
  drop: jax.Array
  grow: jax.Array
  allowed: jax.Array | None


def _exchange(make: Callable[[], list[_Layer]], budgets: dict[str, Count],
              drop_scope: scopes.Scope, grow_scope: scopes.Scope,
              share: jax.Array, extra: jax.Array) -> dict[str, jax.Array]:
  """The new mask of every layer.

  `budgets` are how many units each group ends with; without any, as many as it
  has.
  """
  layers = make()
  if not layers:
    return {}
  # Vectors over layers: scalars by the hundred compile slowly.
  has = counts.total_each([
      _first_group(_any(x.mask, x.pattern), x) for x in layers])
  whole = counts.stack([budgets[x.path] for x in layers]) if budgets else has
  drop_goals = counts.subtract(whole, counts.share_of(whole, share))
  grow_goals = _with_surplus(whole, counts.exactly_each([
      x.pattern.sizes(x.mask.shape)[1] for x in layers]), extra)
  drop_goals, grow_goals = map(counts.unstack, (drop_goals, grow_goals))

  def dropping():
    return [x._replace(open=x.open & x.active)
            for x in (_on_grid(layer, layer.drop) for layer in make())]
  stay = drop_scope(scopes.Layers(dropping), drop_goals)

  def growing():
    return [_on_grid(layer, layer.grow)._replace(certain=units)
            for layer, units in zip(make(), stay)]
  new = grow_scope(scopes.Layers(growing), grow_goals)
  return {x.path: selection.spread(units, x.pattern, x.mask.shape)
          for x, units in zip(layers, new)}


def _any(mask: jax.Array, pattern: Pattern) -> jax.Array:
  """Units with any entry that is true."""
  return selection.unit_scores(mask.astype(jnp.float32), pattern) > 0


def _on_grid(layer: _Layer, scores: jax.Array) -> scopes.Layer:
  """A layer whose open units are those that are allowed as a whole."""
  active = _any(layer.mask, layer.pattern)
  return scopes.Layer(
      layer.path, layer.pattern, layer.mask.shape,
      scopes.finite(selection.unit_scores(scores, layer.pattern)), active,
      jnp.zeros_like(active), jnp.ones_like(active) if layer.allowed is None
      else ~_any(~layer.allowed, layer.pattern))


def _first_group(units: jax.Array, layer: _Layer) -> jax.Array:
  """The first group; of a mask made by `select` all keep the same number."""
  tile = layer.pattern.group_tile(layer.mask.shape)
  return units[tuple(slice(t) for t in tile)]


def _at(share: Share, step: Any) -> jax.Array:
  value = share(step) if callable(share) else share
  return jnp.clip(jnp.asarray(value, jnp.float32), 0., 1.)


def _with_surplus(budget: Count, size: Count, surplus: jax.Array) -> Count:
  """Beyond its size, too: what a dense layer has no room for is for others."""
  return counts.add(budget, counts.share_of(size, surplus))
