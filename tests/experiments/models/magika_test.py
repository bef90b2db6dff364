"""Magika: the weights of the wheel, and what is computed with them."""

import importlib.util
import math
import pathlib

import jax
import numpy as np
import pytest

from experiments.models import magika

_TYPES, _WIDTH, _POSITIONS, _CHANNELS = 5, 3, 6, 7
_RNG = np.random.default_rng(0)
_SHAPES = {
    'embedding': {'kernel': (257, _WIDTH), 'bias': (1, 1, _WIDTH)},
    'conv_norm': {'scale': (1, _POSITIONS, 1), 'bias': (1, _POSITIONS, 1)},
    'conv': {'kernel': (5, 4 * _WIDTH, _CHANNELS), 'bias': (1, 1, _CHANNELS)},
    'head_norm': {'scale': (1, _CHANNELS), 'bias': (1, _CHANNELS)},
    'head': {'kernel': (_CHANNELS, _TYPES), 'bias': (1, _TYPES)},
}


def _small():
  """Params of a network that is as deep and much smaller."""
  return jax.tree.map(
      lambda shape: _RNG.normal(size=shape).astype(np.float32), _SHAPES,
      is_leaf=lambda node: isinstance(node, tuple))


def _gelu(x):
  cubic = x + 0.044715 * x**3
  return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * cubic))


def _norm(x, scale, bias):
  x = (x - x.mean(1, keepdims=True)) / np.sqrt(
      x.var(1, keepdims=True) + 1e-6)
  return x * scale + bias


def test_logits_are_those_of_the_layers_one_after_the_other():
  params = _small()
  x = _RNG.integers(257, size=(2, 4 * _POSITIONS))
  y = np.eye(257)[x] @ params['embedding']['kernel']
  y = _gelu(y + params['embedding']['bias']).reshape(2, _POSITIONS, -1)
  y = _norm(y, **params['conv_norm'])
  kernel = params['conv']['kernel']
  y = np.stack([np.einsum('nwi,wio->no', y[:, i:i + 5], kernel)
                for i in range(_POSITIONS - 4)], axis=1)
  y = _norm(_gelu(y + params['conv']['bias']).max(1), **params['head_norm'])
  want = y @ params['head']['kernel'] + params['head']['bias']
  params = jax.tree.map(jax.numpy.asarray, params)
  np.testing.assert_allclose(magika.apply(params, x), want, atol=1e-4)


def test_axes_of_the_graph_become_those_of_jax():
  arrays = {
      'MagikaV2' + name: _RNG.normal(size=(1, 2, 3)).astype(np.float32)
      for names in magika._NAMES.values() for name in names.values()}
  kernel = _RNG.normal(size=(6, 4, 5, 1)).astype(np.float32)
  arrays['MagikaV2/Conv_0/transpose_3:0'] = kernel
  params = magika._params(arrays, 'here')
  np.testing.assert_array_equal(
      params['conv']['kernel'][1, 2, 3], kernel[3, 2, 1, 0])
  assert params['conv']['bias'].shape == (1, 3, 2)


def test_another_graph_is_refused():
  with pytest.raises(ValueError, match='here is not the network .*: 0 of its '
                                       'arrays are called'):
    magika._params({}, 'here')


def test_missing_packages_are_told_with_the_command(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match='magika and onnx. Write: pip install'):
    magika.load()


@pytest.fixture(name='network', scope='module')
def _network():
  for name in magika._PACKAGES:
    if importlib.util.find_spec(name) is None:
      pytest.skip(f'{name} is not installed')
  return magika.load()


def test_wheel_holds_a_network_that_knows_python(network):
  text = pathlib.Path(__file__).read_bytes()
  x = np.frombuffer(text[:magika.BYTES] + text[-magika.BYTES:], np.uint8)
  logits = magika.apply(network.params, x[None].astype(np.int32))
  assert network.types[int(logits.argmax())] == 'python'
  assert logits.shape == (1, len(network.types)) == (1, 214)


def test_probabilities_are_those_of_the_graph(network):
  runtime = pytest.importorskip('onnxruntime')
  wheel = pathlib.Path(importlib.util.find_spec('magika').origin).parent
  session = runtime.InferenceSession(str(next(wheel.rglob('model.onnx'))))
  x = _RNG.integers(257, size=(4, 2 * magika.BYTES)).astype(np.int32)
  want = session.run(None, {'bytes': x})[0]
  got = jax.nn.softmax(magika.apply(network.params, x))
  np.testing.assert_allclose(got, want, atol=1e-4)
