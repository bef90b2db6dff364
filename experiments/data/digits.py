"""The 1,797 handwritten digits that ship inside scikit-learn.

Real data without a download: the test set of "Optical Recognition of
Handwritten Digits", https://archive.ics.uci.edu/dataset/80, 8x8 pixels each.
"""

import ml_collections
import numpy as np
from sklearn import datasets
from sklearn import model_selection

from experiments.data import dataset

_TEST_SIZE = 500


def load(config: ml_collections.ConfigDict) -> dataset.Dataset:
  """Returns 1,297 digits to train on and 500 to test on, always the same.

  Raises:
    ValueError: if the config names a folder.
  """
  dataset.check_no_folder(config, source='ships with scikit-learn')
  digits = datasets.load_digits()
  images, test_images, labels, test_labels = model_selection.train_test_split(
      digits.images[..., None], digits.target.astype(np.int32),
      test_size=_TEST_SIZE, stratify=digits.target, random_state=0)
  mean, std = images.mean(), images.std()  # Of the training images only.
  images, test_images = (
      ((x - mean) / std).astype(np.float32) for x in (images, test_images))

  def train(seed, step, size, part=dataset.WHOLE):
    rows = dataset.rows(seed, step, size, of=len(labels))[1][part]
    return dataset.Batch(images[rows], labels[rows])

  def test():
    return dataset.in_batches(len(test_labels), lambda rows: dataset.Batch(
        test_images[rows], test_labels[rows]))

  return dataset.Dataset(
      dataset.IMAGES, images.shape[1:], 10, train, test,
      dataset.fingerprint(images, labels, test_images, test_labels))
