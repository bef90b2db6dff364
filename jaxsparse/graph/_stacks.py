"""From the outputs of stacked units, such as experts, to their weighted sum.

`follow` begins at the seed: the last array with an axis of units that a
nonlinear step computes. It goes on through steps that are linear in the seed:
products with data, sums and moves. The output of the layer is the last array
without an axis of units through which all of these steps lead.
"""

import math
from typing import Any, Mapping, NamedTuple, Sequence

from jaxsparse.graph import _arrays
from jaxsparse.graph import primitives
from jaxsparse.graph import registry
from jaxsparse.graph._known import DATA
from jaxsparse.graph._known import Tag
from jaxsparse.graph._lines import Line
from jaxsparse.graph._lines import Traced
from jaxsparse.graph._programs import Leaf
from jaxsparse.graph._programs import Program
from jaxsparse.graph._programs import Step


class Stack(NamedTuple):
  """Parameters with units stacked along an axis.

  Attributes:
    axes: maps the path of each parameter to that axis.
    size: the number of units.
  """
  axes: Mapping[str, int]
  size: int


class Lost(ValueError):
  """The outputs of units cannot be followed to their sum."""


class Layer(NamedTuple):
  """A layer of stacked units.

  Attributes:
    name: the name of the stack.
    path: the path of one of its kernels.
    index: the index of the layer in stacked parameters, see `Leaf.index`.
    seed: the number of the array with the output of each unit.
    axis: the axis of units of that array.
    program: the steps from that array, and others, to the layer's output.
    reads: the numbers of the other arrays.
    features: the axes of the output that are features.
  """
  name: str
  path: str
  index: tuple[tuple[int, int], ...]
  seed: int
  axis: int
  program: Program
  reads: tuple[int, ...]
  features: tuple[int, ...]


def kernel_of(line: Line, stack: Stack, step: Step) -> tuple[int, Tag] | None:
  """The position of the operand that is a kernel of stacked units, and its tag.

  A router is not such a kernel: the only output axis of its product is that of
  units.
  """
  if step.eqn.primitive.name != 'dot_general':
    return None
  for i, number in enumerate(step.ins):
    tag, other = (line.tags[n] if isinstance(n, int) else None
                  for n in (number, step.ins[1 - i]))
    if not isinstance(tag, Tag) or other is not DATA:
      continue
    unit = _unit(stack, tag)
    contracted, batch = step.eqn.params['dimension_numbers']
    if unit is not None and any(
        k != unit and k not in {*contracted[i], *batch[i]}
        for k in range(len(tag.keys))):
      return i, tag
  return None


def _unit(stack: Stack, tag: Tag) -> int | None:
  """The axis of units in an array that is computed from a parameter."""
  axis = stack.axes.get(tag.path.path)
  row = ((axis,),)
  return tag.keys.index(row) if axis is not None and row in tag.keys else None


# Labels of axes: units, features of their outputs, or both joined in one axis.
# Tokens and other axes have no label.
_UNITS, _FEATURES, _MIXED = 'units', 'features', 'mixed'
_Labels = tuple[str | None, ...]

# These primitives are linear in their first operand.
_LINEAR = {'broadcast_in_dim', 'convert_element_type', 'copy', 'copy_p',
           'dynamic_slice', 'gather', 'name', 'neg', 'pvary', 'reduce_sum',
           'reshape', 'reshard', 'rev', 'sharding_constraint', 'slice', 'split',
           'squeeze', 'transpose'}
# These are linear in all operands together.
_SUMS = {'add', 'add_any', 'concatenate', 'sub', 'dynamic_update_slice'}
# Operands and results have the same axes, of other sizes.
_SAME_RANK = {'concatenate', 'dynamic_slice', 'dynamic_update_slice', 'pad',
              'slice', 'split'}


def follow(traced: Traced, name: str, stack: Stack, leaf: Leaf,
           steps: Sequence[Step]) -> Layer:
  """The layer of a kernel.

  Args:
    traced: the function.
    name: the name of the stack.
    stack: the stack.
    leaf: one of its kernels, or a layer of it.
    steps: all steps whose results depend on inputs.

  Raises:
    Lost: if the outputs of units cannot be followed to their sum.
  """
  return _Follower(traced, name, stack, leaf).layer(steps)


class _Follower:
  """Follows the outputs of the units of one layer.

  Attributes:
    labels: the labels of the axes of all arrays that depend on units.
    linear: the numbers of the arrays that are linear in the seed.
  """

  def __init__(self, traced: Traced, name: str, stack: Stack,
               leaf: Leaf):
    self._traced, self._line = traced, traced.line
    self._name, self._stack, self._leaf = name, stack, leaf
    self.labels: dict[int, _Labels] = {}
    self.linear: set[int] = set()
    self._seed = self._cut = -1
    self._steps: list[Step] = []
    self._is_weighed = False  # Whether other data has multiplied the seed.

  def layer(self, steps: Sequence[Step]) -> Layer:
    """The layer, found among all steps whose results depend on inputs."""
    last = {i: n for n, step in enumerate(steps) for i in step.arrays()}
    last |= dict.fromkeys(self._traced.returned, len(steps))
    for n, step in enumerate(steps):
      if not self._goes_on(step, {i for i in self.labels
                                  if last.get(i, -1) > n}):
        break
      alive = [i for i in self.linear if last.get(i, -1) > n]
      if len(alive) == 1:
        self._cut = alive[0]
    labels = self.labels.get(self._cut, (_UNITS,))
    if {_UNITS, _MIXED} & {*labels}:
      raise self._lost('is not summed with weights before something else')
    done = {self._seed}
    mine = []
    for step in self._steps:
      mine.append(step)
      done.update(step.outs)
      if self._cut in step.outs:
        break
    reads = tuple(dict.fromkeys(
        i for step in mine for i in step.arrays() if i not in done))
    return Layer(
        self._name, *self._leaf, self._seed,
        self.labels[self._seed].index(_UNITS),
        Program(mine, [self._seed, *reads], [self._cut], []), reads,
        tuple(k for k, label in enumerate(labels) if label == _FEATURES))

  def _lost(self, why: str) -> Lost:
    where = ''.join(f'[{k}]' for _, k in self._leaf.index)
    return Lost(f'what the units of {self._name!r}{where} give {why}')

  def _goes_on(self, step: Step, alive: set[int]) -> bool:
    """Takes a step, and returns whether the layer's output comes later.

    Args:
      step: the step.
      alive: the numbers of arrays that depend on units and are used later.
    """
    found = kernel_of(self._line, self._stack, step)
    is_product = bool(found and found[1].path.index == self._leaf.index)
    mine = [i for i in step.arrays() if i in self.labels]
    if not mine and not is_product:
      return True
    labels = self._labelled(step, found if is_product else None)
    if self._is_linear(step, found if is_product else None):
      self.linear.update(step.outs)
      self._steps.append(step)
      self._is_weighed |= step.eqn.primitive.name in (
          'mul', 'div', 'dot_general') and any(
              self._tag(i) is DATA and i not in self.labels for i in step.ins)
    elif all(_UNITS in row for row in labels):
      # A nonlinear step on all outputs of units: its result is the new seed.
      if any(_UNITS not in self.labels[i] for i in alive):
        raise self._lost(self._twice(step))
      if self._is_weighed:
        raise self._lost(
            'is multiplied with other data, as with weights of a router, and '
            f'only then goes through {step.eqn.primitive.name}')
      self.linear, self._steps = {*step.outs}, []
      self._seed, self._cut = step.outs[0], -1
      if len(step.outs) > 1:
        raise self._lost(f'goes through {step.eqn.primitive.name}')
    elif any(i in self.linear for i in mine):
      return False
    elif any(_MIXED in row or _UNITS in row
             for row in (self.labels[i] for i in mine)):
      raise self._lost(self._twice(step))
    self.labels |= zip(step.outs, labels)
    return True

  def _twice(self, step: Step) -> str:
    return f'is used in two ways, in one of them by {step.eqn.primitive.name}'

  def _is_linear(self, step: Step, kernel: tuple[int, Tag] | None) -> bool:
    """Whether a step is linear in the seed, with factors that are not of it."""
    name, ins = step.eqn.primitive.name, step.ins
    is_linear = [isinstance(i, int) and i in self.linear for i in ins]
    if not any(is_linear) or any(
        i in self.labels and not linear for i, linear in zip(ins, is_linear)
        if isinstance(i, int)):
      return False
    if name in _SUMS:
      count = 2 if name == 'dynamic_update_slice' else len(ins)
      return all(linear or self._is_zero(i)
                 for i, linear in zip(ins[:count], is_linear))
    if name in ('select_n', 'scatter-add', 'pad'):
      at = {'select_n': range(1, len(ins)), 'scatter-add': (0, 2), 'pad': (0, 1)
            }[name]
      return all(is_linear[k] or self._is_zero(ins[k]) for k in at) and not any(
          linear for k, linear in enumerate(is_linear) if k not in at)
    if is_linear.count(True) > 1:
      return False
    if name == 'dot_general' and kernel:
      # A kernel may follow the weighting, or sum over units itself.
      unit, contracted = _unit(self._stack, kernel[1]), (
          step.eqn.params['dimension_numbers'][0])
      return self._is_weighed or unit in contracted[kernel[0]]
    if name in ('mul', 'div', 'dot_general'):
      other = self._tag(ins[is_linear.index(False)])
      return not isinstance(other, Tag) and (name != 'div' or is_linear[0])
    return is_linear[0] and name in _LINEAR

  def _tag(self, i: Any) -> Any:
    return self._line.tags[i] if isinstance(i, int) else None

  def _is_zero(self, i: Any) -> bool:
    """Whether all elements of an array are known to be zero."""
    if not isinstance(i, int):
      return not math.prod(i.aval.shape) or bool(i.val == 0)
    step = self._traced.makers.get(i)
    return step is not None and step.eqn.primitive.name in (
        'broadcast_in_dim', 'convert_element_type') and (
            self._is_zero(step.ins[0]))

  def _labelled(self, step: Step, kernel: tuple[int, Tag] | None
                ) -> list[_Labels]:
    """The labels of the axes of a step's results."""
    eqn, name = step.eqn, step.eqn.primitive.name
    given: list[_Labels] = []
    for n, (i, v) in enumerate(zip(step.ins, eqn.invars)):
      rank = len(v.aval.shape)
      if kernel and n == kernel[0]:
        unit = _unit(self._stack, kernel[1])
        given.append(tuple(
            _UNITS if k == unit else _FEATURES for k in range(rank)))
      else:
        given.append(self.labels.get(i, (None,) * rank)
                     if isinstance(i, int) else (None,) * rank)
    outs = [v.aval.shape for v in eqn.outvars]
    if name == 'reshape':
      return [_reshaped(given[0], eqn.invars[0].aval.shape, outs[0])]
    if name in _SAME_RANK:
      return [tuple(_first(row[k] for row, v in zip(given, eqn.invars)
                           if len(v.aval.shape) == len(shape))
                    if shape[k] > 1 else None
                    for k in range(len(shape))) for shape in outs]
    wiring = registry.wiring(eqn)
    if wiring.kind == 'other' and name != 'scatter-add':
      return [(_MIXED,) * len(shape) for shape in outs]
    return [tuple(None if isinstance(wires, primitives.New) else
                  _first(given[i][k] for i, k in wires) for wires in row)
            for row in wiring.outputs]


def _first(labels: Any) -> str | None:
  return next(filter(None, labels), None)


def _reshaped(labels: _Labels, old: tuple[int, ...], new: tuple[int, ...]
              ) -> _Labels:
  found: list[str | None] = [None] * len(new)
  for olds, news in _arrays.alike(old, new) if 0 not in new else ():
    there = {labels[k] for k in olds if old[k] > 1}
    label = there.pop() if len(there) == 1 else _MIXED if there else None
    wide = [k for k in news if new[k] > 1]
    for k in wide:
      found[k] = _MIXED if label == _UNITS and len(wide) > 1 else label
  return tuple(found)
