"""A function as a chain of segments, between which kernels can be changed.

`chain` cuts a function where the next kernels read what earlier ones gave. A
segment is a pure function of arrays: the parameters that it reads, or their
layers, and the data at the cut before it, to the data at the cut after it. So
kernels are changed in turn and nothing is computed twice. Layers of a `scan`
have segments of their own, and segments that compute the same are one program.
"""

from typing import Any, Callable, Collection, Iterable, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _jaxprs
from jaxsparse.graph import slices
from jaxsparse.graph._known import DATA
from jaxsparse.graph._known import Known
from jaxsparse.graph._known import Tag
from jaxsparse.graph._lines import Line
from jaxsparse.graph._programs import Leaf
from jaxsparse.graph._programs import Program
from jaxsparse.graph._programs import Step


class Segment(NamedTuple):
  """A part of a function.

  Attributes:
    kernels: those whose inputs are known here: none reads what others gave.
    measured: from the data before it to the inputs of its kernels, for `tapped`
      alone. Leaves have their number in `leaves`.
    rest: the whole segment, for `run`.
    leaves: whose kernels or other parameters the programs read.
    measured_reads: numbers of the arrays that `measured` takes.
    reads: numbers of the arrays that `rest` takes.
    gives: numbers of the arrays of data after it.
  """
  kernels: tuple[Leaf, ...]
  measured: Program
  rest: Program
  leaves: tuple[Leaf, ...]
  measured_reads: tuple[int, ...]
  reads: tuple[int, ...]
  gives: tuple[int, ...]


class Chain:
  """A function in segments.

  Attributes:
    segments: in turn.
    names: the paths of all parameters.
  """

  def __init__(self, line: Line, names: list[str], inputs: int,
               outputs: Sequence[int]):
    self.names = names
    self._line = line
    self._inputs = range(len(names), len(names) + inputs)
    self._makers = {i: step for step in line.steps for i in step.outs}
    self.segments = _segments(line, self._makers, self._inputs, outputs)

  def start(self, *inputs: Any) -> dict[int, Any]:
    """The data before the first segment."""
    return dict(zip(self._inputs, map(jnp.asarray, jax.tree.leaves(inputs))))

  def is_data(self, i: int) -> bool:
    """Whether the array of a number depends on inputs."""
    return self._line.tags[i] is DATA

  def dtype(self, i: int) -> Any:
    """The dtype of an array."""
    return self._line.dtypes[i]

  def leaf(self, i: int) -> tuple[Leaf, tuple[int, ...]] | None:
    """The leaf that an array may be, and the leaf's axes in its order.

    Values may have been changed on the way to it.
    """
    tag = self._line.tags[i]
    if not isinstance(tag, Tag) or not tag.is_whole:
      return None
    axes = [axis for axis in tag.axes if axis is not None]
    if len(axes) < len(tag.axes):
      return None
    return tag.path, tuple(sorted(axes).index(axis) for axis in axes)

  def values(self, reads: Iterable[int], params: Sequence[Any],
             data: dict[int, Any]) -> list[Any]:
    """The arrays that a program takes.

    Args:
      reads: their numbers.
      params: leaves of the parameters.
      data: arrays of data by their number.
    """
    def value(i):
      if i in data:
        return data[i]
      if i < len(self.names):
        return jnp.asarray(params[i])
      if i in self._line.consts:
        return self._line.consts[i]
      if i in self._line.slices:
        whole, k = self._line.slices[i]
        return slices.take(value(whole), [(0, k)])
      step = self._makers[i]
      results = _jaxprs.run_alone(step.jaxpr, step.eqn, [
          value(j) if isinstance(j, int) else j.val for j in step.ins])
      return results[step.outs.index(i)]
    return [value(i) for i in reads]


def chain(fn: Callable[..., Any], params: ArrayTree, *inputs: Any,
          kernels: Collection[str], outputs: bool = False) -> Chain:
  """Cuts a function between its kernels.

  Args:
    fn: any function that JAX can trace.
    params: its first argument.
    *inputs: the others.
    kernels: paths of those between which to cut. A kernel of which no product
      with data is seen is in no segment.
    outputs: whether the last segment gives what the function returns, of data,
      or nothing, as no more kernels come after it.
  """
  closed, names = _jaxprs.trace(fn, params, *inputs)
  line = Line(kernels)
  returned: list[int] = []

  def read(leaves):
    tags = [Tag.of(Leaf(name), x.ndim) for name, x in zip(names, leaves)]
    results = line.inline(closed, [
        line.add(Known(x, tag)) for x, tag in zip(
            leaves, [*tags, *[DATA] * (len(leaves) - len(tags))])])
    returned.extend(i for i in results if isinstance(i, int)
                    and line.tags[i] is DATA and outputs)
    return 0
  leaves = [jnp.asarray(x) if not isinstance(x, jax.ShapeDtypeStruct) else x
            for x in jax.tree.leaves((params, inputs))]
  jax.eval_shape(read, leaves)
  return Chain(line, names, len(leaves) - len(names), returned)


def _segments(line: Line, makers: dict[int, Step], inputs: Sequence[int],
              outputs: Sequence[int]) -> list[Segment]:
  lost = {leaf.path for leaf in line.lost}
  steps = [step._replace(seen=tuple(
      leaf for leaf in step.seen if leaf.path not in lost))
           for step in line.steps
           if any(line.tags[i] is DATA for i in step.outs)]
  stages = _stages(steps)
  if not stages:
    return []
  end = len(steps) if outputs else stages[-1][1] + 1
  made = {i: n for n, step in enumerate(steps[:end]) for i in step.outs}
  made |= dict.fromkeys(inputs, -1)
  used = {i: n for n, step in enumerate(steps[:end]) for i in step.arrays()
          if i in made} | dict.fromkeys(outputs, end)
  cuts = [*_cuts(line, stages, made, used), end]

  found, start = [], 0
  for (kernels, last, _), cut in zip(stages, cuts):
    gives = tuple(i for i, n in used.items() if made[i] < cut <= n)
    before, rest = (_program(line, makers, made, steps[start:to], give)
                    for to, give in ((last + 1, ()), (cut, gives)))
    leaves = _leaves(line, (*before[1], *rest[1]))
    found.append(Segment(
        kernels, _of(line, *before, (), leaves),
        _of(line, *rest, gives, leaves), leaves, before[1], rest[1], gives))
    start = cut
  return found


def _stages(steps: Sequence[Step]) -> list[tuple[tuple[Leaf, ...], int, int]]:
  """Kernels none of which reads what others gave; their last and first step.

  A kernel that is read again later takes all in between into its stage.
  """
  last = {leaf: n for n, step in enumerate(steps) for leaf in step.seen}
  stages: list[list[Any]] = []
  ends, after = -1, set()
  for n, step in enumerate(steps):
    follows = any(i in after for i in step.arrays())
    if step.seen:
      if not stages or follows and n > ends:
        stages.append([])
        after = set()
      stages[-1].append(n)
      ends = max([ends, *(last[leaf] for leaf in step.seen)])
    if step.seen or follows:
      after.update(step.outs)
  return [(tuple(dict.fromkeys(leaf for n in stage for leaf in steps[n].seen)),
           stage[-1], stage[0]) for stage in stages]


def _cuts(line: Line, stages: Sequence[Any], made: dict[int, int],
          used: dict[int, int]) -> list[int]:
  """Before which step to cut after each stage: where least data is alive."""
  change = np.zeros(max(used.values(), default=0) + 3, np.int64)
  for i, n in used.items():
    change[made[i] + 1] += line.sizes[i]
    change[n + 1] -= line.sizes[i]
  alive = np.cumsum(change)  # Before each step.
  cuts = []
  for (_, end, _), (_, _, start) in zip(stages, stages[1:]):
    places = range(end + 1, start + 1)
    cuts.append(min(places, key=lambda n: (alive[n], -n)))
  return cuts


def _program(line: Line, makers: dict[int, Step], made: dict[int, int],
             steps: Sequence[Step], gives: Sequence[int]
             ) -> tuple[list[Step], tuple[int, ...]]:
  """Steps with those that they need of parameters, and what they all read."""
  # Only what leads to a result, or to a product that is looked at.
  wanted, mine = {*gives}, []
  for step in reversed(steps):
    if wanted & {*step.outs} or (not gives and step.seen):
      mine.append(step)
      wanted.update(step.arrays())
  mine.reverse()
  done = {i for step in mine for i in step.outs}
  before: dict[int, Step] = {}
  reads: dict[int, None] = {}

  def need(i):
    if i in done:
      return
    done.add(i)
    if i in made or i in line.slices or i not in makers:
      reads[i] = None
      return
    step = makers[i]
    for j in step.arrays():
      need(j)
    done.update(step.outs)
    before[id(step)] = step
  for step in mine:
    for i in step.arrays():
      need(i)
  for i in gives:
    need(i)
  return [*before.values(), *mine], tuple(reads)


def _leaves(line: Line, reads: Sequence[int]) -> tuple[Leaf, ...]:
  return tuple(dict.fromkeys(
      line.tags[i].path for i in reads if isinstance(line.tags[i], Tag)))


def _of(line: Line, steps: Sequence[Step], reads: Sequence[int],
        gives: Sequence[int], leaves: Sequence[Leaf]) -> Program:
  """A program whose leaves are numbers, so that it is one for all layers."""
  numbers = {leaf: n for n, leaf in enumerate(leaves)}
  tags = [line.tags[i] for i in reads]
  return Program(steps, reads, gives, [
      tag._replace(path=numbers.get(tag.path, -1))
      if isinstance(tag, Tag) else tag for tag in tags])
