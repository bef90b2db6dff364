"""Products as Flax's layers ask for them are those of `lax.dot_general`."""

import functools

from flax import linen
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxsparse import nn
from jaxsparse import packed
from jaxsparse.masks.selection import select
from jaxsparse.packed import pack
from jaxsparse.patterns import nm
from tests._lib.flax_layers import assert_close
from tests._lib.flax_layers import INPUTS
from tests._lib.flax_layers import tokens
from tests._lib.flax_layers import two_of_four


def test_dot_general_heeds_what_a_kernel_cannot():
  w = pack(jnp.eye(INPUTS, 8))
  numbers = (((1,), (0,)), ((), ()))
  f = functools.partial(nn.dot_general, implementation='xla')
  text = str(jax.make_jaxpr(lambda x: f(
      x, w, numbers, precision='highest',
      preferred_element_type=jnp.float32))(tokens(2)))
  assert 'HIGHEST' in text
  assert_close(f(tokens(2), w, numbers, 'highest', out_sharding=None),
               tokens(2)[:, :8])


def test_dot_general_of_weights_packed_along_their_last_axis():
  w = pack(jnp.eye(8, INPUTS), axis=-1)
  y = nn.dot_general(tokens(2).T, w, (((0,), (1,)), ((), ())))
  assert_close(y, tokens(2)[:, :8])


def test_dot_general_pairs_axes_in_any_order():
  w = two_of_four(jax.random.normal(jax.random.key(0), (8, 4, 5)), (0, 1))
  x = jax.random.normal(jax.random.key(1), (4, 3, 8))
  for numbers in [(((0, 2), (1, 0)), ((), ())), (((2, 0), (0, 1)), ((), ()))]:
    want = jax.lax.dot_general(x, w, numbers)
    assert_close(nn.dot_general(x, pack(w, axis=(0, 1)), numbers), want)
    assert_close(nn.training_dot_general(x, w, numbers), want)


def test_dot_general_names_the_axis_that_is_needed():
  w = pack(jnp.zeros((INPUTS, 4, 8)))  # Along the heads.
  with pytest.raises(ValueError, match=r'along axis -2, .*nm\(2, 4, axis=-3'):
    nn.dot_general(tokens(2), w, (((1,), (0,)), ((), ())))
  w = pack(jnp.zeros((2, INPUTS, 8)))
  with pytest.raises(ValueError, match='its 1 leading axes, got axes ()'):
    nn.dot_general(tokens(2), w, (((1,), (1,)), ((), ())))


class _Trained(linen.Module):
  dot_general: object

  @linen.compact
  def __call__(self, x):
    x = linen.relu(linen.Dense(16, dot_general=self.dot_general)(x))
    x = linen.DenseGeneral((2, 8), dot_general=self.dot_general)(x)
    return linen.DenseGeneral(
        4, axis=(-2, -1), dot_general=self.dot_general)(x)


def test_training_dot_general_trains_as_the_dense_product(monkeypatch):
  x, optimizer, calls = tokens(3)[:, :16], optax.sgd(1e-2, momentum=0.9), []
  matmul = packed.training_matmul
  monkeypatch.setattr(
      packed, 'training_matmul',
      lambda *args, **kw: calls.append(1) or matmul(*args, **kw))

  def mask(path, w):  # Of the matrix [in, out].
    if 'kernel' not in jax.tree_util.keystr(path):
      return jnp.ones_like(w, bool)
    return select(jnp.abs(w.reshape(16, -1)), nm(2, 4, transposable=True)
                  ).reshape(w.shape)

  def train(dot_general):
    model = _Trained(dot_general)
    params = _Trained(None).init(jax.random.key(0), x)['params']
    masks = jax.tree_util.tree_map_with_path(mask, params)
    state = optimizer.init(params)

    def loss(params):
      return (model.apply({'params': params}, x) ** 2).sum()

    @jax.jit
    def step(params, state):
      sparse = jax.tree.map(lambda w, m: jnp.where(m, w, 0.), params, masks)
      updates, state = optimizer.update(jax.grad(loss)(sparse), state)
      return optax.apply_updates(params, updates), state
    for _ in range(4):
      params, state = step(params, state)
    return params
  got, want = train(nn.training_dot_general), train(None)
  assert len(calls) == 3
  jax.tree.map(assert_close, got, want)


def test_training_dot_general_is_dense_where_it_has_to_be():
  f = nn.training_dot_general
  x, w = tokens(4)[:, :8], jnp.ones((8, 3))  # Not 2:4.
  assert_close(f(x, w.T, (((1,), (1,)), ((), ()))), x @ w)
  assert_close(f(x, w, (((1,), (0,)), ((), ())), 'highest'), x @ w)
  batched = jnp.ones((4, 8, 3))
  assert_close(f(x, batched, (((1,), (1,)), ((0,), (0,)))), x @ w)
  assert_close(f(x, pack(jnp.eye(8, 4)), (((1,), (0,)), ((), ()))), x[:, :4])
