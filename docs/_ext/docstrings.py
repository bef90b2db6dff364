"""Docstrings as they are written, for Sphinx: code by indent, Markdown tables.

In a docstring a paragraph that is indented and stands free is code or a
formula, as in a terminal, and a table has bars. Sphinx wants a `::` in front of
the one and a directive for the other. Sections such as `Args:` are left to
napoleon.
"""

import re

_SECTIONS = re.compile(r'(Args|Returns|Raises|Yields|References|Attributes|'
                       r'Examples?|Notes?):$')


def _indent(line):
  return len(line) - len(line.lstrip())


def _cells(row):
  return [cell.strip() for cell in row.strip().strip('|').split('|')]


def _table(rows):
  """A list-table from the lines of a Markdown table."""
  lines = ['.. list-table::', '   :header-rows: 1', '']
  for row in rows[:1] + rows[2:]:
    for i, cell in enumerate(_cells(row)):
      cell = re.sub(r'\*\*(`.*?`)\*\*', r'\1', cell)
      lines.append(f'   {"* -" if i == 0 else "  -"} {cell}'.rstrip())
  return lines + ['']


def _blocks(lines):
  """Runs of lines between blank ones."""
  block = []
  for line in [*lines, '']:
    if line.strip():
      block.append(line)
    elif block:
      yield block
      block = []


def _is_list(line):
  return re.match(r'\s*([*-]|\d+\.) ', line)


def convert(lines):
  """The lines of a docstring as reStructuredText."""
  out, in_section, in_list, literal = [], False, False, False
  for block in _blocks(lines):
    first = block[0]
    if _indent(first) == 0:
      literal = in_section = in_list = False
      in_section = bool(_SECTIONS.match(first))
      in_list = bool(_is_list(first))
    bars = [line.lstrip().startswith('|') for line in block]
    if not literal and not first.lstrip().startswith('>>>'):
      # A name in the plural, `mask`s, is no name for reStructuredText.
      block = [re.sub(r'(?<!`)(`[^`]+`)(?=\w)', r'\1\\ ', line)
               for line in block]
    if in_section:
      out += block
    elif all(bars) and len(block) > 2 and set(block[1]) <= set('|-: '):
      out += _table(block)
    elif _indent(first) >= 2 and not in_list:
      out += ([] if literal else ['::', '']) + ['  ' + line for line in block]
      literal = True
    else:
      out += block
    out.append('')
  return out


def _process(app, what, name, obj, options, lines):
  lines[:] = convert(lines)


def setup(app):
  # Before napoleon, whose priority is 500.
  app.connect('autodoc-process-docstring', _process, priority=400)
  return {'parallel_read_safe': True}
