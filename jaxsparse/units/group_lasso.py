r"""Group Lasso: a penalty under which whole units of weights vanish.

  R(w) = alpha * sum_g ||w_g||,   ||w_g|| the 2-norm of a group's weights

Groups are the units of patterns (single rows or columns, blocks, channels) or
the hidden units of ties: all weights that make a unit, stand beside it or read
it. "Train with group Lasso, then slim" is

  tx = optax.chain(adam, prox_group_lasso(0.1, ties, learning_rate=1e-3))
  ...                                          # any train step, even without
  params = slim(params, ties, alive(params, ties))              # a `sparsify`
"""

import math
from typing import Any, Callable

import jax
import jax.numpy as jnp
import optax

from jaxsparse import flows
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse.units import groups as groups_lib
from jaxsparse.units.groups import Family
from jaxsparse.units.groups import Groups

Number = float | Callable[[jax.Array], Any]
arguments.register(Number, arguments.or_function(
    arguments.number(0, write='1e-3')))


def _norms(family: Family, leaves: dict[str, jax.Array]) -> jax.Array:
  """The 2-norm of each group's weights."""
  return jnp.sqrt(groups_lib.total(family.parts, {
      part.path: jnp.square(numerics.wide(leaves[part.path]))
      for part in family.parts}))


def _strength(alpha: Number, count: jax.Array, family: Family, scaled: bool
              ) -> jax.Array:
  return flows.value_at(alpha, count) * (
      math.sqrt(family.size) if scaled else 1.)


def _transform(name: str, groups: Groups, changed: Callable[..., dict]
               ) -> optax.GradientTransformation:
  """From `changed(count, families, params, updates)`, dicts by path."""
  def init(params):
    groups_lib.families(groups, params)  # What does not fit is told now.
    return flows.CountState(jnp.zeros((), jnp.int32))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError(
          f'{name} needs the params: write tx.update(grads, opt_state, '
          'params).')
    new = changed(state.count, groups_lib.families(groups, params),
                  dict(trees.align(params)), dict(trees.align(updates)))
    updates = trees.map_with_path(lambda path, u: new.get(path, u), updates)
    return updates, flows.CountState(state.count + 1)

  return optax.GradientTransformation(init, update)


@arguments.checked()
def add_group_lasso(alpha: Number, groups: Groups, *, scaled: bool = False
                    ) -> optax.GradientTransformation:
  """Adds the gradient of group Lasso: `g + alpha * w / ||w_g||`.

  It is 0 for a group that is zero. Groups shrink, but do not land on zero: give
  `prune_units` a threshold, or take `prox_group_lasso`. Before the
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
  def changed(count, families, params, grads):
    for family in families:
      norms = _norms(family, params)
      factors = _strength(alpha, count, family, scaled) * jnp.where(
          norms > 0, 1. / jnp.where(norms > 0, norms, 1.), 0.)
      for part in family.parts:
        g, w = grads[part.path], params[part.path].astype(factors.dtype)
        grads[part.path] = g + (part.spread(factors, 0.) * w).astype(g.dtype)
    return grads
  return _transform('add_group_lasso', groups, changed)


@arguments.checked()
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
  def changed(count, families, params, updates):
    moved = {path: w + updates[path].astype(w.dtype)
             for path, w in params.items()}
    rate = flows.value_at(learning_rate, count)
    for family in families:
      norms = _norms(family, moved)
      threshold = rate * _strength(alpha, count, family, scaled)
      gone = norms <= threshold
      factors = jnp.where(
          gone, 0., 1. - threshold / jnp.where(gone, 1., norms))
      for part in family.parts:
        v = moved[part.path]
        shrunk = part.spread(factors, 1.) * v.astype(factors.dtype)
        moved[part.path] = shrunk.astype(v.dtype)
    return {part.path: moved[part.path] - params[part.path]
            for family in families for part in family.parts}
  return _transform('prox_group_lasso', groups, changed)
