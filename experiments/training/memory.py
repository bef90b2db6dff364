"""Checks that a network fits into memory, before it is made."""

import math
import os

from flax import nnx
import jax
import ml_collections

from experiments import data
from experiments import models

# Networks below these sizes have a place anywhere, and to find out the shapes
# of one takes time.
_LARGE = 1024
_COPIES = 4  # Weights, their gradients, two moments of Adam.


def check(config: ml_collections.ConfigDict, dataset: data.Dataset):
  """Checks that the sizes in a config fit the memory of this machine.

  Raises:
    ValueError: if a size does not fit, with the memory that it would take.
  """
  room = available()
  batch = (config.batch_size * math.prod(dataset.shape)
           * dataset.input_dtype.itemsize)
  if batch > room:
    raise ValueError(
        f'config.batch_size={config.batch_size:,}: one batch of inputs of '
        f'shape {dataset.shape} takes {_gigabytes(batch)}, more than the '
        f'available {_gigabytes(room)}. Give a smaller batch size.')
  sizes = {key: config[key] for key in models.SIZES if config[key] is not None}
  if max(sizes.values(), default=0) < _LARGE:
    return
  written = ' and '.join(f'config.{key}={n:,}' for key, n in sizes.items())
  if sizes.get('depth', 0) >= _LARGE:
    raise ValueError(f'{written} must be below {_LARGE:,}, because tracing a '
                     'deeper network would take minutes.')
  # Shapes alone: no weight is made.
  shapes = nnx.eval_shape(
      lambda: models.create(config, dataset, rngs=nnx.Rngs(0)))
  weights = sum(math.prod(x.shape) * x.dtype.itemsize
                for x in jax.tree.leaves(nnx.state(shapes, nnx.Param)))
  if _COPIES * weights > room:
    raise ValueError(
        f'{written}: the weights of model {config.model!r} take '
        f'{_gigabytes(weights)}, with gradients and moments '
        f'{_gigabytes(_COPIES * weights)}, more than the available '
        f'{_gigabytes(room)}. Give a smaller size, or more devices by '
        '--config.mesh.')


def available() -> float:
  """Returns the bytes of all devices of this run together.

  Those of other processes are taken to be as large as ours.
  """
  total = 0
  for device in jax.local_devices():
    stats = device.memory_stats() or {}
    if 'bytes_limit' not in stats:  # CPUs share the memory of the machine.
      return float(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
                   if hasattr(os, 'sysconf') else math.inf)
    total += stats['bytes_limit']
  return float(total) * jax.process_count()


def _gigabytes(n):
  return f'{n / 1e9:,.1f} GB'
