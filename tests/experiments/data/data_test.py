"""What every data set promises, and what is told of bad files."""

import shutil

import numpy as np
import pytest

from experiments.data import dataset
from tests._lib import data_files

_NAMES = ['digits', 'synthetic_clicks', *data_files.WRITERS]


# What every data set promises.


@pytest.mark.parametrize('name', _NAMES)
def test_batches_are_a_function_of_seed_and_step(name, load):
  data, again = load(name), load(name)
  first = data.train(1, 5, 8)
  for array, same in zip(first, again.train(1, 5, 8)):
    np.testing.assert_array_equal(array, same)
  for other in (data.train(1, 6, 8), data.train(2, 5, 8)):
    assert (first.inputs != other.inputs).any()


@pytest.mark.parametrize('name', _NAMES)
def test_parts_of_a_batch_are_those_of_the_whole(name, load):
  data = load(name)
  whole = data.train(1, 5, 8)
  for part in (slice(0, 3), slice(3, 8)):
    for array, expected in zip(data.train(1, 5, 8, part), whole):
      np.testing.assert_array_equal(array, expected[part])


@pytest.mark.parametrize('name', _NAMES)
def test_batches_have_the_shapes_and_types_that_are_told(name, load):
  data = load(name)
  for batch in (data.train(0, 1, 3), *data.test()):
    assert batch.inputs.shape[1:] == data.shape
    assert len(batch.inputs) == len(batch.labels)
    assert batch.labels.shape[1:] == (
        data.shape if data.task == dataset.NEXT_BYTE else ())
    assert batch.labels.dtype == np.int32
    texts = data.task in (dataset.TEXT, dataset.NEXT_BYTE)
    assert batch.inputs.dtype == data.input_dtype == (
        np.uint8 if texts else np.float32)
    assert batch.labels.max() < data.classes


@pytest.mark.parametrize('name', _NAMES)
def test_test_set_and_fingerprint_are_always_the_same(name, load):
  data, again = load(name), load(name)
  assert data.fingerprint == again.fingerprint
  assert len(data.fingerprint) == 12
  for batches in (data.test(), again.test()):
    np.testing.assert_array_equal(
        *map(data_files.inputs, (data.test(), batches)))


@pytest.mark.parametrize('count', [1, 255, 256, 257, 600])
def test_test_batches_have_one_size_and_miss_nothing(count):
  batches = list(dataset.in_batches(count, lambda rows: dataset.Batch(
      rows[:, None], rows.astype(np.int32))))
  assert {len(batch.labels) for batch in batches} == {min(count, 256)}
  labels = data_files.labels(batches)
  np.testing.assert_array_equal(labels[:count], np.arange(count))
  assert (labels[count:] == dataset.PADDING).all()


# Missing and damaged files: one line, what was expected, where to get it.


_PAGES = {
    'cifar10': 'cs.toronto.edu/~kriz/cifar.html',
    'cifar100': 'cs.toronto.edu/~kriz/cifar.html',
    'imagenet': 'image-net.org/download.php',
    'glue/sst2': 'gluebenchmark.com/tasks',
    'criteo': 'kaggle.com/c/criteo-display-ad-challenge',
    'movielens': 'grouplens.org/datasets/movielens'}


@pytest.mark.parametrize('name', _PAGES)
def test_missing_folder_is_told_with_its_page(name, tmp_path):
  assert '--config.data_dir' in data_files.error(name)
  assert 'is not a folder' in data_files.error(name, tmp_path / 'none')
  for path in (None, tmp_path / 'none', tmp_path):
    message = data_files.error(name, path)
    assert _PAGES[name] in message


@pytest.mark.parametrize('name, file', [
    ('cifar10', 'cifar-10-batches-py/data_batch_3'),
    ('cifar10', 'cifar-10-batches-py/test_batch'),
    ('cifar100', 'cifar-100-python.tar.gz'),
    ('imagenet', 'train/n01440764/n01440764_1.JPEG'),
    ('glue/sst2', 'SST-2/dev.tsv'), ('criteo', 'train.txt'),
    ('movielens', 'u.data'),
])
@pytest.mark.parametrize('damage', [
    lambda content: content[:len(content) // 3], lambda _: b'',
    lambda content: content[:40] + b'\xff' * 100 + content[140:],
    lambda _: b'\xff\xfe not what it was'])
def test_damaged_file_is_told_by_name(name, file, damage, tmp_path):
  data_files.WRITERS[name](tmp_path)
  path = tmp_path / file
  if 'imagenet' in name:
    for other in path.parent.iterdir():
      other.write_bytes(damage(other.read_bytes()))
  path.write_bytes(damage(path.read_bytes()))
  message = data_files.error(name, tmp_path, **data_files.SIZES)
  assert 'cannot read' in message and _PAGES[name] in message


def test_missing_parts_are_told_by_name(tmp_path):
  data_files.cifar10(tmp_path)
  (tmp_path / 'cifar-10-batches-py/data_batch_4').unlink()
  assert 'data_batch_4' in data_files.error('cifar10', tmp_path)
  data_files.glue(tmp_path)
  (tmp_path / 'SST-2/dev.tsv').unlink()
  assert 'SST-2/dev.tsv' in data_files.error('glue/sst2', tmp_path)
  data_files.imagenet(tmp_path)
  shutil.rmtree(tmp_path / 'val/n01443537')
  assert 'val/n01443537' in data_files.error('imagenet', tmp_path)
  for picture in (tmp_path / 'train/n01443537').iterdir():
    picture.unlink()
  assert 'train/n01443537 has no pictures' in data_files.error(
      'imagenet', tmp_path)
