"""Arrays that are recomputed wherever they are read, instead of held.

Scores that are held during the search of a threshold take as much memory as the
weights. Scores are cheap to compute, so a loop that reads them in each
iteration also computes them in each iteration.
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
  """The arrays that a function returns, computed again at every call.

  Attributes:
    shapes: the shapes and dtypes of the arrays, as `jax.ShapeDtypeStruct`.
    traced: whether the function reads traced arrays. If not, the call is
      outside of `jax.jit`, where the returned arrays exist anyway.
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
    """The arrays inside of a loop, and the loop's variables.

    Use the returned loop variables in place of the given ones. XLA moves
    loop-invariant arrays out of a loop and holds them. So the inputs of the
    arrays must seem to depend on the loop's variables, which a barrier over
    both achieves. In `jax.shard_map` all arrays that pass a barrier vary over
    the same axes, which would change the types that the arrays were traced
    with; arrays that vary over fewer axes than the others stay outside.
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
  """Compiles a function of a `Remade` when it is called outside of `jax.jit`.

  So the function is one program there, too, instead of one operation at a time.
  `jax_debug_nans` then does not check the candidates of a search, which may
  have the bits of a NaN.

  Args:
    *static: the indices of static arguments, counting the `Remade`.
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
