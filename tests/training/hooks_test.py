"""Hooks: the functional path, step for step, and calls out of order."""

import functools

import chex
from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import optax
import pytest

import jaxsparse
from jaxsparse import schedules
from jaxsparse.training.hooks import Hooks
from tests._lib import method_table

_STEPS = 6
_NM = {'.*kernel': jaxsparse.nm(2, 4)}
_FREE = {'.*kernel': jaxsparse.unstructured()}
_METHODS = {
    'hard': lambda: (jaxsparse.prune(
        _FREE, distribution=jaxsparse.uniform(0.75),
        schedule=schedules.staircase({0: 0.4, 2: 0.7, 4: 1.}),
        when=schedules.every(2)), jaxsparse.hard()),
    'sr_ste': lambda: (jaxsparse.prune(_NM), jaxsparse.sr_ste(1e-2)),
    'mdgf': lambda: (jaxsparse.prune(_NM), jaxsparse.mdgf(
        optax.linear_schedule(1., 0., 4))),
}


class _Net(nnx.Module):

  def __init__(self):
    rngs = nnx.Rngs(0)
    self.inner = nnx.Linear(16, 8, rngs=rngs)
    self.outer = nnx.Linear(8, 4, rngs=rngs)

  def __call__(self, x):
    return self.outer(nnx.tanh(self.inner(x)))


def _loss(model, x):
  return jnp.mean(jnp.square(model(x) - 1.))


def _batches():
  return [jax.random.normal(jax.random.key(i), (5, 16)) for i in range(_STEPS)]


def _tx(method):
  return method_table.wrap(optax.adamw(1e-2), *_METHODS[method]())


@functools.cache
def _functions(method):
  """An optimizer, compiled gradients, and a compiled update."""
  tx, graphdef = _tx(method), nnx.graphdef(_Net())

  @jax.jit
  def gradients(params, x):
    return jax.grad(lambda p: _loss(nnx.merge(graphdef, p, copy=True), x))(
        params)

  @jax.jit
  def update(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  return tx, gradients, update


def _plain(method):
  params = nnx.state(_Net(), nnx.Param)
  return Hooks(params, _functions(method)[0].init(params))


def _by_function(method):
  """The dense and the sparse point after each step, the masks, the state."""
  tx, gradients, update = _functions(method)
  params = nnx.state(_Net(), nnx.Param)
  state = tx.init(params)
  if jaxsparse.sparse_params(params, state) is params:
    params = jaxsparse.apply_masks(params, jaxsparse.get_masks(state))
  rows = []
  for x in _batches():
    sparse = jaxsparse.sparse_params(params, state)
    params, state = update(params, state, gradients(sparse, x))
    rows.append((params, jaxsparse.sparse_params(params, state),
                 jaxsparse.get_masks(state), state))
  return jax.tree.map(jnp.copy, rows)


def _same(got, want):
  """Leaves are the same; an optimizer of NNX has a tree of its own."""
  chex.assert_trees_all_equal(jax.tree.leaves(got), jax.tree.leaves(want))


def _follow(hooks, want, step):
  """Runs a loop of two epochs and compares all there is at each point."""
  batches = iter(zip(_batches(), want))
  for epoch in range(2):
    hooks.on_epoch_begin(epoch)
    for _ in range(_STEPS // 2):
      x, (dense, sparse, masks, state) = next(batches)
      hooks.on_step_begin(x)
      step(hooks, x)
      hooks.on_step_end()
      assert hooks.epoch == epoch and hooks.batch is x
      _same(hooks.params, dense)
      _same(hooks.masks, masks)
      _same(hooks.opt_state, state)
    hooks.on_epoch_end()
    _same(hooks.params, sparse)


@pytest.mark.parametrize('method', _METHODS)
def test_hooks_are_the_functional_path_bit_for_bit(method):
  want = _by_function(method)
  tx, gradients, update = _functions(method)

  def step(hooks, x):
    grads = gradients(hooks.params, x)
    hooks.on_before_optimizer_step()
    hooks.params, hooks.opt_state = update(
        hooks.params, hooks.opt_state, grads)
  _follow(_plain(method), want, step)
  # Swaps compile nothing anew: the functional path has called both, too.
  assert gradients._cache_size() == update._cache_size() == 1

  model = _Net()
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  differentiate, traces = nnx.jit(nnx.grad(_loss)), []

  @nnx.jit
  def move(model, optimizer, grads):
    traces.append(0)
    optimizer.update(model, grads)

  def step_nnx(hooks, x):
    grads = differentiate(model, x)
    hooks.on_before_optimizer_step()
    move(model, optimizer, grads)
  hooks = Hooks(model, optimizer)
  _follow(hooks, want, step_nnx)
  assert len(traces) == 1
  _same(nnx.state(model, nnx.Param), want[-1][1])


def _soft():
  """Hooks of a tree of four leaves, and the weights they begin with."""
  tx = method_table.wrap(optax.sgd(0.1), jaxsparse.prune(_NM), jaxsparse.ste())
  params = method_table.TREES['nested']()
  return Hooks(params, tx.init(params)), params, tx


def _step(hooks, tx):
  hooks.on_before_optimizer_step()
  updates = _call_optimizer(hooks, hooks.params, tx)
  hooks.params = optax.apply_updates(hooks.params, updates)


def _call_optimizer(hooks, params, tx):
  updates, hooks.opt_state = tx.update(
      jax.tree.map(jnp.ones_like, params), hooks.opt_state, params)
  return updates


@pytest.mark.parametrize('tree', ['nested', 'tuple', 'dataclass', 'nnx'])
def test_only_weights_with_masks_are_written_and_come_back_as_they_were(tree):
  params = method_table.TREES[tree]()
  tx = method_table.wrap(optax.sgd(0.1), jaxsparse.prune(
      {method_table._KERNELS: jaxsparse.nm(2, 4)}), jaxsparse.ste())
  hooks = Hooks(params, tx.init(params))
  hooks.on_step_begin()
  held = hooks.params
  hooks.on_before_optimizer_step()
  chex.assert_trees_all_equal_structs(held, params, hooks.params)
  masked = 0
  for before, there, back in zip(
      *map(jax.tree.leaves, (params, held, hooks.params))):
    assert back is before
    if there is not before:
      masked += 1
      assert int((there != 0).sum()) == there.size // 2
  assert masked == len(jax.tree.leaves(hooks.masks)) == 2


def test_an_update_may_write_over_what_the_hooks_have_put_back():
  hooks, _, tx = _soft()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  for _ in range(2):
    hooks.on_step_begin()
    grads = jax.tree.map(jnp.ones_like, hooks.params)
    hooks.on_before_optimizer_step()
    dense = hooks.params
    hooks.params, hooks.opt_state = update(dense, hooks.opt_state, grads)
    assert all(w.is_deleted() for w in jax.tree.leaves(dense))
    hooks.on_step_end()
  hooks.on_epoch_end()
  chex.assert_tree_all_finite(hooks.params)


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])
def test_swaps_keep_shardings_and_compile_nothing_anew(kind):
  mesh = jax.make_mesh((8,), ('x',), axis_types=(kind,))
  rows = NamedSharding(mesh, PartitionSpec('x', None))
  with jax.set_mesh(mesh):
    w = jax.device_put(jax.random.normal(jax.random.key(0), (16, 8)), rows)
    tx = method_table.wrap(optax.sgd(0.1), jaxsparse.prune(
        {'w': jaxsparse.nm(1, 2)}), jaxsparse.ste())
    hooks = Hooks({'w': w}, tx.init({'w': w}))
    look = jax.jit(lambda params: params['w'] * 2.)
    look(hooks.params)
    for _ in range(2):
      hooks.on_step_begin()
      assert hooks.params['w'].sharding == rows
      look(hooks.params)
      _step(hooks, tx)
      hooks.on_step_end()
    assert look._cache_size() == 1


def test_a_loop_brings_a_dense_point():
  hooks, params, _ = _soft()
  hooks.on_epoch_end()
  hooks.params = brought = jax.tree.map(lambda w: w + 1., params)
  hooks.on_epoch_begin(3)
  _same(hooks.params, brought)


def test_fit_returns_what_holds_the_sparse_point():
  hooks, _, tx = _soft()

  def train(given):
    assert given is hooks
    hooks.on_step_begin()
    _step(hooks, tx)
    hooks.on_step_end()
  params = hooks.fit(train)
  _same(params, jaxsparse.apply_masks(params, hooks.masks))
  assert hooks.opt_state.rule.count == 1
  model = _Net()
  optimizer = nnx.Optimizer(model, _tx('sr_ste'), wrt=nnx.Param)
  assert Hooks(model, optimizer).fit(lambda hooks: None) is model
  assert int((model.inner.kernel[...] != 0).sum()) == 64


def test_a_loop_that_fails_leaves_the_dense_point():
  hooks, params, tx = _soft()

  def train(hooks):
    hooks.on_step_begin()
    raise RuntimeError('no more data')
  with pytest.raises(RuntimeError, match='no more data'):
    hooks.fit(train)
  _same(hooks.params, params)
  with pytest.raises(ValueError, match='on_epoch_end must be called between'):
    hooks.fit(lambda hooks: hooks.on_step_begin())  # Leaves in the middle.
  _same(hooks.params, params)
  hooks.on_step_begin()
  _step(hooks, tx)
  hooks.on_step_end()


@pytest.mark.parametrize('calls', [
    ['on_before_optimizer_step'], ['on_step_end'],
    ['on_step_begin', 'on_epoch_end'],
    ['on_step_begin', 'on_before_optimizer_step', 'on_step_begin'],
    ['on_step_begin', 'on_before_optimizer_step', 'on_epoch_begin'],
    ['on_step_begin', 'on_before_optimizer_step', 'on_before_optimizer_step'],
], ids=' '.join)
def test_hooks_out_of_order_are_taught_errors(calls):
  hooks, _, _ = _soft()
  for name in calls[:-1]:
    getattr(hooks, name)()
  with pytest.raises(ValueError, match=(
      f'{calls[-1]} must be called .* a step in this order')):
    getattr(hooks, calls[-1])()


def test_micro_batches_and_skipped_steps_need_no_optimizer():
  hooks, params, tx = _soft()
  hooks.on_step_begin()
  hooks.on_step_begin()  # The gradient was not finite: once more.
  hooks.on_step_end()    # A micro-batch, whose gradient is added to others.
  _same(hooks.params, params)  # Between steps, for a checkpoint.
  hooks.on_step_begin()
  hooks.on_before_optimizer_step()
  _same(hooks.params, params)
  hooks.on_step_end(skipped=True)
  hooks.on_step_begin()
  _step(hooks, tx)
  hooks.on_step_end()


def test_an_optimizer_at_the_sparse_point_is_a_taught_error():
  hooks, params, tx = _soft()
  hooks.on_step_begin()
  _call_optimizer(hooks, params, tx)
  with pytest.raises(ValueError, match='at the sparse point'):
    hooks.on_step_end()


def test_a_step_without_its_optimizer_is_a_taught_error():
  hooks, params, tx = _soft()
  hooks.on_step_begin()
  _call_optimizer(hooks, params, tx)
  hooks.on_before_optimizer_step()
  for _ in range(2):  # It was called too early, which is no better.
    with pytest.raises(ValueError, match='hooks.opt_state = tx.update'):
      hooks.on_step_end()
  _call_optimizer(hooks, params, tx)
  hooks.on_step_end()

  model = _Net()
  hooks = Hooks(model, nnx.Optimizer(model, _tx('hard'), wrt=nnx.Param))
  hooks.on_step_begin()
  hooks.on_before_optimizer_step()
  with pytest.raises(ValueError, match=r'optimizer.update\(model, grads\)'):
    hooks.on_step_end()
  with pytest.raises(ValueError, match='nnx.Optimizer holds'):
    hooks.opt_state = None


@pytest.mark.parametrize('build, message', [
    (lambda p, tx: Hooks(p, tx), 'Wrap the optimizer once'),
    (lambda p, tx: Hooks(p, optax.adam(0.1).init(p)), 'Wrap the optimizer'),
    (lambda p, tx: Hooks({'other': p}, tx.init(p)), 'structure of the param'),
])
def test_what_is_no_sparse_training_is_a_taught_error(build, message):
  _, params, tx = _soft()
  with pytest.raises(ValueError, match=message):
    build(params, tx)
