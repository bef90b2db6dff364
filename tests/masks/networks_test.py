"""Sorting networks against a stable sort, on one device and on a mesh."""

import functools
import math
import re

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse.masks import _networks
from tests._lib.selections import agree
from tests._lib.selections import KINDS
from tests._lib.selections import scores_of


@functools.cache
def keep_highest(axis):
  return jax.jit(lambda x, k: _networks.keep_highest(x, k, axis))


def highest(x, k, axis):
  """The oracle: the first k of a stable descending sort, NaN last."""
  x = np.asarray(x).astype(np.float64)
  mask = np.zeros(x.shape, bool)
  order = np.argsort(-x, axis, kind='stable')
  np.put_along_axis(mask, np.take(order, range(k), axis), True, axis)
  return mask


@pytest.mark.parametrize('n', [1, 2, 3, 5, 8, 16, 17, 31])
def test_every_k_matches_a_stable_sort(n):
  for kind in KINDS:
    x = scores_of(kind, (2, n, 3))
    for k in range(n + 1):
      agree(keep_highest(1)(x, jnp.uint32(k)), highest(x, k, 1), kind, k)


@pytest.mark.parametrize('n, axis', [(64, 0), (100, 2), (128, 1)])
def test_long_groups_match_a_stable_sort(n, axis):
  shape = [2, 3, 2]
  shape[axis] = n
  for kind in KINDS:
    x = scores_of(kind, shape)
    for k in (0, 1, n // 8, n - 1, n):
      agree(keep_highest(axis)(x, jnp.uint32(k)), highest(x, k, axis), kind, k)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
@pytest.mark.parametrize('axis', [0, 2])
def test_narrow_floats_match_a_stable_sort(dtype, axis):
  for kind in KINDS:
    x = scores_of(kind, (20, 2, 20), dtype)
    for k in (0, 1, 7, 19, 20):
      agree(keep_highest(axis)(x, jnp.uint32(k)), highest(x, k, axis), kind, k)


def test_float64_is_exact():
  with jax.enable_x64(True):
    x = jnp.asarray(1. + np.random.default_rng(0).permutation(40)
                    * np.finfo(np.float64).eps)
    assert x.dtype == jnp.float64
    for k in (0, 1, 20, 40):
      agree(jax.jit(_networks.keep_highest, static_argnums=2)(
          x, jnp.uint32(k), 0), highest(np.asarray(x) - 1., k, 0), k)


@given(
    st.lists(
        st.one_of(st.floats(width=32), st.sampled_from(
            [0., -0., 1., float('nan'), float('-inf'),
             float(np.finfo(np.float32).min)])),
        min_size=40, max_size=40),
    st.integers(0, 20))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_floats_match_a_stable_sort(values, k):
  # Subnormal numbers, too, which a comparison of floats takes for zero.
  x = jnp.asarray(np.array(values, np.float32).reshape(20, 2))
  agree(keep_highest(0)(x, jnp.uint32(k)), highest(x, k, 0))


@pytest.mark.parametrize('n', range(1, 129))
def test_rounds_sort(n):
  rng = np.random.default_rng(n)
  # Any threshold of a sequence: a network that sorts zeros and ones sorts all.
  x = (rng.random((2000, n)) < rng.random((2000, 1))).astype(np.int8)
  y = x.copy()
  for pairs in _networks._rounds(n):
    for a, b in pairs:
      y[:, a], y[:, b] = np.maximum(y[:, a], y[:, b]), np.minimum(
          y[:, a], y[:, b])
  np.testing.assert_array_equal(y, -np.sort(-x, 1))


def test_k_may_differ_under_vmap():
  x = jnp.stack([scores_of('integers', (40, 2), seed=i) for i in range(4)])
  ks = [0, 7, 20, 40]
  got = jax.vmap(keep_highest(0))(x, jnp.asarray(ks, jnp.uint32))
  for mask, scores, k in zip(got, x, ks):
    agree(mask, highest(scores, k, 0), k)


@pytest.mark.parametrize('known', [True, False], ids=['known', 'traced'])
@pytest.mark.parametrize('n', [24, 32, 96, 128])
@pytest.mark.parametrize('axis', [1, 2])
def test_scores_are_not_stored(n, axis, known):
  # A threshold and a place a group; an odd factor above 15 is not served.
  shape = (64, n, 64) if axis == 1 else (64, 64, n)
  w = jax.ShapeDtypeStruct(shape, jnp.float32)
  k = jax.ShapeDtypeStruct((), jnp.uint32)
  f = lambda w, k: _networks.keep_highest(
      jnp.abs(w), jnp.uint32(n // 8) if known else k, axis)
  compiled = jax.jit(f).lower(w, k).compile()
  size = 4 * math.prod(shape)
  assert compiled.memory_analysis().temp_size_in_bytes <= 3 * size / n
  assert len(re.findall(r'= \S+ fusion\(', compiled.as_text())) <= 16


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize('spec', [P('x', None, 'y'), P('y', None, 'x')],
                         ids=str)
def test_a_sharded_array_stays_where_it_is(kind, spec):
  mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(kind,) * 2)
  x = scores_of('integers', (8, 20, 16))
  f = keep_highest(1)
  with jax.set_mesh(mesh):
    sharded = jax.device_put(x, NamedSharding(mesh, spec))
    compiled = f.lower(sharded, jnp.uint32(5)).compile()
    got = f(sharded, jnp.uint32(5))
  assert not re.search('all-gather|all-to-all|collective-permute',
                       compiled.as_text())
  assert got.sharding.is_equivalent_to(sharded.sharding, 3)
  agree(got, highest(x, 5, 1))


def test_shards_are_served_inside_of_shard_map():
  mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(AxisType.Auto,) * 2)
  x = scores_of('integers', (8, 20, 16))
  f = jax.jit(jax.shard_map(
      lambda x, k: _networks.keep_highest(x, k, 1), mesh=mesh,
      in_specs=(P('x', None, 'y'), P()), out_specs=P('x', None, 'y'),
      check_vma=True))
  agree(f(x, jnp.uint32(5)), highest(x, 5, 1))
