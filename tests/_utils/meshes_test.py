"""Work on meshes with Explicit axes that is laid out as on Auto ones."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse._utils import meshes

X = np.arange(64, dtype=np.float32).reshape(8, 8)


def on_mesh(kind, spec):
  mesh = jax.make_mesh((2, 4), ('a', 'b'), axis_types=(kind,) * 2)
  return jax.device_put(X, NamedSharding(mesh, spec))


def squares(x):
  """What Explicit axes do not accept: it does not say where the sum lies."""
  rows = x.reshape(4, 2, 8).reshape(-1, 8)
  return rows.T @ rows


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
def test_axes_are_auto_within_and_what_they_were_without(kind):
  x = on_mesh(kind, P('a', 'b'))

  def fn(x, more):
    assert AxisType.Explicit not in x.sharding.mesh.axis_types
    assert more is None
    return squares(x), x.T, X
  found, turned, plain = meshes.automatically(fn, x, None)
  np.testing.assert_array_equal(found, X.T @ X)
  np.testing.assert_array_equal(turned, X.T)
  assert plain is X
  assert {*found.sharding.mesh.axis_types} == {kind}
  again = meshes.like(turned.T if kind is AxisType.Auto else turned, x)
  assert again.sharding.is_equivalent_to(x.sharding, 2) or (
      kind is AxisType.Auto)


@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit], ids=['plain', 'jit'])
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
def test_results_of_the_compiler_are_everywhere(kind, wrap):
  x = on_mesh(kind, P('a', 'b'))
  found = wrap(lambda x: meshes.laid_out_by_compiler(
      lambda x, y: (squares(x) + (0 if y is None else y), x.sum()), x, None))(x)
  np.testing.assert_array_equal(found[0], X.T @ X)
  assert found[1] == X.sum()
  if kind is AxisType.Explicit:
    assert not any(jax.typeof(found[0]).sharding.spec)


def test_without_a_mesh_it_is_the_function():
  for call in (meshes.automatically, meshes.laid_out_by_compiler):
    np.testing.assert_array_equal(call(squares, jnp.asarray(X)), X.T @ X)
