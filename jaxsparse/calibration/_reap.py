"""REAP: importance of experts by their outputs, weighted by the router."""

import functools
from typing import Any, Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.calibration import _stages
from jaxsparse.calibration._statistics import Statistic
from jaxsparse.graph import combining
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties


@arguments.checked()
def reap(fn: Callable[..., Any], params: ArrayTree, batches: Iterable[Any],
         ties: Ties | Sequence[Tie], *,
         weights: Callable[..., jax.Array] | None = None
         ) -> dict[str, np.ndarray]:
  """REAP: the importance of experts by their router-weighted outputs.

    S_j = mean over tokens t routed to j of g_j(t) * ||f_j(t)||

  `f_j` is the output of expert `j`, `g_j` the router's weight for it, and the
  norm runs over features. A token is routed to the experts whose weight is not
  zero. An expert without tokens has importance 0. The function needs no names
  of modules: it traces the model from the experts' kernels to the sum of their
  outputs, and evaluates this sum with the output of one expert alone.

  Experts must be stacked along an axis of their kernels. Their outputs may be
  summed by any products, sums, gathers and scatters that are linear in them,
  such as `einsum('te,ted->td', gates, outputs)` with `top_k` and one-hot
  matrices, or `einsum('tec,ecd->td', combine, outputs)` with slots of limited
  capacity, where dropped tokens do not count. If one product sums over experts
  and their hidden units, tracing starts at these hidden units. Layers may be
  unrolled, or in a `scan`, which is then unrolled. The cost is the memory of a
  forward pass, and one more sum over outputs for each expert.

  Experts of `ragged_dot` are not supported. They have no tie, because the sizes
  of groups depend on the order of experts, so `slim` could not remove them.

  Args:
    fn: the function `fn(params, *inputs)` of the model in evaluation mode.
    params: the parameters.
    batches: an iterable of batches of inputs, such as `[x, y]` for
      `fn(params, x)`; a tuple, but no NamedTuple, holds several arguments.
    ties: the ties of experts, `units.experts(ties)`. A tie names the axes of
      arrays that index the same experts.
    weights: a function of the inputs that returns a weight for each token, such
      as 0 for padding, in the shape of the leading axes of the layers' outputs.

  Returns:
    A dict from names of ties to float32 arrays of `tie.shape`, for
    `units.keep_units`. After `slim`, the router cannot choose the removed
    experts. `prune_units` would only set the router's weights to zero, which
    changes the choice of the router.

  Raises:
    ValueError: if there are no batches or no ties, if the sum of the experts'
      outputs cannot be found, or weights do not fit.

  References:
    Lasby et al., `REAP the Experts: Why Pruning Prevails for One-Shot MoE
    compression <https://arxiv.org/abs/2510.13999>`_, 2025. The router's weights
    are those of `fn`: a softmax over all experts, over the best `k`, or any
    other.

  >>> from jaxsparse import units
  >>> def mixture(params, x):
  ...   gates = jax.nn.softmax(x @ params['router'])
  ...   outputs = jnp.einsum('td,edf->tef', x, params['experts'])
  ...   return jnp.einsum('te,tef->tf', gates, outputs)
  >>> params = {'router': jnp.zeros((4, 2)),
  ...           'experts': jnp.stack([jnp.ones((4, 4)), 3 * jnp.ones((4, 4))])}
  >>> x = jnp.ones((5, 4))
  >>> ties = units.experts(units.infer_ties(mixture, params, x))
  >>> print(reap(mixture, params, [x], ties))
  {'experts[*]': array([ 4., 12.], dtype=float32)}
  """
  batches = _stages.batched(batches)
  ties = ties_lib.as_ties(ties)
  if not ties.ties:
    raise ValueError(
        'reap needs ties of experts, got none. Write units.experts('
        'units.infer_ties(fn, params, x)). Experts that are called one by one, '
        'or by ragged_dot after sorting tokens, have no common axis: stack '
        'their kernels and multiply by einsum.')
  steps: dict[str, Any] = {}
  total: dict[str, Statistic] = {}
  for batch in batches:
    if (key := _stages.shapes(batch)) not in steps:
      steps[key] = jax.jit(functools.partial(
          _sums, _found(fn, params, batch, ties), ties))
    given = None if weights is None else _stages.weights_of(weights, batch)
    new = steps[key](params, batch, given)
    total = jax.tree.map(jnp.add, total, new) if total else new
  return {name: np.asarray(x / jnp.maximum(count, 1e-30))
          for name, (x, count) in total.items()}


def _found(fn: Callable[..., Any], params: ArrayTree, batch: Any, ties: Ties
           ) -> combining.Layers:
  """The layers of experts."""
  stacks = {tie.name: combining.Stack(
      {m.path: m.axis for m in tie.members if not m.part and not m.repeats},
      tie.size) for tie in ties}
  try:
    found = combining.find(fn, params, *batch, stacks=stacks)
  except combining.Lost as problem:
    raise ValueError(
        f'reap cannot find the sum of outputs of experts: {problem}. It traces '
        'outputs through products, sums, gathers and scatters. Write '
        "jnp.einsum('te,ted->td', gates, outputs), or give keep_units an "
        'importance of your own.') from problem
  for tie in ties:
    places = [_place(tie, layer) for layer in found.layers
              if layer.name == tie.name]
    if {*places} != {*np.ndindex(tie.along)}:
      raise ValueError(
          f'reap must find all layers {tie.shape[:-1]} of the experts '
          f'{tie.name!r} of shape {tie.shape}, found {len(places)}. Stack '
          'layers in a scan, or give each layer its own parameters.')
  return found


def _place(tie: Tie, layer: combining.Layer) -> tuple[int | None, ...]:
  """The place of a layer among the groups of a tie, its axes `along`."""
  member = next(m for m in tie.members if m.path == layer.path)
  index = dict(layer.index)
  return tuple(index.get(axis) for axis, _ in member.along)


def _sums(layers: combining.Layers, ties: Ties, params: ArrayTree, batch: Any,
          weights: jax.Array | None) -> dict[str, Statistic]:
  """For each tie, sums over tokens of experts' outputs, and their number."""
  def look(given):
    norms = jnp.sqrt(jnp.sum(
        jnp.square(numerics.wide(given.added)), given.features))
    routed = jnp.any(given.weights != 0, given.features)
    share = jnp.where(routed, 1., 0.).astype(jnp.float32)
    if weights is not None:
      share = share * _spread(weights, share.shape)
    # A token of weight 0 may be NaN, as padding is that attends to nothing.
    norms = jnp.where(share > 0, norms.astype(jnp.float32), 0.)
    return Statistic(jnp.sum(norms * share), jnp.sum(share))
  found = layers.run(params, *batch, look=look)
  made = {}
  for tie in ties:
    places = {_place(tie, layer): sums for layer, sums in zip(
        layers.layers, found) if layer.name == tie.name}
    made[tie.name] = jax.tree.map(
        lambda *each, shape=tie.shape: jnp.stack(each).reshape(shape),
        *(places[at] for at in np.ndindex(tie.along)))
  return made


def _spread(weights: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  if shape[:weights.ndim] != weights.shape:
    raise ValueError(
        f'weights must have the shape {shape}, the leading axes of the '
        f'outputs of experts, got {weights.shape}. Write e.g. a function that '
        'returns a mask [batch, time].')
  return weights.astype(jnp.float32).reshape(
      weights.shape + (1,) * (len(shape) - weights.ndim))
