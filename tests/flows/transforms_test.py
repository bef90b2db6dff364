"""Gates, decay, projection and held steps, of which flows are made."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse

# f32: 100 steps of the same arithmetic in another order.
_TOLERANCE = dict(rtol=2e-5, atol=2e-6)
_W = np.array([[3., -1.], [2., 4.], [-.5, .25], [1., -2.]], np.float32)


def _masks():
  """Two of four along axis -2."""
  kept = [[1, 0], [1, 1], [0, 0], [0, 1]]
  return {'w': jnp.array(kept, bool), 'b': None}


def _params(dtype=jnp.float32):
  return {'w': jnp.array(_W, dtype), 'b': jnp.ones(2, dtype)}


def _apply(tx, updates, params, masks, steps=1):
  state = tx.init(params)
  for _ in range(steps):
    out, state = tx.update(updates, state, params, masks=masks)
  return out


def test_gate_gradients_zeroes_exactly_the_pruned_and_stops_nan():
  grads = jax.tree.map(jnp.ones_like, _params())
  mask = np.asarray(_masks()['w'])
  grads['w'] = jnp.where(mask, grads['w'], jnp.nan)
  out = _apply(jaxsparse.flows.gate_gradients(), grads, _params(), _masks())
  np.testing.assert_array_equal(out['w'], mask.astype(np.float32))
  np.testing.assert_array_equal(out['b'], np.ones(2))


def test_gains_are_clipped_to_the_unit_interval():
  grads = jax.tree.map(jnp.ones_like, _params())
  mask = np.asarray(_masks()['w'])
  for gain, expected in ((-2e-8, 0.), (1.5, 1.), (lambda t: 3., 1.)):
    out = _apply(
        jaxsparse.flows.gate_gradients(gain), grads, _params(), _masks())
    np.testing.assert_array_equal(out['w'], np.where(mask, 1., expected))


@pytest.mark.parametrize('steps', [4, 60, 100, 5000])
def test_a_gain_of_optax_ends_at_zero_however_it_is_rounded(steps):
  schedule = optax.linear_schedule(1., 0., steps)
  gain = jax.jit(lambda t: jaxsparse.flows.gain_at(schedule, t))
  assert gain(steps - 1) > 0
  assert gain(steps) == gain(steps + 7) == 0.


def test_a_scheduled_gain_sees_the_step():
  tx = jaxsparse.flows.gate_gradients(
      lambda t: 1. - 0.25 * t.astype(jnp.float32))
  grads = jax.tree.map(jnp.ones_like, _params())
  out = _apply(tx, grads, _params(), _masks(), steps=3)
  assert set(np.unique(out['w'])) == {0.5, 1.}


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_pruned_decay_adds_c_times_w_where_pruned(dtype):
  params = _params(dtype)
  zeros = jax.tree.map(jnp.zeros_like, params)
  out = _apply(jaxsparse.flows.add_pruned_decay(0.5), zeros, params, _masks())
  assert out['w'].dtype == dtype
  np.testing.assert_array_equal(
      out['w'].astype(jnp.float32),
      np.where(np.asarray(_masks()['w']), 0., 0.5 * _W))
  np.testing.assert_array_equal(out['b'], zeros['b'])
  out = _apply(
      jaxsparse.flows.add_pruned_decay(0.5, p=1), zeros, params, _masks())
  np.testing.assert_array_equal(
      out['w'].astype(jnp.float32),
      np.where(np.asarray(_masks()['w']), 0., 0.5 * np.sign(_W)))


def test_another_norm_of_the_decay_is_a_taught_error():
  with pytest.raises(ValueError, match='p=3.*Write'):
    jaxsparse.flows.add_pruned_decay(0.5, p=3)


@pytest.mark.parametrize('weights, updates', [
    (jnp.float32, jnp.float32), (jnp.bfloat16, jnp.bfloat16),
    (jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16)])
def test_projected_updates_land_on_zero_exactly(weights, updates):
  params = jax.tree.map(
      lambda w: (w * jnp.asarray(1 / 3, w.dtype)), _params(weights))
  u = jax.tree.map(lambda w: jnp.ones_like(w, updates), params)
  out = _apply(jaxsparse.flows.project_updates(), u, params, _masks())
  with jax.numpy_dtype_promotion('standard'):
    landed = optax.apply_updates(params, out)
  pruned = ~np.asarray(_masks()['w'])
  assert not np.asarray(landed['w'])[pruned].any()
  assert np.asarray(landed['w'])[~pruned].all()


def test_apply_masks_keeps_dtype_structure_and_dense_leaves():
  params = _params(jnp.bfloat16)
  out = jaxsparse.apply_masks(params, _masks(), 0.5)
  assert out['w'].dtype == jnp.bfloat16 and out['b'] is params['b']
  mask = np.asarray(_masks()['w'])
  np.testing.assert_array_equal(
      out['w'].astype(jnp.float32), np.where(mask, _W, _W / 2))


def test_nothing_of_a_pruned_weight_passes_at_gain_zero():
  params = _params()
  params['w'] = jnp.where(_masks()['w'], params['w'], jnp.nan)
  for gain in (0., jnp.float32(0.)):
    out = jaxsparse.apply_masks(params, _masks(), gain)
    assert not np.asarray(out['w'])[~np.asarray(_masks()['w'])].any()


@pytest.mark.parametrize('transform', [
    jaxsparse.flows.gate_gradients, jaxsparse.flows.add_pruned_decay,
    jaxsparse.flows.project_updates])
def test_missing_masks_are_a_taught_error(transform):
  params = _params()
  tx = optax.chain(transform(), optax.sgd(1.))
  with pytest.raises(ValueError, match='masks=masks'):
    tx.update(params, tx.init(params), params)


def test_masks_of_another_tree_are_a_taught_error():
  params = _params()
  with pytest.raises(ValueError, match='get_masks'):
    jaxsparse.apply_masks(params, {'w': None})


def test_transforms_stand_in_a_chain():
  params, masks = _params(), _masks()
  tx = optax.chain(jaxsparse.flows.gate_gradients(), optax.sgd(1.),
                   jaxsparse.flows.project_updates())
  updates, _ = tx.update(params, tx.init(params), params, masks=masks)
  landed = optax.apply_updates(params, updates)
  assert not np.asarray(landed['w']).any()  # w - 1.0 * w, or projected.
  np.testing.assert_array_equal(landed['b'], np.zeros(2))


def _held(inner, steps=6):
  """Params and inner states of an optimizer that stands still at 2 and 5."""
  tx = jaxsparse.flows.hold_steps(inner, lambda s: (s == 2) | (s == 5))
  params = {'w': jnp.asarray(_W), 'b': jnp.ones(2)}
  state, history = tx.init(params), []

  @jax.jit
  def step(params, state, i):
    grads = jax.tree.map(lambda w: w * (i + 1.), params)
    with jax.numpy_dtype_promotion('standard'):
      updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  for i in range(steps):
    history.append((params, state))
    params, state = step(params, state, jnp.float32(i))
  return [*history, (params, state)]


@pytest.mark.parametrize('inner', [
    optax.adamw(.1), optax.sgd(optax.linear_schedule(.1, 0., 5), momentum=.9)])
def test_a_held_optimizer_is_as_if_the_step_had_not_been(inner):
  history = _held(inner)
  for i, (old, new) in enumerate(zip(history, history[1:]), start=1):
    same = jax.tree.map(np.array_equal, (old[0], old[1].inner),
                        (new[0], new[1].inner))
    assert all(jax.tree.leaves(same)) == (i in (2, 5))
    assert int(new[1].count) == i
  # Left alone, with the same gradients but at steps 2 and 5.
  params, state = history[0][0], inner.init(history[0][0])
  for i in (0, 2, 3, 5):
    grads = jax.tree.map(lambda w, i=i: w * (i + 1.), params)
    with jax.numpy_dtype_promotion('standard'):
      updates, state = inner.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  chex.assert_trees_all_close(params, history[-1][0], **_TOLERANCE)
