"""Steps: what they leave alone and what they measure."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models
from experiments.data import dataset as datasets
from experiments.records import checkpoints
from experiments.training import runs
from experiments.training import steps
from tests._lib import commands

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


def test_a_train_step_leaves_what_a_run_began_with():
  run, dataset = runs.create(commands.config('digits/sr_ste_2_4'))
  batch = dataset.train(0, 1, 4)
  given = jax.tree.map(jnp.copy, run.init(None).params)
  for params in (None, given):
    first, again = (run.train(run.init(params), batch) for _ in range(2))
    assert checkpoints.digest(first) == checkpoints.digest(again)


def test_measured_are_all_examples_and_none_that_fill_up_a_batch(finished):
  config, _, result = finished
  run, dataset = runs.create(config)
  whole = list(dataset.test())
  state = result.state
  model = nnx.merge(nnx.graphdef(models.create(
      config, dataset, rngs=nnx.Rngs(0))), steps.sparse(state).params)
  answers = np.concatenate([model(batch.inputs).argmax(-1) for batch in whole])
  labels = np.concatenate([batch.labels for batch in whole])
  assert (labels >= 0).sum() == 500 < len(labels)
  measured = run.measure(state, whole)
  assert measured['accuracy'] == np.mean((answers == labels)[labels >= 0])


def test_bits_per_byte_are_the_mean_over_all_bytes():
  run, dataset = runs.create(commands.config(
      'python_source/dense', width=8, depth=1, context=4, test_examples=5))
  state = run.init(None)
  head = state.params['head']  # As good as a fair coin for each bit.
  params = {**state.params, 'head': jax.tree.map(jnp.zeros_like, head)}
  state = state._replace(params=nnx.State(params))
  batch = next(dataset.test())
  batch.labels[1] = datasets.PADDING
  assert run.measure(state, [batch, batch])['bits_per_byte'] == pytest.approx(8)
