"""REAP: experts are ranked by what they add, where the router asks for them."""

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
  """Router-weighted expert activations: how much a mixture misses an expert.

    S_j = mean over tokens t routed to j of g_j(t) * ||f_j(t)||

  `f_j` is what expert `j` gives, `g_j` the router's weight for it, and the norm
  runs over features. A token is routed to the experts whose weight is not zero;
  an expert without tokens has 0. No names are needed: the function is followed
  from the experts' kernels to where their outputs are summed, and run with the
  outputs of one expert alone.

  Experts are stacked along an axis of their kernels. Their outputs may be
  summed by any products, sums, gathers and scatters that are linear in them:
  `einsum('te,ted->td', gates, outputs)`, with `top_k` and one-hot matrices, or
  by slots of limited capacity, `einsum('tec,ecd->td', combine, outputs)`, where
  tokens that were dropped do not count. Where one product sums over experts and
  their hidden units, what is given is followed from these hidden units. Layers
  may be unrolled or those of a `scan`, which is unrolled for it. It takes the
  memory of a forward pass, and the work of summing the outputs once more for
  each expert.

  Experts of `ragged_dot` have no tie, because sizes of groups depend on their
  order: `slim` could not cut them, and they are refused.

  Args:
    fn: `fn(params, *inputs)`, as it is for evaluation.
    params: its parameters.
    batches: of inputs, such as `[x, y]` for `fn(params, x)`; a tuple is several
      arguments.
    ties: of experts, `units.experts(ties)`.
    weights: a function of the inputs that gives a weight for each token, such
      as 0 for padding, of the shape of the leading axes of the layers' outputs.

  Returns:
    By name of tie, float32 of `tie.shape`, for `units.keep_units`. Experts that
    `slim` then cuts out are such as were never chosen; `prune_units` would only
    set the router's weights to zero, which is another choice.

  Raises:
    ValueError: if there are no batches or no ties, if experts are not followed
      to where they are summed, or weights do not fit.

  References:
    Lasby et al., `REAP the Experts: Why Pruning Prevails for One-Shot MoE
    compression <https://arxiv.org/abs/2510.13999>`_, 2025. Its weights are
    those of the model: softmax over all experts, over the best `k`, or what
    else `fn` does.

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
        'There are no ties of experts. Write units.experts(units.infer_ties('
        'fn, params, x)); experts that are called one by one, or by ragged_dot '
        'after tokens were sorted, have no axis that a tie could follow: stack '
        'their kernels and multiply by einsum.')
  steps: dict[str, Any] = {}
  total: dict[str, Statistic] = {}
  for batch in batches:
    shapes = str(jax.tree.map(jax.typeof, batch))
    if shapes not in steps:
      steps[shapes] = jax.jit(functools.partial(
          _sums, _found(fn, params, batch, ties), ties))
    given = None if weights is None else jnp.asarray(weights(*batch))
    new = steps[shapes](params, batch, given)
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
        f'Experts cannot be ranked: {problem}. Outputs of experts are followed '
        "through products, sums, gathers and scatters: write jnp.einsum('te,"
        "ted->td', gates, outputs), or give keep_units an importance of your "
        'own.') from problem
  for tie in ties:
    places = [_place(tie, layer) for layer in found.layers
              if layer.name == tie.name]
    if {*places} != {*np.ndindex(tie.along)}:
      raise ValueError(
          f'Experts {tie.name!r} of shape {tie.shape} are not all seen, '
          f'{len(places)} layers of {tie.shape[:-1]}. Stack layers in a scan, '
          'or give each its own parameters.')
  return found


def _place(tie: Tie, layer: combining.Layer) -> tuple[int | None, ...]:
  """Which of the tie's groups, `along`, a layer is."""
  member = next(m for m in tie.members if m.path == layer.path)
  index = dict(layer.index)
  return tuple(index.get(axis) for axis, _ in member.along)


def _sums(layers: combining.Layers, ties: Ties, params: ArrayTree, batch: Any,
          weights: jax.Array | None) -> dict[str, Statistic]:
  """By tie, sums over tokens of what experts add, and their number."""
  def look(given):
    norms = jnp.sqrt(jnp.sum(
        jnp.square(numerics.wide(given.added)), given.features))
    routed = jnp.any(given.weights != 0, given.features)
    share = jnp.where(routed, 1., 0.).astype(jnp.float32)
    if weights is not None:
      share = share * _spread(weights, share.shape)
    return Statistic(
        jnp.sum(norms.astype(jnp.float32) * share), jnp.sum(share))
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
        f'weights have the shape {weights.shape}, and outputs of experts the '
        f'leading axes {shape}. Give a weight for each of them, such as a mask '
        '[batch, time].')
  return weights.astype(jnp.float32).reshape(
      weights.shape + (1,) * (len(shape) - weights.ndim))
