r"""Compares dense training with every pattern in every domain, in one table.

  python -m experiments.domains --workers=2 --workdir=runs/domains
  python -m experiments.domains --ratios --workers=2 --workdir=runs/ratios

The command runs four sweeps one after the other: images, texts, a language
model and a recommender, as described in `configs/sweep_domains.py`. Each sweep
has a folder with its runs, tables and pictures. Start the command again to
continue. --domains=nlp runs one of the sweeps, --seeds=0 uses one seed, and
--quick tries the command in minutes.

With --ratios the sweeps are those of `configs/sweep_ratios.py`: each pattern at
several ratios, on tasks where patterns differ. The table then begins with the
ratio at which each pattern costs 1%, and ratios.png shows the curves.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
import sys

from absl import app
from absl import flags
import numpy as np

from experiments import sweep as sweeps
from experiments._utils import launch
from experiments._utils import names
from experiments._utils import quick
from experiments._utils import stopping
from experiments.configs import sweep_domains
from experiments.configs import sweep_ratios
from experiments.records import workdir as workdirs
from experiments.reporting import ratio_plots
from experiments.reporting import ratios
from experiments.reporting import tables

_DOMAINS = flags.DEFINE_list(
    'domains', [], 'Which domains; by default all.')
_RATIOS = flags.DEFINE_bool(
    'ratios', False, 'Whether each pattern is tried at several ratios.')
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2', '3', '4'], 'Which seeds.')

TABLE = 'table.md'
CURVES = 'ratios.png'

_NOTE = (
    'Mean ± half of its 95% interval over seeds. In parentheses: the share of '
    'the prunable weights that is pruned or, if whole units are removed, '
    'the remaining FLOPs of a forward pass. Bold: the interval of the '
    'paired difference to the dense network of the same seed excludes zero, '
    'which happens by chance in one of twenty cases.')


def table(found: Mapping[str, Sequence[tables.Run]]) -> str:
  """Returns the table: a row a method, a column a domain.

  Args:
    found: the runs of each domain.
  """
  metrics = {name: tables.judged(runs)[1] for name, runs in found.items()}
  rows = dict.fromkeys(run.method for runs in found.values() for run in runs)
  lines = [['', *(f'{name}: {metric.axis_label}'
                  for name, metric in metrics.items())]]
  for row in rows:
    lines.append([row.replace('_', ' ')])
    for name, runs in found.items():
      lines[-1].append(_cell(runs, row, metrics[name]))
  return tables.markdown(lines)


def _cell(runs, row, metric):
  scores = tables.scores(runs, row, tables.ALL)
  if not scores:
    return tables.NOT_BUILT
  text = tables.show(tables.estimate([*scores.values()]), metric.digits)
  if tables.is_dense(row):
    return text
  dense = tables.scores(runs, tables.DENSE, tables.ALL)
  pairs = [scores[seed] - dense[seed] for seed in scores if seed in dense]
  if len(pairs) > 1:
    difference = tables.estimate(pairs)
    if abs(difference.mean) > difference.half:
      text = f'**{text}**'
  last = [run.rows[-1] for run in runs if run.method == row]
  if all('gpu_flops' in row for row in last):
    left = np.mean([row['gpu_flops'] / row['dense_flops'] for row in last])
    return f'{text} ({left:.0%} of FLOPs)'
  return f'{text} ({np.mean([row["sparsity"] for row in last]):.0%} pruned)'


def document(found: Mapping[str, Sequence[tables.Run]],
             patterns: Mapping[str, Sequence[str]]) -> str:
  """Returns the text of `table.md`.

  Args:
    found: the runs of each domain.
    patterns: the rows of each pattern that was tried at several ratios.
  """
  parts = [table(found), _NOTE]
  if patterns:
    parts = [ratios.table(found, patterns), ratios.NOTE, *parts]
  return '\n\n'.join(parts) + '\n'


def main(argv: list[str]):
  del argv
  configs = sweep_ratios if _RATIOS.value else sweep_domains
  patterns = sweep_ratios.PATTERNS if _RATIOS.value else {}
  found, failures = {}, []
  with launch.mistakes_in_one_line(), stopping.raised():
    launch.check_flags(
        ['workdir'], 'each domain has a config of its own, and several '
        'processes are --workers=2')
    path = pathlib.Path(launch.workdir(flags.FLAGS.workdir))
    for domain in _DOMAINS.value or configs.DOMAINS:
      names.lookup(dict.fromkeys(configs.DOMAINS), domain, kind='domain')
      config = configs.get_config(domain)
      config.seeds = tuple(map(int, _SEEDS.value))
      if launch.QUICK.value:
        quick.shrink(config)
      swept = sweeps.sweep(config, str(path / domain),
                           workers=flags.FLAGS.workers)
      found[domain], failures = swept.runs, failures + swept.failures
      workdirs.write(path / TABLE, document(found, patterns))
      if patterns:
        ratio_plots.write(path / CURVES, found, patterns)
  print(f'\n{(path / TABLE).read_text()}\n{path / TABLE}')
  if failures:
    sys.exit('\n'.join(['error: runs failed:', *failures]))


if __name__ == '__main__':
  flags.mark_flags_as_required(['workdir'])
  app.run(main, flags_parser=launch.parse)
