"""ImageNet, or any pictures in class folders; decoded when they are needed.

Reads `train/<class>/*.JPEG` and `val/<class>/*.JPEG`, the layout of ILSVRC 2012
after its validation pictures are sorted: https://image-net.org/download.php.
"""

from concurrent import futures
import functools
import math
import os
import pathlib

import ml_collections
import numpy as np

from experiments.data import dataset

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # Of ImageNet's training
_STD = np.array([0.229, 0.224, 0.225], np.float32)   # pictures.
_SUFFIXES = ('.jpeg', '.jpg')
_EXPECTED = ('train/<class>/*.JPEG and val/<class>/*.JPEG from '
             'https://image-net.org/download.php')
_AREA, _RATIO, _TRIES = (0.08, 1.), (3 / 4, 4 / 3), 10
_RESIZED = 256 / 224  # The test's short side, before its margins are cut.
_THREADS = 8


def load(config: ml_collections.ConfigDict) -> dataset.Dataset:
  """Returns the data set; only the names of its files are held in memory.

  A training picture is a random part of the file, scaled to
  `config.image_size` and half the time mirrored. A test picture is the middle.

  Raises:
    ValueError: if Pillow or files are missing. Making a batch also raises it
      if a picture is damaged.
  """
  try:
    from PIL import Image
  except ImportError as error:
    raise ValueError(f'dataset {config.dataset!r} needs Pillow to decode '
                     'JPEG: pip install Pillow') from error
  root = dataset.folder(config, expected=_EXPECTED)
  size = config.image_size
  classes = _classes(root / 'train')
  files, labels, listing = _listing(root / 'train', classes)
  test_files, test_labels, test_listing = _listing(root / 'val', classes)
  pool = futures.ThreadPoolExecutor(_THREADS)
  decode = functools.partial(_decode, Image)

  def train(seed, step, batch, part=dataset.WHOLE):
    rows = dataset.rows(seed, step, batch, of=len(files))[1][part]
    pictures = pool.map(
        lambda i, row: decode(files[row], size, functools.partial(
            _random_part, np.random.default_rng([seed, step, i]))),
        range(batch)[part], rows)
    return dataset.Batch(np.stack(list(pictures)), labels[rows])

  def test():
    def make(rows):
      pictures = pool.map(
          lambda row: decode(test_files[row], size, _middle), rows)
      return dataset.Batch(np.stack(list(pictures)), test_labels[rows])
    return dataset.in_batches(len(test_files), make)

  return dataset.Dataset(
      dataset.IMAGES, (size, size, 3), len(classes), train, test,
      dataset.fingerprint(listing, test_listing))


def _classes(folder):
  classes = (sorted(path.name for path in folder.iterdir() if path.is_dir())
             if folder.is_dir() else [])
  if not classes:
    raise ValueError(f'{folder} has no class folders; expected {_EXPECTED}')
  return classes


def _listing(folder, classes):
  """Returns paths, labels, and as bytes all names and sizes."""
  files, labels, lines = [], [], []
  for label, name in enumerate(classes):
    if not (folder / name).is_dir():
      raise ValueError(f'no folder {folder / name}; expected {_EXPECTED}')
    with os.scandir(folder / name) as entries:
      pictures = sorted((entry.name, entry.stat().st_size) for entry in entries
                        if entry.name.lower().endswith(_SUFFIXES))
    if not pictures:
      raise ValueError(f'{folder / name} has no pictures; expected {_EXPECTED}')
    files += [pathlib.Path(folder, name, picture) for picture, _ in pictures]
    labels += len(pictures) * [label]
    lines += [f'{name}/{picture} {size}' for picture, size in pictures]
  return files, np.array(labels, np.int32), '\n'.join(lines).encode()


def _decode(image_module, path, size, part):
  """Returns a part of a picture, scaled: `[size, size, 3]`, normalized.

  Args:
    image_module: PIL.Image.
    path: the path of the picture.
    size: the size of the result, in pixels a side.
    part: (width, height) -> (left, top, right, bottom), whether to mirror.
  """
  try:
    with image_module.open(path) as image:
      box, mirrored = part(*image.size)
      image = image.convert('RGB').resize(
          (size, size), image_module.Resampling.BILINEAR, box=box)
  except OSError as error:
    raise ValueError(f'cannot read {path} ({error}); expected a picture of '
                     f'{_EXPECTED}') from error
  pixels = (np.asarray(image, np.float32) / 255 - _MEAN) / _STD
  return pixels[:, ::-1] if mirrored else pixels


def _random_part(rng, width, height):
  mirrored = bool(rng.integers(2))
  for _ in range(_TRIES):
    area = width * height * rng.uniform(*_AREA)
    ratio = math.exp(rng.uniform(*np.log(_RATIO)))
    w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
    if w <= width and h <= height:
      left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
      return (left, top, left + w, top + h), mirrored
  return _square(width, height, min(width, height)), mirrored


def _middle(width, height):
  return _square(width, height, min(width, height) / _RESIZED), False


def _square(width, height, side):
  left, top = (width - side) / 2, (height - side) / 2
  return left, top, left + side, top + side
