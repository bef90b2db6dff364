"""The report of pruned networks: a table, a picture, and both as data."""

from collections.abc import Callable
from collections.abc import Sequence
import pathlib

import ml_collections
import numpy as np

from experiments.pruning import pictures
from experiments.pruning import plan
from experiments.records import environment
from experiments.records import metrics
from experiments.records import workdir as workdirs
from experiments.reporting import paired
from experiments.reporting import results
from experiments.reporting import tables

TABLE = 'table.md'
PICTURE = 'quality.png'

_NOT_MEASURED = (*plan.Cell._fields, 'environment')  # Of the keys of a row.
_KEPT_NOTE = (
    'The share of the magnitude of the dense kernels that masks keep, mean '
    'over seeds.')
_SECONDS_NOTE = (
    'Mean over seeds of the time of pruning, with statistics and compilation '
    'of new programs, without measuring and saving.')
_ERRORS_NOTE = (
    'For each kernel, the squared error of its outputs relative to the squares '
    'of the outputs, with the inputs of the dense network on the judged '
    'data; mean over seeds. The first row is the mean over kernels.')


def write(path: pathlib.Path, rows: Sequence[metrics.Row],
          config: ml_collections.ConfigDict, *, title: str, data: str,
          command: str) -> str:
  """Writes table, picture and results into `path`; returns the table.

  Args:
    path: a work directory.
    rows: of its cells that have ended.
    config: which cells there are to be.
    title: of the network.
    data: the fingerprint of its data.
    command: by which people can repeat it.
  """
  planned = {*plan.cells(config)}
  # Old rows do not tell it, only how many there were when it was recorded.
  numbered = environment.briefs(path, range(1, len(rows) + 1))
  made_in = {plan.cell(row): row.get('environment', brief)
             for row, brief in zip(rows, numbered)}
  rows = [row for row in rows if plan.cell(row) in planned]
  runs = [tables.Run(plan.cell(row).row, row['target'], row['seed'], [row])
          for row in rows]
  methods = [name for name in plan.rows(config)
             if any(run.method == name for run in runs)]
  weights = dict.fromkeys(row.get('weights', '?') for row in rows)
  text = '\n\n'.join(_parts(rows, runs, methods, config) + [
      '## How', '\n'.join([
          f'- {title}, {config.calibration:,} examples to calibrate, '
          f'{config.judged:,} to judge at most',
          f'- seeds {", ".join(map(str, config.seeds))}',
          f'- data {data}, weights {", ".join(weights)}',
          f'- `{command}`' if command else '- called from Python'])]) + '\n'
  workdirs.write(path / TABLE, text)
  workdirs.write(path / results.FILE, results.text(_results(
      rows, config, made_in, data=data, command=command)))
  if len(methods) > 1:
    pictures.plot_quality(path / PICTURE, runs, methods, config.targets)
  return text


def _results(rows, config, made_in, *, data, command):
  """The cells in the form in which sweeps tell their runs."""
  told = config.copy_and_resolve_references()
  with told.unlocked():
    for key in ('refit', 'save_pruned'):  # They are in the names of rows, or
      del told[key]  # change no measurement.
  told.methods = tuple(plan.rows(config))
  lines = []
  for row in rows:
    cell = plan.cell(row)
    lines.append({
        'method': cell.row, 'target': cell.target, 'seed': cell.seed,
        'config': {}, 'row': {key: value for key, value in row.items()
                              if key not in _NOT_MEASURED},
        'data': data, 'environment': made_in[cell], 'path': str(cell.folder)})
  return results.Results(told, lines, commands=[command] if command else [])


def _parts(rows, runs, methods, config):
  """The sections of measurements."""
  _, metric = tables.judged(runs)
  better = 'higher' if metric.higher_is_better else 'lower'
  parts = [
      f'# {metric.axis_label} by method and target',
      tables.means(runs, methods, config.targets, seeds=len(config.seeds)),
      tables.MEANS_NOTE.format(better=better)]
  sparse = [name for name in methods if not tables.is_dense(name)]
  if not sparse:
    return parts
  parts += [
      '## Paired differences to dense',
      paired.differences(runs, methods, config.targets, reference=tables.DENSE,
                         seeds=len(config.seeds)),
      paired.DIFFERENCES_NOTE.format(better=better, reference=tables.DENSE),
      '## Magnitude kept', _grid(
          'method', sparse, config.targets, lambda name, target: [
              row['kept'] for row in _of(rows, name, target) if 'kept' in row],
          '.1%', len(config.seeds)),
      _KEPT_NOTE, '## Seconds',
      _grid('method', sparse, config.targets, lambda name, target: [
          row['seconds'] for row in _of(rows, name, target)], '.1f',
            len(config.seeds)),
      _SECONDS_NOTE, '## Errors of outputs, kernel by kernel', _ERRORS_NOTE]
  kernels = [*next(row['errors'] for row in rows if 'errors' in row)]
  for target in config.targets:
    def errors(kernel, name, target=target):
      found = [row['errors'] for row in _of(rows, name, target)]
      return [one[kernel] if kernel in one else np.mean([*one.values()])
              for one in found]
    parts += [f'### {target}', _grid(
        'kernel', ['all', *kernels], sparse, errors, '.4f',
        len(config.seeds))]
  return parts


def _of(rows, name, target):
  return [row for row in rows
          if plan.cell(row).row == name and row['target'] == target]


def _grid(corner: str, names: Sequence[str], columns: Sequence[str],
          values: Callable[[str, str], list[float]], digits: str, seeds: int
          ) -> str:
  """A table of means; a cell without values has not ended."""
  def show(found):
    if not found:
      return tables.NOT_BUILT
    return tables.sized(f'{np.mean(found):{digits}}', len(found), seeds)
  return tables.markdown([[corner, *columns], *(
      [name, *(show(values(name, column)) for column in columns)]
      for name in names)])
