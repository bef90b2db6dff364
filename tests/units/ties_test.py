"""Units of ties: how they are written down, and where they are."""

import numpy as np
import pytest

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
