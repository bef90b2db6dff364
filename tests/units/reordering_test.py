"""Units of ties move, wherever a tree has them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.units.reordering import reorder
from jaxsparse.units.ties import Elsewhere
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie

HIDDEN = Tie(6, (Member('fc1', 1), Member('bias', 0), Member('fc2', 0)))


def params():
  return {'fc1': np.ones((4, 6)), 'bias': np.arange(6.),
          'fc2': np.ones((6, 3))}


def test_a_tie_that_does_not_match_says_how():
  order = np.arange(6)
  with pytest.raises(ValueError, match=r'fc2 of shape \(6, 3\) has 3 indices'):
    reorder(params(), [(Tie(6, (Member('fc2', 1),)), order)])
  with pytest.raises(ValueError, match='has no axis 2'):
    reorder(params(), [(Tie(6, (Member('fc2', 2),)), order)])
  with pytest.raises(ValueError, match='is smaller than that'):
    late = Member('fc2', 0, start=2, part=True)
    reorder(params(), [(Tie(6, (late,)), order)])
  with pytest.raises(ValueError, match='must have fc3'):
    reorder(params(), [(Tie(6, (Member('fc3', 0),)), order)])


@pytest.mark.parametrize('order', [
    np.zeros(6, int), np.arange(5), np.arange(6.), np.arange(6)[None]])
def test_what_is_no_permutation_is_refused(order):
  with pytest.raises(ValueError, match=r'permutation of 0 \.\.\. 5'):
    reorder(params(), [(HIDDEN, order)])


def test_blocks_move_as_numpy_moves_them():
  w = np.arange(24).reshape(2, 12)
  order = np.array([2, 0, 1])
  heads = Tie(3, (Member('w', 1, stride=4, repeats=((4, 1),)),))
  np.testing.assert_array_equal(
      reorder({'w': w}, [(heads, order)])['w'],
      w.reshape(2, 3, 4)[:, order].reshape(2, 12))
  inner = Tie(3, (Member('w', 1, repeats=((4, 3),)),))
  np.testing.assert_array_equal(
      reorder({'w': w}, [(inner, order)])['w'],
      w.reshape(2, 4, 3)[:, :, order].reshape(2, 12))
  second = Tie(3, (Member('w', 1, start=3, part=True),))
  np.testing.assert_array_equal(
      reorder({'w': w}, [(second, order)])['w'][:, 3:6], w[:, 3:6][:, order])


def test_every_group_may_have_its_own_order():
  w = np.arange(24).reshape(2, 12)
  orders = np.array([[1, 0, 2], [0, 1, 2], [2, 1, 0], [1, 2, 0]])
  tie = Tie(3, (Member('w', 1, along=((1, 3),)),), along=(4,))
  np.testing.assert_array_equal(
      reorder({'w': w}, [(tie, orders)])['w'],
      np.take_along_axis(w.reshape(2, 4, 3), orders[None], 2).reshape(2, 12))


def test_groups_may_be_along_another_axis():
  w = np.arange(24).reshape(2, 3, 4)
  orders = np.array([[1, 0, 2, 3], [3, 2, 1, 0]])
  tie = Tie(4, (Member('w', 2, along=((0, 1),)),), along=(2,))
  expected = np.take_along_axis(w, orders[:, None], 2)
  for library in (np, jnp):
    moved = reorder({'w': library.asarray(w)}, [(tie, orders)])['w']
    assert isinstance(moved, type(library.asarray(w)))
    np.testing.assert_array_equal(moved, expected)


def test_part_of_another_axis_may_be_meant():
  w = np.arange(24).reshape(4, 6)
  tie = Tie(6, (Member('w', 1, elsewhere=(Elsewhere(0, 1, ((2, 1),)),)),))
  moved = reorder({'w': w}, [(tie, np.arange(6)[::-1])])['w']
  np.testing.assert_array_equal(moved[[0, 3]], w[[0, 3]])
  np.testing.assert_array_equal(moved[1:3], w[1:3, ::-1])


def test_an_optimizer_state_follows_its_parameters():
  tree = {'variables': {'params': {'fc1': np.eye(3), 'kernel': np.eye(3)}},
          'mu': {'fc1': np.eye(3), 'kernel': np.eye(3)}, 'count': 3}
  tie = Tie(3, (Member('params/fc1', 1),))
  moved = reorder(tree, [(tie, [1, 2, 0])])
  rolled = np.eye(3)[:, [1, 2, 0]]
  np.testing.assert_array_equal(moved['variables']['params']['fc1'], rolled)
  np.testing.assert_array_equal(moved['mu']['fc1'], rolled)
  np.testing.assert_array_equal(moved['mu']['kernel'], np.eye(3))
  assert moved['count'] == 3
