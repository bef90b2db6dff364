"""Flows against the papers' own formulations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse

# f32: 100 steps of the same arithmetic in another order.
_TOLERANCE = dict(rtol=2e-5, atol=2e-6)
_W = np.array([[3., -1.], [2., 4.], [-.5, .25], [1., -2.]], np.float32)


def _two_of_four(w):
  """Top 2 of every 4 along axis -2, by numpy-like sorting."""
  k, n = w.shape
  groups = jnp.abs(w).reshape(k // 4, 4, n)
  order = jnp.argsort(-groups, axis=1, stable=True)
  rank = jnp.argsort(order, axis=1, stable=True)
  return (rank < 2).reshape(k, n)


# The papers' way: the masked weight has a backward pass of its own.
@functools.partial(jax.custom_vjp)
def _sr_ste(w, c):
  return jnp.where(_two_of_four(w), w, 0.)


def _sr_ste_forward(w, c):
  return _sr_ste(w, c), (w, c)


def _sr_ste_backward(saved, g):
  w, c = saved
  return g + c * jnp.where(_two_of_four(w), 0., 1.) * w, None


_sr_ste.defvjp(_sr_ste_forward, _sr_ste_backward)


@functools.partial(jax.custom_vjp)
def _mdgf(w, d):
  mask = _two_of_four(w)
  return w * jnp.where(mask, 1., d)


_mdgf.defvjp(lambda w, d: (_mdgf(w, d), None), lambda _, g: (g, None))


def _mdgf_gated(w, d):
  return w * jax.lax.stop_gradient(jnp.where(_two_of_four(w), 1., d))


def _data():
  keys = jax.random.split(jax.random.key(0), 4)
  params = {'in': jax.random.normal(keys[0], (16, 12)) / 4,
            'out': jax.random.normal(keys[1], (12, 3)) / 4}
  x = jax.random.normal(keys[2], (100, 8, 16))
  y = jax.random.normal(keys[3], (100, 8, 3))
  return params, x, y


def _predict(w_in, w_out, x):
  return jnp.tanh(x @ w_in) @ w_out


def _train(step, params, state, x, y):
  step = jax.jit(step)
  for i in range(100):
    params, state = step(params, state, x[i], y[i])
  return params


_DECAY = optax.linear_schedule(1., 0., 60)


@pytest.mark.parametrize('flow, reference, argument', [
    (jaxsparse.ste(), _sr_ste, lambda t: 0.),
    (jaxsparse.sr_ste(0.05), _sr_ste, lambda t: 0.05),
    (jaxsparse.mdgf(_DECAY), _mdgf,
     lambda t: jnp.maximum(1. - t / 60., 0.)),
    (jaxsparse.mdgf(_DECAY, straight_through=False), _mdgf_gated,
     lambda t: jnp.maximum(1. - t / 60., 0.)),
], ids=['ste', 'sr_ste', 'mdgf', 'mdgf_gated'])
def test_flow_follows_its_custom_vjp_reference_for_100_steps(
    flow, reference, argument):
  params, x, y = _data()
  with jax.numpy_dtype_promotion('standard'):
    inner = optax.sgd(0.05, momentum=0.9)
    tx = jaxsparse.sparsify(
        inner, jaxsparse.prune({'in': jaxsparse.nm(2, 4)}), flow)

    def ours(params, state, x, y):
      sparse = jaxsparse.sparse_params(params, state)
      grads = jax.grad(lambda p: jnp.mean(
          (_predict(p['in'], p['out'], x) - y)**2))(sparse)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    def theirs(params, state, x, y):
      state, t = state
      grads = jax.grad(lambda p: jnp.mean((_predict(
          reference(p['in'], argument(t)), p['out'], x) - y)**2))(params)
      updates, state = inner.update(grads, state, params)
      return optax.apply_updates(params, updates), (state, t + 1.)

    a = _train(ours, params, tx.init(params), x, y)
    b = _train(theirs, params, (inner.init(params), jnp.float32(0)), x, y)
  for name in params:
    np.testing.assert_allclose(a[name], b[name], **_TOLERANCE)
    assert np.abs(a[name] - params[name]).max() > 0.01  # It did train.


def _params(dtype=jnp.float32):
  return {'w': jnp.array(_W, dtype), 'b': jnp.ones(2, dtype)}


@pytest.mark.parametrize('decay', [1e-2, lambda step: 1e-2 * (step + 1)],
                         ids=['number', 'schedule'])
def test_decoupled_decay_is_taken_off_after_the_optimizer(decay):
  """Adam's steps do not see it: `w <- w + u - c * (1 - m) * w`."""
  rule = jaxsparse.prune({'w': jaxsparse.nm(2, 4)})
  ste, ours = (jaxsparse.sparsify(optax.adam(.1), rule, flow) for flow in (
      jaxsparse.ste(), jaxsparse.sr_ste(decay, decoupled=True)))
  params, state = _params(), ours.init(_params())
  inner = ste.init(params)
  with jax.numpy_dtype_promotion('standard'):
    for step in range(3):
      grads = jax.tree.map(lambda w, t=step: jnp.cos(w + t), params)
      masks = jaxsparse.get_masks(state)
      plain, new_inner = ste.update(
          grads, inner._replace(rule=state.rule), params)
      updates, state = ours.update(grads, state, params)
      c = decay(step) if callable(decay) else decay
      expected = plain['w'] - c * jnp.where(masks['w'], 0., params['w'])
      np.testing.assert_allclose(updates['w'], expected, **_TOLERANCE)
      np.testing.assert_array_equal(updates['b'], plain['b'])
      params, inner = optax.apply_updates(params, updates), new_inner


def test_coupled_and_decoupled_decay_are_one_in_sgd_at_rate_1():
  rule = jaxsparse.prune({'w': jaxsparse.nm(2, 4)})
  updates = []
  for decoupled in (False, True):
    tx = jaxsparse.sparsify(
        optax.sgd(1.), rule, jaxsparse.sr_ste(.1, decoupled=decoupled))
    grads = jax.tree.map(jnp.ones_like, _params())
    updates.append(tx.update(grads, tx.init(_params()), _params())[0]['w'])
  np.testing.assert_allclose(*updates, **_TOLERANCE)


def test_a_flow_goes_around_the_optimizer_that_sparsify_is_given():
  inner = optax.sgd(1.)
  assert jaxsparse.hard().around(inner) is inner
  flow = jaxsparse.hard()._replace(
      around=lambda inner: optax.chain(inner, optax.scale(.5)))
  tx = jaxsparse.sparsify(inner, jaxsparse.lock(), flow)
  w = jnp.array([0., 2., 4.])
  updates, _ = tx.update(jnp.ones(3), tx.init(w), w)
  np.testing.assert_array_equal(updates, [0., -.5, -.5])
