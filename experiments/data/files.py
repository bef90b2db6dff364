"""Classify the files of this machine by the bytes at both of their ends.

The label comes from the extension of a file. A network that recognizes a file
with a wrong extension is therefore counted wrong, so no network reaches 100%.
Extensions of many types are left out, such as .txt, or .html, which in packages
is often a template. By default the folders are the standard library of the
running interpreter and the packages that are installed for it.
"""

import collections
from collections.abc import Sequence
import hashlib
import os
import pathlib
import sysconfig
from typing import NamedTuple

import numpy as np

from experiments.data import dataset

# Extension -> type, in the names of the network of `models/magika.py`.
TYPES = {
    **{f'.{name}': name for name in (
        'bmp', 'c', 'cpp', 'css', 'csv', 'gif', 'go', 'h5', 'ini',
        'java', 'json', 'jsonl', 'lua', 'm4', 'npy', 'npz', 'ogg',
        'onnx', 'parquet', 'pdf', 'pem', 'php', 'png', 'po', 'proto', 'rst',
        'rtf', 'scala', 'scss', 'sql', 'svg', 'swift', 'tar', 'tcl', 'tiff',
        'toml', 'tsv', 'ttf', 'vue', 'wasm', 'wav', 'webp', 'woff',
        'woff2', 'xlsx', 'xml', 'xz', 'yaml', 'zip')},
    '.bat': 'batch', '.bz2': 'bzip', '.cc': 'cpp', '.cfg': 'ini', '.cs': 'cs',
    '.cxx': 'cpp', '.dll': 'pebin', '.exe': 'pebin', '.f90': 'fortran',
    '.gz': 'gzip', '.ipynb': 'ipynb', '.jl': 'julia', '.jpeg': 'jpeg',
    '.jpg': 'jpeg', '.js': 'javascript', '.md': 'markdown', '.pkl': 'pickle',
    '.ps1': 'powershell', '.py': 'python', '.pyi': 'python', '.rb': 'ruby',
    '.rs': 'rust', '.sh': 'shell', '.so': 'elf', '.tex': 'latex',
    '.ts': 'typescript', '.whl': 'zip', '.yml': 'yaml',
}
# Python may write it during the search, and then no run could be repeated.
_SKIPPED = '__pycache__'
_BLOCK = 4_096  # Bytes that are read at each end, before blanks are stripped.
_LEAST = 8  # The least bytes without blanks; fewer do not show a type.


class Listing(NamedTuple):
  """The files that were found."""
  paths: dict[str, dict[str, pathlib.Path]]  # By type, and by name below that.
  fingerprint: str  # Of names and sizes, as reading all takes too long.


def find(folders: Sequence[str] = ()) -> Listing:
  """Returns the files whose extension is known.

  Args:
    folders: the folders to search. If empty, those of Python and its packages.

  Raises:
    ValueError: if a folder does not exist, or no folder holds such a file.
  """
  if not folders:
    known = sysconfig.get_paths()
    folders = [known[key] for key in ('stdlib', 'purelib', 'platlib')]
  paths, sizes = collections.defaultdict(dict), []
  for i, root in enumerate(_roots(folders)):
    for path in _walk(root):
      type_ = TYPES.get(path.suffix.lower())
      if type_ and path.is_file():
        name = f'{i}/{path.relative_to(root).as_posix()}'
        paths[type_][name] = path
        sizes.append(f'{name} {path.stat().st_size}')
  if not paths:
    raise ValueError(
        f'{", ".join(map(str, folders))} hold no file whose extension is '
        f'known, such as {", ".join(list(TYPES)[:5])}')
  return Listing(dict(sorted(paths.items())),
                 dataset.fingerprint('\n'.join(sizes).encode()))


def draw(listing: Listing, sizes: Sequence[int], *, classes: Sequence[str],
         seed: int, cap: int, ends: int, no_byte: int) -> list[dataset.Batch]:
  """Returns sets of files without common files or copies.

  Args:
    listing: the files to draw from.
    sizes: the number of files of each set.
    classes: all types. A label is the index of a type in it.
    seed: the seed of the order. The order does not depend on `sizes`, so the
      first set does not depend on the sizes of later ones.
    cap: the most files of one type. Without it, most files would be Python.
    ends: the number of bytes to read at each end.
    no_byte: the value that pads files with fewer bytes.

  Raises:
    ValueError: if there are not enough files.
  """
  def order(name):
    return hashlib.sha256(f'{seed} {name}'.encode()).digest()

  examples, seen = [], set()
  for type_ in sorted({*listing.paths} & {*classes}):
    left = cap
    paths = listing.paths[type_]
    for name in sorted(paths, key=order):
      if not left:
        break
      read = features(paths[name], ends=ends, no_byte=no_byte)
      if read is None or read.tobytes() in seen:
        continue
      left -= 1
      seen.add(read.tobytes())
      examples.append((order(name), read, classes.index(type_)))
  if len(examples) < sum(sizes):
    raise ValueError(
        f'there are {len(examples)} files that differ, at most {cap} of one '
        f'type, and {sum(sizes)} are asked for. Ask for fewer, allow more of '
        'a type, or name more folders.')
  examples.sort(key=lambda example: example[0])
  stops = np.cumsum([0, *sizes])
  return [dataset.Batch(np.stack([read for _, read, _ in part]),
                        np.array([label for *_, label in part], np.int32))
          for part in (examples[start:stop]
                       for start, stop in zip(stops, stops[1:]))]


def features(path: pathlib.Path, *, ends: int, no_byte: int
             ) -> np.ndarray | None:
  """Returns the bytes at both ends of a file, `[2 * ends]` int32.

  Blanks at the beginning and at the end of the file are stripped first. A
  shorter file is padded with `no_byte`, after its beginning and before its end.

  Args:
    path: the path of the file.
    ends: the number of bytes of each end.
    no_byte: the value of the padding.

  Returns:
    The bytes, or `None` if the file is nearly empty or cannot be read.
  """
  try:
    with path.open('rb') as file:
      size = file.seek(0, os.SEEK_END)
      file.seek(0)
      first = file.read(_BLOCK).lstrip()[:ends]
      file.seek(max(size - _BLOCK, 0))
      last = file.read(_BLOCK).rstrip()[-ends:]
  except OSError:
    return None
  if len(first) < _LEAST:
    return None
  read = np.full(2 * ends, no_byte, np.int32)
  read[:len(first)] = np.frombuffer(first, np.uint8)
  read[len(read) - len(last):] = np.frombuffer(last, np.uint8)
  return read


def _roots(folders):
  """Returns the folders that are not inside another one."""
  roots = sorted({pathlib.Path(folder).expanduser() for folder in folders})
  for root in roots:
    if not root.is_dir():
      raise ValueError(f'{root} must be a folder, as its files are read')
  return [root for root in roots if not {*root.parents} & {*roots}]


def _walk(root):
  for parent, folders, names in os.walk(root):
    folders[:] = sorted(name for name in folders if name != _SKIPPED)
    yield from (pathlib.Path(parent, name) for name in sorted(names))
