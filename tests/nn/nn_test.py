"""Flax's own layers on masked dense weights are the reference for all."""

import functools
import re

from flax import linen
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxsparse import nn
from jaxsparse.masks.selection import select
from jaxsparse.packed import layout24
from jaxsparse.packed import products
from jaxsparse.packed.layout24 import Packed24
from jaxsparse.packed.packed_params import pack_params
from jaxsparse.packed.packed_params import unpack_params
from jaxsparse.patterns import attention
from jaxsparse.patterns import nm

_TOLERANCE = {jnp.float32: 2e-5, jnp.bfloat16: 2e-2}
_RULES = {**attention(2, 4), '.*/kernel': nm(2, 4)}
_KERNELS = {'.*/kernel': nm(2, 4)}
_K = 512  # Smaller weights would get no smaller.


def _close(actual, expected, dtype=jnp.float32):
  assert actual.dtype == expected.dtype
  expected = np.asarray(expected, np.float32)
  scale = max(1., np.abs(expected).max())
  np.testing.assert_allclose(
      np.asarray(actual, np.float32) / scale, expected / scale, rtol=0.,
      atol=_TOLERANCE[dtype])


def _x(*leading, dtype=jnp.float32):
  shape = (*leading, _K)
  return jax.random.normal(jax.random.key(1), shape).astype(dtype)


def _two_of_four(w, axes=(-2,)):
  """Keeps the first two largest of every four along the joined axes."""
  last = tuple(range(-len(axes), 0))
  moved = np.moveaxis(np.array(w), axes, last)
  fours = moved.reshape(-1, 4)
  order = np.argsort(-np.abs(fours.astype(np.float32)), 1, kind='stable')
  np.put_along_axis(fours, order[:, 2:], 0, 1)
  return jnp.asarray(np.moveaxis(fours.reshape(moved.shape), last, axes))


def _pruned(params):
  """All kernels 2:4, as `_RULES` say."""
  def leaf(path, w):
    path = jax.tree_util.keystr(path, simple=True, separator='/')
    if 'kernel' not in path:
      return w
    if re.search('(query|key|value)/kernel', path):
      return _two_of_four(w, (-3,))
    return _two_of_four(w, (-3, -2) if 'out/kernel' in path else (-2,))
  return jax.tree_util.tree_map_with_path(leaf, params)


class _MLP(linen.Module):
  dtype: jnp.dtype | None = None

  @linen.compact
  def __call__(self, x):
    x = linen.relu(linen.Dense(_K, dtype=self.dtype, name='a')(x))
    return linen.Dense(8, dtype=self.dtype, use_bias=False, name='b')(x)


def _linen(model, *args):
  """Params of 2:4 and noisy biases, these packed, and both results."""
  params = _pruned(model.init(jax.random.key(0), *args)['params'])
  params = jax.tree.map(lambda w: w if w.any() else w + 0.5, params)
  packed = pack_params(params, _rules_of(params))
  return params, packed


def _rules_of(params):
  """`_RULES`, but those that no parameter needs."""
  names = str(jax.tree.structure(params))
  return _RULES if 'query' in names else _KERNELS


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_linen_mlp_runs_packed(dtype):
  model, x = _MLP(dtype), _x(2, 3)
  params, packed = _linen(model, x)
  assert isinstance(packed['a']['kernel'], Packed24)
  assert isinstance(packed['b']['kernel'], Packed24)
  y = nn.packed(model.apply)({'params': packed}, x)
  _close(y, model.apply({'params': params}, x), dtype)


def test_linen_params_of_bfloat16_run_packed():
  model, x = _MLP(), _x(2, dtype=jnp.bfloat16)
  params, _ = _linen(model, _x(2))
  params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
  want = model.apply({'params': params}, x)
  for layout in ('planar', 'hopper'):
    packed = pack_params(params, _KERNELS, layout=layout)
    y = nn.packed(model.apply, implementation='xla')({'params': packed}, x)
    _close(y, want, jnp.bfloat16)


def test_linen_attention_runs_packed():
  model = linen.MultiHeadDotProductAttention(num_heads=4, qkv_features=_K)
  x = _x(2, 3)
  params, packed = _linen(model, x)
  kinds = [packed[name]['kernel'] for name in ('query', 'key', 'value', 'out')]
  assert all(isinstance(w, Packed24) for w in kinds)
  y = nn.packed(model.apply)({'params': packed}, x)
  _close(y, model.apply({'params': params}, x))


def test_linen_layers_with_other_axes_and_batches_run_packed():
  x = jax.random.normal(jax.random.key(1), (2, 256, 5, 4))
  model = linen.DenseGeneral((3, 2), axis=(3, 1), dtype=jnp.float32)
  params = model.init(jax.random.key(0), x)['params']
  params['kernel'] = _two_of_four(params['kernel'], (0, 1))
  packed = {**params, 'kernel': layout24.pack(params['kernel'], axis=(0, 1))}
  _close(nn.packed(model.apply)({'params': packed}, x),
         model.apply({'params': params}, x))

  x = _x(2, 3)
  model = linen.DenseGeneral(8, batch_dims=(0,), bias_init=jax.nn.initializers
                             .normal())
  params = model.init(jax.random.key(0), x)['params']
  params['kernel'] = _two_of_four(params['kernel'])
  packed = {**params, 'kernel': layout24.pack(params['kernel'])}
  _close(nn.packed(model.apply)({'params': packed}, x),
         model.apply({'params': params}, x))


class _Scanned(linen.Module):

  @linen.compact
  def __call__(self, x):
    block = lambda mlp, x, _: (mlp(x), None)
    layers = linen.scan(linen.remat(block), variable_axes={'params': 0},
                        split_rngs={'params': True}, length=2)
    x, _ = layers(linen.Dense(_K, name='layer'), x, None)
    each = linen.vmap(linen.Dense, variable_axes={'params': 0},
                      split_rngs={'params': True}, in_axes=None, out_axes=0,
                      axis_size=2)
    return each(8, name='b')(x), linen.remat(linen.Dense)(8, name='c')(x)


def test_lifted_linen_layers_run_packed_and_compile_once():
  model, x = _Scanned(), _x(2)
  params, packed = _linen(model, x)
  assert packed['layer']['kernel'].values.shape == (2, 2, _K // 4, _K)
  assert packed['b']['kernel'].shape == (2, _K, 8)
  assert isinstance(packed['c']['kernel'], Packed24)
  traces = []

  @jax.jit
  def run(params, x):
    traces.append(1)
    return nn.packed(model.apply)({'params': params}, x)
  for _ in range(2):
    got = run(packed, x)
  assert len(traces) == 1
  want = model.apply({'params': params}, x)
  jax.tree.map(_close, got, want)


class _Twice(linen.Dense):

  @linen.compact
  def __call__(self, inputs):
    return 2 * super().__call__(inputs)


def test_linen_subclasses_run_packed():
  model, x = _Twice(8), _x(2)
  params = model.init(jax.random.key(0), x)['params']
  params['kernel'] = _two_of_four(params['kernel'])
  packed = {**params, 'kernel': layout24.pack(params['kernel'])}
  _close(nn.packed(model.apply)({'params': packed}, x),
         model.apply({'params': params}, x))


def test_a_layer_keeps_the_dot_general_and_promotion_it_was_given():
  x, calls = _x(2), []

  def own(*args, **options):
    calls.append('dot')
    return nn.training_dot_general(*args, **options)

  def promote(*arrays, dtype):
    calls.append('promote')
    return linen.dtypes.promote_dtype(*arrays, dtype=dtype)
  model = linen.Dense(8, dot_general=own, promote_dtype=promote)
  params = {'kernel': layout24.pack(jnp.eye(_K, 8)), 'bias': jnp.ones(8)}
  y = nn.packed(model.apply)({'params': params}, x)
  assert calls == ['promote', 'dot']
  _close(y, x[:, :8] + 1.)


@pytest.mark.parametrize('layer', [
    functools.partial(linen.Conv, 8, (1,)),
    functools.partial(linen.Einsum, (_K, 8), 'ab,bc->ac')])
def test_a_linen_layer_that_cannot_names_itself(layer):
  class Net(linen.Module):

    @linen.compact
    def __call__(self, x):
      return layer(name='odd')(x)
  x = _x(3)
  params = Net().init(jax.random.key(0), x)['params']
  packed = pack_params(_pruned(params), _KERNELS)
  with pytest.raises(ValueError, match='odd/kernel is packed, but (Conv|Ein)'):
    nn.packed(Net().apply)({'params': packed}, x)


def test_params_of_another_model_are_told():
  params = {'kernel': layout24.pack(jnp.zeros((_K, 8)))}
  model = linen.Dense(16, use_bias=False)
  with pytest.raises(ValueError, match=r'need \(512, 16\)'):
    nn.packed(model.apply)({'params': params}, _x(2))
  # What has nothing to do with packing stays Flax's own error.
  with pytest.raises(Exception, match='initializer is expected'):
    nn.packed(model.apply)({'params': {'kernel': jnp.zeros((_K, 8))}}, _x(2))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_new_linen_layer_holds_the_two_largest(dtype):
  layer, x = nn.Dense(8, param_dtype=dtype), _x(2, 3, dtype=dtype)
  params = layer.init(jax.random.key(0), x)['params']
  dense = linen.Dense(8, param_dtype=dtype)
  theirs = dense.init(jax.random.key(0), x)['params']
  theirs['kernel'] = _two_of_four(theirs['kernel'])
  np.testing.assert_array_equal(
      unpack_params(params)['kernel'], theirs['kernel'])
  want = dense.apply({'params': theirs}, x)
  for given in (params, theirs):  # A dense kernel is fine, too.
    _close(layer.apply({'params': given}, x), want, dtype)


def test_a_new_linen_layer_takes_packed_params():
  layer = nn.Dense(128, use_bias=False, param_dtype=jnp.bfloat16,
                   implementation='xla')
  x = _x(2, dtype=jnp.bfloat16)
  params = {'kernel': jnp.eye(_K, 128, dtype=jnp.bfloat16)}
  for layout in ('planar', 'hopper'):
    packed = pack_params(params, {'kernel': nm(2, 4)}, layout=layout)
    np.testing.assert_array_equal(
        layer.apply({'params': packed}, x), x[:, :128])
  assert set(layer.init(jax.random.key(0), x)['params']) == {'kernel'}


class _NNX(nnx.Module):

  def __init__(self, rngs):
    self.a = nnx.Linear(_K, _K, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
        num_heads=4, in_features=_K, decode=False, rngs=rngs)
    self.b = _Half(_K, 8, use_bias=False, rngs=rngs)
    self.again = self.a

  def __call__(self, x):
    return self.b(self.again(nnx.relu(self.a(self.attention(x)))))


class _Half(nnx.Linear):

  def __call__(self, inputs):
    return super().__call__(inputs) / 2


@pytest.fixture(scope='module', name='model')
def _model():
  model = _NNX(nnx.Rngs(0))
  nnx.update(model, _pruned(nnx.state(model, nnx.Param)))
  return model


def test_an_nnx_model_runs_packed_and_compiles_once(model):
  x, traces = _x(2, 3), []
  packed = nn.pack_model(model, _RULES)
  assert packed.again is packed.a and type(packed.b).__name__ == '_Half'
  assert isinstance(model.a, nnx.Linear) and model.a.kernel.ndim == 2
  leaves = jax.tree.leaves(nnx.state(packed, nnx.Param), is_leaf=_is_packed)
  assert sum(map(_is_packed, leaves)) == 6

  @nnx.jit
  def run(model, x):
    traces.append(1)
    return model(x)
  want = model(x)
  _close(run(packed, x), want)
  _close(run(nnx.merge(*nnx.split(packed)), x), want)
  nnx.update(packed, pack_params(nnx.state(model, nnx.Param), _RULES))
  _close(run(packed, x), want)
  assert len(traces) == 1


def _is_packed(node):
  return isinstance(node, Packed24)


def test_an_nnx_model_runs_packed_in_bfloat16():
  model = nnx.Linear(_K, 8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  nnx.update(model, _pruned(nnx.state(model, nnx.Param)))
  packed = nn.pack_model(model, {'kernel': nm(2, 4)}, implementation='xla')
  x = _x(2)
  _close(packed(x), model(x), jnp.bfloat16)


def test_an_nnx_model_is_packed_by_masks_too():
  model = nnx.List([nnx.Linear(_K, 8, rngs=nnx.Rngs(0))])
  params = nnx.state(model, nnx.Param)
  masks = jax.tree.map(lambda w: _two_of_four(w) != 0 if w.ndim > 1 else None,
                       params)
  packed = nn.pack_model(model, masks)
  nnx.update(model, _pruned(params))
  _close(packed[0](_x(2)), model[0](_x(2)))


def test_stacked_nnx_layers_run_packed():
  create = nnx.vmap(lambda key: nnx.Linear(_K, _K, rngs=nnx.Rngs(key)))
  model = create(jax.random.split(jax.random.key(0)))
  nnx.update(model, _pruned(nnx.state(model, nnx.Param)))
  run = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry),
                 out_axes=nnx.Carry)
  packed = nn.pack_model(model, {'kernel': nm(2, 4)})
  _close(run(packed, _x(2)), run(model, _x(2)))


def test_params_go_there_and_back(model):
  params = nnx.state(model, nnx.Param)
  packed = nnx.state(nn.pack_model(model, _RULES), nnx.Param)
  jax.tree.map(np.testing.assert_array_equal, unpack_params(packed), params)


def test_checkpoints_hold_packed_params(model, tmp_path):
  packed = nn.pack_model(model, _RULES)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'nnx', nnx.state(packed))
  abstract = nnx.eval_shape(lambda: nn.pack_model(_NNX(nnx.Rngs(1)), _RULES))
  graph, state = nnx.split(abstract)
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  state = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      state)
  with ocp.StandardCheckpointer() as checkpointer:
    state = checkpointer.restore(tmp_path / 'nnx', state)
  np.testing.assert_array_equal(
      nnx.merge(graph, state)(_x(2, 3)), packed(_x(2, 3)))


def test_checkpoints_of_linen_params(tmp_path):
  layer = nn.Dense(8)
  params = layer.init(jax.random.key(0), _x(1))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'linen', params)
  other = layer.init(jax.random.key(1), _x(1))
  with ocp.StandardCheckpointer() as checkpointer:
    restored = checkpointer.restore(tmp_path / 'linen', other)
  jax.tree.map(np.testing.assert_array_equal, restored, params)


def test_an_nnx_layer_that_cannot_names_itself():
  model = nnx.Dict(odd=nnx.Conv(_K, 8, (1,), rngs=nnx.Rngs(0)))
  nnx.update(model, _pruned(nnx.state(model, nnx.Param)))
  with pytest.raises(ValueError, match='odd/kernel is packed, but Conv'):
    nn.pack_model(model, _KERNELS)


def test_only_the_kernel_of_a_dense_nnx_layer_can_be_packed():
  model = nnx.Linear(_K, 8, rngs=nnx.Rngs(0))
  model.other = nnx.Param(jnp.zeros((_K, 8)))
  with pytest.raises(ValueError, match='other is packed, but Linear'):
    nn.pack_model(model, {'other': nm(2, 4)})


def test_a_new_nnx_layer_holds_the_two_largest():
  theirs = nnx.Linear(_K, 8, rngs=nnx.Rngs(0))
  nnx.update(theirs, _pruned(nnx.state(theirs, nnx.Param)))
  ours = nn.Linear(_K, 8, rngs=nnx.Rngs(0))
  assert ours.kernel.nbytes < theirs.kernel.nbytes
  _close(ours(_x(2)), theirs(_x(2)))
  nnx.update(ours, nnx.state(theirs))  # A dense kernel is fine, too.
  _close(ours(_x(2)), theirs(_x(2)))


def test_gradients_reach_the_inputs(model):
  grad = lambda f: jax.grad(lambda x: (f(x) ** 2).sum())(_x(2, 3))
  _close(grad(nn.pack_model(model, _RULES)), grad(model))
  mlp, x = _MLP(), _x(2, 3)
  params, packed = _linen(mlp, x)
  _close(grad(functools.partial(nn.packed(mlp.apply), {'params': packed})),
         grad(functools.partial(mlp.apply, {'params': params})))


def test_dot_general_heeds_what_a_kernel_cannot():
  w = layout24.pack(jnp.eye(_K, 8))
  numbers = (((1,), (0,)), ((), ()))
  f = functools.partial(nn.dot_general, implementation='xla')
  text = str(jax.make_jaxpr(lambda x: f(
      x, w, numbers, precision='highest',
      preferred_element_type=jnp.float32))(_x(2)))
  assert 'HIGHEST' in text
  _close(f(_x(2), w, numbers, 'highest', out_sharding=None), _x(2)[:, :8])


def test_dot_general_of_weights_packed_along_their_last_axis():
  w = layout24.pack(jnp.eye(8, _K), axis=-1)
  y = nn.dot_general(_x(2).T, w, (((0,), (1,)), ((), ())))
  _close(y, _x(2)[:, :8])


def test_dot_general_pairs_axes_in_any_order():
  w = _two_of_four(jax.random.normal(jax.random.key(0), (8, 4, 5)), (0, 1))
  x = jax.random.normal(jax.random.key(1), (4, 3, 8))
  for numbers in [(((0, 2), (1, 0)), ((), ())), (((2, 0), (0, 1)), ((), ()))]:
    want = jax.lax.dot_general(x, w, numbers)
    _close(nn.dot_general(x, layout24.pack(w, axis=(0, 1)), numbers), want)
    _close(nn.training_dot_general(x, w, numbers), want)


def test_dot_general_names_the_axis_that_is_needed():
  w = layout24.pack(jnp.zeros((_K, 4, 8)))  # Along the heads.
  with pytest.raises(ValueError, match=r'along axis -2, .*nm\(2, 4, axis=-3'):
    nn.dot_general(_x(2), w, (((1,), (0,)), ((), ())))
  w = layout24.pack(jnp.zeros((2, _K, 8)))
  with pytest.raises(ValueError, match='its 1 leading axes, got axes ()'):
    nn.dot_general(_x(2), w, (((1,), (1,)), ((), ())))


class _Trained(linen.Module):
  dot_general: object

  @linen.compact
  def __call__(self, x):
    x = linen.relu(linen.Dense(16, dot_general=self.dot_general)(x))
    x = linen.DenseGeneral((2, 8), dot_general=self.dot_general)(x)
    return linen.DenseGeneral(
        4, axis=(-2, -1), dot_general=self.dot_general)(x)


def test_training_dot_general_trains_as_the_dense_product(monkeypatch):
  x, optimizer, calls = _x(3)[:, :16], optax.sgd(1e-2, momentum=0.9), []
  matmul = products.training_matmul
  monkeypatch.setattr(
      products, 'training_matmul',
      lambda *args, **kw: calls.append(1) or matmul(*args, **kw))

  def mask(path, w):  # Of the matrix [in, out].
    if 'kernel' not in jax.tree_util.keystr(path):
      return jnp.ones_like(w, bool)
    return select(jnp.abs(w.reshape(16, -1)), nm(2, 4, transposable=True)
                  ).reshape(w.shape)

  def train(dot_general):
    model = _Trained(dot_general)
    params = _Trained(None).init(jax.random.key(0), x)['params']
    masks = jax.tree_util.tree_map_with_path(mask, params)
    state = optimizer.init(params)

    def loss(params):
      return (model.apply({'params': params}, x) ** 2).sum()

    @jax.jit
    def step(params, state):
      sparse = jax.tree.map(lambda w, m: jnp.where(m, w, 0.), params, masks)
      updates, state = optimizer.update(jax.grad(loss)(sparse), state)
      return optax.apply_updates(params, updates), state
    for _ in range(4):
      params, state = step(params, state)
    return params
  got, want = train(nn.training_dot_general), train(None)
  assert len(calls) == 3
  jax.tree.map(_close, got, want)


def test_training_dot_general_is_dense_where_it_has_to_be():
  f = nn.training_dot_general
  x, w = _x(4)[:, :8], jnp.ones((8, 3))  # Not 2:4.
  _close(f(x, w.T, (((1,), (1,)), ((), ()))), x @ w)
  _close(f(x, w, (((1,), (0,)), ((), ())), 'highest'), x @ w)
  batched = jnp.ones((4, 8, 3))
  _close(f(x, batched, (((1,), (1,)), ((0,), (0,)))), x @ w)
  packed = layout24.pack(jnp.eye(8, 4))
  _close(f(x, packed, (((1,), (0,)), ((), ()))), x[:, :4])
