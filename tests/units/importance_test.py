"""Sensitivity is the gradient with respect to a mask of ones, without one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import schedules
from jaxsparse.units import heads
from jaxsparse.units import keep_units
from jaxsparse.units import neurons
from jaxsparse.units import prune_units
from jaxsparse.units import saliency
from jaxsparse.units import sensitivity
from jaxsparse.units import unit_saliency
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie

_WIDTH, _HEADS, _DIM, _INNER = 8, 4, 2, 12


def weights():
  rng = np.random.default_rng(0)
  shapes = {
      'query': (_WIDTH, _HEADS, _DIM), 'key': (_WIDTH, _HEADS, _DIM),
      'value': (_WIDTH, _HEADS, _DIM), 'out': (_HEADS, _DIM, _WIDTH),
      'fc1': (_WIDTH, _INNER), 'bias': (_INNER,), 'fc2': (_INNER, _WIDTH),
      'head': (_WIDTH, 3)}
  return {name: jax.device_put(rng.normal(size=s, scale=.5).astype(np.float32))
          for name, s in shapes.items()}


def apply(params, x, masks=None):
  """One encoder layer, `[N, T, width]` to `[N, 3]`; masks only for the test."""
  one = lambda name, *shape: (
      1. if masks is None else masks[name].reshape(shape))
  def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)
  h = norm(x) * one('hidden', 1, 1, _WIDTH)
  q, k, v = (jnp.einsum('ntd,dhe->nthe', h, params[name])
             for name in ('query', 'key', 'value'))
  # The number of a head's dimensions is a constant that units do not change.
  a = jax.nn.softmax(jnp.einsum('nthe,nshe->nhts', q, k), axis=-1)
  context = jnp.einsum('nhts,nshe->nthe', a, v)
  context = context * one('heads', 1, 1, _HEADS, 1)
  x = x + jnp.einsum('nthe,hed->ntd', context, params['out'])
  h = norm(x) * one('hidden', 1, 1, _WIDTH)
  h = jax.nn.gelu(h @ params['fc1'] + params['bias'].reshape(1, 1, -1))
  x = x + (h * one('neurons', 1, 1, _INNER)) @ params['fc2']
  return (norm(x) * one('hidden', 1, 1, _WIDTH)).mean(1) @ params['head']


def loss_fn(params, batch, masks=None):
  return optax.softmax_cross_entropy_with_integer_labels(
      apply(params, batch[0], masks), batch[1]).mean()


def _rule(ties, **options):
  return prune_units(ties, importance=saliency(), **options)


@pytest.fixture(scope='module', name='case')
def _case():
  rng = np.random.default_rng(1)
  batches = [(jnp.asarray(rng.normal(size=(5, 4, _WIDTH)).astype(np.float32)),
              jnp.asarray(rng.integers(0, 3, size=5, dtype=np.int32)))
             for _ in range(3)]
  params = weights()
  ties = jaxsparse.infer_ties(apply, params, batches[0][0])
  return params, batches, ties


def by_kind(ties):
  hidden, = (tie for tie in ties if any(
      m.path == 'head' and m.axis == 0 for m in tie.members))
  (head,), (neuron,) = heads(ties), neurons(ties)
  return {'heads': head, 'neurons': neuron, 'hidden': hidden}


def test_heads_and_neurons_are_told_apart(case):
  kinds = by_kind(case[-1])
  assert kinds['heads'].size == _HEADS
  assert kinds['neurons'].size == _INNER
  assert kinds['hidden'].size == _WIDTH
  assert kinds['hidden'].fixed or kinds['hidden'].kept  # Under a norm.


def test_it_is_the_gradient_of_an_inserted_mask(case):
  params, batches, ties = case
  found = sensitivity(loss_fn, params, batches, ties)
  kinds = by_kind(ties)
  ones = {name: jnp.ones(tie.size) for name, tie in kinds.items()}
  by_mask = jax.jit(jax.grad(loss_fn, argnums=2))
  for name, tie in kinds.items():
    expected = sum(np.abs(by_mask(params, batch, ones)[name])
                   for batch in batches)
    got = np.asarray(found[tie.name])
    assert np.abs(got - expected).max() <= 1e-5 * expected.max(), name
    assert expected.min() > 0


def test_products_are_signed(case):
  """What cancels within a unit counts as nothing, unlike |w * g|."""
  tie = Tie(1, (Member('w', 0, role='reads'),), name='u')
  w, g = {'w': jnp.array([[1., 1.]])}, {'w': jnp.array([[2., -2.]])}
  assert unit_saliency(w, g, [tie])['u'] == 0.


def test_the_least_important_are_slimmed_away(case):
  params, batches, ties = case
  kinds = by_kind(ties)
  found = sensitivity(loss_fn, params, batches, ties)
  keep = {**keep_units(found, heads(ties), count=3),
          **keep_units(found, neurons(ties), sparsity=0.5)}
  for name, count in (('heads', 3), ('neurons', 6)):
    tie = kinds[name]
    best = np.argsort(-np.asarray(found[tie.name]))[:count]
    np.testing.assert_array_equal(
        np.flatnonzero(keep[tie.name]), np.sort(best))
  small = jaxsparse.slim(params, ties, keep)
  assert small['query'].shape == (_WIDTH, 3, _DIM)
  assert small['fc2'].shape == (6, _WIDTH)
  masks = {'heads': keep[kinds['heads'].name].astype(np.float32),
           'neurons': keep[kinds['neurons'].name].astype(np.float32),
           'hidden': np.ones(_WIDTH, np.float32)}
  x = batches[0][0]
  np.testing.assert_allclose(
      apply(small, x), apply(params, x, jax.tree.map(jnp.asarray, masks)),
      atol=1e-5)


@pytest.mark.parametrize('scope', ['layer', 'global'])
def test_the_rule_prunes_what_the_function_finds(case, scope):
  params, batches, ties = case
  some = [*heads(ties), *neurons(ties)]
  rule = _rule(some, sparsity=0.5, scope=scope, begin=1,
               when=schedules.every(1, begin=3, end=3))
  tx = jaxsparse.sparsify(optax.sgd(0.), rule)
  state = jax.jit(tx.init)(params)
  assert all(m.all() for m in jax.tree.leaves(jaxsparse.get_masks(state)))

  @jax.jit
  def step(params, state, batch):
    grads = jax.grad(loss_fn)(params, batch)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  before = params
  for batch in batches:
    assert all(m.all() for m in jax.tree.leaves(jaxsparse.get_masks(state)))
    params, state = step(params, state, batch)
  assert step._cache_size() == 1
  # The first batch does not count, as begin=1 says.
  keep = keep_units(sensitivity(loss_fn, before, batches[1:], some), some,
                    sparsity=0.5, scope=scope)
  alive = jaxsparse.alive(params, ties)
  for tie in some:
    np.testing.assert_array_equal(alive[tie.name], keep[tie.name])
  small = jaxsparse.slim(params, ties, alive)
  x = batches[0][0]
  np.testing.assert_allclose(apply(small, x), apply(params, x), atol=1e-5)


def test_the_smaller_network_goes_on_with_the_optimizer_and_lock():
  tie = Tie(4, (Member('in', 1, role='makes'),
                Member('out', 0, role='reads')), name='u')
  params = {'in': jnp.ones((3, 4)),
            'out': jnp.arange(1., 9.).reshape(4, 2)}
  adam = optax.sgd(0.1, momentum=0.9)
  tx = jaxsparse.sparsify(adam, _rule(
      [tie], count=2, when=schedules.every(1, begin=1, end=1)))
  state = tx.init(params)
  for _ in range(2):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
  keep = jaxsparse.alive(params, [tie])
  assert keep['u'].tolist() == [False, False, True, True]
  small, small_state = jaxsparse.slim((params, state), [tie], keep)
  locked = jaxsparse.sparsify(adam, jaxsparse.lock())
  updates, small_state = locked.update(small, small_state, small)
  expected, _ = tx.update(params, state, params)
  np.testing.assert_allclose(updates['out'], expected['out'][2:], rtol=1e-6)
  np.testing.assert_allclose(updates['in'], expected['in'][:, 2:], rtol=1e-6)


def test_a_gradual_rule_never_revives_a_unit():
  tie = Tie(8, (Member('w', 0, role='reads'),), name='u')
  rule = _rule([tie], sparsity=0.75, when=schedules.every(1),
               schedule=schedules.linear(0, 3))
  params = {'w': jnp.asarray(np.random.default_rng(2).normal(
      size=(8, 3)).astype(np.float32))}
  state, before = rule.init(params), np.ones(8, bool)
  for i, left in enumerate((6, 4, 2, 2)):
    grads = {'w': jnp.cos(params['w'] * (i + 3.))}
    masks, state = rule.update(grads, state, params)
    alive = np.asarray(masks['w'][:, 0])
    assert alive.sum() == left
    assert not (alive & ~before).any()
    before = alive
    params = jaxsparse.apply_masks(params, masks)


def _tie(**options):
  return Tie(8, (Member('w', 0, role='reads'),), name='u', **options)


def _weights():
  return {'w': jnp.arange(1., 25.).reshape(8, 3)}


def test_gradients_that_are_not_finite_count_for_nothing():
  rule = _rule([_tie()], sparsity=0.75, when=schedules.every(1),
               schedule=schedules.linear(0, 3))
  params = _weights()
  state = rule.init(params)
  for i in range(4):
    grads = {'w': jnp.ones((8, 3)) * (jnp.nan if i == 1 else 1.)}
    masks, state = rule.update(grads, state, params)
  np.testing.assert_array_equal(masks['w'][:, 0], [0] * 6 + [1] * 2)


def test_no_unit_dies_before_anything_was_measured():
  rule = _rule([_tie()], sparsity=0.5, begin=2, when=schedules.every(1))
  params = _weights()
  state = rule.init(params)
  for step in (1, 2, 3):
    masks, state = rule.update({'w': -params['w']}, state, params)
    assert masks['w'][:, 0].sum() == (8 if step < 3 else 4)
  np.testing.assert_array_equal(masks['w'][:, 0], [0] * 4 + [1] * 4)


def test_units_of_stacked_layers_are_found():
  params = {'in': jnp.ones((3, 4, 6)), 'out': jnp.ones((3, 6, 4))}

  def scanned(params, x):
    def layer(x, w):
      return x + jnp.tanh(x @ w['in']) @ w['out'], None
    return jax.lax.scan(layer, x, params)[0]
  x = jnp.ones((2, 4))
  tie, = neurons(jaxsparse.infer_ties(scanned, params, x))
  assert tie.shape == (3, 6)
  found = sensitivity(
      lambda params, x: scanned(params, x).sum(), params, [x], [tie])
  keep = keep_units(found, [tie], count=2)
  assert (keep[tie.name].sum(-1) == 2).all()
  small = jaxsparse.slim(params, [tie], keep)
  assert small['in'].shape == (3, 4, 2)


def test_what_something_else_reads_has_no_importance_here():
  """A mask would be on that, too."""
  params = _weights()
  assert not unit_saliency(params, params, [_tie(read='a sum over it')])
  with pytest.raises(ValueError, match='not only kernels, but a sum over it'):
    keep_units({}, [_tie(read='a sum over it')], count=1)


@pytest.mark.parametrize('kind', [jax.sharding.AxisType.Auto,
                                  jax.sharding.AxisType.Explicit], ids=str)
def test_on_a_mesh_it_is_the_same(kind):
  mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(kind,) * 2)
  rng = np.random.default_rng(3)
  heads = Tie(4, (
      Member('in', 1, stride=2, repeats=((2, 1),), role='makes'),
      Member('out', 0, stride=2, repeats=((2, 1),), role='reads')))
  params = {'in': rng.normal(size=(8, 8)).astype(np.float32),
            'out': rng.normal(size=(8, 8)).astype(np.float32)}
  tx = jaxsparse.sparsify(
      optax.chain(optax.sgd(0.1), jaxsparse.units.prox_group_lasso(
          1., [heads], learning_rate=0.1)),
      _rule([heads], count=2, when=schedules.every(2)))

  def two_steps(params):
    state = tx.init(params)
    for _ in range(2):
      updates, state = tx.update(params, state, params)
      params = optax.apply_updates(params, updates)
    return params
  expected = jax.jit(two_steps)(params)
  with jax.set_mesh(mesh):
    got = jax.jit(two_steps)(jax.device_put(
        params, jax.NamedSharding(mesh, jax.sharding.PartitionSpec('x', 'y'))))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_errors_say_what_to_write(case):
  params, batches, ties = case
  with pytest.raises(ValueError, match='either count'):
    _rule(ties, count=1, sparsity=.5, when=schedules.every(1))
  with pytest.raises(ValueError, match='a norm over it'):
    _rule([_tie(kept='a norm over it')], count=1,
                when=schedules.every(1)).init(_weights())
  tie = Tie(_INNER, (Member('bias', 0, role='beside'),), name='b')
  with pytest.raises(ValueError, match='no kernel among the params reads them'):
    _rule([tie], count=1, when=schedules.every(1)).init(params)
  with pytest.raises(ValueError, match='got no batches'):
    sensitivity(loss_fn, params, [], ties)
  with pytest.raises(ValueError, match='infer_ties'):
    sensitivity(loss_fn, params, batches, [tie])


def test_of_complex_weights_a_mask_changes_the_loss_by_a_real_part():
  tie = Tie(2, (Member('out', 0, role='reads'),), name='hidden')
  w = {'out': jnp.array([[1j], [1. + 0j]])}
  grads = jax.grad(lambda p: p['out'].real.sum())(w)
  assert unit_saliency(w, grads, [tie])['hidden'].tolist() == [0., 1.]
