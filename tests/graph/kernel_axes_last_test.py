"""The last kernels of a function, which may stay dense."""

import re

import jax
import jax.numpy as jnp
import pytest

import jaxsparse
from jaxsparse import kernel_patterns
from jaxsparse import nm
from jaxsparse._utils import trees
from jaxsparse.graph.kernel_axes import last_kernels
from tests._lib import zoo
from tests._lib.kernels import N
from tests._lib.zoo_case import data
from tests._lib.zoo_case import weights

_LAST = {
    zoo.zoo_convs.channels_first: ['head'],
    zoo.zoo_convs.transposed_convolutions: ['out'],
    zoo.zoo_dense.dlrm: ['out/kernel'],
    zoo.zoo_dense.gated_residual: ['out/kernel'],
    zoo.zoo_dense.mixer: ['head/kernel'],
    zoo.zoo_dense.mixture_of_experts: ['out/kernel'],
    zoo.zoo_recurrent.fused_lstm: ['head'],
    zoo.zoo_transformers.vit: ['head/kernel'],
    zoo.zoo_transformers.decoder_scan_fused_remat: ['head'],
    zoo.zoo_transformers.decoder_tied_head: ['embedding'],
}


@pytest.mark.parametrize('build', _LAST, ids=lambda build: build.__name__)
def test_last_kernels_of_the_zoo(build):
  case = build()
  assert last_kernels(case.fn, case.params, *case.inputs) == [
      re.escape(path) for path in _LAST[build]]


HEADS = {'in.w': (8, 12), 'out': (12, 8), 'policy': (8, 4), 'value': (8, 1)}


def stream(p, x):
  return x + jnp.tanh(x @ p['in.w']) @ p['out']


def heads(p, x):
  """A residual stream with two heads, which is returned, too."""
  y = stream(p, x)
  logits = y @ p['policy']
  return {'policy': jax.nn.softmax(logits), 'stream': y,
          'liked': jnp.any(logits > 0., axis=0),
          'value': jnp.squeeze(y @ p['value'], 1)}


def test_every_head_of_a_residual_stream_is_last_and_can_stay_dense():
  params = weights(HEADS)
  last = last_kernels(heads, params, data(N, 8))
  assert last == ['policy', 'value']
  shapes = jax.eval_shape(lambda: params)
  assert last_kernels(heads, shapes, data(N, 8)) == last
  rules = kernel_patterns(
      heads, params, data(N, 8), pattern=nm(2, 4), dense=last)
  assert list(rules) == [r'in\.w', 'out']
  masks = jax.eval_shape(lambda p: jaxsparse.prune(
      {**dict.fromkeys(last), '.*': nm(2, 4)}).init(p).masks, params)
  assert sorted(trees.paths(masks)) == ['in.w', 'out']


def test_the_last_kernel_may_be_all_there_is():
  linear = lambda w, x: x @ w
  assert last_kernels(linear, jnp.ones((8, 3)), data(N, 8)) == ['']


@pytest.mark.parametrize('fn', [
    lambda p, x: jnp.mean(jnp.square(stream(p, x) @ p['policy'])), stream,
    lambda p, x: x + p['in.w'].sum(1)[None],
], ids=['a loss', 'a residual stream', 'no kernel'])
def test_a_function_without_a_last_kernel_is_a_taught_error(fn):
  with pytest.raises(ValueError, match='returns logits, not a loss'):
    last_kernels(fn, weights(HEADS), data(N, 8))
