"""MdGf and SdGf: phases, fading, and frames."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from tests._lib import method_table
from tests._lib.nm_methods import DENSE
from tests._lib.nm_methods import kept_of
from tests._lib.nm_methods import make_params
from tests._lib.nm_methods import mask_of
from tests._lib.nm_methods import masks_by_step
from tests._lib.nm_methods import METHODS
from tests._lib.nm_methods import STEPS
from tests._lib.nm_methods import TARGET
from tests._lib.nm_methods import trained
from tests._lib.nm_methods import TUNE


@pytest.mark.parametrize(
    'name', ['mdgf_linear', 'mdgf_linear gated', 'mdgf_exponential'])
def test_mdgf_is_dense_then_fades_then_is_sparse(name):
  gains = [float(state.gain) for _, state in trained(name)[1]]
  assert gains[:DENSE + 1] == [1.] * (DENSE + 1)
  fading = gains[DENSE + 1:STEPS - TUNE]
  assert all(0 < b < a < 1 for a, b in zip(fading, fading[1:]))
  assert gains[STEPS - TUNE:] == [0.] * (TUNE + 1)


@pytest.mark.parametrize('beta', [.25, .1, .3])
def test_linear_mdgf_fades_by_beta_a_step(beta):
  gain = methods.mdgf_linear(TARGET, 40, dense_steps=5, beta=beta).flow.gain
  want = [1.] * 5 + [max(1 - beta * j, 0.) for j in range(25)]
  np.testing.assert_allclose(
      [gain(step) for step in range(30)], want, atol=1e-6)


def test_exponential_mdgf_fades_at_the_rate_beta():
  gain = methods.mdgf_exponential(
      TARGET, 40, dense_steps=5, fine_tune_steps=15, beta=.1).flow.gain
  want = [1.] * 5 + list(np.exp(-.1 * np.arange(20))) + [0.] * 10
  np.testing.assert_allclose(
      [gain(step) for step in range(35)], want, atol=1e-6)


def test_a_beta_that_takes_exactly_the_decay_phase_fits():
  for steps in (10, 49, 98, 103):  # 1 / (1 / 49) is above 49 in floats.
    flow = methods.mdgf_linear(TARGET, steps, dense_steps=0,
                               fine_tune_steps=0, beta=1 / steps).flow
    assert float(flow.gain(steps - 1)) > 0. == float(flow.gain(steps))


@pytest.mark.parametrize('total_steps', [10, 12, 30, 97, 10_000])
def test_beta_as_the_error_advises_it_fits(total_steps):
  with pytest.raises(ValueError, match='Write beta=') as error:
    methods.mdgf_linear(TARGET, total_steps, beta=1e-6)
  advised = float(str(error.value).split('Write beta=')[1].split()[0])
  flow = methods.mdgf_linear(TARGET, total_steps, beta=advised).flow
  assert float(flow.gain(total_steps - total_steps * 3 // 10)) == 0.


@pytest.mark.parametrize('n, m, kept', [
    (1, 8, [7, 4, 2, 1]), (1, 16, [15, 8, 4, 2, 1]), (3, 8, [7, 4, 3]),
    (2, 4, [3, 2]), (1, 2, [1])])
def test_stepwise_keeps_fewer_of_m_frame_by_frame(n, m, kept):
  params = {'kernel': make_params()['hidden']['kernel'], 'bias': jnp.ones(16)}
  rule = methods.sdgf_stepwise(
      {'kernel': jaxsparse.nm(n, m)}, 10 * len(kept) + 8, dense_steps=5,
      fine_tune_steps=3).rule
  masks_at = masks_by_step(rule, params)
  assert masks_at(0).all() and masks_at(4).all()
  for i, count in enumerate(kept):
    for step in (5 + 10 * i, 14 + 10 * i):
      assert (kept_of(masks_at(step), m) == count).all()
  assert (kept_of(masks_at(10 * len(kept) + 8), m) == n).all()


def test_geometric_shrinks_the_group_frame_by_frame():
  params = {'kernel': make_params()['hidden']['kernel'], 'bias': jnp.ones(16)}
  rule = methods.sdgf_geometric(
      {'kernel': jaxsparse.nm(1, 8)}, 58, dense_steps=5,
      fine_tune_steps=3).rule
  masks_at = masks_by_step(rule, params)
  assert masks_at(0).all() and masks_at(4).all()
  for i, n in enumerate([16, 8, 4, 2, 1]):
    for step in (5 + 10 * i, 14 + 10 * i):
      mask = masks_at(step)
      assert (kept_of(mask, 8 * n) == n).all()
      # Only as regular as it has to be.
      assert n == 1 or (kept_of(mask, 4 * n) != n // 2).any()
  assert (kept_of(masks_at(58), 8) == 1).all()


@pytest.mark.parametrize('name', ['sdgf_stepwise', 'sdgf_geometric'])
def test_the_frame_is_a_function_of_the_step_alone(name):
  """From states in the middle of other frames, the same masks."""
  method, options = METHODS[name]
  rule = method(TARGET, STEPS, **options).rule
  update = jax.jit(rule.update)
  _, history = trained(name)
  for step in (2, 8, 19, 25):
    params, state = history[step]
    for _, other in history[1::9]:
      masks, _ = update(
          params, other.rule._replace(count=jnp.int32(step - 1)), params)
      np.testing.assert_array_equal(masks['hidden']['kernel'], mask_of(state))


@pytest.mark.parametrize('m, rows, groups', [
    (8, 64, [8, 4, 2, 1]), (8, 48, [2, 1]), (8, 24, [1]),
    (2, 64, [16, 8, 4, 2, 1])])  # Six would tile; five are the paper's.
def test_geometric_takes_as_many_frames_as_tile(m, rows, groups):
  params = {'kernel': jax.random.normal(jax.random.key(2), (rows, 4))}
  rule = methods.sdgf_geometric(
      {'kernel': jaxsparse.nm(1, m)}, 10 * len(groups), frames=None,
      dense_steps=0, fine_tune_steps=0).rule
  masks_at = masks_by_step(rule, params)
  for i, n in enumerate(groups):
    mask = masks_at(10 * i + 5)
    assert (kept_of(mask, m * n) == n).all()
    assert n == 1 or (kept_of(mask, m * n // 2) != n // 2).any()


def test_geometric_names_the_layer_that_its_groups_do_not_tile():
  tx = method_table.wrap(optax.sgd(1.), methods.sdgf_geometric(TARGET, 100))
  params = {'hidden': {'kernel': jnp.ones((64, 4))}}
  with pytest.raises(ValueError, match=(
      r'(?s)frames=5.*hidden/kernel.*128.*\(64, 4\).*frames=None')):
    tx.init(params)


def test_axes_of_the_target_are_those_of_the_frames():
  params = {'kernel': jax.random.normal(jax.random.key(3), (6, 16)),
            'bias': jnp.ones(16)}
  for method, options, first in (
      (methods.sdgf_stepwise, {}, (3, 4)),
      (methods.sdgf_geometric, dict(frames=2), (2, 8))):
    rule = method({'kernel': jaxsparse.nm(1, 4, axis=-1)}, 40, **options).rule
    masks_at = masks_by_step(rule, params)
    assert (kept_of(masks_at(5).T, first[1]) == first[0]).all()
    assert (kept_of(masks_at(40).T, 4) == 1).all()


@pytest.mark.parametrize('method', [
    methods.mdgf_linear, methods.mdgf_exponential, methods.sdgf_stepwise,
    methods.sdgf_geometric], ids=lambda f: f.__name__)
@pytest.mark.parametrize('phases', [
    dict(dense_steps=60, fine_tune_steps=40), dict(dense_steps=101),
    dict(fine_tune_steps=100), dict(dense_steps=-1),
    dict(fine_tune_steps=-1)], ids=str)
def test_phases_longer_than_training_are_an_error(method, phases):
  with pytest.raises(ValueError, match=(
      r'(?s)total_steps=100.*Write e\.g\. dense_steps=10, '
      'fine_tune_steps=30')):
    method(TARGET, 100, **phases)


@pytest.mark.parametrize('method', [
    methods.sdgf_stepwise, methods.sdgf_geometric], ids=lambda f: f.__name__)
def test_frames_without_a_step_each_are_an_error(method):
  with pytest.raises(ValueError, match=r'(?s)[45] frames.*3 steps.*longer'):
    method(TARGET, 4)
