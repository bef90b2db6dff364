"""The table of methods: rows fit, connections move, one program for seeds."""

import inspect

import jax
import numpy as np
import pytest

from experiments.training import methods
from experiments.training import runs
from experiments.training import steps
import jaxsparse
from tests._lib import commands

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]

_DYNAMIC = ('set', 'dsr', 'snfs', 'rigl', 'rigl_itop', 'mest', 'chase')
_MOVING = dict(width=16, steps=8, every=2, sparsity=0.8, observe=False)


def _dynamic(method, **overrides):
  config = commands.config('digits/chase_90', model='mlp', depth=2,
                           batch_size=16, method=method, prune_every=2)
  config.update(**_MOVING, **overrides)
  return config


@pytest.mark.parametrize('row', methods.METHODS.values(), ids=methods.METHODS)
def test_row_has_the_arguments_that_its_function_takes(row):
  bound = inspect.signature(row.function).bind(
      *row.by_place, **dict.fromkeys(row.by_name), **row.fixed)
  assert {*row.by_name, *row.fixed} <= bound.arguments.keys()
  assert len(bound.arguments) == len(
      {*row.by_place, *row.by_name, *row.fixed})


@pytest.mark.parametrize('method', _DYNAMIC)
def test_dynamic_method_moves_connections_and_ends_at_its_sparsity(method):
  config = _dynamic(method)
  run, dataset = runs.create(config)
  state, masks, shares = run.init(None), [], []
  for step in range(config.steps + 1):
    if step:
      state, loss = run.train(state, dataset.train(0, step, 16))
      assert np.isfinite(loss)
    mask = [layer['kernel'] for layer in jaxsparse.get_masks(
        state.opt_state)['layers'].values()]
    masks.append(np.concatenate([np.ravel(m[...]) for m in mask]))
    shares.append(steps.sparsity(state))
  weights = np.concatenate([
      np.ravel(layer['kernel'][...])
      for layer in state.params['layers'].values()])
  assert weights[masks[-1]].any() and not weights[~masks[-1]].any()
  assert (masks[0] != masks[-1]).any()
  assert shares[-1] == pytest.approx(0.8, abs=1e-3)
  surplus = 0.05 if method in ('mest', 'chase') else 0.
  assert all(0.8 - surplus - 1e-3 <= share <= 0.8 + 1e-3 for share in shares)


@pytest.mark.parametrize('method', ['sr_ste', *_DYNAMIC])
def test_one_compiled_train_step_serves_all_seeds(method):
  texts = set()
  for seed in (0, 1):
    config = (commands.config('digits/sr_ste_2_4', seed=seed)
              if method == 'sr_ste' else _dynamic(method, seed=seed))
    run, dataset = runs.create(config)
    batch = dataset.train(seed, 1, 4)
    state = jax.eval_shape(run.init, None)
    texts.add(run.train.lower(state, batch).as_text())
  assert len(texts) == 1
