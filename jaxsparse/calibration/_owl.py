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

_STEPS = 60  # The steps of a bisection, down to the last bit.


@arguments.checked(weights=_one_shot.WEIGHTS)
def owl(fn: Callable[..., Any], params: ArrayTree, batches: Iterable[Any],
        patterns: Pattern | Mapping[str, Pattern | None], sparsity: float, *,
        limit: float = 0.08, outlier: float = 5.,
        block: _blocks.Block = _blocks.BEFORE_NUMBER,
        weights: Callable[..., jax.Array] | None = None) -> dict[str, Any]:
  """OWL: sparsities of layers by their outliers, for `one_shot`.

    A = |w| * sqrt(mean of x^2) of all weights of a block
    D = fraction of A > outlier * mean(A)
    kept = 1 - sparsity + 2 * limit * (D - min D) / (max D - min D) + c

  All matrices of a block keep the same fraction, clipped to [0, 1]. The
  constant `c` is chosen such that all blocks together keep the same number of
  weights as without OWL. Numbers are whole weights of each matrix; methods
  whose weights compete within outputs, such as 'wanda', round again in each
  output.

  Args:
    fn: the function `fn(params, *inputs)`, as for `one_shot`.
    params: the dense parameters.
    batches: an iterable of batches of inputs, as for `one_shot`.
    patterns: the patterns, as for `one_shot`. A pattern with a sparsity of its
      own keeps it, and takes no part in sharing.
    sparsity: the fraction pruned of all weights in kernels that share.
    limit: the paper's lambda, the largest difference of a block's sparsity from
      `sparsity`.
    outlier: the paper's M: a weight is an outlier if its A is above M times the
      mean of the block.
    block: a regular expression whose first group is the name of a kernel's
      block, by default the path up to the first number; or a function from
      paths to names. Stacked kernels whose name has no number, or with the
      default no name, form one block for each layer, together with other
      stacked kernels of that name. Any other kernel without a match is a block
      by itself.
    weights: a function of the inputs that returns a weight for each position,
      such as 0 for padding.

  Returns:
    A dict for the argument `sparsity` of `one_shot`: from paths to fractions,
    or for stacked kernels to arrays with one fraction for each layer and
    expert.

  Raises:
    ValueError: if the sparsity or the limit is outside [0, 1], if no pattern
      shares, or for the reasons of `one_shot`.

  References:
    Yin et al., `Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret
    Sauce for Pruning LLMs to High Sparsity
    <https://arxiv.org/abs/2310.05175>`_, 2023. The released code takes the mean
    over blocks without regard to their sizes and clips afterwards, so its total
    differs. Its default for `outlier` is 3; the paper uses 5 or 7.

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
      raise ValueError(f'{name} must be a fraction in [0, 1], got {value}. '
                       'Write e.g. sparsity=0.7, limit=0.08.')
  batches = _stages.batched(batches)
  _one_shot.check(params, batches)
  tasks = {path: task for path, task in _one_shot.tasks_of(
      fn, params, batches[0], patterns, None).items() if task.sparsity is None}
  if not tasks:
    raise ValueError(
        'owl needs a pattern without a sparsity of its own, got none. Write '
        'unstructured() without a number.')
  stage, = _stages.Data(
      fn, params, batches, weights, 'norm', leave='They take no part.'
      if isinstance(patterns, Pattern) else '').at_once(tasks)
  found = {leaf.path: x for leaf, x in stage.look(params).items()}
  tasks = {path: task for path, task in tasks.items() if path in found}
  leaves = dict(trees.align(params))
  whole, tasks = tasks, {
      path: task for path, task in tasks.items() if leaves[path].size}

  scores: dict[Any, list[np.ndarray]] = {}
  places: dict[tuple[str, tuple[int, ...]], Any] = {}
  for path, task in tasks.items():
    for place, score in _scores(leaves[path], found[path], task.layout):
      if not np.isfinite(score).all():
        raise ValueError(
            f'{trees.named(path)}: '
            'the weights and inputs of this kernel must be finite, '
            'but have NaN or infinities. Check the checkpoint, and the outputs '
            'of the dense model on these batches.')
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
  shares: dict[str, Any] = dict.fromkeys(whole, sparsity)
  for path, task in tasks.items():
    stack = task.layout.stack_sizes
    values = [pruned[path, place] for place in np.ndindex(*stack)]
    shares[path] = np.array(values).reshape(stack) if stack else values[0]
  return shares


def _size(layout: Layout) -> int:
  return int(np.prod([layout.shape[axis] for axis in (
      *layout.inputs, *layout.outputs)], dtype=np.int64))


def _scores(w: jax.Array, statistic: Statistic, layout: Layout) -> Any:
  """The scores of each matrix, by its place in the stack."""
  # In numpy, one matrix at a time, because the host needs the numbers.
  wide = np.abs(np.asarray(w, np.float32)) * np.sqrt(
      np.asarray(layout.means(statistic)))
  for place in np.ndindex(*layout.stack_sizes):
    yield place, wide[slices.at(zip(layout.stack, place), wide.ndim)]


def _counts(shares: np.ndarray, sizes: np.ndarray, sparsity: float
            ) -> np.ndarray:
  """The kept weights of each matrix: shares plus a constant, total exact."""
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
  # The matrices with the largest remainders keep one weight more.
  order = np.argsort(kept - wanted, kind='stable')
  for i in order[:max(total - int(kept.sum()), 0)]:
    kept[i] = min(kept[i] + 1, sizes[i])
  return kept
