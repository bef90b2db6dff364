"""Groups: units of patterns and of ties, summed and masked alike."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

import jaxsparse
from jaxsparse import units
from jaxsparse.units import groups
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie


def _params():
  return {'w': jnp.arange(6.).reshape(2, 3), 'b': jnp.ones(3),
          'other': jnp.ones(2)}


def _families():
  ties = [Tie(2, (Member('w', 0),), name='in'),
          Tie(3, (Member('w', 1, role='makes'),
                  Member('params/b', 0, role='beside')), name='out')]
  return groups.families(ties, _params())


def test_masks_of_a_parameter_with_two_ties_need_both_alive():
  alive = [jnp.array([True, False]), jnp.array([True, False, True])]
  masks = groups.masks([*zip(_families(), alive)], _params())
  np.testing.assert_array_equal(masks['w'], [[1, 0, 1], [0, 0, 0]])
  np.testing.assert_array_equal(masks['b'], [1, 0, 1])
  assert masks['other'] is None


def test_masks_may_leave_a_role_out():
  alive = [jnp.array([True, True]), jnp.array([True, False, True])]
  masks = groups.masks(
      [*zip(_families(), alive)], _params(), without='beside')
  np.testing.assert_array_equal(masks['w'], [[1, 0, 1], [1, 0, 1]])
  assert masks['b'] is None


def test_units_die_that_one_kernel_makes_and_masks_cover():
  free = Tie(3, (Member('w', 1, role='makes'), Member('v', 0, role='reads')),
             name='free')
  fixed = Tie(2, (Member('w', 0, role='reads'),), name='fixed', fixed='data')
  masks = {'w': jnp.ones((2, 3), bool), 'v': jnp.ones((3, 1), bool)}
  assert groups.mortal([free, fixed], masks) == [free]
  with pytest.raises(ValueError, match="No tie has units.*'v is dense'"):
    groups.mortal([free, fixed], {**masks, 'v': None})
  assert groups.mortal([free, fixed], {'w': None, 'v': None}) == []


def test_sums_and_sizes_of_ties():
  one, two = _families()
  leaves = {'w': _params()['w'], 'b': _params()['b']}
  np.testing.assert_array_equal(groups.total(one.parts, leaves), [3., 12.])
  np.testing.assert_array_equal(groups.total(two.parts, leaves), [4., 6., 8.])
  np.testing.assert_array_equal(
      groups.total(two.having('makes'), leaves), [3., 5., 7.])
  assert (one.size, two.size) == (3, 3)


@pytest.mark.parametrize('pattern, sums', [
    (jaxsparse.channel(-1), [3., 5., 7.]), (jaxsparse.channel(-2), [3., 12.]),
    (jaxsparse.block((2, 3)), [15.]),
    (jaxsparse.block((2, 3), reduce='max'), [15.])])
def test_units_of_patterns_are_groups(pattern, sums):
  params = _params()
  family, = groups.families({'w': pattern, '.*': None}, params)
  np.testing.assert_array_equal(groups.total(family.parts, params), sums)
  assert family.shape == (len(sums),) and family.size == 6 / len(sums)
  alive = jnp.arange(len(sums)) > 0
  masks = groups.masks([(family, alive)], params)
  assert masks['w'].sum() == 6 - family.size and masks['b'] is None


@pytest.mark.parametrize('pattern, spec', [
    (jaxsparse.block((4, 4)), P(None, 'model')),
    (jaxsparse.unstructured(), P('data')),
    (jaxsparse.channel(-1), P(None, 'model'))], ids=str)
def test_groups_of_patterns_may_be_sharded_explicitly(pattern, spec):
  mesh = jax.make_mesh(
      (2, 4), ('data', 'model'), axis_types=(AxisType.Explicit,) * 2)
  w = jax.random.normal(jax.random.key(0), (16, 8))
  rule = units.prune_units({'w': pattern}, importance=units.mean_magnitude(),
                           sparsity=.5)
  lasso = units.prox_group_lasso(.3, {'w': pattern}, learning_rate=1.)

  def both(w):
    """With blocks that devices of the last axis cut in two."""
    params, zeros = {'w': w}, {'w': jnp.zeros_like(w)}
    masks, _ = rule.update(params, rule.init(params), params)
    return masks, lasso.update(zeros, lasso.init(params), params)[0]
  want = jax.jit(both)(w)
  with jax.set_mesh(mesh):
    got = jax.jit(both)(jax.device_put(w, NamedSharding(mesh, spec)))
  np.testing.assert_array_equal(got[0]['w'], want[0]['w'])
  np.testing.assert_allclose(got[1]['w'], want[1]['w'], rtol=1e-5, atol=1e-7)


def test_ties_whose_units_have_to_stay_are_left_out():
  stays = Tie(3, (Member('b', 0),), kept='softmax', name='stays')
  goes = Tie(2, (Member('w', 0),), name='goes')
  assert [f.name for f in groups.families([stays, goes], _params())] == ['goes']
  with pytest.raises(ValueError, match='softmax.*print\\(ties\\)'):
    groups.families([stays], _params())


def test_a_tie_of_other_parameters_is_told():
  with pytest.raises(ValueError, match='Infer ties from'):
    groups.families([Tie(2, (Member('v', 0),))], _params())
