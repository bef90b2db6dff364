"""MovieLens: will a user like a movie?

Reads any of the published sets of https://grouplens.org/datasets/movielens, by
its file: `u.data` (100K), `ratings.dat` (1M, 10M) or `ratings.csv` (20M and
later). A rating of four stars or more means that the user likes the movie.
"""

from collections.abc import Iterator
from typing import NamedTuple
import warnings

import ml_collections
import numpy as np

from experiments.data import dataset

_EXPECTED = ('u.data, ratings.dat or ratings.csv of a set from '
             'https://grouplens.org/datasets/movielens')
_TEST_SHARE = 10  # The last tenth of the ratings.
_LIKED = 4
_MOST_STARS = 5


class _Format(NamedTuple):
  """How a file separates users, movies, stars and times."""
  separator: str
  header: int = 0  # Lines.


_FORMATS = {'u.data': _Format('\t'), 'ratings.dat': _Format('::'),
            'ratings.csv': _Format(',', header=1)}


def load(config: ml_collections.ConfigDict) -> dataset.Dataset:
  """Returns examples of two ids, user and movie, and no numbers.

  The test uses the last tenth of the ratings by time: `config.test_examples` of
  them at equal distances. Users and movies that occur only there are new to a
  model, as in practice.

  Raises:
    ValueError: if the file is missing or damaged.
  """
  root = dataset.folder(config, expected=_EXPECTED)
  path = next((root / name for name in _FORMATS if (root / name).is_file()),
              None)
  if path is None:
    raise ValueError(f'{root} has no {", ".join(_FORMATS)}; expected '
                     f'{_EXPECTED}')
  ratings = _read(path)
  ratings = ratings[np.argsort(ratings[:, 3], kind='stable')]
  labels = (ratings[:, 2] >= _LIKED).astype(np.int32)
  known, columns = zip(*(
      np.unique(column, return_inverse=True) for column in ratings.T[:2]))
  ids = np.stack(columns, axis=1).astype(np.float32)
  start = len(ids) - len(ids) // _TEST_SHARE
  count = min(config.test_examples, len(ids) - start)
  distance = (len(ids) - start) // count

  def batch(places):
    return dataset.Batch(ids[places], labels[places])

  def train(seed, step, size, part=dataset.WHOLE):
    return batch(dataset.rows(seed, step, size, of=start)[1][part])

  def test():
    return dataset.in_batches(
        count, lambda places: batch(start + distance * places))

  return dataset.Dataset(
      dataset.RECOMMENDATION, (2,), 2, train, test,
      dataset.fingerprint(ratings), tuple(map(len, known)))


def _read(path):
  """Returns users, movies, stars and times: `[N, 4]` float64."""
  form = _FORMATS[path.name]
  try:
    with path.open() as file, warnings.catch_warnings():
      warnings.simplefilter('ignore', UserWarning)  # Of no lines; see below.
      ratings = np.loadtxt(
          _tabbed(file, form.separator), delimiter='\t', skiprows=form.header,
          ndmin=2)
  except (OSError, ValueError) as error:
    raise _damaged(path, error) from error
  if ratings.shape[1] != 4 or len(ratings) < _TEST_SHARE:
    raise _damaged(path, f'{len(ratings)} lines of {ratings.shape[1]} numbers')
  stars = ratings[:, 2]
  if not ((0 <= stars) & (stars <= _MOST_STARS)).all():
    raise _damaged(path, f'stars from {stars.min()} to {stars.max()}')
  return ratings


def _tabbed(lines, separator) -> Iterator[str]:
  return (line.replace(separator, '\t') for line in lines)


def _damaged(path, reason):
  return ValueError(f'cannot read {path} ({reason}); expected {_EXPECTED}')
