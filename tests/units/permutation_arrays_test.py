"""Arrays stay as they are but for their order; what is no order is refused."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from jaxsparse import find_permutations
from jaxsparse import infer_ties
from jaxsparse import nm
from jaxsparse import permute
from tests._lib.near import same
from tests._lib.permutations import X
from tests._lib.zoo_case import weights

pytestmark = pytest.mark.slow


def mlp(p, x):
  h = jnp.tanh(x @ p['w1'])
  return h @ p['w2']


def mlp_params(dtype=jnp.float32):
  p = weights({'w1': (4, 8), 'w2': (8, 3)})
  return jax.tree.map(lambda w: w.astype(dtype), p)


ORDER = np.array([3, 1, 0, 7, 6, 5, 2, 4])
NAME = 'w1[:, *]'


@pytest.fixture(name='ties', scope='module')
def _ties():
  return infer_ties(mlp, mlp_params(), X)


@pytest.mark.parametrize('dtype', [
    jnp.float32, jnp.bfloat16, jnp.float16, jnp.int8, bool,
    jnp.float8_e4m3fn, jnp.complex64])
@pytest.mark.parametrize('module', [np, jnp])
def test_arrays_stay_what_they_are(ties, dtype, module):
  params = jax.tree.map(
      lambda w: module.asarray(w.astype(dtype)), mlp_params())
  got = permute(params, ties, {NAME: ORDER})
  for key, axis in (('w1', 1), ('w2', 0)):
    assert type(got[key]) is type(params[key])
    assert got[key].dtype == params[key].dtype
    np.testing.assert_array_equal(
        np.asarray(got[key]), np.take(np.asarray(params[key]), ORDER, axis))


@pytest.mark.parametrize('dtype', [
    np.int32, np.int64, np.uint8, list, jnp.int32])
def test_orders_of_any_integer_type(ties, dtype):
  order = (ORDER.tolist() if dtype is list else
           jnp.asarray(ORDER) if dtype is jnp.int32 else ORDER.astype(dtype))
  same(permute(mlp_params(), ties, {NAME: order}),
       permute(mlp_params(), ties, {NAME: ORDER}))


def test_numpy_inputs_are_not_written_to(ties):
  params = jax.tree.map(np.array, mlp_params())
  copy = jax.tree.map(np.copy, params)
  got = permute(params, ties, {NAME: ORDER})
  same(params, copy, 0)
  got['w1'][:] = 0
  same(params, copy, 0)


def test_no_permutations_change_nothing(ties):
  params = mlp_params()
  same(permute(params, ties, {}), params, 0)


def test_two_permutations_follow_each_other(ties):
  once = permute(mlp_params(), ties, {NAME: ORDER})
  back = permute(once, ties, {NAME: np.argsort(ORDER)})
  same(back, mlp_params(), 0)


def test_in_bf16_outputs_stay(ties):
  params = mlp_params(jnp.bfloat16)
  x = X.astype(jnp.bfloat16)
  same(mlp(permute(params, ties, {NAME: ORDER}), x), mlp(params, x), 2e-2)


def test_works_under_jit(ties):
  params = mlp_params()
  got = jax.jit(lambda p: permute(p, ties, {NAME: ORDER}))(params)
  same(got, permute(params, ties, {NAME: ORDER}), 0)


def test_sharded_arrays_stay_where_they_are(ties):
  mesh = Mesh(np.array(jax.devices()), ('x',))
  specs = {'w1': PartitionSpec(None, 'x'), 'w2': PartitionSpec('x', None)}
  params = {key: jax.device_put(w, NamedSharding(mesh, specs[key]))
            for key, w in mlp_params().items()}
  got = permute(params, ties, {NAME: ORDER})
  for key, w in params.items():
    assert not w.is_deleted()
    assert got[key].sharding.is_equivalent_to(w.sharding, w.ndim)
  same(got, permute(mlp_params(), ties, {NAME: ORDER}), 0)
  found = find_permutations(params, ties, {'w2': nm(2, 4)}, budget=5)
  same(found, find_permutations(mlp_params(), ties, {'w2': nm(2, 4)}, budget=5))


def test_shapes_of_arrays_give_ties_too():
  shapes = jax.eval_shape(lambda: mlp_params())
  ties = infer_ties(mlp, shapes, jax.ShapeDtypeStruct(X.shape, X.dtype))
  same(permute(mlp_params(), ties, {NAME: ORDER}),
       permute(mlp_params(), infer_ties(mlp, mlp_params(), X), {NAME: ORDER}))


FIXED = 'w1[*]'


@pytest.mark.parametrize('orders, says', [
    ({NAME: ORDER[:-1]}, 'shape|8'),
    ({NAME: np.zeros(8, int)}, 'permutation|0'),
    ({NAME: ORDER + 1}, 'permutation'),
    ({NAME: ORDER - 1}, 'permutation'),
    ({NAME: ORDER.astype(float)}, 'int'),
    ({NAME: ORDER == 1}, 'int|permutation'),
    ({NAME: ORDER[None]}, 'shape'),
    ({NAME: ''}, 'int|shape|permutation'),
    ({NAME: None}, 'int|shape|permutation'),
    ({'w3[:, *]': ORDER}, 'w3'),
    ({FIXED: np.arange(4)[::-1]}, 'fixed|input of the function'),
    ({'w1': ORDER}, 'w1'),
    ({NAME: ORDER, 'nothing': ORDER}, 'nothing'),
])
def test_what_is_no_permutation_is_refused(ties, orders, says):
  with pytest.raises(ValueError, match=says):
    permute(mlp_params(), ties, orders)


@pytest.mark.parametrize('tree', [
    {'w1': np.ones((4, 8))}, {'w1': np.ones((4, 9)), 'w2': np.ones((9, 3))},
    {'w1': np.ones(8), 'w2': np.ones((8, 3))}, {}, [], None,
    {'v1': np.ones((4, 8)), 'v2': np.ones((8, 3))},
    {'w1': np.ones((4, 8)), 'w2': np.ones((7, 3))},
], ids=str)
def test_trees_that_do_not_match_are_refused(ties, tree):
  with pytest.raises(ValueError, match='w1|w2'):
    permute(tree, ties, {NAME: ORDER})


def test_more_than_one_copy_of_the_parameters_follows(ties):
  params = mlp_params()
  tree = {'online': params, 'target': [params, {'ema': params}], 'step': 3,
          'name': None}
  got = permute(tree, ties, {NAME: ORDER})
  expected = permute(params, ties, {NAME: ORDER})
  same(got['online'], expected, 0)
  same(got['target'][0], expected, 0)
  same(got['target'][1]['ema'], expected, 0)
  assert got['step'] == 3 and got['name'] is None


def test_a_leaf_that_only_ends_alike_is_no_parameter(ties):
  """`row1` ends with `w1` as a string, not as a path."""
  tree = {**mlp_params(), 'row1': jnp.arange(32.).reshape(4, 8)}
  got = permute(tree, ties, {NAME: ORDER})
  np.testing.assert_array_equal(got['row1'], tree['row1'])
