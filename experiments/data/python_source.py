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

from experiments.data import dataset
from experiments.data import next_bytes

_SKIPPED = frozenset({
    'site-packages', 'test', 'tests', 'idlelib', 'lib2to3', 'turtledemo',
    'ensurepip', '__pycache__'})
_ONE_IN = 20  # One file in so many is for validation.
_EXPECTED = ('.py files, a million bytes or more; without it, those of the '
             'standard library are read')


def load(config: ml_collections.ConfigDict) -> dataset.Dataset:
  """Returns windows of `config.context` bytes and the bytes that follow each.

  One file in twenty is for validation.

  Raises:
    ValueError: if the folder has too few bytes for a window to train on and
      one to validate on.
  """
  if config.data_dir:
    root = dataset.folder(config, expected=_EXPECTED)
  else:
    root = pathlib.Path(sysconfig.get_paths()['stdlib'])
  return next_bytes.load(config, root=root, files=read(root), one_in=_ONE_IN,
                         expected=_EXPECTED)


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
