"""A function as one line of equations; calls and stacked layers are inlined."""

import functools
import math
from typing import Any, Collection, Sequence

import jax
from jax import lax
from jax.extend import core
import jax.numpy as jnp

from jaxsparse.graph import _jaxprs
from jaxsparse.graph import _walk
from jaxsparse.graph import taps
from jaxsparse.graph._known import DATA
from jaxsparse.graph._known import Known
from jaxsparse.graph._known import Tag
from jaxsparse.graph._programs import Leaf
from jaxsparse.graph._programs import Step


class Line:
  """All equations of a function in turn: calls and stacked layers are inlined.

  Attributes:
    steps: what is computed.
    tags: of each array, whether it is data, and of which leaf it is made.
    sizes: bytes of each array, and
    dtypes: their dtypes.
    consts: arrays closed over, by number.
    slices: of what is made of parameters alone, layers: of which array, where.
    lost: leaves with products that are not seen.
  """

  def __init__(self, kernels: Collection[str]):
    self.steps: list[Step] = []
    self.tags: list[Any] = []
    self.sizes: list[int] = []
    self.dtypes: list[Any] = []
    self.consts: dict[int, Any] = {}
    self.slices: dict[int, tuple[int, int]] = {}
    self._known: list[Known] = []
    self._kernels = kernels
    self._seen: list[Leaf] = []
    self._walk = taps.Walk(lambda product: self._seen.append(product.path))

  @property
  def lost(self) -> set[Leaf]:
    return self._walk.lost

  def add(self, known: Known) -> int:
    """A new array's number."""
    self._known.append(known)
    self.tags.append(known.tag)
    self.dtypes.append(known.value.dtype)
    self.sizes.append(math.prod(known.value.shape) * known.value.dtype.itemsize)
    return len(self.tags) - 1

  def _read(self, i: Any) -> Known:
    return self._known[i] if isinstance(i, int) else Known(i.val)

  def inline(self, closed: Any, arrays: Sequence[Any]) -> list[Any]:
    """The results of a jaxpr of arrays."""
    jaxpr = getattr(closed, 'jaxpr', closed)
    known = dict(zip(jaxpr.invars, arrays))
    for v, const in zip(jaxpr.constvars, getattr(closed, 'consts', ())):
      known[v] = self.add(Known(jnp.asarray(const)))
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
    if name in _walk.CALLS and any(isinstance(tag, Tag) for tag in tags):
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
    """A scan, layer by layer."""
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
      # A part of an axis is no layer: nobody can tell what of the kernel it is.
      if len(axes) == 1 and first == ((first[0][0],),):
        tag = Tag(Leaf(path, (*index, (axes.pop(), k))), tuple(rest))
      else:
        tag, of = None, frozenset({tag.path})
    number = self.add(Known(cut(known.value), tag, of))
    self.slices[number] = i, k
    return number
