"""Datasets: `load(name)`, and the batches that every step draws."""

import jax

from experiments import names
from experiments.data import digits
from experiments.data.digits import Dataset
from experiments.data.digits import Split

_LOADERS = {'digits': digits.load}


def load(name: str) -> Dataset:
  """Returns the dataset of that name."""
  return names.lookup(_LOADERS, name, kind='dataset')()


def batch(split: Split, key: jax.Array, step: jax.Array, *, size: int) -> Split:
  """Returns the batch of one step, drawn with replacement.

  It depends on the key and the step alone: a run that was killed draws the
  same batches when it goes on.
  """
  key = jax.random.fold_in(key, step)
  rows = jax.random.randint(key, (size,), 0, len(split.labels))
  return Split(split.images[rows], split.labels[rows])
