"""Where what stacked units give, such as experts, is summed with weights.

Experts have kernels of their own, stacked along one axis. What they give goes
through products with a router's weights, sums, gathers and the like, which are
linear, until no axis tells experts apart any more. `find` finds that part of a
function for the layers of several stacks; run with the outputs of one expert
alone, it gives what that expert adds to the layer's output, and its derivative
by these outputs has the router's weight.
"""

import math
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _arrays
from jaxsparse.graph import _lines
from jaxsparse.graph import primitives
from jaxsparse.graph import registry
from jaxsparse.graph import segments
from jaxsparse.graph._known import DATA
from jaxsparse.graph._known import Tag
from jaxsparse.graph._lines import Line
from jaxsparse.graph._programs import Leaf
from jaxsparse.graph._programs import Program
from jaxsparse.graph._programs import Step


class Stack(NamedTuple):
  """Parameters with units stacked along an axis.

  Attributes:
    axes: by path which axis that is.
    size: how many units there are.
  """
  axes: Mapping[str, int]
  size: int


class Lost(ValueError):
  """What units give is not followed to where it is summed."""


class Given(NamedTuple):
  """What one unit gives to each token.

  Attributes:
    added: what it adds to the layer's output, of the shape of that output.
    weights: the derivative of that by what the unit gives, summed over the
      unit's features.
    features: axes of both that are features, not tokens.
  """
  added: jax.Array
  weights: jax.Array
  features: tuple[int, ...]


class Layer(NamedTuple):
  """A layer of stacked units.

  Attributes:
    name: of the stack.
    path: of one of its kernels.
    index: which layer of the parameters it is, as `Leaf.index` says.
    seed: number of the array that has what each unit gives.
    axis: along which it has units.
    program: from that array, and others, to the layer's output.
    reads: numbers of the others.
    features: axes of the output that are features.
  """
  name: str
  path: str
  index: tuple[tuple[int, int], ...]
  seed: int
  axis: int
  program: Program
  reads: tuple[int, ...]
  features: tuple[int, ...]


class Layers:
  """The layers of a function that `find` found.

  Attributes:
    layers: in turn.
  """

  def __init__(self, traced: _lines.Traced, layers: list[Layer]):
    self.layers = layers
    self._traced = traced
    self._gives = [*dict.fromkeys(
        i for layer in layers for i in (layer.seed, *layer.reads))]
    self._program, self._reads = segments.program(traced, self._gives)

  def run(self, params: ArrayTree, *inputs: Any,
          look: Callable[[Given], Any]) -> list[Any]:
    """For each layer what `look` returns, stacked over units."""
    values = dict(zip(self._gives, self._program.run(
        self._traced.values(self._reads, jax.tree.leaves(params),
                            self._traced.start(*inputs)))))

    def units(layer):
      seed, size = values[layer.seed], values[layer.seed].shape[layer.axis]
      others = [values[i] for i in layer.reads]

      def one(j):
        shape = [1] * seed.ndim
        shape[layer.axis] = size
        mine = jnp.broadcast_to(
            (jnp.arange(size) == j).reshape(shape), seed.shape)
        added, weights = jax.jvp(
            lambda seed: layer.program.run([seed, *others])[0],
            [jnp.where(mine, seed, 0)], [mine.astype(seed.dtype)])
        return look(Given(added, weights, layer.features))
      return lax.map(one, jnp.arange(size))
    return [*map(units, self.layers)]


def find(fn: Callable[..., Any], params: ArrayTree, *inputs: Any,
         stacks: Mapping[str, Stack]) -> Layers:
  """Finds where what stacked units give is summed.

  Args:
    fn: any function that JAX can trace.
    params: its first argument.
    *inputs: the others.
    stacks: by name parameters with units.

  Raises:
    Lost: if some are not followed.
  """
  kernels = {path for stack in stacks.values() for path in stack.axes}
  traced = _lines.traced(fn, params, *inputs, kernels=kernels, flat=True)
  line, layers = traced.line, []
  steps = line.data_steps()
  for name, stack in stacks.items():
    leaves = {found[1].path.index: found[1].path for step in steps
              if (found := _kernel(line, stack, step))}
    if not leaves:
      raise Lost(
          f'no product of {[*stack.axes][:3]} with data is seen that has the '
          f'{stack.size} units of {name!r} apart')
    layers += [_Follower(traced, name, stack, leaf).layer(steps)
               for leaf in leaves.values()]
  return Layers(traced, layers)


def _kernel(line: Line, stack: Stack, step: Step) -> tuple[int, Tag] | None:
  """Which operand is a kernel that stacks units, and its tag.

  A router is none, whose products have no other axis than that of units.
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
  """The axis of an array made of a parameter that has units."""
  axis = stack.axes.get(tag.path.path)
  row = ((axis,),)
  return tag.keys.index(row) if axis is not None and row in tag.keys else None


# Of axes of arrays that units gave: units, their features, or both in one.
# Tokens and all else have no label.
_UNITS, _FEATURES, _MIXED = 'units', 'features', 'mixed'
_Labels = tuple[str | None, ...]

# What is linear in its first operand, whatever else it takes.
_LINEAR = {'broadcast_in_dim', 'convert_element_type', 'copy', 'copy_p',
           'dynamic_slice', 'gather', 'name', 'neg', 'pvary', 'reduce_sum',
           'reshape', 'reshard', 'rev', 'sharding_constraint', 'slice', 'split',
           'squeeze', 'transpose'}
# What is linear in all operands together.
_SUMS = {'add', 'add_any', 'concatenate', 'sub', 'dynamic_update_slice'}
# Operands and results have the same axes, of other sizes.
_SAME_RANK = {'concatenate', 'dynamic_slice', 'dynamic_update_slice', 'pad',
              'slice', 'split'}


class _Follower:
  """Follows what the units of one layer give.

  Attributes:
    labels: of the axes of all arrays that depend on units.
    linear: numbers of those that are linear in the seed.
  """

  def __init__(self, traced: _lines.Traced, name: str, stack: Stack,
               leaf: Leaf):
    self._traced, self._line = traced, traced.line
    self._name, self._stack, self._leaf = name, stack, leaf
    self.labels: dict[int, _Labels] = {}
    self.linear: set[int] = set()
    self._seed = self._cut = -1
    self._steps: list[Step] = []

  def layer(self, steps: Sequence[Step]) -> Layer:
    """The layer, of all steps of the function that compute data."""
    last = {i: n for n, step in enumerate(steps) for i in step.arrays()}
    last |= dict.fromkeys(self._traced.returned, len(steps))
    for n, step in enumerate(steps):
      if not self._goes_on(step):
        break
      alive = [i for i in self.linear if last.get(i, -1) > n]
      if len(alive) == 1:
        self._cut = alive[0]
    labels = self.labels.get(self._cut, (_UNITS,))
    if {_UNITS, _MIXED} & {*labels}:
      raise self._lost('are not summed with weights after them')
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

  def _goes_on(self, step: Step) -> bool:
    """Takes a step; whether the layer's output is still ahead."""
    found = _kernel(self._line, self._stack, step)
    is_product = bool(found and found[1].path.index == self._leaf.index)
    mine = [i for i in step.arrays() if i in self.labels]
    if not mine and not is_product:
      return True
    labels = self._labelled(step, found if is_product else None)
    if self._is_linear(step, found if is_product else None):
      self.linear.update(step.outs)
      self._steps.append(step)
    elif all(_UNITS in row for row in labels):
      # All that tells units apart is what they give.
      self.linear, self._steps = {*step.outs}, []
      self._seed, self._cut = step.outs[0], -1
      if len(step.outs) > 1:
        raise self._lost(f'goes through {step.eqn.primitive.name}')
    elif any(i in self.linear for i in mine):
      return False
    elif any(_MIXED in row or _UNITS in row
             for row in (self.labels[i] for i in mine)):
      raise self._lost(
          'is added up in several ways, one of them by '
          f'{step.eqn.primitive.name}')
    self.labels |= zip(step.outs, labels)
    return True

  def _is_linear(self, step: Step, kernel: tuple[int, Tag] | None) -> bool:
    """Whether a step is linear in the seed, with weights of others."""
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
      # Of one product over units and over what is within them.
      unit, contracted = _unit(self._stack, kernel[1]), (
          step.eqn.params['dimension_numbers'][0])
      return unit in contracted[kernel[0]]
    if name in ('mul', 'dot_general'):
      return not isinstance(self._tag(ins[is_linear.index(False)]), Tag)
    return is_linear[0] and (name in _LINEAR or name == 'div' and not isinstance(
        self._tag(ins[1]), Tag))

  def _tag(self, i: Any) -> Any:
    return self._line.tags[i] if isinstance(i, int) else None

  def _is_zero(self, i: Any) -> bool:
    """Whether an array is known to be zeros."""
    if not isinstance(i, int):
      return not math.prod(i.aval.shape) or bool((i.val == 0))
    step = self._traced.makers.get(i)
    return step is not None and step.eqn.primitive.name in (
        'broadcast_in_dim', 'convert_element_type') and (
            self._is_zero(step.ins[0]))

  def _labelled(self, step: Step, kernel: tuple[int, Tag] | None
                ) -> list[_Labels]:
    """What the axes of a step's results are."""
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
