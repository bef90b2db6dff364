"""`pack_params`: parameter trees with packed 2:4 weights."""

from typing import Any, Mapping

import jax
import jax.numpy as jnp

from jaxsparse import flows
from jaxsparse import patterns
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.tables import brief
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.packed import _dispatch
from jaxsparse.packed import _hopper_layout
from jaxsparse.packed import layout24
from jaxsparse.patterns import Pattern


class NotPruned(ValueError):
  """A weight with a 2:4 pattern is not 2:4; `nn.pack_model` adds to this."""


@arguments.checked()
def pack_params(params: ArrayTree, masks_or_rules: Any, *,
                layout: str | None = None, transposed: bool = False,
                dense: Mapping[str, str] | None = None) -> ArrayTree:
  """Packs all weights that are 2:4 and take less memory when packed.

  Pruned weights for which packing saves no memory stay dense: weights with
  fewer than 4 inputs (float32), 8 (bfloat16) or 12 (int8), and, in layouts with
  tiles of 256 inputs, weights that become larger by this padding.

  Args:
    params: any pytree of parameters. Inside of `jit`, where values are unknown,
      the two largest of every four entries are kept, as in `pack`.
    masks_or_rules: patterns as for `prune`, for example from `kernel_patterns`:
      parameters with the pattern `nm(1, 4)` or `nm(2, 4)` are packed along its
      axis. Or masks, `get_masks(opt_state)`: weights are multiplied by their
      masks, and matrices are packed along axis -2 if the mask is 2:4 there,
      else along -1. A mask does not tell the contraction axes of attention,
      convolutions or stacked layers, so pass patterns for these. Masks must not
      be traced, because the structure of the result depends on their values.
    layout: 'planar'; 'tiled' for TPUs; or 'hopper' for H100 and H200, for
      weights in bfloat16 and float16 (other weights stay planar). `None` is the
      layout of this machine's kernel. Use 'planar' for checkpoints that any
      machine may load.
    transposed: whether to pack weights along their outputs, too, see `pack`. A
      weight is then packed if both packed forms together take less memory than
      two dense weights.
    dense: maps paths of pruned weights that must stay dense to reasons, such as
      the result of `nn.unreadable` for layers that cannot read packed weights.

  Returns:
    The same tree with `Packed24` in place of packed weights; `unpack_params` is
    the inverse. Linen and NNX models run on it through `jaxsparse.nn`.

  Raises:
    ValueError: if no weight was packed, with the reasons; if layout='hopper'
      and no weight has a dtype for it; if a weight whose pattern is 2:4 is not
      2:4, with its path; or if masks are traced.

  >>> import jaxsparse
  >>> params = {'mlp': {'kernel': jnp.ones((512, 8)), 'bias': jnp.ones(8)}}
  >>> masks = jaxsparse.prune({'.*/kernel': jaxsparse.nm(2, 4)}).init(
  ...     params).masks
  >>> packed = pack_params(params, masks)
  >>> type(packed['mlp']['kernel']).__name__, packed['mlp']['bias'].shape
  ('Packed24', (8,))
  """
  wanted = layout or _layout_here()
  layout24.check_layout(wanted)
  if trees.nodes(params, layout24.Packed24):
    raise ValueError(
        'pack_params needs dense parameters, got packed ones. Write '
        'unpack_params(params) to unpack them.')
  by_rules = _are_rules(masks_or_rules)
  if by_rules:
    axes = jax.tree.map(_axis_of, trees.match_rules(masks_or_rules, params),
                        is_leaf=lambda rule: isinstance(rule, Pattern))
  else:
    masks = trees.nested_like(params, masks_or_rules)
    params = flows.apply_masks(params, masks)
    axes = trees.map_masked(lambda _, mask: _axis_of_mask(mask), params, masks)
  packed, kept = [], {}

  def leaf(path, w, axis):
    if axis is None:
      return w
    if dense and path in dense:
      kept[path] = dense[path]
      return w
    try:
      made = layout24.pack(w, axis=axis, transposed=transposed)
    except ValueError as error:
      raise NotPruned(
          f'{trees.named(path)}: {error} To prune a whole tree, write '
          'jaxsparse.sparse_params(params, opt_state) after training, or '
          'jaxsparse.apply_masks(params, jaxsparse.prune(rules).init(params)'
          '.masks) without training.') from error
    if wanted != 'hopper' or made.dtype in _hopper_layout.DTYPES:
      made = layout24.with_layout(made, wanted)
    if made.nbytes >= w.nbytes * (1 + transposed):
      kept[path] = 'packing saves no memory'
      return w
    packed.append(made)
    return made

  result = trees.map_with_path(leaf, params, axes)
  if not packed:
    what = 'rule' if by_rules else 'mask'
    why = ('; '.join(map(': '.join, [*kept.items()][:3]))
           + f' and {len(kept) - 3} more' * (len(kept) > 3) if kept else
           f'none of {trees.few(trees.paths(params))} is 2:4 by its {what}')
    raise ValueError(
        f'pack_params found no weight to pack: {why}. Prune with '
        "{'.*/kernel': jaxsparse.nm(2, 4)}, and give the masks or these rules.")
  if layout and all(w.layout != layout for w in packed):
    raise ValueError(
        f'layout={brief(layout)} needs bfloat16 or float16, got weights of '
        f'{packed[0].dtype}. Cast the parameters first, e.g. jax.tree.map('
        'lambda w: w.astype(jnp.bfloat16), params).')
  return result


def unpack_params(params: ArrayTree) -> ArrayTree:
  """The dense parameters again, zeros included.

  >>> unpack_params({'w': layout24.pack(jnp.zeros((4, 1)))})['w'].shape
  (4, 1)
  """
  is_packed = lambda node: isinstance(node, layout24.Packed24)
  return jax.tree.map(lambda node: layout24.unpack(node) if is_packed(node)
                      else node, params, is_leaf=is_packed)


def _layout_here() -> str:
  """What this machine's kernel reads, or XLA."""
  if not _dispatch.missing('gpu'):
    return 'hopper'
  return 'planar' if _dispatch.missing('tpu') else 'tiled'


def _are_rules(tree: Any) -> bool:
  """Whether it maps expressions to patterns, rather than being masks."""
  return isinstance(tree, Mapping) and any(
      isinstance(rule, Pattern) for rule in tree.values())


def _axis_of(pattern: Pattern | None) -> int | tuple[int, ...] | None:
  """Along which axis a pattern makes a weight 2:4."""
  if pattern is None or not patterns.is_nm(pattern):
    return None
  n, m, axis = patterns.n_m_axis(pattern)
  return axis if m == 4 and n <= 2 else None


def _axis_of_mask(mask: jax.Array) -> int | None:
  """The same of a mask."""
  if isinstance(mask, jax.core.Tracer):
    raise ValueError(
        'pack_params needs patterns, or masks of known values, got a traced '
        f'mask of shape {mask.shape}. Write pack_params(params, rules) with '
        'the patterns of the masks, or leave the masks out of the arguments of '
        'the traced function.')
  if mask.ndim != 2:
    return None
  # Under `jit` the values of a mask that is no argument are known, too.
  with jax.ensure_compile_time_eval():
    mask = mask.astype(jnp.int8)
    return next((axis for axis in (-2, -1) if layout24.is_24(mask, axis)), None)
