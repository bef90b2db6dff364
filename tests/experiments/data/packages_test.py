"""Which package is a piece of Python from: classes, splits, codes."""

import re

import numpy as np
import pytest

from experiments.data import packages
from tests._lib import data_files


def _pieces(batches):
  return [(bytes(piece), label) for batch in batches
          for piece, label in zip(*batch) if label >= 0]


@pytest.fixture(name='folder')
def _folder(tmp_path):
  """Three folders of ten files whose words are theirs and nobody else's."""
  for name in ('red', 'green', 'blue'):
    for i in range(10):
      file = tmp_path / name / f'module_{i}.py'
      file.parent.mkdir(exist_ok=True)
      file.write_text(f'{name} = {name}_{i} # {name.upper()}\n'
                      + f'{name}s_of_{i}_{name}s += 1\n' * (4 + i))
  (tmp_path / 'top.py').write_text('of no package\n')
  return tmp_path


def _decoded(piece, codes):
  words = {code: word for word, code in codes.items()}
  return re.sub(rb'[\x01-\x08\x7f-\xff]', lambda code: words[code[0]], piece)


def test_pieces_have_the_class_of_their_folder_and_its_name_nowhere(
    folder, monkeypatch):
  codes = {}

  def noted(texts):
    codes.update(dictionary(texts))
    return codes
  dictionary = packages.dictionary
  monkeypatch.setattr(packages, 'dictionary', noted)
  dataset = data_files.load('packages', folder, context=40, test_examples=30)
  assert dataset.classes == 3
  for piece, label in _pieces([dataset.train(0, 1, 300), *dataset.test()]):
    text = _decoded(piece, codes)
    assert b'top' not in text and b'package' not in text
    whole = re.sub(rb'^\w+|\w+$', b'', text)
    assert not re.search(rb'(?i)\b(red|green|blue)\b', whole)
    (theirs,) = {name for name in (b'blue', b'green', b'red') if name in text}
    assert [b'blue', b'green', b'red'].index(theirs) == label


def test_files_of_the_test_are_not_trained_on_and_classes_are_even(folder):
  dataset = data_files.load('packages', folder, context=40, test_examples=30)
  numbers = re.compile(rb'_(\d)_')  # Of the file that a piece is from.
  seen, tested = (
      {(label, number) for piece, label in _pieces(batches)
       for number in numbers.findall(piece)}
      for batches in ([dataset.train(0, 1, 2_000)], dataset.test()))
  assert not seen & tested
  assert len(seen | tested) == 30
  labels = [label for _, label in _pieces(dataset.test())]
  assert {*np.bincount(labels)} == {len(labels) / 3}
  assert 15 <= len(labels) <= 30
  drawn = np.bincount(dataset.train(0, 1, 3_000).labels) / 3_000
  np.testing.assert_allclose(drawn, 1 / 3, atol=0.04)


def test_codes_stand_for_the_words_that_make_texts_shortest():
  codes = packages.dictionary([
      b'aaaa aaaa bb bb bb\n    c', 20 * b'dd ' + b'e' * 40])
  assert [*codes][:3] == [b'e' * 40, b'aaaa', b'dd']
  assert len(codes) <= 8 + 129 and len({*codes.values()}) == len(codes)
  text = 'aaaa\n    aaaabb = e_dd # \u00e9'.encode()
  coded = packages.encode(text, codes)
  assert len(coded) < len(text)
  assert _decoded(coded, codes) == b'aaaa\n    aaaabb = e_dd # ??'


def test_standard_library_has_every_class():
  dataset = data_files.load('packages', test_examples=800)
  assert dataset.classes == len(packages.CLASSES) == 8
  labels = [label for _, label in _pieces(dataset.test())]
  np.testing.assert_array_equal(np.bincount(labels), 100)
  assert not np.concatenate([b.inputs for b in dataset.test()]).min() == 0


def test_fingerprint_sees_names_and_bytes(folder):
  def fingerprint():
    return data_files.load('packages', folder, context=16).fingerprint
  before = fingerprint()
  file = folder / 'red/module_1.py'
  file.write_text(file.read_text().replace('1', '2'))
  changed = fingerprint()
  file.rename(folder / 'red/other.py')
  assert len({before, changed, fingerprint()}) == 3


def test_too_few_folders_or_bytes_are_told(folder, tmp_path):
  with pytest.raises(ValueError, match='one piece takes 5000; .* expects two'):
    data_files.load('packages', folder, context=5_000)
  with pytest.raises(ValueError, match='has 0 folders with .py files'):
    data_files.load('packages', tmp_path / 'red')
