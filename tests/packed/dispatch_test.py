"""Which implementation is asked, in which order, and what is told."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from jaxsparse.packed import _dispatch
from jaxsparse.packed.condensed import condense
from jaxsparse.packed.layout24 import pack
from jaxsparse.packed.products import matmul
from jaxsparse.packed.training_product import training_matmul
from tests._lib.packed import assert_near
from tests._lib.packed import normal
from tests._lib.packed import two_way
from tests._lib.packed import wide


@pytest.mark.parametrize('names, told', [
    ('gpu', ['gpu: ']), ('tpu', ['tpu: needs a TPU']),
    (('gpu', 'tpu'), ['gpu: ', 'tpu: ']), (['tpu', 'gpu'], ['tpu: ', 'gpu: '])],
    ids=str)
@pytest.mark.parametrize('product', ['matmul', 'training_matmul'])
def test_all_reasons_are_told_in_order(names, told, product):
  if jax.default_backend() != 'cpu':
    pytest.skip('this machine can serve')
  w, x = two_way(256, 128), jnp.ones((2, 256))
  with pytest.raises(NotImplementedError, match='implementation=None') as error:
    if product == 'matmul':
      matmul(x, pack(w), implementation=names)
    else:
      training_matmul(x, jnp.asarray(w), implementation=names)
  message = str(error.value)
  at = [message.find(reason) for reason in told]
  assert -1 not in at and at == sorted(at), message


@pytest.mark.parametrize('names', [
    'xla', ('gpu', 'tpu', 'xla'), ['xla', 'gpu']], ids=str)
def test_the_first_that_can_serve_does(names):
  w, x = two_way(8, 4), jax.device_put(normal(2, 8))
  expected = np.matmul(*wide(x, w))
  assert_near(matmul(x, pack(w), implementation=names), expected)
  assert_near(training_matmul(x, jnp.asarray(w), implementation=names),
              expected)
  dx = jax.grad(lambda x: matmul(x, pack(w), implementation=names).sum())(x)
  assert_near(dx, np.tile(w.sum(1), (2, 1)))


@pytest.mark.parametrize('names', ['cuda', 'XLA', (), ('xla', 'cpu'), ('',)],
                         ids=str)
def test_a_name_of_no_implementation_is_an_error(names):
  w, x = two_way(8, 4), jnp.ones((2, 8))
  for call in (lambda: matmul(x, pack(w), implementation=names),
               lambda: training_matmul(x, jnp.asarray(w),
                                       implementation=names)):
    with pytest.raises(ValueError, match="'gpu', 'tpu', 'xla'"):
      call()


@pytest.mark.parametrize('names', ['gpu', 'tpu', ('gpu', 'tpu')], ids=str)
def test_condensed_weights_have_no_kernel_and_it_is_told(names):
  w, x = jnp.eye(4), jax.device_put(normal(2, 4))
  c = condense(w, w != 0)
  with pytest.raises(NotImplementedError, match='(?s)does not do this.*XLA'):
    matmul(x, c, implementation=names)
  for names in 'xla', ('tpu', 'xla'):
    assert_near(matmul(x, c, implementation=names), x)
  with pytest.raises(ValueError, match="'gpu', 'tpu', 'xla'"):
    matmul(x, c, implementation='cpu')


def refuses(x, w, dtype):
  raise NotImplementedError('is tired')


def doubles(x, w, dtype):
  return (2 * x).astype(dtype)


def triples(x, w, dtype):
  return (3 * x).astype(dtype)


def test_one_that_cannot_serve_is_passed_over(monkeypatch):
  monkeypatch.setattr(_dispatch, 'missing', lambda _: None)
  x, dtype = jnp.ones(2), jnp.dtype(jnp.float32)
  choices = {'gpu': refuses, 'tpu': doubles, 'xla': triples}
  run = lambda *names: _dispatch.run(names, choices, x, x, dtype)[0]
  assert run('gpu', 'tpu', 'xla') == run('tpu', 'xla') == 2
  assert run('gpu', 'xla') == run('xla', 'tpu') == 3
  with pytest.raises(NotImplementedError, match='gpu: is tired'):
    run('gpu')
  # Of no name, that of the platform, which for this one is XLA.
  assert _dispatch.run(None, choices, x, x, dtype)[0] == 3


def test_a_kernel_sees_no_sharded_operands(monkeypatch):
  monkeypatch.setattr(_dispatch, 'missing', lambda _: None)
  mesh = jax.make_mesh((8,), ('x',), axis_types=(AxisType.Explicit,))
  choices = {'tpu': doubles, 'xla': triples}
  with jax.set_mesh(mesh):
    x = jax.device_put(jnp.ones(8), PartitionSpec('x'))
    with pytest.raises(NotImplementedError, match='sharded_matmul'):
      _dispatch.run(('tpu',), choices, x, x, x.dtype)
    y = _dispatch.run(('tpu', 'xla'), choices, x, x, x.dtype)
  np.testing.assert_array_equal(y, 3)


def test_reasons_are_those_of_this_machine():
  assert _dispatch.missing('xla') is None
  here = jax.default_backend()
  for name in ('gpu', 'tpu'):
    assert name == here or here in _dispatch.missing(name)
