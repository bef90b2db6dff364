"""The product of a parameter with data, and the vector added to the product.

`find_readers` traces parameters through a function's jaxpr, and products up to
the next sum. It supports only plain uses: for a parameter that is sliced,
scaled or used twice it returns a reason instead of a `Reader`.
"""

import dataclasses
from typing import Any, Callable, cast, Collection, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _jaxprs
from jaxsparse.graph import _known
from jaxsparse.graph import _walk
from jaxsparse.graph import taps
from jaxsparse.graph._known import Tag


class Vector(NamedTuple):
  """A parameter that is added to a product, or subtracted from it.

  Attributes:
    path: the parameter's path.
    sign: 1 or -1.
    axes: which of its axes the axes of the product are.
  """
  path: str
  sign: int
  axes: tuple[int | None, ...]


class Reader(NamedTuple):
  """The only product of a parameter.

  Attributes:
    contracted: the parameter's axes that are summed over with data.
    window: its axes that are positions of a convolution.
    free: which axes of the product its others are.
    padded: whether data have zeros around them, or in between.
    vector: what is added to the product alone, or why there is no such thing.
  """
  contracted: tuple[int, ...]
  window: tuple[int, ...]
  free: dict[int, int]
  padded: bool
  vector: Vector | str


class Seen(NamedTuple):
  """What a parameter is multiplied with.

  Attributes:
    first: data at one of all places, `[contracted...]`.
    same: whether they are the same at all others.
  """
  first: jax.Array | np.ndarray
  same: jax.Array | np.ndarray


Readers = dict[str, Reader | str]


def find_readers(fn: Callable[..., Any], params: ArrayTree, *inputs: Any,
                 paths: Collection[str]
                 ) -> tuple[Readers, Callable[..., dict[str, Seen]]]:
  """Finds the products of parameters with data.

  Args:
    fn: any function that JAX can trace.
    params: its first argument.
    *inputs: the others.
    paths: of the parameters that matter.

  Returns:
    By path the reader, or why there is none, and a function of parameters and
    inputs like these that gives what the readers see.

  >>> params = {'b': jnp.ones(2), 'w': jnp.ones((3, 2))}
  >>> fn = lambda p, x: jax.nn.relu(x @ p['w'] + p['b'])
  >>> readers, seen = find_readers(fn, params, jnp.ones(3), paths=['w'])
  >>> readers['w'].contracted, readers['w'].vector
  ((0,), Vector(path='b', sign=1, axes=(0,)))
  """
  closed, names = _jaxprs.trace(fn, params, *inputs)
  arrays = [_Array(v.aval) for v in closed.jaxpr.invars]
  for name, array in zip(names, arrays):
    if jnp.issubdtype(array.aval.dtype, jnp.floating):
      array.tag = Tag.of(name, len(array.aval.shape))
  given = dict(zip(names, arrays))
  for result in _walk.walk(_Uses(), closed, arrays):
    result.uses.append(_Use('an output', 0, []))
  readers = {path: _reader(path, given) for path in paths}

  @jax.jit
  def look(params, *inputs):
    found = taps.run_jaxpr(
        closed, [name if isinstance(readers.get(name), Reader) else None
                 for name in names], jax.tree.leaves((params, inputs)),
        tap=_least, join=jnp.minimum)
    return {path: _seen(given[path].aval.shape, readers[path], *least)
            for path, least in found.items()}
  shown = jax.eval_shape(look, params, *inputs)
  readers.update({
      path: f'{path} meets no data, or not all that it meets is seen'
      for path, reader in readers.items()
      if isinstance(reader, Reader) and path not in shown})
  return readers, look


@dataclasses.dataclass(eq=False)
class _Array:
  """An array of the function, and what it is used for."""
  aval: Any
  tag: Tag | None = None
  uses: list['_Use'] = dataclasses.field(default_factory=list)


class _Use(NamedTuple):
  """An operand of a primitive."""
  name: str
  position: int
  operands: list[_Array]
  result: _Array | None = None
  eqn: Any = None


_CASTS = {'convert_element_type', 'copy', 'copy_p', 'name', 'pvary',
          'reduce_precision', 'sharding_constraint', 'stop_gradient'}
_KEEP = _CASTS | {'transpose', 'squeeze', 'broadcast_in_dim', 'reshape',
                  'all_gather', 'all_gather_invariant'}


class _Uses:
  """The interpreter of uses."""

  def constant(self, x: Any, aval: Any) -> _Array:
    """A literal, or an array closed over."""
    del x
    return _Array(aval)

  def primitive(self, jaxpr: Any, eqn: Any, values: list[_Array]
                ) -> list[_Array]:
    """The results of an equation that is no call."""
    del jaxpr
    name, results = eqn.primitive.name, [_Array(v.aval) for v in eqn.outvars]
    if name == 'shard_map':
      return _through_shards(self, eqn, values, results)
    if name in _KEEP and jnp.issubdtype(results[0].aval.dtype, jnp.floating):
      tag = _known.passed(eqn, [values[0].tag])
      results[0].tag = tag if tag and tag.is_whole else None
    for i, operand in enumerate(values):
      operand.uses.append(
          _Use(name, i, values, results[0] if results else None, eqn))
    return results


def _through_shards(uses: _Uses, eqn: Any, values: list[_Array],
                    results: list[_Array]) -> list[_Array]:
  """Goes on in a `shard_map`, with parameters that are whole on each device."""
  inner = eqn.params['jaxpr']
  given = [_Array(v.aval) for v in inner.invars]
  for operand, there, spec in zip(values, given, eqn.params['in_specs']):
    there.tag = operand.tag and _known.of_device(
        operand.tag, _known.parts(eqn, spec))
    operand.uses.append(_Use('shard_map', 0, [operand], there, eqn))
  for found, result in zip(_walk.walk(uses, inner, given), results):
    found.uses.append(_Use('shard_map', 0, [found], result, eqn))
  return results


def _ends(array: _Array) -> list[_Use]:
  """What a parameter is used for, casts and the like left out."""
  found = []
  for use in array.uses:
    if use.result is not None and use.result.tag and use.position == 0:
      found += _ends(use.result)
    else:
      found.append(use)
  return found


def _reader(path: str, given: dict[str, _Array]) -> Reader | str:
  """The reader that a parameter has, or why it has none."""
  uses = _ends(given[path])
  if len(uses) != 1:
    return f'{path} is used {len(uses)} times'
  use, = uses
  read = {'dot_general': _dot, 'conv_general_dilated': _convolution
          }.get(use.name)
  if read is None or use.result is None:
    return f'{path} is used in {use.name}'
  found = read(use)
  if found is None:
    return f'{path} has groups, or a batch of its own'
  kernel = use.operands[use.position]
  tag = cast(Tag, kernel.tag)  # Or the parameter would not end here.
  if tag.split:
    return f'{path} is shared out among devices'
  contracted, window, outputs, padded = found
  axes = tag.axes
  if any(n > 1 and axis not in axes
         for axis, n in enumerate(given[path].aval.shape)) or any(
      axis is None and n > 1 for axis, n in zip(axes, kernel.aval.shape)):
    return f'{path} is broadcast'
  return Reader(
      tuple(sorted(axes[k] for k in contracted if axes[k] is not None)),
      tuple(axes[k] for k in window),
      {axes[k]: at for k, at in outputs.items()}, padded,
      _vector(use.result, given))


def _dot(use: _Use) -> Any:
  """Axes that are contracted, window, results' axes, padding."""
  contracted, batch = use.eqn.params['dimension_numbers']
  i = use.position
  if batch[0]:
    return None
  ranks = [len(operand.aval.shape) for operand in use.operands]
  free = [axis for axis in range(ranks[i]) if axis not in contracted[i]]
  before = (ranks[0] - len(contracted[0])) if i else 0
  return (contracted[i], (), {axis: before + n for n, axis in enumerate(free)},
          False)


def _convolution(use: _Use) -> Any:
  """As `_dot`; in between and around there may be zeros."""
  has = use.eqn.params
  spec = has['dimension_numbers']
  if use.position != 1 or 1 != (
      has['feature_group_count'] * has['batch_group_count']):
    return None
  padded = any(n > 0 for pair in has['padding'] for n in pair) or any(
      n > 1 for n in has['lhs_dilation'])
  return (spec.rhs_spec[1:2], spec.rhs_spec[2:],
          {spec.rhs_spec[0]: spec.out_spec[1]}, padded)


def _least(product: taps.Product) -> tuple[jax.Array, jax.Array]:
  """The least of each input, and the least of it with the other sign."""
  rows = product.rows
  if product.conv is not None:
    eqn, _ = product.conv
    rows = jnp.moveaxis(
        rows, eqn.params['dimension_numbers'].lhs_spec[1], -1)
  rows = rows.reshape(-1, rows.shape[-1])
  return rows.min(0), (-rows).min(0)


def _seen(shape: tuple[int, ...], reader: Any, least: jax.Array,
          negative: jax.Array) -> Seen:
  """What a reader sees, of a kernel of this shape, from what `_least` gave."""
  inputs = [shape[axis] for axis in reader.contracted]
  return Seen(least.reshape(inputs), (least == -negative).reshape(inputs))


def _vector(product: _Array, given: dict[str, _Array]) -> Vector | str:
  """What is added to a product, casts of it left out, before all else."""
  while True:
    if len(product.uses) != 1:
      return f'its product is used {len(product.uses)} times'
    use, = product.uses
    if use.name not in _CASTS or use.result is None or not jnp.issubdtype(
        use.result.aval.dtype, np.floating):
      break
    product = use.result
  other = use.operands[1 - use.position] if len(use.operands) == 2 else None
  if (use.name not in ('add', 'add_any', 'sub')
      or other is None or other.tag is None
      or (use.name, use.position) == ('sub', 1)):
    return 'no parameter is added to its product alone'
  path = other.tag.path
  if other.tag.split:
    return f'{path} is shared out among devices'
  if (count := len(_ends(given[path]))) != 1:
    return f'{path} is used {count} times'
  return Vector(path, -1 if use.name == 'sub' else 1, other.tag.axes)
