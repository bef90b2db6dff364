"""Pictures in class folders."""

import sys

import numpy as np
from PIL import Image
import pytest

from tests._lib import data_files


def test_pictures_have_the_class_of_their_folder(load):
  data = load('imagenet')
  assert data.classes == 2
  batch = data.train(0, 0, 32)
  is_blue = batch.inputs[:, 10, 10, 2] > batch.inputs[:, 10, 10, 0]
  np.testing.assert_array_equal(is_blue, batch.labels == 1)
  assert 0 < is_blue.sum() < 32
  assert [*data_files.labels(data.test())] == [0, 0, 1, 1, 1]


@pytest.fixture(name='ramp')
def _ramp(tmp_path):
  """Pictures that are lighter to the right: a column tells where it was."""
  columns = np.arange(256, dtype=np.uint8)
  pixels = np.broadcast_to(columns[:, None], (256, 256, 3))
  for split in ('train', 'val'):
    (tmp_path / split / 'ramp').mkdir(parents=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        tmp_path / split / 'ramp/1.JPEG', quality=95)
  data = data_files.load('imagenet', tmp_path, image_size=224)

  def places(batch):  # [N, columns]
    return 255 * (0.224 * batch.inputs[:, 112, :, 1] + 0.456)
  return data, places


def test_test_pictures_are_the_middle(ramp):
  data, places = ramp
  np.testing.assert_allclose(
      places(next(data.test()))[0], np.arange(16, 240), atol=2)


def test_training_pictures_are_parts_half_of_them_mirrored(ramp):
  data, places = ramp
  ends = places(data.train(0, 0, 64))[:, [0, -1]]
  mirrored = ends[:, 0] > ends[:, 1]
  assert 16 < mirrored.sum() < 48
  widths = np.abs(ends[:, 1] - ends[:, 0]) / 256
  # A side of a part of area a and ratio r is sqrt(a r).
  assert 0.2 < widths.min() < 0.5 < 0.8 < widths.max() < 1.01
  assert len(np.unique(ends.round(), axis=0)) > 60


def test_missing_pillow_says_what_to_install(load, monkeypatch):
  load('imagenet')
  monkeypatch.setitem(sys.modules, 'PIL', None)
  with pytest.raises(ValueError, match='pip install Pillow'):
    load('imagenet')
