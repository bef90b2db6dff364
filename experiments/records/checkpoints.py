"""Checkpoints of a run: params, optimizer state and, inside it, the masks.

A checkpoint is a directory `<step>`. It holds the arrays, written by Orbax
(`state`), texts that belong to that step, and digests. The digests reveal a
checkpoint that is damaged, renamed or from elsewhere before it is read. If the
run is killed, a checkpoint is either complete or absent. With several
processes, each one saves and restores the arrays on its devices, in a folder
that all processes see.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import hashlib
import json
import pathlib
import re
import sys
import threading
import time
from typing import Any

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments._utils import launch
from experiments._utils import processes
from experiments.records import environment
from experiments.records import workdir

PyTree = Any

_KEEP = 2
_NAMED = 3  # Leaves in an error.
_STATE, _DIGESTS, _PARTIAL, _DAMAGED = (
    'state', 'digests.json', 'partial', '.damaged')
_OLD = {'files', 'shapes'}  # What digests held once.


class Damaged(ValueError):
  """A checkpoint differs from the one that was saved."""


def save(directory: pathlib.Path, step: int, state: PyTree,
         texts: Mapping[str, str] | None = None):
  """Saves the state after `step` updates; keeps only the last two checkpoints.

  Args:
    directory: the directory with the checkpoints of the run.
    step: the step, at least 1.
    state: a tree of arrays.
    texts: other data that belong to this step, by name. Only those of the first
      process are saved.

  Raises:
    OSError: if the checkpoint cannot be written, as on a full disk. Earlier
      checkpoints do not change.
  """
  partial = directory.absolute() / _PARTIAL
  # Processes communicate only when they compute nothing, because simulated
  # devices of one CPU can block each other.
  jax.block_until_ready(state)
  # A killed run may leave one.
  processes.first(lambda: workdir.remove(partial))
  _write(partial / _STATE, state, partial)

  def finish():
    with workdir.naming(partial):
      for name, text in (texts or {}).items():
        (partial / name).write_text(text)
      (partial / _DIGESTS).write_text(json.dumps(
          _with_own_digest({'step': step, 'shapes': _shapes(state),
                            'files': _files_digest(partial)})))
    partial.rename(directory / str(step))
    for old in _steps(directory)[:-_KEEP]:
      workdir.remove(directory / str(old))
  processes.first(finish)


def restore(directory: pathlib.Path, state: PyTree, *,
            tell: Callable[[str], None] | None = None) -> tuple[int, PyTree]:
  """Returns the last saved step and its state, or 0 and the given state.

  Args:
    directory: the directory that was passed to `save`. It may be missing.
    state: a new state. The saved state must have the same structure and shapes,
      and is put on the same devices.
    tell: receives messages. With it, a damaged last checkpoint is moved aside
      and the run continues from the one before. Without it, a damaged last
      checkpoint is an error.

  Raises:
    ValueError: if the checkpoint is damaged, or of another model, method or
      version of jaxsparse.
  """
  step, path, shapes = _last(directory, tell)
  if not step:
    return 0, state
  if shapes != _shapes(state):
    raise ValueError(_differs(path, shapes, _shapes(state)))
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      return step, checkpointer.restore(path / _STATE, state)
  except ValueError as error:  # Orbax compares empty nodes, too.
    there, here = _nodes(read(path / _STATE)), _nodes(
        ocp.tree.serialize_tree(state, keep_empty_nodes=True))
    if there == here:
      raise
    raise ValueError(_differs(path, there, here)) from error


def load(directory: pathlib.Path, *, tell: Callable[[str], None] | None = None
         ) -> tuple[int, PyTree]:
  """Returns the last saved step and its state in dicts and lists, or 0, `None`.

  Args:
    directory: the directory that was passed to `save`. It may be missing.
    tell: see `restore`.

  Raises:
    ValueError: if the checkpoint is damaged.
  """
  step, path, _ = _last(directory, tell)
  return step, read(path / _STATE) if step else None


def shapes(directory: pathlib.Path) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of the leaves that were saved, or none, by `keystr`.

  Arrays are not read; `restore` tells whether they are damaged.

  Args:
    directory: the directory that was passed to `save`. It may be missing.
  """
  step = _agreed(lambda: _described(directory))
  if not step:
    return {}
  saved = _manifest(directory.absolute() / str(step))['shapes']
  return {leaf: tuple(json.loads(text_[text_.index('['):]))
          for leaf, text_ in saved.items()}


def text(directory: pathlib.Path, step: int, name: str) -> str:
  """Returns a text that was passed to `save`.

  Args:
    directory: the directory that was passed to `save`.
    step: the step of a checkpoint that `restore` found undamaged.
    name: the name of the text.
  """
  return (directory / str(step) / name).read_text()


def export(path: pathlib.Path, tree: PyTree):
  """Writes a tree for other programs to read.

  If the process is killed, the directory is either complete or absent.

  Args:
    path: the new directory. `read` reads it, and so does Orbax without this
      package.
    tree: a tree of arrays and `None`.

  Raises:
    OSError: if the tree cannot be written, as on a full disk.
  """
  partial = path.absolute().with_name(path.name + '.' + _PARTIAL)
  for folder in (partial, path):
    workdir.remove(folder)
  _write(partial, tree, partial)
  partial.rename(path)


def read(path: pathlib.Path) -> PyTree:
  """Returns the tree that `export` wrote, in dicts and lists."""
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


def _differs(path, there, here):
  """Tells how the leaves of a checkpoint differ from those of a state."""
  leaves = [leaf for leaf in sorted({*there, *here})
            if there.get(leaf) != here.get(leaf)]
  told = [f'{leaf} is {there.get(leaf, "missing")} there and '
          f'{here.get(leaf, "missing")} here' for leaf in leaves[:_NAMED]]
  more = f' and {len(leaves) - _NAMED} more' if len(leaves) > _NAMED else ''
  then, now = environment.origin(path.parent.parent, int(path.name))
  written, use = '', ''
  if then and then != now:
    written = f' It was written by {then}, and this is {now}.'
    use = ', or use that version'
  return (f'checkpoint {path} is of another model, method or version of '
          f'jaxsparse: {"; ".join(told)}{more}.{written} Give another '
          f'--workdir{use}.')


def _nodes(tree):
  """The paths of all leaves and empty nodes of dicts and lists."""
  flat = ocp.tree.to_flat_dict(tree, keep_empty_nodes=True)
  return {'/'.join(map(str, path)): 'present' for path in flat}


def _write(path, tree, partial):
  """Writes with Orbax; turns a failure into a message of one line."""
  try:
    with _silent(), ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path, tree)
  except (OSError, ValueError, RuntimeError) as error:
    with contextlib.suppress(OSError):
      workdir.remove(partial)  # A full disk has some room again.
    # From ' [' on stand places in the source of TensorStore.
    reason = launch.one_line(error).partition(' [')[0]
    raise OSError(f'cannot save {path.parent.parent}: {reason}. Is the disk '
                  'full, or a quota reached? Make room; the same command goes '
                  'on from the checkpoint before') from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
  """Keeps Orbax and each of its threads from printing a traceback."""
  hooks = [(sys, 'excepthook'), (sys, 'unraisablehook'),
           (threading, 'excepthook')]
  before = [getattr(*hook) for hook in hooks]
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  for hook in hooks:
    setattr(*hook, lambda *args: None)
  try:
    yield
  except BaseException:
    time.sleep(0.2)  # Threads that fail after the first one.
    raise
  finally:
    logging.set_verbosity(verbosity)
    for hook, function in zip(hooks, before):
      setattr(*hook, function)


def _last(directory, tell):
  """The last undamaged step, its path and its shapes; or 0."""
  step = _agreed(lambda: _choose(directory, tell))
  path = directory.absolute() / str(step)
  return step, path, _manifest(path)['shapes'] if step else {}


def _agreed(choose):
  """The step that the first process chooses, as a shared folder may lag."""
  found = []
  processes.first(lambda: found.append(choose()))
  return processes.number_of_first(found[0] if found else 0)


def _described(directory):
  """The last step whose manifest can be read, or 0."""
  for step in reversed(_steps(directory)):
    with contextlib.suppress(Damaged):
      _manifest(directory / str(step))
      return step
  return 0


def _choose(directory, tell):
  """The last step with an undamaged checkpoint, or 0 if none was saved."""
  if not directory.is_dir() and (directory.is_symlink() or directory.exists()):
    raise ValueError(f'{directory} is no folder of checkpoints: remove it, and '
                     'the run starts again')
  damaged = {}
  for step in reversed(_steps(directory)):
    path = directory.absolute() / str(step)
    try:
      _check(path)
    except Damaged as error:
      if tell is None:
        raise
      damaged[path] = str(error)
      continue
    for other, why in damaged.items():
      aside = other.with_name(other.name + _DAMAGED)
      workdir.remove(aside)
      other.rename(aside)
      tell(f'{why} It is now {aside.name}, and the run goes on from step '
           f'{step:,}.')
    return step
  if damaged:
    raise Damaged(f'{next(iter(damaged.values()))} No other is whole: remove '
                  f'{directory}, and the run starts again.')
  return 0


def _check(path):
  """Checks that a checkpoint is the one that was saved."""
  manifest = _manifest(path)
  if str(manifest['step']) != path.name:
    raise Damaged(f'checkpoint {path} is damaged: it was saved as that of step '
                  f'{manifest["step"]}.')
  if manifest['files'] != _files_digest(path):
    raise Damaged(f'checkpoint {path} is damaged: its files are not those that '
                  'were saved.')


def _with_own_digest(content):
  """Adds to a manifest the digest of its own content."""
  text_ = json.dumps(content, sort_keys=True)
  return {**content, 'self': hashlib.sha256(text_.encode()).hexdigest()}


def _manifest(path):
  """The manifest of a checkpoint, checked against its own digest."""
  try:
    read_ = json.loads((path / _DIGESTS).read_text())
    old = read_.keys() == _OLD
    content = {key: value for key, value in read_.items() if key != 'self'}
    whole = _with_own_digest(content) == read_
  except (OSError, ValueError, RecursionError, AttributeError):
    old = whole = False
  if old:
    raise ValueError(
        f'checkpoint {path} was written by an older version of jaxsparse. Give '
        'another --workdir, or use that version.')
  if not whole:
    raise Damaged(f'checkpoint {path} is damaged: {_DIGESTS} is missing, or '
                  'not what was saved.')
  return content


def _shapes(tree):
  return {jax.tree_util.keystr(path): f'{leaf.dtype}{list(leaf.shape)}'
          for path, leaf in jax.tree.leaves_with_path(tree)}


def _files_digest(path):
  """A hash of all files but the digests themselves."""
  sha = hashlib.sha256()
  for file in sorted(path.rglob('*')):
    if file.is_file() and file != path / _DIGESTS:
      sha.update(f'{file.relative_to(path)} {file.stat().st_size}\n'.encode())
      with file.open('rb') as opened:
        while block := opened.read(1 << 20):
          sha.update(block)
  return sha.hexdigest()


def _steps(directory):
  """Steps by the names of checkpoints, in order."""
  if not directory.is_dir():
    return []
  return sorted(int(path.name) for path in directory.iterdir()
                if re.fullmatch('[1-9][0-9]*', path.name))
