"""Recommendation: synthetic clicks, published files, the area under the ROC."""

import itertools
import json

import numpy as np
import pytest

from experiments import data
from experiments.configs.synthetic_clicks import dense as dense_dlrm
from experiments.data import clicks
from experiments.data import criteo
from experiments.records import metrics
from experiments.training import methods
from experiments.training import steps
from tests import data_files

pytestmark = pytest.mark.usefixtures('launched')


def _all(batches):
  """Inputs and labels of a test set, without what fills it up."""
  inputs, labels = map(np.concatenate, zip(*batches))
  return inputs[labels >= 0], labels[labels >= 0]


# The area under the ROC curve.


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


def test_auc_of_no_order_or_no_pairs_is_a_half_or_nan():
  labels = np.array([0, 1, 1])
  assert metrics.auc(np.zeros(3), labels) == 0.5
  assert np.isnan(metrics.auc(np.arange(3.), np.ones(3, int)))
  assert np.isnan(metrics.auc(np.array([0, np.nan, 1]), labels))


def test_runs_are_judged_by_the_area_over_the_whole_test_set():
  config = dense_dlrm.get_config()
  config.update(width=4, depth=1, test_examples=300, observe=False)
  dataset = data.load(config)
  run = steps.create(config, methods.create(config, lambda: None), dataset)
  state = run.init(None)
  row = run.measure(state, dataset.test())
  inputs, labels = _all(dataset.test())
  logits = np.asarray(run.apply(steps.variables(state), inputs))
  assert labels.shape == (300,)  # A batch of 256, and one that is filled up.
  assert row == {
      'auc': pytest.approx(_share_of_pairs(
          logits[:, 1] - logits[:, 0], labels), abs=1e-4),
      'ceiling': dataset.ceiling, 'sparsity': 0.}
  told = metrics.describe({'step': 1, 'loss': 0.5, **row})
  assert f'test AUC {row["auc"]:.4f} (Bayes {row["ceiling"]:.4f})' in told


# Synthetic clicks.


@pytest.fixture(scope='module', name='synthetic')
def _synthetic():
  return data_files.load('synthetic_clicks', test_examples=20_000)


def test_clicks_have_the_shape_of_criteo(synthetic):
  assert synthetic.shape == (13 + 26,)
  assert len(synthetic.cardinalities) == 26
  inputs, _ = _all(synthetic.test())
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
  for labels in (synthetic.train(3, 1, 20_000).labels, _all(
      synthetic.test())[1]):
    assert 0.22 < labels.mean() < 0.28


def test_ceiling_is_the_area_of_the_known_probabilities(synthetic):
  inputs, labels = _all(synthetic.test())
  world = clicks._world()
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
  inputs, _ = _all(synthetic.test())
  seen = {row.tobytes() for row in inputs}
  for seed in (0, clicks._WORLD):
    drawn = synthetic.train(seed, 0, 20_000).inputs
    # With so many numbers no example comes up twice.
    assert not seen & {row.tobytes() for row in drawn}


# Criteo.


def _row_of(line):
  """One line of the text, read field by field."""
  label, *fields = line.split('\t')
  numbers = [np.log1p(max(int(x or 0), 0)) for x in fields[:13]]
  ids = [1 + int(x, 16) % (criteo.BUCKETS - 1) if x else 0
         for x in fields[13:]]
  return int(label), np.array([*numbers, *ids], np.float32)


@pytest.mark.parametrize('chunk', [1, 1_000, 2**23])
def test_criteo_is_read_as_published(chunk, tmp_path, monkeypatch):
  monkeypatch.setattr(criteo, '_CHUNK', chunk)
  lines = data_files.criteo(tmp_path)
  dataset = data_files.load('criteo', tmp_path)
  assert dataset.cardinalities == 26 * (criteo.BUCKETS,)
  labels, rows = zip(*map(_row_of, lines))
  assert 0 in rows[0] and max(labels) == 1
  inputs, test_labels = _all(dataset.test())  # The last seventh, in order.
  np.testing.assert_allclose(inputs, rows[60:], rtol=1e-6)
  assert [*test_labels] == [*labels[60:]]
  drawn = dataset.train(0, 1, 2_000)
  # Which line it is, the first hash tells, which is never missing.
  lines_drawn = ((drawn.inputs[:, 13] - 1) // 32).astype(int)
  assert {*lines_drawn} == {*range(60)}
  np.testing.assert_allclose(
      drawn.inputs, np.array(rows)[lines_drawn], rtol=1e-6)
  np.testing.assert_array_equal(drawn.labels, np.array(labels)[lines_drawn])


def test_criteo_text_is_read_once_and_again_if_it_changed(
    tmp_path, monkeypatch):
  file = tmp_path / 'train.txt'
  data_files.criteo(tmp_path)
  first = data_files.load('criteo', tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == {
      'train.txt', 'train.rows', 'train.rows.json'}
  with monkeypatch.context() as patch:
    patch.setattr(criteo, '_convert', None)
    again = data_files.load('criteo', tmp_path)
  assert again.fingerprint == first.fingerprint
  file.write_text(file.read_text() + file.read_text())
  changed = data_files.load('criteo', tmp_path)
  assert changed.fingerprint != first.fingerprint
  assert len(_all(changed.test())[0]) == 20
  assert json.loads((tmp_path / 'train.rows.json').read_text())[
      'fingerprint'] == changed.fingerprint


def test_end_of_the_last_line_may_be_missing(tmp_path):
  data_files.criteo(tmp_path)
  whole = data_files.load('criteo', tmp_path).fingerprint
  file = tmp_path / 'train.txt'
  file.write_text(file.read_text()[:-1])
  assert data_files.load('criteo', tmp_path).fingerprint == whole


@pytest.mark.parametrize('field, text, told', [
    (1, '2', "field 1 of line 8 is b'2'"), (1, '', "field 1 of line 8 is b''"),
    (1, '0\t1', 'line 8 has 41 fields, not 40'),
    (2, '6.5', "field 2 of line 8 is b'6.5'"),
    (3, '1\n', 'line 8 has 3 fields, not 40'),
    (14, '12345678901', "field 14 of line 8 is b'12345678901'"),
    (15, '-00000e0', "field 15 of line 8 is b'-00000e0'"),
    (40, '000000g0', "field 40 of line 8 is b'000000g0'"),
    (40, '000000a0\r', r"field 40 of line 8 is b'000000a0\r'")])
def test_what_is_wrong_in_a_line_is_told(
    field, text, told, tmp_path, monkeypatch):
  monkeypatch.setattr(criteo, '_CHUNK', 500)
  lines = data_files.criteo(tmp_path)
  fields = lines[7].split('\t')
  fields[field - 1] = text
  lines[7] = '\t'.join(fields)
  (tmp_path / 'train.txt').write_text('\n'.join(lines) + '\n')
  with pytest.raises(ValueError) as error:
    data_files.load('criteo', tmp_path)
  assert told in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ['train.txt']


# MovieLens.


@pytest.mark.parametrize('name', ['u.data', 'ratings.dat', 'ratings.csv'])
def test_movielens_is_split_by_time_and_four_stars_are_liked(name, tmp_path):
  data_files.movielens(tmp_path, name)
  dataset = data_files.load('movielens', tmp_path)
  assert dataset.shape == (2,) and dataset.cardinalities == (7, 42)
  inputs, labels = _all(dataset.test())
  # Times fall from line to line: the last tenth is the first four lines.
  np.testing.assert_array_equal(inputs, [[3, 3], [2, 2], [1, 1], [0, 0]])
  np.testing.assert_array_equal(labels, [1, 0, 0, 0])
  drawn = dataset.train(0, 1, 1_000)
  assert {*drawn.inputs[:, 1]} == {*range(4, 42)}
  np.testing.assert_array_equal(
      drawn.inputs[:, 0], drawn.inputs[:, 1] % 7)
  np.testing.assert_array_equal(drawn.labels, drawn.inputs[:, 1] % 5 >= 3)


def test_half_stars_are_read(tmp_path):
  (tmp_path / 'ratings.csv').write_text(
      'userId,movieId,rating,timestamp\n' + ''.join(
          f'1,{i},{stars},{i}\n' for i, stars in enumerate(10 * [3.5, 4.0])))
  batch = data_files.load('movielens', tmp_path).train(0, 1, 100)
  np.testing.assert_array_equal(batch.labels, batch.inputs[:, 1] % 2)


@pytest.mark.parametrize('text, told', [
    ('1\t2\t6\t9\n', 'stars from 1.0 to 6.0'), ('1\t2\t3\n', 'columns'),
    ('1\ttwo\t3\t4\n', 'two')])
def test_what_is_wrong_in_ratings_is_told(text, told, tmp_path):
  data_files.movielens(tmp_path)
  with (tmp_path / 'u.data').open('a') as file:
    file.write(text)
  with pytest.raises(ValueError, match=told) as error:
    data_files.load('movielens', tmp_path)
  assert 'grouplens.org' in str(error.value)
  assert '\n' not in str(error.value)


def test_few_lines_are_no_data_set(tmp_path):
  data_files.movielens(tmp_path, count=9)
  with pytest.raises(ValueError, match='9 lines of 4 numbers'):
    data_files.load('movielens', tmp_path)
  data_files.criteo(tmp_path, lines=6)
  with pytest.raises(ValueError, match='6 lines'):
    data_files.load('criteo', tmp_path)
