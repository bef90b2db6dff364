"""Restored states whose method would never act again are told."""

import re

import jax
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from jaxsparse import schedules
from jaxsparse import training
from jaxsparse.training import resuming

PARAMS = {'a': np.arange(1, 33, dtype=np.float32).reshape(8, 4),
          'b': np.ones(4, np.float32)}
KERNELS = {'a': jaxsparse.unstructured(), 'b': None}


def gradual(sparsity, start=0, end=20):
  return jaxsparse.prune(
      KERNELS, distribution=jaxsparse.uniform(sparsity),
      schedule=schedules.cubic(start, end),
      when=schedules.every(5, begin=start, end=end))


def after(rule, steps, around=lambda tx: tx, params=PARAMS, scale=0.):
  """The state after steps whose gradients are noise of a scale."""
  tx = around(jaxsparse.sparsify(optax.sgd(0.1), rule))
  state, rng = tx.init(params), np.random.default_rng(0)
  step = jax.jit(tx.update)
  for _ in range(steps):
    grads = jax.tree.map(lambda w: scale * rng.standard_normal(
        np.shape(w), np.float32), params)
    _, state = step(grads, state, params)
  return state


@pytest.mark.parametrize('new', [
    gradual(.75), jaxsparse.prune({'a': jaxsparse.unstructured(.75)},
                                  when=schedules.every(1, begin=10, end=10)),
    jaxsparse.Method(gradual(.75, end=25), jaxsparse.hard())])
def test_a_higher_target_after_the_schedule_is_warned_of(new):
  state = after(gradual(.5), 30)
  with pytest.warns(UserWarning, match=re.escape(
      'at step 30') + '.*50.0% pruned, and with 75.0%.*cubic'):
    found = training.check_resume(new, PARAMS, state, steps=20)
  assert found == {'a': (.5, .75)}


@pytest.mark.parametrize('new', [
    gradual(.5), gradual(.75, 30, 45), gradual(.75, 0, 40),
    jaxsparse.prune({'a': jaxsparse.nm(2, 4)})])
def test_what_still_acts_is_not(new):
  wrapped = lambda tx: optax.chain(optax.clip(1.), tx)
  training.check_resume(new, PARAMS, after(gradual(.5), 30, wrapped), steps=20)


def test_a_schedule_that_is_behind_the_masks_is_warned_of():
  state = after(gradual(.75, 0, 40), 20)
  held = 1 - jaxsparse.get_masks(state)['a'].mean()
  with pytest.warns(UserWarning, match=(
      f'prunes {held:.1%} at step 20, .*goes on with .*initial.*cubic.20, ')):
    found = training.check_resume(gradual(.75, 0, 80), PARAMS, state, steps=60)
  assert found == {'a': (.75, .75)}
  goes_on = schedules.from_initial(schedules.cubic(20, 80), float(held) / .75)
  training.check_resume(jaxsparse.prune(
      {'a': jaxsparse.unstructured(.75)}, schedule=goes_on,
      when=schedules.every(5)), PARAMS, state, steps=60)
  # Where dense phases are part of the method, all masks open.
  method = methods.ac_dc(KERNELS, .5, 40, warm_up=5, period=5)
  training.check_resume(method, PARAMS, after(method.rule, 12), steps=28)


def competing(sparsity, end):
  return jaxsparse.prune(
      {'.*': jaxsparse.unstructured()}, score=jaxsparse.snip_momentum(),
      distribution=jaxsparse.global_threshold(sparsity),
      schedule=schedules.cubic(0, end), when=schedules.every(5, end=end))


def test_layers_that_compete_are_judged_by_their_total():
  rng = np.random.default_rng(1)
  params = {name: rng.standard_normal((8, 8), np.float32) for name in 'ab'}
  state = after(competing(.5, 20), 22, params=params, scale=1.)
  found = training.check_resume(competing(.5, 20), params, state, steps=5)
  assert sum(pair[1] for pair in found.values()) == 1.
  training.check_resume(competing(.5, 30), params, state, steps=20)
  with pytest.warns(UserWarning, match=re.escape(
      'a, b will end with 50.0% pruned, and with 75.0%')):
    training.check_resume(competing(.75, 20), params, state, steps=5)


def test_layers_with_as_many_zeros_as_the_target_compete():
  rng = np.random.default_rng(0)
  params = {name: rng.standard_normal((8, 8), np.float32) for name in 'ab'}
  method = methods.granet({'.*': jaxsparse.unstructured()}, .5, 40, every=5,
                          initial_sparsity=.2)
  tx = jaxsparse.sparsify(optax.sgd(0.1), method)
  state = tx.init(params)
  step = jax.jit(tx.update)
  for _ in range(22):
    grads = jax.tree.map(lambda w: rng.standard_normal(
        w.shape, np.float32), params)
    updates, state = step(grads, state, params)
    params = optax.apply_updates(params, updates)
  training.check_resume(method, params, state, steps=18)


def test_a_model_beyond_32_bits_is_judged():
  masks = [jax.ShapeDtypeStruct((2**15, 2**15), bool)] * 3
  assert jax.eval_shape(resuming._sparsity, masks).shape == ()


def test_layers_that_share_by_their_shapes_are_judged_alone():
  shared = lambda by: jaxsparse.prune(
      {'.*': jaxsparse.unstructured()}, distribution=by(.5),
      when=schedules.every(1, begin=1, end=1))
  params = {'a': np.ones((8, 4), np.float32), 'b': np.ones(64, np.float32)}
  with pytest.warns(UserWarning, match='a will end with 50.0% pruned'):
    training.check_resume(
        shared(jaxsparse.erk), params, after(shared(jaxsparse.uniform), 2,
                                             params=params), steps=1)


def test_a_state_beside_another_optimizer_is_resumed():
  around = lambda tx: optax.multi_transform(
      {'x': tx, 'y': optax.sgd(.1)}, {'a': 'x', 'b': 'y'})
  rule = lambda regex, sparsity: jaxsparse.prune(
      {regex: jaxsparse.unstructured(sparsity)},
      schedule=schedules.cubic(0, 20), when=schedules.every(5, end=20))
  with pytest.warns(UserWarning, match='50.0% pruned, and with 75.0%'):
    training.check_resume(rule('.*', .75), PARAMS,
                          after(rule('a', .5), 30, around), steps=20)


def test_a_state_of_an_nnx_optimizer_is_resumed():
  from flax import nnx
  model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
  rule = lambda s: jaxsparse.prune({'kernel': jaxsparse.unstructured(s)},
                                   schedule=schedules.cubic(0, 20))
  optimizer = nnx.Optimizer(
      model, jaxsparse.sparsify(optax.sgd(.1), rule(.5)), wrt=nnx.Param)
  found = training.check_resume(
      rule(.75), nnx.state(model, nnx.Param), optimizer.opt_state, steps=20)
  assert found == {'kernel': (.75, .75)}


def test_a_rule_of_optax_alone_is_resumed():
  rule = gradual(.5)
  plain = optax.GradientTransformation(
      rule.init, lambda grads, state, params=None: rule.update(
          grads, state, params))
  assert training.check_resume(plain, PARAMS, after(plain, 3), steps=20) == {
      'a': (.5, .5)}


def test_a_state_of_something_else_is_told():
  with pytest.raises(ValueError, match='not belong to this method'):
    training.check_resume(
        methods.rigl({'b': jaxsparse.unstructured()}, sparsity=.5,
                     total_steps=1_000), PARAMS, after(gradual(.5), 3), steps=5)
  tx = jaxsparse.sparsify(optax.sgd(.1), gradual(.5))
  with pytest.raises(ValueError, match='not the tx that sparsify made'):
    training.check_resume(tx, PARAMS, tx.init(PARAMS), steps=5)
  with pytest.raises(ValueError, match='Expected one SparseState'):
    training.check_resume(gradual(.5), PARAMS, (), steps=5)


def test_a_lock_that_locks_nothing_is_warned_of():
  tx = jaxsparse.sparsify(optax.sgd(0.1), jaxsparse.lock())
  with pytest.warns(UserWarning, match='locks nothing.*sparse_params'):
    tx.init(PARAMS)
  jax.jit(tx.init)(PARAMS)
  tx.init({**PARAMS, 'a': PARAMS['a'] * (PARAMS['a'] > 5)})
