"""Links between the table of `docs/methods.md` and the entries of the API.

The first cell of a row leads to the first function of `jaxsparse.methods` that
the row calls, or else to its first public name. `{methods}` makes the table of
the API: functions, their papers, and guides, which its lines name:

  ste, sr_ste: [N:M training](../guides/nm_training.md)

`{papers} calibration` makes a table of the functions of a package that name
papers in their docstrings.
"""

import importlib
import inspect
import pathlib
import re

from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import jaxsparse
from jaxsparse import methods

_TABLE = pathlib.Path(__file__).parents[1] / 'methods.md'
_ROW = re.compile(
    r'^\| (?P<title>[^|]*) \| (?P<code>.*`.*) \| (?P<paper>.*)\|$',
    re.MULTILINE)
_FUNCTIONS = [name for name in methods.__all__ if name[0].islower()]


def _methods(row):
  """Functions of `methods` that a row calls, with or without `methods.`."""
  code = ' '.join(re.findall(r'`[^`]+`', row['code']))
  return [name for name in _FUNCTIONS
          if re.search(rf'methods\.{name}\(|`(methods\.)?{name}`', code)]


def _target(row):
  """The name that a row leads to, or `None`."""
  found = sorted(_methods(row), key=row['code'].index)
  if found:
    return f'jaxsparse.methods.{found[0]}'
  for name in re.findall(r'(?<![\w.])([a-z_]+(?:\.[a-z_]+)?)\(', row['code']):
    if hasattr(jaxsparse, name.split('.')[0]):
      return f'jaxsparse.{name}'
  return None


def _link(row):
  target = _target(row)
  title = f'[{row["title"]}]({target})' if target else row['title']
  return f'| {title} | {row["code"]} | {row["paper"]}|'


def _source(app, docname, source):
  if docname == 'methods':
    source[0] = _ROW.sub(_link, source[0])


class Methods(SphinxDirective):
  """A table of functions, papers and guides."""

  has_content = True

  def run(self):
    guides = {}
    for line in self.content:
      names, guide = line.split(': ', 1)
      guides |= dict.fromkeys(names.split(', '), guide)
    lines = ['| function | method | paper | guide |', '|---|---|---|---|']
    told = set()
    for row in _ROW.finditer(_TABLE.read_text(encoding='utf-8')):
      for name in _methods(row):
        told.add(name)
        lines.append(f'| {{py:obj}}`{name} <jaxsparse.methods.{name}>` | '
                     f'{row["title"]} | {row["paper"].strip()} | '
                     f'{guides.get(name, "")} |')
    for name in [*_FUNCTIONS, *guides]:
      if name not in told:
        raise ExtensionError(
            f'methods.{name} has no row in the table of docs/methods.md.')
    return self.parse_text_to_nodes('\n'.join(lines))


class Papers(SphinxDirective):
  """A table of functions and the papers that their docstrings name."""

  required_arguments = 1

  def run(self):
    package = importlib.import_module(f'jaxsparse.{self.arguments[0]}')
    lines = ['| function | papers |', '|---|---|']
    for name in package.__all__:
      papers = re.findall(r'`([^`<]+?)\s*<(https?://[^>]+)>`_',
                          inspect.getdoc(getattr(package, name)) or '')
      if papers:
        links = ', '.join(f'[{" ".join(title.split())}]({address})'
                          for title, address in papers)
        lines.append(
            f'| {{py:obj}}`{name} <{package.__name__}.{name}>` | {links} |')
    return self.parse_text_to_nodes('\n'.join(lines))


def setup(app):
  app.add_directive('methods', Methods)
  app.add_directive('papers', Papers)
  app.connect('source-read', _source)
  return {'parallel_read_safe': True}
