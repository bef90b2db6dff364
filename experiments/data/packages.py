"""Classify pieces of Python source by their package, without a download.

The classes are packages of the standard library that have many files in every
Python from 3.11 on. The fingerprint depends on the version of Python. With
`config.data_dir` the classes are the folders in that folder.

Words that are the name of a class, in capitals or not, are replaced by `_`, as
they would give the answer away: six pieces in a hundred contain the name of
their own class.

A small network learns little about spelling. Bytes that source does not use
therefore stand for the most common words. The dictionary is made from the
training files and makes texts a third shorter.
"""

import collections
import hashlib
import pathlib
import re
import sysconfig

import ml_collections

from experiments.data import dataset
from experiments.data import pieces
from experiments.data import python_source

CLASSES = ('asyncio', 'email', 'encodings', 'http', 'importlib',
           'multiprocessing', 'unittest', 'xml')
_TEST_SHARE = 0.25  # Of the bytes of each class, at most.
_WORDS = re.compile(rb'[A-Z]?[a-z]+|[A-Z]+|\n? +')  # Indentation is one, too.
_UNUSED = [bytes([code]) for code in (*range(1, 9), *range(127, 256))]
_EXPECTED = ('two or more folders of .py files, each with several files; '
             'without it, packages of the standard library are read')


def load(config: ml_collections.ConfigDict) -> dataset.Dataset:
  """Returns pieces of `config.context` bytes, equally many of each class.

  The test uses other files than training.

  Raises:
    ValueError: if there are fewer than two classes, or one has too few bytes.
  """
  if config.data_dir:
    root = dataset.folder(config, expected=_EXPECTED)
    packages = _read(root)
  else:
    root = pathlib.Path(sysconfig.get_paths()['stdlib'])
    found = _read(root)
    packages = {name: found.get(name, {}) for name in CLASSES}
  if len(packages) < 2:
    raise ValueError(f'{root} has {len(packages)} folders with .py files; '
                     f'dataset {config.dataset!r} expects {_EXPECTED}')
  answers = re.compile(rb'(?i)\b(%s)\b' % b'|'.join(
      re.escape(name.encode()) for name in packages))
  training, test = (
      [answers.sub(b'_', b'\n'.join(texts)) for texts in part]
      for part in zip(*map(_split, packages.values())))
  codes = dictionary(training)
  return pieces.load(
      config, root=root, expected=_EXPECTED, classes={
          name: pieces.Texts(*(encode(text, codes) for text in texts))
          for name, *texts in zip(packages, training, test)},
      fingerprint=dataset.fingerprint(*(
          part for files in packages.values()
          for path, text in files.items()
          for part in (path.encode(), text))))


def _read(root):
  """Returns the files of each folder, by its name."""
  packages = collections.defaultdict(dict)
  for path, text in python_source.read(root).items():
    if '/' in path:
      packages[path.split('/')[0]][path] = text
  return packages


def dictionary(texts: list[bytes]) -> dict[bytes, bytes]:
  """Returns word -> code, for the words whose codes shorten the texts most.

  Args:
    texts: the texts of the classes, which all count the same.
  """
  saved = collections.Counter()
  for text in texts:
    for word, count in collections.Counter(_WORDS.findall(text)).items():
      saved[word] += (len(word) - 1) * count / len(text)
  return dict(zip((word for word, _ in saved.most_common()), _UNUSED))


def encode(text: bytes, codes: dict[bytes, bytes]) -> bytes:
  """Returns the text as ASCII (`?` for other characters) with codes for words.

  >>> encode(b'x = self.y', {b'self': b'\\x80'})
  b'x = \\x80.y'
  """
  ascii_ = text.decode('ascii', 'replace').encode('ascii', 'replace')
  return _WORDS.sub(lambda word: codes.get(word[0], word[0]), ascii_)


def _split(files):
  """Returns the texts of one class to train on, and those to test on.

  The order of the files depends only on their names. In this order, a file is
  used for the test if the test then still has no more than its share.
  """
  room = _TEST_SHARE * sum(map(len, files.values()))
  training, test = [], []
  for name in sorted(
      files, key=lambda name: hashlib.sha256(name.encode()).digest()):
    if len(files[name]) <= room:
      room -= len(files[name])
      test.append(files[name])
    else:
      training.append(files[name])
  return training, test
