"""Synthetic clicks: their shape, their share, their ceiling."""


import numpy as np
import pytest

from experiments.data import clicks
from experiments.records import metrics
from tests._lib import data_files

pytestmark = pytest.mark.usefixtures('launched')


@pytest.fixture(scope='module', name='synthetic')
def _synthetic():
  return data_files.load('synthetic_clicks', test_examples=20_000)


def test_clicks_have_the_shape_of_criteo(synthetic):
  assert synthetic.shape == (13 + 26,)
  assert len(synthetic.cardinalities) == 26
  inputs, _ = data_files.examples(synthetic.test())
  counts = np.expm1(inputs[:, :13].astype(np.float64))
  np.testing.assert_allclose(counts, counts.round(), rtol=1e-5, atol=1e-5)
  assert (counts.mean(0) > np.median(counts, 0)).all()  # Skewed.
  ids = inputs[:, 13:]
  np.testing.assert_array_equal(ids, ids.round())
  assert (ids.min(0) == 0).all()
  assert (ids.max(0) < synthetic.cardinalities).all()
  # A power law: the first id comes up again and again, most hardly ever.
  first = (ids[:, -1] == 0).mean()
  assert 0.4 < first < 0.6
  assert np.mean(ids[:, -1] == 1) == pytest.approx(first / 3, rel=0.1)


def test_a_quarter_of_the_examples_clicks(synthetic):
  for labels in (synthetic.train(3, 1, 20_000).labels, data_files.examples(
      synthetic.test())[1]):
    assert 0.22 < labels.mean() < 0.28


def test_ceiling_is_the_area_of_the_known_probabilities(synthetic):
  inputs, labels = data_files.examples(synthetic.test())
  world = clicks._world(clicks.MILD)
  counts = np.expm1(inputs[:, :13].astype(np.float64)).round()
  ids = inputs[:, 13:].astype(int)
  starts = np.cumsum([0, *synthetic.cardinalities])[:-1]
  odds = np.array([_log_odds(world, *example)
                   for example in zip(counts[:300], ids[:300] + starts)])
  np.testing.assert_allclose(
      clicks._log_odds(world, counts[:300], ids[:300] + starts), odds)
  odds = clicks._log_odds(world, counts, ids + starts)
  assert metrics.auc(odds, labels) == pytest.approx(synthetic.ceiling, abs=1e-6)
  assert 0.82 < synthetic.ceiling < 0.88
  # And they are the probabilities that labels were drawn from.
  probability = 1 / (1 + np.exp(-odds))
  for low in np.arange(0, 1, 0.1):
    inside = (low <= probability) & (probability < low + 0.1)
    error = (labels - probability)[inside].mean()
    assert abs(error) < 4 * 0.5 / np.sqrt(inside.sum())


def _log_odds(world, counts, rows):
  """Of one example, in loops."""
  numbers = [(np.log(1 + count) - at) / scale for count, at, scale in zip(
      counts, world.location, world.scale)]
  factors = [world.factors[row] for row in rows]
  odds = sum(f @ w for f, w in zip(factors, world.main))
  for i, j, strength in zip(*world.pairs, world.strengths):
    odds += strength * (factors[i] @ factors[j])
  read = np.array([*numbers, *(f[0] for f in factors)])
  for unit, out in zip(world.hidden.T, world.out):
    odds += out * np.tanh(read @ unit)
  return clicks._BIAS + clicks._SPREAD * odds


def test_no_run_trains_on_test_examples(synthetic):
  inputs, _ = data_files.examples(synthetic.test())
  seen = {row.tobytes() for row in inputs}
  for seed in (0, clicks._WORLD):
    drawn = synthetic.train(seed, 0, 20_000).inputs
    # With so many numbers no example comes up twice.
    assert not seen & {row.tobytes() for row in drawn}
