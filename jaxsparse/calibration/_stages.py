"""Statistics of a model's kernels, whose data go on while they are pruned."""

import functools
import re
from typing import Any, Callable, Collection, Iterable, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.calibration import _statistics
from jaxsparse.calibration._statistics import Statistic
from jaxsparse.graph import segments
from jaxsparse.graph.segments import Leaf

# All arguments of a function but the parameters.
Batch = tuple[Any, ...]


class Stage(NamedTuple):
  """Kernels that are pruned together.

  Attributes:
    kernels: which, or which layers of them.
    look: from the parameters to the statistics of their inputs.
    go_on: takes the data of all batches on, through pruned kernels.
  """
  kernels: tuple[Leaf, ...]
  look: Callable[[ArrayTree], dict[Leaf, Statistic]]
  go_on: Callable[[ArrayTree], None] = lambda params: None


class Data:
  """The batches, wherever in the function they are."""

  def __init__(self, fn: Callable[..., Any], params: ArrayTree,
               batches: Sequence[Batch],
               weights: Callable[..., jax.Array] | None, kind: str):
    self._fn, self._params, self._batches = fn, params, batches
    self._weights = [None if weights is None else jnp.asarray(weights(*batch))
                     for batch in batches]
    self._kind = kind

  def alone(self, tasks: Collection[str]) -> list[Stage]:
    """A stage for each kernel, without statistics."""
    return [Stage((Leaf(path),), lambda params: {}) for path in tasks]

  def at_once(self, tasks: Collection[str]) -> list[Stage]:
    """One stage with statistics of the dense model."""
    @jax.jit
    def one(params, batch, weights):
      return _statistics.input_statistics(
          self._fn, params, *batch, kind=self._kind, weights=weights,
          which='|'.join(map(re.escape, tasks)))

    def look(params):
      found = _sum(one(params, *each) for each in zip(
          self._batches, self._weights))
      return {Leaf(path): x for path, x in found.items()}
    return [Stage(tuple(map(Leaf, tasks)), look)]

  def in_turn(self, tasks: Collection[str]) -> list[Stage]:
    """Stages from cut to cut of the function."""
    chains: dict[Any, segments.Chain] = {}
    mine = []
    for batch in self._batches:
      shapes = str(jax.tree.map(jax.typeof, batch))
      if shapes not in chains:
        chains[shapes] = segments.chain(
            self._fn, self._params, *batch, kernels=tasks)
      mine.append(chains[shapes])
    first = mine[0]
    order = [segment.kernels for segment in first.segments]
    seen = {leaf.path for kernels in order for leaf in kernels}
    if unseen := [path for path in tasks if path not in seen]:
      raise ValueError(
          f'The inputs of {trees.few(unseen)} are not seen: the product is '
          'inside of a primitive that is not interpreted, such as pallas_call, '
          'or with another parameter, or the kernel is cut or joined before '
          'it. Leave them dense: {regex: None}.')
    for chain in mine:
      if [segment.kernels for segment in chain.segments] != order:
        raise ValueError(
            'The function reads its kernels in another order where batches '
            'have another shape. Give batches of one shape.')
    data = [chain.start(*batch) for chain, batch in zip(mine, self._batches)]

    def look(number, params):
      leaves = jax.tree.leaves(params)

      def one(chain, data, weights):
        segment = chain.segments[number]
        values = chain.values(segment.measured_reads, leaves, data)
        found = _measure(segment.measured, values, weights, self._kind)
        return {segment.leaves[n]: x for n, x in found.items()}
      return _sum(map(one, mine, data, self._weights))

    def go_on(number, params):
      leaves = jax.tree.leaves(params)
      for i, chain in enumerate(mine):
        segment = chain.segments[number]
        if segment.gives:
          data[i] = dict(zip(segment.gives, _run(segment.rest, chain.values(
              segment.reads, leaves, data[i]))))
    return [Stage(kernels, functools.partial(look, number),
                   functools.partial(go_on, number))
            for number, kernels in enumerate(order)]


def _sum(each: Iterable[Any]) -> Any:
  return functools.reduce(functools.partial(jax.tree.map, jnp.add), each)


@functools.partial(jax.jit, static_argnums=0)
def _run(program: segments.Program, values: Sequence[jax.Array]
         ) -> list[jax.Array]:
  return program.run(values)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _measure(program: segments.Program, values: Sequence[jax.Array],
             weights: jax.Array | None, kind: str) -> dict[int, Statistic]:
  return program.tapped(values, _statistics.tap(kind, weights))
