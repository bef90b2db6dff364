"""Runs a function and looks at the data that each parameter is multiplied with.

`run` interprets a function's jaxpr. Every equation is computed as it stands; at
a product of a parameter with data a tap is shown the data. What taps return is
summed by parameter: over all places that read it, and over the turns of loops,
but for parameters that a `scan` takes apart, which keep the axis of its turns.
"""

import functools
import math
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import jax
from jax import lax
from jax.extend import core
import jax.numpy as jnp

from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _arrays
from jaxsparse.graph import _jaxprs
from jaxsparse.graph import operands
from jaxsparse.graph import primitives

# Of an axis of a parameter, or of one of the factors that a reshape cut it to.
Key = tuple[int, ...]


class Tag(NamedTuple):
  """An array is a parameter that has met no data.

  Attributes:
    path: of the parameter, or whatever names it.
    keys: for each axis of the array what of the parameter it is, major first.
  """
  path: Any
  keys: tuple[tuple[Key, ...], ...]


class Product(NamedTuple):
  """A parameter's product with data.

  Attributes:
    path: what the parameter's tag says.
    rows: the data `[*batch, *rest, inputs]`. Batch axes are those that the
      parameter has, too, as experts do, and inputs what is summed over, both in
      the parameter's order; or for a convolution the whole data.
    batch: how many axes are batch axes.
    key: alike for products that read the same data in the same way.
    conv: of a convolution the equation, and the order of the kernel's axes.
    groups: of a ragged product how many rows each expert has.
  """
  path: Any
  rows: jax.Array
  batch: int = 0
  key: Any = None
  conv: Any = None
  groups: jax.Array | None = None


Tap = Callable[[Product], Any]
Sums = dict[Any, Any]


class _Data:
  """The tag of what depends on inputs."""


DATA = _Data()


def run(fn: Callable[..., Any], params: ArrayTree, *inputs: Any, tap: Tap
        ) -> Sums:
  """What `tap` returns of all products of parameters, summed by path.

  Args:
    fn: any function that JAX can trace.
    params: its first argument.
    *inputs: the others.
    tap: from a `Product` to a tree of arrays, or to `None`, which is left out.
  """
  closed, names = _jaxprs.trace(fn, params, *inputs)
  leaves = [jnp.asarray(x) for x in jax.tree.leaves((params, inputs))]
  tags = [Tag(name, tuple(((axis,),) for axis in range(x.ndim)))
          for name, x in zip(names, leaves)]
  walk = Walk(tap)
  walk(closed, leaves, [*tags, *[DATA] * (len(leaves) - len(tags))])
  return walk.sums


class Walk:
  """Computes a jaxpr; `sums` is what the tap returned on the way."""

  def __init__(self, tap: Tap):
    self.tap, self.sums, self._known = tap, {}, {}

  def add(self, sums: Mapping[Any, Any]) -> None:
    for path, value in sums.items():
      self.sums[path] = value if path not in self.sums else jax.tree.map(
          jnp.add, self.sums[path], value)

  def __call__(self, closed: Any, values: Sequence[Any], tags: Sequence[Any]
               ) -> tuple[list[Any], list[Any]]:
    """The results of a jaxpr, and their tags."""
    jaxpr = getattr(closed, 'jaxpr', closed)
    consts = getattr(closed, 'consts', ())
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], zip(
        [*consts, *values], [*[None] * len(consts), *tags])))

    def read(v):
      return (v.val, None) if isinstance(v, core.Literal) else known[v]
    for eqn in jaxpr.eqns:
      operands_, tags_ = zip(*map(read, eqn.invars)) if eqn.invars else ((), ())
      results = self.equation(jaxpr, eqn, list(operands_), list(tags_))
      known.update(zip(eqn.outvars, zip(*results)))
    results, found = zip(*map(read, jaxpr.outvars)) if jaxpr.outvars else ((), (
        ))
    return list(results), list(found)

  def equation(self, jaxpr: Any, eqn: Any, values: list[Any], tags: list[Any]
                ) -> tuple[list[Any], list[Any]]:
    name = eqn.primitive.name
    if name in _jaxprs.CALLS:
      return self(eqn.params[_jaxprs.CALLS[name]], values, tags)
    if name in _LOOPS and any(isinstance(tag, Tag) for tag in tags):
      return _LOOPS[name](self, eqn, values, tags)
    if any(tag is DATA for tag in tags):
      self._tapped(eqn, values, tags)
      tag = DATA
    else:
      tag = _passed(eqn, tags)
    results = operands.run_alone(jaxpr, eqn, values)
    return results, [tag] * len(results)

  def _tapped(self, eqn: Any, values: list[Any], tags: list[Any]) -> None:
    """Shows a product to the tap."""
    look = _PRODUCTS.get(eqn.primitive.name)
    if look is None:
      return
    for i, tag in enumerate(tags[:2]):
      if isinstance(tag, Tag) and tags[1 - i] is DATA:
        product = look(eqn, i, tag, values)
        found = None if product is None else self.tap(product)
        if found is not None:
          self.add({tag.path: found})


def _passed(eqn: Any, tags: Sequence[Any]) -> Tag | None:
  """The tag of what is made of parameters alone: that of the largest."""
  sized = [(math.prod(v.aval.shape), i) for i, (v, tag) in enumerate(zip(
      eqn.invars, tags)) if isinstance(tag, Tag)]
  if not sized or len(eqn.outvars) != 1:
    return None
  _, i = max(sized, key=lambda pair: pair[0])
  tag, name = tags[i], eqn.primitive.name
  old, new = eqn.invars[i].aval.shape, eqn.outvars[0].aval.shape
  if name == 'reshape':
    return _reshaped(eqn, tag, old, new)
  wiring = primitives.wiring(eqn)
  if wiring.kind not in ('map', 'move') or wiring.fixed:
    return None
  row = [[axis for j, axis in (() if isinstance(w, primitives.New) else w)
          if j == i] for w in wiring.outputs[0]]
  return tag._replace(keys=tuple(
      tag.keys[axes[0]] if axes else () for axes in row))


def _reshaped(eqn: Any, tag: Tag, old: tuple[int, ...], new: tuple[int, ...]
              ) -> Tag | None:
  if eqn.params.get('dimensions') is not None or 0 in new:
    return None
  keys: list[tuple[Key, ...]] = [()] * len(new)
  for olds, news in _arrays.alike(old, new):
    news = [k for k in news if new[k] > 1]
    there = [key for k in olds for key in tag.keys[k] if old[k] > 1]
    if len(news) == 1:
      keys[news[0]] = tuple(there)
    elif len(there) == 1:
      for i, k in enumerate(news):
        keys[k] = ((*there[0], i),)
    elif news:
      return None
  return tag._replace(keys=tuple(keys))


def _ordered(tag: Tag, axes: Sequence[int]) -> list[int] | None:
  """Axes of an array in the parameter's order, if they are whole axes of it."""
  keys = {k: tag.keys[k] for k in axes}
  order = sorted((k for k in axes if keys[k]), key=lambda k: keys[k])
  flat = [key for k in order for key in keys[k]]
  others = [key[0] for k, some in enumerate(tag.keys) if k not in keys
            for key in some]
  if flat != sorted(flat) or {key[0] for key in flat} & {*others}:
    return None
  return order + [k for k in axes if not keys[k]]


def _dot(eqn: Any, i: int, tag: Tag, values: list[Any], numbers: Any = None,
         groups: jax.Array | None = None) -> Product | None:
  contracted, batch = numbers or eqn.params['dimension_numbers']
  order, first = _ordered(tag, contracted[i]), _ordered(tag, batch[i])
  if order is None or first is None:
    return None
  data = values[1 - i]
  # From the kernel's axes to those of the data.
  there = dict(zip(contracted[i], contracted[1 - i])) | dict(
      zip(batch[i], batch[1 - i]))
  inputs, shared = ([there[k] for k in axes] for axes in (order, first))
  rest = [k for k in range(data.ndim) if k not in {*inputs, *shared}]
  rows = data.transpose(*shared, *rest, *inputs)
  rows = rows.reshape(*rows.shape[:len(shared) + len(rest)], -1)
  key = None if groups is not None else (_Same(data), *inputs, None, *shared)
  return Product(tag.path, rows, len(shared), key, groups=groups)


class _Same:
  """An array by its identity, as a key that keeps it alive."""

  def __init__(self, x: Any):
    self.x = x

  def __eq__(self, other: Any) -> bool:
    return isinstance(other, _Same) and self.x is other.x

  def __hash__(self) -> int:
    return id(self.x)


def _ragged(eqn: Any, i: int, tag: Tag, values: list[Any]) -> Product | None:
  has = eqn.params['ragged_dot_dimension_numbers']
  numbers = has.dot_dimension_numbers
  if i != 1 or list(has.rhs_group_dimensions) != [0] or numbers[1][0] or (
      list(has.lhs_ragged_dimensions) != [0]):
    return None
  return _dot(eqn, i, tag, values, numbers, groups=values[2])


def _conv(eqn: Any, i: int, tag: Tag, values: list[Any]) -> Product | None:
  if i != 1 or eqn.params['batch_group_count'] > 1:
    return None
  _, inputs, *window = eqn.params['dimension_numbers'].rhs_spec
  order = _ordered(tag, [inputs, *window])
  return None if order is None else Product(
      tag.path, values[0], conv=(eqn, tuple(order)))


_PRODUCTS = {'dot_general': _dot, 'ragged_dot_general': _ragged,
             'conv_general_dilated': _conv}


# Control flow.


def _within(walk: Walk, closed: Any, tags: Sequence[Any]) -> Callable[
    [Sequence[Any]], tuple[list[Any], Sums]]:
  """A jaxpr as a function of its values: results, and sums of its own."""
  def inner(values):
    own = Walk(walk.tap)
    results, _ = own(closed, values, tags)
    return results, own.sums
  return inner


def _scan(walk: Walk, eqn: Any, values: list[Any], tags: list[Any]
          ) -> tuple[list[Any], list[Any]]:
  has, sizes = eqn.params, _jaxprs.ScanSizes.of(eqn)
  start, end = sizes.constants, sizes.constants + sizes.carries
  slices = [tag._replace(keys=tag.keys[1:]) if isinstance(tag, Tag) else tag
            for tag in tags[end:]]
  apart = {tag.path for tag in slices if isinstance(tag, Tag)}
  # What is carried may have met data in a turn before.
  inner = _within(walk, has['jaxpr'], [
      *tags[:start], *[DATA] * sizes.carries, *slices])

  def step(carry, xs):
    carry, sums = carry
    results, found = inner([*values[:start], *carry, *xs])
    each = {path: found.pop(path) for path in apart & {*found}}
    sums = jax.tree.map(jnp.add, sums, found)
    return (results[:sizes.carries], sums), (results[sizes.carries:], each)
  carry = values[start:end]
  shapes = jax.eval_shape(
      lambda carry, xs: inner([*values[:start], *carry, *xs])[1], carry,
      [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in values[end:]])
  none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), {
      path: x for path, x in shapes.items() if path not in apart})
  (carry, sums), (ys, each) = lax.scan(
      step, (carry, none), values[end:], length=has['length'],
      reverse=has['reverse'], unroll=has['unroll'])
  walk.add({**sums, **each})
  results = [*carry, *ys]
  return results, [DATA] * len(results)


def _while(walk: Walk, eqn: Any, values: list[Any], tags: list[Any]
           ) -> tuple[list[Any], list[Any]]:
  has = eqn.params
  tests, bodies = has['cond_nconsts'], has['body_nconsts']
  start = tests + bodies
  test = _within(walk, has['cond_jaxpr'], [None] * (
      tests + len(values) - start))
  body = _within(walk, has['body_jaxpr'], [
      *tags[tests:start], *[DATA] * (len(values) - start)])

  def turn(state):
    carry, sums = state
    carry, found = body([*values[tests:start], *carry])
    return carry, jax.tree.map(jnp.add, sums, found)
  carry = values[start:]
  none = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(lambda carry: body([*values[tests:start], *carry])[1],
                     carry))
  results, sums = lax.while_loop(
      lambda state: test([*values[:tests], *state[0]])[0][0], turn,
      (carry, none))
  walk.add(sums)
  return results, [DATA] * len(results)


def _cond(walk: Walk, eqn: Any, values: list[Any], tags: list[Any]
          ) -> tuple[list[Any], list[Any]]:
  index, *given = values
  branches = [_within(walk, branch, tags[1:])
              for branch in eqn.params['branches']]
  every = {}
  for branch in branches:
    every |= jax.eval_shape(lambda xs, branch=branch: branch(xs)[1], given)
  none = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), every)

  def whole(branch, xs):
    results, sums = branch(xs)
    return results, none() | sums
  results, sums = lax.switch(
      index, [functools.partial(whole, b) for b in branches], given)
  walk.add(sums)
  return results, [DATA] * len(results)


_LOOPS = {'scan': _scan, 'while': _while, 'cond': _cond}
