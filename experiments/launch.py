"""What the commands share: mistakes in a command cost one line."""

import sys

from absl import flags


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
