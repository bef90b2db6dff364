"""Clicks on advertisements: SYNTHETIC, in the shape of Criteo's.

No package ships logs of clicks. These are drawn from a fixed distribution: 13
counts and 26 ids for each example, and a probability of a click that depends on
them. The probability is known, and so is the area under the ROC curve that a
model exceeds only by chance.

There are two distributions. In `MILD`, pairs of ids and single effects carry
most of the log odds, and products of embeddings find them. In `TANGLED`, most
of the log odds is a hidden layer that reads all features, as an MLP does.
"""

from typing import NamedTuple

import ml_collections
import numpy as np

from experiments.data import dataset
from experiments.records import metrics

CARDINALITIES = (3, 4, 5, 7, 10, 12, 15, 20, 24, 30, 40, 50, 60, 80, 100, 150,
                 200, 250, 300, 400, 500, 700, 900, 1_200, 1_600, 2_000)
NUMBERS = 13
_WORLD = 1906  # The seed of the fixed distribution.
_FACTORS, _PAIRS = 2, 20
_SPREAD, _BIAS = 0.8, -1.35  # Of the log odds: a quarter of examples clicks.


class Law(NamedTuple):
  """The share of a hidden layer in the log odds."""
  units: int
  gain: float  # Of what the units read; the higher, the more bent.
  out: float  # Of what they give.


MILD = Law(units=24, gain=1., out=2.)
TANGLED = Law(units=32, gain=1.5, out=5.)


class _World(NamedTuple):
  """The parameters of the distribution of clicks."""
  location: np.ndarray  # [13], of the logarithms of the counts.
  scale: np.ndarray  # [13]
  factors: np.ndarray  # [ids of all features, 2], hidden from models.
  main: np.ndarray  # [26, 2], the effects of single factors.
  pairs: np.ndarray  # [2, pairs], the features that act together.
  strengths: np.ndarray  # [pairs]
  hidden: np.ndarray  # [13 + 26, units], of counts and first factors.
  out: np.ndarray  # [units]


def load(config: ml_collections.ConfigDict, law: Law = MILD
         ) -> dataset.Dataset:
  """Returns new examples in each step and `config.test_examples` to test on.

  No example is drawn twice, so no model overfits. Ids are numbered by rank; the
  most frequent id of each feature is 0.

  Args:
    config: of the run.
    law: of the clicks, `MILD` or `TANGLED`.

  Raises:
    ValueError: if the config names a folder.
  """
  dataset.check_no_folder(config, source='is made up')
  world = _world(law)
  starts = np.cumsum((0, *CARDINALITIES[:-1]))

  def draw(rng, size):
    counts, ids = _features(world, rng, size)
    odds = _log_odds(world, counts, ids + starts)
    clicks = rng.random(size) < 1 / (1 + np.exp(-odds))
    return counts, ids, odds, clicks.astype(np.int32)

  def inputs(counts, ids):
    return np.concatenate([np.log1p(counts), ids], axis=1, dtype=np.float32)

  def train(seed, step, size, part=dataset.WHOLE):
    counts, ids, _, clicks = draw(np.random.default_rng([seed, step]), size)
    return dataset.Batch(inputs(counts[part], ids[part]), clicks[part])

  # A seed of three words; steps have two, so no run draws these examples.
  counts, ids, odds, clicks = draw(
      np.random.default_rng([_WORLD, 0, 1]), config.test_examples)
  test_inputs = inputs(counts, ids)

  def test():
    return dataset.in_batches(len(clicks), lambda rows: dataset.Batch(
        test_inputs[rows], clicks[rows]))

  # Only integers, as the last bit of a logarithm differs between machines.
  return dataset.Dataset(
      dataset.RECOMMENDATION, test_inputs.shape[1:], 2, train, test,
      dataset.fingerprint(counts, ids, clicks), CARDINALITIES,
      metrics.auc(odds, clicks))


def _world(law):
  rng = np.random.default_rng(_WORLD)
  features = len(CARDINALITIES)
  normal = rng.standard_normal
  return _World(
      location=rng.uniform(0, 4, NUMBERS), scale=rng.uniform(0.5, 1.5, NUMBERS),
      factors=normal((sum(CARDINALITIES), _FACTORS)),
      main=normal((features, _FACTORS)) / np.sqrt(features * _FACTORS),
      pairs=rng.integers(features, size=(2, _PAIRS)),
      strengths=normal(_PAIRS) / np.sqrt(_PAIRS * _FACTORS),
      hidden=law.gain * normal((NUMBERS + features, law.units)) / np.sqrt(20),
      out=law.out * normal(law.units) / np.sqrt(law.units))


def _features(world, rng, size):
  """Returns counts `[size, 13]` and ids `[size, 26]`, both int64."""
  logs = world.location + world.scale * rng.standard_normal((size, NUMBERS))
  # Whole parts of a Pareto distribution that ends at the last rank: r is as
  # frequent as 1 / (r (r + 1)).
  u = rng.random((size, len(CARDINALITIES)))
  ranks = 1 / (1 - u * (1 - 1 / (np.array(CARDINALITIES) + 1)))
  return np.exp(logs).astype(np.int64), ranks.astype(np.int64) - 1


def _log_odds(world, counts, rows):
  """Returns the log odds `[N]` of clicks; rows `[N, 26]` are of `factors`."""
  numbers = (np.log1p(counts) - world.location) / world.scale
  factors = world.factors[rows]
  first, second = (factors[:, pair] for pair in world.pairs)
  together = np.einsum('npf,npf,p->n', first, second, world.strengths)
  hidden = np.concatenate([numbers, factors[..., 0]], axis=1) @ world.hidden
  return _BIAS + _SPREAD * (np.einsum('ncf,cf->n', factors, world.main)
                            + together + np.tanh(hidden) @ world.out)
