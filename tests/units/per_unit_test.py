"""Sums over units are those of numpy's own view, and what is spread is found.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.units import per_unit
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Elsewhere
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie

# name -> tie, shape of its one member's parameter
CASES = {
    'columns': (Tie(6, (Member('w', 1),)), (4, 6)),
    'a vector': (Tie(6, (Member('w', 0),)), (6,)),
    'heads': (Tie(3, (Member('w', 1, stride=2, repeats=((2, 1),)),)), (4, 6)),
    'flattened pixels': (
        Tie(3, (Member('w', 0, repeats=((4, 3),)),)), (12, 5)),
    'a part': (Tie(2, (Member('w', 0, start=3, part=True),)), (6, 2)),
    'dimensions of heads': (Tie(2, (
        Member('w', 2, along=((1, 1),)),), along=(3,)), (4, 3, 2)),
    'dimensions of flat heads': (Tie(2, (
        Member('w', 1, along=((1, 2),)),), along=(3,)), (4, 6)),
    'a third of qkv': (Tie(4, (Member(
        'w', 2, elsewhere=(Elsewhere(0, 1),)),)), (3, 5, 4)),
}


@pytest.mark.parametrize('name', CASES)
def test_total_sums_what_belongs_to_each_unit(name):
  tie, shape = CASES[name]
  member, = tie.members
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  there = ties_lib.view(tie, member, x)
  expected = there.reshape(*tie.shape, -1).sum(-1)
  np.testing.assert_allclose(
      per_unit.total(tie, member, jnp.asarray(x)), expected, rtol=1e-5,
      atol=1e-5)
  assert per_unit.count(tie, member, shape) == there[
      (0,) * len(tie.shape)].size


@pytest.mark.parametrize('name', CASES)
def test_spread_puts_values_where_units_are_and_fill_elsewhere(name):
  tie, shape = CASES[name]
  member, = tie.members
  values = np.arange(1., 1. + np.prod(tie.shape), dtype=np.float32).reshape(
      tie.shape)
  expected = np.full(shape, -7., np.float32)
  there = ties_lib.view(tie, member, expected)
  there[...] = values.reshape(values.shape + (1,) * (
      there.ndim - values.ndim))
  got = per_unit.spread(tie, member, jnp.asarray(values), shape, -7.)
  assert got.ndim == len(shape)
  np.testing.assert_array_equal(np.broadcast_to(got, shape), expected)


def test_sums_of_bfloat16_are_wide():
  tie = Tie(1, (Member('w', 1),))
  x = jnp.ones((1000, 1), jnp.bfloat16)
  total = per_unit.total(tie, tie.members[0], x)
  assert total.dtype == jnp.float32
  assert total[0] == 1000.


def test_a_member_that_does_not_fit_is_told():
  tie = Tie(5, (Member('w', 0),))
  with pytest.raises(ValueError, match='does not fit'):
    per_unit.total(tie, tie.members[0], jnp.ones((4, 2)))
