"""Where the optimizer state lies on many devices: beside the weights.

A compiler that is told nothing copies arrays that depend on no weight, such as
the zeros that Adam starts from, to every device. `state_shardings` tells it.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from jax.sharding import Sharding
from jax.sharding import SingleDeviceSharding
import optax

from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.tables import brief
from jaxsparse._utils.typing import ArrayTree

__all__ = ['state_shardings']

@arguments.checked()
def state_shardings(tx: optax.GradientTransformation, params: ArrayTree
                    ) -> ArrayTree:
  """Shardings that place each array of an optimizer state with its weight.

  Masks, moments, accumulated scores and gradients, any array of a weight's
  shape at the weight's place in a tree like the params, get the weight's
  sharding. An array of another shape at that place, such as a factored moment,
  is laid out along the axes that it shares with the weight, if its shape tells
  which axes these are. One that has an entry for each group of weights is laid
  out as the weight, along the axes on which devices hold whole groups.
  Everything else is replicated.

  Args:
    tx: any optax optimizer, `sparsify(...)` and what is around or in it.
    params: arrays on their devices, or `jax.ShapeDtypeStruct`s with shardings;
      on one device, or on a mesh with Auto or Explicit axes.

  Returns:
    A tree like `jax.eval_shape(tx.init, params)`, for the `out_shardings` of
    `jax.jit(tx.init)` and of a train step, and for `jax.device_put`.

  Raises:
    ValueError: if `tx` is no optimizer, a parameter does not say on which
      devices it lies, or two lie on different ones.

  >>> import jax.numpy as jnp
  >>> mesh = jax.make_mesh((1,), ('model',))
  >>> kernel = jax.device_put(
  ...     jnp.ones((4, 8)), NamedSharding(mesh, PartitionSpec(None, 'model')))
  >>> params, tx = {'kernel': kernel}, optax.adam(1e-3)
  >>> opt_state = jax.jit(
  ...     tx.init, out_shardings=state_shardings(tx, params))(params)
  >>> opt_state[0].mu['kernel'].sharding == kernel.sharding
  True
  """
  weights, elsewhere = _weights(params)
  # Without shardings: those of explicit axes would have to fit the mesh that
  # is set here, and shapes do not depend on them.
  state = jax.eval_shape(tx.init, jax.tree.map(
      lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), params))

  def lay(tree: Any) -> Any:
    beside = _weights_beside(tree, weights)
    if beside is None:  # An array that is in no tree like the params.
      return elsewhere
    leaves, structure = _flatten(tree)
    return structure.unflatten([
        x if trees.is_dense(x) else _beside(weight, x.shape, elsewhere)
        for x, weight in zip(leaves, beside)])
  return jax.tree.map(
      lay, state, is_leaf=lambda t: _weights_beside(t, weights) is not None)


class _Weight(NamedTuple):
  """What counts of a parameter here."""
  shape: tuple[int, ...]
  sharding: Sharding


def _flatten(tree: Any) -> tuple[list[Any], jax.tree_util.PyTreeDef]:
  """Leaves and structure, with leaves for what has been left out, too."""
  return jax.tree.flatten(tree, is_leaf=trees.is_dense)


def _weights_beside(tree: Any, weights: Any) -> list[Any] | None:
  """The weight at the place of each leaf, if a tree is like the params.

  A tree is like the params if it has an array at the place of each weight.
  Where a weight, or many weights, are dense or another optimizer's, it may have
  `None` or optax's placeholder.
  """
  leaves, structure = _flatten(tree)
  try:
    beside = structure.flatten_up_to(weights)
  except ValueError:
    return None
  alike = all(trees.is_dense(leaf) or isinstance(weight, _Weight)
              for leaf, weight in zip(leaves, beside))
  return beside if alike else None


def _beside(weight: _Weight, shape: tuple[int, ...], elsewhere: Sharding
            ) -> Sharding:
  """The sharding of an array of this shape at the place of a weight."""
  if shape == weight.shape or not isinstance(weight.sharding, NamedSharding):
    return weight.sharding
  sizes = weight.shape
  spec = (*weight.sharding.spec, *[None] * len(sizes))[:len(sizes)]
  if _is_grid(shape, sizes):
    return NamedSharding(weight.sharding.mesh, PartitionSpec(*(
        part if n % _parts(part, weight.sharding.mesh) == 0 else None
        for n, part in zip(shape, spec))))
  # All ways to name the axes of the array after axes of the weight.
  named = {tuple(spec[i] for i in axes)
           for axes in itertools.combinations(range(len(sizes)), len(shape))
           if tuple(sizes[i] for i in axes) == shape}
  if len(named) != 1:
    return elsewhere
  return NamedSharding(weight.sharding.mesh, PartitionSpec(*named.pop()))


def _is_grid(shape: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
  """Whether an array of a shape has an entry for each group of weights.

  Of two arrays that tile a weight the larger has an entry for each group, and
  the smaller the shape of one.
  """
  return len(shape) == len(sizes) and all(
      n and size % n == 0 for n, size in zip(shape, sizes)) and (
          math.prod(shape)**2 > math.prod(sizes))


def _parts(part: Any, mesh: Any) -> int:
  """In how many parts an entry of a spec cuts an axis."""
  names = part if isinstance(part, tuple) else (part,)
  return math.prod(mesh.shape[name] for name in names if name is not None)


def _weights(params: ArrayTree) -> tuple[Any, Sharding]:
  """Shapes and shardings of the params, and where all else is to lie."""
  rows = [(path, w, _sharding(path, w)) for path, w in trees.align(params)]
  if not rows:
    raise ValueError(
        'There are no parameters, so no devices to lie on, got '
        f'{brief(params)}. Write state_shardings(tx, params).')
  on_mesh = [row for row in rows if isinstance(row[-1], NamedSharding)]
  first, _, sharding = (on_mesh or rows)[0]
  elsewhere = (
      NamedSharding(sharding.mesh, PartitionSpec())
      if isinstance(sharding, NamedSharding) else sharding)
  weights = []
  for path, w, own in rows:
    if not getattr(w, 'committed', True):
      own = elsewhere  # So does `jit` with an array that was put nowhere.
    if own.device_set != elsewhere.device_set:
      raise ValueError(
          f'{path} lies on other devices than {first}: {_names(own)}, not '
          f'{_names(elsewhere)}. Write params = jax.device_put(params, '
          'shardings) with shardings of one mesh.')
    weights.append(_Weight(w.shape, own))
  return jax.tree.structure(params).unflatten(weights), elsewhere


def _sharding(path: str, w: Any) -> Sharding:
  """Where one parameter lies, on devices that exist."""
  if isinstance(w, jax.core.Tracer):
    raise ValueError(
        f'{path} is traced, and says not where it lies. Call '
        'state_shardings(tx, params) outside of jit, and give the result to '
        'jax.jit(tx.init, out_shardings=...).')
  sharding = getattr(w, 'sharding', None)
  if isinstance(sharding, NamedSharding) and isinstance(
      sharding.mesh, AbstractMesh):  # As of `jax.eval_shape`.
    mesh = jax.sharding.get_mesh()
    if mesh.empty or mesh.axis_sizes != sharding.mesh.axis_sizes or (
        mesh.axis_names != sharding.mesh.axis_names):
      raise ValueError(
          f'{path} lies on a mesh without devices, {sharding.mesh}. Write with '
          'jax.set_mesh(mesh): state_shardings(tx, params).')
    return NamedSharding(mesh, sharding.spec)
  if not isinstance(sharding, NamedSharding | SingleDeviceSharding):
    raise ValueError(
        f'{path} must say by a NamedSharding where it lies, got '
        f'{type(sharding or w).__name__}. Write params = jax.device_put('
        'params, shardings), or of shapes alone jax.ShapeDtypeStruct(shape, '
        'dtype, sharding=sharding).')
  return sharding


def _names(sharding: Sharding) -> str:
  devices = sorted(str(device) for device in sharding.device_set)
  return ', '.join(devices[:3]) + ', ...' * (len(devices) > 3)
