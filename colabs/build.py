"""Writes the notebooks of this folder from their scripts.

  python -m colabs.build          # After every edit of a script.
  python -m colabs.build --check  # Writes nothing; fails if one is outdated.

A script is the source, with cells that begin with `# %%` ("percent format").
Its notebook is generated, has no outputs, and is the same text every time.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

import jupytext

FOLDER = pathlib.Path(__file__).parent
# The first lines of a notebook's script; `common.py` and this file have none.
_HEADER = '# ---\n# jupyter:\n'


def scripts(folder: pathlib.Path = FOLDER) -> list[pathlib.Path]:
  """Returns the scripts of a folder that are the sources of notebooks."""
  return [path for path in sorted(folder.glob('*.py'))
          if path.read_text(encoding='utf-8').startswith(_HEADER)]


def notebook(script: pathlib.Path) -> str:
  """Returns the text of a script's notebook."""
  made = jupytext.read(script)
  made.nbformat_minor = 4  # From 4.5 on cells have ids, which are random.
  for cell in made.cells:
    cell.pop('id', None)
  return jupytext.writes(made, fmt='ipynb').rstrip('\n') + '\n'


def outdated(folder: pathlib.Path = FOLDER) -> list[pathlib.Path]:
  """Returns the notebooks that are not what their scripts make.

  A notebook is outdated if its text differs, if its script was never built, or
  if it has no script.
  """
  texts = {path.with_suffix('.ipynb'): notebook(path)
           for path in scripts(folder)}
  found = {path: path.read_text(encoding='utf-8')
           for path in folder.glob('*.ipynb')}
  return sorted(path for path in texts.keys() | found.keys()
                if texts.get(path) != found.get(path))


def build(folder: pathlib.Path = FOLDER) -> list[pathlib.Path]:
  """Writes the outdated notebooks of a folder and returns them.

  Raises:
    ValueError: if a notebook has no script.
  """
  paths = outdated(folder)
  for path in paths:
    script = path.with_suffix('.py')
    if script not in scripts(folder):
      raise ValueError(
          f'{path.name} has no script, expected {script.name} beside it; run '
          f'jupytext --to py:percent {path.name}, or delete it')
    path.write_text(notebook(script), encoding='utf-8')
  return paths


def main(arguments: Sequence[str] | None = None,
         folder: pathlib.Path = FOLDER) -> int:
  """Runs the command; returns its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--check', action='store_true',
                      help='write nothing, fail if a notebook is outdated')
  if parser.parse_args(arguments).check:
    paths = outdated(folder)
    for path in paths:
      print(f'{path.name} is outdated: run python -m colabs.build')
    return 1 if paths else 0
  for path in build(folder):
    print(f'wrote {path.name}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
