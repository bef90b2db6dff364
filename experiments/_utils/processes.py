"""Several processes that train one network, each with its own devices.

All processes compute the same steps. Only the first one writes files and
prints progress. With one process, these functions cost nothing.
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
  """Connects to the other processes; call it before any computation.

  Args:
    coordinator: HOST:PORT of the first process. `'auto'` reads it, the count
      and the index from the cluster (SLURM, TPU pods, Open MPI). `None` means
      that there is only this process.
    count: the number of processes.
    index: the index of this process, from 0.

  Raises:
    ValueError: if an argument is missing or wrong, or no cluster is found.
  """
  if coordinator in (None, AUTO):
    if (count, index) != (None, None):
      raise ValueError(
          '--processes and --process need --coordinator=HOST:PORT, the address '
          'of the first process. On clusters write --coordinator=auto instead '
          'of all three')
    if coordinator == AUTO:
      _initialize('the cluster')
  elif count is None or index is None or not 0 <= index < count:
    raise ValueError(
        f'--coordinator={coordinator} needs --processes=N, the same in all '
        'processes, and --process=I, from 0 to N - 1, different in each; got '
        f'--processes={count} and --process={index}')
  else:
    _initialize(coordinator, coordinator, count, index)


def is_first() -> bool:
  """Whether this process writes files and prints; true for a single process."""
  return jax.process_index() == 0


def hide_bars() -> bool | None:
  """The argument `disable` of tqdm: only the first process shows bars."""
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

  One of several processes may get the signal before the others. With several
  processes, JAX watches for SIGTERM, and all processes stop after the same
  step.

  Args:
    watch: the watch for signals to this process.
    step: the step that has just been computed. Each process calls this function
      once after each step.
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
        'Without a cluster, give --coordinator=HOST:PORT --processes=N '
        '--process=I.') from error
