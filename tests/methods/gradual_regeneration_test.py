"""GraNet against numpy, over a hundred steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from tests._lib import exchanges
from tests._lib import method_table

pytestmark = pytest.mark.slow

_T, _EVERY, _BEGIN, _END, _FIRST, _LAST = 100, 4, 6, 50, .4, .8
_SIZE = 128 + 32 + 72


@functools.cache
def _history():
  method = methods.granet(
      exchanges.FREE, _LAST, _T, initial_sparsity=_FIRST, every=_EVERY,
      begin=_BEGIN, end=_END)
  return exchanges.run(jaxsparse.observe(
      method_table.wrap(optax.sgd(exchanges.RATE), method)), _T)


def _active(t):
  """By the cubic, as a share of the whole number that goes in the end."""
  p = np.clip((t - _BEGIN) / (_END - _BEGIN), 0., 1.)
  pruned = _LAST + (_FIRST - _LAST) * (1 - p)**3
  return round(_SIZE - pruned / _LAST * (_SIZE - round((1 - _LAST) * _SIZE)))


def _expected(t, step):
  """Pruned globally; then each layer drops, and grows by gradients."""
  left = exchanges.together(
      lambda m, w: exchanges.top(w, m, _active(t)), step.masks,
      {p: np.abs(w) for p, w in step.weights.items()})
  share = 0. if t % _EVERY else (
      .005 + .495 * exchanges.cosine(t, _T))
  return {p: exchanges.exchanged(
      m, np.abs(step.weights[p]), np.abs(step.grads[p]),
      goes=int(np.floor(share * m.sum()))) for p, m in left.items()}


def test_every_exchange_of_a_hundred_steps_is_that_of_numpy():
  history = _history()
  moves = [t for t in range(8, _T + 1) if t % _EVERY == 0 or t == _END]
  for t in range(1, _T + 1):
    step, new = history[t - 1], history[t]
    expected = _expected(t, step) if t in moves else step.masks
    for path, mask in expected.items():
      np.testing.assert_array_equal(new.masks[path], mask, err_msg=str(t))


def test_it_begins_by_erk_and_ends_exactly_and_stays():
  counted = [sum(int(m.sum()) for m in s.masks.values()) for s in _history()]
  assert counted[0] == round((1 - _FIRST) * _SIZE) == 139
  assert counted[_END] == round((1 - _LAST) * _SIZE) == 46
  assert set(counted[_END:]) == {46}
  first = {p: int(m.sum()) for p, m in _history()[0].masks.items()}
  assert first['b/kernel'] / 32 > first['a/kernel'] / 128


def test_an_end_off_the_period_is_final_all_the_same():
  history = exchanges.run(method_table.wrap(
      optax.sgd(exchanges.RATE), methods.granet(
          exchanges.FREE, .8, 20, every=8, end=11)), 16)
  counted = [sum(int(m.sum()) for m in s.masks.values()) for s in history]
  assert counted[10] > counted[11] == counted[16] == 46


def test_layers_keep_their_counts_once_the_sparsity_is_final():
  """Weights that stand at zero, without a gradient, are not pruned again."""
  tx = method_table.wrap(optax.sgd(exchanges.RATE), methods.granet(
      exchanges.FREE, .8, 20, every=2, end=8))
  def zero(params, step):
    return {k: {n: w * 0. for n, w in v.items()} for k, v in params.items()}
  history = exchanges.run(tx, 20, grads=zero)
  counted = [[int(m.sum()) for m in s.masks.values()] for s in history[8:]]
  assert counted == counted[:1] * 13


def test_dense_to_sparse_begins_dense():
  method = methods.granet(exchanges.FREE, .8, 20, initial_sparsity=0., every=2)
  masks = method.rule.init(exchanges.make_params()).masks
  assert all(m.all() for m in exchanges.flat(masks).values())


@pytest.mark.parametrize('options, message', [
    (dict(fraction=30.), 'fraction.*Write|fraction.*write'),
    (dict(every=0), 'every must be a whole.*Write'),
    (dict(every=200), 'every=200.*Write'),
    (dict(begin=60, end=50), 'begin=60.*Write'),
    (dict(end=101), 'end=101.*Write'),
    (dict(initial_sparsity=.9), 'initial_sparsity=0.9.*Write')])
def test_what_cannot_be_is_a_taught_error(options, message):
  with pytest.raises(ValueError, match=message):
    methods.granet(exchanges.FREE, .8, 100, **{'every': 4, **options})


def test_a_pattern_with_its_own_sparsity_never_gets_denser():
  params = {'a': jnp.arange(1., 101.), 'b': jnp.arange(1., 101.)}
  rule = methods.granet({
      'a': jaxsparse.unstructured(), 'b': jaxsparse.unstructured(sparsity=.8)},
                        .9, 30, every=3).rule
  state, active, update = rule.init(params), [], jax.jit(rule.update)
  for _ in range(10):
    active.append(int(state.masks['b'].sum()))
    _, state = update(params, state, params)
  # 5/9 of its sparsity at first, as of the other's; all of it by step 9.
  assert active == [56, 56, 56, 31, 31, 31, 21, 21, 21, 20]
