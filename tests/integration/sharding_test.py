"""On a mesh of eight devices: no weight moves, and masks are the same."""

import functools
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
    'balanced': jaxsparse.unstructured(0.9, balanced=True),
}


def _scores(ties):
  x = jnp.abs(jax.random.normal(jax.random.key(0), _SHAPE))
  return jnp.round(x * 4) if ties else x


def _assert_nothing_large_moves(compiled):
  for dims, name in _MOVES.findall(compiled.as_text()):
    size = int(np.prod([int(d) for d in dims.split(',') if d] or [1]))
    assert size <= _SAMPLE, f'{name} of [{dims}]'


def _mesh(kind):
  return jax.make_mesh((4, 2), ('x', 'y'), axis_types=(kind,) * 2)


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=str)
def mesh(request):
  return _mesh(request.param)


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


# One weight for every layout, and a bias that is everywhere.
_SPECS = {'fsdp': {'kernel': P(('x', 'y'), None)},
          'tensor': {'kernel': P(None, 'y'), 'bias': P()},
          'both': {'kernel': P('y', 'x')}}


def _tree():
  return {'fsdp': {'kernel': jnp.round(_scores(False).T * 8)},
          'tensor': {'kernel': _scores(False), 'bias': jnp.zeros(256)},
          'both': {'kernel': jnp.round(_scores(False).T * 4) / 2}}


_FREE = {'.*kernel': jaxsparse.unstructured()}
_METHODS = {
    'global': lambda: jaxsparse.prune(
        _FREE, distribution=jaxsparse.global_threshold(0.8),
        schedule=schedules.cubic(0, 4)),
    'gradual': lambda: jaxsparse.prune(
        _FREE, sparsity=0.8, schedule=schedules.cubic(0, 4),
        when=schedules.every(2)),
    'progressive': lambda: jaxsparse.rules.progressive(
        jaxsparse.prune(_FREE, sparsity=0.8), steps=2, every=1),
    'sr_ste': lambda: jaxsparse.methods.sr_ste(
        {'.*kernel': jaxsparse.nm(2, 4)}, 8),
    'top_kast': lambda: jaxsparse.methods.top_kast(
        {'.*kernel': jaxsparse.nm(2, 16)}, 8, backward=0.5, every=2),
    'srigl': lambda: jaxsparse.methods.srigl(
        {'.*kernel': jaxsparse.unstructured(balanced=True)}, 0.8, 8, every=2,
        gamma=0.9, spare='both/kernel'),
    # Without snfs: its means round as the compiler pleases, and masks with
    # them.
    **{name: lambda name=name: getattr(jaxsparse.methods, name)(
        _FREE, 0.8, 8, every=2) for name in ('rigl', 'set_training', 'dsr')}}
_EXPECTED = {}


def _functions(name):
  """The transformation of a method, and a step of training."""
  # Products with powers of two are exact, so that sums of them round alike
  # whether a compiler fuses the two or not.
  tx = method_table.wrap(optax.sgd(0.125, momentum=0.5), _METHODS[name]())

  def step(params, state):
    grads = jax.tree.map(lambda w: w - 1., params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  return tx, step


def _trained(name, params, inspect=lambda state, compiled: None):
  """Params and masks after four steps; `inspect` is shown the program."""
  tx, step = _functions(name)
  # With no word on it, random masks would be on every device.
  state = jax.jit(
      tx.init, out_shardings=jaxsparse.state_shardings(tx, params))(params)
  step = jax.jit(step).lower(params, state).compile()
  inspect(state, step)
  for _ in range(4):
    params, state = step(params, state)
  return jax.device_get((params, jaxsparse.get_masks(state)))


def _expected(name):
  """On one device."""
  if name not in _EXPECTED:
    _EXPECTED[name] = _trained(name, _tree())
  return _EXPECTED[name]


# Explicit axes say of each operation where its results lie: of thresholds of
# all layers, of groups, of exchanges, of random numbers.
@pytest.mark.slow
@pytest.mark.parametrize('name, kind', [
    *((name, AxisType.Auto) for name in _METHODS),
    *((name, AxisType.Explicit) for name in (
        'global', 'sr_ste', 'rigl', 'srigl', 'set_training'))], ids=str)
def test_a_method_on_a_mesh_is_that_of_one_device(name, kind):
  """State as a jitted init returns it; no weight moves, nor does a mask."""
  expected, mesh = _expected(name), _mesh(kind)

  def inspect(state, compiled):
    _assert_nothing_large_moves(compiled)
    for layer, mask in jaxsparse.get_masks(state).items():
      assert mask['kernel'].sharding.is_equivalent_to(
          params[layer]['kernel'].sharding, 2)

  with jax.set_mesh(mesh):
    params = jax.tree.map(
        lambda w, s: jax.device_put(w, NamedSharding(mesh, s)), _tree(), _SPECS)
    got = _trained(name, params, inspect)
  chex.assert_trees_all_equal(got[1], expected[1])
  chex.assert_trees_all_close(got[0], expected[0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize('name', ['s_ste', 'cast'])
def test_weights_of_a_forward_pass_on_a_mesh_are_those_of_one_device(
    name, kind):
  tx = jaxsparse.sparsify(optax.sgd(.125), getattr(jaxsparse.methods, name)(
      {'.*kernel': jaxsparse.nm(2, 4)}, 10))
  expected = jax.jit(jaxsparse.sparse_params)(_tree(), tx.init(_tree()))
  mesh = _mesh(kind)
  with jax.set_mesh(mesh):
    params = jax.tree.map(
        lambda w, s: jax.device_put(w, NamedSharding(mesh, s)), _tree(), _SPECS)
    state = jax.jit(
        tx.init, out_shardings=jaxsparse.state_shardings(tx, params))(params)
    seen = jax.jit(jaxsparse.sparse_params).lower(params, state).compile()
    _assert_nothing_large_moves(seen)
    chex.assert_trees_all_close(
        jax.device_get(seen(params, state)), expected, rtol=1e-5)


@pytest.mark.parametrize('name', method_table.METHODS)
def test_steps_may_be_looped_inside_of_shard_map(name):
  """A loop wants the state of `init` to vary over the axes that later ones do.
  """
  rule, flow, _ = method_table.METHODS[name]
  tx = method_table.wrap(optax.sgd(0.1, momentum=0.9), rule(), flow())
  params = {'block': {'fc': {'kernel': jnp.ones((2, 16, 8)),
                             'bias': jnp.ones((2, 8))}},
            'head': {'kernel': jnp.ones((2, 8, 8))}}

  def train(params):
    def step(_, now):
      params, state = now
      updates, state = tx.update(params, state, params)
      return optax.apply_updates(params, updates), state
    params = jax.tree.map(lambda w: w[0], params)
    params, _ = jax.lax.fori_loop(0, 2, step, (params, tx.init(params)))
    return jax.tree.map(lambda w: w[None], params)

  mesh = jax.make_mesh((2,), ('y',), axis_types=(AxisType.Auto,))
  with jax.set_mesh(mesh):
    looped = jax.shard_map(train, in_specs=P('y'), out_specs=P('y'))
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jax.eval_shape(jax.jit(looped), params), params)


@pytest.mark.slow
@pytest.mark.parametrize('name', _METHODS)
def test_a_method_inside_of_shard_map_is_that_of_each_shard(name):
  """With params and states that vary over the axis, which is what jax checks.
  """
  tx, step = _functions(name)

  def train(params, init=tx.init, step=step):
    params = jax.tree.map(lambda w: w[0], params)
    params, state = jax.lax.fori_loop(
        0, 2, lambda _, now: step(*now), (params, init(params)))
    return jax.tree.map(
        lambda x: x[None], (params, jaxsparse.get_masks(state)))

  # Two layers, as some methods compare them.
  tree = {name: _tree()[name] for name in ('tensor', 'both')}
  shards = [tree, jax.tree.map(lambda w: w[::-1] / 2, tree)]
  both = jax.tree.map(lambda *parts: jnp.stack(parts), *shards)
  alone = functools.partial(train, init=jax.jit(tx.init), step=jax.jit(step))
  expected = jax.tree.map(
      lambda *parts: np.concatenate(parts),
      *[alone(jax.tree.map(lambda w: w[None], shard)) for shard in shards])
  mesh = jax.make_mesh((2,), ('y',), axis_types=(AxisType.Auto,))
  with jax.set_mesh(mesh):
    got = jax.jit(jax.shard_map(
        train, in_specs=P('y'), out_specs=P('y')))(both)
  chex.assert_trees_all_equal(jax.device_get(got), expected)
