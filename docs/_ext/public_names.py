"""Fails the build if a public name has no page, or stands on two.

Public is what a package or module right below `jaxsparse` has in its `__all__`.
The root offers some of these under a shorter name, which leads to the same
entry, and `{packages}` makes the table of both.
"""

import importlib
import pathlib
import pkgutil

from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import jaxsparse

_CONTRIBUTING = pathlib.Path(__file__).parents[2] / 'CONTRIBUTING.md'


def _public():
  """Full names, by package, from the `__all__` of all below the root."""
  for module in pkgutil.iter_modules(jaxsparse.__path__):
    if not module.name.startswith('_'):
      found = importlib.import_module(f'jaxsparse.{module.name}')
      if not hasattr(found, '__all__'):
        raise ExtensionError(f'{found.__name__} needs an __all__.')
      yield module.name, [f'{found.__name__}.{n}' for n in found.__all__]


def _key(name):
  """Equal for two names of one function or class of the library."""
  try:
    found = pkgutil.resolve_name(name)
  except (AttributeError, ImportError):
    return name  # An attribute of instances.
  ours = str(getattr(found, '__module__', '')).startswith('jaxsparse')
  return id(found) if ours and callable(found) else name


def _root():
  """The names of the root that are no namespaces, by the names' own home."""
  homes = {_key(name): name for _, names in _public() for name in names}
  for name in jaxsparse.__all__:
    home = homes.get(_key(f'jaxsparse.{name}'))
    if home:
      yield f'jaxsparse.{name}', home


def _problems(objects):
  pages = {}
  for name, entry in objects.items():
    if entry.objtype != 'module' and not entry.aliased:
      pages.setdefault(_key(name), set()).add(f'{name} in {entry.docname}')
  for _, names in _public():
    for name in names:
      found = pages.get(_key(name), set())
      if not found:
        yield f'{name} has no page: write it into one of docs/api/.'
      elif len(found) > 1:
        yield f'{name} stands twice: {", ".join(sorted(found))}.'


def _check(app, env):
  objects = env.domains['py'].objects
  problems = list(_problems(objects))
  if problems:
    raise ExtensionError('\n'.join(problems))
  for short, home in _root():
    objects[short] = objects[home]._replace(aliased=True)


class Packages(SphinxDirective):
  """A table of packages, from the lowest to the highest, and root names."""

  def run(self):
    rows = ['| package | holds | at the root |', '|---|---|---|']
    text = _CONTRIBUTING.read_text(encoding='utf-8')
    block = text.split('## The order of the packages')[1].split('```')[1]
    names = dict(_root())
    for line in block.splitlines()[1:]:
      package, holds = line.split(maxsplit=1)
      if not package.startswith('_'):
        found = [f'{{py:obj}}`{short.split(".")[-1]} <{home}>`'
                 for short, home in names.items()
                 if home.split('.')[1] == package]
        rows.append(
            f'| [{package}]({package}.md) | {holds} | {", ".join(found)} |')
    return self.parse_text_to_nodes('\n'.join(rows))


def setup(app):
  app.add_directive('packages', Packages)
  app.connect('env-check-consistency', _check)
  return {'parallel_read_safe': True}
