"""A function as a chain of segments, between which kernels can be changed.

`chain` cuts a function before the kernels that read outputs of earlier kernels.
A segment is a pure function from the parameters that it reads (or their layers)
and the data at the cut before it, to the data at the cut after it. So kernels
can be changed one after the other, and nothing is computed twice. Each layer of
a `scan` has its own segments, and equal segments share one program.
"""

from typing import Any, Callable, Collection, NamedTuple, Sequence

import numpy as np

from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _lines
from jaxsparse.graph._known import DATA
from jaxsparse.graph._known import Tag
from jaxsparse.graph._lines import Line
from jaxsparse.graph._lines import Traced
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
    start: from the inputs to the data before the first segment.
    values: the arrays that a program takes, see `Traced.values`.
  """

  def __init__(self, traced: Traced, outputs: bool):
    self.names, self._line = traced.names, traced.line
    self.start, self.values = traced.start, traced.values
    self.segments = _segments(traced, traced.returned if outputs else ())

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


def chain(fn: Callable[..., Any], params: ArrayTree, *inputs: Any,
          kernels: Collection[str], outputs: bool = False) -> Chain:
  """Cuts a function between its kernels.

  Args:
    fn: any function that JAX can trace.
    params: the first argument of the function.
    *inputs: the others.
    kernels: paths of those between which to cut. A kernel of which no product
      with data is seen is in no segment.
    outputs: whether the last segment gives what the function returns, of data,
      or nothing, as no more kernels come after it.
  """
  return Chain(_lines.traced(fn, params, *inputs, kernels=kernels), outputs)


def program(traced: Traced, gives: Sequence[int]
            ) -> tuple[Program, tuple[int, ...]]:
  """The program that gives arrays of data, and numbers of what it takes."""
  made = dict.fromkeys((
      i for step in traced.line.data_steps() for i in step.outs), 0)
  made |= dict.fromkeys(traced.inputs, -1)
  steps, reads = _program(traced, made, traced.line.data_steps(), gives)
  return Program(steps, reads, gives, []), reads


def _segments(traced: Traced, outputs: Sequence[int]) -> list[Segment]:
  line, inputs = traced.line, traced.inputs
  lost = {leaf.path for leaf in line.lost}
  steps = [step._replace(seen=tuple(
      leaf for leaf in step.seen if leaf.path not in lost))
           for step in line.data_steps()]
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
    before, rest = (_program(traced, made, steps[start:to], give)
                    for to, give in ((last + 1, ()), (cut, gives)))
    leaves = _leaves(line, (*before[1], *rest[1]))
    found.append(Segment(
        kernels, _of(line, *before, (), leaves),
        _of(line, *rest, gives, leaves), leaves, before[1], rest[1], gives))
    start = cut
  return found


def _stages(steps: Sequence[Step]) -> list[tuple[tuple[Leaf, ...], int, int]]:
  """Groups of independent kernels, each with its last and first step.

  No kernel of a group reads the results of another one. If a kernel is used
  again later, all kernels in between join its group.
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


def _program(traced: Traced, made: dict[int, int], steps: Sequence[Step],
             gives: Sequence[int]) -> tuple[list[Step], tuple[int, ...]]:
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
    if i in made or i in traced.line.slices or i not in traced.makers:
      reads[i] = None
      return
    step = traced.makers[i]
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
