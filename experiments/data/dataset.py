"""What every data set is: batches by step, and a test set in batches."""

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
FILES = 'file types'  # Of networks that are only pruned here.

# The label of what only fills up the last batch; measurements leave it out.
PADDING = -1
_TEST_BATCH = 256

WHOLE = slice(None)  # The part of a batch that is all of it.


class Batch(NamedTuple):
  """What a model reads and what it should answer."""
  # [B, H, W, C] float32, [B, T] uint8, of files int32, or of a recommendation
  # [B, F] float32: first numbers, then ids, which a float32 holds exactly below
  # 2^24.
  inputs: np.ndarray
  labels: np.ndarray  # [B] int32, or [B, T] int32: the next bytes.


class Train(Protocol):
  """Makes the batch of one step, or a part of it.

  Seed, step and size alone decide about it: a run that was killed draws the
  same batches when it goes on, and many processes draw parts of one batch.
  """

  def __call__(self, seed: int, step: int, size: int,
               part: slice = WHOLE) -> Batch:
    ...


class Dataset(NamedTuple):
  """What a run trains on and what it is measured on."""
  task: str  # IMAGES, TEXT, NEXT_BYTE or RECOMMENDATION.
  shape: tuple[int, ...]  # Of one input.
  classes: int
  train: Train
  test: Callable[[], Iterator[Batch]]  # Always the same, all of one size.
  fingerprint: str  # Results compare only where it is the same.
  # How many ids the last features of a recommendation have, each from 0 on.
  cardinalities: tuple[int, ...] = ()
  # The metric of the probabilities that labels were drawn from, which no model
  # beats but by chance; only synthetic data have it.
  ceiling: float | None = None

  @property
  def input_dtype(self) -> np.dtype:
    """The type of a batch of inputs."""
    text = self.task in (TEXT, NEXT_BYTE)
    return np.dtype(np.uint8 if text else np.float32)


def rows(seed: int, step: int, size: int, *, of: int
         ) -> tuple[np.random.Generator, np.ndarray]:
  """Returns which examples a step draws, and what else it may draw from.

  Args:
    seed: of the run.
    step: of the run.
    size: how many examples to draw, with replacement.
    of: how many there are.
  """
  rng = np.random.default_rng([seed, step])
  return rng, rng.integers(of, size=size)


def in_batches(count: int, make: Callable[[np.ndarray], Batch]
               ) -> Iterator[Batch]:
  """Yields all `count` examples in order, in batches of one size.

  Args:
    count: how many examples there are.
    make: makes a batch of the examples at these places.
  """
  size = min(count, _TEST_BATCH)
  for start in range(0, count, size):
    places = np.arange(start, start + size)
    batch = make(np.minimum(places, count - 1))
    batch.labels[places >= count] = PADDING
    yield batch


def fingerprint(*parts: bytes | np.ndarray) -> str:
  """Returns a short hash of the parts and of where each of them ends."""
  sha = hashlib.sha256()
  for part in parts:
    sha.update(hashlib.sha256(part).digest())
  return sha.hexdigest()[:12]


def check_no_folder(config: ml_collections.ConfigDict, *, source: str):
  """Finds out whether `config.data_dir` would be ignored.

  Args:
    config: of the run.
    source: where the data come from.

  Raises:
    ValueError: if it is set.
  """
  if config.data_dir:
    raise ValueError(f'dataset {config.dataset!r} {source}, and reads no '
                     f'--config.data_dir, got {config.data_dir!r}')


def folder(config: ml_collections.ConfigDict, *, expected: str) -> pathlib.Path:
  """Returns `config.data_dir`.

  Args:
    config: of the run.
    expected: what the folder should hold and where to get it, for the message.

  Raises:
    ValueError: if it is not set, or no folder.
  """
  if not config.data_dir:
    raise ValueError(f'dataset {config.dataset!r} is not shipped: give '
                     f'--config.data_dir, a folder with {expected}')
  path = pathlib.Path(config.data_dir).expanduser()
  if not path.is_dir():
    raise ValueError(f'--config.data_dir={config.data_dir} is not a folder; '
                     f'dataset {config.dataset!r} expects one with {expected}')
  return path
