"""Signals that ask a run to stop: it saves first, and prints one line.

Clusters send SIGTERM before they take a machine away, a closing terminal sends
SIGHUP, and Ctrl-C sends SIGINT. A command that a signal stopped exits with 128
plus the number of the signal, like shells: 143, 129 and 130. Signals that were
ignored before stay ignored, such as SIGHUP under `nohup`.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading

_ASKING = [signal.SIGTERM, signal.SIGINT]
if hasattr(signal, 'SIGHUP'):  # Not on every system.
  _ASKING.append(signal.SIGHUP)
AGAIN = 'the same command continues from here'


class Stopped(KeyboardInterrupt):
  """A signal ended a run, whose results are saved."""

  def __init__(self, message: str, number: int):
    super().__init__(message)
    self.number = number


class Watch:
  """Records whether a signal has asked this process to stop.

  Attributes:
    number: the number of the first signal, or `None`.
    can_save: whether there are results to save; until then a signal stops the
      process at once.
  """

  def __init__(self):
    self.number = None
    self.can_save = False

  def asked(self, number: int, frame=None):
    """The handler of the signals."""
    del frame
    if not self.can_save:
      raise Stopped(
          f'{stopped_by(number)} before the first step; {AGAIN}', number)
    if self.number is not None and number == signal.SIGINT:
      raise Stopped(f'{stopped_by(number)} a second time; {AGAIN}, from its '
                    'last checkpoint', number)
    self.number = self.number or number


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
  """Catches signals that ask to stop, until the block ends.

  In a thread other than the main one, where Python handles no signals, none is
  caught.
  """
  watched = Watch()
  with _handled(watched.asked):
    yield watched


@contextlib.contextmanager
def raised() -> Iterator[None]:
  """Makes signals that ask to stop raise `Stopped` where the program stands."""
  def stop(number, frame):
    del frame
    check(number)
  with _handled(stop):
    yield


def check(number: int | None):
  """Stops a command that would go on to its next run.

  Args:
    number: the number of a signal that came when a run was at its end, or
      `None`.

  Raises:
    Stopped: if there was a signal.
  """
  if number is not None:
    raise Stopped(f'{stopped_by(number)}; {AGAIN}', number)


def at_start():
  """Ends a command with one line if a signal comes before it is watched for.
  """
  def leave(number, frame):
    del frame
    sys.stderr.write(f'error: {stopped_by(number)}; {AGAIN}\n')
    sys.stderr.flush()
    os._exit(128 + number)  # Half-made imports might catch an exception.
  _install(leave)


def stopped_by(number: int) -> str:
  """Returns which signal stopped a command, in words.

  >>> stopped_by(15)
  'stopped by SIGTERM'
  """
  return f'stopped by {signal.Signals(number).name}'


@contextlib.contextmanager
def _handled(handler):
  is_main = threading.current_thread() is threading.main_thread()
  before = _install(handler) if is_main else {}
  try:
    yield
  finally:
    for number, old in before.items():
      signal.signal(number, old)


def _install(handler):
  """Handles signals that are not ignored; returns who handled them before."""
  return {number: signal.signal(number, handler) for number in _ASKING
          if signal.getsignal(number) not in (signal.SIG_IGN, None)}
