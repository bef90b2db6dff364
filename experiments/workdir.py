"""The directory of one run: what lies in it, and whose it is."""

import json
import os
import pathlib

import ml_collections

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
METRICS = 'metrics.jsonl'
PLOT = 'training.png'
MASK = 'mask.png'
SUMMARY = 'summary.txt'


def claim(path: str, config: ml_collections.ConfigDict) -> pathlib.Path:
  """Makes `path` the directory of this config's run, or finds that it is.

  Args:
    path: a new directory, or that of a run to go on with.
    config: what the run is to do.

  Returns:
    The directory; it holds `config.json`.

  Raises:
    ValueError: if another run, or something else, is in the way.
    OSError: if the directory cannot be made or written to.
  """
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  if (path / CONFIG).exists():
    _check_same(path, read_config(path), json.loads(config.to_json()))
    return path
  for name in (CHECKPOINTS, METRICS, PLOT, MASK, SUMMARY):
    if (path / name).exists():
      raise ValueError(
          f'{path} holds {name} but no {CONFIG}, so it is not known which run '
          'it is from. Give another --workdir.')
  write(path / CONFIG, config.to_json(indent=2) + '\n')
  return path


def read_config(path: pathlib.Path) -> ml_collections.ConfigDict:
  """Returns the config of the run in `path`."""
  try:
    return ml_collections.ConfigDict(json.loads((path / CONFIG).read_text()))
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f'cannot read {path / CONFIG}: {error}') from error


def write(path: pathlib.Path, text: str):
  """Writes the file whole or, if the run is killed meanwhile, not at all."""
  partial = path.with_name(path.name + '.partial')
  partial.write_text(text)
  os.replace(partial, path)


def _check_same(path, theirs, ours):
  theirs = theirs.to_dict()
  differences = [
      f'{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here'
      for key in sorted({*theirs, *ours})
      if theirs.get(key) != ours.get(key)]
  if differences:
    raise ValueError(
        f'{path} holds the run of another config: {"; ".join(differences)}. '
        'Give another --workdir.')
