"""Models of matrix products and tables: perceptrons, towers, experts."""

import jax
from jax import lax
import jax.numpy as jnp

from tests._lib.zoo_case import case
from tests._lib.zoo_case import data
from tests._lib.zoo_case import DENSE
from tests._lib.zoo_case import grid
from tests._lib.zoo_case import make
from tests._lib.zoo_case import part
from tests._lib.zoo_case import tokens
from tests._lib.zoo_case import TORCH
from tests._lib.zoo_case import units
from tests._lib.zoo_case import weights
from tests._lib.zoo_case import WHOLE


def dense(p, x):
  """The product with a kernel, and its bias where there is one."""
  y = x @ p['kernel']
  return y + jnp.broadcast_to(p['bias'], y.shape) if 'bias' in p else y


def shapes(width_in, width):
  return {'kernel': (width_in, width), 'bias': (width,)}


def layer_norm(p, x):
  x = jax.nn.standardize(x, axis=-1)
  return (x * jnp.broadcast_to(p['scale'], x.shape)
          + jnp.broadcast_to(p['bias'], x.shape))


@case
def mlp():
  def fn(p, x):
    x = jax.nn.relu(dense(p['in'], x))
    return dense(p['out'], jax.nn.gelu(dense(p['mid'], x)))
  params = weights({
      'in': shapes(4, 7), 'mid': shapes(7, 6), 'out': shapes(6, 3)})
  return make(
      fn, params, data(2, 4), kernels={'.*/kernel': DENSE},
      free=['in/kernel:1 in/bias:0 mid/kernel:0',
            'mid/kernel:1 mid/bias:0 out/kernel:0'])


@case
def autoencoder():
  """One matrix writes the code and reads it: used in two ways, no kernel."""
  def fn(p, x):
    h = jnp.tanh(x @ p['w'] + p['bias'][None])
    return h @ p['w'].T + p['bias_out'][None]
  params = weights({'w': (6, 4), 'bias': (4,), 'bias_out': (6,)})
  return make(fn, params, data(2, 6), free=['w:1 bias:0'],
              stuck=['w:0 bias_out:0'])


@case
def gated_residual():
  """The stream goes around the layer, its units meet gates and statistics."""
  def fn(p, x):
    x = dense(p['in'], x)
    y = dense(p['up'], layer_norm(p['norm'], x))
    y = y * jax.nn.sigmoid(dense(p['gate'], x))
    return dense(p['out'], x + dense(p['down'], y))
  params = weights({
      'in': shapes(4, 6), 'norm': {'scale': (6,), 'bias': (6,)},
      'up': shapes(6, 7), 'gate': shapes(6, 7), 'down': shapes(7, 6),
      'out': shapes(6, 3)})
  return make(
      fn, params, data(2, 4), kernels={'.*/kernel': DENSE},
      free=['(in|down)/kernel:1 (in|down|norm)/(bias|scale):0 '
            '(up|gate|out)/kernel:0',
            '(up|gate)/kernel:1 (up|gate)/bias:0 down/kernel:0'])


@case
def towers():
  """Users and items meet in a dot product, that has no weight of its own."""
  def fn(p, user, item):
    u = dense(p['user_out'], jax.nn.relu(dense(p['user_in'], user)))
    v = dense(p['item_out'], jax.nn.relu(dense(p['item_in'], item)))
    return jnp.sum(u * v, -1)
  params = weights({
      'user_in': shapes(4, 9), 'user_out': shapes(9, 5),
      'item_in': shapes(3, 7), 'item_out': shapes(7, 5)})
  return make(
      fn, params, data(2, 4), data(2, 3), kernels={'.*/kernel': DENSE},
      free=['user_in/kernel:1 user_in/bias:0 user_out/kernel:0',
            'item_in/kernel:1 item_in/bias:0 item_out/kernel:0',
            '(user|item)_out/kernel:1 (user|item)_out/bias:0'])


@case
def embedding_bag():
  def fn(p, x):
    h = p['table'][x].mean(1)
    return dense(p['out'], jax.nn.relu(dense(p['in'], h)))
  params = weights({
      'table': (11, 6), 'in': shapes(6, 7), 'out': shapes(7, 3)})
  return make(
      fn, params, tokens(11, 2, 5), kernels={'.*/kernel': DENSE},
      free=['table:1 in/kernel:0',
            'in/kernel:1 in/bias:0 out/kernel:0'])


@case
def dlrm():
  """All pairs of embeddings meet in dot products."""
  def fn(p, x, x1, x2):
    x = jax.nn.relu(dense(p['bottom'], x))
    x = jax.nn.relu(dense(p['bottom_out'], x))
    z = jnp.stack([x, p['table1'][x1], p['table2'][x2]], 1)
    pairs = jnp.einsum('nid,njd->nij', z, z)
    i, j = jnp.tril_indices(3, -1)
    h = jnp.concatenate([x, pairs[:, i, j]], -1)
    return dense(p['out'], jax.nn.relu(dense(p['top'], h)))
  params = weights({
      'table1': (11, 5), 'table2': (13, 5), 'bottom': shapes(4, 7),
      'bottom_out': shapes(7, 5), 'top': shapes(5 + 3, 6), 'out': shapes(6, 2)})
  return make(
      fn, params, data(2, 4), tokens(11, 2), tokens(13, 2),
      kernels={'.*/kernel': DENSE},
      free=['bottom/kernel:1 bottom/bias:0 bottom_out/kernel:0',
            # The top reads the units, then the three pairs, which are fixed.
            {'bottom_out/kernel:1 bottom_out/bias:0 table1:1 table2:1': WHOLE,
             'top/kernel:0': part(0, 5)},
            'top/kernel:1 top/bias:0 out/kernel:0'])


@case
def torch_layout():
  def fn(p, x):
    h = jax.nn.relu(x @ p['in/weight'].T + p['in/bias'][None])
    h = lax.dot_general(h, p['mid/weight'], (((1,), (1,)), ((), ())))
    h = jax.nn.relu(h + p['mid/bias'][None])
    return h @ jnp.swapaxes(p['out/weight'], 0, 1) + p['out/bias'][None]
  params = weights({
      'in/weight': (7, 4), 'in/bias': (7,), 'mid/weight': (6, 7),
      'mid/bias': (6,), 'out/weight': (3, 6), 'out/bias': (3,)})
  return make(
      fn, params, data(2, 4), kernels={'.*/weight': TORCH},
      free=['in/weight:0 in/bias:0 mid/weight:1',
            'mid/weight:0 mid/bias:0 out/weight:1'])


@case
def haiku_layout():
  """Scales of batch norm are `[1, C]`, as in Haiku."""
  def fn(p, x):
    x = x @ p['linear']['w'] + p['linear']['b'][None]
    norm = p['batch_norm']
    x = (x - norm['mean']) * lax.rsqrt(norm['var'] + 1e-5)
    x = jax.nn.relu(x * norm['scale'] + norm['offset'])
    return x @ p['linear_1']['w'] + p['linear_1']['b'][None]
  params = weights({
      'linear': {'w': (4, 7), 'b': (7,)}, 'linear_1': {'w': (7, 3), 'b': (3,)},
      'batch_norm': {
          name: (1, 7) for name in ('scale', 'offset', 'mean', 'var')}})
  return make(
      fn, params, data(2, 4), kernels={'.*/w': DENSE},
      free=['linear/w:1 linear/b:0 batch_norm/.*:1 linear_1/w:0'])


@case
def mixer():
  def fn(p, x):
    x = dense(p['in'], x)
    y = jnp.swapaxes(layer_norm(p['norm1'], x), 1, 2)
    y = dense(p['token_out'], jax.nn.gelu(dense(p['token_in'], y)))
    x = x + jnp.swapaxes(y, 1, 2)
    y = layer_norm(p['norm2'], x)
    x = x + dense(p['out'], jax.nn.gelu(dense(p['up'], y)))
    return dense(p['head'], jnp.tanh(x).mean(1))
  norm = {'scale': (6,), 'bias': (6,)}
  params = weights({
      'in': shapes(4, 6), 'norm1': norm, 'token_in': shapes(5, 8),
      'token_out': shapes(8, 5), 'norm2': norm, 'up': shapes(6, 9),
      'out': shapes(9, 6), 'head': shapes(6, 3)})
  return make(
      fn, params, data(2, 5, 4), kernels={'.*/kernel': DENSE},
      free=['(in|out)/kernel:1 (in|out)/bias:0 norm./.*:0 (up|head)/kernel:0',
            'token_in/kernel:1 token_in/bias:0 token_out/kernel:0',
            'up/kernel:1 up/bias:0 out/kernel:0'],
      stuck=['token_in/kernel:0 token_out/kernel:1 token_out/bias:0'])


@case
def mixture_of_experts():
  """Every expert sees every token; the router's softmax weighs them."""
  def fn(p, x):
    x = dense(p['in'], x)
    gates = jax.nn.softmax(dense(p['router'], x))
    h = jnp.einsum('ntd,edh->nteh', x, p['up'])
    h = jax.nn.gelu(h + jnp.broadcast_to(p['up_bias'], h.shape))
    y = jnp.einsum('nteh,ehd->nted', h, p['down'])
    return dense(p['out'], x + jnp.einsum('nte,nted->ntd', gates, y))
  params = weights({
      'in': shapes(4, 6), 'router': shapes(6, 3), 'up': (3, 6, 7),
      'up_bias': (3, 7), 'down': (3, 7, 6), 'out': shapes(6, 2)})
  return make(
      fn, params, data(2, 5, 4),
      # Experts are outputs of the first product, a batch of the second.
      kernels={'.*/kernel': DENSE, 'up': ((1,), (0, 2)),
               'down': ((1,), (2,))},
      free=['in/kernel:1 in/bias:0 (router|out)/kernel:0 up:1 down:2',
            'up:2 up_bias:1 down:1',
            'router/kernel:1 router/bias:0 (up|up_bias|down):0'])


@case
def heads_flattened():
  """An axis is made of factors: split on one side, whole on the other."""
  def fn(p, x):
    h = jax.nn.relu(dense(p['in'], x)).reshape(-1, 3, 4)
    h = jnp.einsum('nhd,hdk->nhk', h, p['each'])
    return dense(p['out'], jax.nn.relu(h).reshape(-1, 3 * 5))
  params = weights({
      'in': shapes(4, 3 * 4), 'each': (3, 4, 5), 'out': shapes(3 * 5, 2)})
  before, after = grid(3, 4), grid(3, 5)
  return make(
      fn, params, data(2, 4),
      kernels={'.*/kernel': DENSE, 'each': ((1,), (2,))},
      free=[{'in/kernel:1 in/bias:0': units(before, 0), 'each:0': WHOLE,
             'out/kernel:0': units(after, 0)},
            {'in/kernel:1 in/bias:0': units(before, 1), 'each:1': WHOLE},
            {'each:2': WHOLE, 'out/kernel:0': units(after, 1)}])


@case
def pooled_statistics():
  """Mean, maximum and log-sum over the units: nothing reads them one by one."""
  def fn(p, x):
    h = jnp.tanh(dense(p['in'], x))
    return jnp.stack([h.mean(-1), h.max(-1), jax.nn.logsumexp(h, -1)], -1)
  return make(
      fn, weights({'in': shapes(4, 7)}), data(2, 4),
      kernels={'.*/kernel': DENSE}, free=['in/kernel:1 in/bias:0'])


@case
def vmapped_ensemble():
  """Members are stacked; the mean of their answers does not know which."""
  def member(p, x):
    return jnp.tanh(dense(p['out'], jnp.tanh(dense(p['in'], x))))

  def fn(p, x):
    return jax.vmap(member, (0, None))(p, x).mean(0)
  params = weights({
      'in': {'kernel': (5, 4, 7), 'bias': (5, 7)},
      'out': {'kernel': (5, 7, 3), 'bias': (5, 3)}})
  return make(
      fn, params, data(2, 4),
      # Members are outputs of the first product, a batch of the second.
      kernels={'in/kernel': ((1,), (0, 2)), 'out/kernel': ((1,), (2,))},
      free=['(in|out)/.*:0', 'in/.*:-1 out/kernel:1'])
