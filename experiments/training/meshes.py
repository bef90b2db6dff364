"""Sharding of weights and batches over many devices.

`--config.mesh='data:2,model:4'` arranges eight devices in two rows of four. The
name of a mesh axis says what is sharded over it:

* `data`: the examples of a batch;
* `model`: each weight, along its last axis that the devices divide evenly;
* `fsdp`: examples as with `data`, and each weight along the last axis that
  `model` does not use and the devices divide evenly.

Vectors, such as biases, and weights without such an axis are replicated. Axis
-2, along which N:M groups run, is sharded only if no other axis can be. If a
mesh is `None`, there is one device, and arrays are not moved.
"""

import functools
import math
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import ml_collections
import numpy as np

from experiments import data
from experiments._utils import names
from experiments.data import dataset as datasets

PyTree = Any

_EXAMPLE = "--config.mesh='data:2,model:4'"
# The axes that divide examples, and those that divide weights.
_OF_BATCHES, _OF_WEIGHTS = ('data', 'fsdp'), ('model', 'fsdp')
_AXES = dict.fromkeys(('data', 'model', 'fsdp'))


def create(config: ml_collections.ConfigDict) -> Mesh | None:
  """Returns the mesh of all devices that `config.mesh` describes.

  Raises:
    ValueError: if it describes none, one of another number of devices, or one
      that does not divide the config's batches evenly; or if there are several
      processes and it is empty.
  """
  devices = jax.device_count()
  if not config.mesh:
    if jax.process_count() > 1:
      raise ValueError(
          f'{jax.process_count()} processes share one mesh of {devices} '
          f"devices: give e.g. --config.mesh='data:{devices}'")
    return None
  sizes = parse(config.mesh)
  if math.prod(sizes.values()) != devices:
    raise ValueError(
        f"config.mesh='{config.mesh}' has {math.prod(sizes.values())} devices, "
        f"there are {devices}: give e.g. --config.mesh='data:{devices}'. "
        'XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight of a '
        'CPU.')
  mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes),
                       axis_types=(AxisType.Auto,) * len(sizes))
  parts = _parts(mesh)
  if config.batch_size % parts:
    raise ValueError(
        f'config.batch_size={config.batch_size} does not divide into the '
        f"{parts} parts of config.mesh='{config.mesh}': give e.g. "
        f'--config.batch_size={config.batch_size // parts * parts or parts}')
  return mesh


def parse(text: str) -> dict[str, int]:
  """Returns the size of each axis.

  Raises:
    ValueError: if the text is not of that form, an axis has no devices or comes
      twice, or there is no axis of that name.

  >>> parse('data:2,model:4')
  {'data': 2, 'model': 4}
  """
  sizes = {}
  for axis in text.split(','):
    name, _, size = map(str.strip, axis.partition(':'))
    if not size.isdecimal() or int(size) < 1 or name in sizes:
      raise ValueError(
          f"'{axis}' of config.mesh='{text}' must be name:devices, with each "
          f'name once. Write e.g. {_EXAMPLE}')
    names.lookup(_AXES, name, kind='axis of config.mesh')
    sizes[name] = int(size)
  return sizes


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
  """Returns the sharding of an array that all devices have, if there is a mesh.
  """
  return NamedSharding(mesh, PartitionSpec()) if mesh else None


# Weights.


def shardings(tree: PyTree, mesh: Mesh) -> PyTree:
  """Returns how weights, or arrays of their shapes, lie on the mesh."""
  return jax.tree.map(
      lambda w: NamedSharding(mesh, PartitionSpec(*_axes(w.shape, mesh))), tree)


def put(tree: PyTree, shardings: PyTree) -> PyTree:
  """Returns the tree on a mesh; each process has all of it on its host."""
  def one(x, sharding):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
  return jax.tree.map(one, tree, shardings)


def on_one_device(tree: PyTree, mesh: Mesh | None) -> PyTree:
  """Returns the tree whole, in each process on its first device."""
  if mesh is None:
    return tree

  def one(x):
    # One after the other: devices that a CPU plays can block each other.
    return jax.block_until_ready(_gather(mesh)(x)).addressable_data(0)
  return jax.tree.map(one, jax.block_until_ready(tree))


@functools.cache
def _gather(mesh):
  return jax.jit(lambda x: x, out_shardings=everywhere(mesh))


def _axes(shape, mesh):
  """The axis of the mesh that divides each axis of a weight, or `None`."""
  axes = [None] * len(shape)
  for name in _OF_WEIGHTS:
    free = [i for i, size in enumerate(shape) if axes[i] is None
            and len(shape) > 1 and size % mesh.shape.get(name, 1) == 0]
    if free and name in mesh.shape:
      axes[free[-1]] = name
  return axes


# Batches.


def divide(dataset: data.Dataset, mesh: Mesh | None) -> data.Dataset:
  """Returns a data set whose batches lie on the mesh, divided by examples.

  Each process makes its own part of a training batch. Test batches each makes
  whole, filled up with padding, so that they divide evenly.
  """
  if mesh is None:
    return dataset
  axes = tuple(name for name in _OF_BATCHES if name in mesh.shape)
  sharding = NamedSharding(mesh, PartitionSpec(axes or None))

  def train(seed, step, size):
    here = _here(sharding, size)
    return _assemble(dataset.train(seed, step, size, here), sharding, size)

  def test():
    for batch in dataset.test():
      batch = _filled_up(batch, _parts(mesh))
      yield _assemble(batch, sharding, len(batch.labels))

  return dataset._replace(train=train, test=test)


def _parts(mesh):
  """Into how many parts the mesh divides a batch."""
  return math.prod(mesh.shape.get(name, 1) for name in _OF_BATCHES)


def _here(sharding, size):
  """The part of a batch that the devices of this process need."""
  ends = [index[0].indices(size) for index in
          sharding.addressable_devices_indices_map((size,)).values()]
  return slice(min(start for start, *_ in ends), max(end for _, end, _ in ends))


def _assemble(batch, sharding, size):
  """A batch on the mesh, of what this process has of it or of all."""
  def one(x):
    first = _here(sharding, size).start if len(x) < size else 0

    def part(index):
      start, end, _ = index[0].indices(size)
      return x[start - first:end - first]
    return jax.make_array_from_callback((size, *x.shape[1:]), sharding, part)
  return jax.tree.map(one, batch)


def _filled_up(batch, parts):
  """The batch with as much padding as makes it a multiple of `parts`."""
  count = len(batch.labels)
  places = np.arange(math.ceil(count / parts) * parts)
  batch = jax.tree.map(lambda x: x[np.minimum(places, count - 1)], batch)
  batch.labels[count:] = datasets.PADDING
  return batch
