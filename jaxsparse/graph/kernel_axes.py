"""Kernels: the parameters that multiply data, and their contraction axes.

The number of axes does not identify a weight matrix: biases, norm scales and
position tables may be stacked, attention kernels have three axes, and other
libraries store `[out, in]`. `infer_kernels` finds kernels in the function
itself, and `kernel_patterns` makes patterns for `prune` from the result.
"""

import dataclasses
import math
import re
from typing import Any, Callable, NamedTuple, Sequence

import jax

from jaxsparse import patterns
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import tables
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import axes as axes_lib
from jaxsparse.graph import tracing
from jaxsparse.patterns import Pattern


class Kernel(NamedTuple):
  """The use of a parameter in products with data.

  Attributes:
    path: the parameter's path.
    shape: the parameter's shape.
    contracted: the axes that products sum over with data, the input channels of
      a convolution included; () if the parameter is not a kernel.
    outputs: the axes that become output axes of the product.
    window: the window axes of a convolution's kernel.
    others: the other primitives in which the parameter meets data.
    why: the reason why `kernel_patterns` assigns no pattern, or `None`.
    groups: the number of groups of a convolution, which divide the outputs.
  """
  path: str
  shape: tuple[int, ...]
  contracted: tuple[int, ...] = ()
  outputs: tuple[int, ...] = ()
  window: tuple[int, ...] = ()
  others: tuple[str, ...] = ()
  why: str | None = None
  groups: int = 1

  @property
  def is_kernel(self) -> bool:
    """Whether the parameter is the weight of a matrix product or convolution.
    """
    return bool(self.contracted or self.outputs)

  @property
  def stacked(self) -> tuple[int, ...]:
    """The axes that index separate kernels, such as stacked layers."""
    known = {*self.contracted, *self.outputs, *self.window}
    return tuple(a for a in range(len(self.shape)) if a not in known)


def _text(numbers: Sequence[int]) -> str:
  return ', '.join(map(str, numbers)) or '-'


class Kernels(dict[str, Kernel]):
  """The result of `infer_kernels`: a `Kernel` for each path; prints as a table.
  """

  def __str__(self) -> str:
    return tables.table(
        [('parameter', 'shape', 'contracted', 'outputs', 'note')],
        [(path, tables.shape_text(k.shape), _text(k.contracted),
          _text(k.outputs), k.why or '') for path, k in self.items()])


class KernelPatterns(dict[str, Pattern]):
  """The result of `kernel_patterns`: patterns for `prune`; prints as a table.

  Attributes:
    kernels: the `Kernels` of the function.
    dense: maps paths of dense parameters to reasons.
  """

  def __init__(self, rules: dict[str, Pattern], kernels: Kernels,
               dense: dict[str, str]):
    super().__init__(rules)
    self.kernels, self.dense = kernels, dense

  def __str__(self) -> str:
    return tables.table(
        [('parameter', 'shape', 'pattern')],
        [(path, tables.shape_text(k.shape),
          str(self.get(re.escape(path), f'dense: {self.dense.get(path)}')))
         for path, k in self.kernels.items()])


_ROLES = {'add': 'added', 'sub': 'added', 'mul': 'scales', 'div': 'scales',
          'gather': 'looked up', 'dynamic_slice': 'looked up',
          'concatenate': 'joined', 'select_n': 'chosen'}


@arguments.checked()
def infer_kernels(fn: Callable[..., Any], params: ArrayTree, *inputs: Any
                  ) -> Kernels:
  """Finds which parameters are weights of matrix products or convolutions.

  The function reads the jaxpr of `fn`. A kernel is an operand of a product
  whose other operand is data, that is, depends on `inputs`. Earlier operations
  on the parameter alone (a cast, a transposition, a mask, scales, a slice of
  stacked layers) do not matter. A parameter that is only added, multiplied
  elementwise or looked up is not a kernel.

  Args:
    fn: any function that JAX can trace; it is not run.
    params: the first argument of `fn`, a tree of arrays or
      `jax.ShapeDtypeStruct`s.
    *inputs: the other arguments. The batch must be one of them, not a closed
      over constant.

  Returns:
    A dict from each path to its `Kernel`; it prints as a table.

  >>> import jax.numpy as jnp
  >>> params = {'bias': jnp.ones((2, 4)), 'kernel': jnp.ones((8, 2, 4)),
  ...           'scale': jnp.ones(8)}
  >>> def heads(params, x):
  ...   y = jnp.einsum('d,dhk->hk', x * params['scale'], params['kernel'])
  ...   return y + params['bias']
  >>> print(infer_kernels(heads, params, jnp.ones(8)))
  parameter  shape  contracted  outputs  note
  ---------  -----  ----------  -------  ------
  bias       2x4    -           -        added
  kernel     8x2x4  0           1, 2
  scale      8      -           -        scales
  """
  return kernels_of(tracing.read(fn, params, *inputs))


def kernels_of(read: tracing.Reading) -> Kernels:
  """The kernels of a function that was read."""
  return Kernels({path: _kernel(path, read) for path in read.params})


def _kernel(path: str, read: tracing.Reading) -> Kernel:
  products = read.products[path]
  others = tuple(read.others[path])
  roles = ', '.join(dict.fromkeys(_ROLES.get(name, name) for name in others))
  kernel = Kernel(path, read.shapes[path], others=others)
  if not products:
    return kernel._replace(why=roles or 'meets no data')
  first = products[0]
  kernel = kernel._replace(
      contracted=tuple(sorted(first.contracted)),
      outputs=tuple(sorted(first.outputs)), window=tuple(sorted(first.window)),
      groups=first.groups)
  notes = ['also contracted along ' + _text(sorted(p.contracted))
           for p in products[1:] if p.contracted != first.contracted]
  # Groups along a slice are those of the axis; along one axis of several into
  # which a reshape split it, they are not.
  split = {axis for p in products if p.part for axis in p.contracted
           if (whole := read.params[path][axis]) is not None
           and len(axes_lib.factors(whole)) > 1}
  notes += [f'contracted along a part of axis {axis}' for axis in sorted(split)]
  if any(product.lost for product in products):
    notes.append('contracted along an axis that is not followed')
  notes += [f'also {roles}'] if others else []
  return kernel._replace(why='; '.join(notes) or None)


@arguments.checked()
def last_kernels(fn: Callable[..., Any], params: ArrayTree, *inputs: Any
                 ) -> list[str]:
  """Finds the kernels whose product the function returns: the last layers.

  The last kernels are those with an output axis that is also an axis of the
  function's result, and that no other kernel contracts. Elementwise operations
  on the product, a softmax, or sums over other axes do not matter. Every kernel
  with a single output counts as a last kernel, whatever its purpose.

  Args:
    fn: any function that JAX can trace, with logits or the like as result.
    params: the first argument of `fn`.
    *inputs: the other arguments.

  Returns:
    Regular expressions, one for each last kernel, for the patterns of `prune`
    or the argument `dense` of `kernel_patterns`.

  Raises:
    ValueError: if no kernel is last, for example in a loss, or in a network
      that returns its residual stream.

  >>> import jax.numpy as jnp
  >>> params = {'in': jnp.ones((3, 8)), 'out': jnp.ones((5, 8))}
  >>> mlp = lambda p, x: jnp.tanh(x @ p['in']) @ p['out'].T
  >>> last = last_kernels(mlp, params, jnp.ones((2, 3)))
  >>> last
  ['out']
  >>> rules = {**dict.fromkeys(last), '.*': patterns.unstructured()}
  """
  # Adds an array to the result, whose axes are those of the result.
  more = tracing.shapes(fn, params, *inputs)

  def added(both, *inputs):
    return jax.tree.map(numerics.joined, fn(both[0], *inputs), both[1])
  read = tracing.read(added, (params, more), *inputs)
  paths = trees.own_paths(params)
  given = dict(zip(read.params, paths))

  def leaves(path, role=None):
    return {place.leaf for place in read.relations.places(read.params[path])
            if role is None or any(place.axis in getattr(product, role)
                                   for product in read.products[path])}
  returned = {leaf for path in read.params if path not in given
              for leaf in leaves(path)}
  for path in given:
    returned -= leaves(path, 'contracted')

  def is_last(path):
    shape = read.shapes[path]
    return leaves(path, 'outputs') & returned or any(
        math.prod(shape[axis] for axis in product.outputs) == 1
        for product in read.products[path])
  last = [re.escape(name) for path, name in given.items() if is_last(path)]
  if not last:
    raise ValueError(
        'last_kernels needs a function that returns an output axis of a '
        f'kernel, got none among those of {paths}. Give the function that '
        'returns logits, not a loss, or name the kernels yourself: '
        "{'head/kernel': None, '.*kernel': pattern}.")
  return last


@arguments.checked()
def kernel_patterns(fn: Callable[..., Any], params: ArrayTree, *inputs: Any,
                    pattern: Pattern, dense: str | Sequence[str] = ()
                    ) -> KernelPatterns:
  """Assigns a pattern to all kernels of a function, on the right axes.

  Axis -2 of the pattern, along which N:M groups run, becomes the contraction
  axis of each kernel. Axis -1, along which transposable groups also run,
  becomes its output axis. In stacked layers, weights compete within their
  layer. A parameter stays dense, with a reason, if it is not a kernel, if it is
  used in two ways, such as an embedding that is also the output head, if a
  reshape splits an axis and the product sums over a part of it, or if the
  pattern does not fit its shape.

  Args:
    fn: any function that JAX can trace; it is not run.
    params: the first argument of `fn`.
    *inputs: the other arguments.
    pattern: the pattern, written for kernels `[in, out]`.
    dense: one or several regular expressions for paths that stay dense.

  Returns:
    A dict from regular expressions to patterns, for `prune` and `methods`; it
    prints as a table.

  Raises:
    ValueError: if `pattern` is not a `Pattern`, or is transposable along other
      axes; if an expression matches no parameter; or if no parameter gets the
      pattern.

  >>> import jax.numpy as jnp
  >>> params = {'in': jnp.ones((3, 8)), 'out': jnp.ones((5, 8))}
  >>> mlp = lambda p, x: jnp.tanh(x @ p['in']) @ p['out'].T
  >>> print(kernel_patterns(
  ...     mlp, params, jnp.ones((2, 3)), pattern=patterns.nm(2, 4)))
  parameter  shape  pattern
  ---------  -----  ------------------------------------------------------------
  in         3x8    dense: group of nm(2, 4) needs axis -2 to be a multiple of 4
  out        5x8    nm(2, 4, axis=-1)
  """
  if patterns.is_transposable(pattern) and (
      {axis for axis, _ in pattern.group.sizes} != {-2, -1}):
    raise ValueError(
        f'kernel_patterns needs a pattern written for kernels [in, out], got '
        f'{pattern}; it moves the pattern to the axes of each kernel. Write '
        f'nm({pattern.per_line}, 4, transposable=True).')
  dense = [dense] if isinstance(dense, str) else dense
  kernels = infer_kernels(fn, params, *inputs)
  asked = trees.match_rules(dict.fromkeys(dense, True), params)
  asked = dict.fromkeys(
      path for path, _, is_dense in trees.align(params, asked) if is_dense)
  rules, left = {}, {}
  for path, kernel in kernels.items():
    if path in asked or kernel.why:
      left[path] = kernel.why or 'as asked'
      continue
    try:
      fitting = _for_kernel(pattern, kernel)
      fitting.sizes(kernel.shape)
      rules[re.escape(path)] = fitting
    except ValueError as error:
      left[path] = str(error).split(', but ')[0]
  result = KernelPatterns(rules, kernels, left)
  if not rules:
    raise ValueError(
        f'{pattern} fits no parameter. Write another pattern, or patterns by '
        f"hand such as {{'.*kernel': jaxsparse.unstructured()}}.\n{result}")
  return result


def _for_kernel(pattern: Pattern, kernel: Kernel) -> Pattern:
  """A pattern written for `[in, out]`, on the axes of a kernel."""
  rank = len(kernel.shape)
  if patterns.is_transposable(pattern) and not (
      kernel.contracted and kernel.outputs):
    raise ValueError(f'{pattern} needs contracted and output axes')
  if pattern.group.sizes and pattern.group.rest is None and not kernel.outputs:
    raise ValueError(f'{pattern} needs an output axis')

  def joined(axes):
    axes = tuple(axis - rank for axis in axes)
    if any(b - a != 1 for a, b in zip(axes, axes[1:])):
      raise ValueError(f'the axes {axes} are not neighbours')
    return axes[0] if len(axes) == 1 else axes
  places = {-2: kernel.contracted, -1: kernel.outputs}

  def place(tiling):
    sizes = tuple((joined(places[axis]) if places.get(axis) else axis, size)
                  for axis, size in tiling.sizes)
    if tiling.rest is None:
      sizes += tuple((axis - rank, 1) for axis in kernel.stacked)
    return patterns.Tiling(sizes, tiling.rest)
  unit, group = place(pattern.unit), place(pattern.group)
  if (unit, group) == (pattern.unit, pattern.group):
    return pattern
  if patterns.is_nm(pattern):
    n, m, _ = patterns.n_m_axis(pattern)
    written = patterns.nm(n, m, axis=group.sizes[0][0],
                          transposable=patterns.is_transposable(pattern))
    if written.group == group:
      return written
  where = f'in {_text(kernel.contracted)}, out {_text(kernel.outputs)}'
  stacked = ', each layer' if kernel.stacked else ''
  return dataclasses.replace(
      pattern, name=f'{pattern} ({where}{stacked})', unit=unit, group=group)
