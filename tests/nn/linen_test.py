"""Flax's own layers on masked dense weights are the reference: Linen."""

import functools

from flax import linen
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxsparse import nn
from jaxsparse.packed import pack
from jaxsparse.packed import pack_params
from jaxsparse.packed import Packed24
from jaxsparse.packed import unpack_params
from jaxsparse.patterns import nm
from tests._lib.flax_layers import assert_close
from tests._lib.flax_layers import INPUTS
from tests._lib.flax_layers import KERNELS
from tests._lib.flax_layers import pruned
from tests._lib.flax_layers import RULES
from tests._lib.flax_layers import tokens
from tests._lib.flax_layers import two_of_four


class _MLP(linen.Module):
  dtype: jnp.dtype | None = None

  @linen.compact
  def __call__(self, x):
    x = linen.relu(linen.Dense(INPUTS, dtype=self.dtype, name='a')(x))
    return linen.Dense(8, dtype=self.dtype, use_bias=False, name='b')(x)


def _init_and_pack(model, *args):
  """Params of 2:4 and noisy biases, and these packed."""
  params = pruned(model.init(jax.random.key(0), *args)['params'])
  params = jax.tree.map(lambda w: w if w.any() else w + 0.5, params)
  packed = pack_params(params, _rules_of(params))
  return params, packed


def _rules_of(params):
  """`RULES`, but those that no parameter needs."""
  names = str(jax.tree.structure(params))
  return RULES if 'query' in names else KERNELS


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_linen_mlp_runs_packed(dtype):
  model, x = _MLP(dtype), tokens(2, 3)
  params, packed = _init_and_pack(model, x)
  assert isinstance(packed['a']['kernel'], Packed24)
  assert isinstance(packed['b']['kernel'], Packed24)
  y = nn.accept_packed(model.apply)({'params': packed}, x)
  assert_close(y, model.apply({'params': params}, x), dtype)


def test_linen_params_of_bfloat16_run_packed():
  model, x = _MLP(), tokens(2, dtype=jnp.bfloat16)
  params, _ = _init_and_pack(model, tokens(2))
  params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
  want = model.apply({'params': params}, x)
  for layout in ('planar', 'hopper'):
    packed = pack_params(params, KERNELS, layout=layout)
    run = nn.accept_packed(model.apply, implementation='xla')
    assert_close(run({'params': packed}, x), want, jnp.bfloat16)


def test_linen_attention_runs_packed():
  model = linen.MultiHeadDotProductAttention(num_heads=4, qkv_features=INPUTS)
  x = tokens(2, 3)
  params, packed = _init_and_pack(model, x)
  kinds = [packed[name]['kernel'] for name in ('query', 'key', 'value', 'out')]
  assert all(isinstance(w, Packed24) for w in kinds)
  y = nn.accept_packed(model.apply)({'params': packed}, x)
  assert_close(y, model.apply({'params': params}, x))


def test_linen_layers_with_other_axes_and_batches_run_packed():
  x = jax.random.normal(jax.random.key(1), (2, 256, 5, 4))
  model = linen.DenseGeneral((3, 2), axis=(3, 1), dtype=jnp.float32)
  params = model.init(jax.random.key(0), x)['params']
  params['kernel'] = two_of_four(params['kernel'], (0, 1))
  packed = {**params, 'kernel': pack(params['kernel'], axis=(0, 1))}
  assert_close(nn.accept_packed(model.apply)({'params': packed}, x),
         model.apply({'params': params}, x))

  x = tokens(2, 3)
  model = linen.DenseGeneral(8, batch_dims=(0,), bias_init=jax.nn.initializers
                             .normal())
  params = model.init(jax.random.key(0), x)['params']
  params['kernel'] = two_of_four(params['kernel'])
  packed = {**params, 'kernel': pack(params['kernel'])}
  assert_close(nn.accept_packed(model.apply)({'params': packed}, x),
         model.apply({'params': params}, x))


class _Scanned(linen.Module):

  @linen.compact
  def __call__(self, x):
    block = lambda mlp, x, _: (mlp(x), None)
    layers = linen.scan(linen.remat(block), variable_axes={'params': 0},
                        split_rngs={'params': True}, length=2)
    x, _ = layers(linen.Dense(INPUTS, name='layer'), x, None)
    each = linen.vmap(linen.Dense, variable_axes={'params': 0},
                      split_rngs={'params': True}, in_axes=None, out_axes=0,
                      axis_size=2)
    return each(8, name='b')(x), linen.remat(linen.Dense)(8, name='c')(x)


def test_lifted_linen_layers_run_packed_and_compile_once():
  model, x = _Scanned(), tokens(2)
  params, packed = _init_and_pack(model, x)
  assert packed['layer']['kernel'].values.shape == (2, 2, INPUTS // 4, INPUTS)
  assert packed['b']['kernel'].shape == (2, INPUTS, 8)
  assert isinstance(packed['c']['kernel'], Packed24)
  traces = []

  @jax.jit
  def run(params, x):
    traces.append(1)
    return nn.accept_packed(model.apply)({'params': params}, x)
  for _ in range(2):
    got = run(packed, x)
  assert len(traces) == 1
  want = model.apply({'params': params}, x)
  jax.tree.map(assert_close, got, want)


def test_widths_may_be_numbers_of_numpy():
  x, kernel = tokens(2), jnp.eye(INPUTS, 8)
  width, params = np.prod((2, 4)), {'kernel': pack(kernel)}
  for model in (linen.Dense(width, use_bias=False),
                linen.DenseGeneral(width, axis=np.int64(-1), use_bias=False)):
    y = nn.accept_packed(model.apply)({'params': params}, x)
    assert_close(y, model.apply({'params': {'kernel': kernel}}, x))


def test_the_names_in_a_box_are_not_those_of_packed_arrays():
  init = linen.with_partitioning(linen.initializers.zeros, (None, 'model'))
  model, x = linen.Dense(8, kernel_init=init), tokens(2)
  variables = model.init(jax.random.key(0), x)
  with jax.set_mesh(jax.make_mesh((2,), ('model',), axis_types=(
      jax.sharding.AxisType.Auto,))):
    shapes = jax.eval_shape(lambda: variables)
    for known in (variables, shapes):  # Neither lies on the mesh.
      assert not nn.unreadable(model.apply, known, x)
    packed = pack_params(variables['params'], {'kernel': nm(2, 4)})
    for layer in (nn.accept_packed(model.apply), nn.Dense(8).apply):
      program = jax.make_jaxpr(layer)({'params': packed}, x)
      assert 'sharding_constraint' not in str(program)
      assert_close(layer({'params': packed}, x), jnp.zeros((2, 8)))


class _Twice(linen.Dense):

  @linen.compact
  def __call__(self, inputs):
    return 2 * super().__call__(inputs)


def test_linen_subclasses_run_packed():
  model, x = _Twice(8), tokens(2)
  params = model.init(jax.random.key(0), x)['params']
  params['kernel'] = two_of_four(params['kernel'])
  packed = {**params, 'kernel': pack(params['kernel'])}
  assert_close(nn.accept_packed(model.apply)({'params': packed}, x),
         model.apply({'params': params}, x))


def test_a_layer_keeps_the_dot_general_and_promotion_it_was_given():
  x, calls = tokens(2), []

  def own(*args, **options):
    calls.append('dot')
    return nn.training_dot_general(*args, **options)

  def promote(*arrays, dtype):
    calls.append('promote')
    return linen.dtypes.promote_dtype(*arrays, dtype=dtype)
  model = linen.Dense(8, dot_general=own, promote_dtype=promote)
  params = {'kernel': pack(jnp.eye(INPUTS, 8)), 'bias': jnp.ones(8)}
  y = nn.accept_packed(model.apply)({'params': params}, x)
  assert calls == ['promote', 'dot']
  assert_close(y, x[:, :8] + 1.)


@pytest.mark.parametrize('layer', [
    functools.partial(linen.Conv, 8, (1,)),
    functools.partial(linen.Einsum, (INPUTS, 8), 'ab,bc->ac')])
def test_a_linen_layer_that_cannot_names_itself(layer):
  class Net(linen.Module):

    @linen.compact
    def __call__(self, x):
      return layer(name='odd')(x)
  x = tokens(3)
  params = Net().init(jax.random.key(0), x)['params']
  packed = pack_params(pruned(params), KERNELS)
  with pytest.raises(ValueError, match='odd/kernel is packed, but (Conv|Ein)'):
    nn.accept_packed(Net().apply)({'params': packed}, x)


def test_params_of_another_model_are_told():
  params = {'kernel': pack(jnp.zeros((INPUTS, 8)))}
  run = nn.accept_packed(linen.Dense(16, use_bias=False).apply)
  with pytest.raises(ValueError, match=r'have shape \(512, 16\)'):
    run({'params': params}, tokens(2))
  # What has nothing to do with packing stays Flax's own error.
  with pytest.raises(Exception, match='initializer is expected'):
    run({'params': {'kernel': jnp.zeros((INPUTS, 8))}}, tokens(2))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_new_linen_layer_holds_the_two_largest(dtype):
  layer, x = nn.Dense(8, param_dtype=dtype), tokens(2, 3, dtype=dtype)
  params = layer.init(jax.random.key(0), x)['params']
  dense = linen.Dense(8, param_dtype=dtype)
  theirs = dense.init(jax.random.key(0), x)['params']
  theirs['kernel'] = two_of_four(theirs['kernel'])
  np.testing.assert_array_equal(
      unpack_params(params)['kernel'], theirs['kernel'])
  want = dense.apply({'params': theirs}, x)
  for given in (params, theirs):  # A dense kernel is fine, too.
    assert_close(layer.apply({'params': given}, x), want, dtype)


def test_a_new_linen_layer_takes_packed_params():
  layer = nn.Dense(128, use_bias=False, param_dtype=jnp.bfloat16,
                   implementation='xla')
  x = tokens(2, dtype=jnp.bfloat16)
  params = {'kernel': jnp.eye(INPUTS, 128, dtype=jnp.bfloat16)}
  for layout in ('planar', 'hopper'):
    packed = pack_params(params, {'kernel': nm(2, 4)}, layout=layout)
    np.testing.assert_array_equal(
        layer.apply({'params': packed}, x), x[:, :128])
  assert set(layer.init(jax.random.key(0), x)['params']) == {'kernel'}


def test_checkpoints_of__init_and_pack(tmp_path):
  layer = nn.Dense(8)
  params = layer.init(jax.random.key(0), tokens(1))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'linen', params)
  other = layer.init(jax.random.key(1), tokens(1))
  with ocp.StandardCheckpointer() as checkpointer:
    restored = checkpointer.restore(tmp_path / 'linen', other)
  jax.tree.map(np.testing.assert_array_equal, restored, params)


def test_gradients_reach_the_inputs():
  grad = lambda f: jax.grad(lambda x: (f(x) ** 2).sum())(tokens(2, 3))
  params, packed = _init_and_pack(_MLP(), tokens(2, 3))
  run = functools.partial(nn.accept_packed(_MLP().apply), {'params': packed})
  assert_close(
      grad(run), grad(functools.partial(_MLP().apply, {'params': params})))
