"""Tables and pictures of a page, made of the files of data that it names.

A table stands between two comments, and everything between them is replaced:

    <!-- table data/mnist_nm.jsonl of=differences reference=sr_ste -->
    <!-- end -->

The file lies beside the page: the `results.jsonl` of a sweep, or what a
benchmark wrote to its --data. `of` is one of

* `means`, the default; `flops=95%` adds the FLOPs of training at that target;
* `differences`, paired, to the method that `reference` names;
* `variants`: methods beside their variants of the name METHOD_SUFFIX, and the
  paired difference; `suffix=permuted`;
* `changes`: paired differences to the same methods, targets and seeds of
  another sweep, `before=data/shorter.jsonl`;
* `budgets`: what methods reach with equal FLOPs of training;
* `costs`: the metric, and FLOPs of training, of a sparse forward pass and of a
  dense one without dead channels, of a sweep with `config.base.slim`;
* `ratios`: the ratio at which each pattern costs 1%, of a sweep of
  `configs/sweep_ratios.py`; a column for each file, of which more may be named:
  `texts=data/y.jsonl`;
* `rows`: those of a benchmark.

`metric=kept` judges by another measurement than the first of
`metrics.METRICS`, in tables of runs that have it: here by the magnitude that
masks keep, of `experiments.prune`.

A picture of `data/mnist_nm.jsonl` is any that the page shows from a folder
`results`, named after the file and its kind: `mnist_nm_by_target.png`,
`mnist_nm_by_flops.png`; over steps, `mnist_nm_noise.png`,
`mnist_nm_noise_of_second_moments.png` and `mnist_nm_masks.png`; or, if the
sweep has no targets, `mnist_nm_by_row.png`.
"""

import functools
import hashlib
import os
import pathlib
import re
from typing import NamedTuple

from PIL import Image
from PIL import PngImagePlugin

from experiments._utils import names
from experiments.records import workdir
from experiments.reporting import benchmarked
from experiments.reporting import cost_table
from experiments.reporting import labels
from experiments.reporting import paired
from experiments.reporting import plots
from experiments.reporting import ratios
from experiments.reporting import results as results_lib
from experiments.reporting import tables

_START = '<!-- table '
_TABLE = re.compile(
    r'^<!-- table (?P<file>\S+)(?P<options>(?: \w+=\S+)*) -->\n.*?'
    r'^<!-- end -->$', re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(
    r'!\[[^\]]*\]\((?P<path>\S*?results/(?P<stem>\w+?)_'
    rf'(?P<kind>{"|".join(plots.NAMES)}))\)')
_HASH = 'results'  # The key of a picture's text with the hash of its data.


class Picture(NamedTuple):
  """A picture that a page shows."""
  path: pathlib.Path
  data: pathlib.Path  # The file that it is drawn from.
  kind: str  # A file name of `plots`.


def rendered(page: pathlib.Path) -> str:
  """Returns the text of a page with every table made of its data.

  Args:
    page: the page, which is not changed.

  Raises:
    ValueError: if a comment is wrong, or a file that it names.
  """
  source = page.read_text(encoding='utf-8')
  starts = source.count(f'\n{_START}') + source.startswith(_START)
  if starts != len(_TABLE.findall(source)):
    raise ValueError(
        f'{page} must have tables between <!-- table FILE KEY=VALUE --> and '
        f'<!-- end -->, each on a line, but of {starts} comments that begin '
        f'with {_START!r} {len(_TABLE.findall(source))} are such pairs')
  return _TABLE.sub(functools.partial(_filled, page), source)


def pictures(page: pathlib.Path) -> list[Picture]:
  """Returns the pictures of results that a page shows."""
  return [
      Picture(pathlib.Path(os.path.normpath(page.parent / found['path'])),
              page.parent / 'data' / f'{found["stem"]}.jsonl', found['kind'])
      for found in _PICTURE.finditer(page.read_text(encoding='utf-8'))]


def outdated(page: pathlib.Path) -> list[str]:
  """Returns what in a page is not made of its data as they are now.

  Args:
    page: the page, which is not changed.

  Returns:
    A line for the page, if a table differs, and one for each of its pictures
    that is missing or was drawn from other data.
  """
  found = []
  if rendered(page) != page.read_text(encoding='utf-8'):
    found.append(f'{page} has tables that differ from their data')
  for picture in pictures(page):
    if not picture.path.exists():
      found.append(f'{picture.path} is missing')
    elif _drawn_from(picture.path) != _hash(picture.data):
      found.append(f'{picture.path} was drawn from other data')
  return found


def write(page: pathlib.Path):
  """Makes the tables and draws the outdated pictures of a page."""
  text = rendered(page)
  if text != page.read_text(encoding='utf-8'):
    workdir.write(page, text)
  for picture in pictures(page):
    if not picture.path.exists() or (
        _drawn_from(picture.path) != _hash(picture.data)):
      draw(picture)


def draw(picture: Picture):
  """Draws a picture, and notes in it from which data.

  Raises:
    ValueError: if the results have no such picture.
  """
  found = results_lib.read([picture.data])
  drawings = plots.pictures(results_lib.runs(found), found.config)
  picture.path.parent.mkdir(parents=True, exist_ok=True)
  names.lookup(drawings, picture.kind, kind='picture')(picture.path)
  info = PngImagePlugin.PngInfo()
  info.add_text(_HASH, _hash(picture.data))
  with Image.open(picture.path) as image:
    image.load()
  image.save(picture.path, pnginfo=info, optimize=True)


def _filled(page, match):
  options = dict(option.split('=', 1) for option in match['options'].split())
  try:
    make = names.lookup(_KINDS, options.pop('of', 'means'), kind='table')
    table = make(page.parent / match['file'], **options)
  except (TypeError, ValueError) as error:  # Of options that it has not.
    raise ValueError(f'{page}: {_START}{match["file"]}{match["options"]}: '
                     f'{error}') from error
  head, *_ = match[0].splitlines()
  return f'{head}\n\n{table}\n\n<!-- end -->'


def _means(runs, config, *, flops=None):
  more = {}
  if flops:
    shares = [cost_table.train_share(runs, method, flops)
              for method in config.methods]
    more[f'training FLOPs at {flops} / dense'] = [
        tables.NOT_BUILT if share is None else f'{share:.2f}'
        for share in shares]
  return tables.means(runs, config.methods, config.targets, more=more,
                      seeds=len(config.seeds), label=labels.label)


def _differences(runs, config, *, reference):
  if reference not in config.methods:
    raise ValueError(f'reference must be one of {", ".join(config.methods)}, '
                     f'got {reference!r}')
  return paired.differences(runs, config.methods, config.targets,
                            reference=reference, seeds=len(config.seeds),
                            label=labels.label)


def _variants(runs, config, *, suffix):
  return paired.variants(runs, config.methods, config.targets, suffix=suffix,
                         seeds=len(config.seeds), label=labels.label)


def _budgets(runs, config):
  return cost_table.budgets(runs, config.methods, config.targets,
                            seeds=len(config.seeds), label=labels.label)


def _costs(runs, config):
  if not cost_table.has_costs(runs):
    raise ValueError('these runs did not count the FLOPs without dead '
                     'channels; a sweep with config.base.slim does')
  return cost_table.cost_table(runs, config, label=labels.label)


def _of_sweep(make):
  """Lets what is made of runs and their config be made of a file."""
  def made(path, *, metric=None, **options):
    found = results_lib.read([path])
    runs = results_lib.runs(found)
    if metric:
      runs = tables.by_metric(runs, metric)
    return make(runs, found.config, **options)
  return made


def _changes(path, *, before):
  found, other = (results_lib.read([file])
                  for file in (path, path.parents[1] / before))
  config = found.config
  targets = [target for target in config.targets
             if target in other.config.targets]
  if not targets:
    raise ValueError(f'{before} has none of the targets '
                     f'{", ".join(config.targets)}')
  return paired.changes(
      results_lib.runs(found), results_lib.runs(other), config.methods, targets,
      seeds=len(config.seeds), label=labels.label)


def _ratios(path, **others):
  """The first column is called as the path's last word, the others by keys."""
  files = {path.stem.rpartition('_')[2]: path, **{
      name: path.parents[1] / file for name, file in others.items()}}
  found = {name: results_lib.read([file]) for name, file in files.items()}
  if missing := [name for name, one in found.items()
                 if 'patterns' not in one.config]:
    raise ValueError(f'the sweep of {missing[0]} must tell which rows are of '
                     'one pattern, as configs/sweep_ratios.py does')
  first, *_ = found.values()
  return ratios.table({name: results_lib.runs(one)
                       for name, one in found.items()},
                      dict(first.config.patterns))


def _rows(path):
  rows = benchmarked.read(path).rows
  return benchmarked.table([*rows[0]], [[*row.values()] for row in rows])


_KINDS = {'means': _of_sweep(_means), 'differences': _of_sweep(_differences),
          'variants': _of_sweep(_variants), 'changes': _changes,
          'budgets': _of_sweep(_budgets), 'costs': _of_sweep(_costs),
          'ratios': _ratios, 'rows': _rows}


def _drawn_from(path):
  with Image.open(path) as image:
    return getattr(image, 'text', {}).get(_HASH)


def _hash(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()
