"""Products with packed weights, against numpy in float64 and dense gradients.

Two-way weights, whose transposed form is packed, too, and those with groups of
0, 1 and 2 entries.
"""

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse import graph
from jaxsparse.packed.layout24 import pack
from jaxsparse.packed.layout24 import with_layout
from jaxsparse.packed.products import matmul
from tests._lib.packed import assert_near
from tests._lib.packed import exported
from tests._lib.packed import gradients
from tests._lib.packed import normal
from tests._lib.packed import ones
from tests._lib.packed import prune
from tests._lib.packed import pruned_along
from tests._lib.packed import stacked
from tests._lib.packed import two_way
from tests._lib.packed import unpack
from tests._lib.packed import wide
from tests._lib.packed import with_values

# One compilation for a shape rather than one for every operation.
jitted = jax.jit(matmul)


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


# The others' sizes are below, at and beyond those of their tiles.
@pytest.mark.parametrize('k, layout', [
    *((k, 'planar') for k in (4, 8, 16, 64, 100, 128, 256, 300)),
    *((k, layout) for k in (4, 64, 128, 300) for layout in (
        'tiled', 'hopper'))])
def test_however_few_inputs_there_are_products_are_dense_ones(k, layout):
  w = with_layout(pack(two_way(k, 6, dtype=jnp.bfloat16)), layout)
  x, dy = (jax.device_put(normal(3, n, seed=n, dtype=jnp.bfloat16))
           for n in (k, 6))

  def run(x, v):
    y, back = jax.vjp(lambda x, v: matmul(x, with_values(w, v)), x, v)
    return y, *back(dy)
  y, dx, dv = jax.jit(run)(x, w.values)
  assert_near(y, np.matmul(*wide(x, unpack(w))))
  for made, expected in zip((dx, unpack(with_values(w, dv))),
                            gradients(x, w, dy)):
    assert_near(made, expected)


@pytest.mark.parametrize('layout', ['planar', 'tiled', 'hopper'])
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
  w = pruned_along(axis, *shape, dtype=jnp.bfloat16)
  x = normal(2, 3, *(shape[a] for a in joined), seed=1, dtype=jnp.bfloat16)
  packed = with_layout(pack(w, axis=axis), layout)
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


@pytest.mark.parametrize('k, n', [(0, 4), (4, 0), (0, 0)])
def test_empty_weights(k, n):
  y = matmul(jnp.ones((3, k)), pack(jnp.zeros((k, n))))
  np.testing.assert_array_equal(y, np.zeros((3, n)))


def test_one_axis_is_one_token():
  w = prune(normal(8, 3))
  x = normal(8, seed=1)
  assert_near(matmul(jnp.asarray(x), pack(w)), np.matmul(*wide(x, w)))


@pytest.mark.parametrize('dtype', ['float8_e4m3fn', 'float8_e5m2'])
def test_float8_serves_too(dtype):
  w = prune(normal(8, 3, dtype=jnp.dtype(dtype)))
  x = normal(2, 8, seed=1, dtype=jnp.dtype(dtype))
  y = matmul(jnp.asarray(x), pack(w), preferred_element_type=jnp.float32)
  assert_near(y, np.matmul(*wide(x, w)))


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('dtype, layout', [
    ('float32', 'planar'), ('bfloat16', 'planar'), ('bfloat16', 'hopper'),
    ('float16', 'hopper'), ('float32', 'tiled')])
def test_gradients_to_x_and_to_kept_values_are_dense_ones(
    dtype, layout, transposed):
  w = with_layout(
      pack(two_way(12, 7, dtype=jnp.dtype(dtype)), transposed=transposed),
      layout)
  x, dy = (jax.device_put(normal(2, 3, n, seed=n, dtype=jnp.dtype(dtype)))
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
  x, dy = jax.device_put(normal(4, 5)), jax.device_put(normal(4, 3, seed=1))
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
  x = jax.device_put(normal(2, *(shape[a] for a in joined), seed=1))
  out = np.einsum(spec, x, w)
  dy = jax.device_put(normal(*out.shape, seed=2))
  both = jax.jit(lambda x, w: jax.vjp(matmul, x, w)[1](dy))(x, packed)
  dense = jax.vjp(lambda x, w: jnp.einsum(spec, x, w), x, jnp.asarray(w))[1](dy)
  assert_near(both[0], dense[0])
  assert_near(unpack(with_values(packed, both[1].values)),
              np.where(ones(packed), dense[1], 0))


def test_grad_to_the_whole_weight_is_one_of_it():
  w = pack(two_way(8, 4), transposed=True)
  x = jax.device_put(normal(2, 8))
  g = jax.grad(lambda w: jitted(x, w).sum(), allow_int=True)(w)
  assert g.layout == w.layout and g.values.shape == w.values.shape
  assert g.positions.dtype == jax.dtypes.float0
  np.testing.assert_array_equal(g.transposed.values, 0)


def test_gradients_of_gradients():
  w = pack(prune(normal(8, 3)))
  x = jax.device_put(normal(2, 8, seed=1))
  loss = lambda x: (matmul(x, w) ** 2).sum()
  dense = np.float64(unpack(w))
  hessian = jax.jacrev(jax.grad(loss))(x)
  assert_near(hessian[0, :, 0], 2 * dense @ dense.T)
  assert_near(hessian[0, :, 1], np.zeros((8, 8)))


def test_kept_values_are_trained_as_any_array():
  w = pack(prune(normal(8, 3)))
  x = jax.device_put(normal(32, 8, seed=1))
  target = 2 * matmul(x, w)
  loss = lambda v: ((matmul(x, with_values(w, v)) - target) ** 2).mean()
  step = jax.jit(lambda v: v - 0.5 * jax.grad(loss)(v))
  v = w.values
  for _ in range(100):
    v = step(v)
  assert loss(v) < 1e-3 * loss(w.values)


def test_vmap_over_weights_tokens_and_both():
  w = stacked(3, 8, 4)
  dense = unpack(w)
  x = jax.device_put(normal(3, 2, 8, seed=1))
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
  x, dy = (jax.device_put(normal(3, 2, n, seed=n, dtype=jnp.bfloat16))
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
  w = with_layout(stacked(3, 8, 8, dtype=jnp.bfloat16), layout)
  dense = unpack(w)
  x = jax.device_put(normal(2, 8, seed=1, dtype=jnp.bfloat16))

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


def test_an_exported_program_runs():
  w, x = pack(prune(normal(8, 4))), jax.device_put(normal(2, 8, seed=1))
  f = lambda x, v: matmul(x, with_values(w, v))
  program = exported(f, x, w.values, platforms=[jax.default_backend()])
  assert_near(program.call(x, w.values), np.matmul(*wide(x, unpack(w))))


def test_the_flops_of_a_product_are_those_of_the_dense_one():
  w = pack(prune(normal(512, 64)))
  counted = graph.flops(lambda w, x: matmul(x, w), w, normal(4, 512))
  assert counted.total == 2 * 4 * 512 * 64


@pytest.mark.parametrize('of_x, of_w', [
    (P('data'), P(None, 'model')), (P(None, None, 'model'), P()),
    (P('data'), P('model'))], ids=str)
def test_explicit_axes_of_operands_are_those_of_their_gradients(of_x, of_w):
  mesh = jax.make_mesh((2, 4), ('data', 'model'),
                       axis_types=(AxisType.Explicit,) * 2)
  dense, dy = prune(normal(1024, 8)), normal(2, 3, 8, seed=2)
  one = pack(dense)
  x = jax.device_put(normal(2, 3, 1024, seed=1), NamedSharding(mesh, of_x))
  w = pack(jax.device_put(dense, NamedSharding(mesh, of_w)))
  with jax.set_mesh(mesh):
    dx, dv = jax.jit(jax.grad(
        lambda x, v: (matmul(x, with_values(w, v)) * dy).sum(), (0, 1)))(
            x, w.values)
  assert jax.typeof(dx) == jax.typeof(x)
  assert jax.typeof(dv) == jax.typeof(w.values)
  to_x, to_w = gradients(x, one, dy)
  assert_near(dx, to_x)
  assert_near(unpack(with_values(one, jax.device_get(dv))), to_w)


@pytest.mark.parametrize('of_x, of_w', [
    (P('data'), P()), (P(), P('data')), (P('data'), P('data'))], ids=str)
def test_in_shard_map_an_operand_of_all_devices_gets_their_sum(of_x, of_w):
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
  weights = [pack(two_way(12, 8, seed=i)) for i in range(4)]
  tokens, dy = normal(4, 3, 12), normal(4, 3, 8, seed=1)
  x = tokens if of_x else tokens[0]
  w = jax.tree.map(lambda *a: jnp.stack(a), *weights) if of_w else weights[0]
  on_mesh = jax.shard_map(
      jax.vmap(matmul, (0 if of_x else None, 0 if of_w else None)),
      mesh=mesh, in_specs=(of_x, of_w), out_specs=P('data'))
  if not of_x:
    tokens = np.stack([x] * 4)
  if not of_w:
    weights = [w] * 4

  def run(x, v):
    y, back = jax.vjp(lambda x, v: on_mesh(x, with_values(w, v)), x, v)
    return y, *back(dy)
  y, dx, dv = jax.jit(run)(jnp.asarray(x), w.values)
  dense = np.stack([unpack(one) for one in weights])
  assert_near(y, np.matmul(*wide(tokens, dense)))
  of_one = [gradients(*each) for each in zip(tokens, weights, dy)]
  to_x, to_w = (np.stack(each) for each in zip(*of_one))
  assert_near(dx, to_x if of_x else to_x.sum(0))
  assert_near(jax.vmap(unpack)(with_values(w, dv)) if of_w else
              unpack(with_values(w, dv)), to_w if of_w else to_w.sum(0))
