"""CIFAR: pixels, archives, augmentation, pickles that are refused."""

import itertools
import shutil

import numpy as np

from experiments.data import cifar
from tests._lib import data_files


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
        data_files.inputs(data.test())[..., channel], (planes - mean) / std,
        rtol=1e-4, atol=1e-4)
  assert [*data_files.labels(data.test())] == files['test_batch'][b'labels']


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


def test_images_without_labels_are_found_out(tmp_path):
  files = data_files.cifar10(tmp_path)
  files['data_batch_2'][b'labels'].pop()
  (tmp_path / 'cifar-10-batches-py/data_batch_2').write_bytes(
      data_files.python2_pickle(files['data_batch_2']))
  message = data_files.error('cifar10', tmp_path)
  assert 'data_batch_2' in message and 'do not fit each other' in message


def test_pickles_that_run_code_are_refused(tmp_path):
  data_files.cifar10(tmp_path)
  ran = tmp_path / 'ran'
  file = tmp_path / 'cifar-10-batches-py/data_batch_1'
  file.write_bytes(b'cos\nmkdir\n(V' + str(ran).encode() + b'\ntR.')
  assert 'it asks for os.mkdir' in data_files.error('cifar10', tmp_path)
  assert not ran.exists()
