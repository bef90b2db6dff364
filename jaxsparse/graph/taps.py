"""Runs a function, and shows taps the data that multiply each parameter.

`run` computes every equation of a function's jaxpr. At each product of a
parameter with data, it calls a tap with the data. The results of taps are
summed for each parameter: over all places that use it, over the iterations of
loops, and over the devices of a `shard_map`. Parameters that a `scan` slices
keep the axis of its iterations, and kernels that devices share keep their
parts. These axes and those of experts are in the order of the parameter's.
"""

import copy
import math
from typing import Any, Callable, Mapping, Sequence

import jax
from jax.extend import core
import jax.numpy as jnp

from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _jaxprs
from jaxsparse.graph import _known
from jaxsparse.graph import _loops
from jaxsparse.graph import _products
from jaxsparse.graph import _sharded
from jaxsparse.graph import _walk
from jaxsparse.graph._known import Constant
from jaxsparse.graph._known import DATA
from jaxsparse.graph._known import Known
from jaxsparse.graph._known import Tag
from jaxsparse.graph._products import Product
from jaxsparse.graph._sharded import Met
from jaxsparse.graph._sharded import Sum

# What it returns of experts has their axes in front, the batch axes of the
# product.
Tap = Callable[[Product], Any]
Sums = dict[Any, Any]


def run(fn: Callable[..., Any], params: ArrayTree, *inputs: Any, tap: Tap
        ) -> Sums:
  """What `tap` returns of all products of parameters, summed by path.

  Args:
    fn: any function that JAX can trace.
    params: the first argument of the function.
    *inputs: the others.
    tap: from a `Product` to a tree of arrays, or to `None`, which is left out.
  """
  closed, names = _jaxprs.trace(fn, params, *inputs)
  return run_jaxpr(closed, names, jax.tree.leaves((params, inputs)), tap=tap)


def run_jaxpr(closed: core.ClosedJaxpr, names: Sequence[str | None],
              leaves: Sequence[Any], *, tap: Tap, join: Any = jnp.add) -> Sums:
  """As `run`, of what `tracing.trace` returned.

  Args:
    closed: the jaxpr.
    names: the paths of its first operands; one with `None` is data, too.
    leaves: all its operands.
    tap: see `run`.
    join: what makes one of two results of the tap, a `jnp.ufunc`. Loops begin
      with zeros, so there it is `jnp.add`.
  """
  walk = Walk(tap, join)
  arrays = [jnp.asarray(x) for x in leaves]
  tags = [DATA if name is None else Tag.of(name, x.ndim)
          for name, x in zip(names, arrays)]
  tags += [DATA] * (len(arrays) - len(tags))
  _walk.walk(walk, closed, [*map(Known, arrays, tags)])
  return walk.sums


class Walk:
  """The interpreter of arrays, which shows products to a tap.

  Attributes:
    found: the results of the tap so far.
    lost: paths of parameters with products that are not shown, of which sums
      would not be those of all data.
    trace: tells the products of one trace from those of others. The body of a
      loop is traced several times, and each time anew it reads what is outside.
    mesh, checked, open: of a `shard_map` around, as `_sharded` has it.
  """

  def __init__(self, tap: Tap, join: Any = jnp.add):
    self.tap, self.join = tap, join
    self.found: dict[Sum, Any] = {}
    self.lost: set[Any] = set()
    self.trace = object()
    self.mesh: tuple[str, ...] = ()
    self.checked: frozenset[str] = frozenset()
    self.open: list[Met] = []

  @property
  def sums(self) -> Sums:
    """What the tap returned, by path; if it has not seen all, nothing."""
    sums: Sums = {}
    for key, tree in self.found.items():
      if key.path not in self.lost:
        new = jax.tree.map(
            lambda x, key=key: self._in_order(x, (*key.layers, *key.batch)),
            tree)
        sums[key.path] = new if key.path not in sums else jax.tree.map(
            self.join, sums[key.path], new)
    return sums

  def _in_order(self, x: Any, rows: Sequence[Any]) -> Any:
    """An array with its first axes, `rows` of `Tag.keys`, as the parameter's.

    Axes that the parameter does not have, along which it is repeated, are
    summed over, and parts of one of its axes are joined.
    """
    for k in reversed(range(len(rows))):
      x = x if rows[k] else self.join.reduce(x, axis=k)
    keys = [row[0] for row in rows if row]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    if order != [*range(len(keys))]:
      x = x.transpose(*order, *range(len(keys), x.ndim))
    axes = [keys[k][0] for k in order]
    if len({*axes}) < len(axes):
      x = x.reshape(*(math.prod(x.shape[k] for k, a in enumerate(axes)
                                if a == axis) for axis in sorted({*axes})),
                    *x.shape[len(axes):])
    return x

  def inner(self) -> 'Walk':
    """A walk like this one that has found nothing yet."""
    walk = copy.copy(self)
    walk.found, walk.trace = {}, object()
    return walk

  def add(self, found: Mapping[Sum, Any]) -> None:
    """Adds what the tap returned elsewhere."""
    for key, value in found.items():
      self.found[key] = value if key not in self.found else jax.tree.map(
          self.join, self.found[key], value)

  def constant(self, x: Any, aval: Any) -> Known:
    """A literal, or an array closed over."""
    del aval
    return Known(x, Constant.of(x))

  def primitive(self, jaxpr: Any, eqn: Any, values: list[Known]
                ) -> list[Known]:
    """The results of an equation that is no call."""
    tags, name = [known.tag for known in values], eqn.primitive.name
    params = {tag.path for tag in tags if isinstance(tag, Tag)}.union(
        *(known.of for known in values))
    if name == 'shard_map' and self.mesh:
      self.lost |= params
    elif name in _CONTROL and (params or self.mesh and DATA in tags):
      return _CONTROL[name](self, eqn, values)
    arrays = _jaxprs.run_alone(jaxpr, eqn, [known.value for known in values])
    if name in _walk.EACH:
      return [known._replace(value=x) for known, x in zip(values, arrays)]
    tag = DATA if DATA in tags else (
        _known.passed(eqn, tags) or _known.made_of_constants(eqn, tags))
    of = _known.untold(values) if tag is not DATA else frozenset()
    if isinstance(tag, Tag):
      of -= {tag.path}
    results = [Known(x, tag, of) for x in arrays]
    parts = self._look(eqn, values) if name in _products.NAMES else []
    return _sharded.made(
        self, eqn, values, results, parts) if self.mesh else results

  def _look(self, eqn: Any, values: list[Known]) -> list[Met]:
    """Shows a product to the tap, or returns it, if it is not complete."""
    for i, known in enumerate(values[:2]):
      if values[1 - i].tag is not DATA:
        continue
      self.lost |= known.of
      if not isinstance(known.tag, Tag):
        continue
      roles = _products.roles(eqn, i, known.tag)
      shares = None if roles is None else _sharded.shares(
          self, i, values, roles)
      if roles is None or shares is None:
        self.lost.add(known.tag.path)
        continue
      met = Met(eqn, i, values, roles, shares)
      if shares.gathered:
        self.open.append(met)
        return [met]
      self.show(met)
    return []

  def show(self, met: Met) -> None:
    """Shows a product to the tap."""
    product = _products.product(
        met.eqn, met.i, met.tag, [known.value for known in met.given],
        met.roles, met.shares.gathered)
    if product.key is not None:
      product = product._replace(key=(product.key, self.trace))
    found = self.tap(product)
    if found is not None:
      # Axes of devices that have one of several kernels each.
      self.add({met.shares.sum: jax.tree.map(
          lambda x: jnp.expand_dims(x, met.shares.new), found)})


_CONTROL = {**_loops.CONTROL, 'shard_map': _sharded.shard_map}
