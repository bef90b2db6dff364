"""AC/DC against numpy, over a hundred steps."""

import functools

import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from tests._lib import exchanges
from tests._lib import method_table

pytestmark = pytest.mark.slow

_T = 100
# The epochs of the authors' configuration: dense to 10, and so on.
_SPARSE = [*((b, b + 5) for b in range(10, 75, 10)), (85, 101)]
_SIZE = 128 + 32 + 72


@functools.cache
def _history():
  return exchanges.run(jaxsparse.observe(method_table.wrap(
      optax.sgd(exchanges.RATE, momentum=.5),
      methods.ac_dc(exchanges.FREE, .75, _T))), _T)


def test_phases_are_those_of_the_paper_and_masks_stay_within_them():
  history = _history()
  masks = {p: np.ones_like(m) for p, m in history[0].masks.items()}
  for t in range(1, _T + 1):
    step, new = history[t - 1], history[t]
    if any(t == begin for begin, _ in _SPARSE):
      masks = exchanges.together(
          lambda m, w: exchanges.top(w, m, _SIZE // 4), masks,
          {p: np.abs(w) for p, w in step.weights.items()})
    elif any(t == end for _, end in _SPARSE):
      masks = {p: np.ones_like(m) for p, m in masks.items()}
    for path, mask in masks.items():
      np.testing.assert_array_equal(new.masks[path], mask, err_msg=str(t))
      assert not new.weights[path][~mask].any()
  assert sum(m.sum() for m in history[-1].masks.values()) == 58


def test_weights_and_momentum_are_those_of_numpy():
  """The trace of the optimizer restarts where a dense phase begins."""
  history, trace = _history(), None
  weights = dict(history[0].weights)
  for t in range(1, _T + 1):
    step, new = history[t - 1], history[t]
    if t == 1 or any(t == end for _, end in _SPARSE):
      trace = {p: np.zeros_like(w) for p, w in weights.items()}
    for p, mask in new.masks.items():
      trace[p] = np.where(mask, step.grads[p] + .5 * trace[p], 0.)
      weights[p] = np.where(mask, step.weights[p] - .125 * trace[p], 0.)
      np.testing.assert_allclose(
          new.weights[p], weights[p], atol=2e-5, err_msg=str(t))


def test_biases_train_on_and_n_m_takes_turns_too():
  rule = methods.ac_dc({'.*kernel': jaxsparse.nm(2, 4)},
                       jaxsparse.uniform(), 20).rule
  params = exchanges.make_params('ab')
  state, kept = rule.init(params), []
  for _ in range(20):
    masks, state = rule.update(params, state, params)
    kept.append(float(masks['a']['kernel'].mean()))
    assert masks['a']['bias'] is None
  assert kept[:4] == [1., .5, 1., .5] and kept[-3:] == [.5] * 3


@pytest.mark.parametrize('options', [
    dict(warm_up=0), dict(period=0), dict(fine_tune=0), dict(fine_tune=90),
    dict(period=50), dict(warm_up=100), dict(fine_tune=200)])
def test_phases_that_do_not_fit_are_taught_errors(options):
  with pytest.raises(ValueError, match='period=.*Write'):
    methods.ac_dc(exchanges.FREE, .5, 100, **options)


def test_a_training_too_short_to_take_turns_is_a_taught_error():
  with pytest.raises(ValueError, match='train longer'):
    methods.ac_dc(exchanges.FREE, .5, 3)
