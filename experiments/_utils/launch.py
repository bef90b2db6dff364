"""What the commands share: mistakes in a command cost one line."""

from collections.abc import Iterator
import contextlib
import sys

from absl import flags
import jax


def parse(argv: list[str]) -> list[str]:
  """Parses the flags; a mistake in them costs one line, not a traceback."""
  try:
    rest = flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, OSError) as error:
    while isinstance(cause := next(iter(error.args), None), Exception):
      error = cause  # ml_collections wraps a KeyError in an AttributeError.
    message = str(error)
    if isinstance(error, KeyError):
      message = f'no such config key: {error.args[0]}'
    sys.exit(f'error: {" ".join(message.split())}')
  if len(rest) > 1:
    sys.exit(f'error: {rest[1]!r} is not a flag; flags start with --')
  return rest


@contextlib.contextmanager
def mistakes_in_one_line() -> Iterator[None]:
  """Ends the command with one line if its user can mend what went wrong.

  With --traceback it shows where in the code that was noticed.
  """
  try:
    yield
  except (ValueError, OSError) as error:
    if flags.FLAGS.traceback:
      raise
    sys.exit(f'error: {one_line(error)}')
  except KeyboardInterrupt:
    sys.exit('error: interrupted; the same command goes on from here')


def keep_programs(folder: str):
  """Keeps compiled programs for those who run them again, if nobody does yet.

  Args:
    folder: where.
  """
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def one_line(error: Exception) -> str:
  """Returns what an error says, in one line.

  >>> one_line(ValueError('7 does not divide 32,\\n    8 does'))
  '7 does not divide 32, 8 does'
  >>> one_line(KeyError('loss'))
  "KeyError: 'loss'"
  """
  message = ' '.join(str(error).split())
  if isinstance(error, (ValueError, OSError)):
    return message
  return f'{type(error).__name__}: {message}'
