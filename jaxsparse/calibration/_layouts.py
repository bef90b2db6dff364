"""Kernels of any shape, and their patterns, as matrices `[in, out]`."""

import dataclasses
import math
from typing import NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import patterns
from jaxsparse.calibration._statistics import Statistic
from jaxsparse.graph import Kernel
from jaxsparse.patterns import Pattern


class Layout(NamedTuple):
  """The layout of a kernel, or of one of its layers, as a stack of matrices.

  Attributes:
    shape: the shape of the kernel.
    stack: the axes that index separate matrices, such as experts.
    inputs: the contracted axes, in the kernel's order.
    outputs: the other axes.
    rows: the order of the inputs as rows of a matrix, in which members of a
      group are neighbours; `None` if no reordering is needed.
    pattern: the pattern of a matrix.
    groups: the number of groups of a convolution, each with inputs and outputs
      of its own.
  """
  shape: tuple[int, ...]
  stack: tuple[int, ...]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  rows: np.ndarray | None
  pattern: Pattern
  groups: int = 1

  @property
  def stack_sizes(self) -> tuple[int, ...]:
    """The number of matrices along each axis of the stack."""
    return tuple(self.shape[axis] for axis in self.stack)

  def without(self, axes: Sequence[int]) -> 'Layout':
    """The layout of the kernel at one index of some axes of the stack."""
    left = [axis for axis in range(len(self.shape)) if axis not in axes]
    moved = lambda old: tuple(left.index(axis) for axis in old if axis in left)
    return self._replace(
        shape=tuple(self.shape[axis] for axis in left), stack=moved(self.stack),
        inputs=moved(self.inputs), outputs=moved(self.outputs))

  def matrices(self, w: jax.Array) -> jax.Array:
    """The matrices `[*stack, in, out]`, or `[*stack, groups, in, out]`."""
    order = (*self.stack, *self.inputs, *self.outputs)
    m = w.transpose(order).reshape(*self.stack_sizes, self._inputs(), -1)
    if self.rows is not None:
      m = m[..., self.rows, :]
    if self.groups > 1:
      m = m.reshape(*m.shape[:-1], self.groups, -1).swapaxes(-3, -2)
    return m

  def kernel(self, m: jax.Array) -> jax.Array:
    """The inverse of `matrices`."""
    if self.groups > 1:
      m = m.swapaxes(-3, -2).reshape(*self.stack_sizes, self._inputs(), -1)
    if self.rows is not None:
      m = m[..., np.argsort(self.rows), :]
    order = (*self.stack, *self.inputs, *self.outputs)
    return m.reshape([self.shape[axis] for axis in order]).transpose(
        np.argsort(order))

  def statistic(self, x: jax.Array, moment: bool) -> jax.Array:
    """A sum `[..., in]`, or moments `[..., in, in]`, in the order of the rows.
    """
    if self.rows is None:
      return x
    x = x[..., self.rows]
    return x[..., self.rows, :] if moment else x

  def means(self, statistic: Statistic) -> jax.Array:
    """The mean squares of inputs, in the axes of the kernel.

    Output axes have size 1, or the size in the kernel if groups of a
    convolution divide them.

    Args:
      statistic: a statistic of kind 'norm'.
    """
    x = statistic.sum / jnp.maximum(statistic.count, 1)[..., None]
    sizes = [self.shape[axis] for axis in self.inputs]
    if self.groups > 1:
      outs = [self.shape[axis] for axis in self.outputs]
      x = jnp.repeat(
          x.swapaxes(-2, -1), math.prod(outs) // self.groups, -1)
      x = x.reshape(*self.stack_sizes, *sizes, *outs)
    else:
      x = x.reshape(*x.shape[:-1], *sizes, *[1] * len(self.outputs))
    return x.transpose(np.argsort((*self.stack, *self.inputs, *self.outputs)))

  def _inputs(self) -> int:
    return math.prod(self.shape[axis] for axis in self.inputs)


def layout(kernel: Kernel, pattern: Pattern) -> Layout:
  """The layout of a kernel with a pattern that is written for its axes.

  Raises:
    ValueError: if the pattern has units or groups that span outputs or layers,
      or if the kernel cannot be written as matrices.
  """
  where = f'a kernel with contraction axes {kernel.contracted}'
  if not kernel.contracted:
    raise ValueError(
        f'the parameter is not contracted with data: {kernel.why}. Leave it '
        f'dense: {{{kernel.path!r}: None}}.')
  if kernel.why and 'contracted' in kernel.why:
    raise ValueError(
        f'{where} is {kernel.why}, so its products have different inputs. '
        f'Leave it dense: {{{kernel.path!r}: None}}.')
  if {*kernel.contracted} & {*kernel.outputs}:
    raise ValueError(
        f'{where} has different inputs for parts of an axis, like depthwise '
        'kernels [..., channels, multiplier] that are reshaped to [..., 1, '
        f'outputs]. Leave it dense: {{{kernel.path!r}: None}}.')
  shape, stack = kernel.shape, kernel.stacked
  inputs = tuple(sorted((*kernel.contracted, *kernel.window)))
  others = [axis for axis in range(len(shape)) if axis not in inputs]
  unit, group = pattern.unit.tile(shape, f'unit of {pattern}'), (
      pattern.group_tile(shape))
  grid = pattern.grid(shape)
  whole = all(group[axis] == grid[axis] for axis in range(len(shape))
              if axis not in stack)
  spans = any(unit[axis] > 1 or group[axis] > 1 and not whole
              for axis in others)
  if patterns.is_transposable(pattern) or spans:
    raise ValueError(
        f'{where}: methods with statistics of inputs need patterns along these '
        f'axes, but {pattern} has units or groups that span others of the axes '
        f'{tuple(range(len(shape)))}. Write e.g. unstructured(), or '
        'nm(2, 4, axis=...) along a contraction axis.')
  rows, units, members = _rows(
      [shape[axis] for axis in inputs], [unit[axis] for axis in inputs],
      [group[axis] for axis in inputs])
  flat = dataclasses.replace(
      pattern, unit=patterns.Tiling(((-2, units),), rest=1),
      group=patterns.Tiling() if whole else patterns.Tiling(
          ((-2, members),), rest=1))
  return Layout(shape, stack, inputs,
                tuple(axis for axis in others if axis not in stack), rows, flat,
                kernel.groups)


def _rows(sizes: Sequence[int], unit: Sequence[int], group: Sequence[int]
          ) -> tuple[np.ndarray | None, int, int]:
  """An order of inputs in which members of groups and units are neighbours.

  Returns:
    The order, or `None` if no reordering is needed; the number of inputs of a
    unit, and the number of units of a group.
  """
  cut = []
  for n, u, g in zip(sizes, unit, group):
    cut += [n // (u * g), g, u]
  rows = np.arange(math.prod(sizes)).reshape(cut)
  parts = [range(i, len(cut), 3) for i in range(3)]
  rows = rows.transpose([k for part in parts for k in part]).reshape(-1)
  is_same = (rows == np.arange(len(rows))).all()
  return None if is_same else rows, math.prod(unit), math.prod(group)
