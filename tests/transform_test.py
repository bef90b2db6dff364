"""`sparsify`: how a rule, a flow and an optimizer work together."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import flows
from jaxsparse import schedules
from jaxsparse._utils import trees
from tests._lib import method_table

_FREE = {'.*kernel': jaxsparse.unstructured()}
_NM = jaxsparse.prune({'.*kernel': jaxsparse.nm(2, 4)})


def _params():
  return {'kernel': jax.random.normal(jax.random.key(0), (16, 8)),
          'bias': jnp.ones(8)}


def _ones(params):
  return jax.tree.map(jnp.ones_like, params)


def test_sparse_params_is_free_when_hard():
  tx = method_table.wrap(optax.adam(1e-3), _NM, jaxsparse.hard())
  params = _params()
  assert jaxsparse.sparse_params(params, tx.init(params)) is params


def test_hard_is_the_default_flow():
  tx, params = jaxsparse.sparsify(optax.sgd(0.1), _NM), _params()
  updates, state = jax.jit(tx.update)(_ones(params), tx.init(params), params)
  params = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(
      params['kernel'] != 0, jaxsparse.get_masks(state)['kernel'])


def test_weight_decay_and_momentum_cannot_move_a_locked_weight():
  params = _params()
  params['kernel'] = jnp.where(params['kernel'] > 0, params['kernel'], 0.)
  tx = method_table.wrap(
      optax.adamw(0.1, weight_decay=0.1), jaxsparse.lock(), jaxsparse.hard())
  zeros = np.asarray(params['kernel']) == 0
  state, update = tx.init(params), jax.jit(tx.update)
  for _ in range(3):
    updates, state = update(_ones(params), state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(np.asarray(params['kernel']) == 0, zeros)


def test_a_stale_momentum_does_not_bring_a_pruned_weight_back():
  """A kept weight has the smallest magnitude; a pruned one still has speed."""
  params = {'kernel': jnp.array([[5.], [4.], [.1], [.2]])}
  tx = method_table.wrap(
      optax.sgd(1., momentum=0.9),
      jaxsparse.prune(_FREE, distribution=jaxsparse.uniform(0.5),
                      when=schedules.every(2, begin=2)), jaxsparse.hard())
  state, update = tx.init(params), jax.jit(tx.update)
  for g in ([0., 0., 1., 1.], [0., 3.9, 0., 0.], [0., 0., 0., 0.],
            [0., 0., 0., 0.]):
    updates, state = update(
        {'kernel': jnp.array(g)[:, None]}, state, params)
    params = optax.apply_updates(params, updates)
    mask = np.asarray(jaxsparse.get_masks(state)['kernel'])
    assert not np.asarray(params['kernel'])[~mask].any()
    assert mask.all() or mask.sum() == 2


def test_gain_is_that_of_the_next_forward_pass():
  flow = jaxsparse.mdgf(lambda t: 1. - t.astype(jnp.float32) / 4.)
  tx, params = jaxsparse.sparsify(optax.sgd(0.), _NM, flow), _params()
  state, update = tx.init(params), jax.jit(tx.update)
  for t in range(6):
    expected = max(1 - t / 4, 0)
    assert float(state.gain) == expected
    sparse = jaxsparse.sparse_params(params, state)
    mask = np.asarray(state.masks['kernel'])
    np.testing.assert_allclose(
        sparse['kernel'],
        np.asarray(params['kernel']) * np.where(mask, 1., expected), rtol=1e-6)
    _, state = update(_ones(params), state, params)


def test_extra_arguments_reach_the_inner_optimizer():
  seen = []

  def update(updates, state, params=None, *, value, **extra_args):
    seen.append(value)
    return updates, state
  inner = optax.GradientTransformationExtraArgs(
      lambda params: optax.EmptyState(), update)
  tx, params = jaxsparse.sparsify(inner, _NM), _params()
  tx.update(_ones(params), tx.init(params), params, value=7)
  assert seen == [7]


@pytest.mark.parametrize('rule', [_NM, jaxsparse.prune_and_grow(
    _FREE, sparsity=.5, grow=jaxsparse.gradient())], ids=['ahead', 'before'])
def test_extra_arguments_may_have_any_names(rule):
  """The optimizer gets them as they are; rules and scores get their own."""
  names = ('step', 'point', 'masks', 'optimizer', 'rule', 'like', 'patterns')
  given, seen = dict.fromkeys(names, 7), []

  def update(updates, state, params=None, **extra_args):
    seen.append(extra_args)
    return updates, state
  inner = optax.GradientTransformationExtraArgs(
      lambda params: optax.EmptyState(), update)
  tx, params = jaxsparse.sparsify(inner, rule), _params()
  state = tx.init(params)
  chex.assert_trees_all_equal(
      tx.update(params, state, params), tx.update(
          params, state, params, **given))
  assert seen == [{}, given]


def test_an_optimizer_with_decay_of_pruned_weights_is_given_masks():
  """As the error of `add_pruned_decay` without masks says."""
  tx = jaxsparse.sparsify(optax.chain(
      flows.add_pruned_decay(.5), optax.sgd(1.)), _NM, jaxsparse.ste())
  params = _params()
  state, grads = tx.init(params), jax.tree.map(jnp.zeros_like, params)
  with pytest.raises(ValueError, match='masks=masks'):
    tx.update(grads, state, params)
  updates, _ = tx.update(
      grads, state, params, masks=jaxsparse.get_masks(state))
  np.testing.assert_array_equal(updates['kernel'], jnp.where(
      state.masks['kernel'], 0., -.5 * params['kernel']))


def test_grown_moments_are_forgotten_and_kept_ones_are_not():
  params = _params()
  tx = method_table.wrap(
      optax.adam(1e-2), jaxsparse.prune_and_grow(
          {'kernel': jaxsparse.unstructured()}, sparsity=0.5, fraction=0.5,
          grow=jaxsparse.scores.random(3), when=schedules.every(2)),
      jaxsparse.hard())
  state, update = tx.init(params), jax.jit(tx.update)
  # As if every weight had a history, and one step at which nothing grows.
  dirty = jax.tree.map(
      lambda x: x + 1. if x.dtype == jnp.float32 else x, state.inner)
  none = jax.tree.map(jnp.zeros_like, params)
  _, state = update(none, state._replace(inner=dirty), params)
  old = np.asarray(state.masks['kernel'])
  _, state = update(none, state, params)
  new = np.asarray(state.masks['kernel'])
  grown = new & ~old
  assert grown.any()
  moments = state.inner[0]
  for moment in (moments.mu['kernel'], moments.nu['kernel']):
    assert not np.asarray(moment)[grown].any()
    assert np.asarray(moment)[new & old].all()


@pytest.mark.parametrize('around', [True, False])
@pytest.mark.parametrize('labels', [
    {'mlp': {'kernel': 'sparse'}, 'rest': {'a': 'other', 'b': 'other'}},
    {'mlp': 'sparse', 'rest': 'other'}], ids=['leaves', 'branches'])
def test_moments_are_forgotten_beside_another_optimizer(around, labels):
  """Optax has placeholders in the params, or one in place of a branch."""
  params = {'mlp': {'kernel': jnp.arange(1., 9.).reshape(4, 2)},
            'rest': {'a': jnp.ones(2), 'b': jnp.ones(3)}}
  rule = jaxsparse.prune({'mlp/kernel': jaxsparse.nm(2, 4)},
                         when=schedules.every(1, begin=2, end=2))
  momentum = optax.chain(optax.clip(1e3), optax.trace(.9))
  if around:
    tx = optax.partition({
        'sparse': jaxsparse.sparsify(momentum, rule), 'other': optax.sgd(.1)},
                         labels)
  else:
    tx = jaxsparse.sparsify(optax.partition(
        {'sparse': momentum, 'other': optax.sgd(.1)}, labels), rule)
  tx = method_table._standard(tx)
  state, update = tx.init(params), jax.jit(tx.update)
  grads = jax.tree.map(lambda w: jnp.full_like(w, 1e-3), params)
  for _ in range(3):
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  mask = np.asarray(jaxsparse.get_masks(state)['mlp']['kernel'])
  assert mask.sum() == 4
  trace, = jax.tree.leaves(trees.nodes(state, optax.TraceState))
  np.testing.assert_allclose(trace, np.where(mask, 2.71e-3, 0.), rtol=1e-5)
  masks = jaxsparse.get_masks(state)
  assert jaxsparse.summary(params, masks).kept == 4 + 5
  assert (jaxsparse.apply_masks(params, masks)['mlp']['kernel'] != 0).sum() == 4


@pytest.mark.parametrize('inner', [
    optax.masked(optax.adam(.1), {'kernel': True, 'bias': False}),
    optax.partition({'x': optax.adam(.1), 'y': optax.sgd(.1, momentum=.9)},
                    {'kernel': 'x', 'bias': 'y'}),
    optax.flatten(optax.adam(.1)),
    optax.sm3(.1),
], ids=['masked', 'partition', 'flatten', 'sm3'])
def test_optimizers_with_a_state_of_another_shape_stand_inside(inner):
  params = _params()
  rule = jaxsparse.prune(_FREE, distribution=jaxsparse.uniform(0.5))
  tx = method_table.wrap(inner, rule, jaxsparse.hard())
  updates, state = jax.jit(lambda params: tx.update(
      _ones(params), tx.init(params), params))(params)
  params = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(params['kernel'] != 0, state.masks['kernel'])
  assert int(state.masks['kernel'].sum()) == 64


def test_masks_of_a_part_of_an_nnx_model_are_found_by_their_paths():
  from flax import nnx

  class Net(nnx.Module):
    def __init__(self, rngs):
      self.a, self.b = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)
  model = Net(nnx.Rngs(0))
  tx = optax.multi_transform({
      'sparse': jaxsparse.sparsify(optax.sgd(.1), jaxsparse.prune(
          {'a/kernel': jaxsparse.nm(2, 4), '.*': None}), jaxsparse.ste()),
      'dense': optax.sgd(.1)}, lambda params: jax.tree.map_with_path(
          lambda path, _: 'sparse' if path[0].key == 'a' else 'dense', params))
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  params = nnx.state(model, nnx.Param)
  sparse = jaxsparse.sparse_params(params, optimizer.opt_state)
  assert (sparse['a']['kernel'][...] != 0).sum() == 32
  np.testing.assert_array_equal(
      sparse['b']['kernel'][...], params['b']['kernel'][...])


def test_nnx_optimizer_keeps_the_state():
  from flax import nnx

  model = nnx.Linear(16, 8, rngs=nnx.Rngs(0))
  with jax.numpy_dtype_promotion('standard'):
    tx = jaxsparse.sparsify(optax.adam(1e-2), jaxsparse.prune(
        {'kernel': jaxsparse.nm(2, 4)}), jaxsparse.sr_ste())
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
      graphdef, params, rest = nnx.split(model, nnx.Param, ...)
      sparse = jaxsparse.sparse_params(params, optimizer.opt_state)

      def loss_fn(params):
        y = nnx.merge(graphdef, params, rest, copy=True)(jnp.ones((1, 16)))
        return jnp.mean((y - 1.)**2)
      loss, grads = jax.value_and_grad(loss_fn)(sparse)
      optimizer.update(model, grads)
      return loss
    losses = [float(step(model, optimizer)) for _ in range(10)]
  assert losses[-1] < losses[0] / 2
  params = nnx.state(model, nnx.Param)
  masks = jaxsparse.get_masks(optimizer.opt_state)
  table = jaxsparse.summary(params, masks)
  assert table.kept == 64 + 8 and '2:4' in str(table)


@pytest.mark.parametrize('build, message', [
    (lambda: jaxsparse.sparsify(optax.sgd(.1), _NM, jaxsparse.hard),
     r'jaxsparse.hard\(\)'),
    (lambda: jaxsparse.sparsify(_NM, optax.sgd(.1)).init(_params()),
     'must be a rule'),
    (lambda: jaxsparse.prune(_FREE, distribution=.9), 'uniform'),
    (lambda: jaxsparse.prune(_FREE, when=100), 'every'),
    (lambda: jaxsparse.prune(jaxsparse.nm(2, 4)).init(_params()),
     'regular expressions'),
])
def test_arguments_of_the_wrong_kind_are_taught_errors(build, message):
  with pytest.raises(ValueError, match=message):
    build()


def test_params_are_required():
  tx, params = jaxsparse.sparsify(optax.sgd(0.1), _NM), _params()
  with pytest.raises(ValueError, match='tx.update.grads, opt_state, params'):
    tx.update(_ones(params), tx.init(params))


@pytest.mark.parametrize('state', [
    lambda p: optax.adam(1e-3).init(p),
    lambda p: [jaxsparse.sparsify(optax.sgd(1.), _NM).init(p)] * 2])
def test_finding_the_state_fails_clearly(state):
  with pytest.raises(ValueError, match='Wrap the optimizer once'):
    jaxsparse.get_masks(state(_params()))


def test_state_survives_optax_partition():
  params = _params()
  tx = optax.partition(
      {'sparse': method_table.wrap(optax.adam(1e-2), _NM, jaxsparse.ste()),
       'dense': method_table._standard(optax.sgd(1e-2))},
      {'kernel': 'sparse', 'bias': 'dense'})
  updates, state = jax.jit(lambda params: tx.update(
      _ones(params), tx.init(params), params))(params)
  params = optax.apply_updates(params, updates)
  sparse = jaxsparse.sparse_params(params, state)
  assert int((sparse['kernel'] != 0).sum()) == 64
  np.testing.assert_array_equal(sparse['bias'], params['bias'])


def test_the_train_step_works_under_scan_and_vmap():
  params = _params()
  tx = method_table.wrap(optax.adam(1e-2), _NM, jaxsparse.sr_ste())

  def step(carry, _):
    params, state = carry
    grads = jaxsparse.sparse_params(params, state)
    updates, state = tx.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), None

  def run(scale):
    start = jax.tree.map(lambda w: w * scale, params)
    (end, state), _ = jax.lax.scan(
        step, (start, tx.init(start)), length=3)
    return end, state.masks
  ends, masks = jax.jit(jax.vmap(run))(jnp.array([1., 2.]))
  one, mask = jax.jit(run)(jnp.float32(2.))
  np.testing.assert_allclose(ends['kernel'][1], one['kernel'], rtol=1e-6)
  np.testing.assert_array_equal(masks['kernel'][1], mask['kernel'])


def test_a_linen_model_trains_with_regexes_on_its_paths():
  from flax import linen as nn

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(4, name='out')(nn.relu(nn.Dense(16, name='hidden')(x)))

  x = jax.random.normal(jax.random.key(0), (8, 16))
  with jax.numpy_dtype_promotion('standard'):
    model = Net()
    params = model.init(jax.random.key(1), x)['params']
    tx = jaxsparse.sparsify(
        optax.adam(1e-2), jaxsparse.prune({'hidden/kernel':
                                           jaxsparse.nm(2, 4)}))
    state = tx.init(params)

    @jax.jit
    def step(params, state):
      def loss_fn(p):
        return jnp.mean((model.apply({'params': p}, x) - 1.)**2)
      loss, grads = jax.value_and_grad(loss_fn)(
          jaxsparse.sparse_params(params, state))
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(20):
      params, state, loss = step(params, state)
      losses.append(float(loss))
  assert losses[-1] < 0.5 * losses[0]
  groups = np.asarray(params['hidden']['kernel'] != 0).reshape(4, 4, 16)
  assert (groups.sum(1) == 2).all()
  assert jaxsparse.get_masks(state)['out']['kernel'] is None


@pytest.mark.parametrize(
    'name', ['rprop', 'cocob', 'yogi', 'adagrad', 'rmsprop'])
def test_weights_that_grow_back_have_the_optimizer_s_initial_state(name):
  """As a weight of the same gradients that was zero from the start."""
  inner = {'rprop': optax.rprop(1e-2), 'cocob': optax.contrib.cocob(),
           'yogi': optax.yogi(1e-2), 'adagrad': optax.adagrad(1e-2),
           'rmsprop': optax.rmsprop(1e-2, initial_scale=1.)}[name]
  params = _params()
  tx = method_table.wrap(inner, jaxsparse.prune_and_grow(
      {'kernel': jaxsparse.unstructured()}, sparsity=0.5, fraction=0.5,
      grow=jaxsparse.scores.random(3), when=schedules.every(4, begin=4)),
                         jaxsparse.hard())
  state = tx.init(params)
  params = jaxsparse.apply_masks(params, jaxsparse.get_masks(state))
  update = jax.jit(tx.update)
  moved, grown, moments = 0, None, None
  for step in range(1, 9):
    old = np.asarray(state.masks['kernel'])
    updates, state = update(_ones(params), state, params)
    params = optax.apply_updates(params, updates)
    assert all(np.isfinite(w).all() for w in jax.tree.leaves(params))
    if step == 4:
      grown = np.asarray(state.masks['kernel']) & ~old
      moments = state.inner
    elif step == 7:
      moved = np.asarray(params['kernel'])[grown]
  assert grown.any() and moved.all()
  # One step on, their state is that of one step from zero.
  zeros = jax.tree.map(jnp.zeros_like, params)
  with jax.numpy_dtype_promotion('standard'):
    _, first = jax.jit(lambda w: inner.update(
        _ones(w), inner.init(w), w))(zeros)
  structure = jax.tree.structure(params)
  is_like = lambda t: jax.tree.structure(t) == structure
  pairs = [(got, want) for got, want in zip(
      jax.tree.leaves(moments, is_leaf=is_like),
      jax.tree.leaves(first, is_leaf=is_like)) if is_like(got)]
  assert pairs
  for got, want in pairs:
    np.testing.assert_allclose(np.asarray(got['kernel'])[grown],
                               np.asarray(want['kernel'])[grown], rtol=1e-6)


@pytest.mark.parametrize('when', [schedules.every(1), schedules.every(2)])
def test_averaged_weights_are_sparse_where_they_are_evaluated(when):
  params = _params()
  tx = method_table.wrap(
      optax.contrib.schedule_free_adamw(1e-2), jaxsparse.prune(
          _FREE, sparsity=0.75, schedule=schedules.cubic(0, 6), when=when))
  state, update = tx.init(params), jax.jit(tx.update)
  for step in range(9):
    grads = jax.tree.map(lambda w, i=step: jax.random.normal(
        jax.random.key(i), w.shape), params)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    averaged = optax.contrib.schedule_free_eval_params(state.inner, params)
    mask = np.asarray(state.masks['kernel'])
    assert not np.asarray(averaged['kernel'])[~mask].any()
  assert int(mask.sum()) == round(mask.size / 4)


@pytest.mark.parametrize('synced', [False, True])
@jax.numpy_dtype_promotion('standard')  # Lookahead does not work without.
def test_lookahead_stands_outside(synced):
  params = {'kernel': jnp.arange(1., 9.).reshape(2, 4)}
  rule = jaxsparse.prune({'.*': jaxsparse.nm(2, 4, axis=-1)})
  both = optax.LookaheadParams.init_synced(params)
  inside = jaxsparse.sparsify(optax.lookahead(optax.sgd(0.1), 2, 0.5), rule)
  with pytest.raises(ValueError, match='lookahead.*cannot stand inside'):
    inside.init(both if synced else params)

  tx = optax.lookahead(jaxsparse.sparsify(optax.sgd(0.1), rule), 2, 0.5)
  state = tx.init(both)
  for _ in range(3):
    updates, state = tx.update({'kernel': jnp.ones((2, 4))}, state, both)
    both = optax.apply_updates(both, updates)
  masks = jaxsparse.get_masks(state)
  for each in both:  # What was pruned since has traces in both.
    each = jaxsparse.apply_masks(each, masks)
    np.testing.assert_array_equal(each['kernel'] != 0, masks['kernel'])
