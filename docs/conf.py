"""Builds the site: `sphinx-build -W -b html docs docs/_build/html`."""

import pathlib
import re
import shutil
import sys

from docutils import nodes

_HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(_HERE / '_ext'), str(_HERE.parent)]

import jaxsparse  # noqa: E402

# Sphinx reads no pages from outside of its folder.
for _notebook in (_HERE.parent / 'colabs').glob('*.ipynb'):
  (_HERE / 'colabs').mkdir(exist_ok=True)
  shutil.copy2(_notebook, _HERE / 'colabs')

project = 'jaxsparse'
author = 'The jaxsparse authors'
release = version = jaxsparse.__version__
extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
    'docstrings',
    'method_links',
    'public_names',
]
exclude_patterns = ['_build', '**.ipynb_checkpoints']

nb_execution_mode = 'off'  # Notebooks have their outputs: colabs/build.py.
myst_heading_anchors = 3

default_role = 'py:obj'  # `name` in a docstring: a link where there is a page.
autodoc_typehints = 'none'  # Docstrings tell types where they are not plain.
autodoc_member_order = 'bysource'
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
napoleon_use_ivar = True  # Fields of a state are told once, under Attributes.

html_theme = 'furo'
html_title = 'jaxsparse'
html_static_path = ['_static']
html_css_files = ['site.css']
html_copy_source = False
html_show_copyright = False
copybutton_selector = 'div:not(.output) > div.highlight pre'
copybutton_exclude = '.linenos, .gp, .go'


def _source(app, docname, source):
  """Notebooks are linked as pages; a number stays with its interval."""
  source[0] = re.sub(r'\]\(((?:\.\./)*)\.\./colabs/', r'](\1colabs/', source[0])
  if docname.startswith(('results/', 'which_method')):
    source[0] = re.sub(r' ([±†])', '\N{NO-BREAK SPACE}\\1', source[0]).replace(
        '± ', '±\N{NO-BREAK SPACE}')


def _fields(app, what, name, obj, skip, options):
  """A NamedTuple's fields are not told again as members."""
  return True if type(obj).__name__ == '_tuplegetter' else skip


def _alternatives(app, doctree):
  """A notebook's figures are named for readers who do not see them."""
  for image in doctree.findall(nodes.image):
    section = image
    while not isinstance(section, nodes.section | nodes.document):
      section = section.parent
    title = section.next_node(nodes.title).astext()
    image.setdefault('alt', f'Figure: {title}')


def setup(app):
  app.connect('doctree-read', _alternatives)
  app.connect('autodoc-skip-member', _fields)
  app.connect('source-read', _source)
