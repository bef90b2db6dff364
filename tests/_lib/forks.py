"""Commands that start at once: forked off a process that has imported them.

A process of its own imports `experiments.train`, computes nothing, and forks
for each command; these share a folder of compiled programs. A command treats
signals, exit codes and files as it does when a shell starts it, but for the
seconds in which it imports.
"""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from tests._lib import commands


class Ended(NamedTuple):
  """How a command ended."""
  code: int  # Negative: the signal that killed it.
  out: str
  errors: str

  @property
  def is_one_line(self) -> bool:
    """Whether all that it said of what went wrong is one line."""
    lines = self.errors.strip().splitlines()
    return len(lines) == 1 and lines[0].startswith('error: ')


class Fork:
  """A command that runs."""

  def __init__(self, launcher: 'Launcher', pid: int, folder: pathlib.Path):
    self._launcher = launcher
    self.pid = pid
    self._folder = folder

  def send(self, number: int):
    """Sends a signal, to it alone."""
    os.kill(self.pid, number)

  def wait(self, seconds: float = 120) -> Ended:
    """Waits until it has ended; kills it if it takes longer."""
    limit = time.monotonic() + seconds
    while (code := self._launcher.ask(poll=self.pid)) is None:
      if time.monotonic() > limit:
        self.send(signal.SIGKILL)
      time.sleep(0.005)
    return Ended(code, *(
        file.read_text(errors='replace') if file.exists() else ''
        for file in (self._folder / 'out', self._folder / 'errors')))


class Launcher:
  """The process that forks."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._count = 0
    folder.mkdir(parents=True, exist_ok=True)
    self._server = subprocess.Popen(
        [sys.executable, '-m', 'tests._lib.forks', str(folder / 'cache')],
        cwd=commands.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True)
    assert self.ask(poll=None) is None  # It has imported all.

  def start(self, *args: str, module: str = 'train',
            file_size: int | None = None) -> Fork:
    """Starts a command.

    Args:
      *args: of the command.
      module: of `experiments`.
      file_size: in bytes, that no file may exceed, as a quota.
    """
    self._count += 1
    folder = self._folder / str(self._count)
    folder.mkdir()
    return Fork(self, self.ask(
        start=[f'experiments.{module}', *map(str, args)], folder=str(folder),
        file_size=file_size), folder)

  def run(self, *args: str, **options) -> Ended:
    """Starts a command and waits until it has ended."""
    return self.start(*args, **options).wait()

  def close(self):
    """Ends the process, and with it what still runs."""
    self._server.stdin.close()
    self._server.wait()
    self._server.stdout.close()

  def ask(self, **question):
    """Asks the server."""
    self._server.stdin.write(json.dumps(question) + '\n')
    self._server.stdin.flush()
    return json.loads(self._server.stdout.readline())


def _serve(cache):
  # Imported here: only the server needs them.
  import jax

  from experiments import sweep  # noqa: F401  # Imports train.
  from experiments.reporting import report
  for name in ('plot_training', 'plot_mask'):  # They take half of a short run.
    setattr(report, name, lambda *args, **options: None)
  jax.config.update('jax_compilation_cache_dir', cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  ended, running = {}, set()
  for line in sys.stdin:
    question = json.loads(line)
    if 'start' in question:
      pid = os.fork()
      if not pid:
        _command(**question)
      running.add(pid)
      answer = pid
    else:
      for pid in [*running]:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
          running.remove(pid)
          ended[pid] = os.waitstatus_to_exitcode(status)
      answer = ended.get(question['poll'])
    print(json.dumps(answer), flush=True)
  for pid in running:
    os.kill(pid, signal.SIGKILL)


def _command(start, folder, file_size):
  """Is the command, in a fork."""
  from absl import app
  from absl import flags

  from experiments._utils import launch
  from experiments._utils import stopping
  os.setsid()
  for name, number in (('out', 1), ('errors', 2)):
    file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT)
    os.dup2(file, number)
  stopping.at_start()
  module, *args = start
  sys.argv = [module, *args]
  sys.orig_argv = ['python', '-m', *sys.argv]
  flags.mark_flags_as_required(['config', 'workdir'])
  if file_size:
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
  code = 1
  try:
    app.run(sys.modules[module].main, flags_parser=launch.parse)
    code = 0
  except SystemExit as end:
    if isinstance(end.code, str):
      print(end.code, file=sys.stderr)
    else:
      code = end.code or 0
  except BaseException:  # What the interpreter would show.
    sys.excepthook(*sys.exc_info())
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == '__main__':
  _serve(sys.argv[1])
