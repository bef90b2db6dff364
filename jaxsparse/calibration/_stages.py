"""Stages of a model: statistics of kernels, with data from pruned kernels."""

import functools
import re
from typing import Any, Callable, Collection, Iterable, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse._utils import tables
from jaxsparse._utils import trees
from jaxsparse._utils import warning
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.calibration import _statistics
from jaxsparse.calibration._statistics import Statistic
from jaxsparse.graph import segments
from jaxsparse.graph import taps
from jaxsparse.graph.segments import Leaf

# All arguments of a function but the parameters.
Batch = tuple[Any, ...]
# Paths of running means and variances of batch norms.
STATISTICS = (r'(.*/)?(batch_stats/.*|(mean|var)_ema/.*|'
              r'(running_|moving_)?(mean|var|variance))')
# A function that wraps the stages, such as `tqdm.tqdm`.
Progress = Callable[[Sequence[Any]], Iterable[Any]]


def batched(batches: Iterable[Any]) -> list[Batch]:
  """Batches as tuples of arguments; raises if there are none."""
  # A NamedTuple, or another class of one, is a batch with names: one argument.
  made = [b if type(b) is tuple else (b,) for b in batches]
  if not made:
    raise ValueError(
        'batches must have at least one batch, got none. Write e.g. [x] for '
        'fn(params, x), with some hundred inputs; an exhausted iterator has '
        'no batches.')
  return made


def shapes(batch: Batch) -> Any:
  """A key, equal for batches for which a function is traced alike."""
  leaves, structure = jax.tree.flatten(batch)
  return structure, tuple(map(jax.typeof, leaves))


def weights_of(weights: Callable[..., jax.Array], batch: Batch) -> jax.Array:
  """The weights of the positions of a batch; raises if they are no array."""
  given = weights(*batch)
  if not arguments.is_array(given):
    raise ValueError(
        'weights must return an array with a weight for each token, got '
        f'{tables.brief(given)}. Write e.g. weights=lambda x: x[..., 0] != 0.')
  return jnp.asarray(given)


def restored(params: ArrayTree, tree: ArrayTree, name: str) -> ArrayTree:
  """A tree of a state, in the structure of the parameters.

  Orbax restores dicts in place of other classes without a target, and keys of
  dicts are sorted, which fields of classes are not.

  Raises:
    ValueError: if the tree is not that of these parameters.
  """
  tree = trees.nested_like(params, tree)
  try:
    same = all(w is None or jnp.shape(w) == jnp.shape(p)
               for _, p, w in trees.align(params, tree))
  except ValueError:
    same = False
  if not same:
    raise ValueError(
        f'{name} of the state must have the structure and shapes of the '
        f'parameters, {trees.few(trees.paths(params))}, got '
        f'{trees.few(trees.paths(tree))}. Give the parameters and the other '
        'arguments of the run that saved the state.')
  return tree


def chains(fn: Callable[..., Any], params: ArrayTree, batches: Sequence[Batch],
           kernels: Collection[str], outputs: bool = False,
           leave: str = '') -> list[segments.Chain]:
  """The chain of each batch; batches of equal shape share one chain.

  Args:
    fn: the function.
    params: its parameters.
    batches: its other arguments.
    kernels: the paths of kernels between which to cut.
    outputs: see `segments.chain`.
    leave: see `check_seen`.

  Raises:
    ValueError: if the inputs of a kernel cannot be found, or the order of
      kernels depends on the shape of batches.
  """
  known: dict[Any, segments.Chain] = {}
  found = []
  for batch in batches:
    if (key := shapes(batch)) not in known:
      known[key] = segments.chain(
          fn, params, *batch, kernels=kernels, outputs=outputs)
    found.append(known[key])
  order = [segment.kernels for segment in found[0].segments]
  check_seen(kernels, {leaf.path for some in order for leaf in some}, leave)
  if any([segment.kernels for segment in chain.segments] != order
         for chain in known.values()):
    raise ValueError(
        'The function must read its kernels in the same order for all batches, '
        'but the order depends on their shapes. Give batches of one shape.')
  return found


def check_seen(kernels: Collection[str], seen: Collection[str], leave: str
               ) -> None:
  """Raises or warns if the inputs of some kernels cannot be found.

  Args:
    kernels: the paths of the kernels.
    seen: the paths of those whose inputs are found.
    leave: what happens to other kernels, for a warning; empty if all inputs
      must be found. Some must in any case.
  """
  if unseen := [path for path in kernels if path not in seen]:
    why = (
        f'The inputs of {trees.few(unseen)} cannot be found: the product is '
        'inside of a primitive that is not interpreted, such as pallas_call, '
        'or its other operand is a parameter, or the kernel is cut, joined or '
        'scaled along its inputs before the product.')
    if not leave or not seen:
      raise ValueError(f'{why} Leave them dense: {{regex: None}}.')
    warning.warn(f'{why} {leave}')


class Stage(NamedTuple):
  """Kernels that are pruned together.

  Attributes:
    kernels: the kernels, or layers of kernels.
    look: a function from the parameters to the statistics of their inputs.
    go_on: a function that advances the data of all batches through the pruned
      kernels.
  """
  kernels: tuple[Leaf, ...]
  look: Callable[[ArrayTree], dict[Leaf, Statistic]]
  go_on: Callable[[ArrayTree], None] = lambda params: None


class Data:
  """The data of all batches, at some cut of the function."""

  def __init__(self, fn: Callable[..., Any], params: ArrayTree,
               batches: Sequence[Batch],
               weights: Callable[..., jax.Array] | None, kind: str,
               leave: str = ''):
    self._fn, self._params, self._batches = fn, params, batches
    self._weights = [None if weights is None else weights_of(weights, batch)
                     for batch in batches]
    self._kind = kind
    self._leave = leave  # What happens to kernels with unknown inputs.

  def alone(self, tasks: Collection[str]) -> list[Stage]:
    """A stage for each kernel, without statistics."""
    return [Stage((Leaf(path),), lambda params: {}) for path in tasks]

  def at_once(self, tasks: Collection[str]) -> list[Stage]:
    """One stage with statistics of the dense model."""
    @jax.jit
    def one(params, batch, weights):
      return taps.run(self._fn, params, *batch, tap=_statistics.tap(
          self._kind, weights, tasks))

    def look(params):
      found = _sum(one(params, *each) for each in zip(
          self._batches, self._weights))
      return {Leaf(path): x for path, x in found.items()}
    seen = jax.eval_shape(
        one, self._params, self._batches[0], self._weights[0])
    check_seen(tasks, seen, self._leave)
    return [Stage(tuple(Leaf(path) for path in tasks if path in seen), look)]

  def in_turn(self, tasks: Collection[str]) -> list[Stage]:
    """Stages from cut to cut of the function."""
    mine = chains(self._fn, self._params, self._batches, tasks,
                  leave=self._leave)
    _check_norms(mine[0])
    order = [segment.kernels for segment in mine[0].segments]
    data = [chain.start(*batch) for chain, batch in zip(mine, self._batches)]

    def look(number, params):
      leaves = jax.tree.leaves(params)

      def one(chain, data, weights):
        segment = chain.segments[number]
        values = chain.values(segment.measured_reads, leaves, data)
        wanted = tuple(n for n, leaf in enumerate(segment.leaves)
                       if leaf in segment.kernels)
        found = _measure(
            segment.measured, values, weights, self._kind, wanted)
        return {segment.leaves[n]: x for n, x in found.items()}
      return _sum(map(one, mine, data, self._weights))

    def go_on(number, params):
      leaves = jax.tree.leaves(params)
      for i, chain in enumerate(mine):
        segment = chain.segments[number]
        if segment.gives:
          data[i] = dict(zip(segment.gives, run(segment.rest, chain.values(
              segment.reads, leaves, data[i]))))
    return [Stage(kernels, functools.partial(look, number),
                   functools.partial(go_on, number))
            for number, kernels in enumerate(order)]


def _check_norms(chain: segments.Chain):
  """Warns if averages of the dense model normalise what pruned kernels give."""
  *earlier, last = chain.segments
  reads = {i for segment in earlier for i in segment.reads}
  reads |= {*last.measured_reads}
  reads -= {*chain.segments[0].measured_reads}  # Before the first kernel.
  known = [leaf for leaf, _ in filter(None, map(chain.leaf, reads))]
  found = sorted({leaf.path for leaf in known
                  if re.fullmatch(STATISTICS, leaf.path)})
  if found:
    warning.warn(
        f'fn normalises by running averages, {trees.few(found)}. They are '
        'those of the dense weights, and fit the outputs of pruned kernels '
        'worse from layer to layer, so that masks and weights are chosen for '
        'inputs which the model will not have. Give a function whose batch '
        'norms use the statistics of the batch, as in training (train=True), '
        'and compute new averages afterwards. sequential=False reads the '
        'inputs of the dense weights.')


def _sum(each: Iterable[Any]) -> Any:
  return functools.reduce(functools.partial(jax.tree.map, jnp.add), each)


@functools.partial(jax.jit, static_argnums=0)
def run(program: segments.Program, values: Sequence[jax.Array]
        ) -> list[jax.Array]:
  """The results of a program; equal programs are compiled once."""
  return program.run(values)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _measure(program: segments.Program, values: Sequence[jax.Array],
             weights: jax.Array | None, kind: str, wanted: tuple[int, ...]
             ) -> dict[int, Statistic]:
  return program.tapped(values, _statistics.tap(kind, weights, wanted))
