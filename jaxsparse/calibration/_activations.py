"""Activations: what units give, as scores of weights and of units."""

from typing import Any, Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import graph
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.calibration import _layouts
from jaxsparse.calibration import _stages
from jaxsparse.patterns import unstructured
from jaxsparse.scores import Score
from jaxsparse.units import groups
from jaxsparse.units.groups import Family
from jaxsparse.units.importance import Importance
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

# By path of a kernel the mean squares of its inputs, with an axis of size 1 for
# each axis of outputs.
Activations = dict[str, jax.Array]


@arguments.checked()
def activations(fn: Callable[..., Any], params: ArrayTree,
                batches: Iterable[Any], *,
                weights: Callable[..., jax.Array] | None = None) -> Activations:
  """The mean squares of what each kernel reads, in the kernel's own axes.

    mean over inputs x of x^2

  It is `input_statistics` of all kernels, added up over batches, divided by the
  number of inputs and brought into a shape that broadcasts against the kernel.
  `wanda_score`, `owl`, `unit_activations` and `mean_activation` take it.

  Args:
    fn: `fn(params, *inputs)`, as it is for evaluation.
    params: its parameters.
    batches: of inputs; a tuple is several arguments.
    weights: a function of the inputs that gives a weight for each position,
      such as 0 for padding.

  Returns:
    By path of the kernels that are contracted along some axes, one array.

  Raises:
    ValueError: if there are no batches, or inputs are not seen.

  >>> params = {'w': jnp.ones((3, 2))}
  >>> x = jnp.array([[1., 2., 0.], [3., 0., 0.]])
  >>> activations(lambda p, x: x @ p['w'], params, [x])['w'].shape
  (3, 1)
  """
  batches = _stages.batched(batches)
  data = _stages.Data(fn, params, batches, weights, 'norm')
  kernels = {
      path: kernel for path, kernel in graph.infer_kernels(
          fn, params, *batches[0]).items()
      if kernel.contracted and 'contracted' not in (kernel.why or '')}
  stage, = data.at_once(kernels)
  found = {}
  for leaf, statistic in stage.look(params).items():
    layout = _layouts.layout(kernels[leaf.path], unstructured())
    found[leaf.path] = layout.means(statistic)
  return found


@arguments.checked()
def wanda_score(found: Activations) -> Score:
  """Scores weights by `|w| * sqrt(mean of x^2)`, for `prune` while training.

  Weights of all outputs compete as the pattern says: for Wanda's competition
  within each output write `nm(n, inputs)`. The activations lie in the state of
  the score; take them anew when the network has changed a lot.

  Args:
    found: from `activations`. Kernels that are not in it, and other parameters,
      are scored by `|w|`.

  Returns:
    A score, as those of `jaxsparse.scores`.

  References:
    Sun et al., `A Simple and Effective Pruning Approach for Large Language
    Models <https://arxiv.org/abs/2306.11695>`_, 2023

  >>> score = wanda_score({'w': jnp.array([[4.], [1.]])})
  >>> params = {'w': jnp.array([[1., -2.], [3., 1.]])}
  >>> print(score.update(None, score.init(params), params)[0]['w'])
  [[2. 4.]
   [3. 1.]]
  """
  def init(params):
    return trees.map_with_path(
        lambda path, w: jnp.sqrt(found[path]) if path in found
        else jnp.ones((1,) * w.ndim, jnp.float32), params)

  def update(grads, state, params=None, **extra_args):
    del grads, extra_args
    return jax.tree.map(lambda w, norm: jnp.abs(w).astype(
        norm.dtype) * norm, params, state), state
  return Score(init, update)


@arguments.checked()
def mean_activation(found: Activations) -> Importance:
  """The root mean square of what a unit gives to those who read it.

    sqrt(sum over the unit's entries of the mean of x^2)

  A neuron or channel has one entry, a head one for each of its dimensions. Of
  several readers the mean counts.

  Args:
    found: from `activations`.

  Returns:
    An importance for `prune_units`, of ties that kernels read.

  References:
    Muralidharan et al., `Compact Language Models via Pruning and Knowledge
    Distillation <https://arxiv.org/abs/2407.14679>`_ (Minitron), 2024, takes
    means of magnitudes over tokens of the 2-norm over the batch.

  >>> from jaxsparse import units
  >>> from jaxsparse.units.ties import Member, Tie
  >>> params = {'in': jnp.ones((3, 2)), 'out': jnp.ones((2, 5))}
  >>> tie = Tie(2, (Member('in', 1, role='makes'),
  ...               Member('out', 0, role='reads')), name='hidden')
  >>> seen = {'out': jnp.array([[4.], [9.]])}
  >>> print(unit_activations(seen, params, [tie])['hidden'])
  [2. 3.]
  """
  def importance(families):
    for family in families:
      if not _readers(family, found):
        raise ValueError(
            f'No kernel that reads the units of {family.name!r} is among the '
            f'activations, {trees.few([*found])}. Give ties that kernels read, '
            'such as heads(ties) or neurons(ties).')

    def update(grads, state, params=None, **extra_args):
      del grads, extra_args
      leaves = dict(trees.align(params))
      return tuple(_activation(family, leaves, state)
                   for family in families), state
    return optax.GradientTransformationExtraArgs(
        lambda params: dict(found), update)
  return importance


@arguments.checked()
def unit_activations(found: Activations, params: ArrayTree,
                     ties: Ties | Iterable[Tie]) -> dict[str, np.ndarray]:
  """The root mean squares of units, for `keep_units`: see `mean_activation`.

  Args:
    found: from `activations`.
    params: the parameters; of their values nothing matters.
    ties: such as `heads(ties)`, `neurons(ties)`.

  Returns:
    By name of tie, an array of `tie.shape`.

  Raises:
    ValueError: if no kernel reads a tie's units.
  """
  families = groups.families(tuple(ties), params)
  score = mean_activation(found)(families)
  values, _ = score.update(None, score.init(params), params)
  return {family.name: np.asarray(x) for family, x in zip(families, values)}


def _readers(family: Family, found: Mapping[str, Any]
             ) -> list[groups.Part]:
  return [part for part in family.having('reads') if part.path in found]


def _activation(family: Family, leaves: Mapping[str, jax.Array],
                found: Activations) -> jax.Array:
  each = []
  for part in _readers(family, found):
    mean, shape = found[part.path], leaves[part.path].shape
    outputs = np.prod(shape, dtype=np.int64) // mean.size
    each.append(part.total(jnp.broadcast_to(mean, shape)) / float(outputs))
  return jnp.sqrt(sum(each) / len(each))
