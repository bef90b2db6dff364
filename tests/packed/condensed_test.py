"""Condensed weights: what is kept comes back, and what is not is told."""

import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse.masks.selection import select
from jaxsparse.packed.condensed import _total
from jaxsparse.packed.condensed import condense
from jaxsparse.packed.condensed import uncondense
from jaxsparse.patterns import block
from jaxsparse.patterns import channel
from jaxsparse.patterns import nm
from jaxsparse.patterns import unstructured
from tests._lib.condensed import masks
from tests._lib.condensed import same
from tests._lib.condensed import weight
from tests._lib.packed import normal


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


@pytest.mark.parametrize('dtype', [
    'float8_e4m3fnuz', 'float8_e5m2fnuz', 'float8_e4m3b11fnuz'])
def test_nan_is_kept_by_floats_that_have_it_in_the_place_of_minus_zero(dtype):
  w = np.zeros((4, 2), dtype)
  w[2, 1], w[1, 0] = np.nan, jnp.finfo(dtype).smallest_subnormal
  c = condense(w, block((1, 2)))
  assert c.fan_in == 2
  np.testing.assert_array_equal(np.float32(uncondense(c)), np.float32(w))


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
    (channel(-2, sparsity=.75), 32, 4), (nm(3, 16), 1, 3),
    (unstructured(.75, balanced=True), 1, 4)], ids=str)
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


@pytest.mark.parametrize('kinds, spec', [
    ((AxisType.Explicit,) * 2, spec) for spec in (
        P(None, None, 'model'), P('data', 'model'), P(None, 'data', 'model'),
        P(None, None, ('data', 'model')))] + [
            ((AxisType.Auto, AxisType.Explicit), P(None, 'model'))], ids=str)
def test_explicitly_sharded_weights_are_condensed_as_others(kinds, spec):
  mesh = jax.make_mesh((2, 4), ('data', 'model'), axis_types=kinds)
  place = lambda a: jax.device_put(a, NamedSharding(mesh, spec))
  # Every column keeps two, and eight devices have columns of four blocks.
  mask = np.zeros((2, 8, 16), bool)
  mask[:, 1:3] = True
  mask[0, :3, 4:8] = [[True], [False], [True]]
  w = np.where(mask, normal(*mask.shape), np.float32(0))
  on_mesh = place(w)
  for s, calls in ((4, [lambda w, m: condense(w, m),
                        lambda w, m: condense(w, m, block=4),
                        lambda w, m: condense(w, block((1, 4), sparsity=.5))]),
                   (1, [lambda w, m: condense(w, m, block=1),
                        lambda w, m: condense(w, nm(2, 8))])):
    expected = condense(w, mask, block=s)
    for call in calls:
      for each in (place(mask), mask):
        c = call(on_mesh, each)
        assert c.block == s
        jax.tree.map(same, c, expected)
        same(uncondense(c), w)


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
  with pytest.raises(ValueError, match=rf'(?s)inside of jit.*{told}'):
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
      r'(?s)got from \d+ to \d+ of 12.*block\(\(1, 16\)\).*nm\(n, 12\).*'
      r'block=1')):
    condense(w, mask)
  same(uncondense(condense(w, mask, block=1)), w)


@pytest.mark.parametrize('options, told', [
    ({'fan_in': 1}, 'fan_in=1 must be at least'),
    ({'fan_in': 13}, ', at most 12'),
    ({'fan_in': -1}, ', at most 12'), ({'block': 3}, 'a divisor'),
    ({'block': 0}, 'a divisor'), ({'block': 4.}, 'must be a whole number'),
    ({'block': 20}, 'must consist of 1 x 20 .*which finds 4')])
def test_what_does_not_fit_is_told(options, told):
  with pytest.raises(ValueError, match=told):
    condense(*weight(), **options)


@pytest.mark.parametrize('w, mask, options, told', [
    (np.ones((4,)), np.ones((4,), bool), {}, r'\[\.\.\., K, N\]'),
    (np.ones((4, 4), bool), np.ones((4, 4), bool), {}, 'floats or integers'),
    (np.ones((4, 4)), np.ones((4, 4)), {}, 'bool mask of the shape'),
    (np.ones((4, 4)), np.ones((4,), bool), {}, r'w != 0'),
    (np.ones((4, 4)), None, {}, r'w != 0'),
    (np.ones((4, 4)), block((1, 2)), {'block': 2}, 'block= needs a mask'),
    (np.ones((4, 5)), block((1, 2)), {}, 'multiple of 2'),
])
def test_other_arguments_are_an_error(w, mask, options, told):
  with pytest.raises(ValueError, match=told):
    condense(jnp.asarray(w, bool if w.dtype == bool else jnp.float32), mask,
             **options)


@pytest.mark.parametrize('shape, count', [
    ((2**16,), 2**16), ((3, 2**14), 2**31 - 1), ((5,), 0), ((0, 3), 7)],
                         ids=str)
def test_units_are_counted_however_many_they_are(shape, count):
  counts = np.full(shape, count, np.int32)
  assert _total(jnp.asarray(counts)) == counts.sum(dtype=np.int64)


def test_a_weight_that_was_never_pruned_is_told():
  w = jnp.ones((16, 8))
  for pattern in (nm(3, 16), block((1, 4), sparsity=0.75)):
    with pytest.raises(ValueError, match='pruned by this pattern'):
      condense(w, pattern)
    mask = select(w, pattern)
    pruned = condense(jnp.where(mask, w, 0.), pattern)
    np.testing.assert_array_equal(uncondense(pruned), jnp.where(mask, w, 0.))
