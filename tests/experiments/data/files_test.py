"""Files as data: which are found, what of them is read, how they are split."""

import numpy as np
import pytest

from experiments.data import files

_CLASSES = ('json', 'python', 'png')
_SETTINGS = dict(classes=_CLASSES, cap=100, ends=40, no_byte=256)


@pytest.fixture(name='folder')
def _folder(tmp_path):
  """Twelve files of Python, six of JSON, some with the same text."""
  for i in range(12):
    (tmp_path / f'module_{i}.py').write_text(f'value = {i}{i} # module\n')
  for i in range(6):
    path = tmp_path / 'below' / f'{i}.JSON'
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{{"value": {i}}}')
  (tmp_path / 'copy.py').write_text((tmp_path / 'module_0.py').read_text())
  (tmp_path / 'short.py').write_text('\n\nx = 1\n\n')
  (tmp_path / 'notes.txt').write_text('of any kind of text')
  (tmp_path / '__pycache__').mkdir()
  (tmp_path / '__pycache__/module.py').write_text('skipped = "for sure"')
  (tmp_path / 'gone.py').symlink_to(tmp_path / 'nowhere.py')
  return tmp_path


def test_files_are_found_by_their_extension(folder):
  found = files.find([str(folder)])
  assert {type_: len(paths) for type_, paths in found.paths.items()} == {
      'json': 6, 'python': 14}
  # A folder inside of another one is not looked at twice.
  assert files.find([str(folder / 'below'), str(folder)]) == found


def test_python_itself_has_files_of_many_types():
  assert len(files.find().paths) > 10


def test_types_are_those_that_the_network_knows():
  magika = pytest.importorskip('experiments.models.magika')
  try:
    known = magika.load().types
  except ValueError:
    pytest.skip('the wheel is not installed')
  assert {*files.TYPES.values()} <= {*known}


@pytest.mark.parametrize('text, first, last', [
    (b'0123456789abcdef', b'01234567', b'89abcdef'),
    (b' \n0123456789 ', b'01234567', b'23456789'),
    (b'  01234567', b'01234567', b'01234567'),
    (b'a' * 5_000 + b'b' * 8 + b' ' * 4_092, b'a' * 8, b'bbbb'),
    (b' ' * 5_000 + b'0123456789', None, None),
    (b'0123456', None, None),
])
def test_features_are_both_ends_without_blanks(text, first, last, tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(text)
  read = files.features(path, ends=8, no_byte=256)
  if first is None:
    assert read is None
    return
  want = [*first, *[256] * (8 - len(first)), *[256] * (8 - len(last)), *last]
  np.testing.assert_array_equal(read, want)


def test_features_of_short_files_are_padded_in_the_middle(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b' 12345678 ')
  read = files.features(path, ends=10, no_byte=256)
  # The beginning keeps blanks at its end, and the end those before it.
  np.testing.assert_array_equal(
      read, [*b'12345678 ', 256, 256, *b' 12345678'])


def test_sets_share_no_content_and_have_the_labels_of_their_files(folder):
  batches = files.draw(files.find([str(folder)]), (10, 8), seed=0, **_SETTINGS)
  assert [len(batch.inputs) for batch in batches] == [10, 8]
  rows = [row.tobytes() for batch in batches for row in batch.inputs]
  assert len({*rows}) == 18  # All there are, without the copy.
  for batch in batches:
    first = [_CLASSES[label] for label in batch.labels]
    assert first == ['json' if row[0] == ord('{') else 'python'
                     for row in batch.inputs]
    assert batch.inputs.dtype == batch.labels.dtype == np.int32


def test_seed_decides_the_order_and_the_first_set_does_not_see_the_second(
    folder):
  def first(seed, *sizes):
    return files.draw(
        files.find([str(folder)]), sizes, seed=seed, **_SETTINGS)[0]
  np.testing.assert_array_equal(first(0, 9).inputs, first(0, 9, 5).inputs)
  assert (first(0, 9).inputs != first(1, 9).inputs).any()


def test_no_type_has_more_files_than_the_cap(folder):
  listing = files.find([str(folder)])
  settings = {**_SETTINGS, 'cap': 3}
  (batch,) = files.draw(listing, (6,), seed=0, **settings)
  np.testing.assert_array_equal(np.bincount(batch.labels), [3, 3])
  with pytest.raises(ValueError, match='there are 6 files that differ'):
    files.draw(listing, (7,), seed=0, **settings)


def test_fingerprint_sees_names_and_sizes(folder):
  fingerprints = {files.find([str(folder)]).fingerprint}
  (folder / 'module_1.py').write_text('changed = 1\n')
  fingerprints.add(files.find([str(folder)]).fingerprint)
  (folder / 'module_1.py').rename(folder / 'renamed.py')
  fingerprints.add(files.find([str(folder)]).fingerprint)
  (folder / 'notes.txt').unlink()  # It is none of them.
  fingerprints.add(files.find([str(folder)]).fingerprint)
  assert len(fingerprints) == 3


def test_folders_without_such_files_are_told(tmp_path):
  with pytest.raises(ValueError, match='hold no file whose extension is known'):
    files.find([str(tmp_path)])
  with pytest.raises(ValueError, match='nowhere must be a folder'):
    files.find([str(tmp_path / 'nowhere')])
