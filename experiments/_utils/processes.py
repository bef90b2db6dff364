"""Several processes that train one network, each with devices of its own.

All of them compute the same steps; the first one alone writes files and tells
how it goes. A lone process costs nothing here.
"""

from collections.abc import Callable
import contextlib
import signal

import jax
from jax.experimental import multihost_utils
import numpy as np

from experiments._utils import launch
from experiments._utils import stopping

AUTO = 'auto'
_LONGEST = 2_000  # Bytes of a message from the first process.


def connect(coordinator: str | None, *, count: int | None, index: int | None):
  """Finds the other processes; before anything is computed.

  Args:
    coordinator: HOST:PORT of the first process; `'auto'`: the cluster tells it
      and the rest (SLURM, TPU pods, Open MPI); `None`: this process is alone.
    count: how many there are.
    index: which of them this one is, from 0 on.

  Raises:
    ValueError: if one of them is missing or wrong, or no cluster is found.
  """
  if coordinator in (None, AUTO):
    if (count, index) != (None, None):
      raise ValueError(
          '--processes and --process need --coordinator=HOST:PORT, an address '
          'of the first process; clusters tell all three by themselves: '
          '--coordinator=auto')
    if coordinator == AUTO:
      _initialize('the cluster')
  elif count is None or index is None or not 0 <= index < count:
    raise ValueError(
        f'--coordinator={coordinator} needs --processes=N, the same in all of '
        'them, and --process=I, from 0 to N - 1, another one in each; got '
        f'--processes={count} and --process={index}')
  else:
    _initialize(coordinator, coordinator, count, index)


def is_first() -> bool:
  """Whether this process is the one that writes and tells; a lone one is."""
  return jax.process_index() == 0


def hide_bars() -> bool | None:
  """What tqdm is given as `disable`: only the first shows bars, on terminals.
  """
  return None if is_first() else True


def first(write: Callable[[], None]):
  """Calls a function in the first process; the others wait until it is done.

  Raises:
    ValueError: in all processes, if the function raised it or an `OSError`.
  """
  error = None
  if is_first():
    try:
      write()
    except (ValueError, OSError) as raised:
      error = raised
  message = _text_of_first(launch.one_line(error) if error else '')
  if message:
    raise error or ValueError(message)


def number_of_first(number: int) -> int:
  """Returns the number that the first process has."""
  return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def asked_to_stop(watch: stopping.Watch, step: int) -> int | None:
  """Returns the signal that asks all processes to stop after this step.

  Of several processes one may be told before the others: JAX watches for
  SIGTERM then, and all stop after the same step.

  Args:
    watch: for signals to this process.
    step: that has just been computed; each process asks once after each.
  """
  if jax.process_count() == 1:
    return watch.number
  is_last = multihost_utils.reached_preemption_sync_point(step)
  return signal.SIGTERM if is_last else None


def watch() -> contextlib.AbstractContextManager[stopping.Watch]:
  """Watches for signals that ask this process to stop, if it is alone."""
  if jax.process_count() == 1:
    return stopping.watch()
  return contextlib.nullcontext(stopping.Watch())


def _text_of_first(text):
  if jax.process_count() == 1:
    return text
  encoded = text.encode()[:_LONGEST].ljust(_LONGEST, b'\0')
  given = multihost_utils.broadcast_one_to_all(
      np.frombuffer(encoded, np.uint8))
  return bytes(given).rstrip(b'\0').decode(errors='ignore')


def _initialize(whom, *address):
  try:
    jax.distributed.initialize(*address)
  except (ValueError, RuntimeError) as error:
    raise ValueError(
        f'could not join the processes of {whom}: {launch.one_line(error)} '
        'Where no cluster tells them, give --coordinator=HOST:PORT '
        '--processes=N --process=I.') from error
