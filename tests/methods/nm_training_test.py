"""Recipes: short real trainings, their phases, and what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from tests._lib import method_table

_STEPS = 30
_DENSE, _TUNE = 3, 9  # What the defaults make of 30 steps.
_KERNEL = 'hidden/kernel'
_TARGET = {_KERNEL: jaxsparse.nm(1, 8)}
# name -> (recipe, its options)
_RECIPES = {
    'ste': (methods.ste, {}),
    'sr_ste': (methods.sr_ste, {}),
    'sr_ste decoupled': (methods.sr_ste, dict(decay=1e-4, decoupled=True)),
    'mdgf_linear': (methods.mdgf_linear, {}),
    'mdgf_linear gated': (
        methods.mdgf_linear, dict(straight_through=False)),
    'mdgf_exponential': (methods.mdgf_exponential, {}),
    'sdgf_stepwise': (methods.sdgf_stepwise, {}),
    'sdgf_geometric': (methods.sdgf_geometric, {}),
    'top_kast': (methods.top_kast, dict(every=5)),
    'train_prune_retrain': (methods.train_prune_retrain, {}),
}


def _params():
  keys = jax.random.split(jax.random.key(0), 2)
  return {'hidden': {'kernel': jax.random.normal(keys[0], (128, 16)) / 8,
                     'bias': jnp.zeros(16)},
          'head': {'kernel': jax.random.normal(keys[1], (16, 4)) / 4}}


def _loss(params, x, y):
  h = jax.nn.relu(x @ params['hidden']['kernel']
                  + params['hidden']['bias'][None])
  return jnp.mean(jnp.square(h @ params['head']['kernel'] - y))


@functools.cache
def _trained(name):
  """The loss of every step, and params and state after every update."""
  recipe, options = _RECIPES[name]
  tx = method_table.wrap(optax.adam(1e-2), recipe(_TARGET, _STEPS, **options))
  keys = jax.random.split(jax.random.key(1), 2)
  x = jax.random.normal(keys[0], (64, 128))
  y = x @ jax.random.normal(keys[1], (128, 4)) / 8

  @jax.jit
  def step(params, state):
    sparse = jaxsparse.sparse_params(params, state)
    loss, grads = jax.value_and_grad(_loss)(sparse, x, y)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  params, losses = _params(), []
  state = jax.jit(tx.init)(params)
  history = [(params, state)]
  for _ in range(_STEPS):
    params, state, loss = step(params, state)
    history.append((params, state))
    losses.append(float(loss))
  return step, losses, history


def _mask(state):
  return np.asarray(jaxsparse.get_masks(state)['hidden']['kernel'])


def _kept_of(mask, m):
  """How many each group of m rows keeps."""
  return mask.reshape(-1, m, mask.shape[-1]).sum(1)


@pytest.mark.parametrize('name', _RECIPES)
def test_a_training_ends_at_the_target_in_one_compilation(name):
  step, losses, history = _trained(name)
  params, state = history[-1]
  mask = _mask(state)
  assert (_kept_of(mask, 8) == 1).all()
  sparse = jaxsparse.sparse_params(params, state)
  np.testing.assert_array_equal(
      np.asarray(sparse['hidden']['kernel']) != 0, mask)
  np.testing.assert_array_equal(
      sparse['head']['kernel'], params['head']['kernel'])
  masks = jaxsparse.get_masks(state)
  assert masks['head']['kernel'] is masks['hidden']['bias'] is None
  assert state.gain is None or float(state.gain) == 0.
  assert step._cache_size() == 1
  assert losses[-1] < 1.2 < losses[0]  # Always saying 0 has a loss of 2.


def _masks_at(rule, params):
  """The masks of `params` at a step, from the first state."""
  state = jax.jit(rule.init)(params)

  @jax.jit
  def update(count):
    return rule.update(params, state._replace(count=count - 1), params)[0]
  return lambda step: np.asarray(
      (update(jnp.int32(step)) if step else state.masks)['kernel'])


@pytest.mark.parametrize(
    'name', ['mdgf_linear', 'mdgf_linear gated', 'mdgf_exponential'])
def test_mdgf_is_dense_then_fades_then_is_sparse(name):
  gains = [float(state.gain) for _, state in _trained(name)[2]]
  assert gains[:_DENSE + 1] == [1.] * (_DENSE + 1)
  fading = gains[_DENSE + 1:_STEPS - _TUNE]
  assert all(0 < b < a < 1 for a, b in zip(fading, fading[1:]))
  assert gains[_STEPS - _TUNE:] == [0.] * (_TUNE + 1)


@pytest.mark.parametrize('beta', [.25, .1, .3])
def test_linear_mdgf_fades_by_beta_a_step(beta):
  gain = methods.mdgf_linear(_TARGET, 40, dense_steps=5, beta=beta).flow.gain
  want = [1.] * 5 + [max(1 - beta * j, 0.) for j in range(25)]
  np.testing.assert_allclose(
      [gain(step) for step in range(30)], want, atol=1e-6)


def test_exponential_mdgf_fades_at_the_rate_beta():
  gain = methods.mdgf_exponential(
      _TARGET, 40, dense_steps=5, fine_tune_steps=15, beta=.1).flow.gain
  want = [1.] * 5 + list(np.exp(-.1 * np.arange(20))) + [0.] * 10
  np.testing.assert_allclose(
      [gain(step) for step in range(35)], want, atol=1e-6)


def test_a_beta_that_takes_exactly_the_decay_phase_fits():
  for steps in (10, 49, 98, 103):  # 1 / (1 / 49) is above 49 in floats.
    flow = methods.mdgf_linear(_TARGET, steps, dense_steps=0,
                               fine_tune_steps=0, beta=1 / steps).flow
    assert float(flow.gain(steps - 1)) > 0. == float(flow.gain(steps))


@pytest.mark.parametrize('total_steps', [10, 12, 30, 97, 10_000])
def test_beta_as_the_error_advises_it_fits(total_steps):
  with pytest.raises(ValueError, match='Write beta=') as error:
    methods.mdgf_linear(_TARGET, total_steps, beta=1e-6)
  advised = float(str(error.value).split('Write beta=')[1].split()[0])
  flow = methods.mdgf_linear(_TARGET, total_steps, beta=advised).flow
  assert float(flow.gain(total_steps - total_steps * 3 // 10)) == 0.


@pytest.mark.parametrize('n, m, kept', [
    (1, 8, [7, 4, 2, 1]), (1, 16, [15, 8, 4, 2, 1]), (3, 8, [7, 4, 3]),
    (2, 4, [3, 2]), (1, 2, [1])])
def test_stepwise_keeps_fewer_of_m_frame_by_frame(n, m, kept):
  params = {'kernel': _params()['hidden']['kernel'], 'bias': jnp.ones(16)}
  rule = methods.sdgf_stepwise(
      {'kernel': jaxsparse.nm(n, m)}, 10 * len(kept) + 8, dense_steps=5,
      fine_tune_steps=3).rule
  masks_at = _masks_at(rule, params)
  assert masks_at(0).all() and masks_at(4).all()
  for i, count in enumerate(kept):
    for step in (5 + 10 * i, 14 + 10 * i):
      assert (_kept_of(masks_at(step), m) == count).all()
  assert (_kept_of(masks_at(10 * len(kept) + 8), m) == n).all()


def test_geometric_shrinks_the_group_frame_by_frame():
  params = {'kernel': _params()['hidden']['kernel'], 'bias': jnp.ones(16)}
  rule = methods.sdgf_geometric(
      {'kernel': jaxsparse.nm(1, 8)}, 58, dense_steps=5,
      fine_tune_steps=3).rule
  masks_at = _masks_at(rule, params)
  assert masks_at(0).all() and masks_at(4).all()
  for i, n in enumerate([16, 8, 4, 2, 1]):
    for step in (5 + 10 * i, 14 + 10 * i):
      mask = masks_at(step)
      assert (_kept_of(mask, 8 * n) == n).all()
      # Only as regular as it has to be.
      assert n == 1 or (_kept_of(mask, 4 * n) != n // 2).any()
  assert (_kept_of(masks_at(58), 8) == 1).all()


@pytest.mark.parametrize('name', ['sdgf_stepwise', 'sdgf_geometric'])
def test_the_frame_is_a_function_of_the_step_alone(name):
  """From states in the middle of other frames, the same masks."""
  recipe, options = _RECIPES[name]
  rule = recipe(_TARGET, _STEPS, **options).rule
  update = jax.jit(rule.update)
  _, _, history = _trained(name)
  for step in (2, 8, 19, 25):
    params, state = history[step]
    for _, other in history[1::9]:
      masks, _ = update(
          params, other.rule._replace(count=jnp.int32(step - 1)), params)
      np.testing.assert_array_equal(masks['hidden']['kernel'], _mask(state))


@pytest.mark.parametrize('m, rows, groups', [
    (8, 64, [8, 4, 2, 1]), (8, 48, [2, 1]), (8, 24, [1]),
    (2, 64, [16, 8, 4, 2, 1])])  # Six would tile; five are the paper's.
def test_geometric_takes_as_many_frames_as_tile(m, rows, groups):
  params = {'kernel': jax.random.normal(jax.random.key(2), (rows, 4))}
  rule = methods.sdgf_geometric(
      {'kernel': jaxsparse.nm(1, m)}, 10 * len(groups), frames=None,
      dense_steps=0, fine_tune_steps=0).rule
  masks_at = _masks_at(rule, params)
  for i, n in enumerate(groups):
    mask = masks_at(10 * i + 5)
    assert (_kept_of(mask, m * n) == n).all()
    assert n == 1 or (_kept_of(mask, m * n // 2) != n // 2).any()


def test_geometric_names_the_layer_that_its_groups_do_not_tile():
  tx = method_table.wrap(optax.sgd(1.), methods.sdgf_geometric(_TARGET, 100))
  params = {'hidden': {'kernel': jnp.ones((64, 4))}}
  with pytest.raises(ValueError, match=(
      r'(?s)frames=5.*hidden/kernel.*128.*\(64, 4\).*frames=None')):
    tx.init(params)


def test_train_prune_retrain_is_dense_then_locked():
  _, _, history = _trained('train_prune_retrain')
  masks = [_mask(state) for _, state in history]
  half = _STEPS // 2
  assert all(mask.all() for mask in masks[:half])
  assert all((mask == masks[half]).all() for mask in masks[half:])
  assert (_kept_of(masks[half], 8) == 1).all()
  for (params, _), mask in zip(history, masks):
    assert (np.asarray(params['hidden']['kernel']) != 0).sum() == mask.sum()


def test_top_kast_trains_twice_what_it_uses():
  for _, state in _trained('top_kast')[2]:
    trained = np.asarray(state.rule.backward['hidden']['kernel'])
    assert (_kept_of(trained, 8) == 2).all()
    assert trained[_mask(state)].all()


def test_top_kast_trains_twice_what_it_uses_in_every_layer():
  params = _params()
  trained = methods.top_kast(
      {_KERNEL: jaxsparse.nm(1, 8), 'head/kernel': jaxsparse.nm(1, 4)},
      100).rule.init(params).backward
  assert (_kept_of(np.asarray(trained['head']['kernel']), 4) == 2).all()
  assert (_kept_of(np.asarray(trained['hidden']['kernel']), 8) == 2).all()


def test_axes_of_the_target_are_those_of_the_frames():
  params = {'kernel': jax.random.normal(jax.random.key(3), (6, 16)),
            'bias': jnp.ones(16)}
  for recipe, options, first in (
      (methods.sdgf_stepwise, {}, (3, 4)),
      (methods.sdgf_geometric, dict(frames=2), (2, 8))):
    rule = recipe({'kernel': jaxsparse.nm(1, 4, axis=-1)}, 40, **options).rule
    masks_at = _masks_at(rule, params)
    assert (_kept_of(masks_at(5).T, first[1]) == first[0]).all()
    assert (_kept_of(masks_at(40).T, 4) == 1).all()


_MAKERS = sorted({recipe for recipe, _ in _RECIPES.values()},
                 key=lambda f: f.__name__)


@pytest.mark.parametrize('recipe', _MAKERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize('pattern', [
    jaxsparse.unstructured(sparsity=.5), jaxsparse.block((4, 4), sparsity=.5),
    jaxsparse.channel(sparsity=.5), 'nm(2, 4)'], ids=str)
def test_a_target_that_is_not_n_of_m_is_an_error(recipe, pattern):
  with pytest.raises(ValueError, match=r'N:M pattern, got .*Write e\.g\. nm'):
    recipe({'.*': pattern}, 1_000)


@pytest.mark.parametrize('recipe', _MAKERS, ids=lambda f: f.__name__)
def test_a_pattern_without_a_regex_is_an_error(recipe):
  with pytest.raises(ValueError, match=r'(?s)rules for parameters.*Write'):
    recipe(jaxsparse.nm(2, 4), 1_000)


@pytest.mark.parametrize('recipe', [
    methods.mdgf_linear, methods.mdgf_exponential, methods.sdgf_stepwise,
    methods.sdgf_geometric], ids=lambda f: f.__name__)
@pytest.mark.parametrize('phases', [
    dict(dense_steps=60, fine_tune_steps=40), dict(dense_steps=101),
    dict(fine_tune_steps=100), dict(dense_steps=-1),
    dict(fine_tune_steps=-1)], ids=str)
def test_phases_longer_than_training_are_an_error(recipe, phases):
  with pytest.raises(ValueError, match=(
      r'(?s)total_steps=100.*write e\.g\. dense_steps=10, '
      'fine_tune_steps=30')):
    recipe(_TARGET, 100, **phases)


@pytest.mark.parametrize('recipe', [
    methods.sdgf_stepwise, methods.sdgf_geometric], ids=lambda f: f.__name__)
def test_frames_without_a_step_each_are_an_error(recipe):
  with pytest.raises(ValueError, match=r'(?s)[45] frames.*3 steps.*longer'):
    recipe(_TARGET, 4)


def test_what_a_recipe_cannot_do_is_an_error_when_it_is_made():
  mixed = {_KERNEL: jaxsparse.nm(1, 8), 'head/kernel': jaxsparse.nm(2, 4)}
  for make, match in (
      (lambda: {'.*': jaxsparse.nm(3, 2)}, r'n of every m.*2:4 is nm\(2, 4\)'),
      (lambda: methods.mdgf_linear(_TARGET, 100, beta=1e-3),
       r'beta=0\.001 needs 1000 steps.*Write beta=0\.01\d* or more'),
      (lambda: methods.mdgf_linear(_TARGET, 100, beta=0.), 'Write beta=0.01'),
      (lambda: methods.mdgf_exponential(_TARGET, 100, beta=-1.),
       'rate above 0.*leave it out'),
      (lambda: methods.sdgf_stepwise(mixed, 100), 'one N:M.*Axes may differ'),
      (lambda: methods.sdgf_geometric(_TARGET, 100, frames=0), 'frames >= 1'),
      (lambda: methods.top_kast(_TARGET, 100, every=101),
       'Write 1 <= every <= total_steps'),
      (lambda: methods.top_kast(_TARGET, 100, every=0),
       'Write 1 <= every <= total_steps'),
      (lambda: methods.top_kast(_TARGET, 100, backward=.9),
       r'0 <= backward <= sparsity.*Write e\.g\. forward_backward'),
      (lambda: methods.top_kast(_TARGET, 100, p=3), 'p=1 or p=2'),
      (lambda: methods.train_prune_retrain(_TARGET, 100, prune_step=100),
       'prune_step=100 is not within total_steps=100'),
      (lambda: methods.train_prune_retrain(_TARGET, 100, prune_step=-1),
       'prune_step=-1 is not within total_steps=100')):
    with pytest.raises(ValueError, match=f'(?s){match}'):
      make()


def test_a_target_with_nothing_sparse_trains_dense():
  for recipe in _MAKERS:
    if recipe is not methods.sdgf_stepwise:  # Which N:M would its frames have?
      masks = recipe({'.*': None}, 1_000).rule.init(_params()).masks
      assert not jax.tree.leaves(masks)
  with pytest.raises(ValueError, match=r'one N:M.*got \[\]'):
    methods.sdgf_stepwise({'.*': None}, 1_000)
