"""Ties of the zoo's models, by hand, as a table, and when they do not match."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.ties import Elsewhere
from jaxsparse.ties import Member
from jaxsparse.ties import reorder
from jaxsparse.ties import Tie
from jaxsparse.ties import Ties
from tests import zoo

RELATIVE = 1e-5  # Of the largest output, in float32.


def places(tie):
  return {(member.path, member.axis) for member in tie.members}


def random_order(tie, rng):
  return rng.permuted(
      np.broadcast_to(np.arange(tie.size), tie.shape), axis=-1)


@pytest.fixture(scope='module', params=zoo.CASES, ids=lambda c: c.__name__)
def case_and_ties(request):
  case = request.param()
  return case, jaxsparse.infer_ties(case.fn, case.params, *case.inputs)


def test_every_tie_that_is_there_is_found(case_and_ties):
  case, ties = case_and_ties
  for expected in case.free:
    assert any(expected <= places(tie) for tie in ties.free), sorted(expected)


def test_nothing_is_free_that_must_not_move(case_and_ties):
  case, ties = case_and_ties
  free = set().union(*map(places, ties.free))
  assert not free & case.fixed


def test_every_axis_is_told_of(case_and_ties):
  case, ties = case_and_ties
  told = set().union(*map(places, ties))
  assert told == {
      (path, axis) for path, w in zip(
          jaxsparse.trees.paths(case.params), jax.tree.leaves(case.params))
      for axis, size in enumerate(w.shape) if size > 1}
  assert all(tie.fixed for tie in ties if not tie.free)


def test_permuting_free_units_leaves_the_function(case_and_ties):
  case, ties = case_and_ties
  rng, run = np.random.default_rng(1), jax.jit(case.fn)
  before = np.asarray(run(case.params, *case.inputs))
  orders = [(tie, random_order(tie, rng)) for tie in ties.free]
  after = np.asarray(run(
      reorder(case.params, orders, paths=ties.paths), *case.inputs))
  assert np.abs(after - before).max() <= RELATIVE * np.abs(before).max()


def params():
  rng = np.random.default_rng(0)
  shapes = {'fc1': (4, 6), 'bias': (6,), 'fc2': (6, 3)}
  return {name: rng.normal(size=shape).astype(np.float32)
          for name, shape in shapes.items()}


def mlp(params, x):
  return jax.nn.relu(x @ params['fc1'] + params['bias']) @ params['fc2']


X = np.ones(4, np.float32)
HIDDEN = Tie(6, (Member('fc1', 1), Member('bias', 0), Member('fc2', 0)))


def test_a_tie_by_hand_is_what_is_inferred():
  found, = jaxsparse.infer_ties(mlp, params(), X).free
  assert set(found.members) == set(HIDDEN.members)
  assert jaxsparse.check_ties(mlp, params(), [HIDDEN], X) <= RELATIVE


def test_shapes_suffice():
  shapes = jax.eval_shape(params)
  ties = jaxsparse.infer_ties(mlp, shapes, jax.ShapeDtypeStruct((4,), 'f4'))
  assert ties == jaxsparse.infer_ties(mlp, params(), X)


def test_a_missing_member_is_found_out_even_in_fresh_biases():
  fresh = params() | {'bias': np.zeros(6, np.float32)}
  lacks = Tie(6, (Member('fc1', 1), Member('fc2', 0)), name='lacks')
  with pytest.raises(ValueError, match="Tie 'lacks' changes the function"):
    jaxsparse.check_ties(mlp, fresh, [HIDDEN, lacks], X)


def test_a_tie_that_does_not_match_says_how():
  order = np.arange(6)
  with pytest.raises(ValueError, match=r'fc2 of shape \(6, 3\) has 3 indices'):
    reorder(params(), [(Tie(6, (Member('fc2', 1),)), order)])
  with pytest.raises(ValueError, match='has no axis 2'):
    reorder(params(), [(Tie(6, (Member('fc2', 2),)), order)])
  with pytest.raises(ValueError, match='is smaller than that'):
    late = Member('fc2', 0, start=2, part=True)
    reorder(params(), [(Tie(6, (late,)), order)])
  with pytest.raises(ValueError, match=r"no \['fc3'\]"):
    reorder(params(), [(Tie(6, (Member('fc3', 0),)), order)])


@pytest.mark.parametrize('order', [
    np.zeros(6, int), np.arange(5), np.arange(6.), np.arange(6)[None]])
def test_what_is_no_permutation_is_refused(order):
  with pytest.raises(ValueError, match=r'permutation of 0 \.\.\. 5'):
    reorder(params(), [(HIDDEN, order)])


def test_a_tie_needs_members_with_a_place_for_every_dimension():
  with pytest.raises(ValueError, match='A tie has members'):
    Tie(4, ())
  with pytest.raises(ValueError, match='along'):
    Tie(4, (Member('w', 1),), along=(2,))


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


def test_members_read_like_indices():
  assert str(Member('w', 1)) == 'w[:, *]'
  assert str(Member('w', 0, stride=4, repeats=((4, 1),))) == 'w[(* 4)]'
  assert str(Member('w', 0, 8, repeats=((2, 4),), part=True)) == 'w[8+(2 *)]'
  assert str(Member('w', 2, along=((0, 1),))) == 'w[@, :, *]'
  assert str(Member('w', 1, elsewhere=(Elsewhere(0, 3),))) == 'w[3, *]'


def test_ties_are_found_by_name_and_by_place():
  ties = Ties((HIDDEN,))
  assert ties['fc1[:, *]'] is HIDDEN and ties.of('fc2', 0) == (HIDDEN,)
  assert ties.of('fc2', 1) == ()
  with pytest.raises(ValueError, match="Got 'fc9', expected the name of a tie"):
    ties['fc9']


def test_units_are_kept_where_their_number_matters():
  def normed(params, x):
    h = x @ params['fc1'] + params['bias']
    return (h - h.mean()) @ params['fc2']

  def attended(params, x):
    return jax.nn.softmax(x @ params['fc1'] + params['bias']) @ params['fc2']
  for f, why in ((normed, 'power of its size'), (attended, 'reduce_max')):
    tie, = jaxsparse.infer_ties(f, params(), X).free
    assert why in tie.kept
  assert jaxsparse.infer_ties(mlp, params(), X).free[0].kept is None


def test_rotary_pairs_move_with_their_frequencies_only():
  p = {'q': np.ones((4, 6), np.float32), 'k': np.ones((4, 6), np.float32),
       'frequency': np.arange(3, dtype=np.float32)}

  def rotate(x, angle):
    a, b = jnp.split(x, 2)
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle),
                            a * jnp.sin(angle) + b * jnp.cos(angle)])

  def learned(p, x):
    return rotate(x @ p['q'], p['frequency']) @ rotate(
        x @ p['k'], 2 * p['frequency'])

  def constant(p, x):
    return learned(p | {'frequency': jnp.arange(3.)}, x)
  tie, = jaxsparse.infer_ties(learned, p, X).free
  assert tie.size == 3 and {str(m) for m in tie.members} >= {
      'frequency[*]', 'q[:, *]', 'q[:, 3+*]', 'k[:, *]', 'k[:, 3+*]'}
  del p['frequency']
  ties = jaxsparse.infer_ties(constant, p, X)
  assert not ties.free
  assert {tie.fixed for tie in ties.of('q', 1)} == {'iota'}
