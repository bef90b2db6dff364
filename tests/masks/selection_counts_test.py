"""How many `select` keeps, what it refuses, and transformations around it."""

import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.masks import selection
from jaxsparse.masks.selection import select
from jaxsparse.patterns import block
from jaxsparse.patterns import channel
from jaxsparse.patterns import nm
from jaxsparse.patterns import unstructured
from tests._lib.selections import agree
from tests._lib.selections import keeping
from tests._lib.selections import oracle
from tests._lib.selections import PER_LAYER
from tests._lib.selections import scores_of
from tests._lib.selections import selector
from tests._lib.selections import traced

# How many are kept.

@pytest.mark.parametrize('sparsity', [
    0., 1., 0, 1, .5, .25, .1, .3, .7, .9, .95, .99, 1 / 3, .999, 1e-9,
    29 / 60, 59 / 60])
def test_static_sparsity_keeps_the_rounded_share(sparsity):
  k = round((1 - sparsity) * 60)
  x = scores_of('integers', (6, 10))
  agree(select(x, unstructured(), sparsity), oracle(x, k), sparsity)
  agree(select(x, unstructured(sparsity=sparsity)), oracle(x, k), sparsity)


@pytest.mark.parametrize('n, sparsity, kept', [
    (2, .75, 0), (6, .75, 2), (10, .75, 2), (14, .75, 4), (1, .5, 0),
    (3, .5, 2), (5, .5, 2), (7, .5, 4)])
def test_halves_go_to_even(n, sparsity, kept):
  for s in (sparsity, jnp.float32(sparsity)):
    got = selection.kept_count(n, s)
    assert (int(got.hi), int(got.lo)) == (0, kept)


def test_traced_sparsity_is_read_as_float32():
  x = scores_of('integers', (6, 10))
  values = [0., 1., .5, .25, .1, .3, .9, 1 / 3, .999, 29 / 60, .5 - 2**-25,
            .5 + 2**-24, 2**-9, 1 - 2**-24]
  for s in values:
    agree(traced(unstructured())(x, jnp.float32(s)), oracle(x, keeping(60, s)),
          s)
    agree(select(x, unstructured(), jnp.float32(s)), oracle(x, keeping(60, s)),
          s)


def test_traced_counts_are_exact_for_large_layers():
  run = jax.jit(selection.kept_count, static_argnums=0)
  for n in (2**20 + 1, 2**24 + 1, 2**31 + 3, 2**32 + 5, 2**40 + 1):
    for s in (.1, .5, .9, .95, 1 / 3, 1 - 2**-20):
      got = run(n, jnp.float32(s))
      assert int(got.hi) * 2**16 + int(got.lo) == keeping(n, s), (n, s)


@pytest.mark.parametrize('n, sparsity', [
    (1000, .0005), (5000, .0003), (2**20, 1e-4), (2**26, 1e-5)])
def test_traced_counts_are_exact_for_tiny_sparsities(n, sparsity):
  got = selection.kept_count(n, jnp.float32(sparsity))
  assert int(got.hi) * 2**16 + int(got.lo) == keeping(n, sparsity)


def test_weights_beyond_32_bits_are_traced():
  x = jax.ShapeDtypeStruct((48, 2**14, 2**14), jnp.bfloat16)
  for pattern in (unstructured(), nm(2, 4), channel(0), PER_LAYER):
    for s in (.5, jnp.float32(.5)):
      mask = jax.eval_shape(lambda x: select(x, pattern, s), x)  # noqa: B023
      assert mask.shape == x.shape and mask.dtype == bool


def test_traced_sparsity_is_clipped():
  x = scores_of('normal', (6, 10))
  assert traced(unstructured())(x, jnp.float32(-2e-8)).all()
  assert not traced(unstructured())(x, jnp.float32(1 + 1e-6)).any()


def test_sparser_masks_are_subsets():
  x = scores_of('integers', (6, 10))
  masks = [np.asarray(selector(unstructured())(x, jnp.uint32(k)))
           for k in range(61)]
  for fewer, more in zip(masks, masks[1:]):
    assert (more | ~fewer).all() and more.sum() == fewer.sum() + 1


# Transformations.

@pytest.mark.parametrize('pattern, group', [
    (unstructured(), None), (nm(2, 4), (4, 1)), (nm(8, 16), (16, 1))], ids=str)
def test_vmap_selects_row_by_row(pattern, group):
  x = jnp.stack([scores_of('integers', (32, 4), seed=i) for i in range(3)])
  s = np.array([.25, 1 / 3, 31 / 32], np.float32)
  got = jax.jit(jax.vmap(lambda x, s: select(x, pattern, s)))(x, s)
  for i in range(3):
    k = keeping(math.prod(group or (32, 4)), s[i])
    agree(got[i], oracle(x[i], k, group=group), i)


def test_vmap_keeps_a_static_share_of_blocks():
  x = jnp.stack([scores_of('integers', (4, 6), seed=i) for i in range(3)])
  got = jax.vmap(lambda x: select(x, block((2, 2)), .5))(x)
  for i in range(3):
    agree(got[i], oracle(x[i], 3, unit=(2, 2)), i)


def test_select_works_inside_scan_and_cond():
  xs = jnp.stack([scores_of('integers', (6, 10), seed=i) for i in range(4)])
  s = np.array([0., .3, .75, 1.], np.float32)

  @jax.jit
  def run(xs, s):
    def step(mask, row):
      x, s, on = row
      mask = lax.cond(
          on, lambda: select(x, unstructured(), s), lambda: mask)
      return mask, mask
    on = jnp.array([True, True, False, True])
    return lax.scan(step, jnp.zeros((6, 10), bool), (xs, s, on))[1]

  masks = run(xs, s)
  for i in (0, 1, 3):
    agree(masks[i], oracle(xs[i], keeping(60, s[i])), i)
  agree(masks[2], np.asarray(masks[1]))


@pytest.mark.parametrize('pattern', [
    unstructured(sparsity=.5), nm(8, 16)], ids=str)
def test_a_mask_made_inside_a_loss_has_no_gradient_of_its_own(pattern):
  w = scores_of('normal', (32, 4))
  mask = select(jnp.abs(w), pattern)
  got = jax.jit(jax.grad(lambda w: jnp.sum(
      w * select(jnp.abs(w), pattern).astype(w.dtype))))(w)
  np.testing.assert_array_equal(got, np.asarray(mask, np.float32))


def test_masks_are_deterministic_and_scale_free():
  x = scores_of('normal', (6, 10))
  mask = select(x, unstructured(), .7)
  agree(select(x, unstructured(), .7), np.asarray(mask))
  agree(select(x * 2.**40, unstructured(), .7), np.asarray(mask))


def test_scores_may_be_float64():
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    for x in (rng.standard_normal((6, 10)), 1 + rng.integers(0, 9, (6, 10))
              * 2.**-52, scores_of('nan', (6, 10), 'float64'),
              scores_of('heavy', (6, 10), 'float64')):
      x = jnp.asarray(x)
      assert x.dtype == jnp.float64
      for k in (0, 1, 17, 30, 59, 60):
        agree(select(x, unstructured(), (60 - k) / 60), oracle(x, k), k)
    # Traced, the sparsity is read as float32 all the same.
    got = jax.jit(lambda x, s: select(x, unstructured(), s))(
        x, jnp.float64(.1))
    agree(got, oracle(x, keeping(60, .1)))
    x = jnp.asarray(1 + rng.integers(0, 4, (8, 3)) * 2.**-52)
    agree(select(x, nm(2, 4)), oracle(x, 2, group=(4, 1)))
    # What float32 would lose in a block's sum decides.
    x = jnp.asarray([[1., 2.**-40, 1., 0.]])
    agree(select(x[:, ::-1], block((1, 2)), .5), np.array([[0, 0, 1, 1]], bool))


# Empty weights.

@pytest.mark.parametrize('shape, pattern', [
    ((0,), unstructured()), ((0, 4), unstructured()), ((0, 4), nm(2, 4)),
    ((4, 0), nm(2, 4)), ((4, 0), block((2, 2))), ((0, 4), channel(-1)),
    ((4, 0), channel(-1)), ((0, 4), channel(-1, reduce='mean')),
    ((0, 4), channel(-1, reduce='max')),
    ((4, 0), block((2, 2), reduce='max'))], ids=str)
def test_empty_weights_have_empty_masks(shape, pattern):
  mask = select(jnp.zeros(shape), pattern, .5)
  assert mask.shape == shape and mask.dtype == bool


# Errors.

@pytest.mark.parametrize('pattern, shape, message', [
    (nm(2, 4), (6, 4), r'(?s)nm\(2, 4\).*axis -2.*\(6, 4\)'),
    (nm(2, 4), (8,), r'(?s)nm\(2, 4\).*axis -2.*\(8,\).*dense'),
    (nm(2, 4, axis=3), (8, 8), r'(?s)axis 3.*\(8, 8\)'),
    (block((4, 4), sparsity=.5), (8, 6),
     r'(?s)block\(\(4, 4\).*axis -1.*\(8, 6\)'),
    (block((4, 4), sparsity=.5), (8,), r'(?s)block\(\(4, 4\).*\(8,\)'),
    (channel(-1, sparsity=.5), (), r'(?s)channel\(-1.*axis -1.*\(\)')], ids=str)
def test_a_pattern_that_does_not_tile_is_an_error(pattern, shape, message):
  with pytest.raises(ValueError, match=message):
    select(jnp.ones(shape), pattern)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda x: select(x, pattern), jnp.ones(shape))


@pytest.mark.parametrize('sparsity', [1.5, -.1, 90, float('nan')])
def test_a_sparsity_outside_of_0_and_1_is_an_error(sparsity):
  with pytest.raises(ValueError, match=r'(?s)fraction pruned.*\[0, 1\].*got '):
    select(jnp.ones(4), unstructured(), sparsity)
  with pytest.raises(ValueError, match=r'(?s)fraction pruned.*\[0, 1\].*got '):
    unstructured(sparsity=sparsity)
  with pytest.raises(ValueError, match='min_sparsity'):
    channel(min_sparsity=sparsity)


def test_a_missing_sparsity_is_an_error():
  with pytest.raises(ValueError, match=r'(?s)needs a sparsity.*Write e.g.'):
    select(jnp.ones(4), unstructured())


def test_integer_scores_are_an_error():
  with pytest.raises(ValueError, match=r'(?s)floating.*int32.*astype'):
    select(jnp.ones(4, jnp.int32), unstructured(), .5)
  with pytest.raises(ValueError, match=r'(?s)floating.*bool'):
    select(jnp.ones((4, 4), bool), nm(2, 4))
