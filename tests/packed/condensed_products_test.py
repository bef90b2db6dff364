"""Products with condensed weights and their gradients, against numpy."""

import dataclasses
import functools
import math
import re

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse import graph
from jaxsparse.packed import _condensed_products as products
from jaxsparse.packed.condensed import condense
from jaxsparse.packed.condensed import uncondense
from jaxsparse.packed.products import matmul
from tests._lib.condensed import same
from tests._lib.condensed import weight
from tests._lib.packed import assert_near
from tests._lib.packed import normal
from tests._lib.packed import wide
from tests._lib.packed import with_values

# One compilation for a shape rather than one for every operation.
jitted = jax.jit(matmul, static_argnames='preferred_element_type')

_MOVES = re.compile(
    r'= (\S+) (?:all-gather|all-reduce|all-to-all|collective-permute)')


# Every form, whatever the platform: CPUs have the first two, others the last.
_FORMS = {
    'in parts': (products._in_parts, products._in_parts_dx,
                 products._in_parts_dw),
    'by entries': (products._by_entries, products._by_entries_dx,
                   products._by_entries_dw),
    'at once': (products._at_once, products._at_once_dx,
                products._at_once_dw)}


@functools.partial(jax.jit, static_argnums=(0, 4))
def run(form, x, c, dy, nbytes=0):
  """A form's product and gradients; to padding, too."""
  del nbytes  # But what was traced with other ones is not the same.
  forward, back_to_x, back_to_w = _FORMS[form]
  rows = jnp.pad(x.T, ((0, 1), (0, 0)))
  y = forward(rows, c.values, c.indices, dtype=jnp.float32)
  dx = back_to_x(c.values, dy.T, c.indices, like=rows)
  dv = back_to_w(rows, dy.T, c.indices, like=c.values)
  return y.T, dx[:-1].T, dv


def assert_is_dense_product(results, x, w, c, mask, dy):
  y, dx, dv = results
  assert y.dtype == jnp.float32 and dx.dtype == dv.dtype == w.dtype
  assert_near(y, np.matmul(*wide(x, w)))
  assert_near(dx, np.matmul(*wide(dy, w.T)))
  assert_near(uncondense(with_values(c, dv)),
              np.where(mask, np.matmul(*wide(x.T, dy)), 0))
  padding = np.asarray(c.indices) == w.shape[0]
  assert padding.any() and not np.asarray(dv)[padding].any()


@pytest.mark.parametrize('s, form, tokens, dtype', [
    (4, 'in parts', 3, 'float32'), (1, 'by entries', 3, 'float32'),
    (4, 'in parts', 3, 'bfloat16'), (1, 'by entries', 3, 'bfloat16'),
    (4, 'at once', 3, 'bfloat16'), (1, 'at once', 2, 'bfloat16'),
    (4, 'at once', 40, 'float32'), (1, 'at once', 40, 'float32')])
def test_every_form_is_the_dense_product_with_its_gradients(
    s, form, tokens, dtype):
  w, mask = weight(k=33, j=6, s=4, dtype=dtype)
  c = condense(w, mask, block=s)
  x, dy = (normal(tokens, n, dtype=jnp.dtype(dtype), seed=n) for n in (33, 24))
  assert_is_dense_product(run(form, x, c, dy), x, w, c, mask, dy)


@pytest.mark.parametrize('nbytes, parts', [(2**20, 1), (24 * 12 * 32, 2),
                                           (1, 3)])
def test_as_many_block_columns_at_once_as_caches_hold(
    nbytes, parts, monkeypatch):
  w, mask = weight(k=32, j=48, s=2)
  c = condense(w, mask, fan_in=32)
  x, dy = normal(3, 32), normal(3, 96, seed=1)
  monkeypatch.setattr(products, '_BYTES', nbytes)
  assert products._parts(c.indices, 12)[0] == parts
  assert_is_dense_product(run('in parts', x, c, dy, nbytes),
                          x, w, c, mask, dy)


@pytest.mark.parametrize('s', [4, 1])
@pytest.mark.parametrize('leading', [(), (2, 3), (2, 0)], ids=str)
def test_leading_axes_are_tokens(s, leading):
  w, mask = weight()
  x = normal(*leading, 12)
  c = condense(w, mask, block=s)
  y, back = jax.vjp(lambda x, v: matmul(x, with_values(c, v)),
                    jnp.asarray(x), c.values)
  assert_near(y, np.matmul(*wide(x, w)))
  dx, dv = back(y)
  assert_near(dx, np.matmul(*wide(y, w.T)))
  assert_near(uncondense(with_values(c, dv)), np.where(
      mask, np.float64(x).reshape(math.prod(leading), 12).T
      @ np.float64(y).reshape(math.prod(leading), 20), 0))


@pytest.mark.parametrize('of_x, of_w, preferred, out, s', [
    ('bfloat16', 'bfloat16', None, 'bfloat16', 4),
    ('bfloat16', 'bfloat16', 'float32', 'float32', 1),
    ('float32', 'bfloat16', None, 'float32', 4),
    ('bfloat16', 'float32', None, 'float32', 1),
    ('float32', 'float32', 'bfloat16', 'bfloat16', 4),
    ('float16', 'int8', None, 'float16', 1), ('int8', 'int8', None, 'int32', 4),
    ('int8', 'int8', 'float32', 'float32', 1)])
def test_dtypes_are_those_of_other_products(of_x, of_w, preferred, out, s):
  w, mask = weight(dtype=of_w)
  x = normal(3, 12, dtype=jnp.dtype(of_x))
  c = condense(w, mask, block=s)
  with jax.numpy_dtype_promotion('standard'):
    y = jitted(jnp.asarray(x), c, preferred_element_type=preferred)
  assert y.dtype == out
  assert_near(y, np.matmul(*wide(x, w)))


@pytest.mark.parametrize('s', [4, 1])
def test_sums_are_wide(s):
  w = np.ones((1024, 4), jnp.bfloat16)
  c = condense(w, w == 1, block=s)
  assert (jitted(jnp.ones((1, 1024), jnp.bfloat16), c) == 1024).all()
  c = condense(np.full((1024, 4), -128, np.int8), w == 1, block=s)
  y = jitted(jnp.full((1, 1024), -128, jnp.int8), c)
  assert y.dtype == jnp.int32 and (y == 1024 * 128 * 128).all()


@pytest.mark.parametrize('s', [4, 1])
def test_nothing_kept_gives_zeros(s):
  w = jnp.zeros((12, 8))
  c = condense(w, w != 0, block=s)
  assert c.fan_in == 0
  same(uncondense(c), w)
  y, back = jax.vjp(lambda x: matmul(x, c), jnp.ones((3, 12)))
  same(y, np.zeros((3, 8), np.float32))
  same(*back(y), np.zeros((3, 12), np.float32))


@pytest.mark.parametrize('k, n', [(0, 4), (4, 0), (0, 0)])
def test_empty_weights(k, n):
  w = jnp.zeros((k, n))
  c = condense(w, w != 0)
  assert jitted(jnp.ones((3, k)), c).shape == (3, n)
  same(uncondense(c), w)


@pytest.mark.parametrize('s', [4, 1])
def test_weights_are_mapped_and_scanned_over(s):
  w, mask = weight(k=20, leading=(3,))
  c = condense(w, mask, block=s)
  x = normal(3, 2, 20)
  assert_near(jax.vmap(matmul)(x, c), np.matmul(*wide(x, w)))

  def loss(v, product, c):
    x0 = jnp.asarray(x[0])
    return (lax.scan(lambda x, w: (jnp.tanh(product(x, w)), None), x0,
                     with_values(c, v) if c else v)[0] ** 2).sum()
  dv = jax.jit(jax.grad(lambda v: loss(v, matmul, c)))(c.values)
  dw = jax.jit(jax.grad(lambda w: loss(w, jnp.matmul, None)))(jnp.asarray(w))
  assert_near(uncondense(with_values(c, dv)), np.where(mask, dw, 0), 1e-5)


@pytest.mark.parametrize('s', [4, 1])
def test_padding_stays_zero_and_has_no_say(s):
  w, mask = weight()
  c = condense(w, mask, block=s, fan_in=12)
  assert (np.asarray(c.indices) == 12).any()
  x = jax.device_put(normal(3, 12))
  padding = np.asarray(c.indices) == 12
  other = np.array(c.values)
  assert not other[padding].any()
  other[padding] = 1e9
  same(jitted(x, with_values(c, jnp.asarray(other))), jitted(x, c))
  dv = jax.grad(lambda v: matmul(x, with_values(c, v)).sum())(c.values)
  assert not np.asarray(dv)[padding].any()


@pytest.mark.parametrize('kind', [AxisType.Auto, pytest.param(
    AxisType.Explicit, marks=pytest.mark.skipif(
        jax.__version_info__ < (0, 10), reason='has no gradients there'))],
                         ids=str)
@pytest.mark.parametrize('s', [16, 1])
def test_block_columns_are_sharded_and_no_weight_is_moved(kind, s):
  w, mask = weight(k=32, j=32, s=16)
  c = condense(w, mask, block=s)
  x = normal(4, 32)
  mesh = jax.make_mesh((8,), ('model',), axis_types=(kind,))
  place = lambda spec: NamedSharding(mesh, spec)
  columns = P(None, 'model') if s == 1 else P('model')
  values, indices = jax.device_put((c.values, c.indices), place(columns))
  x = jax.device_put(x, place(P()))

  def both(x, v, i):
    f = lambda x, v: matmul(x, dataclasses.replace(c, values=v, indices=i))
    y, back = jax.vjp(f, x, v)
    return y, *back(y)
  with jax.set_mesh(mesh):
    run = jax.jit(both).lower(x, values, indices).compile()
  # Nothing but what inputs get is summed over devices.
  assert _MOVES.findall(run.as_text()) == ['f32[33,4]{1,0}']
  y, dx, dv = run(x, values, indices)
  dy = np.matmul(*wide(x, w))
  assert_near(y, dy)
  assert_near(dx, dy @ w.T, 1e-5)
  assert dv.sharding.is_equivalent_to(values.sharding, dv.ndim)
  assert_near(uncondense(with_values(c, jax.device_get(dv))),
              np.where(mask, np.float64(x).T @ dy, 0), 1e-5)


def test_explicit_axes_of_a_batch_are_those_of_the_result():
  w, mask = weight(k=32, j=8, s=4)
  mesh = jax.make_mesh((2, 4), ('data', 'model'),
                       axis_types=(AxisType.Explicit,) * 2)
  c = condense(w, mask)
  x = jax.device_put(normal(4, 3, 32), NamedSharding(mesh, P('data')))
  with jax.set_mesh(mesh):
    c = jax.device_put(c, NamedSharding(mesh, P('model')))
    y = jax.jit(matmul)(x, c)
  assert jax.typeof(y).sharding.spec == P('data', None, 'model')
  assert_near(y, np.matmul(*wide(x, w)))


def test_one_program_serves_several_platforms():
  w, mask = weight()
  x = jax.device_put(normal(3, 12))
  for s in (4, 1):
    c = condense(w, mask, block=s)
    program = jax.export.export(jax.jit(
        lambda x, v, c=c: matmul(x, with_values(c, v))),
        platforms=['cpu', 'cuda', 'tpu'])(x, c.values)
    assert_near(program.call(x, c.values), np.matmul(*wide(x, w)))


def test_the_flops_of_a_condensed_product_are_those_of_what_is_kept():
  w = jnp.repeat(jnp.eye(16), 4, 1)
  for s in 4, 1:
    c = condense(w, w != 0, block=s, fan_in=2)
    counted = graph.flops(lambda w, x: matmul(x, w), c, normal(3, 16))
    assert counted.total == 2 * 3 * 2 * 64


@pytest.mark.parametrize('platform', ['cpu', 'others'])
@pytest.mark.parametrize('of_x, of_w', [
    (P('data'), P()), (P(), P('data')), (P('data'), P('data'))], ids=str)
@pytest.mark.parametrize('s', [4, 1])
def test_in_shard_map_an_operand_of_all_devices_gets_their_sum(
    s, of_x, of_w, platform, monkeypatch):
  if platform == 'others':
    monkeypatch.setattr(
        lax, 'platform_dependent', lambda *a, default, **_: default(*a))
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
  # More than eight entries of an output, which a loop adds.
  w, mask = weight(k=40, leading=(4,))
  x, dy = normal(4, 3, 40), normal(4, 3, 20, seed=1)
  if not of_x:
    x = np.stack([x[0]] * 4)
  if not of_w:
    w, mask = (np.stack([a[0]] * 4) for a in (w, mask))
  c = condense(w, mask, block=s)
  whole = jnp.asarray(x) if of_x else jnp.asarray(x[0])
  c = c if of_w else jax.tree.map(lambda a: a[0], c)
  assert c.fan_in > 8
  on_mesh = jax.shard_map(
      jax.vmap(matmul, (0 if of_x else None, 0 if of_w else None)),
      mesh=mesh, in_specs=(of_x, of_w), out_specs=P('data'))

  def run(x, v):
    y, back = jax.vjp(lambda x, v: on_mesh(x, with_values(c, v)), x, v)
    return y, *back(dy)
  y, dx, dv = jax.jit(run)(whole, c.values)
  x, w, dy = wide(x, w, dy)
  to_x = dy @ w.swapaxes(1, 2)
  to_w = np.where(mask, x.swapaxes(1, 2) @ dy, 0)
  assert_near(y, x @ w)
  assert_near(dx, to_x if of_x else to_x.sum(0))
  assert_near(uncondense(with_values(c, dv)), to_w if of_w else to_w.sum(0))
