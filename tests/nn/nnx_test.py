"""Flax's own layers on masked dense weights are the reference: NNX."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxsparse import nn
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


def _is_packed(node):
  return isinstance(node, Packed24)


class _NNX(nnx.Module):

  def __init__(self, rngs):
    self.a = nnx.Linear(INPUTS, INPUTS, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
        num_heads=4, in_features=INPUTS, decode=False, rngs=rngs)
    self.b = _Half(INPUTS, 8, use_bias=False, rngs=rngs)
    self.again = self.a

  def __call__(self, x):
    return self.b(self.again(nnx.relu(self.a(self.attention(x)))))


class _Half(nnx.Linear):

  def __call__(self, inputs):
    return super().__call__(inputs) / 2


@pytest.fixture(scope='module', name='model')
def _model():
  model = _NNX(nnx.Rngs(0))
  nnx.update(model, pruned(nnx.state(model, nnx.Param)))
  return model


def test_an_nnx_model_runs_packed_and_compiles_once(model):
  x, traces = tokens(2, 3), []
  packed = nn.pack_model(model, RULES)
  assert packed.again is packed.a and type(packed.b).__name__ == '_Half'
  assert isinstance(model.a, nnx.Linear) and model.a.kernel.ndim == 2
  leaves = jax.tree.leaves(nnx.state(packed, nnx.Param), is_leaf=_is_packed)
  assert sum(map(_is_packed, leaves)) == 6

  @nnx.jit
  def run(model, x):
    traces.append(1)
    return model(x)
  want = model(x)
  assert_close(run(packed, x), want)
  assert_close(run(nnx.merge(*nnx.split(packed)), x), want)
  nnx.update(packed, pack_params(nnx.state(model, nnx.Param), RULES))
  assert_close(run(packed, x), want)
  assert len(traces) == 1


def test_an_nnx_model_runs_packed_in_bfloat16():
  model = nnx.Linear(INPUTS, 8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  nnx.update(model, pruned(nnx.state(model, nnx.Param)))
  packed = nn.pack_model(model, {'kernel': nm(2, 4)}, implementation='xla')
  x = tokens(2)
  assert_close(packed(x), model(x), jnp.bfloat16)


def test_an_nnx_model__is_packed_by_masks_too():
  model = nnx.List([nnx.Linear(INPUTS, 8, rngs=nnx.Rngs(0))])
  params = nnx.state(model, nnx.Param)
  masks = jax.tree.map(lambda w: two_of_four(w) != 0 if w.ndim > 1 else None,
                       params)
  packed = nn.pack_model(model, masks)
  nnx.update(model, pruned(params))
  assert_close(packed[0](tokens(2)), model[0](tokens(2)))


def test_stacked_nnx_layers_run_packed():
  create = nnx.vmap(lambda key: nnx.Linear(INPUTS, INPUTS, rngs=nnx.Rngs(key)))
  model = create(jax.random.split(jax.random.key(0)))
  nnx.update(model, pruned(nnx.state(model, nnx.Param)))
  run = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry),
                 out_axes=nnx.Carry)
  packed = nn.pack_model(model, {'kernel': nm(2, 4)})
  assert_close(run(packed, tokens(2)), run(model, tokens(2)))


def test_params_go_there_and_back(model):
  params = nnx.state(model, nnx.Param)
  packed = nnx.state(nn.pack_model(model, RULES), nnx.Param)
  jax.tree.map(np.testing.assert_array_equal, unpack_params(packed), params)


def test_checkpoints_hold_packed_params(model, tmp_path):
  packed = nn.pack_model(model, RULES)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'nnx', nnx.state(packed))
  abstract = nnx.eval_shape(lambda: nn.pack_model(_NNX(nnx.Rngs(1)), RULES))
  graph, state = nnx.split(abstract)
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  state = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      state)
  with ocp.StandardCheckpointer() as checkpointer:
    state = checkpointer.restore(tmp_path / 'nnx', state)
  np.testing.assert_array_equal(
      nnx.merge(graph, state)(tokens(2, 3)), packed(tokens(2, 3)))


def test_a_model_whose_layers_cannot_is_told():
  layers = {f'odd{i}': nnx.Conv(INPUTS, 8, (1,), rngs=nnx.Rngs(0))
            for i in range(5)}
  model = nnx.Dict(**layers)
  nnx.update(model, pruned(nnx.state(model, nnx.Param)))
  with pytest.raises(ValueError, match=(
      'odd0/kernel: Conv is none of Linear.*odd2/.*and 2 more')) as error:
    nn.pack_model(model, KERNELS)
  assert 'odd3' not in str(error.value) and '\n' not in str(error.value)


def test_a_model_that_is_not_pruned_is_told_to_update_it():
  model = nnx.Linear(INPUTS, 8, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=(
      'kernel: pack needs at most two.*jaxsparse.sparse_params.*'
      r'nnx.update\(model, sparse\)')):
    nn.pack_model(model, {'kernel': nm(2, 4)})


def test_only_the_kernel_of_a_dense_nnx_layer_can_be_packed():
  model = nnx.Linear(INPUTS, 8, rngs=nnx.Rngs(0))
  model.other = nnx.Param(jnp.zeros((INPUTS, 8)))
  with pytest.raises(ValueError, match='other: it is no kernel of Linear'):
    nn.pack_model(model, {'other': nm(2, 4)})


def test_a_new_nnx_layer_holds_the_two_largest():
  theirs = nnx.Linear(INPUTS, 8, rngs=nnx.Rngs(0))
  nnx.update(theirs, pruned(nnx.state(theirs, nnx.Param)))
  ours = nn.Linear(INPUTS, 8, rngs=nnx.Rngs(0))
  assert ours.kernel.nbytes < theirs.kernel.nbytes
  assert_close(ours(tokens(2)), theirs(tokens(2)))
  nnx.update(ours, nnx.state(theirs))  # A dense kernel is fine, too.
  assert_close(ours(tokens(2)), theirs(tokens(2)))


def test_gradients_reach_the_inputs(model):
  grad = lambda f: jax.grad(lambda x: (f(x) ** 2).sum())(tokens(2, 3))
  assert_close(grad(nn.pack_model(model, RULES)), grad(model))
