"""Checkpoints of a run: params, optimizer state and, inside it, the masks.

A checkpoint is a directory `<step>` that holds what Orbax wrote, `state`, and
the digests by which a damaged or foreign one is found out before it is read.
It appears whole or not at all, whenever the run is killed. Of several processes
each saves and restores what its devices hold, in a folder that all of them see.
"""

import hashlib
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments._utils import processes

PyTree = Any

_KEEP = 2
_STATE, _DIGESTS, _PARTIAL = 'state', 'digests.json', 'partial'


def save(directory: pathlib.Path, step: int, state: PyTree):
  """Saves the state after `step` updates and drops all but two checkpoints."""
  partial = directory.absolute() / _PARTIAL
  # Processes talk to each other when they compute nothing: devices that a CPU
  # plays can block each other.
  jax.block_until_ready(state)
  # A killed run may leave one.
  processes.first(lambda: shutil.rmtree(partial, ignore_errors=True))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(partial / _STATE, state)

  def finish():
    (partial / _DIGESTS).write_text(json.dumps({
        'files': _files_digest(partial / _STATE), 'shapes': _shapes(state)}))
    partial.rename(directory / str(step))
    for old in _steps(directory)[:-_KEEP]:
      shutil.rmtree(directory / str(old))
  processes.first(finish)


def restore(directory: pathlib.Path, state: PyTree) -> tuple[int, PyTree]:
  """Returns the last step saved and its state, or 0 and the state given.

  Args:
    directory: where `save` put the checkpoints of the run, if there are any.
    state: a new state, which says what the saved one has to look like and on
      which devices it is to lie.

  Raises:
    ValueError: if the checkpoint is damaged, or of another model or method.
  """
  step, path, shapes = _last(directory)
  if not step:
    return 0, state
  ours = _shapes(state)
  for leaf in sorted({*shapes, *ours}):
    if shapes.get(leaf) != ours.get(leaf):
      raise ValueError(
          f'checkpoint {path} is of another model or method: {leaf} is '
          f'{shapes.get(leaf)} there and {ours.get(leaf)} here.')
  with ocp.StandardCheckpointer() as checkpointer:
    return step, checkpointer.restore(path / _STATE, state)


def load(directory: pathlib.Path) -> tuple[int, PyTree]:
  """Returns the last step saved and its state in dicts and lists, or 0, `None`.

  Args:
    directory: where `save` put the checkpoints, if there are any.

  Raises:
    ValueError: if the checkpoint is damaged.
  """
  step, path, _ = _last(directory)
  return step, read(path / _STATE) if step else None


def export(path: pathlib.Path, tree: PyTree):
  """Writes a tree for others to read, whole or, if it is killed, not at all.

  Args:
    path: the new directory; `read`, and Orbax alone, reads it.
    tree: of arrays and `None`.
  """
  partial = path.absolute().with_name(path.name + '.' + _PARTIAL)
  for folder in (partial, path):
    shutil.rmtree(folder, ignore_errors=True)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(partial, tree)
  partial.rename(path)


def read(path: pathlib.Path) -> PyTree:
  """Returns what `export` wrote, in dicts and lists."""
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(path.absolute())


def digest(tree: PyTree) -> str:
  """Returns a hash of every leaf's path, type, shape and bits."""
  sha = hashlib.sha256(json.dumps(_shapes(tree)).encode())
  for leaf in jax.tree.leaves(tree):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    sha.update(np.asarray(leaf).tobytes())
  return sha.hexdigest()


def _last(directory):
  """The last step saved, where it is and the shapes it has; or 0."""
  # All processes take the same one: a folder that is shared may lag.
  step = processes.number_of_first(max(_steps(directory), default=0))
  path = directory.absolute() / str(step)
  if not step:
    return 0, path, {}
  try:
    digests = json.loads((path / _DIGESTS).read_text())
    damaged = digests['files'] != _files_digest(path / _STATE)
    shapes = digests['shapes']
  except (OSError, ValueError, KeyError, TypeError):
    damaged, shapes = True, {}
  if damaged:
    raise ValueError(
        f'checkpoint {path} is damaged: its files are not those that were '
        'saved. Remove it to go on from an older one.')
  return step, path, shapes


def _shapes(tree):
  return {jax.tree_util.keystr(path): f'{leaf.dtype}{list(leaf.shape)}'
          for path, leaf in jax.tree.leaves_with_path(tree)}


def _files_digest(path):
  sha = hashlib.sha256()
  for file in sorted(path.rglob('*')):
    if file.is_file():
      sha.update(f'{file.relative_to(path)} {file.stat().st_size}\n'.encode())
      sha.update(file.read_bytes())
  return sha.hexdigest()


def _steps(directory):
  if not directory.is_dir():
    return []
  return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())
