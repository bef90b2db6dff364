r"""Group Lasso: a penalty under which whole units of weights vanish.

  R(w) = alpha * sum_g ||w_g||,   ||w_g|| the 2-norm of a group's weights

Groups are the units of patterns (single rows or columns, blocks, channels) or
the hidden units of ties: all weights that make a unit, stand beside it or read
it. "Train with group Lasso, then slim" is

  tx = optax.chain(adam, prox_group_lasso(0.1, ties, learning_rate=1e-3))
  ...                                          # any train step, even without
  params = slim(params, ties, alive(params, ties))              # a `sparsify`
"""

import dataclasses
import math
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import optax

from jaxsparse import flows
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse.masks import selection
from jaxsparse.patterns import Pattern
from jaxsparse.units import per_unit
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

Groups = Mapping[str, Pattern | None] | Ties | Sequence[Tie]
Number = float | Callable[[jax.Array], Any]


class _Family(NamedTuple):
  """Groups that are alike: the units of one parameter, or of one tie."""
  size: int  # How many weights a group has.
  squares: Callable[[dict[str, jax.Array]], jax.Array]  # Their sum, by group.
  # From a number a group, and what stands elsewhere, to one a weight; by path,
  # of which a square kernel of a residual stream has two.
  places: list[tuple[str, Callable[[jax.Array, Any], jax.Array]]]

  def norms(self, leaves: dict[str, jax.Array]) -> jax.Array:
    return jnp.sqrt(self.squares(leaves))


def _families(groups: Groups, params: Any) -> list[_Family]:
  leaves = dict(trees.align(params))
  if isinstance(groups, Mapping):
    return [_of_pattern(path, w.shape, pattern) for path, w, pattern
            in trees.align(params, rules.resolve(groups, params))
            if pattern is not None and w.size]
  ties = [tie for tie in ties_lib.as_ties(groups)
          if not (tie.fixed or tie.kept)]
  if leaves and not ties:
    raise ValueError(
        'Group Lasso got no ties whose units may be removed. Infer them from '
        'the function as it is for evaluation and print(ties), or give '
        'patterns: {".*kernel": jaxsparse.channel(-1)}.')
  shapes = {path: w.shape for path, w in leaves.items()}
  return [_of_tie(tie, shapes) for tie in ties if leaves]


def _of_pattern(path: str, shape: tuple[int, ...], pattern: Pattern) -> _Family:
  summed = dataclasses.replace(pattern, reduce='sum')

  def squares(leaves):
    return selection.unit_scores(_squares(leaves[path]), summed)

  def spread(values, fill):
    del fill
    return selection.spread(values, pattern, shape)
  return _Family(math.prod(pattern.unit.tile(shape)), squares, [(path, spread)])


def _of_tie(tie: Tie, shapes: dict[str, tuple[int, ...]]) -> _Family:
  members = [*per_unit.members(tie, [*shapes])]
  if not members:
    raise ValueError(
        f'No member of tie {tie.name!r} is among the parameters {[*shapes]}. '
        'Infer ties from these parameters.')

  def squares(leaves):
    return sum(per_unit.total(tie, member, _squares(leaves[path]))
               for path, member in members)

  def at(path, member):
    return path, lambda values, fill: per_unit.spread(
        tie, member, values, shapes[path], fill)
  return _Family(
      sum(per_unit.count(tie, member, shapes[path])
          for path, member in members), squares, [at(*m) for m in members])


def _squares(w: jax.Array) -> jax.Array:
  return jnp.square(numerics.wide(w))


def _strength(alpha: Number, count: jax.Array, family: _Family, scaled: bool
              ) -> jax.Array:
  return flows.value_at(alpha, count) * (
      math.sqrt(family.size) if scaled else 1.)


def _check(name: str, example: str, **numbers: Number) -> None:
  for key, value in numbers.items():
    known = isinstance(value, (int, float))
    # Arrays come from optax.inject_hyperparams.
    if not (known and value >= 0 or callable(value)
            or isinstance(value, jax.Array)):
      raise ValueError(
          f'{name}({key}={value!r}): {key} is a number of 0 or more'
          f'{", or a function of the step" * (key != "threshold")}. Write '
          f'e.g. {example}.')


def _transform(name: str, groups: Groups, changed: Callable[..., dict]
               ) -> optax.GradientTransformation:
  """From `changed(count, families, params, updates)`, dicts by path."""
  def init(params):
    _families(groups, params)  # What does not fit is told now.
    return flows.CountState(jnp.zeros((), jnp.int32))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError(
          f'{name} needs the params: write tx.update(grads, opt_state, '
          'params).')
    new = changed(state.count, _families(groups, params),
                  dict(trees.align(params)), dict(trees.align(updates)))
    updates = trees.map_with_path(lambda path, u: new.get(path, u), updates)
    return updates, flows.CountState(state.count + 1)

  return optax.GradientTransformation(init, update)


def add_group_lasso(alpha: Number, groups: Groups, *, scaled: bool = False
                    ) -> optax.GradientTransformation:
  """Adds the gradient of group Lasso: `g + alpha * w / ||w_g||`.

  It is 0 for a group that is zero. Groups shrink, but do not land on zero: give
  `prune_vanished` a threshold, or take `prox_group_lasso`. Before the
  optimizer, so that Adam scales it as it scales gradients.

  Args:
    alpha: the strength, a number or a function of the step.
    groups: regular expressions to patterns, whose units are the groups, or
      ties: those whose units may be removed, see `Tie.kept`.
    scaled: multiplies alpha by the square root of the number of weights in a
      group, as in the paper, so that one alpha does for groups of all sizes.

  Returns:
    An optax transform, to stand before the optimizer.

  Raises:
    ValueError: if alpha is negative; from `init` if groups do not fit; from
      `update` if params are missing.

  References:
    Yuan and Lin, `Model Selection and Estimation in Regression with Grouped
    Variables <https://doi.org/10.1111/j.1467-9868.2005.00532.x>`_, 2006; Wen et
    al., `Learning Structured Sparsity in Deep Neural Networks
    <https://arxiv.org/abs/1608.03665>`_, 2016

  >>> from jaxsparse import patterns
  >>> tx = add_group_lasso(10., {'.*': patterns.channel(-1)})
  >>> w = {'kernel': jnp.array([[3., 0.], [4., 0.]])}
  >>> g = {'kernel': jnp.zeros((2, 2))}
  >>> print(tx.update(g, tx.init(w), w)[0]['kernel'])
  [[6. 0.]
   [8. 0.]]
  """
  _check('add_group_lasso', 'add_group_lasso(1e-3, ties)', alpha=alpha)

  def changed(count, families, params, grads):
    for family in families:
      norms = family.norms(params)
      factors = _strength(alpha, count, family, scaled) * jnp.where(
          norms > 0, 1. / jnp.where(norms > 0, norms, 1.), 0.)
      for path, spread in family.places:
        g, w = grads[path], params[path].astype(factors.dtype)
        grads[path] = g + (spread(factors, 0.) * w).astype(g.dtype)
    return grads
  return _transform('add_group_lasso', groups, changed)


def prox_group_lasso(alpha: Number, groups: Groups, learning_rate: Number, *,
                     scaled: bool = False) -> optax.GradientTransformation:
  """The proximal step of group Lasso, which lands groups on exactly zero.

  After the optimizer has made `v = w + u`,

    w_g <- max(0, 1 - learning_rate * alpha / ||v_g||) * v_g

  Groups of patterns do not overlap, and this is the exact proximal operator.
  Those of ties do, as a kernel is made of rows and of columns: ties take their
  steps one after the other, which is exact only where one group holds the
  other.

  Args:
    alpha: the strength, a number or a function of the step. In every step a
      norm falls by `learning_rate * alpha`, so that a group of norm n, left to
      itself, is gone after `n / (learning_rate * alpha)` of them.
    groups: regular expressions to patterns, whose units are the groups, or
      ties: those whose units may be removed, see `Tie.kept`.
    learning_rate: that of the optimizer, a number or the same schedule.
    scaled: multiplies alpha by the square root of the number of weights in a
      group.

  Returns:
    An optax transform, to stand after the optimizer: the last of a chain.
    Narrow weights need a strong step: those of bfloat16 do not move where
    `learning_rate * alpha / ||v_g||` is below 1/256.

  Raises:
    ValueError: if a number is negative; from `init` if groups do not fit; from
      `update` if params are missing.

  References:
    Yuan and Lin, `Model Selection and Estimation in Regression with Grouped
    Variables <https://doi.org/10.1111/j.1467-9868.2005.00532.x>`_, 2006; Parikh
    and Boyd, `Proximal Algorithms
    <https://web.stanford.edu/~boyd/papers/prox_algs.html>`_, 2014, section 6.5

  >>> from jaxsparse import patterns
  >>> tx = prox_group_lasso(1., {'.*': patterns.channel(-1)}, learning_rate=1.)
  >>> w = {'kernel': jnp.array([[3., .3], [4., .4]])}
  >>> u, _ = tx.update({'kernel': jnp.zeros((2, 2))}, tx.init(w), w)
  >>> print((w['kernel'] + u['kernel']).round(3))
  [[2.4 0. ]
   [3.2 0. ]]
  """
  _check('prox_group_lasso', 'prox_group_lasso(0.1, ties, learning_rate=1e-3)',
         alpha=alpha, learning_rate=learning_rate)

  def changed(count, families, params, updates):
    moved = {path: w + updates[path].astype(w.dtype)
             for path, w in params.items()}
    rate = flows.value_at(learning_rate, count)
    for family in families:
      norms = family.norms(moved)
      threshold = rate * _strength(alpha, count, family, scaled)
      gone = norms <= threshold
      factors = jnp.where(
          gone, 0., 1. - threshold / jnp.where(gone, 1., norms))
      for path, spread in family.places:
        v = moved[path]
        shrunk = spread(factors, 1.) * v.astype(factors.dtype)
        moved[path] = shrunk.astype(v.dtype)
    return {path: moved[path] - params[path]
            for family in families for path, _ in family.places}
  return _transform('prox_group_lasso', groups, changed)


def prune_vanished(groups: Groups, *, threshold: float = 0.,
                   when: schedules.When | None = None) -> rules.Rule:
  """Makes masks of groups that have vanished, so that they stay zero.

  A group has vanished if the root mean square of its weights is no more than
  the threshold. At the start everything is kept. With `hard`, who is pruned
  stays pruned.

  Args:
    groups: as the regularizer has them: regular expressions to patterns, or
      ties.
    threshold: 0 after `prox_group_lasso`; something small after
      `add_group_lasso`.
    when: at which steps masks are made; at every step by default.

  Returns:
    A rule, for `sparsify`.

  Raises:
    ValueError: if the threshold is negative; from `init` if groups do not fit.

  >>> from jaxsparse import patterns
  >>> rule = prune_vanished({'.*': patterns.channel(-1)})
  >>> w = {'kernel': jnp.array([[3., 0.], [4., 0.]])}
  >>> masks, _ = rule.update(None, rule.init(w), w)
  >>> print(masks['kernel'][0])
  [ True False]
  """
  _check('prune_vanished', 'prune_vanished(ties, threshold=1e-3)',
         threshold=threshold)
  rules.check_functions(when=(when, 'every(100)'))
  when = when or schedules.every(1)

  def like_masks(params, made):
    return trees.map_with_path(lambda path, w: made.get(path), params)

  def init(params):
    kept = {path: jnp.ones_like(w, dtype=bool)
            for path, w in trees.align(params)}
    some = {path for family in _families(groups, params)
            for path, _ in family.places}
    return rules.RuleState(jnp.zeros((), jnp.int32), like_masks(
        params, {path: kept[path] for path in some}), ())

  def update(grads, state, params=None, *, updates=None, **extra_args):
    del grads, extra_args
    step = state.count + 1

    def made():
      leaves = dict(trees.align(rules.after(params, updates)))
      kept = {}
      for family in _families(groups, params):
        # A NaN is no zero: what blew up has not vanished.
        alive = ~(family.squares(leaves) <= family.size * threshold**2)
        for path, spread in family.places:
          mask = spread(alive, True) & jnp.ones_like(
              leaves[path], dtype=bool)
          kept[path] = kept[path] & mask if path in kept else mask
      return like_masks(params, kept)
    masks = rules.run_if(when(step), made, state.masks)
    return masks, state._replace(count=step, masks=masks)

  return rules.Rule(init, update)
