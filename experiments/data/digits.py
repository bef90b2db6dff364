"""The 1,797 handwritten digits that ship inside scikit-learn.

Real data that needs no download: the test set of "Optical Recognition of
Handwritten Digits", https://archive.ics.uci.edu/dataset/80, 8x8 pixels each.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets
from sklearn import model_selection

_TEST_SIZE = 500


class Split(NamedTuple):
  """Images and what they show."""
  images: jax.Array  # [N, H, W, C] float32
  labels: jax.Array  # [N] int32


class Dataset(NamedTuple):
  """What a run trains on and what it is measured on."""
  train: Split
  test: Split


def load() -> Dataset:
  """Returns 1,297 digits to train on and 500 to test on, always the same."""
  digits = datasets.load_digits()
  images, test_images, labels, test_labels = model_selection.train_test_split(
      digits.images[..., None], digits.target, test_size=_TEST_SIZE,
      stratify=digits.target, random_state=0)
  mean, std = images.mean(), images.std()  # Of the training images alone.

  def split(images, labels):
    return Split(jnp.asarray((images - mean) / std, np.float32),
                 jnp.asarray(labels, np.int32))

  return Dataset(split(images, labels), split(test_images, test_labels))
