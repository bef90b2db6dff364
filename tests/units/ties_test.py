"""Units of ties: how they are written down, and where they are."""

import jax
import numpy as np
import pytest

from jaxsparse.units.choice import heads
from jaxsparse.units.choice import neurons
from jaxsparse.units.inference import infer_ties
from jaxsparse.units.ties import Elsewhere
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import positions
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties
from jaxsparse.units.ties import view

HIDDEN = Tie(6, (Member('fc1', 1), Member('bias', 0), Member('fc2', 0)))


def test_a_tie_needs_members_with_a_place_for_every_dimension():
  with pytest.raises(ValueError, match='A tie needs members'):
    Tie(4, ())
  with pytest.raises(ValueError, match='along'):
    Tie(4, (Member('w', 1),), along=(2,))


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
  with pytest.raises(ValueError, match="name of a tie, .*got 'fc9'"):
    ties['fc9']
  with pytest.raises(ValueError, match="the name 'fc9', but there are no ties"):
    Ties(())['fc9']


def attend(params, x):
  """Two heads of three dimensions, then six neurons."""
  q, k, v = (jax.numpy.einsum('td,dhk->thk', x, params[i]) for i in 'qkv')
  shares = jax.nn.softmax(jax.numpy.einsum('thk,shk->hts', q, k))
  mixed = jax.numpy.einsum('hts,shk->thk', shares, v)
  x = jax.numpy.einsum('thk,hkd->td', mixed, params['o'])
  return jax.nn.relu(x @ params['up']) @ params['down']


def attention_params():
  shapes = dict.fromkeys('qkv', (4, 2, 3)) | {
      'o': (2, 3, 4), 'up': (4, 6), 'down': (6, 4)}
  rng = np.random.default_rng(0)
  return {k: rng.random(s, np.float32) for k, s in shapes.items()}


def perceptron(params, x):
  return jax.nn.relu(x @ params['first']) @ params['second']


def perceptron_params():
  return {'first': np.ones((4, 8), np.float32),
          'second': np.ones((8, 6), np.float32)}


X = np.random.default_rng(1).random((5, 4), np.float32)


def test_a_sum_has_the_ties_of_both_in_order_and_each_once():
  ties = infer_ties(attend, attention_params(), X)
  some = heads(ties) + neurons(ties)
  assert len(heads(ties)) == 1 and len(neurons(ties)) >= 1
  assert some.ties == (*heads(ties), *neurons(ties))
  assert some.shapes == ties.shapes
  assert some + ties.ties[0] + list(ties) == some + ties
  assert set(some + ties) == set(ties) and len(some + ties) == len(ties)
  assert ties + Ties(()) == ties == Ties(()) + ties


def test_ties_of_two_functions_join_if_their_parameters_differ():
  a = infer_ties(attend, attention_params(), X)
  b = infer_ties(perceptron, perceptron_params(), X)
  both = sum([a, b], Ties(()))
  assert both.ties == a.ties + b.ties
  assert both.shapes == {k: w.shape for k, w in (
      attention_params() | perceptron_params()).items()}


@pytest.mark.parametrize('other', [perceptron, lambda params, x: x])
def test_ties_of_two_functions_of_one_parameter_do_not_join(other):
  a, b = (infer_ties(fn, perceptron_params(), X) for fn in (perceptron, other))
  with pytest.raises(ValueError, match='no parameter in common, got first in'):
    a + b


def test_two_different_ties_of_one_name_do_not_join():
  with pytest.raises(ValueError, match=r"different ties have the name 'fc1"):
    Ties((HIDDEN,)) + Tie(6, (Member('fc1', 1),))


def test_a_sum_with_anything_else_is_told():
  with pytest.raises(ValueError, match='Expected ties, got int. Write infer'):
    Ties((HIDDEN,)) + 1


@pytest.mark.parametrize('member, along', [
    (Member('w', 1), ()),
    (Member('w', 1, start=2, stride=2, repeats=((2, 1),), part=True), ()),
    (Member('w', 2, repeats=((2, 3),), along=((0, 1),)), (2,)),
    (Member('w', 2, along=((2, 3),), elsewhere=(Elsewhere(1, 3, ((2, 4),)),)),
     (2,)),
])
def test_a_view_is_what_is_at_the_positions(member, along):
  w = np.arange(2 * 8 * 6).reshape(2, 8, 6)
  tie = Tie({1: 8, 2: 3}[member.axis] if not member.start else 3,
            (member,), along)
  found = view(tie, member, w)
  assert found.shape[:len(tie.shape)] == tie.shape
  for group in np.ndindex(*along):
    here = positions(tie, member, group)
    for unit in range(tie.size):
      at = [np.arange(n) for n in w.shape]
      for axis, there in here.items():
        at[axis] = there[unit] if axis == member.axis else there
      np.testing.assert_array_equal(
          np.sort(found[(*group, unit)].reshape(-1)),
          np.sort(w[np.ix_(*at)].reshape(-1)))
