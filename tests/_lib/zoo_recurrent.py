"""Recurrent models, whose units are carried from step to step."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from tests._lib.zoo_case import case
from tests._lib.zoo_case import data
from tests._lib.zoo_case import DENSE
from tests._lib.zoo_case import grid
from tests._lib.zoo_case import linen
from tests._lib.zoo_case import make
from tests._lib.zoo_case import part
from tests._lib.zoo_case import units
from tests._lib.zoo_case import weights
from tests._lib.zoo_case import WHOLE

IN, H, OUT, STEPS = 4, 6, 3, 5


class Recurrent(nn.Module):
  cell: type[nn.RNNCellBase]

  @nn.compact
  def __call__(self, x):
    x = nn.RNN(self.cell(H, name='cell'))(x)
    return nn.Dense(OUT, name='head')(x)


def recurrent(cell):
  """Units are outputs of all kernels in a cell, and inputs of half of them."""
  fn, params = linen(Recurrent(cell), data(2, STEPS, IN))
  return make(
      fn, params, data(2, STEPS, IN), kernels={'.*/kernel': DENSE},
      free=['.*/cell/../kernel:1 .*/cell/../bias:0 .*/cell/h./kernel:0 '
            '.*/head/kernel:0'])


@case
def optimized_lstm():
  return recurrent(nn.OptimizedLSTMCell)


@case
def lstm():
  return recurrent(nn.LSTMCell)


@case
def gru():
  return recurrent(nn.GRUCell)


@case
def fused_lstm():
  """One kernel `[in + hidden, 4 * hidden]`, two layers."""
  def layer(p, x):
    def step(carry, x):
      h, c = carry
      gates = jnp.concatenate([x, h], -1) @ p['kernel'] + p['bias'][None]
      i, g, f, o = jnp.split(gates, 4, -1)
      c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
      h = jax.nn.sigmoid(o) * jnp.tanh(c)
      return (h, c), h
    zeros = jnp.zeros((x.shape[1], len(p['bias']) // 4))
    return jax.lax.scan(step, (zeros, zeros), x)[1]

  def fn(p, x):
    x = layer(p['lstm2'], layer(p['lstm1'], jnp.swapaxes(x, 0, 1)))
    return x[-1] @ p['head']
  first, second = H, 5
  params = weights({
      'lstm1': {'kernel': (IN + first, 4 * first), 'bias': (4 * first,)},
      'lstm2': {'kernel': (first + second, 4 * second), 'bias': (4 * second,)},
      'head': (second, OUT)})
  return make(
      fn, params, data(2, STEPS, IN), kernels={'.*/kernel|head': DENSE},
      free=[{'lstm1/kernel:0': part(IN, first),
             'lstm1/kernel:1 lstm1/bias:0': units(grid(4, first), 1),
             'lstm2/kernel:0': part(0, first)},
            {'lstm2/kernel:0': part(first, second),
             'lstm2/kernel:1 lstm2/bias:0': units(grid(4, second), 1),
             'head:0': WHOLE}])


@case
def learned_start():
  """An Elman network whose first state is a parameter, in a `fori_loop`."""
  def fn(p, x):
    def step(i, h):
      now = jax.lax.dynamic_index_in_dim(x, i, 1, keepdims=False)
      return jnp.tanh(now @ p['in'] + h @ p['hidden'])
    start = jnp.broadcast_to(p['start'], (len(x), H))
    return jax.lax.fori_loop(0, STEPS, step, start) @ p['out']
  params = weights(
      {'in': (IN, H), 'hidden': (H, H), 'start': (H,), 'out': (H, OUT)})
  return make(
      fn, params, data(2, STEPS, IN), kernels={'in|hidden|out': DENSE},
      free=['in:1 hidden:0 hidden:1 start:0 out:0'],
      stuck=['in:1 hidden:1 start:0 out:0'])
