"""Whole models against loops by hand: methods, data, stages."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import calibration
from jaxsparse.calibration import OneShotState
from tests._lib.calibration import array
from tests._lib.calibration import assert_trees
from tests._lib.calibration import HALF
from tests._lib.calibration import MLP
from tests._lib.calibration import mlp
from tests._lib.calibration import X

RULES = {'bias': None, '.*': HALF}


def test_inputs_come_through_what_is_pruned_already():
  got, masks = jaxsparse.one_shot(mlp, MLP, X, RULES)
  p, x = dict(MLP), np.concatenate(X)
  for name, before in (('up', lambda p: x),
                       ('mid', lambda p: jax.nn.relu(x @ p['up'])),
                       ('down', lambda p: jnp.tanh(jax.nn.relu(
                           x @ p['up']) @ p['mid'] + p['bias'][None]))):
    z = before(p)
    p[name], mask = calibration.sparsegpt(p[name], z.T @ z, HALF)
    np.testing.assert_array_equal(masks[name], mask)
  assert_trees(got, p)
  assert masks['bias'] is None and masks['up'].sum() == MLP['up'].size // 2


@pytest.mark.parametrize('method, prune', [
    ('magnitude', lambda w, h: jaxsparse.select(jnp.abs(w), HALF)),
    ('wanda', lambda w, h: calibration.wanda(w, jnp.diagonal(h), HALF)),
    ('sparsegpt', lambda w, h: calibration.sparsegpt(w, h, HALF)[1]),
    ('admm', lambda w, h: calibration.admm(w, h, HALF)[1]),
    ('alps', lambda w, h: calibration.alps(w, h, HALF)[1])])
def test_methods_by_name_are_those_of_matrices(method, prune):
  _, masks = jaxsparse.one_shot(
      mlp, MLP, X, {'up': HALF}, method)
  x = np.concatenate(X)
  np.testing.assert_array_equal(masks['up'], prune(MLP['up'], x.T @ x))
  assert masks['down'] is None


def test_a_function_is_a_method_and_refit_comes_after_it():
  def first_half(w, h, pattern, sparsity):
    assert h.shape == (8, 8) and sparsity == 0.5 and str(
        pattern) == 'unstructured()'
    mask = jnp.arange(len(w))[:, None] < len(w) // 2
    mask = jnp.broadcast_to(mask, w.shape)
    return jnp.where(mask, w, 0), mask
  rules = {'up': jaxsparse.unstructured()}
  plain, _ = jaxsparse.one_shot(mlp, MLP, X, rules, first_half, 0.5)
  got, masks = jaxsparse.one_shot(mlp, MLP, X, rules, first_half, 0.5,
                                  refit=True)
  np.testing.assert_array_equal(plain['up'][:4], MLP['up'][:4])
  x = np.concatenate(X)
  h = x.T @ x
  h += 0.01 * np.diagonal(h).mean() * np.eye(8, dtype=np.float32)
  np.testing.assert_allclose(got['up'], calibration.refit(
      MLP['up'], h, masks['up']), rtol=1e-4, atol=1e-5)
  assert not got['up'][4:].any() and masks['up'][:4].all()


def test_a_pattern_keeps_its_own_sparsity():
  rules = {'up': jaxsparse.nm(1, 4), 'down': jaxsparse.unstructured(),
           'mid': HALF}
  _, masks = jaxsparse.one_shot(mlp, MLP, X, rules, 'wanda', 0.25)
  assert [int(masks[k].sum()) for k in ('up', 'down', 'mid')] == [32, 48, 128]
  _, masks = jaxsparse.one_shot(mlp, MLP, X, rules, 'wanda', {
      'down': .75, 'mid': .25})
  assert [int(masks[k].sum()) for k in ('up', 'down', 'mid')] == [32, 16, 192]


# Data.


def test_batches_of_other_sizes_add_up():
  whole = jaxsparse.one_shot(mlp, MLP, [np.concatenate(X)], RULES)
  assert_trees(jaxsparse.one_shot(mlp, MLP, X, RULES), whole)
  assert_trees(jaxsparse.one_shot(mlp, MLP, iter(X), RULES), whole)


@pytest.mark.parametrize('method', ['wanda', 'sparsegpt'])
def test_a_batch_may_be_empty(method):
  conv = lambda p, x: jax.lax.conv_general_dilated(
      x, p['conv'], (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC'))
  fn = lambda p, x: jax.nn.relu(conv(p, x)) @ p['dense']
  params, x = {'conv': array(3, 4, 8), 'dense': array(8, 4)}, array(40, 5, 4)
  prune = lambda *batches: jaxsparse.one_shot(fn, params, batches, HALF, method)
  assert_trees(prune(x, x[:0]), prune(x), exactly=True)


def test_padding_does_not_count():
  def fn(p, x, y):
    return (x + y[..., None]) @ p['w']
  x, y = array(2, 5, 8), array(2, 5)
  y[:, 3:] = 100.
  weights = lambda x, y: y != 100.
  args = (fn, {'w': array(8, 4)})
  got = jaxsparse.one_shot(*args, [(x, y)], HALF, weights=weights)
  assert_trees(got, jaxsparse.one_shot(*args, [(x[:, :3], y[:, :3])], HALF))


def test_all_at_once_sees_the_dense_model():
  _, masks = jaxsparse.one_shot(mlp, MLP, X, RULES, 'wanda', sequential=False)
  z = jax.nn.relu(np.concatenate(X) @ MLP['up'])
  np.testing.assert_array_equal(
      masks['mid'], calibration.wanda(MLP['mid'], (z**2).sum(0), HALF))


def test_bfloat16_is_calibrated_in_float32():
  p = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), MLP)
  x = [jnp.asarray(x, jnp.bfloat16) for x in X]
  got, masks = jaxsparse.one_shot(mlp, p, x, RULES)
  assert all(w.dtype == jnp.bfloat16 for w in jax.tree.leaves(got))
  z = np.concatenate(x).astype(np.float32)
  _, mask = calibration.sparsegpt(p['up'], z.T @ z, HALF)
  np.testing.assert_array_equal(masks['up'], mask)


# Stages.


def test_it_goes_on_from_any_stage():
  states: list[OneShotState] = []
  whole = jaxsparse.one_shot(mlp, MLP, X, RULES, save=states.append)
  assert [state.done for state in states] == [1, 2, 3]
  for state in states:
    held = jax.tree.map(np.asarray, state)
    late = []
    got = jaxsparse.one_shot(mlp, MLP, X, RULES, state=held, save=late.append)
    assert_trees(got, whole, exactly=True)
    assert len(late) == 3 - state.done
  assert all(jnp.isfinite(x).all() for x in states[-1].errors.values())


def test_progress_wraps_the_stages():
  seen = []

  def progress(stages):
    assert len(stages) == 3
    for stage in stages:
      seen.append([leaf.path for leaf in stage.kernels])
      yield stage
  jaxsparse.one_shot(mlp, MLP, X, RULES, progress=progress)
  assert seen == [['up'], ['mid'], ['down']]


def test_a_kernel_that_is_read_again_has_the_sum_of_all_its_inputs():
  w = array(8, 8)
  fn = lambda p, x: jnp.tanh(jnp.tanh(x @ p['w']) @ p['w'])
  _, masks = jaxsparse.one_shot(fn, {'w': w}, X, {'w': HALF}, 'wanda')
  x = np.concatenate(X)
  squares = (x**2).sum(0) + (jnp.tanh(x @ w)**2).sum(0)
  np.testing.assert_array_equal(masks['w'], calibration.wanda(w, squares, HALF))


def test_the_params_that_were_given_are_as_they_were():
  params = jax.tree.map(jnp.asarray, MLP)
  jaxsparse.one_shot(mlp, params, X, RULES)
  assert_trees(params, jax.tree.map(jnp.asarray, MLP), exactly=True)


def test_a_state_is_a_dict_where_orbax_has_no_target():
  states = []
  whole = jaxsparse.one_shot(mlp, MLP, X, RULES, save=states.append)
  got = jaxsparse.one_shot(mlp, MLP, X, RULES, state=states[1]._asdict())
  assert_trees(got, whole, exactly=True)


class Twice(NamedTuple):
  up: jax.Array
  down: jax.Array


def test_a_state_of_dicts_goes_where_fields_of_classes_are():
  """The fields have another order than the sorted keys of a dict."""
  params, states = Twice(array(8, 8), array(8, 8)), []
  fn = lambda p, x: jnp.tanh(x @ p.up) @ p.down
  whole = jaxsparse.one_shot(fn, params, X, HALF, save=states.append)
  held = states[0]._replace(params=states[0].params._asdict(),
                            masks=states[0].masks._asdict())
  got = jaxsparse.one_shot(fn, params, X, HALF, state=held._asdict())
  assert_trees(got, whole, exactly=True)
  pruned, masks = whole
  saved = []
  train = functools.partial(
      calibration.reconstruct, fn, pruned, masks, X, dense=params, steps=5,
      block='(.*)', optimizer=optax.sgd(.1))
  trained = train(save=saved.append)
  held = saved[0]._replace(params=saved[0].params._asdict())
  assert_trees(train(state=held._asdict()), trained, exactly=True)
  with pytest.raises(ValueError, match='params of the state must have.*got up'):
    jaxsparse.one_shot(fn, params, X, HALF, state=states[0]._replace(
        params={'up': params.up}))
