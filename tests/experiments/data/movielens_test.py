"""MovieLens: three formats, split by time."""

import numpy as np
import pytest

from tests._lib import data_files


@pytest.mark.parametrize('name', ['u.data', 'ratings.dat', 'ratings.csv'])
def test_movielens_is_split_by_time_and_four_stars_are_liked(name, tmp_path):
  data_files.movielens(tmp_path, name)
  dataset = data_files.load('movielens', tmp_path)
  assert dataset.shape == (2,) and dataset.cardinalities == (7, 42)
  inputs, labels = data_files.examples(dataset.test())
  # Times fall from line to line: the last tenth is the first four lines.
  np.testing.assert_array_equal(inputs, [[3, 3], [2, 2], [1, 1], [0, 0]])
  np.testing.assert_array_equal(labels, [1, 0, 0, 0])
  drawn = dataset.train(0, 1, 1_000)
  assert {*drawn.inputs[:, 1]} == {*range(4, 42)}
  np.testing.assert_array_equal(
      drawn.inputs[:, 0], drawn.inputs[:, 1] % 7)
  np.testing.assert_array_equal(drawn.labels, drawn.inputs[:, 1] % 5 >= 3)


def test_half_stars_are_read(tmp_path):
  (tmp_path / 'ratings.csv').write_text(
      'userId,movieId,rating,timestamp\n' + ''.join(
          f'1,{i},{stars},{i}\n' for i, stars in enumerate(10 * [3.5, 4.0])))
  batch = data_files.load('movielens', tmp_path).train(0, 1, 100)
  np.testing.assert_array_equal(batch.labels, batch.inputs[:, 1] % 2)


@pytest.mark.parametrize('text, told', [
    ('1\t2\t6\t9\n', 'stars from 1.0 to 6.0'), ('1\t2\t3\n', 'columns'),
    ('1\ttwo\t3\t4\n', 'two')])
def test_what_is_wrong_in_ratings_is_told(text, told, tmp_path):
  data_files.movielens(tmp_path)
  with (tmp_path / 'u.data').open('a') as file:
    file.write(text)
  with pytest.raises(ValueError, match=told) as error:
    data_files.load('movielens', tmp_path)
  assert 'grouplens.org' in str(error.value)
  assert '\n' not in str(error.value)
