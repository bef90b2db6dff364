"""Every optimizer of optax steps under a method that moves weights.

The contract suite tries all methods with a few optimizers; here it is one
method, RigL, with all: it asks the most of them, since weights lose their state
when they die and begin with a new one when they grow back.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib
import pytest

import jaxsparse
from jaxsparse import schedules
from jaxsparse._utils import trees
from tests._lib import method_table
from tests._lib.compiled import once

_RATE = 1e-2
_OF_A_RATE = [
    'adabelief', 'adadelta', 'adafactor', 'adagrad', 'adam', 'adamax',
    'adamaxw', 'adamw', 'adan', 'amsgrad', 'fromage', 'lamb', 'lars', 'lbfgs',
    'lion', 'nadam', 'nadamw', 'noisy_sgd', 'novograd', 'optimistic_adam_v2',
    'optimistic_gradient_descent', 'polyak_sgd', 'radam', 'rmsprop', 'rprop',
    'sgd', 'sign_sgd', 'sm3', 'yogi', 'acprop', 'ademamix', 'muon',
    'schedule_free_adamw', 'schedule_free_sgd', 'simplified_ademamix', 'sophia']
_OF_NO_RATE = [
    'cocob', 'dadapt_adamw', 'dog', 'dowg', 'momo', 'momo_adam', 'prodigy']


def _make(name):
  if name == 'mechanize':
    return contrib.mechanize(optax.sgd(_RATE))
  make = getattr(optax, name, None) or getattr(contrib, name, None)
  if make is None:
    pytest.skip(f'optax {optax.__version__} has no {name}')
  return make() if name in _OF_NO_RATE else make(_RATE)


def _loss(params):
  return sum(jnp.sum(jnp.square(w - 0.3)) for w in jax.tree.leaves(params))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:Specifying a key will be required')
@pytest.mark.parametrize('name', [*_OF_A_RATE, *_OF_NO_RATE, 'mechanize'])
def test_it_steps_with_weights_that_die_and_grow(name):
  rule = jaxsparse.prune_and_grow(
      {'.*kernel': jaxsparse.unstructured()}, sparsity=0.5, fraction=0.3,
      grow=jaxsparse.gradient(), when=schedules.every(2))
  tx = method_table.wrap(_make(name), rule)
  params = method_table.TREES['nested']()['block']
  state = tx.init(params)
  params = jaxsparse.apply_masks(params, jaxsparse.get_masks(state))

  # What lbfgs begins with has other types than what a step leaves.
  @(jax.jit if name == 'lbfgs' else once)
  def step(params, state):
    loss, grads = jax.value_and_grad(_loss)(params)
    # Those that search along a line, or read the loss, ask for these.
    more = ({'obj_fn': _loss} if name == 'sophia' else
            {'value': loss, 'grad': grads, 'value_fn': _loss})
    updates, state = tx.update(grads, state, params, **more)
    return optax.apply_updates(params, updates), state

  grown = False
  for _ in range(4):
    before = jaxsparse.get_masks(state)
    params, state = step(params, state)
    after = jaxsparse.get_masks(state)
    for _, w, old, new in trees.align(params, before, after):
      if new is not None:
        w, old, new = map(np.asarray, (w, old, new))
        assert old.sum() == new.sum()
        assert not w[~new].any()
        grown |= bool((new & ~old).any())
  assert grown
  chex.assert_tree_all_finite(params)
