"""Processes: how they find each other, and what the first one does for all."""

import jax
from jax.experimental import multihost_utils
import pytest

from experiments._utils import processes


@pytest.fixture(name='joined')
def _joined(monkeypatch):
  """The arguments with which JAX was told to join others."""
  calls = []
  monkeypatch.setattr(
      jax.distributed, 'initialize', lambda *args: calls.append(args))
  return calls


def test_a_lone_process_joins_none(joined):
  processes.connect(None, count=None, index=None)
  assert not joined


def test_addresses_are_given_or_left_to_the_cluster(joined):
  processes.connect('auto', count=None, index=None)
  processes.connect('10.0.0.1:8476', count=2, index=1)
  assert joined == [(), ('10.0.0.1:8476', 2, 1)]


@pytest.mark.parametrize('arguments, message', [
    ((None, 2, 1), 'need --coordinator=HOST:PORT'),
    ((None, None, 0), 'need --coordinator=HOST:PORT'),
    (('auto', 2, 0), '--coordinator=auto'),
    (('a:1', None, 0), 'got --processes=None and --process=0'),
    (('a:1', 2, None), 'got --processes=2 and --process=None'),
    (('a:1', 2, 2), 'from 0 to N - 1, .*got --processes=2 and --process=2'),
    (('a:1', 2, -1), 'got --processes=2 and --process=-1'),
])
def test_incomplete_addresses_are_told(arguments, message, joined):
  coordinator, count, index = arguments
  with pytest.raises(ValueError, match=message):
    processes.connect(coordinator, count=count, index=index)
  assert not joined


def test_no_cluster_is_told(monkeypatch):
  def fail():
    raise ValueError('coordinator_address should be defined.')
  monkeypatch.setattr(jax.distributed, 'initialize', fail)
  with pytest.raises(ValueError, match='of the cluster: .*defined. Without a'):
    processes.connect('auto', count=None, index=None)


def test_a_lone_process_is_the_first():
  done = []
  assert processes.is_first()
  processes.first(lambda: done.append('written'))
  assert done == ['written'] and processes.number_of_first(7) == 7


def test_a_lone_process_keeps_its_errors():
  error = FileExistsError('in the way')

  def fail():
    raise error
  with pytest.raises(FileExistsError) as raised:
    processes.first(fail)
  assert raised.value is error


def test_others_wait_for_the_first_and_fail_with_it(monkeypatch):
  """As one of two processes after the other; a list takes what is sent."""
  sent = []
  monkeypatch.setattr(jax, 'process_count', lambda: 2)

  def broadcast(x):
    if jax.process_index() == 0:
      sent.append(x)
      return x
    return sent.pop(0)
  monkeypatch.setattr(multihost_utils, 'broadcast_one_to_all', broadcast)

  def fail():
    raise ValueError('this directory\nis of another run')
  for index, written in ((0, ['done']), (1, [])):
    monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
    done = []
    with pytest.raises(ValueError, match='directory\\s+is of another run'):
      processes.first(fail)
    processes.first(lambda done=done: done.append('done'))
    assert done == written
