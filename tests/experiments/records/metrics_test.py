"""Metrics: rows of a file, and the area under the ROC curve."""

import itertools
import re

import numpy as np
import pytest

from experiments.records import metrics
from experiments.training import runs
from experiments.training import steps
from tests._lib import commands
from tests._lib import data_files

pytestmark = pytest.mark.usefixtures('launched')


def _restored(path, rows, step):
  told = []
  metrics.restore(path, rows, step=step, tell=told.append)
  assert metrics.read(path) == rows
  return told


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  rows = [{'step': step, 'loss': float('nan')} for step in (2, 4, 6)]
  for row in rows:
    metrics.append(path, row)
  with path.open('a') as file:
    file.write('{"step": 8, "lo')  # What a killed run may leave.
  metrics.restore(path, rows[:2], step=4, tell=pytest.fail)
  assert path.read_text() == metrics.text(rows[:2])


_ROWS = [{'step': step, 'loss': 1 / step} for step in (2, 4, 6, 8)]
_LINES = metrics.text(_ROWS).encode().splitlines(keepends=True)


@pytest.mark.parametrize('damaged, part', [
    (b''.join(_LINES[:1] + [b'@@\n'] + _LINES[1:]), 'line 2 is no row'),
    (b'\xff\xfe\n' + b''.join(_LINES), 'line 1 is no row'),
    (b''.join(_LINES) + bytes(512) + b'\n', 'line 5 is no row'),
    (b'[' * 100_000 + b'\n', 'line 1 is no row'),
    (b'[]\n5\n', 'line 1 is no row'),
    (b''.join(_LINES + _LINES), 'of the 3 rows up to step 6 it has 3, and 6'),
    (b''.join(_LINES[:1] + _LINES[2:]), 'of the 3 .* it has 2, and 2 in all'),
    (b''.join(_LINES[:3][::-1]), 'of the 3 .* it has 3, and 3 in all'),
    (b'', 'of the 3 .* it has 0, and 0 in all'),
    (b'{"step": "x"}\n{"a": 1}\n{"step": null}\n', 'it has 0, and 3 in all'),
    (b''.join(_LINES).replace(b'0.25', b'0.26'), 'it has 2, and 3 in all'),
])
def test_damaged_metrics_are_told_and_mended_from_the_checkpoint(
    damaged, part, tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(damaged)
  told, = _restored(path, _ROWS[:3], 6)
  assert re.search(part, told) and str(path) in told
  assert not _restored(path, _ROWS[:3], 6)  # Nothing is left to mend.


@pytest.mark.parametrize('whole', [
    b''.join(_LINES), b'\r\n'.join(line.strip() for line in _LINES),
    b''.join(_LINES)[:-9], b''.join(_LINES)[:-1]])
def test_metrics_that_are_no_damage_are_not_told(whole, tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(whole)
  assert not _restored(path, _ROWS[:3], 6)


def test_damaged_metrics_are_not_read(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(_LINES[0] + b'@@\n' + _LINES[1])
  with pytest.raises(ValueError, match='damaged: line 2 .*start that again'):
    metrics.read(path)


def _share_of_pairs(scores, labels):
  pairs = itertools.product(scores[labels == 1], scores[labels == 0])
  return np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])


@pytest.mark.parametrize('levels', [2, 5, 1_000])
def test_auc_is_the_share_of_pairs_in_order_and_ties_count_half(levels):
  rng = np.random.default_rng(levels)
  scores = rng.integers(levels, size=60).astype(np.float32)
  labels = rng.integers(2, size=60)
  assert metrics.auc(scores, labels) == pytest.approx(
      _share_of_pairs(scores, labels), abs=1e-12)


def test_rows_are_rewritten_without_the_half_of_one(tmp_path):
  path = tmp_path / 'rows.jsonl'
  for row in ({'step': 1}, {'step': 2}):
    metrics.append(path, row)
  path.write_text(path.read_text() + '{"step": 3, "lo')
  metrics.rewrite(path, metrics.read(path))
  metrics.append(path, {'step': 3})
  assert metrics.read(path) == [{'step': 1}, {'step': 2}, {'step': 3}]


def test_auc_of_no_order_or_no_pairs_is_a_half_or_nan():
  labels = np.array([0, 1, 1])
  assert metrics.auc(np.zeros(3), labels) == 0.5
  assert np.isnan(metrics.auc(np.arange(3.), np.ones(3, int)))
  assert np.isnan(metrics.auc(np.array([0, np.nan, 1]), labels))


def test_runs_are_judged_by_the_area_over_the_whole_test_set():
  run, dataset = runs.create(commands.config(
      'synthetic_clicks/dense', width=4, depth=1, test_examples=300,
      observe=False))
  state = run.init(None)
  row = run.measure(state, dataset.test())
  inputs, labels = data_files.examples(dataset.test())
  logits = np.asarray(run.apply(steps.variables(state), inputs))
  assert labels.shape == (300,)  # A batch of 256, and one that is filled up.
  assert row == {
      'auc': pytest.approx(_share_of_pairs(
          logits[:, 1] - logits[:, 0], labels), abs=1e-4),
      'ceiling': dataset.ceiling, 'sparsity': 0.}
  told = metrics.describe({'step': 1, 'loss': 0.5, **row})
  assert f'test AUC {row["auc"]:.4f} (Bayes {row["ceiling"]:.4f})' in told


def test_only_numbers_are_drawn_and_channels_as_one_share():
  row = {'step': 2, 'loss': 0.5, 'name': 'x', 'flag': True, 'noise': None}
  assert metrics.numbers(row) == {'loss': 0.5, 'flag': 1.}
  row['channels'] = {'a': [1, 2], 'b': [0, 2]}
  assert metrics.numbers(row) == {
      'loss': 0.5, 'flag': 1., 'channels_left': 0.25}
