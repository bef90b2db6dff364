"""Pages of results: their tables and pictures are made of their data."""

import functools
import json
import pathlib
import re

import numpy as np
import pytest
from scipy import stats

from experiments.configs import sweep_ratios
from experiments.records import metrics
from experiments.reporting import pages
from tests._lib import commands
from tests._lib import sweeps

_DOCS = commands.ROOT / 'docs'
_PAGES = sorted((_DOCS / 'results').glob('*.md'))
_DATA = _DOCS / 'results' / 'data'
_PRINTED = {'accuracy': (100, 1), 'bits_per_byte': (1, 3), 'auc': (1, 4)}


# The pages that are shipped.


@pytest.mark.parametrize('page', _PAGES, ids=lambda page: page.stem)
def test_every_table_and_picture_is_made_of_its_data(page):
  assert not pages.outdated(page), (
      'python -m experiments.render docs/results/*.md')


def test_every_file_of_data_has_its_table():
  text = ''.join(page.read_text(encoding='utf-8') for page in _PAGES)
  for path in _DATA.glob('*.jsonl'):
    assert f'<!-- table data/{path.name} ' in text


def test_every_picture_of_results_is_shown_and_has_data():
  shown = [picture for page in _PAGES for picture in pages.pictures(page)]
  assert {picture.path.name for picture in shown} == {
      path.name for path in (_DOCS / '_static' / 'results').glob('*')}
  assert all(picture.data.exists() for picture in shown)


def _tables(page):
  """The marked tables of a page: file, options, header, rows of cells."""
  for part in page.read_text(encoding='utf-8').split('<!-- table ')[1:]:
    head, table = part.split('<!-- end -->')[0].split('-->')
    file, *options = head.split()
    header, _, *rows = ([cell.strip(' *†') for cell in line.split('|')[1:-1]]
                        for line in table.strip().splitlines())
    yield page.parent / file, options, header, rows


def test_means_of_the_pages_are_those_of_numpy():
  """By another way than the tables': from the lines of the file."""
  checked = 0
  for page in _PAGES:
    for file, options, header, rows in _tables(page):
      lines = [json.loads(line) for line in file.read_text().splitlines()]
      names = [*dict.fromkeys(line['method'] for line in lines
                              if 'method' in line)]
      if any(option.startswith('of=') for option in options):
        continue
      assert len(names) == len(rows)
      for name, row in zip(names, rows):
        for target, cell in zip(header[1:], row[1:]):
          if '/' in target:  # A share of FLOPs.
            continue
          rows = [line['row'] for line in lines if line.get('method') == name
                  and line['target'] in (None, target)]
          scale, digits = next(
              _PRINTED[key] for key in _PRINTED if key in rows[0])
          values = np.array([scale * row[key] for row in rows
                             for key in _PRINTED if key in row])
          half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
          mean, printed = map(float, cell.strip('* ').split('±'))
          margin = 0.5 * 10**-digits + 1e-9
          assert abs(mean - values.mean()) <= margin, (name, target)
          assert abs(printed - half) <= margin, (name, target)
          checked += 1
  assert checked > 50


_QUOTED = [commands.ROOT / 'README.md', *sorted(_DOCS.glob('*.md')),
           *sorted((_DOCS / 'guides').glob('*.md'))]


@functools.cache
def _intervals(path):
  text = re.sub(r'[*%]', '', path.read_text(encoding='utf-8'))
  return {*re.findall(r'\d+\.\d+ ± \d+\.\d+', ' '.join(text.split()))}


@pytest.mark.parametrize('page', _QUOTED, ids=lambda page: page.stem)
def test_intervals_in_other_pages_are_those_of_results(page):
  """Signs aside, of differences that a text tells the other way round."""
  assert not _intervals(page) - set().union(*map(_intervals, _PAGES))


# Any page.


@pytest.fixture(name='page')
def _page(tmp_path):
  """A page with a table, a picture and their data, in folders as in `docs`."""
  folder = tmp_path / 'results'
  (folder / 'data').mkdir(parents=True)
  (folder / 'data' / 'x.jsonl').write_text(metrics.text([
      {'method': run.method, 'target': run.target, 'seed': run.seed,
       'config': {}, 'row': {**run.rows[-1], 'train_flops': 4. if run.target
                             is None else 2.}}
      for run in sweeps.runs(sweeps.MEASURED)]))
  page = folder / 'page.md'
  page.write_text(
      '# Title\n\n<!-- table data/x.jsonl -->\n<!-- end -->\n\nText.\n\n'
      '<!-- table data/x.jsonl of=differences reference=ste -->\nold\n'
      '<!-- end -->\n\n<!-- table data/x.jsonl of=budgets -->\n'
      '<!-- end -->\n\n![Words.](../_static/results/x_by_flops.png)\n')
  return page


def test_page_is_written_and_then_up_to_date(page):
  assert len(pages.outdated(page)) == 2
  pages.write(page)
  assert not pages.outdated(page)
  text = page.read_text()
  assert text.startswith('# Title\n\n<!-- table data/x.jsonl -->\n\n| method ')
  for part in ('\n\nText.\n\n', '| method - STE ', '| up to 0.50 of dense ',
               '| SR-STE | 94.0 ± 5.0 †', '| mdgf   | **95.5 ± 6.4** (n=2)'):
    assert part in text
  assert '\nold\n' not in text
  picture = page.parents[1] / '_static' / 'results' / 'x_by_flops.png'
  assert picture.read_bytes().startswith(b'\x89PNG')
  pages.write(page)
  assert page.read_text() == text


def test_number_that_was_changed_by_hand_is_found_and_mended(page):
  pages.write(page)
  text = page.read_text()
  page.write_text(text.replace('91.0', '93.0', 1))
  assert pages.outdated(page) == [f'{page} has tables that differ from their '
                                  'data']
  pages.write(page)
  assert page.read_text() == text


def test_picture_of_other_data_is_found_and_drawn_again(page):
  pages.write(page)
  data = page.parent / 'data' / 'x.jsonl'
  data.write_text(data.read_text().replace('0.98', '0.97'))
  assert [line.split(' ', 1)[1] for line in pages.outdated(page)] == [
      'has tables that differ from their data', 'was drawn from other data']
  pages.write(page)
  assert not pages.outdated(page)
  pages.pictures(page)[0].path.unlink()
  assert pages.outdated(page)[0].endswith('x_by_flops.png is missing')


def test_costs_have_four_columns_for_each_target(page):
  data = page.parent / 'data' / 'x.jsonl'
  config = sweeps.small(methods=('dense', 'ste', 'sr_ste', 'mdgf'),
                        seeds=(0, 1, 2))
  rows = [json.loads(line) for line in data.read_text().splitlines()]
  for line in rows:
    line['row'].update(dense_flops=2., test_flops=1., gpu_flops=1.5,
                       train_flops=9.)
  data.write_text(metrics.text([
      {'sweep': json.loads(config.to_json()), 'tuned': None, 'not_built': [],
       'commands': []}, *rows]))
  page.write_text('<!-- table data/x.jsonl of=costs -->\n<!-- end -->\n')
  text = pages.rendered(page)
  assert '| method | 2:4: test accuracy | train | test | GPU ' in text
  assert '| SR-STE | 94.0 ± 5.0         | 0.25  | 0.50 | 0.75 ' in text


def test_changes_are_of_the_targets_that_both_sweeps_have(page):
  data = page.parent / 'data' / 'x.jsonl'
  lines = [json.loads(line) for line in data.read_text().splitlines()]
  for line in lines:
    line['row']['accuracy'] -= 0.01
  (page.parent / 'data' / 'y.jsonl').write_text(metrics.text(
      [line for line in lines if line['target'] != '1:8']))
  page.write_text('<!-- table data/x.jsonl of=changes before=data/y.jsonl -->\n'
                  '<!-- end -->\n')
  assert pages.rendered(page).splitlines()[2:-2] == [
      '| method | 2:4                  |', '|--------|----------------------|',
      '| dense  | **+1.0 ± 0.0**       |', '| STE    | **+1.0 ± 0.0**       |',
      '| SR-STE | **+1.0 ± 0.0**       |', '| mdgf   | **+1.0 ± 0.0** (n=2) |']
  (page.parent / 'data' / 'y.jsonl').write_text(metrics.text(
      [line for line in lines if line['target'] is None]))
  with pytest.raises(ValueError, match='y.jsonl has none of the targets 2:4, '):
    pages.rendered(page)


def test_ratios_have_a_column_for_each_file(page):
  def write(name, losses):
    config = sweep_ratios.get_config(name.split('_')[1].split('.')[0])
    (page.parent / 'data' / name).write_text(metrics.text([
        {'sweep': json.loads(config.to_json()), 'tuned': None, 'not_built': [],
         'commands': []},
        *({'method': method, 'target': None, 'seed': 0, 'config': {},
           'row': {'step': 3, 'sparsity': share, 'accuracy': accuracy}}
          for method, share, accuracy in (('dense', 0., 1.), *losses))]))
  rows = ('unstructured_80', 0.8), ('unstructured_90', 0.9)
  write('ratios_images.jsonl', [(*row, 1.) for row in rows])
  write('ratios_clicks.jsonl', [
      (*row, one) for row, one in zip(rows, (1., 0.98))])
  page.write_text('<!-- table data/ratios_images.jsonl of=ratios '
                  'clicks=data/ratios_clicks.jsonl -->\n<!-- end -->\n')
  text = pages.rendered(page)
  assert '| pattern        | images  | clicks |' in text
  assert '| single weights | > 90.0% | 85.0%  |' in text
  assert '| channels       | n/a     | n/a    |' in text
  assert [line.split('|')[1].strip() for line in text.splitlines()[4:-2]] == [
      *sweep_ratios.PATTERNS]


def test_flops_have_a_column_if_asked_for(page):
  page.write_text('<!-- table data/x.jsonl flops=2:4 -->\n<!-- end -->\n')
  assert '| method | training FLOPs at 2:4 / dense | 2:4' in (
      pages.rendered(page))
  assert '| STE    | 0.50 ' in pages.rendered(page)


@pytest.mark.parametrize('comment, part', [
    ('<!-- table data/y.jsonl -->\n<!-- end -->', 'there is no .*y.jsonl'),
    ('<!-- table data/x.jsonl of=mean -->\n<!-- end -->',
     'unknown table \'mean\', did you mean \'means\''),
    ('<!-- table data/x.jsonl flop=95% -->\n<!-- end -->', '\'flop\''),
    ('<!-- table data/x.jsonl of=differences -->\n<!-- end -->',
     'page.md: <!-- table data/x.jsonl of=differences: .*\'reference\''),
    ('<!-- table data/x.jsonl of=differences reference=srste -->\n<!-- end -->',
     'reference must be one of dense, ste, sr_ste, mdgf, got \'srste\''),
    ('<!-- table data/x.jsonl of=ratios -->\n<!-- end -->',
     'the sweep of x must tell which rows are of one pattern'),
    ('<!-- table data/x.jsonl of=costs -->\n<!-- end -->',
     'a sweep with config.base.slim does'),
    ('<!-- table data/x.jsonl -->\nno end', 'of 1 comments .* 0 are such'),
    ('<!-- table data/x.jsonl flops = 95% -->\n<!-- end -->', '0 are such'),
])
def test_wrong_comment_is_told(comment, part, page):
  page.write_text(f'# Title\n\n{comment}\n')
  with pytest.raises(ValueError, match=part):
    pages.rendered(page)


def test_picture_that_the_results_do_not_have_is_told(page):
  page.write_text('![Words.](../_static/results/x_by_row.png)\n')
  assert pages.pictures(page)[0].data == (
      pathlib.Path(page.parent) / 'data' / 'x.jsonl')
  with pytest.raises(ValueError, match='unknown picture \'by_row.png\''):
    pages.write(page)
