"""Reads a jaxpr: which axes of parameters meet, and what they are used for.

`read(f, params, *inputs)` traces every axis of every parameter through the
function. Axes that meet are unified (`_relations`). An axis whose indices a
primitive does not treat alike is fixed, with the name of the primitive; so are
axes of inputs, outputs and constants. `units.inference` and `kernel_axes` use
the result. Other modules read primitives that cut and join axes (`_cutting`),
work across devices (`_shards`) or make indices of units (`_indices`). The file
is long because control flow and all wirings work on one state.
"""

import collections
import copy
import functools
import math
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import jax
from jax.extend import core
import numpy as np

from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _arrays
from jaxsparse.graph import _cutting
from jaxsparse.graph import _indices
from jaxsparse.graph import _jaxprs
from jaxsparse.graph import _shards
from jaxsparse.graph import _walk
from jaxsparse.graph import axes as axes_lib
from jaxsparse.graph import primitives
from jaxsparse.graph import registry
from jaxsparse.graph._arrays import Source
from jaxsparse.graph._arrays import Value
from jaxsparse.graph._relations import Relations
from jaxsparse.graph.axes import Axis

trace = _jaxprs.trace
CLOSED_OVER = '<closed over>'


class Product(NamedTuple):
  """A parameter met data: its axes that vanished, and those of the result.

  Attributes:
    contracted: the axes that vanished.
    outputs: the axes of the result.
    window: the window axes of a convolution.
    groups: the number of groups of a convolution.
    part: whether fewer indices vanished than the contracted axes have, because
      these axes were sliced, or split into several.
    lost: whether an axis vanished that is known to be none of the parameter's,
      and yet is no axis of others, as after a gather.
  """
  contracted: frozenset[int]
  outputs: frozenset[int]
  window: frozenset[int] = frozenset()
  groups: int = 1
  part: bool = False
  lost: bool = False


class Units(NamedTuple):
  """Where in a parameter units are: the path, the axis, and their indices."""
  path: str
  axis: int
  start: int
  stride: int
  size: int

  @classmethod
  def of(cls, path: str, place: axes_lib.Place) -> 'Units':
    return cls(path, place.axis, place.starts[place.axis], place.stride,
               place.leaf.size)


class Reading(NamedTuple):
  """The result of `read`.

  Attributes:
    relations: all relations of axes, settled.
    params: the axes of each parameter, by path.
    shapes: the shape of each parameter, by path.
    products: the products of each parameter with data, by path.
    others: the names of other primitives that combine each parameter with data,
      by path.
    over: the primitives that sum, or treat indices otherwise than each alone,
      in order, each with an axis along which it does.
  """
  relations: Relations
  params: dict[str, tuple[Axis | None, ...]]
  shapes: dict[str, tuple[int, ...]]
  products: dict[str, list[Product]]
  others: dict[str, list[str]]
  over: list[tuple[str, Axis]]

  def places(self) -> Iterator[tuple[str, axes_lib.Place]]:
    """Where in which parameters leaves are, of more than one unit."""
    for path, array in self.params.items():
      for place in self.relations.places(array):
        if place.leaf.size > 1:
          yield path, place

  def units(self) -> collections.Counter[Units]:
    """Of all that parameters are made of, where it is."""
    return collections.Counter(
        Units.of(path, place) for path, place in self.places())

  def counts(self) -> list[tuple[str, int]]:
    """How many indices that are no units of parameters primitives go over.

    A sum of ones is such a number, and may be how many units there are.
    """
    axes = [axis for array in self.params.values() for axis in array if axis]
    for instance in self.relations.instances:
      axes += [instance.leaf, instance.there]
    units = {leaf for axis in axes for leaf in axes_lib.leaves(axis)
             if not leaf.fixed}
    return [(name, math.prod(leaf.size for leaf in axes_lib.leaves(axis)
                             if leaf not in units)) for name, axis in self.over]


def shapes(fn: Callable[..., Any], params: ArrayTree, *inputs: Any) -> Any:
  """The shapes of what a function returns.

  Raises:
    ValueError: if the function cannot be traced so.
  """
  return _jaxprs.told(lambda f: functools.partial(jax.eval_shape, f), fn,
                      params, *inputs)


def read(f: Callable[..., Any], params: ArrayTree, *inputs: Any) -> Reading:
  """Reads `f(params, *inputs)`, which is traced and not run."""
  return read_jaxpr(*trace(f, params, *inputs))


def read_jaxpr(closed: core.ClosedJaxpr, paths: list[str], *,
               opened: bool = False) -> Reading:
  """Reads what `trace` returned.

  Args:
    closed: the jaxpr.
    paths: the paths of the parameters, its first operands.
    opened: whether arrays closed over are read as if they were parameters, too,
      whose paths begin with `CLOSED_OVER`.
  """
  reader = _Reader(paths, opened)
  values = [reader.parameter(path, v.aval)
            for path, v in zip(paths, closed.jaxpr.invars)]
  given = dict(zip(paths, values))
  values += [_arrays.opaque(v.aval, 'an input of the function')
             for v in closed.jaxpr.invars[len(paths):]]
  results = _walk.walk(reader, closed, values)
  _indices.lose(results, 'an output of the function')
  for value in results:
    for axis in filter(None, value.axes):
      axes_lib.fix(axis, 'an output of the function')
  reader.relations.settle()
  given |= {f'{CLOSED_OVER}{i}': v for i, (_, v) in enumerate(
      reader.closed_over.values())}
  return Reading(
      reader.relations, {path: v.axes for path, v in given.items()},
      {path: v.shape for path, v in given.items()},
      reader.products, reader.others, reader.over)


class _Reader:
  """The interpreter of axes; `ambient` are those that loops took off."""

  def __init__(self, paths: list[str], opened: bool):
    self.closed_over: dict[int, tuple[Any, Value]] = {}
    self._opened = opened
    self._shapes: dict[str, tuple[int, ...]] = {}
    self.relations = Relations()
    self.products: dict[str, list[Product]] = {path: [] for path in paths}
    self.others: dict[str, list[str]] = {path: [] for path in paths}
    self.over: list[tuple[str, Axis]] = []
    self.ambient: list[Axis] = []
    self.mesh: dict[str, Axis] = {}
    self._same = functools.partial(_arrays.same, self.relations)

  def parameter(self, path: str, aval: Any) -> Value:
    shape = self._shapes[path] = tuple(aval.shape)
    masks = aval.dtype == np.bool_
    source = Source(path, math.prod(shape),
                    tuple(frozenset([axis]) for axis in range(len(shape))))
    value = Value(shape, tuple(None if n <= 1 else Axis(n) for n in shape),
                  (True,) * len(shape), sources=() if masks else (source,))
    self.relations.note(value.axes)
    return value

  # Control flow.

  def constant(self, x: Any, aval: Any) -> Value:
    """What is known of a literal, or of an array closed over."""
    if self._opened and aval.shape:
      if id(x) not in self.closed_over:
        axes = self.parameter('', aval).axes
        self.closed_over[id(x)] = x, Value(
            aval.shape, axes, (False,) * len(axes))
      return self.closed_over[id(x)][1]
    return _arrays.constant(
        x if isinstance(x, jax.Array) else np.asarray(x, aval.dtype))

  def primitive(self, jaxpr: Any, eqn: Any, values: list[Value]
                ) -> list[Value]:
    """The results of an equation that is no call."""
    del jaxpr
    if eqn.primitive.name in _walk.EACH:
      return values
    return _indices.equation(self, eqn, values, registry.wiring(eqn))

  def plain(self, eqn: Any, values: list[Value], wiring: primitives.Wiring
            ) -> list[Value]:
    """The results of an equation, whatever its operands index."""
    name = eqn.primitive.name
    values = [v._replace(named=None, counts=None) for v in values]
    if name in _SPECIAL:
      results = _SPECIAL[name](self, eqn, values)
    else:
      results = self.wired(eqn, values, wiring)
    for result in results:
      self.relations.note((*result.axes, *self.ambient))
    return results

  def called(self, closed: Any, values: list[Value]) -> list[Value]:
    """The results of a jaxpr that control flow calls."""
    results = _walk.walk(self, closed, values)
    _indices.lose(results, 'control flow')
    return [v._replace(named=None, counts=None) for v in results]

  def _cond(self, eqn: Any, values: list[Value]) -> list[Value]:
    branches = [self.called(branch, values[1:])
                for branch in eqn.params['branches']]
    results = [self._joined(list(same)) for same in zip(*branches)]
    return [r._replace(sources=None) if values[0].is_data else r
            for r in results]

  def _while(self, eqn: Any, values: list[Value]) -> list[Value]:
    tests, bodies = eqn.params['cond_nconsts'], eqn.params['body_nconsts']
    start = tests + bodies
    def step(carry):
      self.called(eqn.params['cond_jaxpr'], values[:tests] + carry)
      return self.called(
          eqn.params['body_jaxpr'], values[tests:start] + carry)
    return self._loop(step, values[start:])

  def _scan(self, eqn: Any, values: list[Value]) -> list[Value]:
    constants, carries = _jaxprs.ScanSizes.of(eqn)
    end = constants + carries
    length = eqn.params['length']
    layers = Axis(length)
    self._same([layers, *(v.axes[0] for v in values[end:])])
    axes_lib.fix(layers, 'scan')
    self.over.append(('scan', layers))
    slices = [_arrays.without_first(value) for value in values[end:]]
    ys = []

    def step(carry):
      self.ambient.append(layers)
      for value in slices:
        self.relations.note((*value.axes, *self.ambient))
      results = self.called(
          eqn.params['jaxpr'], values[:constants] + carry + slices)
      self.ambient.pop()
      ys[:] = results[carries:]
      return results[:carries]
    carry = self._loop(step, values[constants:end])
    return carry + [_arrays.with_first(y, layers) for y in ys]

  def _loop(self, step: Any, carry: list[Value]) -> list[Value]:
    """Runs a step until what is known of its carry holds before and after."""
    while True:
      before = copy.deepcopy((self.products, self.others)), len(self.over)
      for value in carry:
        self.relations.note((*value.axes, *self.ambient))
      new = [self._joined([a, b]) for a, b in zip(carry, step(carry))]
      if [_state(v) for v in new] == [_state(v) for v in carry]:
        return new
      # What seemed to be no data was; what was noted of it does not hold.
      carry, ((self.products, self.others), count) = new, before
      del self.over[count:]

  def _joined(self, values: list[Value]) -> Value:
    """What is known of an array that is one of several."""
    first = values[0]
    sources = None
    if not any(v.is_data for v in values):
      sources = _arrays.united(
          s for v in values for s in v.sources or ())
    numbers = {v.number for v in values}
    return Value(
        first.shape,
        tuple(map(self._same, zip(*(v.axes for v in values)))),
        tuple(map(all, zip(*(v.zero for v in values)))),
        numbers.pop() if len(numbers) == 1 else None, (), sources)

  # Primitives that leave axes whole.

  def wired(self, eqn: Any, values: list[Value], wiring: primitives.Wiring
            ) -> list[Value]:
    """The results of a primitive, by its wiring."""
    name = eqn.primitive.name
    at = lambda wires: [values[i].axes[axis] for i, axis in wires]
    for axis in filter(None, at(wiring.fixed)):
      axes_lib.fix(axis, name)
    gone = [self._gone(name, wiring.kind, values, wires)
            for wires in wiring.gone]
    for i, k in (*(wires[0] for wires in wiring.gone), *wiring.fixed):
      self.goes_over(name, values[i], k)
    passed = {wire for row in wiring.outputs for wires in row
              if not isinstance(wires, primitives.New) for wire in wires}
    for i, value in enumerate(values):
      self.relations.note((*(axis for k, axis in enumerate(value.axes)
                        if (i, k) in passed and (i, k) not in wiring.fixed),
                      *self.ambient))
    if wiring.kind == 'product':
      # Where both operands have an axis, but not as one, all indices meet.
      batch = [wires[0] for row in wiring.outputs for wires in row
               if not isinstance(wires, primitives.New) and len(wires) > 1]
      self.relations.note((*gone, *at(batch), *self.ambient))
    number = None
    if wiring.kind == 'map':
      number = primitives.evaluate(eqn, [v.number for v in values])
      self._scaled(name, values)
    elif len(values) == 1 and (wiring.kind == 'move' or name in _OF_ONE_KIND):
      number = values[0].number
    sums = tuple({s for v in values for s in v.sums})
    if wiring.kind in ('sum', 'product'):
      there = tuple(axis for axis in gone if axis is not None)
      count = math.prod(values[wires[0][0]].shape[wires[0][1]]
                        for wires in wiring.gone)
      sums = ((count, there),) if there else ()
    results = []
    for v, row in zip(eqn.outvars, wiring.outputs):
      axes = [None if isinstance(wires, primitives.New)
              else self._same(at(wires)) for wires in row]
      for k, (wires, n) in enumerate(zip(row, v.aval.shape)):
        # A sum along it tells apart what was alike, too.
        varies = (not wires.uniform if isinstance(wires, primitives.New)
                  else any(wire in wiring.fixed for wire in wires))
        if varies and axes[k] is None and n > 1:
          axes[k] = Axis(n, fixed=name)
      zero = tuple(
          number == 0 or not isinstance(wires, primitives.New)
          and self._zero(eqn, wiring, values, wires) for wires in row)
      results.append(Value(
          v.aval.shape, tuple(axes), zero, number, sums,
          self._sources(name, wiring, values, row)))
    return results

  def goes_over(self, name: str, value: Value, axis: int) -> None:
    """Notes a primitive that does not treat each index of an axis alone."""
    alike = 1 if name in _OF_ANY_COUNT else value.shape[axis]
    self.over.append((name, value.axes[axis] or Axis(alike)))

  def _gone(self, name: str, kind: str, values: list[Value],
            wires: tuple[primitives.Wire, ...]) -> Axis | None:
    """Axes meet and vanish."""
    axis = self._same([values[i].axes[k] for i, k in wires])
    nothing = any(values[i].zero[k] for i, k in wires)
    if axis is not None and (kind == 'reduce' or not nothing):
      axes_lib.keep(axis, f'{name} over it')
    return axis

  def _zero(self, eqn: Any, wiring: primitives.Wiring, values: list[Value],
            wires: tuple[primitives.Wire, ...]) -> bool:
    """Whether the result of a unit is zero where its parameters are."""
    if wiring.kind != 'map':
      return wiring.kind != 'other' and any(
          values[i].zero[axis] for i, axis in wires)
    axes = dict(wires)
    return primitives.evaluate(eqn, [
        0. if i in axes and v.zero[axes[i]] else v.number
        for i, v in enumerate(values)]) == 0

  def _scaled(self, name: str, values: list[Value]) -> None:
    """Notes a number that may depend on how many units there are."""
    numbers = [v.number for v in values if v.number is not None]
    if name not in ('mul', 'div') or len(numbers) != 1:
      return
    value, = (v for v in values if v.number is None)
    summed = [(_power(numbers[0], size), axis)
              for count, axes in value.sums for axis in axes
              for size in {count, axis.size}]
    there = [(_power(numbers[0], factor.size), factor)
             for axis in filter(None, value.axes)
             for factor in axes_lib.factors(axis)]
    # Attention divides by the root of a head's dimensions. Where that is the
    # number of heads, too, heads are not divided by: they are not summed yet.
    if any(power and power[2] == -.5 for power, _ in (*summed, *there)):
      there = [(power, axis) for power, axis in there
               if power and power[2] == -.5]
    for power, axis in (*summed, *there):
      if power:
        axes_lib.note_number(axis, '{} by {:.3g} = {}^{:g}'.format(
            name, *power))

  def _sources(self, name: str, wiring: primitives.Wiring, values: list[Value],
               row: Sequence[Any]) -> tuple[Source, ...] | None:
    """The parameters of one result; notes those that meet data."""
    main = values[:1] if wiring.kind == 'look' else values
    params = [(i, s) for i, v in enumerate(main) for s in v.sources or ()]

    def through(i, source, wired):
      return frozenset().union(*(
          source.axes[axis] for wires in wired
          if not isinstance(wires, primitives.New)
          for j, axis in wires if j == i))

    def multiplied(i, source):
      # Batch axes are no outputs, the groups of a convolution are.
      free = [w for w in row if not isinstance(w, primitives.New)
              and (len(w) == 1 or wiring.window)]
      gone = through(i, source, wiring.gone)
      groups = math.prod(values[i].shape[axis] for wires in free
                         if len(wires) > 1 for k, axis in wires if k == i)
      summed = math.prod(
          values[i].shape[axis] for wires in (*wiring.gone, wiring.window)
          for j, axis in wires if j == i and source.axes[axis] & gone)
      # Devices sum their parts up later.
      summed *= math.prod(axis.size for axis in self.mesh.values())
      lost = any(
          values[i].axes[axis] is not None and not any(
              s.axes[axis] for s in values[i].sources)
          for wires in wiring.gone for j, axis in wires if j == i)
      product = Product(
          gone, through(i, source, free),
          through(i, source, [(wire,) for wire in wiring.window]), groups,
          summed < math.prod(self._shapes[source.path][k] for k in gone), lost)
      if product not in self.products[source.path]:
        self.products[source.path].append(product)
    if any(v.is_data for v in values):
      for i, source in params:
        if wiring.kind == 'product':
          multiplied(i, source)
        else:
          self.note(source, name)
      return None
    if wiring.kind == 'product' and wiring.gone and len(
        {s.path for _, s in params}) > 1 and values[0].sources:
      # Learned queries are what their projection, on the right, reads.
      for i, source in params:
        if i and any(len(w) == 1 and w[0][0] == i for w in row
                     if not isinstance(w, primitives.New)):
          multiplied(i, source)
      params = [(i, s) for i, s in params if not i]
    largest = max((s.size for _, s in params), default=0)
    return _arrays.united(
        s._replace(axes=tuple(through(i, s, [wires]) for wires in row))
        for i, s in params if s.size == largest)

  def note(self, source: Source, name: str) -> None:
    """Notes that data met a parameter, other than in a product."""
    if name not in self.others[source.path]:
      self.others[source.path].append(name)


_SPECIAL = {'cond': _Reader._cond, 'while': _Reader._while,
            'scan': _Reader._scan, **_cutting.FOLLOWED, **_shards.FOLLOWED}

# Of equal numbers they return that number.
_OF_ONE_KIND = {'reduce_max', 'reduce_min', 'reduce_and', 'reduce_or'}

# Nor do these depend on how many equal numbers there are.
_OF_ANY_COUNT = _OF_ONE_KIND | {
    'argmax', 'argmin', 'cummax', 'cummin', 'dynamic_slice',
    'dynamic_update_slice', 'gather', 'reduce_window_max', 'reduce_window_min',
    'rev', 'slice', 'sort', 'split', 'top_k', 'unstack'}


def _state(value: Value) -> Any:
  """What of a carry must not change any more."""
  return (tuple(axis is None for axis in value.axes), value.zero, value.number,
          value.sources)


def _power(number: float, count: int) -> tuple[float, int, float] | None:
  """How a number may come from a count: the number, a size, and its power.

  >>> _power(0.125, 64), _power(2., 64)
  ((0.125, 64, -0.5), None)
  """
  sizes = [size for size in (count, count - 1) if size > 1 and number > 0]
  return next((
      (number, size, power) for size in sizes
      for power in (1, -1, .5, -.5, .25, -.25)
      if math.isclose(number, size**power, rel_tol=1e-3)), None)
