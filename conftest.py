"""Settings for all tests: eight devices, strict dtypes, no broadcasting ranks.

Warnings are errors by `pyproject.toml`. Tests compile much and run little, so
programs are compiled badly and fast, kept in pytest's cache for other processes
and later runs (`pytest --cache-clear` drops them), and leave the memory when it
gets full.
"""

import ctypes
import gc
from importlib import metadata
import os
import shutil
import signal

# Before jax is imported anywhere: a mesh of eight CPU devices, programs made as
# a whole, in three quarters of the time of many parts, and the older of two
# code generators, which takes half of it. Jaxlib from 0.11.1 on does not know
# the last flag, and aborts a process that names it.
_FLAGS = ['--xla_force_host_platform_device_count=8',
          '--xla_cpu_parallel_codegen_split_count=1']
if tuple(map(int, metadata.version('jaxlib').split('.')[:3])) < (0, 11, 1):
  _FLAGS.append('--xla_cpu_use_fusion_emitters=false')
os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *_FLAGS])
os.environ.setdefault('MPLBACKEND', 'agg')

# Programs in the background ignore Ctrl-C by default; tests send it to theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_disable_most_optimizations', True)

_LARGEST_CACHE = 2**30  # Bytes.
_LARGEST_PROCESS, _MANY = 1.5 * 2**30, 0.25 * 2**30  # Bytes.
_seen = {'left': 0}  # Bytes, after programs were dropped.


def pytest_configure(config):
  """Keeps compiled programs, also of the processes that tests start."""
  if not hasattr(config, 'cache'):
    return  # Pytest was told to keep nothing.
  folder = config.cache.mkdir('programs')
  if not hasattr(config, 'workerinput') and _size(folder) > _LARGEST_CACHE:
    shutil.rmtree(folder)
  for name, value in (
      ('jax_compilation_cache_dir', str(folder)),
      ('jax_persistent_cache_min_compile_time_secs', 0)):
    os.environ[name.upper()] = str(value)
    jax.config.update(name, value)


def _size(folder):
  return sum(path.stat().st_size for path in folder.iterdir())


def pytest_collection_finish():
  """Spares the garbage collector all that was imported, and most rounds.

  JAX makes many objects when it traces, few of them in cycles.
  """
  gc.freeze()
  gc.set_threshold(50_000, 10, 10)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """Runs the tests of a file in one process: they share compiled programs.

  In the order in which they are collected: files of few tests are the slowest
  here, and would come last, where one process waits for the other.
  """
  if config.getoption('dist') != 'load':
    return None  # Something else was asked for.
  config.option.loadscopereorder = False
  from xdist.scheduler import LoadFileScheduling
  return LoadFileScheduling(config, log)


@pytest.fixture(autouse=True)
def _forget():
  """Drops programs between tests; those of all would be many gigabytes.

  Memory that dropping does not give back is none of programs.
  """
  yield
  if _resident() > max(_LARGEST_PROCESS, _seen['left'] + _MANY):
    _drop_programs()
    _seen['left'] = _resident()


def _resident():
  """The memory of this process in bytes, or 0 where nothing tells."""
  try:
    with open('/proc/self/statm', encoding='ascii') as file:
      return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
  except OSError:
    return 0


def _drop_programs():
  jax.clear_caches()
  gc.collect()
  # Where there is glibc: without it freed memory stays in the process.
  getattr(ctypes.CDLL(None), 'malloc_trim', lambda _: None)(0)
