"""N:M across the heads of attention is told; other layouts are left alone."""

import warnings

from flax import linen
from flax import nnx
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxsparse
from jaxsparse import patterns
from jaxsparse import rules

nm = jaxsparse.nm


def in_nnx(heads=4):
  layer = nnx.MultiHeadAttention(
      num_heads=heads, in_features=16, qkv_features=heads * 8, decode=False,
      rngs=nnx.Rngs(0))
  return nnx.state(layer, nnx.Param)


def in_linen():
  layer = linen.MultiHeadDotProductAttention(num_heads=4)
  return {'block': jax.eval_shape(
      layer.init, jax.random.key(0), jnp.ones((1, 2, 16)))['params']}


def in_layers():
  """Layers stacked for a scan."""
  return jax.tree.map(lambda w: jnp.ones((2, *w.shape)), in_linen())


@pytest.mark.parametrize('make', [in_nnx, in_linen, in_layers])
@pytest.mark.parametrize('pattern', [
    nm(2, 4), nm(1, 4, transposable=True)], ids=str)
def test_groups_across_heads_warn_and_name_kernel_patterns(make, pattern):
  with pytest.warns(UserWarning) as told:
    rules.resolve({'.*kernel': pattern}, make())
  message, = {str(warning.message) for warning in told}
  assert 'runs across the 4 heads of' in message
  assert all(f'{name}/kernel' in message for name in ('query', 'key', 'value'))
  assert 'out/kernel' not in message
  n, _, _ = patterns.n_m_axis(pattern)
  assert f'pattern=jaxsparse.nm({n}, 4)), or put' in message
  assert f'**jaxsparse.patterns.attention({n}, 4) before' in message


def test_a_compiled_init_warns():
  params = in_nnx()
  tx = jaxsparse.sparsify(
      optax.sgd(.1), jaxsparse.prune({'.*kernel': nm(2, 4)}))
  with pytest.warns(UserWarning, match='across the 4 heads'):
    jax.jit(tx.init)(params)


def test_heads_that_groups_do_not_divide_are_told_with_the_axis():
  with pytest.raises(ValueError, match=(
      'needs axis -2 to be a multiple of 4(.|\n)*sums over axis -3.*'
      r'attention\(2, 4\)')):
    rules.resolve({'.*kernel': nm(2, 4)}, in_nnx(heads=2))


def test_the_patterns_of_the_message_do_not_warn():
  layer = nnx.MultiHeadAttention(
      num_heads=4, in_features=16, qkv_features=32, decode=False,
      rngs=nnx.Rngs(0))
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
  by_name = {**patterns.attention(2, 4), '.*kernel': nm(2, 4)}
  found = jaxsparse.kernel_patterns(
      lambda params, x: nnx.merge(graphdef, params, rest, copy=True)(x),
      params, jnp.ones((1, 2, 16)), pattern=nm(2, 4))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    for written in by_name, found:
      resolved = rules.resolve(written, params)
      assert patterns.n_m_axis(resolved['query']['kernel'].get_value())[2] == -3


@pytest.mark.parametrize('pattern', [
    nm(2, 4, axis=-3), nm(2, 4, axis=1), nm(2, 4, axis=-1),
    patterns.unstructured(.5), patterns.block((4, 4), sparsity=.5),
    patterns.channel(-2, sparsity=.5)], ids=str)
def test_other_patterns_of_attention_do_not_warn(pattern):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    found = rules.resolve({'.*query/kernel': pattern}, in_nnx())
  assert found['query']['kernel'].get_value() == pattern


def same(tree, shape):
  return {name: {'kernel': jnp.ones(shape)} for name in tree}


@pytest.mark.parametrize('params', [
    same(['query', 'out'], (16, 16)),
    same(['conv', 'dense'], (3, 3, 8, 16)),
    # Convolutions of these names, of one dimension and of two.
    same(['query', 'key', 'value', 'out'], (3, 8, 16)),
    same(['query', 'key', 'value', 'out'], (3, 3, 8, 16)),
    # Stacked matrices of these names.
    same(['query', 'key', 'value', 'out'], (2, 16, 8)),
    same(['query', 'key'], (16, 4, 8)),
])
def test_kernels_that_contract_axis_minus_2_do_not_warn(params):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    found = rules.resolve({'.*kernel': nm(2, 4)}, params)
  assert all(layer['kernel'] == nm(2, 4) for layer in found.values())
