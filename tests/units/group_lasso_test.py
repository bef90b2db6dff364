"""Group Lasso: its gradient is autodiff's, its proximal step lands on zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.units import prune_units
from jaxsparse.units import root_mean_square
from jaxsparse.units.group_lasso import add_group_lasso
from jaxsparse.units.group_lasso import prox_group_lasso
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie

PATTERNS = {
    'rows': jaxsparse.channel(-2), 'columns': jaxsparse.channel(-1),
    'blocks': jaxsparse.block((2, 4)),
    'means of blocks': jaxsparse.block((2, 4), reduce='mean'),
    'weights': jaxsparse.unstructured()}
TIE = Tie(8, (Member('in', 1, role='makes'), Member('bias', 0, role='beside'),
              Member('out', 0, role='reads')), name='hidden')


def _vanished(groups, threshold=0., **options):
  return prune_units(groups, importance=root_mean_square(),
                     threshold=threshold, **options)


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(dead=()):
  w = {'in': normal(0, 4, 8), 'bias': normal(1, 8), 'out': normal(2, 8, 4)}
  for i in dead:
    w['in'][:, i] = w['bias'][i] = w['out'][i] = 0.
  return jax.tree.map(jnp.asarray, w)


def blocks_of(name, w):
  """The groups of a matrix as views, by numpy's own slices."""
  step = {'rows': (1, w.shape[1]), 'columns': (w.shape[0], 1),
          'weights': (1, 1)}.get(name, (2, 4))
  return [w[i:i + step[0], j:j + step[1]]
          for i in range(0, w.shape[0], step[0])
          for j in range(0, w.shape[1], step[1])]


@pytest.mark.parametrize('name', PATTERNS)
def test_the_gradient_is_that_of_the_penalty(name):
  w = normal(0, 4, 8)
  w[:2, :4] = 0.  # A block that is zero has gradient zero.
  tx = add_group_lasso(0.3, {'.*': PATTERNS[name]})
  got, _ = tx.update(jnp.ones((4, 8)), tx.init(jnp.asarray(w)), jnp.asarray(w))
  expected = np.ones((4, 8), np.float32)
  for g, group in zip(blocks_of(name, expected), blocks_of(name, w)):
    if norm := np.sqrt((group**2).sum()):
      g += 0.3 * group / norm
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_gradient_through_ties_is_autodiffs():
  params = network()

  def penalty(w):
    return 0.7 * jnp.sqrt(jnp.square(w['in']).sum(0) + jnp.square(w['bias'])
                          + jnp.square(w['out']).sum(1)).sum()
  tx = add_group_lasso(0.7, [TIE])
  zeros = jax.tree.map(jnp.zeros_like, params)
  got, _ = tx.update(zeros, tx.init(params), params)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(
      jax.grad(penalty)(params))):
    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize('name', PATTERNS)
def test_the_proximal_step_is_the_minimum(name):
  """`argmin_z 0.5 ||z - v||^2 + t ||z||`, of each group, by a fine search."""
  w, u = normal(0, 4, 8), 0.1 * normal(1, 4, 8)
  w[:2, :4] *= 0.1
  tx = prox_group_lasso(2., {'.*': PATTERNS[name]}, learning_rate=0.4)
  got, _ = tx.update(jnp.asarray(u), tx.init(jnp.asarray(w)), jnp.asarray(w))
  z = np.asarray(w + np.asarray(got))
  scales = np.linspace(0., 1., 20001)  # The minimum is along v.
  some = 0
  for v, found in zip(blocks_of(name, w + u), blocks_of(name, z)):
    n = np.sqrt((v**2).sum())
    best = scales[np.argmin(0.5 * (scales - 1)**2 * n**2 + 0.8 * scales * n)]
    some += best == 0
    np.testing.assert_allclose(found, best * v, atol=2e-4)
  assert some or name in ('rows', 'columns')


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_groups_land_on_exactly_zero(dtype):
  params = jax.tree.map(lambda w: w.astype(dtype), network())
  tx = optax.chain(
      optax.sgd(0.125), prox_group_lasso(1., [TIE], learning_rate=0.125))
  state = tx.init(params)

  @jax.jit
  def step(params, state):
    updates, state = tx.update(
        jax.tree.map(jnp.zeros_like, params), state, params)
    return optax.apply_updates(params, updates), state
  for _ in range(18):
    params, state = step(params, state)
  dead = (np.asarray(params['out'], np.float32) == 0).all(1)
  assert 0 < dead.sum() < 8
  for path, axis in (('in', 1), ('bias', 0), ('out', 0)):
    assert params[path].dtype == dtype
    w = np.moveaxis(np.asarray(params[path], np.float32), axis, 0)
    assert not w[dead].any()
    assert w[~dead].any()
  keep = jaxsparse.alive(params, [TIE])['hidden']
  np.testing.assert_array_equal(keep, ~dead)
  assert jaxsparse.slim(params, [TIE], {'hidden': keep})['in'].shape == (
      4, 8 - dead.sum())


def test_train_with_group_lasso_then_slim():
  """The three lines, on a network of which two units are needed."""
  x, teacher = normal(3, 64, 4), network(dead=(0, 2, 3, 5, 6, 7))

  def apply(params, x):
    hidden = jax.nn.relu(x @ params['in'] + params['bias'][None])
    return hidden @ params['out']
  target = apply(teacher, x)
  params = jax.tree.map(lambda w: w + 0.1, teacher)
  ties = jaxsparse.infer_ties(apply, params, x)

  tx = optax.chain(
      optax.sgd(0.05), prox_group_lasso(0.3, ties, learning_rate=0.05))

  @jax.jit
  def step(params, state):
    grads = jax.grad(
        lambda p: jnp.square(apply(p, x) - target).mean())(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  state = tx.init(params)
  for _ in range(200):
    params, state = step(params, state)
  small = jaxsparse.slim(params, ties, jaxsparse.alive(params, ties))
  assert 2 <= small['out'].shape[0] < 8  # It takes two.
  np.testing.assert_allclose(apply(small, x), apply(params, x), atol=1e-5)


def test_scaled_by_the_root_of_the_size():
  w = jnp.ones((4, 8))
  plain, scaled = (
      add_group_lasso(0.1, {'.*': jaxsparse.channel(-1)}, scaled=s)
      for s in (False, True))
  one, two = (tx.update(jnp.zeros((4, 8)), tx.init(w), w)[0]
              for tx in (plain, scaled))
  np.testing.assert_allclose(two, 2 * one, rtol=1e-6)  # Four weights a column.


def test_strengths_may_be_schedules():
  w = jnp.full((1, 2), 5.)
  strength = lambda step: jnp.where(step < 1, 1., 2.)
  tx = prox_group_lasso(
      strength, {'.*': jaxsparse.channel(-1)}, learning_rate=strength)
  state, zeros = tx.init(w), jnp.zeros((1, 2))
  for taken in (1., 4.):  # 1 * 1, then 2 * 2.
    updates, state = tx.update(zeros, state, w)
    np.testing.assert_allclose(updates, jnp.full((1, 2), -taken), rtol=1e-6)


def test_vanished_groups_become_masks_and_stay_zero():
  params = network(dead=(1, 4))
  tx = jaxsparse.sparsify(
      optax.sgd(0.1, momentum=0.9), _vanished([TIE]))
  state = tx.init(params)
  assert all(m.all() for m in jax.tree.leaves(jaxsparse.get_masks(state)))
  updates, state = tx.update(
      jax.tree.map(jnp.zeros_like, params), state, params)
  params = optax.apply_updates(params, updates)
  masks = jaxsparse.get_masks(state)
  np.testing.assert_array_equal(
      masks['bias'], [1, 0, 1, 1, 0, 1, 1, 1])
  np.testing.assert_array_equal(masks['in'][0], masks['bias'])
  np.testing.assert_array_equal(masks['out'][:, 0], masks['bias'])
  # Gradients that would bring everything back:
  updates, state = tx.update(
      jax.tree.map(jnp.ones_like, params), state, params)
  params = optax.apply_updates(params, updates)
  assert not np.asarray(params['in'])[:, [1, 4]].any()


def test_what_is_not_a_number_has_not_vanished():
  w = jnp.array([[jnp.nan, 0., 1.], [1., 0., 1.]])
  rule = _vanished({'.*': jaxsparse.channel(-1)})
  masks, _ = rule.update(None, rule.init(w), w)
  np.testing.assert_array_equal(masks[0], [1, 0, 1])
  tx = prox_group_lasso(9., {'.*': jaxsparse.channel(-1)}, learning_rate=1.)
  updates, _ = tx.update(jnp.zeros((2, 3)), tx.init(w), w)
  assert np.isnan(updates[:, 0]).all()


def test_hyperparameters_may_be_injected():
  w = jnp.full((1, 2), 5.)
  tx = optax.inject_hyperparams(
      prox_group_lasso, static_args=('groups', 'scaled'))(
          alpha=2., groups={'.*': jaxsparse.channel(-1)}, learning_rate=0.5)
  state = jax.jit(tx.init)(w)
  updates, _ = jax.jit(tx.update)(jnp.zeros((1, 2)), state, w)
  np.testing.assert_allclose(updates, jnp.full((1, 2), -1.), rtol=1e-6)


def test_a_threshold_is_of_the_root_mean_square():
  w = jnp.array([[3., 0.3], [4., 0.4]])  # Root mean squares 3.54 and 0.354.
  for threshold, alive in ((0.35, [1, 1]), (0.36, [1, 0])):
    rule = _vanished({'.*': jaxsparse.channel(-1)}, threshold=threshold)
    masks, _ = rule.update(None, rule.init(w), w)
    np.testing.assert_array_equal(masks[0], alive)


def test_what_is_not_a_group_is_left_alone():
  params = {'a': jnp.ones((4, 4)), 'b': jnp.ones(3)}
  patterns = {'a': jaxsparse.channel(-1), '.*': None}
  tx = prox_group_lasso(1e3, patterns, learning_rate=1.)
  updates, _ = tx.update(
      jax.tree.map(jnp.ones_like, params), tx.init(params), params)
  np.testing.assert_array_equal(updates['a'], -params['a'])
  np.testing.assert_array_equal(updates['b'], params['b'])
  assert _vanished(patterns).init(params).masks['b'] is None


def test_errors_say_what_to_write():
  w = jnp.ones((4, 4))
  for bad in (-1., '0.1'):
    with pytest.raises(ValueError, match='number of 0 or more or a function'):
      add_group_lasso(bad, {'.*': jaxsparse.channel(-1)})
  with pytest.raises(ValueError, match='number of 0 or more or a function'):
    prox_group_lasso(1., {'.*': jaxsparse.channel(-1)}, learning_rate=-1.)
  with pytest.raises(ValueError, match=r'or more.*Write e.g. threshold'):
    _vanished({'.*': jaxsparse.channel(-1)}, threshold=-1.)
  with pytest.raises(ValueError, match='when must be a function'):
    _vanished({'.*': jaxsparse.channel(-1)}, when=100)
  with pytest.raises(ValueError, match='matches no parameter'):
    add_group_lasso(1., {'kernel': jaxsparse.channel(-1)}).init({'w': w})
  with pytest.raises(ValueError, match='print\\(ties\\)'):
    add_group_lasso(1., [Tie(4, (Member('w', 1),), kept='softmax')]).init(
        {'w': w})
  with pytest.raises(ValueError, match='Infer ties from'):
    add_group_lasso(1., [Tie(4, (Member('v', 1),))]).init({'w': w})
  tx = add_group_lasso(1., {'.*': jaxsparse.channel(-1)})
  with pytest.raises(ValueError, match='opt_state, params'):
    tx.update(w, tx.init(w))


def test_norms_of_complex_weights_are_real():
  tie = Tie(2, (Member('in', 1, role='makes'), Member('out', 0, role='reads')))
  w = {'in': jnp.array([[3j, 1.], [4j, 0.]]), 'out': jnp.zeros((2, 1))}
  tx = prox_group_lasso(1., [tie], learning_rate=1e-3, scaled=False)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, w), tx.init(w), w)
  np.testing.assert_allclose(
      w['in'] + updates['in'],
      np.asarray(w['in']) * [[1 - 1e-3 / 5, 1 - 1e-3]], rtol=1e-5)
  score = root_mean_square()(jaxsparse.units.groups.families([tie], w))
  np.testing.assert_allclose(  # Of three weights.
      score.update(None, score.init(w), w)[0][0], [(25 / 3)**.5, (1 / 3)**.5],
      rtol=1e-5)
