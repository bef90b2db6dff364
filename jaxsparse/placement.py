"""The placement of optimizer states on many devices: beside the weights.

Without shardings, the compiler replicates arrays that depend on no weight, such
as Adam's initial zeros, on every device. `state_shardings` returns shardings
that prevent this.
"""

import dataclasses
import itertools
import math
from typing import Any

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

  Every array that has a weight's shape, at the weight's place in a tree like
  the params, gets the weight's sharding: masks, moments, accumulated scores and
  gradients. An array of another shape at that place, such as a factored moment,
  is sharded along the axes that it shares with the weight, if its shape
  determines these axes. An array with an entry for each group of weights is
  sharded like the weight, along the axes on which devices hold whole groups.
  All other arrays are replicated.

  Args:
    tx: any optax optimizer, `sparsify(...)` included.
    params: a tree of arrays on their devices, or of `jax.ShapeDtypeStruct`s
      with shardings; on one device, or on a mesh with Auto or Explicit axes.

  Returns:
    A tree like `jax.eval_shape(tx.init, params)`, for the `out_shardings` of
    `jax.jit(tx.init)` and of a train step, and for `jax.device_put`.

  Raises:
    ValueError: if `tx` is not an optimizer, if a parameter has no sharding, or
      if two parameters are on different devices.

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
  # Without shardings: with explicit axes they would have to fit the current
  # mesh, and shapes do not depend on them.
  state = jax.eval_shape(tx.init, jax.tree.map(
      lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), params))

  def lay(tree: Any) -> Any:
    beside = trees.beside(weights, tree)
    if beside is None:  # An array that is in no tree like the params.
      return elsewhere
    leaves, structure = trees.flatten_dense(tree)
    return structure.unflatten([
        x if trees.is_dense(x) else _beside(weight, x.shape, elsewhere)
        for x, weight in zip(leaves, beside)])
  return jax.tree.map(
      lay, state, is_leaf=lambda t: trees.beside(weights, t) is not None)


@dataclasses.dataclass(frozen=True)  # A leaf, unlike a NamedTuple.
class _Weight:
  """The shape and the sharding of a parameter."""
  shape: tuple[int, ...]
  sharding: Sharding


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
  # All ways to match the axes of the array with axes of the weight.
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
  """Shapes and shardings of the params, and the sharding of other arrays."""
  rows = [(path, w, _sharding(path, w)) for path, w in trees.align(params)]
  if not rows:
    raise ValueError(
        'state_shardings needs params with at least one array, got '
        f'{brief(params)}. Write state_shardings(tx, params).')
  on_mesh = [row for row in rows if isinstance(row[-1], NamedSharding)]
  first, _, sharding = (on_mesh or rows)[0]
  elsewhere = (
      NamedSharding(sharding.mesh, PartitionSpec())
      if isinstance(sharding, NamedSharding) else sharding)
  weights = []
  for path, w, own in rows:
    if not getattr(w, 'committed', True):
      own = elsewhere  # As `jit` does with an array on no committed device.
    if own.device_set != elsewhere.device_set:
      raise ValueError(
          f'All params must be on the same devices, got {path} on '
          f'{_names(own)} and {first} on {_names(elsewhere)}. Write params = '
          'jax.device_put(params, shardings) with shardings of one mesh.')
    weights.append(_Weight(w.shape, own))
  return jax.tree.structure(params).unflatten(weights), elsewhere


def _sharding(path: str, w: Any) -> Sharding:
  """The sharding of one parameter, on devices that exist."""
  if isinstance(w, jax.core.Tracer):
    raise ValueError(
        f'{path} is a tracer, which has no sharding. Call state_shardings(tx, '
        'params) outside of jit, and pass the result to jax.jit(tx.init, '
        'out_shardings=...).')
  sharding = getattr(w, 'sharding', None)
  if isinstance(sharding, NamedSharding) and isinstance(
      sharding.mesh, AbstractMesh):  # As of `jax.eval_shape`.
    mesh = jax.sharding.get_mesh()
    if mesh.empty or mesh.axis_sizes != sharding.mesh.axis_sizes or (
        mesh.axis_names != sharding.mesh.axis_names):
      raise ValueError(
          f'{path} has a sharding on an abstract mesh, without devices, '
          f'{sharding.mesh}. Write with jax.set_mesh(mesh): '
          'state_shardings(tx, params).')
    return NamedSharding(mesh, sharding.spec)
  if not isinstance(sharding, NamedSharding | SingleDeviceSharding):
    raise ValueError(
        f'{path} must have a NamedSharding, got '
        f'{type(sharding or w).__name__}. Write params = jax.device_put('
        'params, shardings), or for shapes alone jax.ShapeDtypeStruct(shape, '
        'dtype, sharding=sharding).')
  return sharding


def _names(sharding: Sharding) -> str:
  devices = sorted(str(device) for device in sharding.device_set)
  return ', '.join(devices[:3]) + ', ...' * (len(devices) > 3)
