"""Texts to model byte by byte, split into files to train and to validate on."""

from collections.abc import Mapping
import hashlib
import pathlib

import ml_collections
import numpy as np

from experiments.data import dataset

_SEPARATOR = b'\0'  # Between files; text has none.


def load(config: ml_collections.ConfigDict, *, root: pathlib.Path,
         files: Mapping[str, bytes], one_in: int, expected: str
         ) -> dataset.Dataset:
  """Returns windows of `config.context` bytes and the bytes that follow each.

  Training draws windows anywhere in its files. Validation uses other files:
  `config.test_examples` windows at equal distances, or as many as fit without
  overlap.

  Args:
    config: of the run.
    root: the folder of the files, for messages.
    files: texts by name.
    one_in: one file in so many is for validation.
    expected: what the folder should hold, for messages.

  Raises:
    ValueError: if there are too few bytes for a window to train on and one to
      validate on.
  """
  training, validation = (
      np.frombuffer(_SEPARATOR.join(
          text for name, text in files.items()
          if is_validation(name, one_in) == wanted), np.uint8)
      for wanted in (False, True))
  context = config.context
  for name, corpus in (('train', training), ('validate', validation)):
    if len(corpus) <= context:
      raise ValueError(
          f'{root} has {len(corpus)} bytes to {name} on, one window takes '
          f'{context + 1}; dataset {config.dataset!r} expects {expected}')

  def train(seed, step, size, part=dataset.WHOLE):
    _, starts = dataset.rows(seed, step, size, of=len(training) - context)
    return _windows(training, starts[part], context)

  def test():
    count = min(config.test_examples, (len(validation) - 1) // context)
    distance = (len(validation) - 1) // count
    return dataset.in_batches(count, lambda places: _windows(
        validation, distance * places, context))

  return dataset.Dataset(
      dataset.NEXT_BYTE, (context,), 256, train, test, dataset.fingerprint(
          *(part for name, text in files.items()
            for part in (name.encode(), text))))


def is_validation(name: str, one_in: int) -> bool:
  """Returns whether a file is for validation; depends only on its name.

  Args:
    name: of the file.
    one_in: one file in so many is for validation.
  """
  digest = hashlib.sha256(name.encode()).digest()
  return int.from_bytes(digest[:8]) % one_in == 0


def _windows(corpus, starts, context):
  windows = corpus[starts[:, None] + np.arange(context + 1)]
  return dataset.Batch(windows[:, :-1], windows[:, 1:].astype(np.int32))
