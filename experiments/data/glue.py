"""The classification tasks of GLUE, read as bytes.

Reads the TSV files of https://gluebenchmark.com/tasks. The labels of the test
sets are not public, so runs are measured on the development sets.
"""

import pathlib
from typing import NamedTuple

import ml_collections
import numpy as np

from experiments.data import dataset

_PAGE = 'https://gluebenchmark.com/tasks'
_SEPARATOR = b'\1'  # Between the two texts of a pair; padding is 0.
_SHORT_LINES = 0.01  # The share allowed; some published files have a few.


class Task(NamedTuple):
  """The files of one task, and the columns to read."""
  folder: str
  texts: tuple[str, ...]
  label: str
  labels: tuple[str, ...]
  dev: str = 'dev.tsv'
  header: tuple[str, ...] | None = None  # None: the file's first line.


_BINARY = ('0', '1')
_ENTAILMENT = ('entailment', 'not_entailment')
TASKS = {
    'cola': Task('CoLA', ('sentence',), 'label', _BINARY,
                 header=('source', 'label', 'mark', 'sentence')),
    'sst2': Task('SST-2', ('sentence',), 'label', _BINARY),
    'mrpc': Task('MRPC', ('#1 String', '#2 String'), 'Quality', _BINARY),
    'qqp': Task('QQP', ('question1', 'question2'), 'is_duplicate', _BINARY),
    'mnli': Task('MNLI', ('sentence1', 'sentence2'), 'gold_label',
                 ('entailment', 'neutral', 'contradiction'),
                 dev='dev_matched.tsv'),
    'qnli': Task('QNLI', ('question', 'sentence'), 'label', _ENTAILMENT),
    'rte': Task('RTE', ('sentence1', 'sentence2'), 'label', _ENTAILMENT),
    'wnli': Task('WNLI', ('sentence1', 'sentence2'), 'label', _BINARY),
}


def load(config: ml_collections.ConfigDict, *, task: Task) -> dataset.Dataset:
  """Returns texts of `config.context` bytes, cut or padded with zeros.

  Raises:
    ValueError: if a file is missing or damaged.
  """
  root = dataset.folder(config, expected=(
      f'{task.folder}/train.tsv and {task.folder}/{task.dev} from {_PAGE}'))
  texts, labels = _read(root / task.folder / 'train.tsv', task, config.context)
  dev_texts, dev_labels = _read(
      root / task.folder / task.dev, task, config.context)

  def train(seed, step, size, part=dataset.WHOLE):
    rows = dataset.rows(seed, step, size, of=len(labels))[1][part]
    return dataset.Batch(texts[rows], labels[rows])

  def test():
    return dataset.in_batches(len(dev_labels), lambda rows: dataset.Batch(
        dev_texts[rows], dev_labels[rows]))

  return dataset.Dataset(
      dataset.TEXT, (config.context,), len(task.labels), train, test,
      dataset.fingerprint(texts, labels, dev_texts, dev_labels))


def encode(texts: list[str], context: int) -> bytes:
  """Returns one or two texts as `context` bytes, with a share for each."""
  first, *rest = [text.encode() for text in texts]
  if rest:
    second, room = rest[0], context - len(_SEPARATOR)
    first = first[:max(room - len(second), room // 2)]
    first += _SEPARATOR + second[:room - len(first)]
  return first[:context].ljust(context, b'\0')


def _read(path: pathlib.Path, task, context):
  """Returns texts `[N, context]` uint8 and labels `[N]` int32."""
  texts, labels, short = [], [], 0
  for line, row in _rows(path, task):
    if row is None:
      short += 1
    elif row[task.label] not in task.labels:
      raise _damaged(path, f'line {line} has the label {row[task.label]!r}, '
                     f'not one of {", ".join(task.labels)}')
    else:
      texts.append(encode([row[name] for name in task.texts], context))
      labels.append(task.labels.index(row[task.label]))
  if not texts or short > _SHORT_LINES * len(texts):
    raise _damaged(path, f'{len(texts)} whole lines, {short} others')
  return (np.frombuffer(b''.join(texts), np.uint8).reshape(-1, context),
          np.array(labels, np.int32))


def _rows(path, task):
  """Yields line numbers and columns by name; None for lines with too few."""
  try:
    # A carriage return alone is no end of a line, but part of a text.
    lines = path.read_bytes().decode('utf-8-sig').replace(
        '\r\n', '\n').split('\n')
  except (OSError, UnicodeDecodeError) as error:
    raise _damaged(path, error) from error
  header = task.header or lines.pop(0).split('\t')
  missing = {*task.texts, task.label} - {*header}
  if missing:
    raise _damaged(path, f'no column {", ".join(sorted(missing))}')
  for number, line in enumerate(lines, 2 - bool(task.header)):
    if line:
      row = line.split('\t')
      whole = len(row) >= len(header)
      yield number, dict(zip(header, row)) if whole else None


def _damaged(path, reason):
  return ValueError(f'cannot read {path} ({reason}); expected the file of that '
                    f'name from {_PAGE}')
