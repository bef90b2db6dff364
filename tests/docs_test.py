"""What the README and the pages of `docs` say is true of the code.

Python blocks of a page run in order, in one namespace. Its comments say the
rest; `CONTRIBUTING.md` has the convention.
"""

import pathlib
import pkgutil
import re
import types

import jax
import optax
import pytest

import jaxsparse

_ROOT = pathlib.Path(__file__).parents[1]
_DOCS = _ROOT / 'docs'
_PAGES = [_ROOT / 'README.md', _ROOT / 'CONTRIBUTING.md',
          *sorted(p for p in _DOCS.rglob('*.md') if '_build' not in p.parts)]
_PIECES = re.compile(
    r'^<!-- run with (?P<numbers>.*?) -->$'
    r'|^<!-- run\n(?P<hidden>.*?)^-->$'
    r'|^<!-- file (?P<file>\S+) -->\n```\w+\n(?P<content>.*?)^```$'
    r'|^```(?P<info>\w[^\n]*)\n(?P<shown>.*?)^```$',
    re.MULTILINE | re.DOTALL)
_PATH = re.compile(
    r'(?:\.ci|colabs|docs|experiments|jaxsparse|tests)/[\w./]*\w')

_MADE = 'docs/_build'
_NAMESPACES = [name for name, value in vars(jaxsparse).items()
               if isinstance(value, types.ModuleType)]


def _name(page):
  return str(page.relative_to(_ROOT))


def _smaller(source, numbers):
  """The source with every number that tests do not wait for replaced."""
  for pair in filter(None, numbers.split(', ')):
    before, after = pair.split(' as ')
    source = source.replace(before, after)
  return source


def _sources(page):
  """Files that a page writes, and Python that it runs with its line."""
  text, numbers = page.read_text(encoding='utf-8'), ''
  for piece in _PIECES.finditer(text):
    line = text.count('\n', 0, piece.start()) + 1
    if piece['numbers']:
      numbers = piece['numbers']
    elif piece['file']:
      yield line, piece['file'], piece['content']
    elif piece['hidden'] is not None:
      yield line, None, piece['hidden']
    elif piece['info'] == 'python':
      yield line, None, _smaller(piece['shown'], numbers)


_RUN = [page for page in _PAGES if list(_sources(page))]
_GUIDES = [_DOCS / 'quickstart.md', *(
    page for page in sorted((_DOCS / 'guides').glob('*.md'))
    if page.stem not in ('launcher', 'refused'))]  # Commands, and tables.


@pytest.fixture(autouse=True)
def standard_settings():
  """Pages are run as users run them."""
  with jax.numpy_dtype_promotion('standard'):
    with jax.numpy_rank_promotion('allow'):
      yield


def _run(page):
  namespace = {'__name__': '__main__'}
  for line, file, source in _sources(page):
    if file:
      pathlib.Path(file).write_text(source, encoding='utf-8')
    else:
      code = compile('\n' * line + source, _name(page), 'exec')
      exec(code, namespace)
  return namespace


@pytest.mark.parametrize('page', _RUN, ids=_name)
def test_blocks_run(page, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert _run(page)


def test_most_pages_with_code_are_run():
  assert {_name(page) for page in _RUN} >= {
      'README.md', 'docs/quickstart.md', 'docs/methods.md',
      *(_name(page) for page in (_DOCS / 'guides').glob('*.md'))}


@pytest.mark.parametrize('page', _GUIDES, ids=_name)
def test_guides_start_with_a_script_to_paste_and_have_a_picture(page):
  text = page.read_text(encoding='utf-8')
  first = next(piece for piece in _PIECES.finditer(text)
               if piece['info'] == 'python' or piece['hidden'] is not None)
  assert first['hidden'] is None, 'readers cannot paste what is hidden'
  assert 'import jaxsparse\n' in first['shown']
  assert '_static/' in text


def test_methods_are_written_as_the_table_has_them():
  page = _DOCS / 'methods.md'
  namespace = _run(page)
  rows = re.findall(r'`(S\(.*?\))`[,;:| ]', page.read_text(encoding='utf-8'))
  rows = [row for row in rows if '...' not in row]
  assert len(rows) > 15
  for row in rows:
    made = eval(row, namespace)
    assert isinstance(made, optax.GradientTransformation), row


@pytest.mark.parametrize('page', _PAGES, ids=_name)
def test_files_that_are_named_exist(page):
  text = page.read_text(encoding='utf-8')
  code = ' '.join(re.findall(r'`[^`\n]+`|^```\w.*?^```$', text,
                             re.MULTILINE | re.DOTALL))
  for path in _PATH.findall(code):
    assert path.startswith(_MADE) or (_ROOT / path).exists(), path
  for module in re.findall(r'python -m (experiments[\w.]*\w)', text):
    path = _ROOT / module.replace('.', '/')
    assert path.is_dir() or path.with_suffix('.py').exists(), module


@pytest.mark.parametrize('page', _PAGES, ids=_name)
def test_links_lead_to_files(page):
  text = page.read_text(encoding='utf-8')
  for link in re.findall(r'\]\(([^)#]+)[^)]*\)', text):
    assert '://' in link or (page.parent / link).exists(), link


@pytest.mark.parametrize('page', _PAGES, ids=_name)
def test_names_of_the_library_exist(page):
  text = page.read_text(encoding='utf-8')
  names = set(re.findall(r'\bjaxsparse(?:\.[A-Za-z_]\w*)+', text))
  names |= {f'jaxsparse.{name}' for name in re.findall(
      rf'`((?:{"|".join(_NAMESPACES)})\.(?!py\b)[A-Za-z_]\w*)', text)}
  for name in names:
    assert pkgutil.resolve_name(name) is not None, name
