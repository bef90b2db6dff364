"""Models that take their widths from their arrays go on with fewer units."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsparse import infer_ties
from jaxsparse.units.removal import alive
from jaxsparse.units.removal import slim
from tests._lib.near import same
from tests._lib.removals import pruned
from tests._lib.removals import some
from tests._lib.zoo_case import data
from tests._lib.zoo_case import nnx_module
from tests._lib.zoo_case import weights


class VGG(nnx.Module):

  def __init__(self, rngs):
    widths = [3, 6, 8, 7]
    self.convs = nnx.List([
        nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in zip(widths, widths[1:])])
    self.norms = nnx.List([
        nnx.BatchNorm(n, use_running_average=True, rngs=rngs)
        for n in widths[1:]])
    self.head = nnx.Linear(7, 4, rngs=rngs)

  def __call__(self, x):
    for conv, norm in zip(self.convs, self.norms):
      x = nnx.relu(norm(conv(x)))
    return self.head(nnx.max_pool(x, (2, 2), (2, 2)).mean((1, 2)))


class Bottleneck(nnx.Module):

  def __init__(self, width_in, middle, width, rngs):
    conv = lambda a, b, n: nnx.Conv(a, b, (n, n), use_bias=False, rngs=rngs)
    norm = lambda n: nnx.BatchNorm(n, use_running_average=True, rngs=rngs)
    self.convs = nnx.List([conv(width_in, middle, 1), conv(middle, middle, 3),
                           conv(middle, width, 1)])
    self.norms = nnx.List([norm(middle), norm(middle), norm(width)])
    self.shortcut = conv(width_in, width, 1)

  def __call__(self, x):
    y = x
    for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
      y = norm(conv(y if i == 0 else nnx.relu(y)))
    return nnx.relu(y + self.shortcut(x))


class Bottlenecks(nnx.Module):

  def __init__(self, rngs):
    self.blocks = nnx.List([Bottleneck(3, 5, 8, rngs),
                            Bottleneck(8, 6, 8, rngs)])
    self.head = nnx.Linear(8, 4, rngs=rngs)

  def __call__(self, x):
    for block in self.blocks:
      x = block(x)
    return self.head(x.mean((1, 2)))


def convolutional(module):
  fn, params = nnx_module(module)
  return fn, params, data(2, 4, 4, 3)


def transformer(*, fused):
  """One block; `dim`, the size of a head, is all that is in the code."""
  dim = 3

  def norm(x, scale):
    return jax.nn.standardize(x, -1) * scale[None, None]

  def fn(p, x):
    x = x @ p['in']
    y = norm(x, p['norm1'])
    if fused:
      qkv = y @ p['qkv'] + p['qkv_bias'][None, None]
      q, k, v = (part.reshape(*x.shape[:2], -1, dim)
                 for part in jnp.split(qkv, 3, -1))
    else:
      q, k, v = (jnp.einsum('ntd,dhk->nthk', y, p[name]) for name in 'qkv')
    shares = jax.nn.softmax(jnp.einsum('nqhd,nkhd->nhqk', q, k) * dim**-.5)
    y = jnp.einsum('nhqk,nkhd->nqhd', shares, v)
    if fused:
      x = x + y.reshape(*x.shape[:2], -1) @ p['out']
    else:
      x = x + jnp.einsum('nthk,hkd->ntd', y, p['out'])
    y = norm(x, p['norm2']) @ p['up'] + p['up_bias'][None, None]
    return (x + jax.nn.gelu(y) @ p['down']) @ p['head']
  shared = {'in': (4, 8), 'norm1': (8,), 'norm2': (8,), 'up': (8, 10),
            'up_bias': (10,), 'down': (10, 8), 'head': (8, 2)}
  mine = {'qkv': (8, 54), 'qkv_bias': (54,), 'out': (18, 8)} if fused else {
      'q': (8, 6, 3), 'k': (8, 6, 3), 'v': (8, 6, 3), 'out': (6, 3, 8)}
  return fn, weights(shared | mine), data(2, 5, 4)


def densenet():
  def fn(p, x):
    for name in ('a', 'b', 'c'):
      y = jax.nn.relu(x @ p[name] + p[f'{name}_bias'][None])
      x = jnp.concatenate([x, y], -1)
    return x @ p['head']
  return fn, weights({
      'a': (3, 4), 'a_bias': (4,), 'b': (7, 5), 'b_bias': (5,), 'c': (12, 6),
      'c_bias': (6,), 'head': (18, 2)}), data(2, 3)


def stack():
  def layer(x, p):
    return x + jax.nn.relu(x @ p['up'] + p['bias'][None]) @ p['down'], None

  def fn(p, x):
    return jax.lax.scan(layer, x @ p['in'], p['layers'])[0] @ p['out']
  return fn, weights({
      'in': (3, 5), 'out': (5, 2), 'layers': {
          'up': (3, 5, 8), 'bias': (3, 8), 'down': (3, 8, 5)}}), data(2, 3)


MODELS = {
    'vgg': (lambda: convolutional(VGG), 3),
    'bottlenecks': (lambda: convolutional(Bottlenecks), 6),
    'fused': (lambda: transformer(fused=True), 2),
    'separate': (lambda: transformer(fused=False), 4),
    'densenet': (densenet, 3), 'stack': (stack, 2)}


@pytest.mark.parametrize('name', MODELS)
def test_outputs_and_gradients_stay(name):
  build, count = MODELS[name]
  fn, params, x = build()
  ties = infer_ties(fn, params, x, check=False)
  keep = {n: k for n, k in some(ties).items()
          # The size of a head is in the code of the model.
          if name != 'fused' or not ties[n].along}
  assert len(keep) == count and not any(k.all() for k in keep.values())
  params = pruned(params, ties, keep)
  assert {n: live.sum(-1).tolist() for n, live in alive(params, ties).items()
          if n in keep} == {n: k.sum(-1).tolist() for n, k in keep.items()}
  run = jax.jit(jax.value_and_grad(lambda p, x: (fn(p, x)**2).sum()))
  value, grads = run(params, x)
  small, expected = slim((params, grads), ties, keep)
  got, small_grads = run(small, x)
  same(got, value)
  same(small_grads, expected)


@pytest.mark.parametrize('tx', [
    optax.adam(1e-2), optax.sgd(1e-2, momentum=.9)], ids=['adam', 'sgd'])
def test_an_optimizer_goes_on(tx):
  fn, params, x = densenet()
  ties = infer_ties(fn, params, x, check=False)
  keep = some(ties)

  def loss(params):
    return (fn(params, x)**2).mean()

  @jax.jit
  def step(params, opt_state):
    with jax.numpy_dtype_promotion('standard'):
      updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
      return optax.apply_updates(params, updates), opt_state
  params, opt_state = step(params, tx.init(params))
  params = pruned(params, ties, keep)
  # What reads dead units would come alive again, but what stays is the same.
  after = slim(step(params, opt_state), ties, keep)
  small = slim((params, opt_state), ties, keep)
  same(step(*small), after)
  assert jax.tree.structure(small) == jax.tree.structure((params, opt_state))


def test_factored_moments_are_refused():
  params = {'w1': jnp.ones((4, 256)), 'w2': jnp.ones((256, 256))}
  ties = infer_ties(lambda p, x: jax.nn.relu(x @ p['w1']) @ p['w2'], params,
                    jnp.ones((1, 4)), check=False)
  with jax.numpy_dtype_promotion('standard'):
    opt_state = optax.adafactor(1e-3).init(params)
  with pytest.raises(ValueError, match='such as factored moments'):
    slim((params, opt_state), ties, {'w1[:, *]': np.arange(256) < 9})
