"""Importances of groups of weights; the least important are pruned first.

An importance is a score of groups: a function of the families of groups (see
`groups`) that returns an `optax.GradientTransformation` whose "updates" are one
array for each family, in the family's shape:

  score = importance(families)
  found, state = score.update(grads, state, params, point=point)

As for `scores`, `params` are the weights that the new masks belong to, and
`point` the weights at which `grads` were taken. An importance that needs
gradients returns `None` for `grads=None`, and no group is pruned until the
first update.

| importance | of a group | state |
|---|---|---|
| `mean_magnitude` | mean magnitude of the weights that make it | none |
| `root_mean_square` | root mean square of all its weights | none |
| `saliency` | change of the loss with a mask on the group | the sum so far |
"""

from typing import Any, Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse._utils.tables import brief
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import tracing
from jaxsparse.units import groups
from jaxsparse.units import per_unit
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.groups import Family
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

Importance = Callable[[Sequence[Family]], optax.GradientTransformationExtraArgs]
arguments.register(Importance, arguments.Check(
    lambda value: callable(value) and not isinstance(
        value, optax.GradientTransformation),
    'an importance of groups', 'jaxsparse.units.saliency()'))


def _of_weights(score: Callable[[Family, dict[str, jax.Array]], jax.Array]
                ) -> Importance:
  """An importance without a state, from a function of a family and weights."""
  def importance(families):
    def update(grads, state, params=None, **extra_args):
      del grads, extra_args
      leaves = dict(trees.align(params))
      return tuple(score(family, leaves) for family in families), state
    return optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update)
  return importance


def mean_magnitude() -> Importance:
  """The mean magnitude of the weights that make a unit, as in Chase.

    sum |w| / (number of these weights, pruned ones included)

  Returns:
    An importance for `prune_units`.

  References:
    Yin et al., `Dynamic Sparsity Is Channel-Level Sparsity Learner
    <https://arxiv.org/abs/2305.19454>`_, 2023. The released code takes the mean
    over active weights, which is NaN for units without active weights.

  >>> from jaxsparse.units import Member, Tie
  >>> tie = Tie(2, (Member('in', 1, role='makes'),))
  >>> w = {'in': jnp.array([[1., -2.], [3., 0.]])}
  >>> score = mean_magnitude()(groups.families([tie], w))
  >>> print(*score.update(None, score.init(w), w)[0])
  [2. 1.]
  """
  def score(family, leaves):
    parts = family.having('makes')
    if not parts:
      raise ValueError(
          'mean_magnitude() needs a member that makes the units of '
          f'{family.name!r}, got none. Give its members roles, e.g. '
          "Member('fc1/kernel', 1, role='makes').")
    sizes = sum(part.size for part in parts)
    return groups.total(
        parts, {p.path: jnp.abs(leaves[p.path]) for p in parts}) / sizes
  return _of_weights(score)


def root_mean_square() -> Importance:
  """The root mean square of all weights of a group; 0 if all are zero.

  `prune_units(groups, importance=root_mean_square(), threshold=0.)` prunes the
  groups that a regularizer such as `prox_group_lasso` has set to zero.

  Returns:
    An importance for `prune_units`.

  >>> from jaxsparse import patterns
  >>> w = {'kernel': jnp.array([[3., 0.], [4., 0.]])}
  >>> found = groups.families({'.*': patterns.channel(-1)}, w)
  >>> score = root_mean_square()(found)
  >>> print(score.update(None, score.init(w), w)[0][0].round(2))
  [3.54 0.  ]
  """
  def score(family, leaves):
    squares = {p.path: numerics.squared(leaves[p.path])
               for p in family.parts}
    return jnp.sqrt(groups.total(family.parts, squares) / family.size)
  return _of_weights(score)


def saliency() -> Importance:
  """Gradient sensitivity of the loss to units, summed over updates.

    sum over updates |dL / dxi[u]|,   xi a mask of ones on unit u

  A mask on the output of a unit multiplies every weight that reads the unit. So
  `dL / dxi[u]` is the sum of `w * dL/dw` over these weights, and the model
  needs no masks. Updates whose gradients are not finite are skipped.

  Returns:
    An importance for `prune_units`, for ties whose units only kernels read, see
    `Tie.read`. (The mask would also act on other readers.)

  References:
    Kim and Hassan, `FastFormers: Highly Efficient Transformer Models for
    Natural Language Understanding <https://arxiv.org/abs/2010.13382>`_, 2020;
    Michel et al., `Are Sixteen Heads Really Better than One?
    <https://arxiv.org/abs/1905.10650>`_, 2019. The released code of FastFormers
    also adds a score of the weights that make neurons; here only the mask
    counts.
  """
  def importance(families):
    for family in families:
      if why := _no_saliency(family):
        raise ValueError(
            f'The units of tie {family.name!r} have no saliency: {why}. Give '
            'ties whose units only kernels read, such as heads(ties) or '
            'neurons(ties).')

    def init(params):
      del params
      return groups.joined(
          [jnp.zeros(f.shape) for f in families], jnp.float32)

    def update(grads, state, params=None, *, point=None, **extra_args):
      del extra_args
      if grads is None:
        return None, state
      new = _saliencies(families, params if point is None else point, grads)
      new = groups.joined(new, jnp.float32)
      new = state + jnp.where(jnp.isfinite(new), new, 0.)
      return tuple(groups.parted(new, families)), new
    return optax.GradientTransformationExtraArgs(init, update)
  return importance


def _no_saliency(family: Family) -> str | None:
  """Why the units of a family have no saliency, or `None`."""
  if family.tie is not None and family.tie.read:
    return f'not only kernels, but {family.tie.read} reads them'
  if not family.having('reads'):
    return 'no kernel among the params reads them'
  return None


def _saliencies(families: Sequence[Family], params: ArrayTree, grads: ArrayTree
                ) -> list[jax.Array]:
  products = {path: numerics.wide(w) * numerics.wide(g)
              for path, w, g in trees.align(params, grads) if g is not None}

  def saliency_of(family):
    parts = [part for part in family.having('reads') if part.path in products]
    # A mask is real: of complex weights the imaginary part is no change of it.
    return jnp.abs(jnp.real(groups.total(parts, products)))
  return [saliency_of(family) for family in families]


@arguments.checked()
def unit_saliency(params: ArrayTree, grads: ArrayTree,
                  ties: Ties | Sequence[Tie]) -> dict[str, jax.Array]:
  """The saliency of one batch, `|sum over weights that read u of w * g|`.

  Args:
    params: the weights.
    grads: the gradient of the loss at these weights.
    ties: the ties, from `infer_ties`, or written with the roles of members.

  Returns:
    A dict from names of ties to arrays of `tie.shape`, float32 or wider. A tie
    is left out if no kernel among the params reads its units, or if an
    operation reads them, too (`Tie.read`). See `saliency`.

  >>> from jaxsparse.units import Member, Tie
  >>> tie = Tie(2, (Member('in', 1, role='makes'),
  ...               Member('out', 0, role='reads')), name='hidden')
  >>> w = {'in': jnp.ones((3, 2)), 'out': jnp.array([[1., 2.], [3., 4.]])}
  >>> g = {'in': jnp.ones((3, 2)), 'out': jnp.array([[1., 1.], [0., -1.]])}
  >>> unit_saliency(w, g, [tie])['hidden']
  Array([3., 4.], dtype=float32)
  """
  trees.check_arrays('params', params)
  trees.check_beside(params, grads)
  shapes = {}
  for path, w, g in trees.align(params, grads):
    if g is not None:
      if not arguments.is_array(g):
        raise ValueError(
            'grads must have the structure of params, with an array or None at '
            f'each leaf, got {brief(g)} at {path!r}. Write e.g. grads = '
            'jax.grad(loss_fn)(params, batch).')
      shapes[path] = np.shape(w)
  found = [groups.of_tie(tie, shapes) for tie in ties_lib.as_ties(ties)
           if any(per_unit.members(tie, [*shapes]))]
  found = [family for family in found if not _no_saliency(family)]
  return {family.name: x for family, x in zip(
      found, _saliencies(found, params, grads))}


@arguments.checked()
def sensitivity(loss_fn: Callable[[Any, Any], jax.Array], params: ArrayTree,
                batches: Iterable[Any], ties: Ties | Sequence[Tie]
                ) -> dict[str, jax.Array]:
  """The saliency of hidden units of a trained network, summed over batches.

  Args:
    loss_fn: a function from params and a batch to a scalar.
    params: the weights of the forward pass; `sparse_params(...)` if the flow is
      not hard.
    batches: an iterable of batches of one shape.
    ties: the ties, from `infer_ties`.

  Returns:
    A dict from names of ties to arrays of `tie.shape`: the sum of
    `unit_saliency` over batches.

  Raises:
    ValueError: if there are no batches, or no kernel reads units of any tie.

  References:
    Kim and Hassan, `FastFormers: Highly Efficient Transformer Models for
    Natural Language Understanding <https://arxiv.org/abs/2010.13382>`_, 2020

  >>> from jaxsparse.units import Member, Tie
  >>> tie = Tie(2, (Member('out', 0, role='reads'),), name='hidden')
  >>> loss_fn = lambda params, x: jnp.sum(x @ params['out'])
  >>> params = {'out': jnp.array([[1.], [-3.]])}
  >>> sensitivity(loss_fn, params, [jnp.ones((4, 2)), -jnp.ones((4, 2))], [tie])
  {'hidden': Array([ 8., 24.], dtype=float32)}
  """
  ties = ties_lib.as_ties(ties)
  trees.check_arrays('params', params)

  def gradient(params, batch):
    loss = tracing.shapes(loss_fn, params, batch)
    if np.shape(loss):
      raise ValueError(
          'loss_fn must return a scalar, which sensitivity differentiates, got '
          f'{brief(loss)}. Write e.g. jnp.mean(losses).')
    return jax.grad(loss_fn)(params, batch)

  of_batch = jax.jit(lambda params, batch: unit_saliency(
      params, gradient(params, batch), ties))
  total = None
  for batch in batches:
    new = of_batch(params, batch)
    total = new if total is None else jax.tree.map(jnp.add, total, new)
  if not total:
    raise ValueError(
        'sensitivity got no batches. Write e.g. batches=[x].'
        if total is None else
        'sensitivity needs ties whose units a kernel among the params reads, '
        'got none. Write ties = infer_ties(apply, params, x).')
  return total
