"""What tests of permuted models share: a stack of layers, and random orders."""

import jax
import numpy as np
import optax

from tests._lib.zoo_case import data
from tests._lib.zoo_case import weights

N = 4


def standard(tx):
  """optax is not strict."""
  def update(*args, **kwargs):
    with (jax.numpy_dtype_promotion('standard'),
          jax.numpy_rank_promotion('allow')):
      return tx.update(*args, **kwargs)

  def init(params):
    with (jax.numpy_dtype_promotion('standard'),
          jax.numpy_rank_promotion('allow')):
      return jax.jit(tx.init)(params)
  return optax.GradientTransformationExtraArgs(init, update)


def shuffled(ties, seed=0):
  """A random order for every free tie."""
  rng = np.random.default_rng(seed)
  orders = {}
  for tie in ties.free:
    flat = [rng.permutation(tie.size) for _ in range(int(np.prod(tie.along)))]
    orders[tie.name] = np.stack(flat).reshape(tie.shape)
  return orders


def stack(p, x):
  """Layers read and write a stream; heads, and hidden units, are their own."""
  x = x @ p['in']
  def layer(x, p):
    h = jax.nn.relu(x @ p['up'] + p['bias'][None])
    return x + h @ p['down'], None
  x, _ = jax.lax.scan(layer, x, p['layers'])
  return x @ p['out']


def stack_params(width=16, hidden=32, layers=3):
  return weights({
      'in': (4, width), 'out': (width, 3),
      'layers': {'up': (layers, width, hidden), 'bias': (layers, hidden),
                 'down': (layers, hidden, width)}})


X = data(N, 4)
