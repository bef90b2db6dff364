"""The interface of data sets: training batches by step, and test batches."""

from collections.abc import Callable
from collections.abc import Iterator
import hashlib
import pathlib
from typing import NamedTuple, Protocol

import ml_collections
import numpy as np

IMAGES = 'image classification'
TEXT = 'text classification'
RECOMMENDATION = 'recommendation'
NEXT_BYTE = 'language modelling'
FILES = 'file types'  # For networks that are only pruned, not trained.

# The label of padding in the last batch; measurements ignore it.
PADDING = -1
_TEST_BATCH = 256

WHOLE = slice(None)  # The whole batch.


class Batch(NamedTuple):
  """The inputs of a model and their labels."""
  # Images [B, H, W, C] float32, texts [B, T] uint8, files [B, T] int32, or
  # recommendations [B, F] float32: first numbers, then ids, which a float32
  # holds exactly below 2^24.
  inputs: np.ndarray
  labels: np.ndarray  # [B] int32, or [B, T] int32: the next bytes.


class Train(Protocol):
  """Makes the batch of one step, or a part of it.

  The batch depends only on seed, step and size. A run that was killed therefore
  draws the same batches when it continues, and several processes can each draw
  a part of one batch.
  """

  def __call__(self, seed: int, step: int, size: int,
               part: slice = WHOLE) -> Batch:
    ...


class Dataset(NamedTuple):
  """The data on which a run trains and is measured."""
  task: str  # IMAGES, TEXT, NEXT_BYTE or RECOMMENDATION.
  shape: tuple[int, ...]  # Of one input.
  classes: int
  train: Train
  test: Callable[[], Iterator[Batch]]  # Always the same, all of one size.
  fingerprint: str  # Results are comparable only if it is the same.
  # For recommendations, the number of ids of each of the last features.
  cardinalities: tuple[int, ...] = ()
  # Only for synthetic data: the metric of the probabilities that labels were
  # drawn from, which a model exceeds only by chance.
  ceiling: float | None = None

  @property
  def input_dtype(self) -> np.dtype:
    """The type of a batch of inputs."""
    text = self.task in (TEXT, NEXT_BYTE)
    return np.dtype(np.uint8 if text else np.float32)


def rows(seed: int, step: int, size: int, *, of: int
         ) -> tuple[np.random.Generator, np.ndarray]:
  """Returns the generator of a step and the examples that it has drawn.

  Args:
    seed: the seed of the run.
    step: the step of the run.
    size: the number of examples to draw, with replacement.
    of: the number of examples to draw from.
  """
  rng = np.random.default_rng([seed, step])
  return rng, rng.integers(of, size=size)


def in_batches(count: int, make: Callable[[np.ndarray], Batch]
               ) -> Iterator[Batch]:
  """Yields all `count` examples in order, in batches of one size.

  Args:
    count: the number of examples.
    make: makes a batch of the examples at given indices.
  """
  size = min(count, _TEST_BATCH)
  for start in range(0, count, size):
    places = np.arange(start, start + size)
    batch = make(np.minimum(places, count - 1))
    batch.labels[places >= count] = PADDING
    yield batch


def fingerprint(*parts: bytes | np.ndarray) -> str:
  """Returns a short hash of the parts and of their lengths."""
  sha = hashlib.sha256()
  for part in parts:
    sha.update(hashlib.sha256(part).digest())
  return sha.hexdigest()[:12]


def check_no_folder(config: ml_collections.ConfigDict, *, source: str):
  """Checks that `config.data_dir` is not set, as it would be ignored.

  Args:
    config: the config of the run.
    source: where the data come from, for the message.

  Raises:
    ValueError: if it is set.
  """
  if config.data_dir:
    raise ValueError(f'dataset {config.dataset!r} {source}, and reads no '
                     f'--config.data_dir, got {config.data_dir!r}')


def folder(config: ml_collections.ConfigDict, *, expected: str) -> pathlib.Path:
  """Returns `config.data_dir`.

  Args:
    config: the config of the run.
    expected: the expected content of the folder and its source, for the
      message.

  Raises:
    ValueError: if it is not set, or is not a folder.
  """
  if not config.data_dir:
    raise ValueError(f'dataset {config.dataset!r} is not shipped: give '
                     f'--config.data_dir, a folder with {expected}')
  path = pathlib.Path(config.data_dir).expanduser()
  if not path.is_dir():
    raise ValueError(f'--config.data_dir={config.data_dir} is not a folder; '
                     f'dataset {config.dataset!r} expects one with {expected}')
  return path
