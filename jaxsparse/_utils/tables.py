"""Tables for people: what `print` shows of a summary."""

from typing import Collection, Iterable, Sequence


def table(*groups: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
  """Aligned columns, with a line between groups of rows.

  Args:
    *groups: rows of texts, all of one length; the first group is the head.
    right: columns that are aligned on the right, as numbers are.

  Returns:
    The lines, without spaces at their ends.

  >>> print(table([('layer', 'size')], [('in', '10'), ('out', '9')], right=[1]))
  layer  size
  -----  ----
  in       10
  out       9
  """
  blocks = [rows for rows in map(list, groups) if rows]
  widths = [max(map(len, column))
            for column in zip(*(row for block in blocks for row in block))]

  def line(row):
    cells = [cell.rjust(width) if i in right else cell.ljust(width)
             for i, (cell, width) in enumerate(zip(row, widths))]
    return '  '.join(cells).rstrip()
  rule = line(['-' * width for width in widths])
  return f'\n{rule}\n'.join('\n'.join(map(line, block)) for block in blocks)


def one_line(text: object, width: int) -> str:
  """The first line of a text, cut off where it is wider than a message takes.

  >>> one_line('no room\\nat all', 80), one_line('no room at all', 12)
  ('no room', 'no room  ...')
  """
  line = str(text).strip().partition('\n')[0].strip()
  return line if len(line) < width else f'{line[:width - 4]} ...'


def shape_text(shape: Sequence[int]) -> str:
  """A shape in one word.

  >>> shape_text((3, 4)), shape_text(())
  ('3x4', 'scalar')
  """
  return 'x'.join(map(str, shape)) or 'scalar'
