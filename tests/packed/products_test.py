"""Products with packed weights, against numpy in float64 and dense gradients.

The two-way weights, whose transposed form is packed, too, come from
`packing_test`, as do those with groups of 0, 1 and 2 entries.
"""

import dataclasses
import math

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import _flops
from jaxsparse.packed import condensed
from jaxsparse.packed import layout24
from jaxsparse.packed.kernels import hopper
from jaxsparse.packed.layout24 import pack
from jaxsparse.packed.products import matmul
from jaxsparse.packed.products import training_matmul
from tests.packed.layout24_test import normal
from tests.packed.layout24_test import prune
from tests.packed.layout24_test import two_way
from tests.packed.layout24_test import unpack

# One compilation for a shape rather than one for every operation.
jitted = jax.jit(matmul)

# Errors relative to the largest entry: operands are exact, results rounded.
_TOLERANCES = {'float32': 2e-6, 'bfloat16': 8e-3, 'float16': 1e-3, 'int8': 0,
               'int32': 0}


def assert_near(y, expected, tolerance=None):
  """`y` is what numpy has got, rounded to the dtype of `y`."""
  if tolerance is None:
    tolerance = _TOLERANCES[y.dtype.name]
  expected = np.asarray(expected, np.float64)
  assert y.shape == expected.shape
  np.testing.assert_allclose(
      np.float64(y), expected, rtol=0,
      atol=tolerance * np.abs(expected).max(initial=1e-30))


def wide(*arrays):
  return [np.float64(x) for x in arrays]


def with_values(w, values):
  return dataclasses.replace(w, values=values)


def ones(w):
  """Where a weight's kept entries are, zeros among them."""
  return np.asarray(unpack(
      jax.tree.map(lambda x: jnp.ones_like(x)
                   if jnp.issubdtype(x.dtype, jnp.floating) else x, w))) == 1


@settings(max_examples=16, deadline=None)
@given(st.sampled_from([(7, 3), (300, 1)]),
       st.sampled_from([(), (2, 3)]),
       st.sampled_from(['float32', 'bfloat16', 'float16', 'int8']),
       st.integers(0, 99))
def test_the_product_is_that_of_the_dense_weight(shape, leading, dtype, seed):
  w = prune(normal(*shape, dtype=jnp.dtype(dtype), seed=seed), seed=seed)
  x = normal(*leading, shape[0], dtype=jnp.dtype(dtype), seed=seed + 1)
  y = jitted(x, pack(w))
  assert y.dtype == ('int32' if dtype == 'int8' else dtype)
  assert_near(y, np.matmul(*wide(x, w)))


@pytest.mark.parametrize('layout', ['planar', 'hopper'])
@pytest.mark.parametrize('shape, axis, spec', [
    ((12, 3, 4), -3, 'btd,dhk->bthk'),
    ((3, 4, 12), (-3, -2), 'bthk,hkd->btd'),
    ((12, 8), -1, 'btk,nk->btn'),
    ((8, 12), 0, 'btk,kn->btn'),
    ((12, 3, 4), (-2, -1), 'bthk,dhk->btd'),
    ((5, 130), -2, 'btk,kn->btn'),
], ids=str)
def test_attention_and_every_axis(layout, shape, axis, spec):
  joined = axis if isinstance(axis, tuple) else (axis,)
  first = joined[0] % len(shape)
  k = math.prod(shape[a] for a in joined)
  w = prune(normal(*shape[:first], k, *shape[first + len(joined):],
                   dtype=jnp.bfloat16), first).reshape(shape)
  x = normal(2, 3, *(shape[a] for a in joined), seed=1, dtype=jnp.bfloat16)
  packed = layout24.with_layout(pack(w, axis=axis), layout)
  expected = np.einsum(spec, *wide(x, w))
  assert_near(jitted(x, packed), expected)


@pytest.mark.parametrize('leading', [(0,), (2, 0), (0, 3)], ids=str)
def test_no_tokens_give_none(leading):
  k, n = 256, 128  # Whole tiles: a kernel may think that it can serve.
  w = pack(two_way(k, n), transposed=True)
  x = jnp.zeros((*leading, k))
  y, gradients = jax.value_and_grad(
      lambda x, v: matmul(x, with_values(w, v)).sum(), (0, 1))(x, w.values)
  assert matmul(x, w).shape == (*leading, n)
  assert (y, gradients[0].shape) == (0., x.shape)
  np.testing.assert_array_equal(gradients[1], np.zeros_like(w.values))
  assert training_matmul(x, unpack(w)).shape == (*leading, n)


@pytest.mark.parametrize('k, n', [(0, 4), (4, 0), (0, 0)])
def test_empty_weights(k, n):
  y = matmul(jnp.ones((3, k)), pack(jnp.zeros((k, n))))
  np.testing.assert_array_equal(y, np.zeros((3, n)))


def test_one_axis_is_one_token():
  w = prune(normal(8, 3))
  x = normal(8, seed=1)
  assert_near(matmul(jnp.asarray(x), pack(w)), np.matmul(*wide(x, w)))


@pytest.mark.parametrize('dtype, out', [
    ('bfloat16', 'float32'), ('float16', 'float32'), ('float32', 'bfloat16'),
    ('int8', 'int32'), ('int8', 'float32'), ('bfloat16', jnp.float16)], ids=str)
def test_preferred_element_type_is_the_dtype_of_the_result(dtype, out):
  w = prune(normal(300, 3, dtype=jnp.dtype(dtype)))
  x = normal(2, 300, seed=1, dtype=jnp.dtype(dtype))
  y = jax.jit(lambda x, w: matmul(x, w, preferred_element_type=out))(x, pack(w))
  assert y.dtype == jnp.dtype(out)
  assert_near(y, np.matmul(*wide(x, w)))


def test_sums_are_of_float32():
  # Of ones, bfloat16 can sum 256 and float16 2048; the last is 1 + 2**-20.
  for dtype, k in (('bfloat16', 1024), ('float16', 8192)):
    w = np.tile(np.array([[1.], [1.], [0.], [0.]]), (k // 4, 1)).astype(
        jnp.dtype(dtype))
    y = jax.jit(lambda x, w: matmul(x, w, preferred_element_type=jnp.float32))(
        jnp.ones((1, k), dtype), pack(w))
    assert y[0, 0] == k / 2


def test_int8_sums_are_of_int32():
  w = np.tile(np.array([[-128], [-128], [0], [0]], np.int8), (256, 1))
  y = matmul(jnp.full((1, 1024), -128, jnp.int8), pack(w))
  assert (y.dtype, int(y[0, 0])) == (np.int32, 512 * 128 * 128)


@pytest.mark.parametrize('of_x, of_w, out', [
    ('bfloat16', 'float32', 'float32'), ('float32', 'bfloat16', 'float32'),
    ('bfloat16', 'float16', 'float32'), ('float32', 'int8', 'float32'),
    ('bfloat16', 'int8', 'bfloat16')])
def test_dtypes_promote_and_gradients_have_those_of_their_operands(
    of_x, of_w, out):
  w = prune(normal(8, 3, dtype=jnp.dtype(of_w)))
  x = jnp.asarray(normal(2, 8, seed=1, dtype=jnp.dtype(of_x)))
  packed = pack(w)
  with jax.numpy_dtype_promotion('standard'):
    y = matmul(x, packed)
    dx = jax.grad(lambda x: matmul(x, packed).sum())(x)
    assert dx.dtype == of_x
    if of_w != 'int8':
      dv = jax.grad(lambda v: matmul(x, with_values(packed, v)).sum())(
          packed.values)
      assert dv.dtype == of_w
  assert y.dtype == out
  assert_near(y, np.matmul(*wide(x, w)))
  assert_near(dx, np.tile(np.float64(w).sum(1), (2, 1)))


@pytest.mark.parametrize('dtype', ['float8_e4m3fn', 'float8_e5m2'])
def test_float8_serves_too(dtype):
  w = prune(normal(8, 3, dtype=jnp.dtype(dtype)))
  x = normal(2, 8, seed=1, dtype=jnp.dtype(dtype))
  y = matmul(jnp.asarray(x), pack(w), preferred_element_type=jnp.float32)
  assert_near(y, np.matmul(*wide(x, w)))


def gradients(x, w, dy):
  """The oracle: with respect to x and to the kept entries of w."""
  x, kept, w, dy = (*wide(x), ones(w), *wide(unpack(w), dy))
  rows, outs = math.prod(x.shape[:-1]), dy.shape[-1]
  return (dy @ w.T, np.where(
      kept, x.reshape(rows, -1).T @ dy.reshape(rows, outs), 0))


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('dtype, layout', [
    ('float32', 'planar'), ('bfloat16', 'planar'), ('bfloat16', 'hopper'),
    ('float16', 'hopper')])
def test_gradients_to_x_and_to_kept_values_are_dense_ones(
    dtype, layout, transposed):
  w = layout24.with_layout(
      pack(two_way(12, 7, dtype=jnp.dtype(dtype)), transposed=transposed),
      layout)
  x, dy = (jnp.asarray(normal(2, 3, n, seed=n, dtype=jnp.dtype(dtype)))
           for n in (12, 7))

  def back(x, v):
    return jax.vjp(lambda x, v: matmul(x, with_values(w, v)), x, v)[1](dy)
  dx, dv = jax.jit(back)(x, w.values)
  assert (dx.dtype, dv.dtype, dv.shape) == (dtype, dtype, w.values.shape)
  expected = gradients(x, w, dy)
  assert_near(dx, expected[0])
  assert_near(unpack(with_values(w, dv)), expected[1])


def test_kept_zeros_have_gradients_and_what_is_padded_has_none():
  w = pack(jnp.zeros((5, 3)))
  x, dy = jnp.asarray(normal(4, 5)), jnp.asarray(normal(4, 3, seed=1))
  dv, = jax.vjp(lambda v: matmul(x, with_values(w, v)), w.values)[1](dy)
  assert_near(unpack(with_values(w, dv)), gradients(x, w, dy)[1])
  # Of the last group one row is of the weight, and none of those after it.
  assert np.count_nonzero(dv) == np.count_nonzero(gradients(x, w, dy)[1])


@pytest.mark.parametrize('shape, axis, spec', [
    ((8, 3, 4), -3, 'td,dhk->thk'), ((3, 4, 8), (-3, -2), 'thk,hkd->td'),
    ((12, 8), -1, 'tk,nk->tn')], ids=str)
def test_gradients_of_attention(shape, axis, spec):
  joined = axis if isinstance(axis, tuple) else (axis,)
  w = two_way(*(12, 8) if axis in (-1, (-3, -2)) else (8, 12)).reshape(shape)
  packed = pack(w, axis=axis, transposed=True)
  x = jnp.asarray(normal(2, *(shape[a] for a in joined), seed=1))
  out = np.einsum(spec, x, w)
  dy = jnp.asarray(normal(*out.shape, seed=2))
  both = jax.jit(lambda x, w: jax.vjp(matmul, x, w)[1](dy))(x, packed)
  dense = jax.vjp(lambda x, w: jnp.einsum(spec, x, w), x, jnp.asarray(w))[1](dy)
  assert_near(both[0], dense[0])
  assert_near(unpack(with_values(packed, both[1].values)),
              np.where(ones(packed), dense[1], 0))


def test_grad_to_the_whole_weight_is_one_of_it():
  w = pack(two_way(8, 4), transposed=True)
  x = jnp.asarray(normal(2, 8))
  g = jax.grad(lambda w: jitted(x, w).sum(), allow_int=True)(w)
  assert g.layout == w.layout and g.values.shape == w.values.shape
  assert g.positions.dtype == jax.dtypes.float0
  np.testing.assert_array_equal(g.transposed.values, 0)


def test_gradients_of_gradients():
  w = pack(prune(normal(8, 3)))
  x = jnp.asarray(normal(2, 8, seed=1))
  loss = lambda x: (matmul(x, w) ** 2).sum()
  dense = np.float64(unpack(w))
  hessian = jax.jacrev(jax.grad(loss))(x)
  assert_near(hessian[0, :, 0], 2 * dense @ dense.T)
  assert_near(hessian[0, :, 1], np.zeros((8, 8)))


def test_kept_values_are_trained_as_any_array():
  w = pack(prune(normal(8, 3)))
  x = jnp.asarray(normal(32, 8, seed=1))
  target = 2 * matmul(x, w)
  loss = lambda v: ((matmul(x, with_values(w, v)) - target) ** 2).mean()
  step = jax.jit(lambda v: v - 0.5 * jax.grad(loss)(v))
  v = w.values
  for _ in range(100):
    v = step(v)
  assert loss(v) < 1e-3 * loss(w.values)


def stacked(*shape, dtype=np.float32):
  return pack(np.stack([two_way(*shape[1:], seed=i, dtype=dtype)
                        for i in range(shape[0])]), transposed=True)


def test_vmap_over_weights_tokens_and_both():
  w = stacked(3, 8, 4)
  dense = unpack(w)
  x = jnp.asarray(normal(3, 2, 8, seed=1))
  one = jax.tree.map(lambda a: a[0], w)
  assert_near(jax.vmap(jitted)(x, w), np.matmul(*wide(x, dense)))
  assert_near(jax.vmap(jitted, (None, 0))(x[0], w),
              np.matmul(*wide(x[0], dense)))
  assert_near(jax.vmap(jitted, (0, None))(x, one),
              np.matmul(*wide(x, dense[0])))
  assert_near(jax.vmap(lambda x: matmul(x, one), 1, 1)(x),
              np.matmul(*wide(x, dense[0])))


def test_vmap_of_gradients_and_gradients_of_vmap():
  w = stacked(3, 8, 4, dtype=jnp.bfloat16)
  x, dy = (jnp.asarray(normal(3, 2, n, seed=n, dtype=jnp.bfloat16))
           for n in (8, 4))
  back = lambda f: lambda x, w, dy: jax.vjp(f, x, w)[1](dy)
  for call in (jax.vmap(back(matmul)), back(jax.vmap(matmul))):
    dx, dw = jax.jit(call)(x, w, dy)
    for i in range(3):
      one = jax.tree.map(lambda a: a[i], w)  # noqa: B023
      expected = gradients(x[i], one, dy[i])
      assert_near(dx[i], expected[0])
      assert_near(unpack(with_values(one, dw.values[i])), expected[1])


@pytest.mark.parametrize('layout, remat', [
    ('planar', False), ('hopper', True)])
def test_scan_over_layers_with_gradients(layout, remat):
  w = layout24.with_layout(stacked(3, 8, 8, dtype=jnp.bfloat16), layout)
  dense = unpack(w)
  x = jnp.asarray(normal(2, 8, seed=1, dtype=jnp.bfloat16))

  def loss(values, x, layer):
    step = lambda x, w: (jnp.tanh(layer(x, w)), None)
    y, _ = lax.scan(jax.checkpoint(step) if remat else step, x, values)
    return (y.astype(jnp.float32) ** 2).sum()

  packed_loss = lambda v, x: loss(with_values(w, v), x, matmul)
  gradient, dx = jax.jit(jax.grad(packed_loss, (0, 1)))(w.values, x)
  expected, dx_expected = jax.grad(loss, (0, 1))(dense, x, jnp.matmul)
  np.testing.assert_allclose(packed_loss(w.values, x),
                             loss(dense, x, jnp.matmul), rtol=2e-2)
  assert_near(dx, dx_expected, 3e-2)
  assert_near(unpack(with_values(w, gradient)),
              np.where(ones(w), expected, 0), 3e-2)


def test_zero_times_infinity_is_as_in_the_dense_product():
  # Positions that are not kept are zeros, not holes.
  w = np.array([[1., 0.], [2., 0.], [0., 0.], [0., 0.]], np.float32)
  x = jnp.array([[1., 1., jnp.inf, 1.], [1., jnp.nan, 1., 1.]])
  np.testing.assert_array_equal(matmul(x, pack(w)), x @ w)


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
  w, x = two_way(8, 4), jnp.asarray(normal(2, 8))
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
  w, x = jnp.eye(4), jnp.asarray(normal(2, 4))
  c = condensed.condense(w, w != 0)
  with pytest.raises(NotImplementedError, match='(?s)does not do this.*XLA'):
    matmul(x, c, implementation=names)
  for names in 'xla', ('tpu', 'xla'):
    assert_near(matmul(x, c, implementation=names), x)
  with pytest.raises(ValueError, match="'gpu', 'tpu', 'xla'"):
    matmul(x, c, implementation='cpu')


@pytest.mark.parametrize('x, shape, told', [
    ((2, 9), (8, 4), [r'\(8,\)', r'\(2, 9\)']), ((), (8, 4), [r'\(8,\)']),
    ((2, 8), (3, 8, 4), [r'\(3,\)', 'vmap', 'scan'])], ids=str)
def test_condensed_shapes_that_do_not_fit_are_shown(x, shape, told):
  c = condensed.condense(jnp.ones(shape), jnp.ones(shape, bool))
  with pytest.raises(ValueError) as error:
    matmul(jnp.zeros(x), c)
  for expected in told:
    error.match(expected)


def test_the_flops_of_a_condensed_product_are_those_of_what_is_kept():
  w = jnp.repeat(jnp.eye(16), 4, 1)
  for s in 4, 1:
    c = condensed.condense(w, w != 0, block=s, fan_in=2)
    counted = _flops.flops(lambda w, x: matmul(x, w), c, normal(3, 16))
    assert counted.total == 2 * 3 * 2 * 64


@pytest.mark.parametrize('x, w, told', [
    ((2, 9), (8, 4), [r'\(8,\)', r'\(2, 9\)']),
    ((), (8, 4), [r'\(8,\)', r'\(\)']),
    ((8, 2), (8, 4), [r'\(8,\)', r'\(8, 2\)']),
    ((2, 8), (3, 8, 4), [r'\(3,\)', 'vmap', 'scan']),
], ids=str)
def test_shapes_that_do_not_fit_are_shown(x, w, told):
  with pytest.raises(ValueError) as error:
    matmul(jnp.zeros(x), pack(jnp.zeros(w)))
  for expected in told:
    error.match(expected)


def test_a_dense_weight_is_told_how_to_be_packed():
  with pytest.raises(ValueError, match=r'jaxsparse\.pack\(w\)'):
    matmul(jnp.zeros((2, 4)), jnp.zeros((4, 4)))


@pytest.mark.parametrize('x, w', [
    ((2, 9), (8, 4)), ((), (8, 4)), ((2, 8), (8,)), ((3, 2, 8), (3, 8, 4))],
    ids=str)
def test_training_shapes_that_do_not_fit_are_shown(x, w):
  with pytest.raises(ValueError, match=r'\[K, N\]'):
    training_matmul(jnp.zeros(x), jnp.zeros(w))


@pytest.mark.parametrize('leading', [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_training_is_the_dense_product_with_dense_gradients(dtype, leading):
  w = jnp.asarray(two_way(12, 8, dtype=jnp.dtype(dtype)))
  x, dy = (jnp.asarray(normal(*leading, n, seed=n, dtype=jnp.dtype(dtype)))
           for n in (12, 8))
  back = lambda x, w: (training_matmul(x, w),
                       jax.vjp(training_matmul, x, w)[1](dy))
  y, (dx, dw) = jax.jit(back)(x, w)
  assert {y.dtype.name, dx.dtype.name, dw.dtype.name} == {dtype}
  assert_near(y, np.matmul(*wide(x, w)))
  assert_near(dx, np.matmul(*wide(dy, w.T)))
  rows = math.prod(leading)
  assert_near(dw, np.float64(x).reshape(rows, -1).T
              @ np.float64(dy).reshape(rows, -1))
  assert np.count_nonzero(dw) == dw.size  # For pruned weights, too.


def test_training_is_mapped_scanned_and_checkpointed():
  w = jnp.stack([jnp.asarray(two_way(8, 8, seed=i)) for i in range(3)])
  x = jnp.asarray(normal(3, 2, 8, seed=1))
  assert_near(jax.vmap(training_matmul)(x, w), np.matmul(*wide(x, w)))

  def loss(w, product):
    step = jax.checkpoint(lambda x, w: (jnp.tanh(product(x, w)), None))
    return (lax.scan(step, x[0], w)[0] ** 2).sum()
  assert_near(jax.jit(jax.grad(lambda w: loss(w, training_matmul)))(w),
              jax.grad(lambda w: loss(w, jnp.matmul))(w), 1e-5)


@pytest.mark.parametrize('out', ['float32', 'bfloat16'])
def test_training_has_the_preferred_element_type(out):
  w = jnp.asarray(two_way(8, 4, dtype=jnp.bfloat16))
  x = jnp.asarray(normal(2, 8, dtype=jnp.bfloat16))
  f = lambda x, w: training_matmul(x, w, preferred_element_type=out)
  y, back = jax.vjp(f, x, w)
  assert y.dtype == out
  assert_near(y, np.matmul(*wide(x, w)))
  assert [g.dtype.name for g in back(jnp.ones_like(y))] == ['bfloat16'] * 2


def exported(f, *args, platforms):
  return jax.export.export(jax.jit(f), platforms=platforms)(*args)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_programs_for_tpu_have_the_kernel_forward_and_backward(dtype):
  w = pack(prune(normal(512, 256, dtype=jnp.dtype(dtype))))
  x = jnp.ones((8, 512), dtype)
  forward = exported(matmul, x, w, platforms=['tpu']).mlir_module()
  assert forward.count('tpu_custom_call') == 1
  back = exported(lambda x, w: jax.vjp(matmul, x, w)[1](
      jnp.ones((8, 256), dtype))[0], x, w, platforms=['tpu']).mlir_module()
  assert 'tpu_custom_call' in back


def test_programs_for_other_platforms_have_no_kernel_of_this_one():
  w, x = pack(prune(normal(512, 256))), jnp.ones((8, 512))
  for platforms in (['cpu'], ['cuda']):
    assert 'tpu_custom_call' not in exported(
        matmul, x, w, platforms=platforms).mlir_module()


def test_one_program_of_xla_serves_several_platforms():
  w, x = pack(prune(normal(512, 256))), jnp.asarray(normal(8, 512, seed=1))
  program = exported(lambda x, w: matmul(x, w, implementation='xla'), x, w,
                     platforms=['cpu', 'cuda', 'tpu'])
  assert_near(program.call(x, w), np.matmul(*wide(x, unpack(w))))


def test_an_exported_program_runs():
  w, x = pack(prune(normal(8, 4))), jnp.asarray(normal(2, 8, seed=1))
  f = lambda x, v: matmul(x, with_values(w, v))
  program = exported(f, x, w.values, platforms=[jax.default_backend()])
  assert_near(program.call(x, w.values), np.matmul(*wide(x, unpack(w))))


def test_the_flops_of_a_product_are_those_of_the_dense_one():
  w = layout24.pack(prune(normal(512, 64)))
  counted = _flops.flops(lambda w, x: matmul(x, w), w, normal(4, 512))
  assert counted.total == 2 * 4 * 512 * 64


def on_h200():
  """As if there were one."""
  return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh(
      (), (), abstract_device=jax.sharding.AbstractDevice(
          device_kind='NVIDIA H200', platform='cuda', num_cores=132)))


def for_cuda(f, *args):
  """The program for GPUs, as a text."""
  with on_h200():
    return jax.export.export(jax.jit(f), platforms=['cuda'])(
        *args).mlir_module()


def kernels_of(program):
  return program.count('custom_call @mosaic_gpu')


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason='refused there')
def test_programs_for_hopper_gpus_have_the_kernel_both_ways():
  w = layout24.with_layout(
      pack(two_way(512, 256, dtype=jnp.bfloat16), transposed=True), 'hopper')
  x, stack = normal(8, 512, dtype=jnp.bfloat16), jax.tree.map(
      lambda a: jnp.stack([a, a]), w)
  assert kernels_of(for_cuda(matmul, x, w)) == 1
  assert kernels_of(for_cuda(lambda x, w: jax.vjp(
      lambda x: matmul(x, w), x)[1](matmul(x, w)), x, w)) == 2
  assert kernels_of(for_cuda(jax.vmap(matmul), jnp.stack([x, x]), stack)) == 1
  dense = two_way(512, 256, dtype=jnp.bfloat16)
  assert kernels_of(for_cuda(lambda x, w: jax.vjp(
      training_matmul, x, w)[1](training_matmul(x, w)), x, dense)) == 2
  # Float32 is not served, and XLA goes on.
  assert not kernels_of(for_cuda(matmul, normal(8, 512), pack(two_way(512, 8))))


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason='refused there')
def test_what_was_tuned_is_used_by_programs_that_are_traced_later(monkeypatch):
  monkeypatch.setattr(hopper, '_TUNED', {})
  w = layout24.with_layout(pack(jnp.zeros((1024, 256), jnp.bfloat16)), 'hopper')
  x = jnp.zeros((8, 1024), jnp.bfloat16)
  before = for_cuda(lambda x, w: matmul(x, w), x, w)
  with on_h200():
    key = hopper._key(8, w.values.shape, x.dtype)
    chosen = hopper.config_of(8, w.values.shape, x.dtype)
    hopper._TUNED[key] = chosen._replace(stages=chosen.stages - 1)
  assert for_cuda(lambda x, w: matmul(x, w), x, w) != before


def test_values_of_hoppers_layout_have_gradients_of_any_dtype():
  w = layout24.with_layout(
      pack(two_way(512, 128, dtype=jnp.bfloat16)), 'hopper')
  wide_w = w.astype(jnp.float32)
  x = normal(4, 512)
  dx, dv = jax.jit(jax.grad(lambda x, v: matmul(
      x, with_values(wide_w, v)).sum(), (0, 1)))(x, wide_w.values)
  expected = gradients(x, w, np.ones((4, 128)))
  assert_near(dx, expected[0])
  assert_near(unpack(with_values(wide_w, dv)), expected[1])


def test_int8_is_summed_in_int32_in_training_too():
  w = jnp.asarray(np.where(two_way(4, 4), 100, 0), jnp.int8)
  y = training_matmul(jnp.full((1, 4), 100, jnp.int8), w)
  assert y.dtype == jnp.int32
  np.testing.assert_array_equal(y, [[20_000] * 4])
