"""Data sets: their formats, their batches, and what is told of bad files."""

import itertools
import shutil
import sys

import numpy as np
from PIL import Image
import pytest

from experiments.data import cifar
from experiments.data import dataset
from experiments.data import glue
from experiments.data import python_source
from tests import data_files

_WRITERS = {
    'cifar10': data_files.cifar10, 'cifar100': data_files.cifar100,
    'imagenet': data_files.imagenet, 'glue/sst2': data_files.glue,
    'glue/rte': data_files.glue, 'python_source': data_files.python_source,
    'packages': data_files.python_source, 'criteo': data_files.criteo,
    'movielens': data_files.movielens}
_NAMES = ['digits', 'synthetic_clicks', *_WRITERS]
_SIZES = dict(context=16, image_size=20, test_examples=9)


@pytest.fixture(name='load')
def _load(tmp_path):
  """A function that writes a data set and loads it."""
  def load(name, **overrides):
    if name in _WRITERS and not list(tmp_path.iterdir()):
      _WRITERS[name](tmp_path)
    return data_files.load(name, tmp_path, **{**_SIZES, **overrides})
  return load


def _inputs(batches):
  return np.concatenate([batch.inputs for batch in batches])


def _labels(batches):
  return np.concatenate([batch.labels for batch in batches])


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
    np.testing.assert_array_equal(_inputs(data.test()), _inputs(batches))


@pytest.mark.parametrize('count', [1, 255, 256, 257, 600])
def test_test_batches_have_one_size_and_miss_nothing(count):
  batches = list(dataset.in_batches(count, lambda rows: dataset.Batch(
      rows[:, None], rows.astype(np.int32))))
  assert {len(batch.labels) for batch in batches} == {min(count, 256)}
  labels = _labels(batches)
  np.testing.assert_array_equal(labels[:count], np.arange(count))
  assert (labels[count:] == dataset.PADDING).all()


# Digits.


def test_digits_are_split_by_class_and_never_shared():
  data = data_files.load('digits')
  labels = _labels(data.test())
  labels = labels[labels >= 0]
  assert labels.shape == (500,)
  images = _inputs(data.test())[:500]
  shares = np.bincount(labels) / 500
  np.testing.assert_allclose(shares, 0.1, atol=5e-3)
  drawn = data.train(0, 0, 20_000)
  test_rows, train_rows = (
      {row.tobytes() for row in rows} for rows in (images, drawn.inputs))
  assert len(train_rows) == 1_297
  assert not train_rows & test_rows
  assert abs(float(drawn.inputs.mean())) < 1e-2


# Python source.


def test_source_files_are_read_once_and_skipped_folders_never(tmp_path):
  data_files.python_source(tmp_path)
  files = python_source.read(tmp_path)
  assert len(files) == 39 and list(files) == sorted(files)
  assert 'z.py' not in files  # The copy.
  assert b'skipped' not in b''.join(files.values())
  assert files['package_1/module_1.py'].startswith(b'# 1\n')


def test_source_is_split_by_file(load, tmp_path):
  data = load('python_source')
  files = python_source.read(tmp_path)
  validation, training = (
      b'\0'.join(text for name, text in files.items()
                 if python_source.is_validation(name) == wanted)
      for wanted in (True, False))
  for windows, corpus, other in (
      (data.train(0, 0, 500).inputs, training, validation),
      (_inputs(data.test()), validation, training)):
    assert all(window.tobytes() in corpus for window in windows)
    # Only its number tells a file of this corpus from another.
    numbered = [w.tobytes() for w in windows if b'# ' in w.tobytes()[:-4]]
    assert numbered and not any(window in other for window in numbered)


def test_one_file_in_twenty_is_for_validation():
  share = np.mean([python_source.is_validation(f'file_{i}.py')
                   for i in range(4_000)])
  assert 0.04 < share < 0.06


def test_labels_are_the_bytes_that_follow(load):
  data = load('python_source')
  for batch in (data.train(0, 3, 20), *data.test()):
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.labels[:, :-1])


@pytest.mark.parametrize('wanted', [1, 9, 10_000])
def test_validation_windows_lie_at_equal_distances(wanted, load, tmp_path):
  data = load('python_source', test_examples=wanted)
  corpus = b'\0'.join(
      text for name, text in python_source.read(tmp_path).items()
      if python_source.is_validation(name))
  count = min(wanted, (len(corpus) - 1) // 16)
  distance = (len(corpus) - 1) // count
  starts = [distance * i for i in range(count)]
  assert starts[-1] + 16 < len(corpus) and distance >= 16
  expected = [corpus[start:start + 17] for start in starts]
  windows = [bytes([*inputs, labels[-1]]) for batch in data.test()
             for inputs, labels in zip(*batch) if labels[-1] >= 0]
  assert windows == expected


def test_source_needs_no_download():
  data = data_files.load('python_source')
  windows = _inputs(data.test())
  assert windows.shape == (1_024, 64)
  assert (windows < 128).mean() > 0.95


def test_fingerprint_sees_names_and_bytes(load, tmp_path):
  before = load('python_source').fingerprint
  file = tmp_path / 'package_1/module_1.py'
  content = file.read_bytes()
  file.write_bytes(content.replace(b'1', b'2', 1))
  changed = load('python_source').fingerprint
  file.unlink()
  (tmp_path / 'package_1/renamed.py').write_bytes(content)
  assert len({before, changed, load('python_source').fingerprint}) == 3


# CIFAR.


def test_cifar_pixels_are_planes_of_red_green_and_blue(tmp_path):
  files = data_files.cifar10(tmp_path)
  data = data_files.load('cifar10', tmp_path)
  raw = np.concatenate([
      files[f'data_batch_{i}'][b'data'] for i in range(1, 6)]).reshape(
          -1, 3, 1024)
  for channel in range(3):
    mean, std = raw[:, channel].mean(), raw[:, channel].std()
    planes = files['test_batch'][b'data'].reshape(6, 3, 32, 32)[:, channel]
    np.testing.assert_allclose(
        _inputs(data.test())[..., channel], (planes - mean) / std, rtol=1e-4,
        atol=1e-4)
  assert [*_labels(data.test())] == files['test_batch'][b'labels']


def test_cifar_is_read_packed_unpacked_or_inside_its_folder(tmp_path):
  data_files.cifar100(tmp_path)
  packed = data_files.load('cifar100', tmp_path)
  shutil.unpack_archive(
      tmp_path / 'cifar-100-python.tar.gz', tmp_path, filter='data')
  (tmp_path / 'cifar-100-python.tar.gz').unlink()
  unpacked = data_files.load('cifar100', tmp_path)
  inside = data_files.load('cifar100', tmp_path / 'cifar-100-python')
  assert packed.classes == 100
  assert packed.fingerprint == unpacked.fingerprint == inside.fingerprint


def test_augmentation_shifts_and_mirrors_and_nothing_else():
  height, width = 6, 5
  image = np.arange(1, 1 + height * width, dtype=np.uint8)
  image = np.repeat(image.reshape(1, height, width, 1), 3, -1)
  padded = np.pad(image[0], ((4, 4), (4, 4), (0, 0)))
  crops = [padded[top:top + height, left:left + width]
           for top, left in itertools.product(range(9), repeat=2)]
  possible = {crop.tobytes() for crop in crops} | {
      crop[:, ::-1].tobytes() for crop in crops}
  seen = {x.tobytes() for x in cifar.augmented(
      np.repeat(image, 2_000, 0), np.random.default_rng(0))}
  assert seen == possible


def test_augmentation_keeps_images_with_their_labels(tmp_path):
  files = data_files.cifar10(tmp_path)
  for number, (name, content) in enumerate(files.items()):
    content[b'data'][:] = 10 + 40 * number  # One colour a file.
    content[b'labels'] = [number] * len(content[b'labels'])
    (tmp_path / 'cifar-10-batches-py' / name).write_bytes(
        data_files.python2_pickle(content))
  batch = data_files.load('cifar10', tmp_path).train(0, 0, 200)
  middles = batch.inputs[:, 16, 16, 0]  # No shift uncovers the middle.
  colors, numbers = np.unique(middles, return_inverse=True)
  assert len(colors) == 5
  np.testing.assert_array_equal(numbers, batch.labels)


# ImageNet.


def test_pictures_have_the_class_of_their_folder(load):
  data = load('imagenet')
  assert data.classes == 2
  batch = data.train(0, 0, 32)
  is_blue = batch.inputs[:, 10, 10, 2] > batch.inputs[:, 10, 10, 0]
  np.testing.assert_array_equal(is_blue, batch.labels == 1)
  assert 0 < is_blue.sum() < 32
  assert [*_labels(data.test())] == [0, 0, 1, 1, 1]


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


# GLUE.


@pytest.mark.parametrize('name, texts, labels', [
    ('sst2', [b'a "fine film', b'dull', 'café \u2028 noir'.encode()],
     [1, 0, 1]),
    ('rte', [b'It rains.\1It is wet.', b'It rains.\1It is dry.'], [0, 1]),
    ('mrpc', [b'He said so .\1So he said .', b'He came .\1She left .'], [1, 0]),
    ('cola', [b'They drank.', b'Drank they.'], [1, 0]),
])
def test_glue_reads_texts_and_labels(name, texts, labels, tmp_path):
  data_files.glue(tmp_path)
  data = data_files.load(f'glue/{name}', tmp_path, context=40)
  batch, = data.test()
  assert [bytes(row).rstrip(b'\0') for row in batch.inputs] == texts
  assert [*batch.labels] == labels


def test_texts_are_cut_to_the_context_and_pairs_share_it():
  assert glue.encode(['abcdef'], 4) == b'abcd'
  assert glue.encode(['ab'], 4) == b'ab\0\0'
  assert glue.encode(['abcdef', 'ghijkl'], 7) == b'abc\1ghi'
  assert glue.encode(['abcdef', 'g'], 7) == b'abcde\1g'
  assert glue.encode(['a', 'ghijkl'], 7) == b'a\1ghijk'


def test_glue_leaves_out_a_few_short_lines_but_not_many(tmp_path):
  data_files.glue(tmp_path)
  file = tmp_path / 'RTE/train.tsv'
  whole = file.read_text()
  header, *rows = whole.splitlines()
  file.write_text('\n'.join([header, *100 * rows, '7\tIt rains.']))
  assert data_files.load('glue/rte', tmp_path).train(0, 0, 3)
  file.write_text('\n'.join([header, *rows, '7\tIt rains.']))
  with pytest.raises(ValueError, match='4 whole lines, 1 others'):
    data_files.load('glue/rte', tmp_path)


# Missing and damaged files: one line, what was expected, where to get it.


_PAGES = {
    'cifar10': 'cs.toronto.edu/~kriz/cifar.html',
    'cifar100': 'cs.toronto.edu/~kriz/cifar.html',
    'imagenet': 'image-net.org/download.php',
    'glue/sst2': 'gluebenchmark.com/tasks',
    'criteo': 'kaggle.com/c/criteo-display-ad-challenge',
    'movielens': 'grouplens.org/datasets/movielens'}


def _error(*args, **kwargs):
  with pytest.raises(ValueError) as error:
    data_files.load(*args, **kwargs).train(0, 0, 32)
  message = str(error.value)
  assert '\n' not in message
  return message


@pytest.mark.parametrize('name', _PAGES)
def test_missing_folder_is_told_with_its_page(name, tmp_path):
  assert '--config.data_dir' in _error(name)
  assert 'is not a folder' in _error(name, tmp_path / 'none')
  for message in (_error(name), _error(name, tmp_path / 'none'),
                  _error(name, tmp_path)):
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
  _WRITERS[name](tmp_path)
  path = tmp_path / file
  if 'imagenet' in name:
    for other in path.parent.iterdir():
      other.write_bytes(damage(other.read_bytes()))
  path.write_bytes(damage(path.read_bytes()))
  message = _error(name, tmp_path, **_SIZES)
  assert 'cannot read' in message and _PAGES[name] in message


def test_missing_parts_are_told_by_name(tmp_path):
  data_files.cifar10(tmp_path)
  (tmp_path / 'cifar-10-batches-py/data_batch_4').unlink()
  assert 'data_batch_4' in _error('cifar10', tmp_path)
  data_files.glue(tmp_path)
  (tmp_path / 'SST-2/dev.tsv').unlink()
  assert 'SST-2/dev.tsv' in _error('glue/sst2', tmp_path)
  data_files.imagenet(tmp_path)
  shutil.rmtree(tmp_path / 'val/n01443537')
  assert 'val/n01443537' in _error('imagenet', tmp_path)
  for picture in (tmp_path / 'train/n01443537').iterdir():
    picture.unlink()
  assert 'train/n01443537 has no pictures' in _error('imagenet', tmp_path)


def test_foreign_columns_and_labels_are_told(tmp_path):
  data_files.glue(tmp_path)
  file = tmp_path / 'SST-2/train.tsv'
  file.write_text('text\tlabel\nfine\t1\n')
  assert 'no column sentence' in _error('glue/sst2', tmp_path)
  file.write_text('sentence\tlabel\nfine\t1\ndull\tno\n')
  assert 'line 3 has the label \'no\', not one of 0, 1' in _error(
      'glue/sst2', tmp_path)


def test_images_without_labels_are_found_out(tmp_path):
  files = data_files.cifar10(tmp_path)
  files['data_batch_2'][b'labels'].pop()
  (tmp_path / 'cifar-10-batches-py/data_batch_2').write_bytes(
      data_files.python2_pickle(files['data_batch_2']))
  message = _error('cifar10', tmp_path)
  assert 'data_batch_2' in message and 'do not fit each other' in message


def test_pickles_that_run_code_are_refused(tmp_path):
  data_files.cifar10(tmp_path)
  ran = tmp_path / 'ran'
  file = tmp_path / 'cifar-10-batches-py/data_batch_1'
  file.write_bytes(b'cos\nmkdir\n(V' + str(ran).encode() + b'\ntR.')
  assert 'it asks for os.mkdir' in _error('cifar10', tmp_path)
  assert not ran.exists()


def test_too_few_bytes_for_a_window_is_told(tmp_path):
  (tmp_path / 'tiny.py').write_text('x = 1\n')
  message = _error('python_source', tmp_path)
  assert 'has 6 bytes to train on, one window takes 65' in message


def test_missing_pillow_says_what_to_install(load, monkeypatch):
  load('imagenet')
  monkeypatch.setitem(sys.modules, 'PIL', None)
  with pytest.raises(ValueError, match='pip install Pillow'):
    load('imagenet')
