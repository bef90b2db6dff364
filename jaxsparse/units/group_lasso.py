r"""Group Lasso: a penalty that shrinks whole units of weights to zero.

  R(w) = alpha * sum_g ||w_g||,   ||w_g|| the 2-norm of a group's weights

Groups are the units of patterns (single rows or columns, blocks, channels) or
the hidden units of ties: all weights that make a unit, read it, or belong to
it, such as its bias. Training with group Lasso and slimming afterwards is

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
      part.path: numerics.squared(leaves[part.path])
      for part in family.parts}))


def _strength(alpha: Number, count: jax.Array, family: Family, scaled: bool
              ) -> jax.Array:
  return flows.value_at(alpha, count) * (
      math.sqrt(family.size) if scaled else 1.)


def _transform(name: str, groups: Groups, changed: Callable[..., dict]
               ) -> optax.GradientTransformation:
  """From `changed(count, families, params, updates)`, dicts by path."""
  def init(params):
    groups_lib.families(groups, params)  # Raises if groups do not fit.
    return flows.CountState(jnp.zeros((), jnp.int32))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError(
          f'{name} needs the params in update. Write tx.update(grads, '
          'opt_state, params).')
    new = changed(state.count, groups_lib.families(groups, params),
                  dict(trees.align(params)), dict(trees.align(updates)))
    updates = trees.map_with_path(lambda path, u: new.get(path, u), updates)
    return updates, flows.CountState(state.count + 1)

  return optax.GradientTransformation(init, update)


@arguments.checked()
def add_group_lasso(alpha: Number, groups: Groups, *, scaled: bool = False
                    ) -> optax.GradientTransformation:
  """Adds the gradient of group Lasso: `g + alpha * w / ||w_g||`.

  The added term is 0 for a group of zeros. Groups shrink, but do not become
  exactly zero; use `prune_units` with a threshold, or `prox_group_lasso`. Put
  the transform before the optimizer; Adam then scales the term together with
  the gradient.

  Args:
    alpha: the strength, a number or a function of the step.
    groups: a mapping from regular expressions for paths to patterns, whose
      units are the groups; or ties, of which those with removable units count,
      see `Tie.kept`.
    scaled: whether to multiply alpha by the square root of the number of
      weights in a group, as in the paper, so that one alpha serves groups of
      all sizes.

  Returns:
    An optax transform, to put before the optimizer in a chain.

  Raises:
    ValueError: if alpha is negative; from `init` if groups do not fit the
      parameters; from `update` if params are missing.

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
        g, w = grads[part.path], numerics.wide(params[part.path])
        factor = part.spread(factors, 0.).astype(w.dtype)
        grads[part.path] = g + (factor * w).astype(g.dtype)
    return grads
  return _transform('add_group_lasso', groups, changed)


@arguments.checked()
def prox_group_lasso(alpha: Number, groups: Groups, learning_rate: Number, *,
                     scaled: bool = False) -> optax.GradientTransformation:
  """The proximal step of group Lasso, which sets groups to exactly zero.

  With `v = w + u`, the weights after the optimizer's update,

    w_g <- max(0, 1 - learning_rate * alpha / ||v_g||) * v_g

  Groups of patterns do not overlap, so this is the exact proximal operator.
  Groups of ties overlap, because a kernel has rows of one tie and columns of
  another. Ties then make their steps one after the other, which is exact only
  if one group contains the other.

  Args:
    alpha: the strength, a number or a function of the step. Every step reduces
      the norm of a group by `learning_rate * alpha`, so without gradients a
      group of norm n is zero after `n / (learning_rate * alpha)` steps.
    groups: a mapping from regular expressions for paths to patterns, whose
      units are the groups; or ties, of which those with removable units count,
      see `Tie.kept`.
    learning_rate: the learning rate of the optimizer, a number or the same
      schedule.
    scaled: whether to multiply alpha by the square root of the number of
      weights in a group.

  Returns:
    An optax transform, to put last in a chain, after the optimizer. Weights in
    bfloat16 do not change if `learning_rate * alpha / ||v_g||` is below 1/256,
    so they need a larger product.

  Raises:
    ValueError: if a number is negative; from `init` if groups do not fit the
      parameters; from `update` if params are missing.

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
        x = numerics.wide(v)  # Or complex, which factors are not.
        shrunk = part.spread(factors, 1.).astype(x.dtype) * x
        moved[part.path] = shrunk.astype(v.dtype)
    return {part.path: moved[part.path] - params[part.path]
            for family in families for part in family.parts}
  return _transform('prox_group_lasso', groups, changed)
