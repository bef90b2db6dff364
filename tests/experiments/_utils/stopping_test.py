"""Signals: what they do before, while and after a run watches for them."""

import os
import signal
import threading

import pytest

from experiments._utils import stopping


@pytest.fixture(autouse=True)
def _defaults():
  """Signals do what they do by default, as they do not under `nohup`."""
  numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
  before = [signal.getsignal(number) for number in numbers]
  for number in numbers:
    signal.signal(number, signal.default_int_handler
                  if number == signal.SIGINT else signal.SIG_DFL)
  yield
  for number, handler in zip(numbers, before):
    signal.signal(number, handler)


def _send(number):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize('number', [
    signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_are_noted_once_there_is_something_to_save(number):
  before = signal.getsignal(number)
  with stopping.watch() as watch:
    with pytest.raises(stopping.Stopped, match='before the first step'):
      _send(number)
    watch.can_save = True
    assert watch.number is None
    _send(number)
    assert watch.number == number
    if number == signal.SIGINT:  # A second time: it does not wait any more.
      with pytest.raises(stopping.Stopped, match='a second time'):
        _send(number)
    else:
      _send(number)
  assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As nohup does.
  try:
    with stopping.watch() as watch, stopping.raised():
      watch.can_save = True
      _send(signal.SIGHUP)
    assert watch.number is None
  finally:
    signal.signal(signal.SIGHUP, before)


def test_threads_are_left_alone():
  seen = []

  def run():
    with stopping.watch() as watch:
      seen.append(watch.number)
  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert seen == [None]


def test_signals_can_be_raised():
  with stopping.raised():
    with pytest.raises(stopping.Stopped, match='by SIGTERM; the s') as e:
      _send(signal.SIGTERM)
  assert e.value.number == signal.SIGTERM
  assert not isinstance(e.value, Exception)  # Nobody takes it for a failure.
