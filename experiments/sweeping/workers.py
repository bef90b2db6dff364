"""Runs jobs in several processes; if one dies, only its own job fails."""

import collections
from collections.abc import Iterator
from collections.abc import Sequence
import multiprocessing
from multiprocessing import connection as connections
import os
import signal
import sys
import threading
from typing import Any, Callable, NamedTuple

import jax

from experiments._utils import launch
from experiments._utils import stopping

_PATIENCE = 60.  # Seconds for a process to save its step.


class Outcome(NamedTuple):
  """How a job ended."""
  job: Any
  error: str  # Empty if all went well.


class _Worker(NamedTuple):
  """A process and our end of the pipe to it."""
  process: multiprocessing.process.BaseProcess
  pipe: connections.Connection
  cpu: int


def each(function: Callable[[Any], Any], jobs: Sequence[Any], *, workers: int
        ) -> Iterator[Outcome]:
  """Calls `function(job)` for every job.

  Args:
    function: the function to call; other processes import it by its name.
    jobs: the arguments of the calls, in order.
    workers: the number of processes that share the jobs, each on one CPU. With
      1, this process runs all jobs, on all CPUs.

  Yields:
    The outcome of each job, as soon as it has ended.
  """
  if workers > 1:
    yield from _shared(function, jobs, min(workers, len(jobs)))
  else:
    for job in jobs:
      yield Outcome(job, _attempt(function, job))


def _shared(function, jobs, workers):
  waiting = collections.deque(jobs)
  cpus = _cpus()
  busy = {}  # Worker -> job.
  try:
    for i in range(workers):
      _give(busy, _hire(function, cpus[i % len(cpus)]), waiting)
    while busy:
      pipes = {worker.pipe: worker for worker in busy}
      for pipe in connections.wait(list(pipes)):
        worker = pipes[pipe]
        job = busy.pop(worker)
        try:
          error = pipe.recv()
        except (EOFError, ConnectionResetError):
          worker.process.join()
          error = f'its process died (exit code {worker.process.exitcode})'
          worker = _hire(function, worker.cpu) if waiting else worker
        _give(busy, worker, waiting)
        yield Outcome(job, error)
  finally:
    _stop([worker.process for worker in busy])


def _stop(processes):
  """Ends those that are left because the caller stopped early."""
  for process in processes:
    process.terminate()  # A run saves its step.
  for process in processes:
    process.join(_PATIENCE)
    process.kill()


def _hire(function, cpu):
  context = multiprocessing.get_context('spawn')  # JAX does not survive a fork.
  ours, theirs = context.Pipe()
  process = context.Process(
      target=_serve, args=(function, theirs, cpu), daemon=True)
  process.start()
  theirs.close()  # So that the pipe ends when the process does.
  return _Worker(process, ours, cpu)


def _give(busy, worker, waiting):
  if waiting:
    busy[worker] = waiting.popleft()
    worker.pipe.send(busy[worker])
  else:
    worker.pipe.close()


def _serve(function, pipe, cpu):
  """Does the jobs that come through the pipe, until it is closed."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent sees to it.
  threading.Thread(target=_end_with_parent, daemon=True).start()
  if hasattr(os, 'sched_setaffinity'):  # XLA starts a thread per CPU it sees.
    os.sched_setaffinity(0, {cpu})
  # A GPU is shared: no process may take most of its memory at the start.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  while True:
    try:
      job = pipe.recv()
    except EOFError:
      return
    try:
      error = _attempt(function, job)
    except stopping.Stopped as stopped:
      sys.exit(128 + stopped.number)  # The parent has told why.
    pipe.send(error)


def _end_with_parent():
  # A run that outlived its parent would write beside the one that resumes it.
  connections.wait([multiprocessing.parent_process().sentinel])
  os._exit(1)


def _attempt(function, job):
  try:
    function(job)
  except Exception as error:  # pylint: disable=broad-exception-caught
    return launch.one_line(error)
  finally:
    jax.clear_caches()  # Or programs of all jobs would fill the memory.
  return ''


def _cpus():
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count()))
