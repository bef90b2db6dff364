"""Arrays that are made where they are read, and not held.

The scores of all weights, held while a threshold is searched for, take as much
memory as the weights. They are cheap to make: a loop that reads them in each of
its turns makes them in each of its turns.
"""

import functools
import itertools
from typing import Any, Callable, Sequence, TypeVar

import jax
from jax import lax
from jax.extend import core

from jaxsparse._utils import numerics

T = TypeVar('T')


class Remade:
  """What a function returns, made again at every call.

  Attributes:
    shapes: of the arrays, as `jax.ShapeDtypeStruct`.
    traced: whether the function reads arrays that are being traced. If not, all
      of this happens outside of `jax.jit`, and what it returns is there anyway.
  """

  def __init__(self, make: Callable[[], Sequence[jax.Array]]):
    closed, shapes = jax.make_jaxpr(lambda: [*make()], return_shape=True)()
    self.shapes: list[jax.ShapeDtypeStruct] = shapes
    self.traced = any(isinstance(c, jax.core.Tracer) for c in closed.consts)
    self._jaxpr, self._consts = closed.jaxpr, closed.consts
    self._held = None if self.traced else make()

  def __call__(self) -> list[jax.Array]:
    """The arrays."""
    return self._from(self._consts)

  def within(self, turn: Any) -> tuple[list[jax.Array], Any]:
    """The arrays in a loop, and the loop's variables, to be used with them.

    XLA moves out of a loop what does not change in it, and holds it. So what
    the arrays are made from has to seem to change with the loop's variables,
    which it does as long as these, too, are read from here. In `jax.shard_map`
    a barrier makes all that passes it vary over the same axes, which would be
    other types than those that the arrays were traced with: what varies over
    fewer axes than the rest stays outside.
    """
    axes = numerics.varies((self._consts, turn))
    through = [numerics.varies(c) == axes for c in self._consts]
    tied, turn = lax.optimization_barrier(
        ([*itertools.compress(self._consts, through)], turn))
    rest = iter(tied)
    return self._from([next(rest) if passes else c for c, passes in zip(
        self._consts, through)]), turn

  def _from(self, consts: Sequence[Any]) -> list[jax.Array]:
    if self._held is not None:
      return [*self._held]
    return core.jaxpr_as_fun(core.ClosedJaxpr(self._jaxpr, consts))()

  def some(self, places: Sequence[int]) -> 'Remade':
    """Only the arrays at some places."""
    if len(places) == len(self.shapes):
      return self
    return Remade(lambda: [self()[i] for i in places])

  def astype(self, dtype: Any) -> 'Remade':
    """The arrays in another dtype."""
    if all(x.dtype == dtype for x in self.shapes):
      return self
    return Remade(lambda: [x.astype(dtype) for x in self()])


def jitted_outside(*static: int) -> Callable[[Callable[..., T]],
                                             Callable[..., T]]:
  """Compiles a function of a `Remade` where its arrays are there anyway.

  So it is one program outside of `jax.jit`, too, and not an operation at a
  time; `jax_debug_nans` then does not look at the candidates of a search, which
  may be the bits of a NaN.

  Args:
    *static: which of its arguments, the `Remade` included, are static.
  """
  def decorate(f):
    @functools.partial(jax.jit, static_argnums=static)
    def jitted(held, *arguments):
      return f(Remade(lambda: held), *arguments)

    @functools.wraps(f)
    def run(xs: Remade, *arguments):
      return f(xs, *arguments) if xs.traced else jitted(xs(), *arguments)
    return run
  return decorate
