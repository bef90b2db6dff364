"""A function as one list of equations; calls and stacked layers are inlined."""

import functools
import math
from typing import Any, Callable, Collection, Iterable, NamedTuple, Sequence

import jax
from jax import lax
from jax.extend import core
import jax.numpy as jnp

from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _jaxprs
from jaxsparse.graph import _walk
from jaxsparse.graph import slices
from jaxsparse.graph import taps
from jaxsparse.graph._known import Constant
from jaxsparse.graph._known import DATA
from jaxsparse.graph._known import Known
from jaxsparse.graph._known import Tag
from jaxsparse.graph._programs import Leaf
from jaxsparse.graph._programs import Step


class Line:
  """All equations of a function in turn: calls and stacked layers are inlined.

  A flat line inlines all calls. Otherwise it inlines those calls that have a
  parameter, or an array computed from one alone, as operand.

  Attributes:
    steps: the steps of the computation.
    tags: the tag of each array: whether it is data, and the leaf that it is
      computed from.
    sizes: the bytes of each array.
    dtypes: the dtypes of the arrays.
    consts: the closed over arrays, by number.
    slices: for the number of a layer of a parameter, the number of the stacked
      array and the index of the layer.
    lost: the leaves with products that the walk cannot show.
  """

  def __init__(self, kernels: Collection[str], flat: bool = False):
    self.steps: list[Step] = []
    self.tags: list[Any] = []
    self.sizes: list[int] = []
    self.dtypes: list[Any] = []
    self.consts: dict[int, Any] = {}
    self.slices: dict[int, tuple[int, int]] = {}
    self._known: list[Known] = []
    self._kernels = kernels
    self._flat = flat
    self._seen: list[Leaf] = []
    self._walk = taps.Walk(lambda product: self._seen.append(product.path))

  @property
  def lost(self) -> set[Leaf]:
    return self._walk.lost

  def data_steps(self) -> list[Step]:
    """The steps whose results depend on inputs."""
    return [step for step in self.steps
            if any(self.tags[i] is DATA for i in step.outs)]

  def add(self, known: Known) -> int:
    """Adds an array, and returns its number."""
    self._known.append(known)
    self.tags.append(known.tag)
    self.dtypes.append(known.value.dtype)
    self.sizes.append(math.prod(known.value.shape) * known.value.dtype.itemsize)
    return len(self.tags) - 1

  def _read(self, i: Any) -> Known:
    return self._known[i] if isinstance(i, int) else Known(i.val)

  def inline(self, closed: Any, arrays: Sequence[Any]) -> list[Any]:
    """Adds the steps of a jaxpr, and returns the numbers of its results."""
    jaxpr = getattr(closed, 'jaxpr', closed)
    known = dict(zip(jaxpr.invars, arrays))
    for v, const in zip(jaxpr.constvars, getattr(closed, 'consts', ())):
      known[v] = self.add(Known(jnp.asarray(const), Constant.of(const)))
      self.consts[known[v]] = const

    def read(v):
      return v if isinstance(v, core.Literal) else known[v]
    for eqn in jaxpr.eqns:
      known.update(zip(eqn.outvars, self._equation(
          jaxpr, eqn, [read(v) for v in eqn.invars])))
    return [read(v) for v in jaxpr.outvars]

  def _equation(self, jaxpr: Any, eqn: Any, ins: list[Any]) -> list[Any]:
    name = eqn.primitive.name
    tags = [self.tags[i] if isinstance(i, int) else None for i in ins]
    if name in _walk.CALLS and (self._flat or any(
        isinstance(tag, Tag) for tag in tags)):
      return self.inline(eqn.params[_walk.CALLS[name]], ins)
    if name == 'scan':
      sizes = _jaxprs.ScanSizes.of(eqn)
      start = sizes.constants + sizes.carries
      if any(isinstance(tag, Tag) and tag.path.path in self._kernels
             for tag in tags[start:]):
        return self._layers(eqn, ins, *sizes)
    self._seen.clear()
    outs = [*map(self.add, _walk.step(
        self._walk, jaxpr, eqn, [*map(self._read, ins)]))]
    seen = tuple(dict.fromkeys(
        leaf for leaf in self._seen if leaf.path in self._kernels))
    self.steps.append(Step(tuple(ins), tuple(outs), jaxpr, eqn, seen))
    return outs

  def _layers(self, eqn: Any, ins: list[Any], constants: int, carries: int
              ) -> list[Any]:
    """Adds the steps of a scan, layer by layer."""
    has, start = eqn.params, constants + carries
    carry, turns = ins[constants:start], range(has['length'])
    ys = [[None] * has['length'] for _ in eqn.outvars[carries:]]
    for k in reversed(turns) if has['reverse'] else turns:
      results = self.inline(has['jaxpr'], [
          *ins[:constants], *carry, *(self._layer(i, k) for i in ins[start:])])
      carry = results[:carries]
      for y, result in zip(ys, results[carries:]):
        y[k] = result
    return [*carry, *map(self._stacked, ys)]

  def _stacked(self, ys: list[Any]) -> Any:
    given = [self._read(i).value for i in ys]
    return self.inline(
        jax.make_jaxpr(lambda *xs: jnp.stack(xs))(*given), ys)[0]

  def _layer(self, i: int, k: int) -> int:
    cut = functools.partial(lax.index_in_dim, index=k, keepdims=False)
    known = self._known[i]
    tag, of = known.tag, known.of
    if tag is DATA:
      return self.inline(jax.make_jaxpr(cut)(known.value), [i])[0]
    if isinstance(tag, Tag):
      first, *rest = tag.keys
      axes = {key[0] for key in first}
      path, index = tag.path
      # A part of an axis is not a layer: its place in the kernel is unknown.
      if len(axes) == 1 and first == ((first[0][0],),):
        tag = tag._replace(path=Leaf(path, (*index, (axes.pop(), k))),
                           keys=tuple(rest))
      else:
        tag, of = None, frozenset({tag.path})
    elif isinstance(tag, Constant):
      tag = tag.slice
    number = self.add(Known(cut(known.value), tag, of))
    self.slices[number] = i, k
    return number


class Traced(NamedTuple):
  """A function as a line, and where its values come from.

  Attributes:
    line: the line.
    names: the paths of all parameters, which have the first numbers.
    inputs: the numbers of the inputs.
    returned: the numbers of the results that depend on inputs.
    makers: the step that computes an array, by the array's number.
  """
  line: Line
  names: list[str]
  inputs: range
  returned: tuple[int, ...]
  makers: dict[int, Step]

  def start(self, *inputs: Any) -> dict[int, Any]:
    """The inputs, by number."""
    return dict(zip(self.inputs, map(jnp.asarray, jax.tree.leaves(inputs))))

  def values(self, reads: Iterable[int], params: Sequence[Any],
             data: dict[int, Any]) -> list[Any]:
    """The arrays of these numbers.

    Args:
      reads: the numbers.
      params: the leaves of the parameters.
      data: the arrays of data, by number; the others are computed from
        parameters.
    """
    def value(i):
      if i in data:
        return data[i]
      if i < len(self.names):
        return jnp.asarray(params[i])
      if i in self.line.consts:
        return self.line.consts[i]
      if i in self.line.slices:
        whole, k = self.line.slices[i]
        return slices.take(value(whole), [(0, k)])
      step = self.makers[i]
      results = _jaxprs.run_alone(step.jaxpr, step.eqn, [
          value(j) if isinstance(j, int) else j.val for j in step.ins])
      return results[step.outs.index(i)]
    return [value(i) for i in reads]


def traced(fn: Callable[..., Any], params: ArrayTree, *inputs: Any,
           kernels: Collection[str], flat: bool = False) -> Traced:
  """Traces a function as a line.

  Args:
    fn: any function that JAX can trace.
    params: the first argument of the function.
    *inputs: the other arguments.
    kernels: the paths of the parameters whose stacked layers are inlined.
    flat: whether all calls are inlined.
  """
  closed, names = _jaxprs.trace(fn, params, *inputs)
  line = Line(kernels, flat)
  returned: list[int] = []

  def read(leaves):
    tags = [Tag.of(Leaf(name), x.ndim) for name, x in zip(names, leaves)]
    results = line.inline(closed, [
        line.add(Known(x, tag)) for x, tag in zip(
            leaves, [*tags, *[DATA] * (len(leaves) - len(tags))])])
    returned.extend(i for i in results if isinstance(i, int)
                    and line.tags[i] is DATA)
    return 0
  leaves = [jnp.asarray(x) if not isinstance(x, jax.ShapeDtypeStruct) else x
            for x in jax.tree.leaves((params, inputs))]
  jax.eval_shape(read, leaves)
  return Traced(line, names, range(len(names), len(leaves)), tuple(returned),
                {i: step for step in line.steps for i in step.outs})
