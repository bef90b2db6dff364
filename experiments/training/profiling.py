"""A profile of some steps, as TensorBoard and Perfetto read it."""

import pathlib
import re

import jax


class Profile:
  """Starts before one step and ends after another."""

  def __init__(self, first: int, last: int, path: pathlib.Path):
    self._first, self._last, self._path = first, last, path
    self._is_running = False

  def before(self, step: int):
    """Starts, if this is the step to do so, or past it in a run that goes on.
    """
    if not self._is_running and self._first <= step <= self._last:
      jax.profiler.start_trace(str(self._path))
      self._is_running = True

  def after(self, step: int, result: jax.Array):
    """Ends, if this was the last step to see.

    Args:
      step: that was started.
      result: of it, for which to wait.
    """
    if self._is_running and step >= self._last:
      jax.block_until_ready(result)
      self.close()

  def close(self):
    """Writes what was seen, if a run ends or is stopped before the last step.
    """
    if self._is_running:
      jax.profiler.stop_trace()
      self._is_running = False


def of(text: str, path: pathlib.Path, steps: int) -> Profile:
  """Returns the profile that a flag asks for; none, if it is empty.

  Args:
    text: 'FIRST:LAST', or empty.
    path: where it is written.
    steps: the number of steps of the run.

  Raises:
    ValueError: if the text is not of that form, or LAST is not one of the
      steps.
  """
  if not text:
    return Profile(1, 0, path)
  match = re.fullmatch(r'([1-9]\d{0,8}):([1-9]\d{0,8})', text)
  if not match or int(match[1]) > int(match[2]):
    raise ValueError(f'--profile={text} should be FIRST:LAST, two steps, such '
                     'as --profile=100:110')
  if int(match[2]) > steps:
    raise ValueError(f'--profile={text} should end at a step of the run, which '
                     f'has {steps:,}')
  return Profile(int(match[1]), int(match[2]), path)
