"""CIFAR-10 and CIFAR-100, https://www.cs.toronto.edu/~kriz/cifar.html.

Reads the files of the "python version", packed or unpacked.
"""

from collections.abc import Callable
import io
import pickle
import tarfile
from typing import NamedTuple
import zlib

import ml_collections
import numpy as np

from experiments.data import dataset

_SIZE, _CHANNELS, _MARGIN = 32, 3, 4
_PAGE = 'https://www.cs.toronto.edu/~kriz/cifar.html'


class Layout(NamedTuple):
  """The files and keys of one of the two data sets."""
  folder: str
  archive: str
  train: tuple[str, ...]
  test: tuple[str, ...]
  labels: bytes
  classes: int


CIFAR10 = Layout(
    'cifar-10-batches-py', 'cifar-10-python.tar.gz',
    tuple(f'data_batch_{i}' for i in range(1, 6)), ('test_batch',),
    b'labels', 10)
CIFAR100 = Layout(
    'cifar-100-python', 'cifar-100-python.tar.gz', ('train',), ('test',),
    b'fine_labels', 100)


class _Unpickler(pickle.Unpickler):
  """Unpickles only arrays, because other pickles can run any code."""

  _ALLOWED = frozenset({
      'numpy.core.multiarray._reconstruct',
      'numpy._core.multiarray._reconstruct', 'numpy.ndarray', 'numpy.dtype',
      '_codecs.encode'})

  def find_class(self, module, name):
    if f'{module}.{name}' not in self._ALLOWED:
      raise pickle.UnpicklingError(f'it asks for {module}.{name}')
    return super().find_class(module, name)


def load(config: ml_collections.ConfigDict, *, layout: Layout
         ) -> dataset.Dataset:
  """Returns the data set; training images are shifted and mirrored at random.

  Raises:
    ValueError: if a file is missing or damaged.
  """
  expected = f'{layout.folder} or {layout.archive} from {_PAGE}'
  root = dataset.folder(config, expected=expected)
  read = _reader(root, layout, expected)
  images, labels = _parse(read, layout.train, layout)
  test_images, test_labels = _parse(read, layout.test, layout)
  mean = images.mean((0, 1, 2))
  # images.std would hold all pixels as floats.
  squares = np.einsum('nhwc,nhwc->c', images, images, dtype=np.float64)
  std = np.sqrt(squares * images.shape[-1] / images.size - mean**2 + 1e-6)

  def normalized(x):
    return ((x - mean) / std).astype(np.float32)

  def train(seed, step, size, part=dataset.WHOLE):
    rng, rows = dataset.rows(seed, step, size, of=len(labels))
    pictures = augmented(images[rows], rng)[part]
    return dataset.Batch(normalized(pictures), labels[rows[part]])

  def test():
    return dataset.in_batches(len(test_labels), lambda rows: dataset.Batch(
        normalized(test_images[rows]), test_labels[rows]))

  return dataset.Dataset(
      dataset.IMAGES, images.shape[1:], layout.classes, train, test,
      dataset.fingerprint(images, labels, test_images, test_labels))


def augmented(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns images `[N, H, W, C]` shifted by up to four pixels, half mirrored.

  Pixels that a shift uncovers are black.
  """
  count, height, width, _ = images.shape
  border = (_MARGIN, _MARGIN)
  padded = np.pad(images, ((0, 0), border, border, (0, 0)))
  top, left = rng.integers(2 * _MARGIN + 1, size=(2, count, 1))
  columns = left + np.arange(width)
  mirrored = rng.integers(2, size=(count, 1), dtype=bool)
  columns = np.where(mirrored, columns[:, ::-1], columns)
  rows = top + np.arange(height)
  return padded[np.arange(count)[:, None, None], rows[:, :, None],
                columns[:, None, :]]


def _reader(root, layout, expected) -> Callable[[str], bytes]:
  """Returns a function from a file's name to its bytes."""
  for folder in (root / layout.folder, root):
    if (folder / layout.train[0]).is_file():
      return lambda name: (folder / name).read_bytes()
  if not (root / layout.archive).is_file():
    raise ValueError(f'{root} has no {layout.folder}; expected {expected}')

  def from_archive(name):
    with tarfile.open(root / layout.archive, 'r:gz') as archive:
      return archive.extractfile(f'{layout.folder}/{name}').read()
  return from_archive


def _parse(read, names, layout):
  """Returns images `[N, H, W, C]` uint8 and labels `[N]` int32."""
  images, labels = [], []
  for name in names:
    try:
      content = _Unpickler(io.BytesIO(read(name)), encoding='bytes').load()
      pixels = np.asarray(content[b'data'], np.uint8)
      images.append(pixels.reshape(-1, _CHANNELS, _SIZE, _SIZE))
      labels.append(np.asarray(content[layout.labels], np.int32))
      complete = (len(images[-1]) == len(labels[-1])
                  and labels[-1].max() < layout.classes)
    except (OSError, EOFError, KeyError, ValueError, TypeError, IndexError,
            AttributeError, tarfile.TarError, pickle.UnpicklingError,
            zlib.error) as error:
      raise _damaged(name, layout, error) from error
    if not complete:
      raise _damaged(name, layout, 'images and labels do not fit each other')
  images = np.concatenate(images).transpose(0, 2, 3, 1)
  return np.ascontiguousarray(images), np.concatenate(labels)


def _damaged(name, layout, reason):
  return ValueError(
      f'cannot read {layout.folder}/{name} ({reason}); expected it as in '
      f'{layout.archive} from {_PAGE}')
