"""The digits that ship with scikit-learn."""

import numpy as np

from tests._lib import data_files


def test_digits_are_split_by_class_and_never_shared():
  data = data_files.load('digits')
  labels = data_files.labels(data.test())
  labels = labels[labels >= 0]
  assert labels.shape == (500,)
  images = data_files.inputs(data.test())[:500]
  shares = np.bincount(labels) / 500
  np.testing.assert_allclose(shares, 0.1, atol=5e-3)
  drawn = data.train(0, 0, 20_000)
  test_rows, train_rows = (
      {row.tobytes() for row in rows} for rows in (images, drawn.inputs))
  assert len(train_rows) == 1_297
  assert not train_rows & test_rows
  assert abs(float(drawn.inputs.mean())) < 1e-2
