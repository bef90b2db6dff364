"""Whole weights in one search: which are kept, and in how much memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import schedules
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import whole
from jaxsparse.masks.remade import Remade

# One of each: cut along one axis or two, odd, long and odd, thin, scalar.
_SHAPES = [(512, 300), (3, 3, 64, 96), (70, 4099), (65537,), (40000, 3), (17,),
           (1, 1), ()]


def _expected(x, k):
  x = np.where(np.isnan(x), -np.inf, np.asarray(x, np.float64)).reshape(-1)
  mask = np.zeros(x.size, bool)
  mask[np.argsort(-x, kind='stable')[:k]] = True
  return mask


def _arrays(kind, dtype):
  rng = np.random.default_rng(0)
  make = {
      'distinct': lambda s: rng.standard_normal(s),
      'ties': lambda s: np.round(2. * rng.standard_normal(s)),
      'zeros': lambda s: rng.standard_normal(s) * (rng.random(s) < .05),
      'equal': np.ones}[kind]
  return [jnp.asarray(make(s), dtype) for s in _SHAPES]


@jax.jit
def _highest(xs, k):
  return whole.keep_highest_each(Remade(lambda: xs), k)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('kind', ['distinct', 'ties', 'zeros', 'equal'])
@pytest.mark.parametrize('share', [0., .1, .5, 1.])
def test_masks_are_those_of_a_stable_sort(kind, dtype, share):
  xs = _arrays(kind, dtype)
  ks = [round(share * x.size) for x in xs]
  got = _highest(xs, counts.exactly_each(ks))
  for x, k, mask in zip(xs, ks, got):
    np.testing.assert_array_equal(
        np.asarray(mask).reshape(-1), _expected(x, k), err_msg=str(x.shape))


def test_nan_goes_first_and_infinities_are_numbers():
  x = jnp.array([np.nan, -np.inf, 1., np.inf, 0., np.nan])
  for k, kept in enumerate([[], [3], [3, 2], [4, 3, 2], [4, 3, 2, 1],
                            [4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0]]):
    mask, = _highest([x], counts.exactly_each([k]))
    assert sorted(np.flatnonzero(mask)) == sorted(kept)


@pytest.mark.parametrize('shape, split', [
    ((4096, 4096), (32, 16, 8, 4096)), ((3, 3, 512, 512), (3, 3, 32, 16, 512)),
    ((65537,), (1, 65537)), ((8, 8), (8, 8))])
def test_blocks_are_parts_of_axes_in_order(shape, split):
  way = whole._Blocks.of(shape)
  assert way.shape == split
  assert way.number * way.size == np.prod(shape)


def _temporaries(rule):
  tx = jaxsparse.sparsify(optax.sgd(1e-2), rule)
  shapes = [(1024, 1024), (512, 2048), (3, 3, 256, 256)]
  params = {f'{i}/kernel': jax.ShapeDtypeStruct(s, jnp.float32)
            for i, s in enumerate(shapes)}

  def step(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return jax.tree.map(jnp.add, params, updates), state
  memory = jax.jit(step, donate_argnums=(0, 1)).lower(
      params, jax.eval_shape(tx.init, params), params).compile(
          ).memory_analysis()
  return memory.temp_size_in_bytes / sum(4 * w.size for w in params.values())


@pytest.mark.parametrize('rule, most', [
    (jaxsparse.prune({'.*': jaxsparse.unstructured()}, sparsity=.9,
                     when=schedules.every(9)), .15),
    (jaxsparse.prune({'.*': jaxsparse.unstructured()}, when=schedules.every(9),
                     distribution=jaxsparse.global_threshold(.9)), .2),
    (jaxsparse.prune_and_grow({'.*': jaxsparse.unstructured()}, sparsity=.9,
                              grow=jaxsparse.gradient()), .35),
], ids=['uniform', 'global', 'rigl'])
def test_a_step_holds_no_scores(rule, most):
  """In sizes of the params; scores alone would be 1, those of RigL 2."""
  assert _temporaries(rule) <= most


@pytest.mark.parametrize('rows', [2**31, 2**31 + 8])
def test_leaves_of_more_rows_than_31_bits_can_count(rows):
  """By hand: of 2^31 + 1,024 rows exactly half were kept, ties in order."""
  x = jax.ShapeDtypeStruct((rows, 1), jnp.bfloat16)
  for pattern in (jaxsparse.unstructured(.5), jaxsparse.nm(2, 4),
                  jaxsparse.channel(-2, sparsity=.5)):
    assert jax.jit(lambda x, p=pattern: jaxsparse.select(x, p)).lower(
        x).out_info.shape == x.shape


def test_an_axis_that_cannot_be_counted_is_told():
  prime = 2**32 + 15
  with pytest.raises(ValueError, match='4294967311, 1.*cannot be cut'):
    jax.eval_shape(lambda x: jaxsparse.select(x, jaxsparse.unstructured(.5)),
                   jax.ShapeDtypeStruct((prime, 1), jnp.bfloat16))
