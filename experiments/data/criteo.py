"""Criteo's Display Advertising Challenge: was an advertisement clicked on?

Reads the `train.txt` that was published for
https://www.kaggle.com/c/criteo-display-ad-challenge: 45,840,617 lines in the
order of their time, over seven days. A line has a label, 13 integers and 26
hashes, separated by tabs. Integers and hashes may be missing.

The first run reads the text once and writes `train.rows` beside it, with 105
bytes per line. Runs map this file into memory, because a step draws lines from
all over it.
"""

import hashlib
import json
import os

import ml_collections
import numpy as np
import tqdm

from experiments.data import dataset
from experiments.records import workdir

NUMBERS, IDS = 13, 26
BUCKETS = 2**14  # Hashes of a column; 0 stands for a missing one.
_FIELDS = 1 + NUMBERS + IDS
_ROW = np.dtype([('label', np.uint8), ('numbers', np.float32, NUMBERS),
                 ('ids', np.uint16, IDS)])
_FORMAT = 1  # Of the rows; they are written again if it changes.
_DAYS = 7  # The last one is for the test, as in the paper on DLRM.
_CHUNK = 2**23  # Bytes of text to read at a time.
_LABEL = dict(base=2, most=1)
_NUMBER = dict(base=10, most=10)
_HASH = dict(base=16, most=8)
_NO_DIGIT = 255
_DIGITS = np.full(256, _NO_DIGIT, np.uint8)  # By character.
_DIGITS[np.frombuffer(b'0123456789abcdef', np.uint8)] = np.arange(16)
_EXPECTED = ('train.txt of '
             'https://www.kaggle.com/c/criteo-display-ad-challenge')


def load(config: ml_collections.ConfigDict) -> dataset.Dataset:
  """Returns the first six days to train on, examples of the last to test on.

  Numbers are `log(1 + max(number, 0))`, and 0 if they are missing. A hash of 32
  bits is reduced to its remainder modulo `BUCKETS - 1`. The test uses
  `config.test_examples` of the last seventh of the lines, at equal distances.

  Raises:
    ValueError: if the file is missing or damaged.
    OSError: if the rows cannot be written beside the file.
  """
  root = dataset.folder(config, expected=_EXPECTED)
  rows, fingerprint = _rows(root / 'train.txt')
  start = len(rows) - len(rows) // _DAYS
  count = min(config.test_examples, len(rows) - start)
  test_places = start + (len(rows) - start) // count * np.arange(count)

  def batch(places):
    drawn = rows[places]
    return dataset.Batch(
        np.concatenate([drawn['numbers'], drawn['ids']], axis=1,
                       dtype=np.float32), drawn['label'].astype(np.int32))

  def train(seed, step, size, part=dataset.WHOLE):
    return batch(dataset.rows(seed, step, size, of=start)[1][part])

  def test():
    return dataset.in_batches(
        count, lambda places: batch(test_places[places]))

  return dataset.Dataset(
      dataset.RECOMMENDATION, (NUMBERS + IDS,), 2, train, test, fingerprint,
      IDS * (BUCKETS,))


def _rows(path):
  """Returns the lines `[N]`, mapped into memory, and their fingerprint."""
  if not path.is_file():
    raise ValueError(f'no file {path}; expected {_EXPECTED}')
  binary, note = path.with_suffix('.rows'), path.with_suffix('.rows.json')
  about = path.stat()
  source = [_FORMAT, about.st_size, about.st_mtime_ns]
  if binary.exists() and note.exists():
    known = json.loads(note.read_text())
    if known['source'] == source:
      return np.memmap(binary, _ROW, mode='r'), known['fingerprint']
  # Runs that start together each write a file, and the last one is kept.
  partial = path.with_suffix(f'.{os.getpid()}.partial')
  try:
    fingerprint = _convert(path, partial)
    note.unlink(missing_ok=True)  # It must never belong to other rows.
    os.replace(partial, binary)
  finally:
    partial.unlink(missing_ok=True)
  workdir.write(note, json.dumps(
      {'source': source, 'fingerprint': fingerprint}))
  return np.memmap(binary, _ROW, mode='r'), fingerprint


def _convert(path, binary):
  """Writes the rows of a text; returns their fingerprint."""
  sha, count = hashlib.sha256(), 0
  with (path.open('rb') as text, binary.open('wb') as file,
        tqdm.tqdm(desc=f'reading {path.name}', total=path.stat().st_size,
                  unit='B', unit_scale=True, disable=None) as bar):
    while chunk := text.read(_CHUNK) + text.readline():
      rows = _parse(chunk, path, count)
      count += len(rows)
      sha.update(rows.tobytes())
      file.write(rows.tobytes())
      bar.update(len(chunk))
  if count < _DAYS:
    raise _damaged(path, f'{count} lines')
  return sha.hexdigest()[:12]


def _parse(chunk, path, before):
  """Returns the rows of some lines, vectorized, as there are 45 million.

  Args:
    chunk: the text, complete lines.
    path: the file of the text, for messages.
    before: the number of lines before the text.
  """
  text = np.frombuffer(chunk.removesuffix(b'\n') + b'\n', np.uint8)
  ends = np.flatnonzero((text == ord('\t')) | (text == ord('\n')))
  fields = np.diff(np.flatnonzero(text[ends] == ord('\n')), prepend=-1)
  for line in np.flatnonzero(fields != _FIELDS):
    raise _damaged(path, f'line {before + line + 1} has {fields[line]} fields, '
                   f'not {_FIELDS}')
  starts = np.concatenate([[0], ends[:-1] + 1]).reshape(-1, _FIELDS)
  ends = ends.reshape(-1, _FIELDS)

  label, number, hash_ = np.split(
      np.arange(_FIELDS), [1, 1 + NUMBERS])  # Which fields are what.
  negative = (text[starts[:, number]] == ord('-'))
  values, valid = zip(*(
      _integers(text, starts[:, columns] + sign, ends[:, columns], **kind)
      for columns, sign, kind in (
          (label, 0, _LABEL), (number, negative, _NUMBER), (hash_, 0, _HASH))))
  missing = starts == ends
  valid = np.concatenate(valid, axis=1)
  valid[:, label] &= ~missing[:, label]
  for line, field in np.argwhere(~valid):
    found = chunk[starts[line, field]:ends[line, field]]
    raise _damaged(
        path, f'field {field + 1} of line {before + line + 1} is {found!r}')

  rows = np.empty(len(starts), _ROW)
  rows['label'] = values[0][:, 0]
  rows['numbers'] = np.log1p(np.where(negative, 0, values[1]))
  rows['ids'] = np.where(missing[:, hash_], 0, 1 + values[2] % (BUCKETS - 1))
  return rows


def _integers(text, starts, ends, *, base, most):
  """Returns the integers in some fields, and whether each field is an integer.

  Args:
    text: the characters.
    starts: the starts of the fields.
    ends: the ends of the fields. An empty field is 0.
    base: the base of the digits.
    most: the largest number of digits.
  """
  values = np.zeros(starts.shape, np.int64)
  valid = ends - starts <= most
  for i in range(most):
    inside = starts + i < ends
    digits = _DIGITS[text.take(starts + i, mode='clip')]
    valid &= ~inside | (digits < base)
    values = np.where(inside, base * values + digits, values)
  return values, valid


def _damaged(path, reason):
  return ValueError(f'cannot read {path} ({reason}); expected {_EXPECTED}')
