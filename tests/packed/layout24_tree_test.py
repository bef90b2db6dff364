"""Packed 2:4 weights are pytrees: transforms, devices and files take them."""

import copy
import dataclasses
import pickle

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxsparse.packed import layout24
from tests._lib.packed import assert_same
from tests._lib.packed import bits
from tests._lib.packed import normal
from tests._lib.packed import prune
from tests._lib.packed import two_way
from tests._lib.packed import unpack
from tests._lib.packed import with_layout


def test_vmap_over_leading_axes_is_the_same_as_packing_them_together():
  w = prune(normal(2, 3, 12, 5))
  together = layout24.pack(w)
  assert together.shape == w.shape
  mapped = jax.vmap(jax.vmap(layout24.pack))(jnp.asarray(w))
  assert_same(mapped, together)
  np.testing.assert_array_equal(jax.vmap(layout24.unpack)(together), w)
  shapes = []
  jax.vmap(lambda one: shapes.append(one.shape) or one.values)(together)
  assert shapes == [(3, 12, 5)]


@pytest.mark.parametrize('layout', ['planar', 'tiled', 'hopper'])
def test_scan_takes_layers_off(layout):
  w = prune(normal(3, 8, 4, dtype=jnp.bfloat16))
  packed = with_layout(layout24.pack(w), layout)
  step = lambda i, one: (i + 1, unpack(one))
  count, layers = lax.scan(step, 0, packed)
  assert count == 3
  np.testing.assert_array_equal(bits(layers), bits(w))


@pytest.mark.parametrize('layout', ['planar', 'tiled', 'hopper'])
def test_jit_sees_two_arrays_and_the_rest_is_static(layout):
  packed = with_layout(
      layout24.pack(prune(normal(8, 3, dtype=jnp.bfloat16))), layout)
  assert len(jax.tree.leaves(packed)) == 2
  paths = [jax.tree_util.keystr(path)
           for path, _ in jax.tree.leaves_with_path(packed)]
  assert paths == ['.values', '.positions']
  same = jax.jit(lambda p: p)(packed)
  assert_same(same, packed)
  twice = jax.jit(lambda p: jax.tree.map(lambda x: 2 * x, p))(packed)
  np.testing.assert_array_equal(twice.values, 2 * packed.values)


def test_donated_weights_are_used_up():
  packed = layout24.pack(prune(normal(256, 8)))
  negate = jax.jit(lambda p: dataclasses.replace(p, values=-p.values),
                   donate_argnums=0)
  expected = -np.asarray(unpack(packed))
  negated = negate(packed)
  assert packed.values.is_deleted()
  np.testing.assert_array_equal(unpack(negated), expected)


def test_eval_shape_knows_shape_and_dtype():
  w = jax.ShapeDtypeStruct((3, 300, 5), jnp.bfloat16)
  packed = jax.eval_shape(layout24.pack, w)
  assert (packed.shape, packed.dtype, packed.ndim) == (w.shape, w.dtype, 3)
  assert packed.nbytes == layout24.pack(jnp.zeros(w.shape, w.dtype)).nbytes
  assert jax.eval_shape(unpack, packed) == w


def test_copies_and_pickles_are_the_same():
  packed = layout24.pack(two_way(8, 4), transposed=True)
  for same in (copy.copy(packed), copy.deepcopy(packed),
               pickle.loads(pickle.dumps(packed)), jax.device_get(packed),
               jax.tree.map(np.asarray, packed)):
    assert_same(same, packed)
    np.testing.assert_array_equal(
        unpack(same), unpack(packed))


def test_weights_of_numpy_are_packed_and_numpy_arrays_unpacked():
  w = prune(normal(8, 3, dtype=jnp.bfloat16))
  host = jax.device_get(with_layout(layout24.pack(w), 'hopper'))
  assert isinstance(host.values, np.ndarray)
  np.testing.assert_array_equal(bits(unpack(host)), bits(w))


@pytest.mark.parametrize('layout', ['planar', 'tiled', 'hopper'])
def test_orbax_brings_it_back(layout, tmp_path):
  packed = with_layout(layout24.pack(
      two_way(2, 100, 12, dtype=jnp.bfloat16), transposed=True), layout)
  tree = {'layer': {'kernel': packed, 'bias': jnp.ones(4)}}
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'state', tree)
  with ocp.StandardCheckpointer() as checkpointer:
    restored = checkpointer.restore(
        tmp_path / 'state', jax.tree.map(jnp.zeros_like, tree))
  assert_same(restored['layer']['kernel'], packed)
  np.testing.assert_array_equal(restored['layer']['bias'], np.ones(4))


@pytest.mark.parametrize('axes', [P('x'), P(None, 'x'), P('x', 'y')], ids=str)
@pytest.mark.parametrize('kind', ['Auto', 'Explicit'])
def test_sharded_weights_are_packed_and_unpacked(axes, kind):
  kind = getattr(jax.sharding.AxisType, kind)
  mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(kind,) * 2)
  w = prune(normal(512, 8))
  with jax.set_mesh(mesh):
    sharded = jax.device_put(w, NamedSharding(mesh, axes))
    packed = layout24.pack(sharded)
    np.testing.assert_array_equal(unpack(packed), w)
    replicated = jax.device_put(packed, NamedSharding(mesh, P()))
    assert_same(jax.device_get(replicated), layout24.pack(w))


def test_gradients_go_through_pack_and_unpack():
  w, dy = two_way(8, 4), jax.device_put(normal(8, 4, seed=1))
  dw = jax.grad(lambda w: (unpack(layout24.pack(w)) * dy).sum())(w)
  kept = unpack(jax.tree.map(
      lambda x: jnp.ones_like(x) if x.dtype == w.dtype else x,
      layout24.pack(w)))
  np.testing.assert_array_equal(dw, dy * kept)
