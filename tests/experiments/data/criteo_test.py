"""Criteo's text, read as it was published."""

import json

import numpy as np
import pytest

from experiments.data import criteo
from tests._lib import data_files


def _row_of(line):
  """One line of the text, read field by field."""
  label, *fields = line.split('\t')
  numbers = [np.log1p(max(int(x or 0), 0)) for x in fields[:13]]
  ids = [1 + int(x, 16) % (criteo.BUCKETS - 1) if x else 0
         for x in fields[13:]]
  return int(label), np.array([*numbers, *ids], np.float32)


@pytest.mark.parametrize('chunk', [1, 1_000, 2**23])
def test_criteo_is_read_as_published(chunk, tmp_path, monkeypatch):
  monkeypatch.setattr(criteo, '_CHUNK', chunk)
  lines = data_files.criteo(tmp_path)
  dataset = data_files.load('criteo', tmp_path)
  assert dataset.cardinalities == 26 * (criteo.BUCKETS,)
  labels, rows = zip(*map(_row_of, lines))
  assert 0 in rows[0] and max(labels) == 1
  # The last seventh, in order.
  inputs, test_labels = data_files.examples(dataset.test())
  np.testing.assert_allclose(inputs, rows[60:], rtol=1e-6)
  assert [*test_labels] == [*labels[60:]]
  drawn = dataset.train(0, 1, 2_000)
  # Which line it is, the first hash tells, which is never missing.
  lines_drawn = ((drawn.inputs[:, 13] - 1) // 32).astype(int)
  assert {*lines_drawn} == {*range(60)}
  np.testing.assert_allclose(
      drawn.inputs, np.array(rows)[lines_drawn], rtol=1e-6)
  np.testing.assert_array_equal(drawn.labels, np.array(labels)[lines_drawn])


def test_criteo_text_is_read_once_and_again_if_it_changed(
    tmp_path, monkeypatch):
  file = tmp_path / 'train.txt'
  data_files.criteo(tmp_path)
  first = data_files.load('criteo', tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == {
      'train.txt', 'train.rows', 'train.rows.json'}
  with monkeypatch.context() as patch:
    patch.setattr(criteo, '_convert', None)
    again = data_files.load('criteo', tmp_path)
  assert again.fingerprint == first.fingerprint
  file.write_text(file.read_text() + file.read_text())
  changed = data_files.load('criteo', tmp_path)
  assert changed.fingerprint != first.fingerprint
  assert len(data_files.examples(changed.test())[0]) == 20
  assert json.loads((tmp_path / 'train.rows.json').read_text())[
      'fingerprint'] == changed.fingerprint


def test_end_of_the_last_line_may_be_missing(tmp_path):
  data_files.criteo(tmp_path)
  whole = data_files.load('criteo', tmp_path).fingerprint
  file = tmp_path / 'train.txt'
  file.write_text(file.read_text()[:-1])
  assert data_files.load('criteo', tmp_path).fingerprint == whole


@pytest.mark.parametrize('field, text, told', [
    (1, '2', "field 1 of line 8 is b'2'"), (1, '', "field 1 of line 8 is b''"),
    (1, '0\t1', 'line 8 has 41 fields, not 40'),
    (2, '6.5', "field 2 of line 8 is b'6.5'"),
    (3, '1\n', 'line 8 has 3 fields, not 40'),
    (14, '12345678901', "field 14 of line 8 is b'12345678901'"),
    (15, '-00000e0', "field 15 of line 8 is b'-00000e0'"),
    (40, '000000g0', "field 40 of line 8 is b'000000g0'"),
    (40, '000000a0\r', r"field 40 of line 8 is b'000000a0\r'")])
def test_what_is_wrong_in_a_line_is_told(
    field, text, told, tmp_path, monkeypatch):
  monkeypatch.setattr(criteo, '_CHUNK', 500)
  lines = data_files.criteo(tmp_path)
  fields = lines[7].split('\t')
  fields[field - 1] = text
  lines[7] = '\t'.join(fields)
  (tmp_path / 'train.txt').write_text('\n'.join(lines) + '\n')
  with pytest.raises(ValueError) as error:
    data_files.load('criteo', tmp_path)
  assert told in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ['train.txt']


def test_few_lines_are_no_data_set(tmp_path):
  data_files.movielens(tmp_path, count=9)
  with pytest.raises(ValueError, match='9 lines of 4 numbers'):
    data_files.load('movielens', tmp_path)
  data_files.criteo(tmp_path, lines=6)
  with pytest.raises(ValueError, match='6 lines'):
    data_files.load('criteo', tmp_path)
