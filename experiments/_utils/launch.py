"""Helpers of all commands: errors in a command are reported in one line."""

import ast
from collections.abc import Collection
from collections.abc import Iterator
import contextlib
import pathlib
import re
import signal
import sys

from absl import flags
import jax

from experiments._utils import quick
from experiments._utils import stopping

QUICK = flags.DEFINE_bool(
    'quick', False, 'Tries the command in minutes: trainings of 40 steps, one '
    'seed, one target. The numbers say nothing.')


def parse(argv: list[str]) -> list[str]:
  """Parses the flags; an error in them is one line, not a traceback.

  A config is Python code. A file without a function `get_config` is not run.
  With --quick, the config that was read is made small.
  """
  try:
    for i, flag in enumerate(argv):
      if match := re.fullmatch(r'--?config(?:=(.*))?', flag, re.DOTALL):
        value = match[1] if match[1] is not None else (*argv, '')[i + 1]
        _check_is_config(pathlib.Path(value.partition(':')[0]))
    rest = flags.FLAGS(argv)
    if flags.FLAGS.quick and 'config' in flags.FLAGS and flags.FLAGS.config:
      quick.shrink(flags.FLAGS.config)
  except (flags.Error, AttributeError, KeyError, ValueError, OSError,
          ImportError) as error:
    while isinstance(cause := next(iter(error.args), None), Exception):
      error = cause  # ml_collections wraps a KeyError in an AttributeError.
    message = str(error)
    if 'Traceback' in message:  # Of a config: its last line is enough.
      message = (message.partition('Traceback')[0]
                 + message.strip().splitlines()[-1])
    if isinstance(error, KeyError):
      message = f'no such config key: {error.args[0]}'
    sys.exit(f'error: {" ".join(message.split())}')
  if len(rest) > 1:
    sys.exit(f'error: {rest[1]!r} is not a flag; flags start with --, e.g. '
             '--workdir=runs/first')
  return rest


@contextlib.contextmanager
def mistakes_in_one_line() -> Iterator[None]:
  """Ends the command with a one-line error if the user can correct it.

  With --traceback it also shows where in the code the error was raised.
  """
  try:
    yield
  except stopping.Stopped as stopped:
    print(f'error: {stopped}', file=sys.stderr)
    sys.exit(128 + stopped.number)
  except KeyboardInterrupt:
    print(f'error: interrupted; {stopping.AGAIN}', file=sys.stderr)
    sys.exit(128 + signal.SIGINT)
  except (ValueError, OSError) as error:
    if flags.FLAGS.traceback:
      raise
    sys.exit(f'error: {one_line(error)}')
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    if flags.FLAGS.traceback or not _is_of_memory(error):
      raise
    sys.exit(f'error: out of memory: {one_line(error)}')


def workdir(path: str) -> str:
  """Returns the path of a --workdir.

  Raises:
    ValueError: if it is empty, which would be the current directory.
  """
  if not path.strip():
    raise ValueError('--workdir must not be empty. Give a new directory, e.g. '
                     '--workdir=runs/first')
  return path


def check_flags(read: Collection[str], hint: str):
  """Refuses flags of `experiments.train` that another command does not read.

  A command that imports it has all its flags.

  Args:
    read: the names of those that the command reads.
    hint: what to do instead, in a few words.

  Raises:
    ValueError: if another one is given.
  """
  for flag in flags.FLAGS.get_flags_for_module('experiments.train'):
    if flag.name not in (*read, 'traceback') and not flag.using_default_value:
      raise ValueError(f'--{flag.name} is not read by this command. '
                       f'Leave it out; {hint}')


def keep_programs(folder: str):
  """Sets JAX's cache of compiled programs, unless it is set already.

  Args:
    folder: the folder of the cache.
  """
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def warn(message: str):
  """Says what the user should know, beside the output of the command."""
  print(f'warning: {message}', file=sys.stderr, flush=True)


def one_line(error: Exception) -> str:
  """Returns the message of an error in one line.

  >>> one_line(ValueError('7 does not divide 32,\\n    8 does'))
  '7 does not divide 32, 8 does'
  >>> one_line(KeyError('loss'))
  "KeyError: 'loss'"
  """
  message = ' '.join(str(error).split())
  if isinstance(error, (ValueError, OSError)):
    return message
  return f'{type(error).__name__}: {message}'


def _check_is_config(path):
  """Finds out whether a file defines `get_config`, without running it."""
  hint = ('Give a Python file, e.g. '
          '--config=experiments/configs/digits/rigl_90.py')
  if not path.is_file():
    raise ValueError(f'--config={path} must be a file. {hint}')
  try:
    tree = ast.parse(path.read_bytes())
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    raise ValueError(
        f'--config={path} must be a Python file. {hint}') from None
  defined = {
      name for node in tree.body for name in (
          [node.name] if isinstance(node, ast.FunctionDef)
          else [alias.asname or alias.name for alias in node.names]
          if isinstance(node, (ast.Import, ast.ImportFrom))
          else [target.id for target in node.targets
                if isinstance(target, ast.Name)]
          if isinstance(node, ast.Assign) else [])}
  if 'get_config' not in defined:
    raise ValueError(
        f'--config={path} must define get_config, so it is not run. {hint}')


def _is_of_memory(error):
  return isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error)
