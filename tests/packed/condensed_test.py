"""Condensed weights, against numpy: what is kept, products, gradients."""

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

from jaxsparse.masks.selection import select
from jaxsparse.packed import condensed
from jaxsparse.packed.condensed import condense
from jaxsparse.packed.condensed import uncondense
from jaxsparse.packed.products import matmul
from jaxsparse.patterns import block
from jaxsparse.patterns import channel
from jaxsparse.patterns import nm
from jaxsparse.patterns import unstructured
from tests.packed.layout24_test import normal
from tests.packed.products_test import assert_near
from tests.packed.products_test import wide
from tests.packed.products_test import with_values

# One compilation for a shape rather than one for every operation.
jitted = jax.jit(matmul, static_argnames='preferred_element_type')

_MOVES = re.compile(
    r'= (\S+) (?:all-gather|all-reduce|all-to-all|collective-permute)')


def masks(k, j, s, *, leading=(), balanced=False, seed=0):
  """1 x S blocks, of which every block column keeps a third or so."""
  random = np.random.default_rng(seed).random((*leading, k, j))
  if balanced:
    return np.repeat(random.argsort(-2).argsort(-2) < k // 3, s, -1)
  return np.repeat(random < 1 / 3, s, -1)


def weight(k=12, j=5, s=4, dtype=np.float32, **options):
  """A dense masked weight, and the mask."""
  mask = masks(k, j, s, **options)
  w = normal(*mask.shape, dtype=jnp.dtype(dtype), seed=7)
  return np.where(mask, w, np.zeros((), w.dtype)), mask


def same(a, b):
  a, b = np.asarray(a), np.asarray(b)
  assert (a.shape, a.dtype) == (b.shape, b.dtype)
  assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize('k, j, s, leading', [
    (9, 5, 3, ()), (7, 4, 1, ()), (8, 3, 2, (2,)), (6, 2, 1, (2, 2))], ids=str)
@pytest.mark.parametrize('seed', range(2))
def test_what_is_kept_comes_back_bit_for_bit(k, j, s, leading, seed):
  mask = masks(k, j, s, leading=leading, seed=seed)
  w = np.random.default_rng(seed).integers(
      0, 2**32, mask.shape, np.uint32).view(np.float32)  # NaN and -0.0, too.
  # As many in all cases: they are compiled once.
  c = condense(w, mask, block=s, fan_in=k - 1)
  same(np.asarray(uncondense(c)).view(np.uint32),
       np.where(mask, w.view(np.uint32), 0))
  assert c.shape == w.shape and c.ndim == w.ndim and c.dtype == w.dtype
  for at in np.ndindex(*leading, j):  # An oracle for every column, one by one.
    rows = np.flatnonzero(mask[(*at[:-1], slice(None), at[-1] * s)])
    index = np.asarray(c.indices)[
        (*at[:-1], slice(None), at[-1]) if s == 1 else at]
    assert index.tolist() == [*rows, *[k] * (k - 1 - len(rows))]
  assert condense(w, mask, block=s).fan_in == mask.sum(-2).max()


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'int8',
                                   'float8_e4m3fn', 'float32'])
def test_every_dtype_is_condensed_by_its_zeros(dtype):
  w, mask = weight(dtype=dtype)
  w = np.where(mask, w, -np.zeros((), w.dtype))
  w[0, :4], mask[0, :4] = np.array([-0., 0., 0., 0.], w.dtype), False
  for c in (condense(w, mask), condense(w, block((1, 4)))):
    assert c.dtype == w.dtype and c.block == 4
    assert c.fan_in == mask[:, ::4].sum(0).max()
    np.testing.assert_array_equal(
        np.float32(uncondense(c)), np.where(mask, np.float32(w), 0))


def test_tiny_numbers_are_kept():
  w = np.zeros((4, 2), np.float32)
  w[2, 1] = np.finfo(np.float32).smallest_subnormal
  same(uncondense(condense(w, block((1, 2)))), w)


@pytest.mark.parametrize('n, s', [(12, 1), (12, 3), (12, 4), (12, 12), (16, 8)])
def test_the_largest_block_is_found(n, s):
  mask = masks(30, n // s, s, balanced=True)
  mask[0], mask[1, :s], mask[1, s:] = False, True, False
  if s == 1:  # The same number for every output.
    mask = masks(30, n, 1, balanced=True)
  assert condense(np.ones((30, n), np.float32), mask).block == s


def test_sizes_are_told():
  w, mask = weight(k=64, j=4, s=8, balanced=True)
  c = condense(w, mask)
  assert (c.shape, c.block, c.fan_in) == ((64, 32), 8, 21)
  assert (c.contracted, c.features) == ((64,), (32,))
  assert c.values.shape == (4, 21, 8) and c.indices.shape == (4, 21)
  assert c.nbytes == 4 * (21 * 32 + 21 * 4)
  assert repr(c) == 'Condensed(64x32 float32, blocks of 1x8, fan-in 21)'
  c = condense(w, mask, block=1).astype(jnp.bfloat16)
  assert c.values.shape == c.indices.shape == (21, 32)
  assert c.nbytes == (2 + 4) * 21 * 32 and c.dtype == jnp.bfloat16
  assert 'spec' in repr(jax.tree.map(lambda _: 'spec', c))


@pytest.mark.parametrize('pattern, s, fan_in', [
    (block((1, 4), balanced=True, sparsity=.75), 4, 4),
    (block((4,), balanced=True, sparsity=.75), 4, 4),
    (block((1, 4), sparsity=.75), 4, None),
    (block((1, 1), balanced=True, sparsity=.75), 1, 4),
    (channel(-2, sparsity=.75), 32, 4), (nm(3, 16), 1, 3)], ids=str)
def test_patterns_say_their_block_and_balanced_ones_pad_nothing(
    pattern, s, fan_in):
  w = normal(16, 32)
  mask = select(jnp.abs(w), pattern)
  w = jnp.where(mask, w, 0)
  c = condense(w, pattern)
  same(uncondense(c), w)
  assert c.block == s and fan_in in (None, c.fan_in)
  assert fan_in is None or (c.indices < 16).all()


def test_stacked_weights_have_one_fan_in():
  w, mask = weight(leading=(3,))
  c = condense(w, mask)
  assert c.values.shape == (3, 5, mask.sum(-2).max(), 4)
  same(uncondense(c), w)
  one_by_one = [condense(w[i], mask[i], fan_in=c.fan_in) for i in range(3)]
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *one_by_one)
  assert jax.tree.structure(stacked) == jax.tree.structure(c)
  jax.tree.map(same, stacked, c)


def test_inside_of_jit_the_fan_in_is_told_and_gradients_are_those_kept():
  w, mask = weight()
  for s in (4, 1):
    made = jax.jit(lambda w, s=s: condense(w, mask, block=s, fan_in=9))(w)
    jax.tree.map(same, made, condense(w, mask, block=s, fan_in=9))
    dw = jax.grad(lambda w, s=s: (condense(
        w, mask, block=s).values ** 2).sum())(jnp.asarray(w))
    np.testing.assert_array_equal(dw, 2 * w)


@pytest.mark.parametrize('call, told', [
    (lambda w, m: condense(w, jnp.asarray(m)), 'block=16'),
    (lambda w, m: condense(w, jnp.asarray(m), block=4), r'fan_in=n'),
    (lambda w, m: condense(w, block((1, 4))), r'fan_in=n'),
])
def test_inside_of_jit_what_to_write_is_told(call, told):
  with pytest.raises(ValueError, match=rf'(?s)Inside of jit.*{told}'):
    jax.jit(call)(*weight())


@pytest.mark.parametrize('pattern', [
    nm(2, 4), unstructured(), channel(-1), block((4, 1)),
    block((4, 4)), block((4, 4), balanced=True), nm(4, 20, axis=-1)], ids=str)
def test_other_patterns_are_told_what_can_be_condensed(pattern):
  with pytest.raises(ValueError, match=(
      r'(?s)block\(\(1, S\)\).*nm\(n, 12\).*got ' + re.escape(str(pattern)))):
    condense(weight()[0], pattern)


@pytest.mark.parametrize('mask', [
    select(jnp.abs(normal(12, 20)), block((4, 1)), .5),
    select(jnp.abs(normal(12, 20)), channel(-1), .5),
    select(jnp.abs(normal(12, 20)), unstructured(), .5)])
def test_other_masks_are_told_to_be_filled_up(mask):
  w = jnp.where(mask, normal(12, 20), 0)
  with pytest.raises(ValueError, match=(
      r'(?s)keep from \d+ to \d+ of 12.*block\(\(1, 16\)\).*nm\(n, 12\).*'
      r'block=1')):
    condense(w, mask)
  same(uncondense(condense(w, mask, block=1)), w)


@pytest.mark.parametrize('options, told', [
    ({'fan_in': 1}, 'more than fan_in=1'), ({'fan_in': 13}, 'of 12 inputs'),
    ({'fan_in': -1}, 'of 12 inputs'), ({'block': 3}, 'must divide'),
    ({'block': 0}, 'must divide'), ({'block': 4.}, 'must divide'),
    ({'block': 20}, 'not made of 1 x 20 .*which finds 4')])
def test_what_does_not_fit_is_told(options, told):
  with pytest.raises(ValueError, match=told):
    condense(*weight(), **options)


@pytest.mark.parametrize('w, mask, options, told', [
    (np.ones((4,)), np.ones((4,), bool), {}, r'\[\.\.\., K, N\]'),
    (np.ones((4, 4), bool), np.ones((4, 4), bool), {}, 'floats or integers'),
    (np.ones((4, 4)), np.ones((4, 4)), {}, 'bool mask of the shape'),
    (np.ones((4, 4)), np.ones((4,), bool), {}, r'w != 0'),
    (np.ones((4, 4)), None, {}, r'w != 0'),
    (np.ones((4, 4)), block((1, 2)), {'block': 2}, 'block= is for masks'),
    (np.ones((4, 5)), block((1, 2)), {}, 'multiple of 2'),
])
def test_other_arguments_are_an_error(w, mask, options, told):
  with pytest.raises(ValueError, match=told):
    condense(jnp.asarray(w, bool if w.dtype == bool else jnp.float32), mask,
             **options)


# Every form, whatever the platform: CPUs have the first two, others the last.
_FORMS = {
    'in parts': (condensed._in_parts, condensed._in_parts_back),
    'by entries': (condensed._by_entries, condensed._by_entries_back),
    'at once': (condensed._at_once, condensed._at_once_back)}


@functools.partial(jax.jit, static_argnums=(0, 4))
def run(form, x, c, dy, nbytes=0):
  """A form's product and gradients; to padding, too."""
  del nbytes  # But what was traced with other ones is not the same.
  forward, back = _FORMS[form]
  rows = jnp.pad(x.T, ((0, 1), (0, 0)))
  y = forward(rows, c.values, c.indices, dtype=jnp.float32)
  dx, dv = back(rows, c.values, c.indices, dy.T)
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
  monkeypatch.setattr(condensed, '_BYTES', nbytes)
  assert condensed._parts(c.indices, 12)[0] == parts
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
  x = jnp.asarray(normal(3, 12))
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
  x = jnp.asarray(normal(3, 12))
  for s in (4, 1):
    c = condense(w, mask, block=s)
    program = jax.export.export(jax.jit(
        lambda x, v, c=c: matmul(x, with_values(c, v))),
        platforms=['cpu', 'cuda', 'tpu'])(x, c.values)
    assert_near(program.call(x, c.values), np.matmul(*wide(x, w)))


def test_a_weight_that_was_never_pruned_is_told():
  w = jnp.ones((16, 8))
  for pattern in (nm(3, 16), block((1, 4), sparsity=0.75)):
    with pytest.raises(ValueError, match='has been pruned by it'):
      condense(w, pattern)
    mask = select(w, pattern)
    pruned = condense(jnp.where(mask, w, 0.), pattern)
    np.testing.assert_array_equal(uncondense(pruned), jnp.where(mask, w, 0.))
