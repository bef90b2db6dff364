"""Products of parameters with data: axes in the parameter's order."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import _products
from jaxsparse.graph._known import Tag
from jaxsparse.graph._products import Roles


def _of(f, x, w):
  """The last product of `f(x, w)`, which is its last equation, and a tag."""
  eqn, = jax.make_jaxpr(f)(x, w).jaxpr.eqns
  return eqn, Tag.of('w', w.ndim)


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize('numbers, shape, roles', [
    ((([2], [0]), ([], [])), (4, 5), Roles({0: 2}, {}, (), (1,))),
    ((([2, 1], [1, 0]), ([], [])), (3, 4, 5),
     Roles({0: 1, 1: 2}, {}, (), (2,))),
    ((([2], [1]), ([0], [0])), (2, 4, 5), Roles({1: 2}, {0: 0}, (), (2,)))])
def test_roles_are_in_the_order_of_the_kernels_axes(numbers, shape, roles):
  w = np.ones(shape, np.float32)
  eqn, tag = _of(lambda x, w: lax.dot_general(x, w, numbers), X, w)
  found = _products.roles(eqn, 1, tag)
  assert found == roles and [*found.contracted] == [*roles.contracted]
  product = _products.product(eqn, 1, tag, [X, w], found)
  rows = X.transpose(*roles.batch.values(), *(
      k for k in range(3) if k not in {
          *roles.batch.values(), *roles.contracted.values()}),
                     *roles.contracted.values())
  np.testing.assert_array_equal(
      product.rows.reshape(-1), rows.reshape(-1))
  assert product.batch == len(roles.batch) and product.path == 'w'


def test_products_that_read_the_same_have_one_key():
  w = np.ones((4, 5), np.float32)
  eqn, tag = _of(lambda x, w: x @ w, X, w)
  key = lambda x, *more: _products.product(
      eqn, 1, tag, [x, w], _products.roles(eqn, 1, tag), *more).key
  assert key(X) == key(X) and hash(key(X)) == hash(key(X))
  assert key(X) != key(X.copy())


def test_ragged_products_have_experts_and_convolutions_their_equation():
  rows, w = X.reshape(6, 4), np.ones((2, 4, 5), np.float32)
  sizes = jnp.array([2, 4], jnp.int32)
  eqn, tag = _of(lambda x, w: lax.ragged_dot(x, w, sizes), rows, w)
  roles = _products.roles(eqn, 1, tag)
  assert roles == Roles({1: 1}, {}, (0,), (2,))
  product = _products.product(eqn, 1, tag, [rows, w, sizes], roles)
  assert product.groups is sizes and product.key is None
  kernel = np.ones((3, 4, 5), np.float32)
  eqn, tag = _of(lambda x, w: lax.conv_general_dilated(
      x, w, (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC')), X, kernel)
  roles = _products.roles(eqn, 1, tag)
  assert roles == Roles({}, {}, (), (2,))
  product = _products.product(eqn, 1, tag, [X, kernel], roles)
  assert product.rows is X and product.conv == (eqn, (0, 1))


def test_a_part_of_an_axis_has_no_role():
  w = np.ones((4, 5), np.float32)
  eqn, _ = _of(lambda x, w: x @ w, X, w)
  half = Tag('w', (((0, 1),), ((0, 0),)))
  assert _products.roles(eqn, 1, half) is None
