"""How products lie on a mesh, by name; the products have tests of their own."""

import itertools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse.packed import _mesh


@pytest.fixture(params=[*itertools.product(
    [AxisType.Auto, AxisType.Explicit], repeat=2)], ids=str)
def mesh(request):
  return jax.make_mesh((4, 2), ('x', 'y'), axis_types=request.param)


def test_specs_name_what_is_shared_out(mesh):
  layout = _mesh.layout(jnp.ones((4, 3, 8)), 2, 'y', None, 'x', mesh)
  assert layout.inputs == P('x', None, None)
  assert layout.outputs == P('x', None, 'y')
  assert (layout.devices('y'), layout.devices(None)) == (2, None)


def test_with_explicit_axes_the_array_tells_its_batch(mesh):
  x = jax.device_put(jnp.ones((4, 2, 8)), jax.NamedSharding(mesh, P('x', 'y')))
  leading = _mesh.layout(x, 2, 'y', None, None, mesh).leading
  explicit = mesh.axis_types[0] == AxisType.Explicit
  assert leading == (('x', None) if explicit else (None, None))


def test_arrays_are_laid_out_over_explicit_axes_and_no_others(mesh):
  layout = _mesh.layout(jnp.ones((8, 8)), 1, 'y', None, None, mesh)
  x, v = layout.reshard(
      (jnp.ones((8, 8)), jnp.ones(8)), (P(('x', 'y'), None), P('y')))
  explicit = [name for name, kind in zip(mesh.axis_names, mesh.axis_types)
              if kind == AxisType.Explicit]
  named = lambda spec: jax.tree.leaves(tuple(spec))
  assert named(jax.typeof(x).sharding.spec) == explicit
  assert named(jax.typeof(v).sharding.spec) == [
      name for name in explicit if name == 'y']


def test_parts_are_summed_before_they_are_rounded(mesh):
  layout = _mesh.layout(jnp.ones((2, 4)), 1, None, 'x', None, mesh)
  x = jnp.array([256., 1., 1., 1.], jnp.bfloat16)

  def local(x):
    return layout.sum_outputs(lambda dtype: x.astype(dtype), jnp.bfloat16)
  got = layout.on_parts(local, P('x'), P())(layout.reshard(x, P('x')))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got, jnp.bfloat16(259.))


@pytest.mark.parametrize('columns, rows, batch, match', [
    ('x', 'y', None, "columns='x' and rows='y'"),
    ('z', None, None, "'z' must be an axis of the mesh"),
    (None, 'x', P('y', None), 'must have at most 1 entries.*got 2')])
def test_what_cannot_be_is_an_error(mesh, columns, rows, batch, match):
  with pytest.raises(ValueError, match=match):
    _mesh.layout(jnp.ones((2, 8)), 1, columns, rows, batch, mesh)
