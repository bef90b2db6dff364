"""Dtypes of sums, and sums of leaves of any kind."""

import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from jaxsparse._utils import numerics


@pytest.mark.parametrize('narrow, sums', [
    (jnp.bfloat16, jnp.float32), (jnp.float16, jnp.float32),
    (jnp.float8_e4m3fn, jnp.float32), (jnp.float32, jnp.float32),
    (jnp.float64, jnp.float64)])
def test_sums_are_in_float32_or_wider(narrow, sums):
  assert numerics.at_least_float32(narrow) == sums


def test_wide_arrays_stay_as_they_are():
  x = jnp.array([1., 2.])
  assert numerics.wide(x).dtype == x.dtype
  assert numerics.wide(x.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize('x', [
    jnp.array([1., 2.]), jnp.array([1, 2]), jnp.array([1 + 2j, 3.])])
def test_numbers_are_added(x):
  more = jnp.ones((), x.dtype)
  np.testing.assert_array_equal(numerics.joined(x, more), x + more)


def test_bits_are_flipped_and_keys_stay():
  bits = jnp.array([True, False])
  np.testing.assert_array_equal(numerics.joined(bits, True), [False, True])
  key = jax.random.key(0)
  assert numerics.joined(key, 1.) is key


def _words(seed):
  return jax.random.bits(jax.random.key(seed), (2,), jnp.uint32)


def test_hashed_numbers_are_uniform_and_independent():
  x = np.asarray(numerics.uniform_like(jnp.zeros((512, 512)), _words(0)))
  assert x.dtype == np.float32 and (0. <= x).all() and (x < 1.).all()
  # Four standard errors each.
  assert abs(x.mean() - .5) < 4. * 12**-.5 / 512
  counted = np.histogram(x, 64, (0., 1.))[0]
  expected = x.size / 64
  assert ((counted - expected)**2 / expected).sum() < 63 + 4. * (2 * 63)**.5
  other = np.asarray(numerics.uniform_like(jnp.zeros((512, 512)), _words(1)))
  for y in (np.roll(x, 1, 0), np.roll(x, 1, 1), other):
    assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 4. / 512


def test_hashed_numbers_depend_on_the_place_alone():
  flat = numerics.uniform_like(jnp.zeros(24), _words(2))
  cube = jax.jit(numerics.uniform_like)(jnp.ones((2, 3, 4)), _words(2))
  np.testing.assert_array_equal(flat, cube.ravel())
  assert numerics.uniform_like(jnp.zeros(()), _words(2)).shape == ()


def test_small_arrays_are_everywhere_on_a_mesh_that_is_set():
  assert numerics.everywhere(x := jnp.arange(8.)) is x
  mesh = jax.make_mesh((8,), ('x',), axis_types=(AxisType.Auto,))
  with jax.set_mesh(mesh):
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec('x')))
    made = jax.jit(lambda x: numerics.everywhere(x + 1.))(sharded)
  assert made.sharding.is_fully_replicated
  np.testing.assert_array_equal(made, x + 1.)


def test_outside_of_shard_map_nothing_varies():
  x = jnp.ones(2)
  assert numerics.varying_as(x, lambda: x) is x


def _kernels(f, *args):
  """The kernels of a compiled function: what they compute, without names."""
  text = jax.jit(f).lower(*args).compile().as_text()
  bodies = dict(re.findall(r'^%?(\S+) \([^\n]*\{\n(.*?)^\}', text, re.M | re.S))
  called = re.findall(r' fusion\(.*calls=%?([\w.-]+)', text)

  def nameless(body):
    body = re.sub(r', metadata=\{.*?\}', '', body)
    names = dict.fromkeys(re.findall(r'%[\w.-]+', body))
    for i, name in enumerate(names):
      body = re.sub(re.escape(name) + r'(?![\w.-])', f'%_{i}', body)
    return body
  return [nameless(bodies[name]) for name in called]


def test_kernels_of_equal_arrays_are_one_wherever_their_number_stands():
  xs, table = [jnp.ones((8, 8))] * 4, jnp.arange(4.)

  def known(xs, table):
    return [(x * table[i]).sum(0) for i, x in enumerate(xs)]

  def unknown(xs, table):
    rows = numerics.rows_at(table, numerics.places(4))
    return [(x * row).sum(0) for x, row in zip(xs, rows)]

  np.testing.assert_array_equal(
      jax.jit(unknown)(xs, table), known(xs, table))
  assert len(set(_kernels(known, xs, table))) >= 4
  made = [k for k in _kernels(unknown, xs, table) if 'dynamic-slice' in k]
  assert len(made) == 4 and len(set(made)) == 1


@pytest.mark.parametrize('spec', [
    (None, 'y'), ('x', 'y'), ('x',), (), (('x', 'y'),)], ids=str)
@pytest.mark.parametrize('tile', [(4, 4), (1, 2), (16, 8), (2, 1)], ids=str)
def test_tiles_are_cut_out_of_any_explicit_sharding(spec, tile):
  """Also those that lie on several devices."""
  mesh = jax.make_mesh(
      (2, 4), ('x', 'y'), axis_types=(AxisType.Explicit,) * 2)
  x = jnp.arange(128.).reshape(16, 8)
  want = numerics.split_axes(x, tile)
  with jax.set_mesh(mesh):
    got = jax.jit(lambda x: numerics.split_axes(x, tile))(
        jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec))))
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('axis', [0, 1, -1])
def test_an_axis_is_gathered_and_the_others_stay(axis):
  mesh = jax.make_mesh(
      (2, 4), ('x', 'y'), axis_types=(AxisType.Explicit,) * 2)
  x = jnp.arange(128.).reshape(16, 8)
  spec = ['x', 'y']
  with jax.set_mesh(mesh):
    got = numerics.whole_along(jax.device_put(
        x, NamedSharding(mesh, PartitionSpec(*spec))), axis)
  spec[axis] = None
  assert got.sharding.spec == PartitionSpec(*spec)
  np.testing.assert_array_equal(got, x)
  assert numerics.whole_along(x, axis) is x


def test_arrays_and_zeros_vary_as_others_do():
  mesh = jax.make_mesh((2,), ('x',), axis_types=(AxisType.Auto,))

  def inside(a, b):
    one, other = numerics.alike((a, b))
    zeros = numerics.zeros((2,), jnp.float32, (a, b))
    return [len(numerics.varies(x)) for x in (a, b, one, other, zeros)]
  seen = []
  jax.make_jaxpr(jax.shard_map(
      lambda a, b: (seen.extend(inside(a, b)), a)[1], mesh=mesh,
      in_specs=(PartitionSpec('x'), PartitionSpec()),
      out_specs=PartitionSpec('x')))(jnp.ones(4), jnp.ones(4))
  assert seen == [1, 0, 1, 1, 1]
