"""Mean squares of activations, as scores of weights and of units."""

from typing import Any, Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import graph
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils import warning
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.calibration import _layouts
from jaxsparse.calibration import _stages
from jaxsparse.patterns import unstructured
from jaxsparse.scores import Score
from jaxsparse.units import groups
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.groups import Family
from jaxsparse.units.importance import Importance
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

# Maps the path of a kernel to the mean squares of its inputs, with an axis of
# size 1 for each output axis.
Activations = dict[str, jax.Array]


@arguments.checked()
def activations(fn: Callable[..., Any], params: ArrayTree,
                batches: Iterable[Any], *,
                weights: Callable[..., jax.Array] | None = None) -> Activations:
  """The mean squares of the inputs of each kernel, in the kernel's own axes.

    mean over inputs x of x^2

  The result is `input_statistics` of all kernels, summed over batches, divided
  by the number of inputs, and reshaped to broadcast against the kernel.
  `wanda_score`, `unit_activations` and `mean_activation` take it.

  Args:
    fn: the function `fn(params, *inputs)` of the model in evaluation mode.
    params: the parameters.
    batches: an iterable of batches of inputs; a tuple, but no NamedTuple, holds
      several arguments.
    weights: a function of the inputs that returns a weight for each position,
      such as 0 for padding.

  Returns:
    A dict from paths to arrays, for all kernels that a product contracts with
    data. A warning names kernels whose inputs cannot be found.

  Raises:
    ValueError: if there are no batches, or no inputs of kernels can be found.

  >>> params = {'w': jnp.ones((3, 2))}
  >>> x = jnp.array([[1., 2., 0.], [3., 0., 0.]])
  >>> activations(lambda p, x: x @ p['w'], params, [x])['w'].shape
  (3, 1)
  """
  batches = _stages.batched(batches)
  data = _stages.Data(fn, params, batches, weights, 'norm',
                      leave='They are left out.')
  kernels = {
      path: kernel for path, kernel in graph.infer_kernels(
          fn, params, *batches[0]).items()
      if kernel.contracted and 'contracted' not in (kernel.why or '')}
  # Of Keras, an axis of channels that is also one of outputs.
  mixed = [path for path, kernel in kernels.items()
           if {*kernel.contracted} & {*kernel.outputs}]
  if mixed:
    warning.warn(
        f'The inputs of {trees.few(mixed)} have no axes of their own: an axis '
        'of the kernel is contracted, and is one of outputs, too. They are '
        'left out.')
    kernels = {path: kernel for path, kernel in kernels.items()
               if path not in mixed}
  stage, = data.at_once(kernels)
  found = {}
  for leaf, statistic in stage.look(params).items():
    layout = _layouts.layout(kernels[leaf.path], unstructured())
    found[leaf.path] = layout.means(statistic)
  return found


@arguments.checked()
def wanda_score(found: Activations) -> Score:
  """Scores weights by `|w| * sqrt(mean of x^2)`, for `prune` during training.

  The pattern decides which weights compete. For Wanda's competition within each
  output, write `nm(n, inputs)`. The state of the score holds the activations;
  measure them again after the network has changed a lot.

  Args:
    found: the result of `activations`, by paths of the params or of Linen's
      variables, `'params/...'`. Parameters that it does not contain are scored
      by `|w|`.

  Returns:
    A score, like those of `jaxsparse.scores`.

  Raises:
    ValueError: from `init` if it contains none of the parameters.

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
    paths = trees.paths(params)
    if paths and not any(_path(path, found) for path in paths):
      raise ValueError(
          'wanda_score needs activations of these parameters, '
          f'{trees.few(paths)}, got those of {trees.few([*found])}. Write '
          'found = jaxsparse.calibration.activations(fn, params, batches) with '
          'the same params.')
    return trees.map_with_path(
        lambda path, w: jnp.sqrt(found[known]) if (known := _path(path, found))
        else jnp.ones((1,) * w.ndim, jnp.float32), params)

  def update(grads, state, params=None, **extra_args):
    del grads, extra_args
    return jax.tree.map(lambda w, norm: jnp.abs(w).astype(
        norm.dtype) * norm, params, state), state
  return Score(init, update)


@arguments.checked()
def mean_activation(found: Activations) -> Importance:
  """The root mean square of the activations of a unit.

    sqrt(sum over the unit's entries of the mean of x^2)

  The activations are the inputs of the kernels that read the unit. A neuron has
  one entry, a head one for each of its dimensions, and a channel one for each
  place of the window of the convolution that reads it. If several kernels read
  a unit, the mean over them is taken before the root.

  Args:
    found: the result of `activations`.

  Returns:
    An importance for `prune_units`, for ties whose units kernels read. A tie
    names the axes that index the same hidden units.

  References:
    Muralidharan et al., `Compact Language Models via Pruning and Knowledge
    Distillation <https://arxiv.org/abs/2407.14679>`_ (Minitron), 2024. The
    paper takes the mean magnitude over tokens, and the 2-norm over the batch.

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
            f'The activations need a kernel that reads the units of the tie '
            f'{family.name!r}, got those of {trees.few([*found])}. Give ties '
            'whose units kernels read, such as heads(ties) or neurons(ties).')

    def update(grads, state, params=None, **extra_args):
      del grads, extra_args
      leaves = dict(trees.align(params))
      return tuple(_activation(family, leaves, state)
                   for family in families), state
    return optax.GradientTransformationExtraArgs(
        # A copy: a train step that donates its state leaves `found` whole.
        lambda params: jax.tree.map(jnp.copy, dict(found)), update)
  return importance


@arguments.checked()
def unit_activations(found: Activations, params: ArrayTree,
                     ties: Ties | Sequence[Tie]) -> dict[str, np.ndarray]:
  """The root mean squares of units, for `keep_units`; see `mean_activation`.

  Args:
    found: the result of `activations`.
    params: the parameters; only their structure matters.
    ties: the ties of the units, such as `heads(ties)` or `neurons(ties)`.

  Returns:
    A dict from names of ties to arrays of `tie.shape`.

  Raises:
    ValueError: if no kernel reads a tie's units.
  """
  families = groups.families(ties, params)
  score = mean_activation(found)(families)
  values, _ = score.update(None, score.init(params), params)
  return {family.name: np.asarray(x) for family, x in zip(families, values)}


def _readers(family: Family, found: Mapping[str, Any]
             ) -> list[groups.Part]:
  return [part for part in family.having('reads') if _path(part.path, found)]


def _path(path: str, found: Mapping[str, Any]) -> str | None:
  """The path of a parameter among those found, where Linen has a prefix."""
  names = (path, f'params/{path}', ties_lib.without_collection(path))
  return next((name for name in names if name in found), None)


def _activation(family: Family, leaves: Mapping[str, jax.Array],
                found: Activations) -> jax.Array:
  each = []
  for part in _readers(family, found):
    mean = found[_path(part.path, found) or part.path]
    shape = leaves[part.path].shape
    outputs = np.prod(shape, dtype=np.int64) // mean.size
    each.append(part.total(jnp.broadcast_to(mean, shape)) / float(outputs))
  return jnp.sqrt(sum(each) / len(each))
