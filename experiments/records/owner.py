"""A lock that lets only one process at a time work in a directory.

The lock is a lock of the kernel (`flock`), which disappears when its process
ends or is killed. It works between processes and containers of one machine that
see the same directory, and between machines whose file system supports locks:
NFS from version 4 on, Lustre mounted with `flock`, CephFS, GPFS. Without locks
(Windows, some FUSE file systems) other processes are not kept out, and a
warning is printed.
"""

from collections.abc import Iterator
import contextlib
import datetime
import errno
import json
import os
import pathlib
import socket
import sys

try:
  import fcntl
except ImportError:  # Windows.
  fcntl = None

LOCK = 'owner.lock'
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


class InUse(ValueError):
  """Another process works in the directory."""


@contextlib.contextmanager
def hold(path: pathlib.Path, *, name: str = LOCK, wait: bool = False
         ) -> Iterator[None]:
  """Keeps other processes out of a directory until the block ends.

  Args:
    path: the directory. It must exist.
    name: the name of the lock file. It exists only while the lock is held.
    wait: whether to wait until the other process releases the lock.

  Raises:
    InUse: if another process holds the lock.
    OSError: if the directory cannot be written to.
  """
  file = path / name
  descriptor = _lock(path, file, wait)
  try:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({
        'process': os.getpid(), 'host': socket.gethostname(),
        'since': datetime.datetime.now().isoformat(' ', 'seconds')}).encode())
    yield
  finally:
    file.unlink(missing_ok=True)  # First: nobody locks what is to be removed.
    os.close(descriptor)


def _lock(path, file, wait):
  while True:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      if fcntl is None:
        raise OSError(errno.ENOSYS, 'this system has none')
      fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      os.close(descriptor)
      raise InUse(f'{path} is in use by {_owner(file)}. Wait for it, or give '
                  'another --workdir.') from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        os.close(descriptor)
        raise
      print(f'{file} cannot be locked ({error.strerror}): start no second '
            f'command in {path}', file=sys.stderr, flush=True)
      return descriptor
    # The owner before us removed the file that we had opened: there is a new
    # one, or none.
    if _is_at(file, descriptor):
      return descriptor
    os.close(descriptor)


def _is_at(file, descriptor):
  try:
    return os.path.samestat(os.stat(file), os.fstat(descriptor))
  except FileNotFoundError:
    return False


def _owner(file):
  try:
    told = json.loads(file.read_text())
    return (f'process {told["process"]} on {told["host"]}, since '
            f'{told["since"]}')
  except (OSError, ValueError, KeyError, TypeError):
    return 'another process'
