"""Pieces of texts to classify: equally many of each class, all of one length.
"""

from collections.abc import Mapping
import pathlib
from typing import NamedTuple

import ml_collections
import numpy as np

from experiments.data import dataset


class Texts(NamedTuple):
  """The texts of one class."""
  training: bytes
  test: bytes


class _Corpus(NamedTuple):
  """The texts of all classes in one array."""
  text: np.ndarray  # uint8
  starts: np.ndarray  # [classes], where the text of each class starts.
  sizes: np.ndarray  # [classes], the length of the text of each class.


def load(config: ml_collections.ConfigDict, *, root: pathlib.Path,
         classes: Mapping[str, Texts], fingerprint: str, expected: str
         ) -> dataset.Dataset:
  """Returns pieces of `config.context` bytes, equally many of each class.

  Training draws a class, then a piece from anywhere in its text. The test has
  the same number of pieces of each class at equal distances:
  `config.test_examples` in total, or as many as fit without overlap.

  Args:
    config: of the run.
    root: the folder of the texts, for messages.
    classes: the texts by the name of their class.
    fingerprint: of the data set.
    expected: the expected content of the folder, for messages.

  Raises:
    ValueError: if a class has too few bytes.
  """
  training, test_ = map(_corpus, zip(*classes.values()))
  context = config.context
  for name, *sizes in zip(classes, training.sizes, test_.sizes):
    if min(sizes) < context:
      raise ValueError(
          f'{root / name} has {sizes[0]} bytes to train and {sizes[1]} to test '
          f'on, one piece takes {context}; dataset {config.dataset!r} expects '
          f'{expected}')
  each = min(max(config.test_examples // len(classes), 1),
             min(test_.sizes) // context)

  def pieces(corpus, labels, places):
    first = corpus.starts[labels] + places
    return dataset.Batch(corpus.text[first[:, None] + np.arange(context)],
                         labels.astype(np.int32))

  def train(seed, step, size, part=dataset.WHOLE):
    rng, labels = dataset.rows(seed, step, size, of=len(classes))
    places = rng.integers(training.sizes[labels] - context + 1)
    return pieces(training, labels[part], places[part])

  def test():
    def make(rows):
      labels = rows // each
      return pieces(test_, labels, rows % each * (test_.sizes[labels] // each))
    return dataset.in_batches(each * len(classes), make)

  return dataset.Dataset(dataset.TEXT, (context,), len(classes), train, test,
                         fingerprint)


def _corpus(texts):
  sizes = np.array([len(text) for text in texts])
  return _Corpus(np.frombuffer(b''.join(texts), np.uint8),
                 np.cumsum(sizes) - sizes, sizes)
