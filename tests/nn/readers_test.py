"""What a layer cannot read packed stays dense, in models of others, too.

The reference is the same model on the same weights, masked and dense.
"""

import re

from flax import linen
from flax import nnx
import jax
import jax.numpy as jnp
import pytest

import jaxsparse
from jaxsparse import nn
from jaxsparse.packed import pack_params
from jaxsparse.packed import Packed24
from tests._lib import public_models
from tests._lib.flax_layers import assert_close

TOKENS = jnp.arange(12).reshape(2, 6) % public_models.VOCABULARY


@pytest.fixture(autouse=True)
def _as_their_authors_run_them():
  with jax.numpy_rank_promotion('allow'):
    yield


def packed_paths(params):
  is_packed = lambda node: isinstance(node, Packed24)
  return [jax.tree_util.keystr(path, simple=True, separator='/')
          for path, w in jax.tree.leaves_with_path(params, is_leaf=is_packed)
          if is_packed(w)]


def pruned(f, params):
  """The weights 2:4, each along the axis that the function contracts."""
  rules = jaxsparse.kernel_patterns(
      f, params, TOKENS, pattern=jaxsparse.nm(2, 4))
  masks = jaxsparse.prune(rules).init(params).masks
  return rules, masks, jaxsparse.apply_masks(params, masks)


@pytest.mark.parametrize('by', ['rules', 'masks'])
@pytest.mark.parametrize('tied', [False, True], ids=['Qwen 3', 'Gemma 3'])
def test_nnx_decoders_are_packed_where_layers_can_read(tied, by):
  model = public_models.Decoder(tied=tied, rngs=nnx.Rngs(0))
  graph, params = nnx.split(model, nnx.Param)
  rules, masks, params = pruned(
      lambda params, x: nnx.merge(graph, params)(x), params)
  nnx.update(model, params)
  packed = nn.pack_model(model, rules if by == 'rules' else masks)
  assert_close(nnx.jit(lambda m, x: m(x))(packed, TOKENS), model(TOKENS))
  there = packed_paths(nnx.state(packed, nnx.Param))
  assert len(there) == 6 and all('_proj/kernel' in path for path in there)
  why = nn.unreadable(model)
  attention = 'layers/1/attn/q_proj/w'
  assert why[attention] == 'Einsum is none of Linear and LinearGeneral'
  assert any(re.fullmatch(rule, attention) for rule in rules)
  assert f'{attention} ' in str(why) and not set(there) & set(why)
  # Pruned it is all the same, and scales are not spoken of.
  assert (packed.layers[1].attn.q_proj.w[...] == 0).mean() == 0.5
  assert not any('norm' in path for path in why)


def test_gpt2_is_packed_where_layers_can_read():
  model = public_models.GPT2()
  params = model.init(jax.random.key(0), TOKENS)['params']
  apply = lambda params, x: model.apply({'params': params}, x)
  rules, masks, params = pruned(apply, params)
  why = nn.unreadable(model.apply, {'params': params}, TOKENS)
  assert why['h_0/c_attn/kernel'] == (
      'Conv1D is none of Dense and DenseGeneral')
  assert 'Embed is none' in why['wte/embedding']
  for how in (rules, masks):
    packed = pack_params(params, how, dense=why)
    assert packed_paths(packed) == ['lm_head/kernel']
    run = jax.jit(nn.accept_packed(model.apply))
    assert_close(run({'params': packed}, TOKENS), apply(params, TOKENS))
  with pytest.raises(ValueError, match='nn.unreadable') as error:
    nn.accept_packed(model.apply)(
        {'params': pack_params(params, rules)}, TOKENS)
  assert 'h_0/c_attn/kernel is packed, but Conv1D' in str(error.value)


def test_shapes_are_enough():
  model = public_models.GPT2()
  variables = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  tokens = jax.ShapeDtypeStruct(TOKENS.shape, TOKENS.dtype)
  assert 'lm_head/kernel' not in nn.unreadable(model.apply, variables, tokens)
  assert 'h_1/c_fc/kernel' in nn.unreadable(model.apply, variables, tokens)
  model = nnx.eval_shape(lambda: public_models.Decoder(
      tied=False, rngs=nnx.Rngs(0)))
  assert len(nn.unreadable(model)) == 10


def test_a_kernel_is_readable_if_all_that_hold_it_can_read_it():
  model = nnx.Dict(a=nnx.Linear(8, 8, rngs=nnx.Rngs(0)),
                   b=nnx.Linear(8, 8, rngs=nnx.Rngs(1)),
                   c=nnx.Linear(8, 8, rngs=nnx.Rngs(2)))
  model.d = public_models.Einsum('bd,de->be', (8, 8), rngs=nnx.Rngs(3))
  model.again, model.d.w, model.c.extra = model.a, model.b.kernel, nnx.Param(
      jnp.ones((8, 8)))
  assert dict(nn.unreadable(model)) == {
      'b/kernel': 'Einsum is none of Linear and LinearGeneral',
      'c/extra': 'it is no kernel of Linear'}


def test_options_are_static_and_lifted_layers_are_seen_through():
  class Net(linen.Module):

    @linen.compact
    def __call__(self, x, *, twice):
      stack = linen.scan(
          lambda layer, x, _: (layer(x), None), variable_axes={'params': 0},
          split_rngs={'params': True}, length=2)
      x, _ = stack(linen.Dense(8, name='stacked'), x, None)
      x = linen.Conv(8, (1,), name='conv')(x)
      table = self.param('table', linen.initializers.ones, (8, 8))
      return (x + x if twice else x) @ table
  x = jnp.ones((2, 8))
  variables = Net().init(jax.random.key(0), x, twice=True)
  assert dict(nn.unreadable(Net().apply, variables, x, twice=True)) == {
      'conv/kernel': 'Conv is none of Dense and DenseGeneral',
      'stacked/bias': 'a bias is added, not multiplied',
      'table': 'Net is none of Dense and DenseGeneral'}


@pytest.mark.parametrize('name', ['WeightNorm', 'SpectralNorm'])
def test_what_is_computed_anew_from_a_kernel_leaves_it_dense(name):
  class Net(linen.Module):

    @linen.compact
    def __call__(self, x):
      more = {'update_stats': False} if name == 'SpectralNorm' else {}
      x = getattr(linen, name)(linen.Dense(8, name='normed'))(x, **more)
      return linen.Dense(8, name='plain')(x)
  x = jnp.ones((2, 8))
  variables = Net().init(jax.random.key(0), x)
  reason = f'{name} computes another kernel from it'
  assert {path: why for path, why in nn.unreadable(
      Net().apply, variables, x).items() if 'kernel' in path} == {
          'normed/kernel': reason}

  model = nnx.Dict(
      normed=getattr(nnx, name)(nnx.Linear(8, 8, rngs=nnx.Rngs(0)),
                                rngs=nnx.Rngs(0)),
      plain=nnx.Linear(8, 8, rngs=nnx.Rngs(1)))
  assert dict(nn.unreadable(model)) == {'normed/layer_instance/kernel': reason}


@pytest.mark.parametrize('biases', [True, False])
def test_attention_has_nothing_to_tell_but_its_biases_stay_dense(biases):
  x = jnp.ones((1, 2, 64))
  ours = nnx.MultiHeadAttention(
      num_heads=4, in_features=64, use_bias=biases, decode=False,
      rngs=nnx.Rngs(0))
  theirs = linen.MultiHeadDotProductAttention(num_heads=4, use_bias=biases)
  variables = theirs.init(jax.random.key(0), x)
  for why in nn.unreadable(ours), nn.unreadable(theirs.apply, variables, x):
    assert str(why) == 'All layers read packed kernels.'
    assert set(why) == {
        f'{name}/bias' for name in ('query', 'key', 'value') if biases}


def test_a_bias_with_a_pattern_of_its_own_stays_dense():
  model = nnx.MultiHeadAttention(
      num_heads=64, in_features=64, qkv_features=256, decode=False,
      rngs=nnx.Rngs(0))
  rules = {**jaxsparse.patterns.attention(2, 4),
           'query/bias': jaxsparse.nm(2, 4)}
  params = nnx.state(model, nnx.Param)
  nnx.update(model, jaxsparse.apply_masks(
      params, jaxsparse.prune(rules).init(params).masks))
  packed = nn.pack_model(model, rules)
  assert packed_paths(nnx.state(packed, nnx.Param)) == [
      f'{name}/kernel/value' for name in ('key', 'out', 'query', 'value')]
  x = jax.random.normal(jax.random.key(0), (1, 2, 64))
  assert_close(packed(x), model(x))
