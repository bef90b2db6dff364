"""Texts byte by byte: files, windows, the bytes that follow."""

import numpy as np
import pytest

from experiments.data import next_bytes
from experiments.data import python_source
from tests._lib import data_files


def test_source_is_split_by_file(load, tmp_path):
  data = load('python_source')
  files = python_source.read(tmp_path)
  validation, training = (
      b'\0'.join(text for name, text in files.items()
                 if next_bytes.is_validation(name, 20) == wanted)
      for wanted in (True, False))
  for windows, corpus, other in (
      (data.train(0, 0, 500).inputs, training, validation),
      (data_files.inputs(data.test()), validation, training)):
    assert all(window.tobytes() in corpus for window in windows)
    # Only its number tells a file of this corpus from another.
    numbered = [w.tobytes() for w in windows if b'# ' in w.tobytes()[:-4]]
    assert numbered and not any(window in other for window in numbered)


@pytest.mark.parametrize('one_in', [10, 20])
def test_one_file_in_so_many_is_for_validation(one_in):
  share = np.mean([next_bytes.is_validation(f'file_{i}.py', one_in)
                   for i in range(4_000)])
  assert 0.8 / one_in < share < 1.2 / one_in


def test_labels_are_the_bytes_that_follow(load):
  data = load('python_source')
  for batch in (data.train(0, 3, 20), *data.test()):
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.labels[:, :-1])


@pytest.mark.parametrize('wanted', [1, 9, 10_000])
def test_validation_windows_lie_at_equal_distances(wanted, load, tmp_path):
  data = load('python_source', test_examples=wanted)
  corpus = b'\0'.join(
      text for name, text in python_source.read(tmp_path).items()
      if next_bytes.is_validation(name, 20))
  count = min(wanted, (len(corpus) - 1) // 16)
  distance = (len(corpus) - 1) // count
  starts = [distance * i for i in range(count)]
  assert starts[-1] + 16 < len(corpus) and distance >= 16
  expected = [corpus[start:start + 17] for start in starts]
  windows = [bytes([*inputs, labels[-1]]) for batch in data.test()
             for inputs, labels in zip(*batch) if labels[-1] >= 0]
  assert windows == expected
