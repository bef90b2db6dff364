"""Metrics: rows of a file, and the area under the ROC curve."""

import itertools

import numpy as np
import pytest

from experiments.records import metrics
from experiments.training import runs
from experiments.training import steps
from tests._lib import commands
from tests._lib import data_files

pytestmark = pytest.mark.usefixtures('launched')


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  for step in (2, 4, 6):
    metrics.append(path, {'step': step})
  with path.open('a') as file:
    file.write('{"step": 8, "lo')  # What a killed run may leave.
  metrics.truncate(path, 4)
  assert metrics.read(path) == [{'step': 2}, {'step': 4}]
  assert path.read_text() == '{"step": 2}\n{"step": 4}\n'


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
