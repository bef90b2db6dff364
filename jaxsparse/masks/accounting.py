"""Summaries of masks: a printable table, and totals as data."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import tables
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree


class Layer(NamedTuple):
  """One row of a summary, for one parameter.

  Attributes:
    path: the path of the parameter.
    shape: the shape of the parameter.
    pattern: the regularity found in the mask, or 'dense'.
    size: the number of weights.
    kept: the number of kept weights.
  """
  path: str
  shape: tuple[int, ...]
  pattern: str
  size: int
  kept: int

  @property
  def sparsity(self) -> float:
    """The fraction pruned."""
    return 1 - self.kept / self.size if self.size else 0.


@dataclasses.dataclass(frozen=True)
class Summary:
  """The result of `summary`; `print` shows it as a table.

  Attributes:
    layers: one row for each parameter.
  """
  layers: tuple[Layer, ...]

  @property
  def size(self) -> int:
    """The number of all parameters."""
    return sum(layer.size for layer in self.layers)

  @property
  def kept(self) -> int:
    """The number of kept parameters."""
    return sum(layer.kept for layer in self.layers)

  @property
  def maskable(self) -> int:
    """The number of parameters that have a mask."""
    return sum(layer.size for layer in self.layers
               if layer.pattern != 'dense')

  @property
  def sparsity(self) -> float:
    """The fraction pruned of the parameters that have a mask."""
    pruned = self.size - self.kept
    return pruned / self.maskable if self.maskable else 0.

  @property
  def total_sparsity(self) -> float:
    """The fraction pruned of all parameters."""
    return 1 - self.kept / self.size if self.size else 0.

  def __str__(self) -> str:
    head = ('layer', 'shape', 'pattern', 'sparsity', 'kept', 'of')
    rows = [(x.path, tables.shape_text(x.shape), x.pattern,
             '-' if x.pattern == 'dense' else f'{x.sparsity:.1%}',
             f'{x.kept:,}', f'{x.size:,}') for x in self.layers]
    foot = [
        ('sparse layers', '', '', f'{self.sparsity:.1%}',
         f'{self.kept - self.size + self.maskable:,}', f'{self.maskable:,}'),
        ('all', '', '', f'{self.total_sparsity:.1%}', f'{self.kept:,}',
         f'{self.size:,}')]
    return tables.table([head], rows, foot, right=(3, 4, 5))


def _describe(mask: np.ndarray) -> str:
  """The name of the strongest regularity found in a mask."""
  if mask.all() or not mask.any():
    return 'all kept' if mask.all() else 'all pruned'
  if mask.ndim >= 2 and min(mask.shape[-2:]) > 1:
    for axis, name in ((-1, 'channel(-1)'), (-2, 'channel(-2)')):
      flat = np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1)
      if (flat == flat[:, :1]).all():
        return name
    rows, columns = mask.shape[-2:]
    tiles = [(a, b) for a in (32, 16, 8, 4, 2, 1) for b in (32, 16, 8, 4, 2, 1)
             if rows % a == 0 and columns % b == 0 and a * b > 1]
    for a, b in sorted(tiles, key=lambda t: -t[0] * t[1]):
      cut = mask.reshape(-1, rows // a, a, columns // b, b)
      if (cut == cut[:, :, :1, :, :1]).all():
        return f'block({a}, {b})'
  for axis in (-2, -1, -3)[:mask.ndim]:
    for m in (2, 4, 8, 16, 32, 64, 128):
      if mask.ndim > 1 and mask.shape[axis] % m == 0:
        groups = np.moveaxis(mask, axis, -1).reshape(-1, m).sum(-1)
        if (groups == groups[0]).all():
          # Axis -2 are the inputs of a matrix; of others, readers may wonder.
          where = f', axis {axis}' if mask.ndim > 2 or axis != -2 else ''
          return f'{groups[0]}:{m}{where}'
  return 'unstructured'


def summary(params: ArrayTree, masks: ArrayTree) -> Summary:
  """Counts the weights that masks keep, layer by layer.

  The pattern in the table is the regularity found in the mask itself (whole
  channels, blocks, N:M), which may differ from the pattern of the rule. N:M in
  a matrix runs along its inputs, axis -2; other axes are named.

  Args:
    params: a tree of weights.
    masks: a tree like `params` with a bool array, or `None` for dense, at each
      leaf.

  Returns:
    A `Summary`. `print` shows it as a table; its attributes `layers`,
    `sparsity`, `kept` and others are data.

  Raises:
    ValueError: if the structures of the trees differ.

  >>> import jax.numpy as jnp
  >>> params = {'kernel': jnp.ones((4, 2)), 'bias': jnp.ones(2)}
  >>> masks = {'kernel': jnp.tile(jnp.array([[1], [0], [0], [1]], bool),
  ...                             (1, 2)), 'bias': None}
  >>> print(summary(params, masks))
  layer          shape  pattern      sparsity  kept  of
  -------------  -----  -----------  --------  ----  --
  bias           2      dense               -     2   2
  kernel         4x2    channel(-2)     50.0%     4   8
  -------------  -----  -----------  --------  ----  --
  sparse layers                         50.0%     4   8
  all                                   40.0%     6  10
  """
  masks = trees.nested_like(params, masks)
  trees.same_structure(params, masks)
  layers = []
  for path, w, mask in trees.align(params, masks):
    shape = tuple(np.shape(w))
    size = math.prod(shape)
    if trees.is_dense(mask):
      layers.append(Layer(path, shape, 'dense', size, size))
    else:
      mask = np.asarray(jax.device_get(mask))
      layers.append(Layer(path, shape, _describe(mask), size,
                          int(mask.sum(dtype=np.int64))))
  return Summary(tuple(layers))


def mask_flips(before: ArrayTree, after: ArrayTree) -> ArrayTree:
  """Counts the entries of each mask that changed, in both directions.

  The count is `sum |m_t - m_(t-1)|`. Its sum over all layers, for one step, is
  the sparse-architecture divergence of the paper.

  Args:
    before: a tree with a bool array, or `None` for dense, at each leaf.
    after: a tree like `before`, the masks of a later step.

  Returns:
    A tree like `before` with a scalar for every mask: uint32, or float32 for
    masks of 2^32 entries or more, whose flips uint32 may not hold.

  Raises:
    ValueError: if the structures of the trees differ.

  References:
    Zhou et al., `Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch <https://arxiv.org/abs/2102.04010>`_, 2021, section 3

  >>> import jax.numpy as jnp
  >>> masks = jnp.array([True, False, True])
  >>> print(mask_flips(masks, ~masks))
  3
  """
  if jax.tree.structure(before) != jax.tree.structure(after):
    raise ValueError(
        'mask_flips needs masks of the same layers, got masks of '
        f'{trees.few(trees.paths(before)) or "nothing"} before and of '
        f'{trees.few(trees.paths(after)) or "nothing"} after. Write e.g. '
        'mask_flips(get_masks(old_state), get_masks(new_state)).')
  trees.same_structure(before, after, 'after')
  return jax.tree.map(
      lambda a, b: (a != b).sum(dtype=jnp.uint32 if a.size < 2**32
                                else jnp.float32), before, after)
