"""Python source: files, windows, the bytes that follow."""

import numpy as np
import pytest

from experiments.data import python_source
from tests._lib import data_files


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
      (data_files.inputs(data.test()), validation, training)):
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
  windows = data_files.inputs(data.test())
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


def test_too_few_bytes_for_a_window_is_told(tmp_path):
  (tmp_path / 'tiny.py').write_text('x = 1\n')
  message = data_files.error('python_source', tmp_path)
  assert 'has 6 bytes to train on, one window takes 65' in message
