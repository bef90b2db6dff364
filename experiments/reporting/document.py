"""`table.md`, all that a sweep found as text."""

from experiments.records import workdir
from experiments.reporting import cost_table
from experiments.reporting import paired
from experiments.reporting import results as results_lib
from experiments.reporting import tables

_TUNED_NOTE = (
    'Every method was tried with the same values of {key}, at {target}, on '
    'seeds {seeds}, which judge nothing else; the best, in bold, is what the '
    'tables above use.')
_EDGE_NOTE = 'Best at an end of the grid, so maybe better beyond it: '
_MIXED_NOTE = ' (**the {} changed between runs: they do not compare**)'
# What runs began with -> what tells which lines have to have it in common.
_SOURCES = {
    'data': lambda line: None,
    'weights': lambda line: line['config'].get('init_from'),
    workdir.RECIPE: lambda line: line['method']}


def table_md(results: results_lib.Results) -> str:
  """Returns the text of `table.md`.

  Args:
    results: the results of one sweep, of one or several `results.jsonl`.
  """
  config, runs = results.config, results_lib.runs(results)
  _, metric = tables.judged(runs)
  better = 'higher' if metric.higher_is_better else 'lower'
  order = config.methods, config.targets
  parts = [
      f'# {metric.axis_label} by method and target',
      tables.means(runs, *order, seeds=len(config.seeds)),
      tables.MEANS_NOTE.format(better=better)]
  reference = config.get('reference', 'sr_ste')
  if reference in config.methods and len(config.methods) > 1:
    parts += [f'## Paired differences to {reference}',
              paired.differences(runs, *order, reference=reference,
                                 seeds=len(config.seeds)),
              paired.DIFFERENCES_NOTE.format(
                  better=better, reference=reference)]
  parts += _cost_parts(runs, config, better)
  parts += _tuning_parts(results.tuned, metric) if results.tuned else []
  if results.not_built:
    parts += ['## Not built', '\n'.join(
        f'- {method} {target}: {why}'
        for (method, target), why in results.not_built.items())]
  return '\n\n'.join([*parts, '## How', _how(results)]) + '\n'


def _cost_parts(runs, config, better):
  parts = []
  if cost_table.has_costs(runs) and 'base' in config:
    parts += ['## Costs', cost_table.cost_table(runs, config),
              cost_table.NOTE.format(steps=config.base.steps)]
  if tables.has_targets(config) and any(
      cost_table.train_share(runs, method, target) is not None
      for method in config.methods if not tables.is_dense(method)
      for target in config.targets):
    parts += ['## At equal FLOPs of training',
              cost_table.budgets(runs, config.methods, config.targets,
                                 seeds=len(config.seeds)),
              cost_table.BUDGETS_NOTE.format(better=better.capitalize())]
  return parts


def _tuning_parts(tuned, metric):
  parts = ['## Tuned equally', tables.tuning(tuned, metric),
           _TUNED_NOTE.format(key=tuned.key, target=tuned.target,
                              seeds=_numbers(tuned.seeds))]
  ends = {method: (min(pairs)[0], max(pairs)[0])
          for method, pairs in tuned.tried.items()}
  edges = [method for method, value in tuned.chosen.items()
           if value in ends[method]]
  return parts + ([_EDGE_NOTE + ', '.join(edges)] if edges else [])


def _how(results):
  config = results.config
  lines = [f'- seeds {_numbers(config.seeds)}']
  if 'base' in config:
    base = config.base
    lines.insert(0, f'- {base.model} on {base.dataset}, {base.steps:,} steps')
  lines += _sources(results.lines)
  lines += [f'- `{command}`' for command in results.commands]
  if 'base' in config and not results.commands:
    lines.append('- called from Python')
  return '\n'.join(lines)


def _sources(lines):
  """The fingerprints of what runs began with, and which of them changed."""
  told = []
  for name, common in _SOURCES.items():
    found = {(common(line), line[name]) for line in lines if name in line}
    values = sorted({value for _, value in found})
    if values:
      changed = len(found) > len({one for one, _ in found})
      told.append(f'- {name} {", ".join(values)}'
                  + _MIXED_NOTE.format(name) * changed)
  return told


def _numbers(seeds):
  return ', '.join(map(str, seeds))
