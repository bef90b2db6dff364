"""Tiny data sets in the very formats in which the real ones are published."""

from collections.abc import Iterable
import gzip
import io
import pathlib
import pickle
import struct
import tarfile
from typing import Any

import numpy as np
from PIL import Image
import pytest

from experiments import data
from experiments.configs import default

_RNG = np.random.default_rng(0)


def load(name: str, path: pathlib.Path | None = None, **overrides
         ) -> data.Dataset:
  """Loads a data set that was written into `path`."""
  config = default.get_config()
  config.update(dataset=name, data_dir=path and str(path), **overrides)
  return data.load(config)


class _Python2Pickler(pickle._Pickler):
  """Pickles bytes and arrays as the Python 2 that wrote CIFAR did."""

  dispatch = dict(pickle._Pickler.dispatch)

  def save_bytes(self, value):
    self.write(pickle.BINSTRING + struct.pack('<i', len(value)) + value)
    self.memoize(value)
  dispatch[bytes] = save_bytes


def python2_pickle(value) -> bytes:
  """Returns what Python 2 would have written."""
  file = io.BytesIO()
  _Python2Pickler(file, 2).dump(value)
  return file.getvalue().replace(b'numpy._core', b'numpy.core')


def _cifar_files(labels, counts):
  files, start = {}, 0
  for name, count in counts.items():
    pixels = _RNG.integers(256, size=(count, 3072), dtype=np.uint8)
    pixels[:, 0] = start + np.arange(count)  # Every image is another.
    start += count
    files[name] = {
        b'batch_label': name.encode(),
        labels: [int(i) % 10 for i in pixels[:, 0]], b'data': pixels,
        b'filenames': [b'%d.png' % i for i in range(count)]}
  return files


def cifar10(path: pathlib.Path) -> dict[str, dict[bytes, Any]]:
  """Writes the unpacked folder: 5 x 4 images to train on, 6 to test.

  Returns:
    What each file holds; a label is the last digit of the first pixel.
  """
  folder = path / 'cifar-10-batches-py'
  folder.mkdir(parents=True)
  counts = {**{f'data_batch_{i}': 4 for i in range(1, 6)}, 'test_batch': 6}
  files = _cifar_files(b'labels', counts)
  for name, content in files.items():
    (folder / name).write_bytes(python2_pickle(content))
  return files


def cifar100(path: pathlib.Path):
  """Writes the archive: 12 images to train on, 6 to test."""
  path.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path / 'cifar-100-python.tar.gz', 'w:gz') as archive:
    for name, content in _cifar_files(
        b'fine_labels', {'train': 12, 'test': 6}).items():
      content[b'coarse_labels'] = [0] * len(content[b'data'])
      written = python2_pickle(content)
      member = tarfile.TarInfo(f'cifar-100-python/{name}')
      member.size = len(written)
      archive.addfile(member, io.BytesIO(written))


def imagenet(path: pathlib.Path, classes=('n01440764', 'n01443537')):
  """Writes class folders of JPEGs, one of them grey, of several sizes.

  The first class is red, the second blue.
  """
  for split, count in (('train', 3), ('val', 2)):
    for name, color in zip(classes, ((250, 10, 10), (10, 10, 250))):
      folder = path / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        Image.new('RGB', (40 + 20 * i, 50), color).save(
            folder / f'{name}_{i}.JPEG')
  Image.new('L', (40, 50), 128).save(
      path / 'val' / classes[1] / 'grey.JPEG')


_GLUE = {
    'SST-2': (
        ['sentence', 'label'],
        [['a "fine film', '1'], ['dull', '0'], ['caf\u00e9 \u2028 noir', '1']]),
    'RTE': (
        ['index', 'sentence1', 'sentence2', 'label'],
        [['0', 'It rains.', 'It is wet.', 'entailment'],
         ['1', 'It rains.', 'It is dry.', 'not_entailment']]),
    'MRPC': (
        ['Quality', '#1 ID', '#2 ID', '#1 String', '#2 String'],
        [['1', '10', '20', 'He said so .', 'So he said .'],
         ['0', '11', '21', 'He came .', 'She left .']]),
    'CoLA': (
        None,
        [['gj04', '1', '', 'They drank.'], ['gj04', '0', '*', 'Drank they.']]),
}


def glue(path: pathlib.Path):
  """Writes four tasks; training has every row twice."""
  for folder, (header, rows) in _GLUE.items():
    (path / folder).mkdir(parents=True)
    for name, repeats in (('train.tsv', 2), ('dev.tsv', 1)):
      lines = ['\t'.join(row) for row in [*[header] * bool(header),
                                          *rows * repeats]]
      mark = '\ufeff' if folder == 'MRPC' else ''
      (path / folder / name).write_bytes(
          (mark + '\n'.join(lines) + '\n').encode())


def python_source(path: pathlib.Path):
  """Writes forty files, one a copy, and what is to be skipped."""
  for i in range(39):
    file = path / f'package_{i % 3}' / f'module_{i}.py'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'# {i}\n' + 'value = [1, 2, 3]\n' * (i + 1))
  (path / 'z.py').write_text((path / 'package_0/module_0.py').read_text())
  (path / 'notes.txt').write_text('no source')
  for skipped in ('test', 'site-packages/other', 'package_0/__pycache__'):
    (path / skipped).mkdir(parents=True)
    (path / skipped / 'skipped.py').write_text('skipped = True\n' * 20)


def mnist(path: pathlib.Path, packed: bool = True):
  """Writes the four files: 30 images to train on, 12 to test.

  Every pixel of image i is i, and its label the last digit of that.
  """
  path.mkdir(parents=True, exist_ok=True)
  for name, count in (('train', 30), ('t10k', 12)):
    numbers = np.arange(count, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None], (count, 28, 28))
    for kind, array in (('images-idx3', images), ('labels-idx1', numbers % 10)):
      content = struct.pack(f'>4B{array.ndim}i', 0, 0, 8, array.ndim,
                            *array.shape) + array.tobytes()
      if packed:
        (path / f'{name}-{kind}-ubyte.gz').write_bytes(gzip.compress(content))
      else:
        (path / f'{name}-{kind}-ubyte').write_bytes(content)


def plays(path: pathlib.Path):
  """Writes forty plays."""
  path.mkdir(parents=True, exist_ok=True)
  for i in range(40):
    (path / f'play_{i}_gut.txt').write_text(f'# {i}\n' + 'Enter Ghost.\n' * 9)


def editions(path: pathlib.Path):
  """Writes twenty plays in two editions, and one in a single edition.

  A play is known by its word of three letters, an edition by `have` or `haue`.
  """
  path.mkdir(parents=True, exist_ok=True)
  for i in range(20):
    word = 'x' + chr(97 + i) + 'x'
    (path / f'play_{i}_gut.txt').write_text(
        f'HAMLET.\nWe have {word}.\n[Exit.]\n' * 9)
    (path / f'play_{i}_gut_f.txt').write_text(
        f'  Ham. We haue {word}: haue\n\n' * 9)
  (path / 'poem_gut.txt').write_text('We have a poem.\n' * 9)


def criteo(path: pathlib.Path, lines: int = 70) -> list[str]:
  """Writes `train.txt`, whose missing fields differ from line to line.

  The first integer of line i is i - 1, the first hash 32 i.
  """
  texts = []
  for i in range(lines):
    numbers = [str(i - 1), *(
        str(_RNG.integers(10**(j % 9))) for j in range(12))]
    hashes = [f'{32 * i:08x}', *(
        f'{_RNG.integers(2**32):08x}' for _ in range(25))]
    numbers[1 + i % 12] = hashes[1 + i % 25] = ''
    texts.append('\t'.join([str(i % 4 // 3), *numbers, *hashes]))
  path.mkdir(parents=True, exist_ok=True)
  (path / 'train.txt').write_text('\n'.join(texts) + '\n')
  return texts


def movielens(path: pathlib.Path, name: str = 'u.data', count: int = 42):
  """Writes ratings as one of the published sets has them.

  Rating i is of user 10 (i % 7) + 1 and movie 3 i + 1, at a time that falls
  from line to line; it has one to five stars in turn.
  """
  header, separator = {
      'u.data': ('', '\t'), 'ratings.dat': ('', '::'),
      'ratings.csv': ('userId,movieId,rating,timestamp\n', ',')}[name]
  rows = [(10 * (i % 7) + 1, 3 * i + 1, i % 5 + 1, 881_250_949 - i)
          for i in range(count)]
  path.mkdir(parents=True, exist_ok=True)
  (path / name).write_text(header + ''.join(
      separator.join(map(str, row)) + '\n' for row in rows))


# What writes the files of a data set into a folder.
WRITERS = {
    'cifar10': cifar10, 'cifar100': cifar100, 'imagenet': imagenet,
    'glue/sst2': glue, 'glue/rte': glue, 'python_source': python_source,
    'packages': python_source, 'criteo': criteo, 'movielens': movielens,
    'mnist': mnist, 'plays': plays, 'editions': editions}
# Such that those files suffice.
SIZES = dict(context=16, image_size=20, test_examples=9)


def inputs(batches: Iterable[data.Batch]) -> np.ndarray:
  """Returns the inputs of all batches, those that fill up the last included.
  """
  return np.concatenate([batch.inputs for batch in batches])


def labels(batches: Iterable[data.Batch]) -> np.ndarray:
  """Returns the labels of all batches, those that fill up the last included.
  """
  return np.concatenate([batch.labels for batch in batches])


def examples(batches: Iterable[data.Batch]) -> tuple[np.ndarray, np.ndarray]:
  """Returns inputs and labels of all batches, without what fills them up."""
  found, answers = map(np.concatenate, zip(*batches))
  return found[answers >= 0], answers[answers >= 0]


def error(name: str, path: pathlib.Path | None = None, **overrides) -> str:
  """Returns the one line that loading a data set, or a batch, ends with."""
  with pytest.raises(ValueError) as raised:
    load(name, path, **overrides).train(0, 0, 32)
  message = str(raised.value)
  assert '\n' not in message
  return message
