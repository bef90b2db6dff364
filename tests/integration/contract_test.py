"""One suite for every method, with every kind of optimizer and tree."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse._utils import trees
from tests._lib import method_table
from tests._lib.compiled import once

_STEPS = 6
_FEW = ('gradual', 'rigl', 'sr_ste')


def _two_each(methods, settings, case):
  """Each setting with two methods in turn: all pairs of methods meet."""
  for i, setting in enumerate(settings):
    for k in (i, i + 1):
      yield case(methods[k % len(methods)], setting)


_CASES = sorted(
    {(m, 'adamw', 'nested') for m in method_table.METHODS}
    | set(_two_each(_FEW, method_table.OPTIMIZERS, lambda m, o: (
        m, o, 'nested')))
    | set(_two_each(_FEW, method_table.TREES, lambda m, t: (m, 'adamw', t)))
    | {('ste', 'sgd', 'bf16'), ('global', 'sgd', 'nnx'),
       ('lock', 'sgd', 'dataclass'), ('mdgf', 'sgd', 'tuple')})


def _loss(params, target):
  """Pulls every parameter to a target; its gradient is dense."""
  return sum(
      jnp.sum(jnp.square(w.astype(jnp.float32) - t))
      for w, t in zip(jax.tree.leaves(params), jax.tree.leaves(target)))


def _target(params):
  return jax.tree.map(
      lambda w: jax.random.normal(jax.random.key(9), w.shape), params)


@functools.cache
def _run(method, optimizer, tree):
  """The optimizer, all (params, state) of a short run, and its losses."""
  make_rule, make_flow, _ = method_table.METHODS[method]
  params = method_table.TREES[tree]()
  if method == 'lock':
    params = jax.tree.map(
        lambda w: jnp.where(w > 0, w, jnp.zeros_like(w)), params)
  tx = method_table.OPTIMIZERS[optimizer](make_rule(), make_flow())
  state = tx.init(params)
  if jaxsparse.sparse_params(params, state) is params:
    params = jaxsparse.apply_masks(params, jaxsparse.get_masks(state))
  target = _target(params)

  @once
  def step(params, state):
    sparse = jaxsparse.sparse_params(params, state)
    loss, grads = jax.value_and_grad(_loss)(sparse, target)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  history, losses = [(params, state)], []
  for _ in range(_STEPS):
    params, state, loss = step(params, state)
    history.append((params, state))
    losses.append(float(loss))
  return tx, history, losses


@pytest.mark.parametrize('method, optimizer, tree', _CASES)
def test_contract(method, optimizer, tree):
  tx, history, losses = _run(method, optimizer, tree)
  first, start = history[0]
  hard = jaxsparse.sparse_params(first, start) is first

  assert np.isfinite(losses).all()
  assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(start))
  _check_arrays(start)
  for params, state in history:
    chex.assert_trees_all_equal_shapes_and_dtypes(params, first)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, start)
    _check_masks(params, state, hard,
                 dense_biases=method not in method_table.MASKED_BIASES)
  # The step moved something, and the state can be mapped like any other.
  assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(
      jax.tree.leaves(first), jax.tree.leaves(history[-1][0])))
  mapped = optax.tree_map_params(tx, lambda x: x, history[-1][1])
  chex.assert_trees_all_equal_structs(mapped, start)


def _check_arrays(state):
  """No array stands in it twice: a train step may donate each only once."""
  state = jaxsparse.transform.state_of(state)._replace(inner=())
  arrays = [x for x in jax.tree.leaves(state) if x.size]
  assert len({x.unsafe_buffer_pointer() for x in arrays}) == len(arrays)


def _check_masks(params, state, hard, dense_biases):
  masks = jaxsparse.get_masks(state)
  sparse = jaxsparse.sparse_params(params, state)
  some = False
  for path, w, m, s in trees.align(params, masks, sparse):
    if w.ndim == 1 and dense_biases:
      assert m is None, path
    w, s = np.asarray(w), np.asarray(s)
    if m is None:
      np.testing.assert_array_equal(w, s)
      continue
    some, m = True, np.asarray(m)
    assert m.dtype == bool and m.shape == w.shape
    if jaxsparse.transform.state_of(state).forward is None:
      np.testing.assert_array_equal(w[m], s[m])
    elif not jaxsparse.transform.state_of(state).gain:
      # It may change kept weights, and lets no others through.
      assert not s[~m].any(), path
    if hard:
      assert not w[~m].any(), path
  assert some


@pytest.mark.parametrize(
    'method', [m for m, row in method_table.METHODS.items() if row[2]])
def test_masks_are_those_of_the_params_at_hand(method):
  """No mask is stale: the rule, asked again, gives the same masks."""
  _, history, _ = _run(method, 'adamw', 'nested')
  rule = method_table.METHODS[method][0]()
  remake = jax.jit(lambda params: rule.init(params).masks)
  for params, state in history[1:]:
    fresh = remake(params)
    chex.assert_trees_all_equal(jaxsparse.get_masks(state), fresh)


@pytest.mark.parametrize('method', ['rigl', 'set'])
def test_active_weights_are_constant_and_grown_ones_have_one_step(method):
  """They start at zero, with zero moments, and take part at once."""
  _, history, _ = _run(method, 'adamw', 'nested')
  target, changed = _target(history[0][0]), False
  for step, ((before, old), (after, new)) in enumerate(
      zip(history, history[1:]), start=1):
    moments = new.inner[0]
    for _, start, w, o, n, mu, nu, t in trees.align(
        before, after, jaxsparse.get_masks(old), jaxsparse.get_masks(new),
        moments.mu, moments.nu, target):
      if o is None:
        continue
      assert o.sum() == n.sum()
      grown = np.asarray(n & ~o)
      changed |= grown.any()
      w, mu, nu, g = (np.asarray(x, np.float64)[grown]
                      for x in (w, mu, nu, 2. * (start - t)))
      np.testing.assert_allclose(mu, .1 * g, rtol=1e-5)
      np.testing.assert_allclose(nu, .001 * g**2, rtol=1e-5)
      np.testing.assert_allclose(w, -1e-2 * (mu / (1. - .9**step)) / np.sqrt(
          nu / (1. - .999**step)), rtol=1e-4)
  assert changed
