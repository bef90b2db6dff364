"""What a case of the zoo is, and how one is written down."""

import contextlib
import functools
import math
import re
from typing import Any, Callable, NamedTuple
import zlib

from flax import nnx
import jax
import numpy as np

from jaxsparse._utils import trees

Axis = tuple[str, int]  # The path of a parameter and one of its axes.

# Contracted axes and output axes of kernels in the usual layouts.
DENSE = (0,), (1,)
CONV = (0, 1, 2), (3,)
TORCH = (1,), (0,)
WHOLE = None

CASES: list[Callable[[], 'Case']] = []


class Case(NamedTuple):
  """A model and what is true of it.

  Attributes:
    name: of the function that builds it.
    fn: `fn(params, *inputs)` returns one array.
    params: a tree of random arrays.
    inputs: a tuple of arrays.
    free: sets of axes that index the same units. Permuting these leaves `fn`
      unchanged.
    fixed: axes that no permutation of units may touch. Axes of one entry are in
      neither set.
    kernels: contracted and output axes of every parameter that data are
      multiplied with, and that is used in one way.
    index: for each set in `free`, the positions of its units on every axis,
      `[units, positions]`. Where only parts of an axis or some of the factors
      that it is made of are units, this tells which.
    stuck: like `index`, for sets that look free and are not.
    either: axes of which some part could be permuted, or only with others than
      those that meet them: to say so or to call them fixed are both right.
  """
  name: str
  fn: Callable[..., jax.Array]
  params: Any
  inputs: tuple[jax.Array, ...]
  free: list[frozenset[Axis]]
  fixed: frozenset[Axis]
  kernels: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
  index: list[dict[Axis, np.ndarray]]
  stuck: list[dict[Axis, np.ndarray]]
  either: frozenset[Axis]


def case(build: Callable[[], Case]) -> Callable[[], Case]:
  """Lists a function that builds a case, and lets it run only once."""
  @functools.cache
  @functools.wraps(build)
  def built():
    return build()._replace(name=build.__name__)
  CASES.append(built)
  return built


def make(fn, params, *inputs, free=(), kernels=(), stuck=(), either='') -> Case:
  """Returns a case without a name; what is in no free set is fixed.

  Args:
    fn: the model.
    params: its parameters.
    *inputs: its inputs.
    free: each entry is a string `'path:axis path:axis'` of whole axes, or maps
      such strings to positions. Paths are regular expressions.
    kernels: maps regular expressions to contracted and output axes.
    stuck: as `free`.
    either: as the strings of `free`.
  """
  shapes = {path: w.shape for path, w in trees.align(params)}
  index = [_positions(shapes, tie) for tie in free]
  either = frozenset(_positions(shapes, either))
  units = {(path, axis) for path, shape in shapes.items()
           for axis, size in enumerate(shape) if size > 1}
  return Case(
      name='', fn=fn, params=params, inputs=inputs,
      free=[frozenset(tie) for tie in index],
      fixed=frozenset(units - either.union(*index)),
      kernels={path: axes for regex, axes in dict(kernels).items()
               for path in _matches(shapes, regex)},
      index=index, stuck=[_positions(shapes, tie) for tie in stuck],
      either=either)


def _matches(shapes, regex):
  found = [path for path in shapes if re.fullmatch(regex, path)]
  assert found, f'{regex} matches none of {list(shapes)}'
  return found


def _positions(shapes, tie):
  """Maps every axis of a tie to its units' positions."""
  found = {}
  tie = {tie: WHOLE} if isinstance(tie, str) else tie
  for words, positions in tie.items():
    for word in words.split():
      regex, axis = word.rsplit(':', 1)
      for path in _matches(shapes, regex):
        size = shapes[path][int(axis)]
        whole = np.arange(size)[:, None]
        found[path, int(axis) % len(shapes[path])] = (
            whole if positions is WHOLE else positions)
  return found


def grid(*shape: int, start: int = 0) -> np.ndarray:
  """Positions on an axis that is made of factors, major first."""
  return start + np.arange(math.prod(shape)).reshape(shape)


def units(positions: np.ndarray, axis: int) -> np.ndarray:
  """`[units, positions]` if one factor of an axis counts the units."""
  return np.moveaxis(positions, axis, 0).reshape(positions.shape[axis], -1)


def part(start: int, size: int) -> np.ndarray:
  """`[size, 1]`: neighbours on a longer axis are the units."""
  return grid(size, 1, start=start)


def _put(x: np.ndarray, dtype: Any) -> jax.Array:
  """An array of jax; `jnp.asarray` would compile a program for each shape."""
  return jax.device_put(x.astype(dtype))


def weights(shapes: Any) -> Any:
  """Random parameters for a tree of shapes or abstract arrays."""
  is_shape = lambda x: isinstance(x, tuple) and all(
      isinstance(size, int) for size in x)

  def draw(path, like):
    shape = like if is_shape(like) else like.shape
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    if path.endswith(('scale', 'var')):
      w = rng.uniform(0.5, 1.5, shape)
    else:
      fan_in = math.prod(shape[:-1])
      w = rng.normal(size=shape) * max(fan_in**-0.5, 0.3)
    return _put(w, np.float32)
  leaves, structure = jax.tree.flatten(shapes, is_leaf=is_shape)
  names = trees.paths(structure.unflatten([0] * len(leaves)))
  return structure.unflatten(map(draw, names, leaves))


def data(*shape: int) -> jax.Array:
  rng = np.random.default_rng(shape)
  return _put(rng.normal(size=shape), np.float32)


def tokens(count: int, *shape: int) -> jax.Array:
  rng = np.random.default_rng(shape)
  return _put(rng.integers(0, count, shape), np.int32)


@contextlib.contextmanager
def _standard():
  """What flax needs: its biases and its pooling are not strict."""
  with (jax.numpy_rank_promotion('allow'),
        jax.numpy_dtype_promotion('standard')):
    yield


def linen(module, *inputs) -> tuple[Callable[..., jax.Array], Any]:
  """Returns `apply` and random variables of a Linen module."""
  def apply(variables, *inputs):
    with _standard():
      return module.apply(variables, *inputs)
  with _standard():
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return apply, weights(variables)


def nnx_module(create) -> tuple[Callable[..., jax.Array], Any]:
  """Returns a function of state and inputs, and a random state.

  Args:
    create: takes random number generators and returns an NNX module.
  """
  graphdef, state = nnx.split(nnx.eval_shape(lambda: create(nnx.Rngs(0))))

  def apply(state, *inputs):
    with _standard():
      return nnx.merge(graphdef, state)(*inputs)
  return apply, weights(state)
