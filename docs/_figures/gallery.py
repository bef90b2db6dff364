"""Draws `docs/_static/gallery/*.png`: one figure of each notebook, small.

$ python docs/_figures/gallery.py                # Runs all: some minutes.
$ python docs/_figures/gallery.py quickstart     # Or some.
"""

import io
import os
import pathlib
import sys

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402
from PIL import Image  # noqa: E402

_ROOT = pathlib.Path(__file__).parents[2]
_COLABS = _ROOT / 'colabs'
_GALLERY = _ROOT / 'docs' / '_static' / 'gallery'
# Which of its figures shows what a notebook is about.
_FIGURES = {
    'quickstart': 1, 'nm_training': 1, 'permutation': 0, 'dynamic_sparse': 0,
    'newer_methods': 0, 'one_shot': 0, 'recipes': 0, 'packed_matmul': 2}
_WIDTH, _COLORS = 480, 32  # Pixels; pages show half as many.


class _EnoughError(Exception):
  """The figure is drawn, and the rest of the notebook not needed."""


def _save(name):
  page = io.BytesIO()
  plt.savefig(page, dpi=100)
  image = Image.open(page).convert('RGB')
  image = image.resize((_WIDTH, image.height * _WIDTH // image.width),
                       Image.Resampling.LANCZOS)
  _GALLERY.mkdir(exist_ok=True)
  image.quantize(_COLORS).save(_GALLERY / f'{name}.png', optimize=True)


def _draw(name):
  left = [_FIGURES[name]]

  def show():
    if left[0] == 0:
      _save(name)
      raise _EnoughError
    left[0] -= 1
    plt.close('all')

  plt.show = show
  script = _COLABS / f'{name}.py'
  code = compile(script.read_text(encoding='utf-8'), script, 'exec')
  try:
    exec(code, {'__name__': '__main__'})
  except _EnoughError:
    plt.close('all')
  else:
    raise ValueError(f'{name} has fewer than {_FIGURES[name] + 1} figures.')


if __name__ == '__main__':
  sys.path[:0] = [str(_COLABS), str(_ROOT)]
  os.chdir(_COLABS)
  for each in sys.argv[1:] or _FIGURES:
    _draw(each)
