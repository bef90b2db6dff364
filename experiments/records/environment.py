"""The environment of a run: versions, devices, the commit of its code."""

from collections.abc import Sequence
from importlib import metadata
import json
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

from experiments.records import workdir

_PACKAGES = ('jaxsparse', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint',
             'numpy', 'ml_collections')


def current() -> dict[str, Any]:
  """Returns the environment of this process.

  `commit` is the commit of the repository that contains this file. '+changes'
  is appended if files differ from it. It is `None` without a repository.
  """
  devices = jax.devices()
  return {
      'commit': _commit(),
      'python': platform.python_version(),
      'system': platform.platform(),
      'packages': {name: _version(name) for name in _PACKAGES},
      'devices': {'backend': jax.default_backend(), 'count': len(devices),
                  'kind': devices[0].device_kind,
                  'processes': jax.process_count()},
  }


def keep(path: pathlib.Path, step: int):
  """Records in a work directory in which environment the run continues.

  `environment.json` holds a list. Each new environment gets an entry with the
  step at which the run continued in it and the command.

  Args:
    path: the work directory.
    step: the step that was restored, or 0.

  Raises:
    ValueError: if the file is damaged.
  """
  file = path / workdir.ENVIRONMENT
  entries, here = [], current()
  if file.exists():
    try:
      entries = json.loads(file.read_text())
      last = {key: value for key, value in entries[-1].items()
              if key not in ('from_step', 'command')}
    except (ValueError, RecursionError, IndexError, AttributeError, TypeError,
            KeyError) as error:
      raise ValueError(f'cannot read {file}: {error}. Remove it, and the '
                       'environments of earlier starts are forgotten.'
                       ) from error
    if last == here:
      return
  entries.append(
      {'from_step': step, 'command': sys.orig_argv, **here})
  workdir.write(file, json.dumps(entries, indent=2) + '\n')


def brief(path: pathlib.Path, step: int | None = None) -> dict[str, Any] | None:
  """Returns commit, version of JAX and device of a run's environment.

  Args:
    path: the work directory.
    step: the step that was made in it, at least 1; `None`: the last one.

  Returns:
    These three; `None` if no such environment was recorded.
  """
  return briefs(path, [step])[0]


def briefs(path: pathlib.Path, steps: Sequence[int | None]
           ) -> list[dict[str, Any] | None]:
  """Returns what `brief` does for several steps; the file is read once.

  Args:
    path: the work directory.
    steps: the steps, as for `brief`.
  """
  file = path / workdir.ENVIRONMENT
  entries = json.loads(file.read_text()) if file.exists() else []
  return [_brief(entries if step is None else _before(entries, step))
          for step in steps]


def origin(path: pathlib.Path, step: int) -> tuple[str, str]:
  """Returns which code made a step of a run, and which code this is.

  Both are a version of jaxsparse and a commit. The first is empty if the
  environment of the step is not recorded.

  Args:
    path: the work directory.
    step: the step, at least 1.
  """
  try:
    entries = json.loads((path / workdir.ENVIRONMENT).read_text())
    then = [_code(entry) for entry in _before(entries, step)]
  except (OSError, ValueError, RecursionError, AttributeError, TypeError,
          KeyError):
    then = []
  return then[-1] if then else '', _code(current())


def _brief(entries):
  if not entries:
    return None
  last = entries[-1]
  return {'commit': last['commit'], 'jax': last['packages']['jax'],
          'device': last['devices']['kind']}


def _before(entries, step):
  """The environments up to that in which a step was made."""
  return [entry for entry in entries if entry['from_step'] < step]


def _code(entry):
  commit = f' at commit {entry["commit"]}' if entry['commit'] else ''
  return f'jaxsparse {entry["packages"]["jaxsparse"]}{commit}'


def _version(name):
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return None


def _commit():
  def git(*arguments):
    return subprocess.run(
        ['git', '-C', str(pathlib.Path(__file__).parent), *arguments],
        capture_output=True, text=True, timeout=10, check=True).stdout.strip()
  try:
    commit = git('rev-parse', 'HEAD')
    return commit + ('+changes' if git('status', '--porcelain') else '')
  except (OSError, subprocess.SubprocessError):
    return None
