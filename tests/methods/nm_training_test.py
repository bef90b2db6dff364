"""N:M methods: short real trainings, and what they refuse."""

import jax
import numpy as np
import pytest

import jaxsparse
from jaxsparse import methods
from tests._lib.nm_methods import kept_of
from tests._lib.nm_methods import KERNEL
from tests._lib.nm_methods import make_params
from tests._lib.nm_methods import mask_of
from tests._lib.nm_methods import METHODS
from tests._lib.nm_methods import STEPS
from tests._lib.nm_methods import TARGET
from tests._lib.nm_methods import trained


@pytest.mark.parametrize('name', METHODS)
def test_a_training_ends_at_the_target_in_one_compilation(name):
  losses, history = trained(name)
  params, state = history[-1]
  mask = mask_of(state)
  assert (kept_of(mask, 8) == 1).all()
  sparse = jaxsparse.sparse_params(params, state)
  np.testing.assert_array_equal(
      np.asarray(sparse['hidden']['kernel']) != 0, mask)
  np.testing.assert_array_equal(
      sparse['head']['kernel'], params['head']['kernel'])
  masks = jaxsparse.get_masks(state)
  assert masks['head']['kernel'] is masks['hidden']['bias'] is None
  assert state.gain is None or float(state.gain) == 0.
  assert losses[-1] < 1.2 < losses[0]  # Always saying 0 has a loss of 2.


def test_train_prune_retrain_is_dense_then_locked():
  _, history = trained('train_prune_retrain')
  masks = [mask_of(state) for _, state in history]
  half = STEPS // 2
  assert all(mask.all() for mask in masks[:half])
  assert all((mask == masks[half]).all() for mask in masks[half:])
  assert (kept_of(masks[half], 8) == 1).all()
  for (params, _), mask in zip(history, masks):
    assert (np.asarray(params['hidden']['kernel']) != 0).sum() == mask.sum()


def test_top_kast_trains_twice_what_it_uses():
  for _, state in trained('top_kast')[1]:
    backward = np.asarray(state.rule.backward['hidden']['kernel'])
    assert (kept_of(backward, 8) == 2).all()
    assert backward[mask_of(state)].all()


def test_top_kast_trains_twice_what_it_uses_in_every_layer():
  params = make_params()
  trained = methods.top_kast(
      {KERNEL: jaxsparse.nm(1, 8), 'head/kernel': jaxsparse.nm(1, 4)},
      100).rule.init(params).backward
  assert (kept_of(np.asarray(trained['head']['kernel']), 4) == 2).all()
  assert (kept_of(np.asarray(trained['hidden']['kernel']), 8) == 2).all()


_MAKERS = sorted({method for method, _ in METHODS.values()},
                 key=lambda f: f.__name__)


@pytest.mark.parametrize('method', _MAKERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize('pattern', [
    jaxsparse.unstructured(sparsity=.5), jaxsparse.block((4, 4), sparsity=.5),
    jaxsparse.channel(sparsity=.5), 'nm(2, 4)'], ids=str)
def test_a_target_that_is_not_n_of_m_is_an_error(method, pattern):
  with pytest.raises(ValueError, match=(
      r'N:M pattern, got .*Write e\.g\. nm|map to a pattern or None')):
    method({'.*': pattern}, 1_000)


@pytest.mark.parametrize('method', _MAKERS, ids=lambda f: f.__name__)
def test_a_pattern_without_a_regex_is_an_error(method):
  with pytest.raises(ValueError, match=r'(?s)expressions for paths.*Write'):
    method(jaxsparse.nm(2, 4), 1_000)


def test_what_a_recipe_cannot_do_is_an_error_when_it_is_made():
  mixed = {KERNEL: jaxsparse.nm(1, 8), 'head/kernel': jaxsparse.nm(2, 4)}
  for make, match in (
      (lambda: {'.*': jaxsparse.nm(3, 2)}, r'every m.*2:4 write nm\(2, 4\)'),
      (lambda: methods.mdgf_linear(TARGET, 100, beta=1e-3),
       r'beta=0\.001 needs 1000 steps.*Write beta=0\.01\d* or more'),
      (lambda: methods.mdgf_linear(TARGET, 100, beta=0.), 'Write beta=0.01'),
      (lambda: methods.mdgf_exponential(TARGET, 100, beta=-1.),
       'rate above 0.*leave (rate|beta) out'),
      (lambda: methods.sdgf_stepwise(mixed, 100), 'the same N and M.*axes may'),
      (lambda: methods.sdgf_geometric(TARGET, 100, frames=0), 'frames >= 1'),
      (lambda: methods.top_kast(TARGET, 100, every=101),
       'needs 1 <= every <= total_steps'),
      (lambda: methods.top_kast(TARGET, 100, every=0),
       'needs 1 <= every <= total_steps'),
      (lambda: methods.top_kast(TARGET, 100, backward=.9),
       r'0 <= backward <= sparsity.*Write e\.g\. forward_backward'),
      (lambda: methods.top_kast(TARGET, 100, p=3), 'p=1 or p=2'),
      (lambda: methods.train_prune_retrain(TARGET, 100, prune_step=100),
       'got prune_step=100 and total_steps=100'),
      (lambda: methods.train_prune_retrain(TARGET, 100, prune_step=-1),
       'got prune_step=-1 and total_steps=100')):
    with pytest.raises(ValueError, match=f'(?s){match}'):
      make()


def test_a_target_with_nothing_sparse_trains_dense():
  for method in _MAKERS:
    if method is not methods.sdgf_stepwise:  # Which N:M would its frames have?
      masks = method({'.*': None}, 1_000).rule.init(make_params()).masks
      assert not jax.tree.leaves(masks)
  with pytest.raises(ValueError, match=r'the same N and M.*got \[\]'):
    methods.sdgf_stepwise({'.*': None}, 1_000)
