"""`flops`: counts floating point operations of a function.

The count adds up all products in the function's jaxpr and in the jaxprs that it
calls. An `_Origin` records which parameter each value comes from.
"""

import collections
from collections.abc import Mapping
import dataclasses
import math
from typing import Any, Callable, NamedTuple

import jax
import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils import tables
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _jaxprs
from jaxsparse.graph import _walk


@dataclasses.dataclass(frozen=True)
class Flops:
  """The result of `flops`; `print` shows it as a table.

  Attributes:
    by_parameter: maps the path of every parameter to the FLOPs of its products;
      0 without products.
    other: the FLOPs of all other products, such as attention's scores.
  """
  by_parameter: dict[str, int]
  other: int

  @property
  def total(self) -> int:
    """The FLOPs of all products, with every weight dense."""
    return self.other + sum(self.by_parameter.values())

  def forward(self, densities: Any = None) -> float:
    """The FLOPs of one call if products skip the pruned weights.

    other + sum_p density_p * by_parameter_p

    Args:
      densities: the fractions kept, in [0, 1], or bool masks: a tree like the
        parameters, or a dict from paths. `None`, or no entry, means dense.

    Returns:
      The FLOPs.

    Raises:
      ValueError: if a path is not the path of a parameter, or a value is not a
        density.
    """
    kept = _densities(densities, self.by_parameter)
    return float(self.other + sum(
        n * kept.get(path, 1.) for path, n in self.by_parameter.items()))

  def training(self, forward: Any = None, gradient: Any = None) -> float:
    """The FLOPs of a training step, from the count of its forward pass.

    3 * other + sum_p (2 * forward_p + gradient_p) * by_parameter_p

    Each product has two more products in the backward pass: the gradient of its
    input, with the same weights, and the gradient of its weights. So a dense
    step counts as 3 forward passes. `training(masks, masks)` counts no
    gradients of pruned weights. `training(masks)` counts the gradients of all
    weights, which growing by gradient and `ste` need. The count includes the
    gradient of the first layer's input, and no recomputation.

    Args:
      forward: the densities of the weights, as for `Flops.forward`.
      gradient: the densities of the gradients of weights.

    Returns:
      The FLOPs.

    References:
      Evci et al., `Rigging the Lottery: Making All Tickets Winners
      <https://arxiv.org/abs/1911.11134>`_, 2020, the appendix on FLOPs
    """
    return 2 * self.forward(forward) + self.forward(gradient)

  def __str__(self) -> str:
    rows = [(path, n) for path, n in self.by_parameter.items() if n]
    foot = [('other', self.other), ('total', self.total)]
    text = lambda rows: [(path, f'{n:,}', f'{n / max(self.total, 1):.1%}')
                         for path, n in rows]
    return tables.table([('parameter', 'FLOPs', 'share')], text(rows),
                        text(foot), right=(1, 2))


def _densities(densities: Any, known: dict[str, int]) -> dict[str, float]:
  """Densities by path; `{path: density}` is a tree with these paths, too."""
  rows = dict(zip(trees.paths(densities), jax.tree.leaves(densities)))
  if unknown := sorted(rows.keys() - known.keys()):
    raise ValueError(
        'Densities need paths of parameters, such as '
        f'{trees.few(list(known))}, got {unknown}. Write e.g. '
        'counted.forward({path: 0.1}).')
  return {path: _density(path, leaf) for path, leaf in rows.items()}


def _density(path: str, leaf: Any) -> float:
  x = np.asarray(leaf)
  if x.dtype == np.bool_:
    return np.count_nonzero(x) / max(x.size, 1)
  if not x.shape and jax.dtypes.issubdtype(x.dtype, np.number) and 0 <= x <= 1:
    return float(x)
  got = f'an array {x.dtype}{list(x.shape)}' if x.shape else leaf
  raise ValueError(
      f'{trees.named(path)}: '
      'a density must be the fraction kept, in [0, 1], or a bool '
      f'mask, got {got}. For 90% pruned, write 0.1.')


@arguments.checked()
def flops(f: Callable[..., Any], params: ArrayTree, *args: Any,
          padding: bool = True) -> Flops:
  """Counts the FLOPs of the products in `f(params, *args)`, by parameter.

  matrix product: 2 * batch * m * n * k
  convolution:    2 * batch * C_out * C_in / groups * positions * taps

  `positions * taps` is the product over axes of the two smallest among input,
  kernel and output size; the rest, for example in transposed convolutions,
  multiplies zeros. So taps at the border of an image count although they read
  padding, as in the counts of papers. With `padding=False` they do not, as in
  XLA's cost analysis: on small images this is less, by 16% for a 3x3 kernel on
  8x8 pixels. Elementwise operations, norms, softmax and decompositions do
  not count. The count of a loop is multiplied by its length, and counts inside
  of `shard_map` and kernel grids by their sizes. `cond` counts its costliest
  branch, and `platform_dependent` its default. Dead code does not count.

  A product counts for the parameter that is one of its operands, also if the
  parameter was cast, reshaped, quantised, sliced by a loop, or masked with bool
  masks of any origin. An operand that depends on other arguments, on other
  closed over arrays, or on another product is data: activations, rows looked up
  by tokens, merged low-rank updates. If two parameters meet, such as a kernel
  and its scales, the product counts for the larger one, or for none if both
  have the same size. Products without a parameter count as `other`.

  Args:
    f: any function that JAX can trace, gradients included; it is not run.
    params: the first argument of `f`, a tree of arrays or
      `jax.ShapeDtypeStruct`s.
    *args: the other arguments of `f`. The batch must be one of them, not a
      closed over constant.
    padding: whether taps of convolutions that read padding count.

  Returns:
    A `Flops`, which prints as a table and computes FLOPs at given densities.

  Raises:
    ValueError: if a loop of unknown length has products in it.

  >>> params = {'hidden': np.ones((8, 16)), 'out': np.ones((16, 4))}
  >>> mlp = lambda p, x: jax.nn.relu(x @ p['hidden']) @ p['out']
  >>> counted = flops(mlp, params, np.ones((10, 8)))
  >>> print(counted)
  parameter  FLOPs   share
  ---------  -----  ------
  hidden     2,560   66.7%
  out        1,280   33.3%
  ---------  -----  ------
  other          0    0.0%
  total      3,840  100.0%
  >>> counted.forward({'hidden': 0.25})
  1920.0
  """
  closed, paths = _jaxprs.trace(f, params, *args)
  named = paths + [None] * (len(closed.in_avals) - len(paths))
  products = _PRODUCTS if padding else _PRODUCTS | {
      'conv_general_dilated': _conv_without_padding}
  counts, _ = _counted(
      products, closed, list(map(_argument, closed.in_avals, named)))
  return Flops({path: counts[path] for path in paths}, counts[None])


class _Origin(NamedTuple):
  """Where a value comes from: the largest parameter in it, or data."""
  size: float
  path: str | None


_CONSTANT = _Origin(0, None)
_DATA = _Origin(math.inf, None)
# By primitive, the cost of its equation.
_Products = Mapping[str, Callable[[Any], int]]
# The cost of products by path, None for `other`, and where results come from.
_Counted = tuple[collections.Counter[str | None], list[_Origin]]


def _argument(aval: Any, path: str | None = None) -> _Origin:
  if aval.dtype == np.bool_:  # A mask.
    return _CONSTANT
  return _DATA if path is None else _Origin(math.prod(aval.shape), path)


def _join(*origins: _Origin) -> _Origin:
  """The origin of a value that is computed from values of these origins."""
  size = max((o.size for o in origins), default=0)
  paths = {o.path for o in origins if o.size == size}
  return _Origin(size, paths.pop() if len(paths) == 1 else None)


def _counted(products: _Products, closed: Any, origins: list[_Origin]
             ) -> _Counted:
  """One run of a jaxpr whose inputs have these origins."""
  counter = _Counter(products)
  results = _walk.walk(counter, closed, origins)
  return counter.counts, results


class _Counter:
  """The interpreter that follows origins and adds up the FLOPs of products."""

  def __init__(self, products: _Products):
    self._products = products
    self.counts: collections.Counter[str | None] = collections.Counter()

  def constant(self, x: Any, aval: Any) -> _Origin:
    """A number in the code is a constant; a closed over array may be data."""
    del x
    return _argument(aval) if aval.shape else _CONSTANT

  def primitive(self, jaxpr: Any, eqn: Any, values: list[_Origin]
                ) -> list[_Origin]:
    """The origins of the results of an equation that is not a call."""
    del jaxpr
    name, inner = eqn.primitive.name, _called(eqn)
    if name in _walk.EACH:
      return values
    if name in self._products:
      weights = [o for o in values[:2] if o != _DATA]
      self.counts[_join(*weights).path] += self._products[name](eqn)
      return [_DATA]
    if not inner:
      return [_join(*values)] * len(eqn.outvars)
    run = _scan if name == 'scan' else _call
    called, results = run(self._products, eqn, inner, values)
    self.counts.update({p: n * _repeats(eqn) for p, n in called.items()})
    return results


def _called(eqn: Any) -> list[Any]:
  """The jaxprs in the params of an equation; of several, one will run."""
  settings = list(eqn.params.values())
  # The other jaxprs of a solve serve its derivatives.
  if eqn.primitive.name == 'custom_linear_solve':
    settings = eqn.params['jaxprs'].solve
  platforms = eqn.params.get('branches_platforms') or ()
  if None in platforms:  # All compute the same.
    settings = eqn.params['branches'][platforms.index(None)]
  return _jaxprs.within(settings)


def _call(products: _Products, eqn: Any, inner: list[Any],
          operands: list[_Origin]) -> _Counted:
  """One run of what an equation calls, of several jaxprs the costliest."""
  name = eqn.primitive.name
  # All results of a cond depend on which branch its first operand takes.
  branch = operands[:1] if name == 'cond' else []
  given = operands[len(branch):]

  def bind(n):  # A kernel has more inputs than operands: outputs and scratch.
    more = n - len(given)
    return given + [_DATA] * more if more >= 0 else [_join(*given)] * n
  totals, columns = zip(*(
      _counted(products, j, bind(_inputs(j))) for j in inner))
  counts = max(totals, key=collections.Counter.total)
  if name == 'while' or {len(c) for c in columns} != {len(eqn.outvars)}:
    columns = [[_DATA if counts else _join(*operands)] * len(eqn.outvars)]
  return counts, [_join(*branch, *origins) for origins in zip(*columns)]


def _inputs(closed: Any) -> int:
  return len(getattr(closed, 'jaxpr', closed).invars)


def _scan(products: _Products, eqn: Any, inner: list[Any],
          operands: list[_Origin]) -> _Counted:
  """One step of a scan, after as many as it takes for origins to settle."""
  constants, carries = _jaxprs.ScanSizes.of(eqn)
  end = constants + carries
  carry = operands[constants:end]
  while True:
    counts, results = _counted(
        products, inner[0], operands[:constants] + carry + operands[end:])
    new = [_join(*pair) for pair in zip(carry, results)]
    if new == carry:
      return counts, carry + results[carries:]
    carry = new


def _repeats(eqn: Any) -> int:
  """The number of times that an equation runs the jaxpr that it calls."""
  name, has = eqn.primitive.name, eqn.params
  sizes = [has['length']] if name == 'scan' else []
  if name == 'pallas_call':
    sizes = has['grid_mapping'].grid
  if name == 'shard_map':
    sizes = [has['mesh'].shape[axis] for axis in _jaxprs.manual_axes(eqn)]
  if name == 'while' or not all(hasattr(n, '__index__') for n in sizes):
    raise ValueError(
        f'flops needs loops of known length, got products in a {name} whose '
        'length is known only at run time. Write lax.scan, or lax.fori_loop '
        'with ints as bounds.')
  return math.prod(map(int, sizes))


def _dot_general(eqn: Any, numbers: Any = None, groups: Any = ()) -> int:
  (_, contracted), (_, batch) = numbers or eqn.params['dimension_numbers']
  lhs, rhs = (v.aval.shape for v in eqn.invars[:2])
  met = {*contracted, *batch, *groups}
  return 2 * math.prod(lhs) * math.prod(
      n for axis, n in enumerate(rhs) if axis not in met)


def _ragged_dot_general(eqn: Any) -> int:
  ragged = eqn.params['ragged_dot_dimension_numbers']
  return _dot_general(
      eqn, ragged.dot_dimension_numbers, ragged.rhs_group_dimensions)


def _conv_general_dilated(eqn: Any) -> int:
  lhs, rhs, out = _conv_shapes(eqn)
  sites = [sorted(axis)[:2] for axis in zip(lhs[2:], rhs[2:], out[2:])]
  return 2 * math.prod(out[:2]) * rhs[1] * math.prod(map(math.prod, sites))


def _conv_without_padding(eqn: Any) -> int:
  lhs, rhs, out = _conv_shapes(eqn)
  has = eqn.params
  sites = map(_sites, lhs[2:], rhs[2:], out[2:], has['window_strides'],
              has['padding'], has['lhs_dilation'], has['rhs_dilation'])
  return 2 * math.prod(out[:2]) * rhs[1] * math.prod(sites)


def _conv_shapes(eqn: Any) -> list[list[int]]:
  """Batch, features, space; of the kernel C_out, C_in / groups, space."""
  return [[v.aval.shape[axis] for axis in spec] for v, spec in zip(
      (*eqn.invars, *eqn.outvars), eqn.params['dimension_numbers'])]


def _sites(size: int, kernel: int, out: int, stride: int,
           padding: tuple[int, int], lhs_dilation: int, rhs_dilation: int
           ) -> int:
  """Along one axis, the pairs of an output and a tap that read an input."""
  start = stride * np.arange(out) - padding[0]
  last = (size - 1) * lhs_dilation
  return sum(
      int(np.count_nonzero((at >= 0) & (at <= last) & (at % lhs_dilation == 0)))
      for at in (start + tap * rhs_dilation for tap in range(kernel)))


_PRODUCTS = {'dot_general': _dot_general,
             'ragged_dot_general': _ragged_dot_general,
             'conv_general_dilated': _conv_general_dilated}
