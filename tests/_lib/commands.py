"""Configs by name, and the commands of `experiments` here or in a process."""

import hashlib
import importlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from absl import app
from absl import flags
import ml_collections
import pytest

from experiments import train
from experiments._utils import launch as launching
from experiments.records import checkpoints
from experiments.records import metrics

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ROOT / 'experiments' / 'configs'


def config(name: str, **overrides) -> ml_collections.ConfigDict:
  """Returns the config of a file.

  Args:
    name: of the file in its folder, such as 'digits/rigl_90'.
    **overrides: values of its keys.
  """
  module = importlib.import_module(
      f'experiments.configs.{name.replace("/", ".")}')
  made = module.get_config()
  made.update(overrides)
  return made


def arguments(name: str, workdir: pathlib.Path, *overrides: str) -> list[str]:
  """Returns the flags that train a config of that name."""
  return [f'--config=experiments/configs/{name}.py', f'--workdir={workdir}',
          *overrides]


def python(*args: str, devices: int | None = None) -> subprocess.Popen:
  """Starts `python -m` with these arguments, at the root of the repository.

  Args:
    *args: a module and its arguments.
    devices: how many it has; `None`: as many as this process.
  """
  flags_of_xla = os.environ.get('XLA_FLAGS', '')
  if devices:  # The last of two is read.
    flags_of_xla += f' --xla_force_host_platform_device_count={devices}'
  return subprocess.Popen(
      [sys.executable, '-m', *args], cwd=ROOT, text=True,
      env={**os.environ, 'XLA_FLAGS': flags_of_xla},
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_rows(process: subprocess.Popen, path: pathlib.Path, rows: int):
  """Waits until a run that goes on has written so many rows of metrics."""
  while len(metrics.read(path / 'metrics.jsonl')) < rows:
    assert process.poll() is None, process.communicate()
    time.sleep(0.001)


def kill(process: subprocess.Popen):
  """Ends a process by SIGKILL."""
  process.kill()
  process.communicate()
  assert process.returncode == -signal.SIGKILL


def free_port() -> int:
  """Returns a port of this machine that nothing listens to."""
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


def launch(main, monkeypatch: pytest.MonkeyPatch, *args) -> int | str | None:
  """Runs a command in this process; returns the code that it exits with."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(sys, 'argv', ['command', *map(str, args)])
  flags.FLAGS.unparse_flags()
  for name in [name for name in flags.FLAGS if name.startswith('config.')]:
    delattr(flags.FLAGS, name)  # The last launch's overrides.
  with pytest.raises(SystemExit) as exit_:
    app.run(main, flags_parser=launching.parse)
  return exit_.value.code


def train_until_killed(
    monkeypatch: pytest.MonkeyPatch, config: ml_collections.ConfigDict,
    path: pathlib.Path, *, at: int):
  """Trains until a run is killed while it saves the checkpoint of a step."""
  save = checkpoints.save

  def killed(directory, step, *saved):
    if step == at:
      raise KeyboardInterrupt
    save(directory, step, *saved)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints, 'save', killed)
    with pytest.raises(KeyboardInterrupt):
      train.train(config, str(path))


def assert_one_line(message: str, *parts: str):
  """Checks that a command ended with one line, which has all parts."""
  assert message.startswith('error: ') and '\n' not in message
  for part in parts:
    assert part in message


def hashes(path: pathlib.Path) -> dict[str, str]:
  """Returns a hash of each file in a folder, by its path."""
  return {str(file): hashlib.sha256(file.read_bytes()).hexdigest()
          for file in sorted(path.rglob('*')) if file.is_file()}
