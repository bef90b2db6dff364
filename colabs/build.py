"""Writes the notebooks of this folder from their scripts, and runs them.

  python -m colabs.build            # After every edit of a script.
  python -m colabs.build --run      # Runs those without outputs of their code.
  python -m colabs.build --run quickstart  # Runs one in any case.
  python -m colabs.build --check    # Writes nothing; fails if one is outdated.

A script is the source, with cells that begin with `# %%` ("percent format").
Its notebook is generated. The outputs of a run stay in the notebook until the
code of the script changes; the prose may change without another run.
"""

import argparse
import base64
from collections.abc import Iterator
from collections.abc import Sequence
import hashlib
import io
import json
import os
import pathlib
import re
import sys
import tempfile
from typing import Any

import jupytext
import nbclient
from PIL import Image

FOLDER = pathlib.Path(__file__).parent
# The first lines of a notebook's script; `common.py` and this file have none.
_HEADER = '# ---\n# jupyter:\n'
# Where a notebook keeps the digest of the code that its outputs are of.
_KEY = 'outputs_of'
_KERNEL = (
    # Twice as many pixels as pages show, for dense screens.
    "--InlineBackend.figure_formats={'retina'}",
    "--InlineBackend.rc={'figure.dpi': 75}",
    '--HistoryManager.enabled=False',
    '--log-level=40')
_TERMINAL = re.compile(r'\x1b\[[\d;]*m')  # Colors of text.
_COLORS = 64  # Of a figure: a palette takes a third of the bytes.


def scripts(folder: pathlib.Path = FOLDER) -> list[pathlib.Path]:
  """Returns the scripts of a folder that are the sources of notebooks."""
  return [path for path in sorted(folder.glob('*.py'))
          if path.read_text(encoding='utf-8').startswith(_HEADER)]


def _code_cells(made: Any) -> list[Any]:
  return [cell for cell in made.get('cells', ())
          if cell['cell_type'] == 'code']


def _digest(made: Any) -> str:
  """Returns the digest of a notebook's code."""
  sources = [''.join(cell['source']) for cell in _code_cells(made)]
  return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]


def _has_outputs(made: Any) -> bool:
  """Returns whether a notebook has the outputs of its present code."""
  return made.get('metadata', {}).get(_KEY) == _digest(made)


def _without_outputs(script: pathlib.Path) -> Any:
  made = jupytext.read(script)
  made.nbformat_minor = 4  # From 4.5 on cells have ids, which are random.
  for cell in made.cells:
    cell.pop('id', None)
  return made


def _read(path: pathlib.Path) -> Any:
  """Returns the notebook in a file; an empty one if there is no such."""
  try:
    return jupytext.reads(path.read_text(encoding='utf-8'), fmt='ipynb')
  except (OSError, ValueError):  # Conflicts of a merge are no JSON.
    return {}


def _text(made: Any) -> str:
  return jupytext.writes(made, fmt='ipynb').rstrip('\n') + '\n'


def notebook(script: pathlib.Path) -> str:
  """Returns the text of a script's notebook.

  The outputs are those stored in the notebook beside the script, if they are of
  the same code; otherwise there are none.
  """
  made = _without_outputs(script)
  stored = _read(script.with_suffix('.ipynb'))
  if _has_outputs(stored) and _digest(stored) == _digest(made):
    made.metadata[_KEY] = _digest(made)
    for cell, run in zip(_code_cells(made), _code_cells(stored)):
      cell.update(outputs=run.outputs, execution_count=run.execution_count)
  return _text(made)


def outdated(folder: pathlib.Path = FOLDER) -> list[pathlib.Path]:
  """Returns the notebooks that are not what their scripts make.

  A notebook is outdated if its text differs, if it has outputs of other code,
  if its script was never built, or if it has no script.
  """
  texts = {path.with_suffix('.ipynb'): notebook(path)
           for path in scripts(folder)}
  found = {path: path.read_text(encoding='utf-8')
           for path in folder.glob('*.ipynb')}
  return sorted(path for path in texts.keys() | found.keys()
                if texts.get(path) != found.get(path))


def not_run(folder: pathlib.Path = FOLDER) -> list[pathlib.Path]:
  """Returns the notebooks without outputs of their scripts' code."""
  return [path.with_suffix('.ipynb') for path in scripts(folder)
          if not _has_outputs(jupytext.reads(notebook(path), fmt='ipynb'))]


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


def run(path: pathlib.Path) -> None:
  """Runs a script's notebook on the CPU and writes it with its outputs.

  Args:
    path: the notebook; it runs in its folder, and may not exist yet.

  Raises:
    ValueError: if the notebook has no script, or if a cell writes to stderr,
      such as a warning.
    nbclient.exceptions.CellExecutionError: if a cell fails.
  """
  script = path.with_suffix('.py')
  if script not in scripts(path.parent):
    names = [script.stem for script in scripts(path.parent)]
    raise ValueError(f'got {script.stem}, expected one of {names}')
  made = _without_outputs(script)
  client = nbclient.NotebookClient(
      made, timeout=None, kernel_name='python3', extra_arguments=_KERNEL,
      resources={'metadata': {'path': str(path.parent)}})
  with tempfile.TemporaryDirectory() as settings:  # Instead of the user's.
    client.execute(env=os.environ | {
        'IPYTHONDIR': settings, 'JAX_PLATFORMS': 'cpu',
        'MPLBACKEND': 'module://matplotlib_inline.backend_inline',
        'TF_CPP_MIN_LOG_LEVEL': '3',  # XLA says what compiles slowly.
        'PYTHONPATH': os.pathsep.join(
            [str(FOLDER.parent), os.environ.get('PYTHONPATH', '')])})
  for cell in _code_cells(made):
    cell.metadata.pop('execution', None)  # The times of day.
    for output in cell.outputs:
      if output.get('name') == 'stderr':
        raise ValueError(f'{path.name} writes to stderr: {output.text}')
    cell.outputs = _tidied(cell.outputs)
  del made.metadata['language_info']  # Names the version of Python.
  made.metadata[_KEY] = _digest(made)
  path.write_text(_text(made), encoding='utf-8')


def _tidied(outputs: Sequence[Any]) -> list[Any]:
  """Returns outputs with few colors; neighbours that are text become one."""
  tidied = []
  for output in outputs:
    if output.output_type == 'stream':
      output.text = _TERMINAL.sub('', output.text)
    if 'image/png' in output.get('data', ()):
      output.data['image/png'] = _with_palette(output.data['image/png'])
    if tidied and output.output_type == tidied[-1].output_type == 'stream':
      tidied[-1].text += output.text  # How it was cut is a matter of chance.
    else:
      tidied.append(output)
  return tidied


def _with_palette(png: str) -> str:
  """Returns a PNG file, in base64, with few colors."""
  image = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')
  page = io.BytesIO()
  image.quantize(_COLORS, dither=Image.Dither.NONE).save(
      page, 'png', optimize=True)
  return base64.b64encode(page.getvalue()).decode()


def figures(path: pathlib.Path) -> Iterator[Image.Image]:
  """Yields the figures among the outputs of a notebook."""
  for cell in _code_cells(_read(path)):
    for output in cell.outputs:
      if png := output.get('data', {}).get('image/png'):
        yield Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')


def main(arguments: Sequence[str] | None = None,
         folder: pathlib.Path = FOLDER) -> int:
  """Runs the command; returns its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  action = parser.add_mutually_exclusive_group()
  action.add_argument('--check', action='store_true',
                      help='write nothing, fail if a notebook is outdated')
  action.add_argument(
      '--run', nargs='*', metavar='NAME',
      help='run these notebooks, by default those without outputs')
  options = parser.parse_args(arguments)
  if options.check:
    paths = outdated(folder)
    for path in paths:
      print(f'{path.name} is outdated: run python -m colabs.build')
  else:
    paths = []
    for path in build(folder):
      print(f'wrote {path.name}')
  if options.run is not None:
    for path in ([folder / pathlib.Path(name).with_suffix('.ipynb').name
                  for name in options.run]
                 or not_run(folder)):
      run(path)
      print(f'ran {path.name}')
  missing = not_run(folder)
  for path in missing:
    print(f'{path.name} has no outputs of its code: '
          f'run python -m colabs.build --run {path.stem}')
  return 1 if options.check and (paths or missing) else 0


if __name__ == '__main__':
  sys.exit(main())
