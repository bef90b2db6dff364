"""The work directory of one run: its files, and the run that owns it."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import shutil

import ml_collections

CONFIG = 'config.json'
DATASET = 'dataset.json'
RECIPE = 'recipe.yaml'
CHECKPOINTS = 'checkpoints'
METRICS = 'metrics.jsonl'
CELLS = 'cells.jsonl'  # Of pruned networks.
PLOT = 'training.png'
MASK = 'mask.png'
CHANNELS = 'channels.png'
SUMMARY = 'summary.txt'
ENVIRONMENT = 'environment.json'
PROFILE = 'profile'

# Keys of a config that may change when a run continues.
FREE = frozenset({'mesh'})


def claim(path: str, config: ml_collections.ConfigDict, *, dataset: str,
          fingerprint: str, free: frozenset[str] = FREE) -> pathlib.Path:
  """Makes `path` the work directory of a run, or checks that it already is.

  Args:
    path: a new directory, or the directory of a run to continue.
    config: the config of the run.
    dataset: the name of the data set of the run.
    fingerprint: the fingerprint of the data set.
    free: keys of the config that may change when the run continues.

  Returns:
    The directory, which holds `config.json` and `dataset.json`.

  Raises:
    ValueError: if the directory holds another run or unknown files.
    OSError: if the directory cannot be made or written to.
  """
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  if (path / CONFIG).exists():
    _check_same(path, read_config(path), json.loads(config.to_json()), free)
    _check_data(path, dataset, fingerprint)
    return path
  for name in (
      DATASET, RECIPE, CHECKPOINTS, METRICS, CELLS, PLOT, MASK, CHANNELS,
      SUMMARY):
    if (path / name).exists():
      raise ValueError(
          f'{path} holds {name} but no {CONFIG}, so it is not known which run '
          'it is from. Give another --workdir.')
  write(path / CONFIG, config.to_json(indent=2) + '\n')
  _check_data(path, dataset, fingerprint)
  return path


def read_config(path: pathlib.Path) -> ml_collections.ConfigDict:
  """Returns the config of the run in `path`."""
  return ml_collections.ConfigDict(_read_json(path / CONFIG))


def read_fingerprint(path: pathlib.Path) -> str | None:
  """Returns the fingerprint of the data of a run, or `None` if not recorded."""
  if not (path / DATASET).exists():
    return None
  content = _read_json(path / DATASET)
  if not isinstance(content.get('fingerprint'), str):
    raise ValueError(f'cannot read {path / DATASET}: it holds no fingerprint. '
                     'Remove it if the data are those that the run began with.')
  return content['fingerprint']


def write(path: pathlib.Path, text: str):
  """Writes the whole file or, if the run is killed meanwhile, nothing."""
  partial = path.with_name(path.name + '.partial')
  with naming(path):
    partial.write_text(text)
    os.replace(partial, path)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
  """Adds the file's name to system errors, such as that of a full disk.

  >>> with naming(pathlib.Path('metrics.jsonl')):
  ...   raise OSError(28, 'No space left on device')
  Traceback (most recent call last):
  OSError: [Errno 28] No space left on device: 'metrics.jsonl'
  """
  try:
    yield
  except OSError as error:
    if error.errno is None or error.filename is not None:
      raise
    raise OSError(error.errno, error.strerror, str(path)) from error


def remove(path: pathlib.Path):
  """Removes a file, a link or a folder, if there is one."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def _read_json(file):
  try:
    content = json.loads(file.read_text())
  except (ValueError, RecursionError) as error:  # Of JSON, or of UTF-8.
    raise ValueError(f'cannot read {file}: {error}') from error
  if not isinstance(content, dict):
    raise ValueError(f'cannot read {file}: it holds no object')
  return content


def _check_data(path, name, fingerprint):
  """Records the data of a run, or checks that they have not changed."""
  theirs = read_fingerprint(path)
  if theirs is None:
    write(path / DATASET, json.dumps(
        {'dataset': name, 'fingerprint': fingerprint}, indent=2) + '\n')
  elif theirs != fingerprint:
    raise ValueError(
        f'{path} holds a run on other data: {name!r} had the fingerprint '
        f'{theirs} there and has {fingerprint} here. Results compare only '
        'within one; give another --workdir.')


def _check_same(path, theirs, ours, free):
  theirs = theirs.to_dict()
  differences = [
      f'{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here'
      for key in sorted({*theirs, *ours} - free)
      if theirs.get(key) != ours.get(key)]
  if differences:
    raise ValueError(
        f'{path} holds the run of another config: {"; ".join(differences)}. '
        'Give another --workdir.')
