"""Language modelling without a download: Python's own library, as bytes.

The files are those of the running interpreter, so they depend on its patch
version, and so does the fingerprint. With `config.data_dir` the files are the
.py files of that folder.
"""

import hashlib
import os
import pathlib
import sysconfig

import ml_collections
import numpy as np

from experiments.data import dataset

_SKIPPED = frozenset({
    'site-packages', 'test', 'tests', 'idlelib', 'lib2to3', 'turtledemo',
    'ensurepip', '__pycache__'})
_SEPARATOR = b'\0'  # Between files; Python source has none.
_ONE_IN = 20  # One file in so many is for validation.
_EXPECTED = ('.py files, a million bytes or more; without it, those of the '
             'standard library are read')


def load(config: ml_collections.ConfigDict) -> dataset.Dataset:
  """Returns windows of `config.context` bytes and the bytes that follow each.

  Training draws windows anywhere in its files. Validation uses other files:
  `config.test_examples` windows at equal distances, or as many as fit without
  overlap.

  Raises:
    ValueError: if the folder has too few bytes for a window to train on and
      one to validate on.
  """
  if config.data_dir:
    root = dataset.folder(config, expected=_EXPECTED)
  else:
    root = pathlib.Path(sysconfig.get_paths()['stdlib'])
  files = read(root)
  training, validation = (
      np.frombuffer(_SEPARATOR.join(
          text for name, text in files.items()
          if is_validation(name) == wanted), np.uint8)
      for wanted in (False, True))
  context = config.context
  for name, corpus in (('train', training), ('validate', validation)):
    if len(corpus) <= context:
      raise ValueError(
          f'{root} has {len(corpus)} bytes to {name} on, one window takes '
          f'{context + 1}; dataset {config.dataset!r} expects {_EXPECTED}')

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


def read(root: pathlib.Path) -> dict[str, bytes]:
  """Returns the .py files under `root` by relative path, without duplicates."""
  paths = []
  for parent, folders, names in os.walk(root):
    folders[:] = [name for name in folders if name not in _SKIPPED]
    paths.extend(pathlib.Path(parent, name) for name in names
                 if name.endswith('.py'))
  files, seen = {}, set()
  for name, path in sorted((p.relative_to(root).as_posix(), p) for p in paths):
    text = path.read_bytes()
    digest = hashlib.sha256(text).digest()
    if digest not in seen:
      seen.add(digest)
      files[name] = text
  return files


def is_validation(name: str) -> bool:
  """Returns whether a file is for validation; depends only on its name."""
  digest = hashlib.sha256(name.encode()).digest()
  return int.from_bytes(digest[:8]) % _ONE_IN == 0


def _windows(corpus, starts, context):
  windows = corpus[starts[:, None] + np.arange(context + 1)]
  return dataset.Batch(windows[:, :-1], windows[:, 1:].astype(np.int32))
