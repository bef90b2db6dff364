"""The optimizer state lies beside its weights on eight devices."""

import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.sharding import SingleDeviceSharding
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import schedules
from tests._lib import method_table

_SPECS = {(16, 8): P('data', 'model'), (8,): P('model'), (8, 4): P('model'),
          (4,): P()}
# Groups of four of these; devices do not hold whole ones of the second.
_GRIDS = {(4, 8): P('data', 'model'), (2, 4): P(None, None)}
_FREE = {'.*kernel': jaxsparse.unstructured(sparsity=0.5)}


def _mesh(kind=AxisType.Auto):
  return jax.make_mesh((2, 4), ('data', 'model'), axis_types=(kind,) * 2)


def _put(params, mesh):
  """Lays out the weights of the table's tree, by their shapes."""
  return jax.tree.map(
      lambda w: jax.device_put(w, NamedSharding(mesh, _SPECS[w.shape])), params)


def _params(mesh):
  return _put(method_table.TREES['nested'](), mesh)


def _assert_laid_out(state, params, *, beside):
  """Checks arrays by the ends of their paths, and counts those of weights."""
  weights = {jax.tree_util.keystr(path): w
             for path, w in jax.tree.leaves_with_path(params)}
  found = 0
  for path, x in jax.tree.leaves_with_path(state):
    name = jax.tree_util.keystr(path)
    w = next((w for end, w in weights.items() if name.endswith(end)), None)
    if w is not None and w.shape == x.shape:
      found += 1
      assert x.sharding.is_equivalent_to(w.sharding, x.ndim), name
    elif w is None:
      assert x.sharding.is_fully_replicated, name
  assert found == beside


def _init(tx, params, *, compiled=True):
  """The state where `state_shardings` wants it, or only its shapes.

  A compiled `init` takes a second, and puts its results where it is told.
  """
  shardings = jaxsparse.state_shardings(tx, params)
  if compiled:
    return jax.jit(tx.init, out_shardings=shardings)(params)
  shapes = jax.eval_shape(tx.init, jax.tree.map(
      lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), params))
  return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding), shapes, shardings)


def _sparse(inner=None, rule=None, flow=None):
  return method_table.wrap(
      optax.adam(1e-3) if inner is None else inner,
      jaxsparse.prune(_FREE) if rule is None else rule, flow)


def _injected():
  return optax.inject_hyperparams(
      lambda rate: _sparse(optax.adam(rate)))(rate=1e-2)


def _partition():
  return optax.partition(
      {'x': _sparse(), 'y': optax.sgd(1., momentum=0.9)},
      {'block': 'x', 'head': {'kernel': 'x', 'bias': 'y', 'empty': ()}})


# Two kernels with masks and two biases: an optimizer, and how many arrays of
# its state lie with one of them.
_OPTIMIZERS = {
    'adam': (lambda: optax.adam(1e-3), 8),
    'sgd': (lambda: optax.sgd(1., momentum=0.9), 4),
    'sparse': (_sparse, 8 + 2),
    'multi_steps': (lambda: optax.MultiSteps(_sparse(), 2), 4 + 8 + 2),
    'chain': (lambda: optax.chain(optax.clip(1.), _sparse()), 8 + 2),
    'inject_hyperparams': (_injected, 8 + 2),
    # Of a whole branch that is left out there is one placeholder.
    'masked': (lambda: optax.masked(
        optax.adam(1e-3), {'block': False, 'head': True}), 4),
    'partition': (_partition, 6 + 2 + 1),
    'observe': (lambda: jaxsparse.observe(_sparse()), 8 + 2 + 4),
    'lbfgs': (lambda: optax.scale_by_lbfgs(3), 8),
}
_RULES = {
    'prune': (lambda: jaxsparse.prune(
        _FREE, schedule=schedules.cubic(1, 5), when=schedules.every(2)), 2),
    'snip_momentum': (lambda: jaxsparse.prune(
        _FREE, score=jaxsparse.snip_momentum(), when=schedules.every(2)), 4),
    'prune_and_grow': (lambda: jaxsparse.prune_and_grow(
        {'.*kernel': jaxsparse.unstructured()}, sparsity=0.5,
        grow=jaxsparse.scores.momentum(), when=schedules.every(2)), 4),
    'forward_backward': (lambda: jaxsparse.rules.forward_backward(
        _FREE, backward=0.25), 4),
    'progressive': (lambda: jaxsparse.rules.progressive(
        jaxsparse.prune(_FREE, when=schedules.every(3)), steps=2), 4),
    # It masks the bias of its units, too.
    'prune_units': (lambda: method_table.METHODS['sensitivity'][0](), 3),
    'combine': (lambda: method_table.METHODS['combined'][0](), 2),
}


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize('name', _OPTIMIZERS)
def test_what_an_optimizer_keeps_of_a_weight_lies_beside_it(name, kind):
  make, beside = _OPTIMIZERS[name]
  params = _params(_mesh(kind))
  state = _init(make(), params, compiled=name in (
      'sgd', 'sparse', 'inject_hyperparams', 'partition'))
  _assert_laid_out(state, params, beside=beside)


@pytest.mark.parametrize('name', _RULES)
def test_masks_and_scores_of_a_rule_lie_beside_their_weights(name):
  make, beside = _RULES[name]
  params = _params(_mesh())
  state = _init(_sparse(rule=make()), params, compiled=name in (
      'snip_momentum', 'prune_units'))
  _assert_laid_out(state.rule, params, beside=beside)
  _assert_laid_out(state.inner, params, beside=8)


def test_without_it_moments_are_replicated():
  """That is why there is such a function; it may go when this test fails."""
  params = _params(_mesh())
  moments = jax.jit(optax.adam(1e-3).init)(params)[0].mu
  assert moments['block']['fc']['kernel'].sharding.is_fully_replicated


@pytest.mark.parametrize('name', method_table.METHODS)
def test_no_method_keeps_an_array_of_a_weights_shape_elsewhere(name):
  rule, flow, _ = method_table.METHODS[name]
  tx, params = _sparse(rule=rule(), flow=flow()), _params(_mesh())
  shapes = jax.eval_shape(tx.init, method_table.TREES['nested']())
  shardings = jaxsparse.state_shardings(tx, params)
  for x, sharding in zip(
      *map(jax.tree.leaves, (shapes, shardings)), strict=True):
    if len(x.shape) == 2 and x.shape in _SPECS:
      assert sharding.spec == _SPECS[x.shape]
    elif x.shape in _GRIDS:  # A number for each group of four.
      assert sharding.spec == _GRIDS[x.shape]
    elif len(x.shape) == 2:  # A few numbers for each weight.
      assert sharding.is_fully_replicated


@pytest.mark.parametrize('spec, row, column', [
    (P('data', 'model'), ('data',), ('model',)),
    (P(None, ('data', 'model')), (None,), (('data', 'model'),)),
    (P('model'), ('model',), (None,))])
def test_factored_moments_lie_along_the_axes_they_keep(spec, row, column):
  params = {'kernel': jax.device_put(
      jnp.zeros((8, 16)), NamedSharding(_mesh(), spec))}
  tx = optax.adafactor(1e-2, min_dim_size_to_factor=4)
  made = jaxsparse.state_shardings(tx, params)[0]
  assert tuple(made.v_row['kernel'].spec) == row
  assert tuple(made.v_col['kernel'].spec) == column
  assert made.v['kernel'].is_fully_replicated  # One number, and not used.
  jax.jit(tx.init, out_shardings=jaxsparse.state_shardings(tx, params))(params)


def test_factored_moments_of_a_square_weight_are_replicated():
  params = jax.device_put(
      jnp.zeros((8, 8)), NamedSharding(_mesh(), P('data', 'model')))
  tx = optax.adafactor(1e-2, min_dim_size_to_factor=4)
  made = jaxsparse.state_shardings(tx, params)[0]
  assert made.v_row.is_fully_replicated and made.v_col.is_fully_replicated


# Other containers, other ways to say where params lie.


def _boxed(mesh):
  return {'fc': {'kernel': nn.Partitioned(
      jax.device_put(jnp.ones((16, 8)), NamedSharding(mesh, P('data'))),
      names=('data', None))}}


_CONTAINERS = {
    **{name: functools.partial(lambda make, mesh: _put(make(), mesh), make)
       for name, make in method_table.TREES.items()},
    'boxed': _boxed,
    'one array': lambda mesh: _params(mesh)['block']['fc']['kernel'],
}


@pytest.mark.parametrize('name', _CONTAINERS)
def test_params_may_be_any_tree(name):
  params = _CONTAINERS[name](_mesh())
  tx = _sparse(rule=jaxsparse.prune({'.*': jaxsparse.unstructured(0.5)}))
  state = _init(tx, params, compiled=name in ('nnx', 'boxed'))
  leaves = jax.tree.leaves(params)
  for tree in (state.masks, state.inner[0].mu, state.inner[0].nu):
    for x, w in zip(jax.tree.leaves(tree), leaves, strict=True):
      assert x.sharding.is_equivalent_to(w.sharding, w.ndim)
  assert state.rule.count.sharding.is_fully_replicated


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
def test_shapes_with_shardings_do_instead_of_arrays(kind):
  mesh, tx = _mesh(kind), _sparse()
  params = _params(mesh)
  expected = jaxsparse.state_shardings(tx, params)
  shapes = jax.tree.map(lambda w: jax.ShapeDtypeStruct(
      w.shape, w.dtype, sharding=w.sharding), params)
  assert jaxsparse.state_shardings(tx, shapes) == expected
  assert jax.tree.structure(expected) == jax.tree.structure(
      jax.eval_shape(tx.init, method_table.TREES['nested']()))


def test_shapes_of_explicit_axes_lie_on_the_mesh_that_is_set():
  mesh, tx = _mesh(AxisType.Explicit), optax.adam(1e-3)
  params = _params(mesh)
  shapes = jax.eval_shape(lambda: params)
  with jax.set_mesh(mesh):
    made = jaxsparse.state_shardings(tx, shapes)
  expected = jaxsparse.state_shardings(tx, params)
  shapes = jax.eval_shape(tx.init, method_table.TREES['nested']())
  for x, one, other in zip(
      *map(jax.tree.leaves, (shapes, made, expected)), strict=True):
    assert one.is_equivalent_to(other, x.ndim)
  with pytest.raises(ValueError, match=r'bias.*with jax.set_mesh\(mesh\)'):
    jaxsparse.state_shardings(tx, jax.eval_shape(lambda: params))


def test_one_device_is_the_device_of_everything():
  device = jax.devices()[3]
  params = jax.device_put(method_table.TREES['nested'](), device)
  for sharding in jax.tree.leaves(jaxsparse.state_shardings(_sparse(), params)):
    assert sharding == SingleDeviceSharding(device)


def test_arrays_that_were_put_nowhere_follow_the_others():
  mesh = _mesh()
  params = _params(mesh)
  params['head']['bias'] = jnp.zeros(4)
  made = jaxsparse.state_shardings(optax.adam(1e-3), params)
  assert made[0].mu['head']['bias'] == NamedSharding(mesh, P())


def test_bytes_of_a_device_are_its_share():
  """Adam and masks of a weight in eight parts, in bytes on one device."""
  mesh = _mesh()
  params = {'kernel': jax.device_put(jnp.ones((64, 32)), NamedSharding(
      mesh, P('data', 'model')))}
  tx = _sparse()
  state = jax.jit(
      tx.init, out_shardings=jaxsparse.state_shardings(tx, params))(params)
  large = [x for x in jax.tree.leaves(state) if x.ndim == 2]
  here = sum(x.addressable_shards[0].data.nbytes for x in large)
  assert here == (4 + 4 + 1) * math.prod((64, 32)) // 8


# Mistakes.


@pytest.mark.parametrize('params, message', [
    ({'w': np.ones(2)}, r'w must have.*got ndarray.*jax.device_put'),
    ({'w': jax.ShapeDtypeStruct((2,), jnp.float32)}, r'sharding=sharding'),
    ({}, 'at least one array'),
])
def test_params_without_a_place_are_told(params, message):
  with pytest.raises(ValueError, match=message):
    jaxsparse.state_shardings(optax.adam(1e-3), params)


def test_an_optimizer_comes_first():
  params = _params(_mesh())
  with pytest.raises(ValueError, match=r'tx must be an optax'):
    jaxsparse.state_shardings(params, optax.adam(1e-3))


def test_traced_params_are_told_to_stay_outside():
  with pytest.raises(ValueError, match='head/bias is a tracer.*outside of jit'):
    jax.jit(lambda params: jaxsparse.state_shardings(
        optax.adam(1e-3), params))({'head': {'bias': jnp.zeros(2)}})


def test_params_on_different_devices_are_named():
  few = jax.make_mesh((2,), ('x',), devices=jax.devices()[:2],
                      axis_types=(AxisType.Auto,))
  params = {'a': jax.device_put(jnp.ones(2), NamedSharding(few, P('x'))),
            'b': jax.device_put(jnp.ones(8), NamedSharding(_mesh(), P()))}
  with pytest.raises(ValueError, match='b on .* and a on '):
    jaxsparse.state_shardings(optax.adam(1e-3), params)
