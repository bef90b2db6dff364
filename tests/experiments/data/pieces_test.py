"""Pieces of texts to classify: where they begin, and how many there are."""

import pathlib

import numpy as np
import pytest

from experiments.configs import default
from experiments.data import pieces

# Each byte is another, so that a piece tells its place.
_TEXTS = {'red': pieces.Texts(bytes(range(50)), bytes(range(50, 80))),
          'blue': pieces.Texts(bytes(range(80, 100)), bytes(range(100, 123)))}


def _load(context, test_examples):
  config = default.get_config()
  config.update(context=context, test_examples=test_examples)
  return pieces.load(config, root=pathlib.Path('folder'), classes=_TEXTS,
                     fingerprint='print', expected='texts')


def test_training_draws_every_place_of_every_class():
  data = _load(8, 10)
  inputs, labels = data.train(0, 1, 4_000)
  np.testing.assert_array_equal(
      inputs, inputs[:, :1] + np.arange(8, dtype=np.uint8)[None])
  for label, (text, _) in enumerate(_TEXTS.values()):
    assert {*inputs[labels == label, 0]} == {*text[:-7]}
  assert abs(labels.mean() - 0.5) < 0.05


@pytest.mark.parametrize('wanted, each', [(4, 2), (1, 1), (1_000, 2)])
def test_pieces_of_the_test_are_even_and_do_not_overlap(wanted, each):
  data = _load(9, wanted)
  (batch,) = data.test()
  assert batch.labels.tolist() == [0] * each + [1] * each
  firsts = [piece[0] for piece in batch.inputs.astype(int)]
  expected = [text[i * (len(text) // each)] for _, text in _TEXTS.values()
              for i in range(each)]
  assert firsts == expected


def test_a_class_with_too_few_bytes_is_told():
  with pytest.raises(ValueError, match=(
      'folder/blue has 20 bytes to train and 23 to test on, one piece takes '
      "21; dataset 'digits' expects texts")):
    _load(21, 4)
