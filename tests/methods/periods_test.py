"""The steps at which connections move."""

import pytest

import jaxsparse
from jaxsparse.methods import _periods


def test_the_end_is_a_share_of_training_or_what_is_given():
  assert _periods.end_of(100, .75, None, 10) == 75
  assert _periods.end_of(100, .75, 30, 10) == 30


@pytest.mark.parametrize('end, every', [(None, 80), (101, 10), (5, 10)])
def test_no_step_is_told_by_the_name_of_the_period(end, every):
  with pytest.raises(ValueError, match='prune_every=.*Write e.g. prune_every'):
    _periods.end_of(100, .75, end, every, name='prune_every')


def test_a_share_that_fades_has_a_step_before_it_is_gone():
  assert _periods.end_of(100, .75, None, 74, fades=True) == 75
  with pytest.raises(ValueError, match='every < end.*none move at the end, got '
                     'every=75, end=75'):
    _periods.end_of(100, .75, None, 75, fades=True)
  with pytest.raises(ValueError, match='total_steps=100'):
    _periods.end_of(100, .75, 101, 10, fades=True)


@pytest.mark.parametrize('share', [-.1, 1.1, 30.])
def test_what_is_no_share_is_told(share):
  _periods.check_shares(gamma=0., fraction=1.)
  with pytest.raises(ValueError, match=rf'gamma must be a share.*got {share}'):
    _periods.check_shares(fraction=.5, gamma=share)


def test_exchanges_begin_after_a_period_and_stop_before_the_share_is_zero():
  when = _periods.fading(5, 20)
  assert [t for t in range(30) if when(t)] == [5, 10, 15]


def test_a_flow_that_replaces_steps_leaves_some():
  flow, when = jaxsparse.hard(), jaxsparse.schedules.every(2)
  assert _periods.replacing(flow, when, 'rigl', 2).around is not None
  with pytest.raises(ValueError, match='replace_step=True. would replace'):
    _periods.replacing(flow, when, 'rigl', 1)
