"""The work directory of one run: its files, and the run that owns it."""

from collections.abc import Iterator
import contextlib
import hashlib
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
SWEEP = 'sweep.json'  # Of the directory of a sweep, which is no run's.

# Keys of a config that may change when a run continues.
FREE = frozenset({'mesh'})


def claim(path: str, config: ml_collections.ConfigDict, *, dataset: str,
          fingerprint: str, weights: str | None = None,
          free: frozenset[str] = FREE) -> pathlib.Path:
  """Makes `path` the work directory of a run, or checks that it already is.

  Args:
    path: a new directory, or the directory of a run to continue.
    config: the config of the run.
    dataset: the name of the data set of the run.
    fingerprint: the fingerprint of the data set.
    weights: the fingerprint of the weights that the run begins with, if they
      are those of another run and it has no checkpoint yet.
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
    _check_sources(path, dataset, fingerprint, weights)
    return path
  for name in (
      DATASET, RECIPE, CHECKPOINTS, METRICS, CELLS, PLOT, MASK, CHANNELS,
      SUMMARY, SWEEP):
    if (path / name).exists():
      raise ValueError(
          f'{path} holds {name} but no {CONFIG}, so it is not known which run '
          'it is from. Give another --workdir.')
  write(path / CONFIG, config.to_json(indent=2) + '\n')
  _check_sources(path, dataset, fingerprint, weights)
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


def read_weights(path: pathlib.Path) -> str | None:
  """Returns the fingerprint of the weights that a run began with.

  It is `None` if they were new, or if the run is older than this record.
  """
  if not (path / DATASET).exists():
    return None
  return _read_json(path / DATASET).get('weights')


def sources(path: pathlib.Path) -> dict[str, str | None]:
  """Returns the fingerprints of all that a config only names.

  They are of the data, of the weights that the run began with, and of its
  recipe. Runs of one config compare only if these are the same.
  """
  recipe = path / RECIPE
  return {
      'data': read_fingerprint(path), 'weights': read_weights(path),
      RECIPE: hashlib.sha256(recipe.read_bytes()).hexdigest()[:12]
              if recipe.exists() else None}


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


def _check_sources(path, name, fingerprint, weights):
  """Records what a run begins with, or checks that it has not changed."""
  theirs, began = read_fingerprint(path), read_weights(path)
  if theirs not in (None, fingerprint):
    raise ValueError(
        f'{path} holds a run on other data: {name!r} had the fingerprint '
        f'{theirs} there and has {fingerprint} here. Results compare only '
        'within one; give another --workdir.')
  if began and weights not in (None, began):
    raise ValueError(
        f'{path} holds a run that began with other weights: those of '
        f'config.init_from had the fingerprint {began} there and have '
        f'{weights} here. Results compare only within one; give another '
        '--workdir.')
  if theirs is None or weights and not began:
    known = {'weights': weights} if weights else {}
    write(path / DATASET, json.dumps(
        {'dataset': name, 'fingerprint': fingerprint, **known}, indent=2)
          + '\n')


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
