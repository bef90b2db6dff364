"""Magika, Google's classifier of file types, in JAX, with trained weights.

The network of `Magika: AI-Powered Content-Type Detection
<https://arxiv.org/abs/2409.13768>`_ reads 1,024 bytes from each end of a file
and tells one of 214 types. The wheel `magika` holds it as an ONNX graph: `load`
reads the weights from there, and `apply` computes what the graph computes.
"""

import importlib.util
import json
import pathlib
from typing import NamedTuple

import jax
import numpy as np

Params = dict[str, dict[str, jax.typing.ArrayLike]]

# 84% of the weights. The head stays dense, as in the other models, and so does
# the embedding, of which a byte reads one row.
SPARSE = 'conv/kernel'
BYTES = 1_024  # From each end of a file.
NO_BYTE = 256  # Where a file has fewer.

_TOGETHER = 4  # The bytes of one position of the convolution.
_EPSILON = 1e-6
_PACKAGES = ('magika', 'onnx')
_INSTALL = "Write: pip install -e '.[data]'"

# The graph's name of each parameter, or the end of it.
_NAMES = {
    'embedding': {'kernel': '/Const:0', 'bias': '/Dense_0/Reshape:0'},
    'conv_norm': {'scale': '/LayerNorm_0/Reshape_2:0',
                  'bias': '/LayerNorm_0/Reshape_3:0'},
    'conv': {'kernel': '/Conv_0/transpose_3:0', 'bias': 'const_fold_opt__209'},
    'head_norm': {'scale': '/LayerNorm_1/Reshape_2:0',
                  'bias': '/LayerNorm_1/Reshape_3:0'},
    'head': {'kernel': '/Const_24:0', 'bias': '/Dense_1/Reshape:0'},
}


class Magika(NamedTuple):
  """The trained network."""
  params: Params  # Biases and scales have the rank of their activations.
  types: tuple[str, ...]  # The type of each logit, such as 'python'.


def load() -> Magika:
  """Returns the network of the installed wheel.

  Raises:
    ValueError: if `magika` or `onnx` is not installed, or the network in the
      wheel is not the one that `apply` computes.
  """
  if missing := [name for name in _PACKAGES
                 if importlib.util.find_spec(name) is None]:
    raise ValueError(
        'The weights are read from the wheel of magika by onnx; not '
        f'installed: {" and ".join(missing)}. {_INSTALL}')
  # Importing the package itself would start another runtime.
  wheel = pathlib.Path(importlib.util.find_spec('magika').origin).parent
  graphs = sorted(wheel.glob('models/*/model.onnx'))
  if not graphs:
    raise ValueError(f'{wheel} holds no model. {_INSTALL}')
  config = json.loads((graphs[-1].parent / 'config.min.json').read_text())
  return Magika(_params(_arrays(graphs[-1]), graphs[-1]),
                tuple(config['target_labels_space']))


def apply(params: Params, x: jax.Array) -> jax.Array:
  """Returns logits `[N, types]`.

  Args:
    params: the parameters, from `load`.
    x: bytes of files `[N, 2 * BYTES]`, integers up to `NO_BYTE`.
  """
  x = params['embedding']['kernel'][x] + params['embedding']['bias']
  x = jax.nn.gelu(x).reshape(len(x), x.shape[1] // _TOGETHER, -1)
  x = _norm(params['conv_norm'], x)
  x = jax.lax.conv_general_dilated(
      x, params['conv']['kernel'], (1,), 'VALID',
      dimension_numbers=('NWC', 'WIO', 'NWC'))
  x = jax.nn.gelu(x + params['conv']['bias']).max(1)
  x = _norm(params['head_norm'], x)
  return x @ params['head']['kernel'] + params['head']['bias']


def _norm(params, x):
  """Layer norm over axis 1, the positions if there are any."""
  mean = x.mean(1, keepdims=True)
  variance = jax.nn.relu((x**2).mean(1, keepdims=True) - mean**2)
  x = (x - mean) * jax.lax.rsqrt(variance + _EPSILON)
  return x * params['scale'] + params['bias']


def _arrays(graph):
  """Returns the constants of a graph, by name."""
  import onnx  # Of an extra.
  from onnx import numpy_helper
  return {constant.name: numpy_helper.to_array(constant)
          for constant in onnx.load(graph).graph.initializer}


def _params(arrays, where):
  """Returns the parameters with their axes in the order of JAX."""
  def find(name):
    found = [array for key, array in arrays.items() if key.endswith(name)]
    if len(found) != 1:
      raise ValueError(
          f'{where} is not the network that is known here: {len(found)} of its '
          f'arrays are called {name!r}. {_INSTALL}')
    return found[0]
  params = {layer: {name: find(end) for name, end in names.items()}
            for layer, names in _NAMES.items()}
  params['conv']['kernel'] = np.transpose(  # [out, in, window, 1]
      params['conv']['kernel'][..., 0], (2, 1, 0))
  params['conv']['bias'] = np.transpose(params['conv']['bias'], (0, 2, 1))
  params['embedding']['bias'] = params['embedding']['bias'].reshape(1, 1, -1)
  return jax.tree.map(jax.numpy.asarray, params)
