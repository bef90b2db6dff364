"""On a mesh of eight devices: no weight moves, and masks are the same."""

import re

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
from jaxsparse import schedules
from tests._lib import method_table

_SHAPE = (512, 256)  # Large enough for selection to start from a sample.
_SAMPLE = 2**15      # What may be gathered: a sample of scores, or counts.
_MOVES = re.compile(
    r'= \(?\w+\[([\d,]*)\][^=]*? '
    r'(all-gather|all-to-all|collective-permute|collective-broadcast)')

_PATTERNS = {
    'unstructured': jaxsparse.unstructured(sparsity=0.9),
    '2:4': jaxsparse.nm(2, 4),
    '2:4 last': jaxsparse.nm(2, 4, axis=-1),
    '1:16': jaxsparse.nm(1, 16),
    '4:32': jaxsparse.nm(4, 32),
    'block': jaxsparse.block((4, 4), sparsity=0.8),
    'channel': jaxsparse.channel(-1, sparsity=0.5),
}


def _scores(ties):
  x = jnp.abs(jax.random.normal(jax.random.key(0), _SHAPE))
  return jnp.round(x * 4) if ties else x


def _assert_nothing_large_moves(compiled):
  for dims, name in _MOVES.findall(compiled.as_text()):
    size = int(np.prod([int(d) for d in dims.split(',') if d] or [1]))
    assert size <= _SAMPLE, f'{name} of [{dims}]'


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=str)
def mesh(request):
  return jax.make_mesh((4, 2), ('x', 'y'), axis_types=(request.param,) * 2)


@pytest.mark.parametrize('spec', [P('x', 'y'), P(None, 'x')],
                         ids=str)
@pytest.mark.parametrize('name', _PATTERNS)
def test_select_moves_no_weight_and_gives_the_same_mask(mesh, name, spec):
  pattern = _PATTERNS[name]
  f = jax.jit(lambda s: jaxsparse.select(s, pattern))
  scores = _scores(ties=True)
  expected = np.asarray(f(scores))
  with jax.set_mesh(mesh):
    sharded = jax.device_put(scores, NamedSharding(mesh, spec))
    _assert_nothing_large_moves(f.lower(sharded).compile())
    np.testing.assert_array_equal(f(sharded), expected)


def test_the_check_sees_a_weight_that_moves(mesh):
  with jax.set_mesh(mesh):
    scores = jax.device_put(_scores(False), NamedSharding(mesh, P('x', None)))
    gathered = jax.jit(lambda s: s, out_shardings=NamedSharding(mesh, P()))
    with pytest.raises(AssertionError, match='all-gather'):
      _assert_nothing_large_moves(gathered.lower(scores).compile())


def _tree():
  return {'a': {'kernel': _scores(False), 'bias': jnp.zeros(256)},
          'b': {'kernel': jnp.round(_scores(False).T * 8)}}


def _specs():
  return {'a': {'kernel': P('x', 'y'), 'bias': P(None)},
          'b': {'kernel': P('y', None)}}


def _put(tree, mesh):
  return jax.tree.map(
      lambda w, s: jax.device_put(w, NamedSharding(mesh, s)), tree, _specs())


@pytest.mark.parametrize('rule', [
    jaxsparse.prune({'.*kernel': jaxsparse.unstructured()},
                    distribution=jaxsparse.global_threshold(0.8),
                    schedule=schedules.cubic(0, 4)),
    jaxsparse.prune_and_grow(
        {'.*kernel': jaxsparse.unstructured()}, sparsity=jaxsparse.erk(0.8),
        grow=jaxsparse.gradient(), when=schedules.every(1)),
], ids=['global', 'rigl'])
def test_a_sharded_train_step_moves_no_weight(mesh, rule):
  # The random scores of the first topology depend on nothing but the shapes.
  params = _tree()
  # Products with powers of two are exact, so that sums of them round alike
  # whether a compiler fuses the two or not.
  tx = method_table.wrap(optax.sgd(0.125, momentum=0.5), rule, jaxsparse.hard())

  def step(params, state):
    grads = jax.tree.map(lambda w: w - 1., params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  expected, state = params, tx.init(params)
  for _ in range(3):
    expected, state = jax.jit(step)(expected, state)
  expected = jax.device_get((expected, state.masks))

  # A tree of the state as the params are laid out, scalars everywhere.
  state = jax.device_get(tx.init(params))
  with jax.set_mesh(mesh):
    sharded = _put(params, mesh)
    place = lambda tree: jax.tree.map(
        lambda w, x: None if x is None else jax.device_put(x, w.sharding),
        sharded, tree)
    masks, trace = place(state.rule.masks), place(state.inner[0].trace)
    state = jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(mesh, P())), state)
    state = state._replace(
        rule=state.rule._replace(masks=masks),
        inner=(state.inner[0]._replace(trace=trace), *state.inner[1:]))
    step = jax.jit(step)
    _assert_nothing_large_moves(step.lower(sharded, state).compile())
    for _ in range(3):
      sharded, state = step(sharded, state)
    chex.assert_trees_all_equal(
        jax.device_get((sharded, state.masks)), expected)


def test_new_masks_of_a_sharded_step_need_little_memory(mesh):
  """Less than a quarter of what a device has of the params."""
  rule = jaxsparse.prune({'.*': jaxsparse.unstructured()}, sparsity=0.9,
                         when=schedules.every(2))
  tx = method_table.wrap(optax.sgd(0.1), rule)
  with jax.set_mesh(mesh):
    params = jax.device_put(
        {name: jnp.ones((512, 1024)) for name in 'abcd'},
        NamedSharding(mesh, P(None, 'x')))
    state = jax.jit(tx.init)(params)
    compiled = jax.jit(tx.update).lower(params, state, params).compile()
  a_device = sum(w.nbytes for w in params.values()) / mesh.shape['x']
  assert compiled.memory_analysis().temp_size_in_bytes < a_device / 4


@pytest.mark.parametrize('name', _PATTERNS)
def test_select_inside_of_shard_map_is_that_of_each_shard(mesh, name):
  """With values that vary over the axis, which is what jax checks."""
  pattern = _PATTERNS[name]
  scores = jnp.stack([_scores(True), _scores(False)])
  each = lambda x: jaxsparse.select(x[0], pattern)[None]
  expected = [jaxsparse.select(x, pattern) for x in scores]
  with jax.set_mesh(mesh):
    placed = jax.device_put(scores, NamedSharding(mesh, P('y')))
    got = jax.jit(jax.shard_map(each, in_specs=P('y'), out_specs=P('y')))(
        placed)
  np.testing.assert_array_equal(got, np.stack(expected))


# Without snfs: its means round as the compiler pleases, and masks with them.
@pytest.mark.parametrize('name', [
    'rigl', 'set_training', 'dsr', 'progressive'])
def test_a_state_that_a_jitted_init_returns_is_stepped(mesh, name):
  """Masks and params are those of one device, on Auto and Explicit axes."""
  free = {'.*kernel': jaxsparse.unstructured()}
  gradual = jaxsparse.prune(
      free, sparsity=0.8, schedule=schedules.cubic(0, 4),
      when=schedules.every(2))
  method = {'progressive': lambda: jaxsparse.rules.progressive(
      gradual, steps=2, every=1)}.get(name, lambda: getattr(
          jaxsparse.methods, name)(free, 0.8, 8, every=2))
  tx = method_table.wrap(optax.sgd(0.125), method())

  def train(params):
    # A Python int in the key of random scores is the same on any device.
    state = jax.jit(tx.init)(params)

    @jax.jit
    def step(params, state):
      grads = jax.tree.map(lambda w: w - 1., params)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state
    for _ in range(4):
      params, state = step(params, state)
    return jax.device_get((params, jaxsparse.get_masks(state)))

  expected = train(_tree())
  with jax.set_mesh(mesh):
    got = train(_put(_tree(), mesh))
  chex.assert_trees_all_equal(got[1], expected[1])
  chex.assert_trees_all_close(got[0], expected[0], rtol=1e-6)
