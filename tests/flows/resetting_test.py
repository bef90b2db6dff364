"""`reset_state`: forgets moments, and nothing else."""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

import jaxsparse
from tests._lib import method_table

_PARAMS = {'a': {'kernel': jnp.arange(1., 9.).reshape(4, 2),
                 'bias': jnp.ones(2)}, 'b': jnp.full((3,), 2.)}
_FACTORED = functools.partial(
    optax.adafactor, 1e-2, min_dim_size_to_factor=2, momentum=.9)
_OPTIMIZERS = {
    'adamw': lambda: optax.adamw(1e-2),
    'sgd': lambda: optax.sgd(1e-2, momentum=.9),
    'lion': lambda: optax.lion(1e-3),
    'adafactor': _FACTORED,
    'rprop': lambda: optax.rprop(1e-2),
    'masked': lambda: optax.masked(
        optax.adam(1e-2), {'a': {'kernel': True, 'bias': False}, 'b': True}),
}


def _advance(tx, params, state, steps, first=0):
  tx = method_table._standard(tx)
  update = jax.jit(tx.update)
  for i in range(first, first + steps):
    grads = jax.tree.map(lambda w, i=i: jnp.sin(w + i), params)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


@pytest.mark.parametrize('name', _OPTIMIZERS)
def test_from_the_step_on_it_is_an_optimizer_that_has_just_begun(name):
  inner = _OPTIMIZERS[name]()
  tx = jaxsparse.flows.reset_state(inner, lambda step: step == 4)
  params, state = _advance(tx, _PARAMS, tx.init(_PARAMS), 3)
  before, _ = _advance(inner, _PARAMS, inner.init(_PARAMS), 3)
  chex.assert_trees_all_close(params, before, rtol=1e-6)
  got, got_state = _advance(tx, params, state, 3, first=3)
  expected, fresh = _advance(inner, params, inner.init(params), 3, first=3)
  chex.assert_trees_all_close(got, expected, rtol=1e-6)
  chex.assert_trees_all_close(got_state.inner, fresh, rtol=1e-6)
  assert int(got_state.count) == 6


@pytest.mark.parametrize('around', [True, False])
@pytest.mark.parametrize('labels', [
    {'a': {'kernel': 'x', 'bias': 'x'}, 'b': 'y'}, {'a': 'x', 'b': 'y'},
    {'a': 'y', 'b': 'x'}], ids=['leaves', 'branches', 'the other'])
def test_moments_are_reset_beside_another_optimizer(around, labels):
  reset = functools.partial(jaxsparse.flows.reset_state, when=lambda t: t == 3)
  inner = optax.trace(.5)
  tx = optax.partition({'x': reset(inner) if around else inner,
                        'y': optax.set_to_zero()}, labels)
  tx = method_table._standard(tx if around else reset(tx))
  state, seen = tx.init(_PARAMS), []
  for _ in range(4):
    updates, state = jax.jit(tx.update)(
        jax.tree.map(jnp.ones_like, _PARAMS), state, _PARAMS)
    seen.append(max(float(u.max()) for u in jax.tree.leaves(updates)))
  assert seen == [1., 1.5, 1., 1.5]


@pytest.mark.parametrize('params', [_PARAMS, jnp.ones(3), jnp.ones(())],
                         ids=['tree', 'array', 'number'])
def test_the_learning_rate_goes_on(params):
  tx = jaxsparse.flows.reset_state(
      optax.inject_hyperparams(lambda rate: optax.chain(
          optax.trace(.9), optax.scale_by_schedule(lambda n: -rate / (1. + n))
      ))(rate=.1), lambda step: step == 3)
  state = tx.init(params)
  state.inner.hyperparams['rate'] = jnp.float32(.5)
  _, state = _advance(tx, params, state, 3)
  assert int(state.inner.inner_state[1].count) == 3
  if params is not _PARAMS and not params.ndim:
    return  # A rate is like a parameter that is one number.
  assert float(state.inner.hyperparams['rate']) == .5


def test_gradients_that_are_added_up_stay():
  tx = jaxsparse.flows.reset_state(
      optax.MultiSteps(optax.adam(1e-2), 3), lambda step: step == 5)
  _, state = _advance(tx, _PARAMS, tx.init(_PARAMS), 4)
  held = state.inner.acc_grads
  assert any(np.asarray(x).any() for x in jax.tree.leaves(held))
  _, state = _advance(tx, _PARAMS, state, 1, first=4)
  assert int(state.inner.mini_step) == 2
  assert int(state.inner.inner_opt_state[0].count) == 0
  assert not any(np.asarray(x).any() for x in jax.tree.leaves(
      state.inner.inner_opt_state[0].mu))


def test_patterns_say_whose_moments_are_forgotten():
  patterns = {'.*kernel': jaxsparse.unstructured(), '.*': None}
  tx = jaxsparse.flows.reset_state(
      optax.adam(1e-2), lambda step: step == 4, patterns=patterns)
  params, state = _advance(tx, _PARAMS, tx.init(_PARAMS), 3)
  grads = jax.tree.map(jnp.ones_like, params)
  _, new = method_table._standard(tx).update(grads, state, params)
  mu, old = new.inner[0].mu, state.inner[0].mu
  np.testing.assert_allclose(mu['a']['kernel'], .1, rtol=1e-6)
  np.testing.assert_allclose(mu['b'], .1 + .9 * old['b'], rtol=1e-6)
  assert int(new.inner[0].count) == 4


def test_moments_stay_beside_their_weights():
  mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(AxisType.Auto,) * 2)
  beside = NamedSharding(mesh, P('x', 'y'))
  params = {'kernel': jax.device_put(jnp.ones((8, 4)), beside)}
  tx = method_table._standard(jaxsparse.flows.reset_state(
      optax.adam(1e-2), lambda step: step == 2))
  state = jax.jit(
      tx.init, out_shardings=jaxsparse.state_shardings(tx, params))(params)
  for _ in range(2):
    _, state = jax.jit(tx.update)(params, state, params)
    assert state.inner[0].mu['kernel'].sharding.is_equivalent_to(beside, 2)


def test_bad_input_is_a_taught_error():
  with pytest.raises(ValueError, match='function of the step.*Write'):
    jaxsparse.flows.reset_state(optax.adam(.1), 5)
  tx = jaxsparse.flows.reset_state(
      optax.adam(.1), lambda step: step == 2,
      patterns={'nothing': jaxsparse.unstructured()})
  with pytest.raises(ValueError, match='matches no parameter'):
    tx.init(_PARAMS)
  tx = jaxsparse.flows.reset_state(optax.adam(.1), lambda step: step == 2)
  with pytest.raises(ValueError, match='needs the params'):
    tx.update(_PARAMS, tx.init(_PARAMS))
