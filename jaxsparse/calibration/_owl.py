"""OWL: layers with more outliers keep more."""

from typing import Any, Callable, Iterable, Mapping

import jax
import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.calibration import _blocks
from jaxsparse.calibration import _one_shot
from jaxsparse.calibration import _stages
from jaxsparse.calibration._layouts import Layout
from jaxsparse.calibration._statistics import Statistic
from jaxsparse.graph import slices
from jaxsparse.patterns import Pattern

_STEPS = 60  # Of a bisection, down to the last bit.


@arguments.checked(weights=_one_shot.WEIGHTS)
def owl(fn: Callable[..., Any], params: ArrayTree, batches: Iterable[Any],
        patterns: Pattern | Mapping[str, Pattern | None], sparsity: float, *,
        limit: float = 0.08, outlier: float = 5.,
        block: _blocks.Block = _blocks.BEFORE_NUMBER,
        weights: Callable[..., jax.Array] | None = None) -> dict[str, Any]:
  """The sparsity of each layer by its outliers, for `one_shot`.

    A = |w| * sqrt(mean of x^2) of all weights of a block
    D = fraction of A > outlier * mean(A)
    kept = 1 - sparsity + 2 * limit * (D - min D) / (max D - min D) + c

  All matrices of a block get the same, clipped to [0, 1]. `c` is solved for, so
  that the kept weights of all blocks are as many as without OWL, to one. They
  are counted in whole weights of each matrix; methods that choose within
  outputs, such as 'wanda', round in each output again.

  Args:
    fn: `fn(params, *inputs)`, as for `one_shot`.
    params: dense parameters.
    batches: of inputs.
    patterns: those of `one_shot`. Patterns with a sparsity of their own keep
      it, and stand outside.
    sparsity: the fraction pruned, of all kernels that share.
    limit: the paper's lambda: how far from `sparsity` a block may be.
    outlier: the paper's M: an outlier is so many times the mean.
    block: which kernels are of one block: a regular expression whose first
      group is the block's name, such as the path up to the first number
      (default), or a function of the path. Stacked kernels whose name has no
      number are in as many blocks as they have layers, together with others of
      that name; of the default they have none. Any other kernel that does not
      match is a block by itself.
    weights: a function of the inputs that says what is padding.

  Returns:
    By path a fraction, or for stacked kernels an array with one for each layer
    and expert: the `sparsity` of `one_shot`.

  Raises:
    ValueError: if the sparsity or the limit is outside [0, 1], nothing shares,
      or as `one_shot` does.

  References:
    Yin et al., `Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret
    Sauce for Pruning LLMs to High Sparsity
    <https://arxiv.org/abs/2310.05175>`_, 2023. Released code takes the mean
    over blocks, whatever their sizes, and clips afterwards, so that the total
    is another; its default for `outlier` is 3, that of the paper 5 or 7.

  >>> import jax.numpy as jnp
  >>> import jaxsparse
  >>> w = jnp.ones((8, 4))
  >>> params = {'a1': w, 'a2': w.at[0].set(30.)}
  >>> shares = owl(lambda p, x: (x @ p['a1'], x @ p['a2']), params,
  ...              [jnp.ones((2, 8))], jaxsparse.unstructured(), 0.5, limit=.1)
  >>> shares
  {'a1': 0.59375, 'a2': 0.40625}
  """
  for name, value in (('sparsity', sparsity), ('limit', limit)):
    if not 0 <= value <= 1:
      raise ValueError(f'{name} is a fraction in [0, 1], got {value}.')
  batches = _stages.batched(batches)
  _one_shot.check(params, batches)
  tasks = {path: task for path, task in _one_shot.tasks_of(
      fn, params, batches[0], patterns, None).items() if task.sparsity is None}
  if not tasks:
    raise ValueError(
        'All patterns have a sparsity of their own, so that nothing is shared. '
        'Write unstructured() without a number.')
  stage, = _stages.Data(fn, params, batches, weights, 'norm').at_once(tasks)
  found = {leaf.path: x for leaf, x in stage.look(params).items()}
  leaves = dict(trees.align(params))

  scores: dict[Any, list[np.ndarray]] = {}
  places: dict[tuple[str, tuple[int, ...]], Any] = {}
  for path, task in tasks.items():
    for place, score in _scores(leaves[path], found[path], task.layout):
      places[path, place] = _blocks.name(block, path, place) or path
      scores.setdefault(places[path, place], []).append(score)
  fractions = {}
  for name, parts in scores.items():
    mean = sum(p.sum(dtype=np.float64) for p in parts) / sum(
        p.size for p in parts)
    fractions[name] = sum(
        np.count_nonzero(p > outlier * mean) for p in parts) / sum(
            p.size for p in parts)
  least, most = min(fractions.values()), max(fractions.values())
  sizes = {key: _size(tasks[key[0]].layout) for key in places}
  share = {name: 1 - sparsity + (2 * limit * (d - least) / (most - least)
                                 if most > least else 0.)
           for name, d in fractions.items()}
  kept = _counts(np.array([share[places[key]] for key in places]),
                 np.array([sizes[key] for key in places]), sparsity)
  pruned = {key: float(1 - k / sizes[key]) for key, k in zip(places, kept)}
  shares: dict[str, Any] = {}
  for path, task in tasks.items():
    stack = task.layout.stack_sizes
    values = [pruned[path, place] for place in np.ndindex(*stack)]
    shares[path] = np.array(values).reshape(stack) if stack else values[0]
  return shares


def _size(layout: Layout) -> int:
  return int(np.prod([layout.shape[axis] for axis in (
      *layout.inputs, *layout.outputs)], dtype=np.int64))


def _scores(w: jax.Array, statistic: Statistic, layout: Layout) -> Any:
  """By place in the stack, the scores of a matrix."""
  # In numpy, one matrix at a time: these are numbers for the host.
  wide = np.abs(np.asarray(w, np.float32)) * np.sqrt(
      np.asarray(layout.means(statistic)))
  for place in np.ndindex(*layout.stack_sizes):
    yield place, wide[slices.at(zip(layout.stack, place), wide.ndim)]


def _counts(shares: np.ndarray, sizes: np.ndarray, sparsity: float
            ) -> np.ndarray:
  """How many each matrix keeps: shares plus a constant, of the exact total."""
  total = round((1 - sparsity) * int(sizes.sum()))
  low, high = -2., 2.
  for _ in range(_STEPS):
    c = (low + high) / 2
    if (np.clip(shares + c, 0, 1) * sizes).sum() > total:
      high = c
    else:
      low = c
  wanted = np.clip(shares + (low + high) / 2, 0, 1) * sizes
  kept = np.floor(wanted).astype(np.int64)
  # Those that lost most by rounding down get one more.
  order = np.argsort(kept - wanted, kind='stable')
  for i in order[:max(total - int(kept.sum()), 0)]:
    kept[i] = min(kept[i] + 1, sizes[i])
  return kept
