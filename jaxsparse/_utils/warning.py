"""Warnings that name the line of the user's program."""

import inspect
import warnings

# Packages that stand between the two: `jax.jit(tx.init)`, `nnx.Optimizer`.
_BETWEEN = ('jaxsparse', 'jax', 'optax', 'flax')


def warn(message: str) -> None:
  """Warns with a message, of the innermost line outside of this package.

  A constant `stacklevel` would count the frames of checks of arguments and of
  transformations, which differ from call to call.
  """
  frame, level = inspect.currentframe(), 0  # This one is of `jaxsparse`, too.
  while frame and frame.f_globals.get('__name__', '').split('.')[0] in _BETWEEN:
    frame, level = frame.f_back, level + 1
  warnings.warn(message, stacklevel=level + 1)
