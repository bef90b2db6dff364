"""Draws `docs/_static/gallery/*.png`: one figure of each notebook, small.

The figures are those stored in the notebooks; nothing runs.

$ python docs/_figures/gallery.py
"""

import pathlib
import sys

from PIL import Image

_ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))

from colabs import build  # noqa: E402

_GALLERY = _ROOT / 'docs' / '_static' / 'gallery'
# Which of its figures shows what a notebook is about.
_FIGURES = {
    'quickstart': 1, 'nm_training': 1, 'permutation': 0, 'dynamic_sparse': 0,
    'newer_methods': 0, 'one_shot': 0, 'recipes': 0, 'packed_matmul': 2}
_WIDTH, _COLORS = 480, 32  # Pixels; pages show half as many.


if __name__ == '__main__':
  _GALLERY.mkdir(exist_ok=True)
  for name, number in _FIGURES.items():
    image = [*build.figures(build.FOLDER / f'{name}.ipynb')][number]
    image = image.resize((_WIDTH, image.height * _WIDTH // image.width),
                         Image.Resampling.LANCZOS)
    image.quantize(_COLORS).save(_GALLERY / f'{name}.png', optimize=True)
