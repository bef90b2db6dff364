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
from typing import NamedTuple

import ml_collections
import numpy as np

from experiments.data import dataset
from experiments.data import python_source

CLASSES = ('asyncio', 'email', 'encodings', 'http', 'importlib',
           'multiprocessing', 'unittest', 'xml')
_TEST_SHARE = 0.25  # Of the bytes of each class, at most.
_WORDS = re.compile(rb'[A-Z]?[a-z]+|[A-Z]+|\n? +')  # Indentation is one, too.
_UNUSED = [bytes([code]) for code in (*range(1, 9), *range(127, 256))]
_EXPECTED = ('two or more folders of .py files, each with several files; '
             'without it, packages of the standard library are read')


class _Corpus(NamedTuple):
  """The texts of all classes in one array."""
  text: np.ndarray  # uint8
  starts: np.ndarray  # [classes], where the text of each class starts.
  sizes: np.ndarray  # [classes], the length of the text of each class.


def load(config: ml_collections.ConfigDict) -> dataset.Dataset:
  """Returns pieces of `config.context` bytes, equally many of each class.

  Training draws a class, then a piece from anywhere in its files. The test uses
  other files, and the same number of pieces of each class at equal distances:
  `config.test_examples` in total, or as many as fit without overlap.

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
  training, test_ = (
      [answers.sub(b'_', b'\n'.join(texts)) for texts in part]
      for part in zip(*map(_split, packages.values())))
  codes = dictionary(training)
  training, test_ = (
      _corpus([encode(text, codes) for text in texts])
      for texts in (training, test_))
  context = config.context
  for name, *sizes in zip(packages, training.sizes, test_.sizes):
    if min(sizes) < context:
      raise ValueError(
          f'{root / name} has {sizes[0]} bytes to train and {sizes[1]} to test '
          f'on, one piece takes {context}; dataset {config.dataset!r} expects '
          f'{_EXPECTED}')
  each = min(max(config.test_examples // len(packages), 1),
             min(test_.sizes) // context)

  def pieces(corpus, labels, places):
    first = corpus.starts[labels] + places
    return dataset.Batch(corpus.text[first[:, None] + np.arange(context)],
                         labels.astype(np.int32))

  def train(seed, step, size, part=dataset.WHOLE):
    rng, labels = dataset.rows(seed, step, size, of=len(packages))
    places = rng.integers(training.sizes[labels] - context + 1)
    return pieces(training, labels[part], places[part])

  def test():
    def make(rows):
      labels = rows // each
      return pieces(test_, labels, rows % each * (test_.sizes[labels] // each))
    return dataset.in_batches(each * len(packages), make)

  return dataset.Dataset(
      dataset.TEXT, (context,), len(packages), train, test,
      dataset.fingerprint(*(
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


def _corpus(texts):
  sizes = np.array([len(text) for text in texts])
  return _Corpus(np.frombuffer(b''.join(texts), np.uint8),
                 np.cumsum(sizes) - sizes, sizes)
