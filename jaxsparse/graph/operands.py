"""What multiplies a parameter with data, and what is added to the product.

`find_readers` follows parameters through a function's jaxpr, and what the
products give up to the next sum. It is exact about what is not so: a parameter
that is sliced, scaled or used twice has no `Reader`, but a reason.
"""

import dataclasses
from typing import Any, Callable, Collection, NamedTuple, Sequence

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _jaxprs


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
    first: data at the first of all places, `[contracted...]`.
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
  readers = {}

  @jax.jit
  def run(leaves):
    arrays = [_Array(x) for x in leaves]
    for name, array in zip(names, arrays):
      if jnp.issubdtype(array.value.dtype, jnp.floating):
        array.tag = _Tag(name, tuple(range(array.value.ndim)))
    given = dict(zip(names, arrays))
    for result in _walk(closed.jaxpr, closed.consts, arrays):
      result.uses.append(_Use('an output', 0, []))
    seen = {}
    for path in paths:
      readers[path], data = _reader(path, given)
      if data is not None:
        seen[path] = data
    return seen

  def look(params, *inputs):
    return run([jnp.asarray(x) for x in jax.tree.leaves((params, inputs))])
  jax.eval_shape(run, [jnp.asarray(x)
                       for x in jax.tree.leaves((params, inputs))])
  return readers, look


class _Tag(NamedTuple):
  """An array is a parameter; which of its axes each axis is."""
  path: str
  axes: tuple[int | None, ...]


@dataclasses.dataclass(eq=False)
class _Array:
  """An array of the function, and what it is used for."""
  value: Any
  tag: _Tag | None = None
  uses: list['_Use'] = dataclasses.field(default_factory=list)


class _Use(NamedTuple):
  """An operand of a primitive."""
  name: str
  position: int
  operands: list[_Array]
  result: _Array | None = None
  eqn: Any = None


_CASTS = {'convert_element_type', 'copy', 'copy_p', 'name', 'reduce_precision',
          'sharding_constraint', 'stop_gradient'}


def _walk(jaxpr: Any, consts: Sequence[Any], arrays: Sequence[_Array]
          ) -> list[_Array]:
  """Runs a jaxpr; its results."""
  known = dict(zip([*jaxpr.constvars, *jaxpr.invars],
                   [*map(_Array, consts), *arrays]))

  def read(v):
    return _Array(v.val) if isinstance(v, core.Literal) else known[v]

  for eqn in jaxpr.eqns:
    name, operands = eqn.primitive.name, [read(v) for v in eqn.invars]
    if name in _jaxprs.CALLS:
      inner = eqn.params[_jaxprs.CALLS[name]]
      results = _walk(getattr(inner, 'jaxpr', inner),
                      getattr(inner, 'consts', ()), operands)
    else:
      results = [*map(_Array, run_alone(
          jaxpr, eqn, [x.value for x in operands]))]
      results[0].tag = _passed(eqn, operands[0].tag) if operands else None
      for i, operand in enumerate(operands):
        operand.uses.append(_Use(name, i, operands, results[0], eqn))
    known.update(zip(eqn.outvars, results))
  return [read(v) for v in jaxpr.outvars]


def run_alone(jaxpr: Any, eqn: Any, operands: Sequence[Any]) -> list[Any]:
  """The results of one equation of a jaxpr."""
  values = {v: x for v, x in zip(eqn.invars, operands)
            if not isinstance(v, core.Literal)}
  # What binding a primitive takes changes with JAX; what a jaxpr is does not.
  alone = jaxpr.replace(
      constvars=[], invars=[*values], outvars=eqn.outvars, eqns=[eqn],
      effects=eqn.effects,
      debug_info=jaxpr.debug_info._replace(arg_names=None, result_paths=None))
  run = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))
  return list(run(*values.values()))


def _passed(eqn: Any, tag: _Tag | None) -> _Tag | None:
  """What is known of a result, if it is a parameter as it was."""
  name, out = eqn.primitive.name, eqn.outvars[0].aval
  if tag is None or not jnp.issubdtype(out.dtype, jnp.floating):
    return None
  old, new = eqn.invars[0].aval.shape, out.shape
  if name in _CASTS:
    return tag
  if name == 'transpose':
    return tag._replace(axes=tuple(
        tag.axes[axis] for axis in eqn.params['permutation']))
  if name == 'squeeze':
    return tag._replace(axes=tuple(
        axis for k, axis in enumerate(tag.axes)
        if k not in eqn.params['dimensions']))
  if name == 'broadcast_in_dim':
    there = dict(zip(eqn.params['broadcast_dimensions'], range(len(old))))
    return tag._replace(axes=tuple(
        tag.axes[there[k]] if k in there and old[there[k]] == n else None
        for k, n in enumerate(new)))
  if name == 'reshape' and [n for n in old if n > 1] == [
      n for n in new if n > 1] and eqn.params.get('dimensions') is None:
    axes = iter([axis for axis, n in zip(tag.axes, old) if n > 1])
    return tag._replace(axes=tuple(
        next(axes) if n > 1 else None for n in new))
  return None


def _ends(array: _Array) -> list[_Use]:
  """What a parameter is used for, casts and the like left out."""
  found = []
  for use in array.uses:
    if use.result is not None and use.result.tag and use.position == 0:
      found += _ends(use.result)
    else:
      found.append(use)
  return found


def _reader(path: str, given: dict[str, _Array]
            ) -> tuple[Reader | str, Seen | None]:
  """The reader that a parameter is, and what it sees."""
  uses = _ends(given[path])
  if len(uses) != 1:
    return f'{path} is used {len(uses)} times', None
  use, = uses
  read = {'dot_general': _dot, 'conv_general_dilated': _convolution
          }.get(use.name)
  if read is None or use.result is None:
    return f'{path} is used in {use.name}', None
  found = read(use)
  if found is None:
    return f'{path} has groups, or a batch of its own', None
  kernel, other, pairs, window, outputs, padded = found
  axes = kernel.tag.axes
  sizes = given[path].value.shape
  if any(n > 1 and axis not in axes for axis, n in enumerate(sizes)) or any(
      axis is None and n > 1 for axis, n in zip(axes, kernel.value.shape)):
    return f'{path} is broadcast', None
  reader = Reader(
      tuple(axes[k] for _, k in pairs), tuple(axes[k] for k in window),
      {axes[k]: at for k, at in outputs.items()}, padded,
      _vector(use.result, given))
  return reader, _seen(other.value, [axis for axis, _ in pairs])


def _dot(use: _Use) -> Any:
  """Kernel, data, contracted axes of both, window, results' axes, padding."""
  contracted, batch = use.eqn.params['dimension_numbers']
  i = use.position
  if batch[0]:
    return None
  kernel, other = use.operands[i], use.operands[1 - i]
  free = [axis for axis in range(kernel.value.ndim)
          if axis not in contracted[i]]
  before = (other.value.ndim - len(contracted[0])) if i else 0
  outputs = {axis: before + n for n, axis in enumerate(free)}
  return (kernel, other, list(zip(contracted[1 - i], contracted[i])), (),
          outputs, False)


def _convolution(use: _Use) -> Any:
  """As `_dot`; in between and around there may be zeros."""
  has = use.eqn.params
  spec = has['dimension_numbers']
  if use.position != 1 or 1 != (
      has['feature_group_count'] * has['batch_group_count']):
    return None
  padded = any(n > 0 for pair in has['padding'] for n in pair) or any(
      n > 1 for n in has['lhs_dilation'])
  other, kernel = use.operands
  return (kernel, other, [(spec.lhs_spec[1], spec.rhs_spec[1])],
          spec.rhs_spec[2:], {spec.rhs_spec[0]: spec.out_spec[1]}, padded)


def _seen(data: jax.Array, contracted: Sequence[int]) -> Seen:
  rest = [axis for axis in range(data.ndim) if axis not in contracted]
  rows = jnp.transpose(data, (*rest, *contracted)).reshape(
      -1, *(data.shape[axis] for axis in contracted))
  return Seen(rows[0], (rows == rows[:1]).all(0))


def _vector(product: _Array, given: dict[str, _Array]) -> Vector | str:
  """What is added to a product, casts of it left out, before all else."""
  while True:
    if len(product.uses) != 1:
      return f'its product is used {len(product.uses)} times'
    use, = product.uses
    if use.name not in _CASTS or use.result is None or not jnp.issubdtype(
        use.result.value.dtype, np.floating):
      break
    product = use.result
  other = use.operands[1 - use.position] if len(use.operands) == 2 else None
  if (use.name not in ('add', 'add_any', 'sub')
      or other is None or other.tag is None
      or (use.name, use.position) == ('sub', 1)):
    return 'no parameter is added to its product alone'
  path = other.tag.path
  if (count := len(_ends(given[path]))) != 1:
    return f'{path} is used {count} times'
  return Vector(path, -1 if use.name == 'sub' else 1, other.tag.axes)
