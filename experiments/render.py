r"""Makes tables and pictures of results.jsonl, the data that a sweep leaves.

  python -m experiments.render runs/mnist/sweep_nm/results.jsonl
  python -m experiments.render runs/one/results.jsonl runs/two/results.jsonl \
      --out=docs/results/data/both.jsonl
  python -m experiments.render docs/results/*.md
  python -m experiments.render docs/results/*.md --check

The first command prints the table that the sweep itself writes, the second
joins files of several machines or seeds. The third makes the tables and
pictures of pages from the data that the pages name, and --check only says which
are outdated. `experiments/reporting/pages.py` has the comments that pages need.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

from experiments.records import workdir
from experiments.reporting import document
from experiments.reporting import pages
from experiments.reporting import plots
from experiments.reporting import results


def render(files: Sequence[pathlib.Path], *, out: pathlib.Path | None = None,
           pictures: pathlib.Path | None = None) -> str:
  """Returns the table of one or several results.jsonl.

  Args:
    files: the files, of one sweep.
    out: where to write them as one file, if anywhere.
    pictures: a directory for pictures, if there shall be some.

  Raises:
    ValueError: if a file is damaged, or the files disagree.
    OSError: if a file cannot be read or written.
  """
  found = results.read(files)
  if out:
    out.parent.mkdir(parents=True, exist_ok=True)
    workdir.write(out, results.text(found))
  if pictures:
    pictures.mkdir(parents=True, exist_ok=True)
    plots.write(pictures, results.runs(found), found.config)
  return document.table_md(found)


def main(argv: Sequence[str]):
  parser = argparse.ArgumentParser(
      prog='python -m experiments.render', description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('files', nargs='+', type=pathlib.Path,
                      help='results.jsonl of one sweep, or pages (.md)')
  parser.add_argument('--out', type=pathlib.Path,
                      help='writes the results as one file')
  parser.add_argument('--pictures', type=pathlib.Path,
                      help='draws pictures into this directory')
  parser.add_argument('--check', action='store_true',
                      help='says which pages are outdated, and writes nothing')
  args = parser.parse_args(argv)
  try:
    problems = _run(args)
  except (ValueError, OSError) as error:
    sys.exit(f'error: {error}')
  if problems:
    sys.exit('\n'.join([
        'error: outdated; write python -m experiments.render with these pages:',
        *problems]))


def _run(args):
  """Does what was asked for; returns what is outdated, if that was asked."""
  kinds = {path.suffix for path in args.files}
  if kinds not in ({'.md'}, {'.jsonl'}):
    raise ValueError('files must be pages (.md) or results (.jsonl), got '
                     + ', '.join(map(str, args.files)))
  if kinds == {'.jsonl'}:
    if args.check:
      raise ValueError('--check needs pages (.md), got '
                       + ', '.join(map(str, args.files)))
    print(render(args.files, out=args.out, pictures=args.pictures), end='')
    return []
  if args.out or args.pictures:
    raise ValueError('--out and --pictures need results (.jsonl), got '
                     + ', '.join(map(str, args.files)))
  if args.check:
    return [line for page in args.files for line in pages.outdated(page)]
  for page in args.files:
    pages.write(page)
  return []


if __name__ == '__main__':
  main(sys.argv[1:])
