r"""Trains every method at every target with every seed, and compares them.

  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/digits/sweep_nm.py \
      --workdir=runs/digits/sweep_nm

The command writes to the work directory: table.md, results.jsonl (a line about
the sweep and one for each run; `experiments.render` reads it), pictures,
tuned.json if the config tunes, and the work directory of every run. Start the
command again to continue: finished runs are not repeated, and the others
continue from their last checkpoint. Methods, targets and seeds may be added
later. Tables and results.jsonl tell what the last command asked for; a command
that asks for less than the one before says so. Several processes of the same
command may share the work directory, on one or several machines: each run has
one owner, and the other processes take the next run.

Lists are overridden by --config.seeds=0,1, --config.methods=ste,sr_ste and,
because flags need the quotes, --config.targets="'2:4,1:8'". --quick tries all
rows in minutes: one seed, one target, trainings of 40 steps. --dry_run tells
how many runs and steps are left, and trains nothing.
If a run fails, the others still run; the command reports the failure at the
end, with exit code 1.
"""

import contextlib
import functools
import json
import math
import pathlib
import shlex
import sys
import time
import traceback
from typing import NamedTuple

from absl import app
from absl import flags
from absl import logging
import ml_collections
import tqdm

from experiments import train
from experiments._utils import launch
from experiments._utils import stopping
from experiments.records import environment
from experiments.records import metrics
from experiments.records import owner
from experiments.records import workdir as workdirs
from experiments.reporting import document
from experiments.reporting import plots
from experiments.reporting import results
from experiments.reporting import tables
from experiments.sweeping import plan
from experiments.sweeping import preview
from experiments.sweeping import workers as pool

_WORKERS = flags.DEFINE_integer(
    'workers', 1, 'The number of training processes; with several processes, '
    'each uses one CPU.',
    lower_bound=1)

TABLE = 'table.md'
TUNED = 'tuned.json'
CACHE = 'cache'
LOG = 'log.txt'
LOCK = 'sweep.lock'  # Held while tables are written.

_PAUSE, _LONGEST = 2., 60.  # Seconds to wait for the runs of others.


class Swept(NamedTuple):
  """The results of a sweep."""
  runs: list[tables.Run]
  not_built: dict[tuple[str, str | None], str]  # Method, target -> why not.
  failures: list[str]  # A line for each run that failed.


def sweep(config: ml_collections.ConfigDict, workdir: str, *, workers: int = 1,
          command: str = '') -> Swept:
  """Trains the runs that are missing, and writes tables and pictures.

  Args:
    config: the config, such as `experiments/configs/digits/sweep_nm.py`.
    workdir: a new directory, or the directory of the same sweep.
    workers: the number of training processes; with 1, this process trains.
    command: the command that repeats the sweep, for the table.

  Returns:
    The finished runs, the runs that could not be built, and failures.

  Raises:
    ValueError: if the config or the directory is wrong, or nothing trains.
    OSError: if the directory cannot be written to.
  """
  config, path = plan.checked(config), pathlib.Path(workdir)
  tuning, judged, not_built = _plan(config, path, workers)
  path.mkdir(parents=True, exist_ok=True)
  if warning := results.left_out(path, {
      (run.method, run.target, run.seed)
      for run in plan.judged(config, path)}):
    launch.warn(warning)
  with owner.hold(path, name=LOCK, wait=True):
    workdirs.write(path / workdirs.SWEEP, config.to_json(indent=2) + '\n')

  with tqdm.tqdm(total=len(tuning) + len(judged), unit='run',
                 initial=sum(map(plan.ended, tuning + judged)),
                 disable=None) as bar:  # None: on terminals.
    train_all = functools.partial(
        _train, bar=bar, cache=str(path / CACHE), workers=workers)
    failures, tuned = train_all(tuning), None
    if tuning:
      tuned = _choose(tuning, config.tune)
      with owner.hold(path, name=LOCK, wait=True):
        workdirs.write(
            path / TUNED, json.dumps(tuned._asdict(), indent=2) + '\n')
      judged = _buildable(plan.judged(config, path, tuned.chosen), not_built)
      bar.total = len(tuning) + len(judged)
    write = functools.partial(
        _write, path, judged, config, tuned=tuned, not_built=not_built,
        command=command)
    failures += train_all(judged, after_each=write)
  runs = write()
  if not runs:
    raise ValueError(f'every run failed, the first: {failures[0]}')
  plots.write(path, runs, config)
  return Swept(runs, not_built, failures)


def dry_run(config: ml_collections.ConfigDict, workdir: str) -> str:
  """Returns what a sweep would train, without training or writing.

  Args:
    config: that of the sweep.
    workdir: its directory, which may not be there yet.

  Raises:
    ValueError: if the config or the directory is wrong.
  """
  tuning, judged, _ = _plan(plan.checked(config), pathlib.Path(workdir), 1)
  return preview.report(tuning, judged)


def main(argv: list[str]):
  del argv
  command = ['python', '-m', 'experiments.sweep', *sys.argv[1:]]
  with launch.mistakes_in_one_line(), stopping.raised():
    launch.check_flags(['config', 'workdir', 'dry_run'],
                       'several processes of a sweep are --workers=2')
    config = flags.FLAGS.config
    workdir = launch.workdir(flags.FLAGS.workdir)
    if flags.FLAGS.dry_run:
      print(dry_run(config, workdir))
      return
    swept = sweep(config, workdir, workers=_WORKERS.value,
                  command=shlex.join(command))
  path = pathlib.Path(workdir)
  print(f'\n{(path / TABLE).read_text()}')
  print(*sorted(file for file in path.iterdir() if file.is_file()), sep='\n')
  if swept.failures:
    runs = 'run' if len(swept.failures) == 1 else 'runs'
    sys.exit('\n'.join([f'error: {len(swept.failures)} {runs} failed:',
                        *swept.failures]))


def _plan(config, path, workers):
  """The runs that can be built, and what cannot: method, target -> why."""
  if (path / workdirs.CONFIG).exists():
    raise ValueError(f'{path} must be the directory of a sweep, but holds a '
                     'single run. Give another --workdir.')
  tuning, judged = plan.tuning(config, path), plan.judged(config, path)
  plan.check_directories(tuning or judged)
  not_built = _not_built(tuning + judged, workers)
  tuning, judged = (_buildable(runs, not_built) for runs in (tuning, judged))
  if not judged:
    raise ValueError(next(iter(not_built.values())))
  return tuning, judged, not_built


def _buildable(runs, not_built):
  return [run for run in runs if (run.method, run.target) not in not_built]


def _not_built(runs, workers):
  """Tells what cannot be built; returns method, target -> why not."""
  one_each = {(run.method, run.target): run for run in runs
              if not plan.ended(run)}
  problems = {}
  for outcome in pool.each(plan.build, [*one_each.values()], workers=workers):
    if outcome.error:
      method, target = outcome.job.method, outcome.job.target
      problems[method, target] = outcome.error
      print(f'n/a: {method} {target}: {outcome.error}', flush=True)
  return problems


def _train(runs, *, bar, cache, workers, after_each=lambda: None):
  """Trains what has not ended yet; returns a line for each failure.

  Runs that another sweep trains are waited for.
  """
  plan.check_directories(runs)
  failures, pause = {}, _PAUSE
  waiting = [run for run in runs if not plan.ended(run)]
  while waiting:
    for outcome in pool.each(
        functools.partial(_run, cache=cache), waiting, workers=workers):
      if outcome.error:
        failures[outcome.job.path] = f'{outcome.job.path}: {outcome.error}'
      elif not plan.ended(outcome.job):
        continue  # It is another's.
      bar.n += 1  # `bar.update` would not count where no bar is shown.
      bar.refresh()
      _tell(bar, outcome)
      after_each()
    waiting = [run for run in waiting
               if run.path not in failures and not plan.ended(run)]
    if waiting:
      time.sleep(pause)
      pause = min(2 * pause, _LONGEST)
  return [*failures.values()]


def _run(run, *, cache):
  """Trains one run; what it prints goes to a file beside its results."""
  logging.set_verbosity(logging.WARNING)  # Orbax logs a lot.
  launch.keep_programs(cache)  # Seeds share compilations.
  run.path.mkdir(parents=True, exist_ok=True)
  with ((run.path / LOG).open('a') as log,
        contextlib.redirect_stdout(log), contextlib.redirect_stderr(log)):
    try:
      ended_by = train.train(run.config, str(run.path)).signal
    except owner.InUse:
      return
    except Exception:
      traceback.print_exc()
      raise
  stopping.check(ended_by)


def _tell(bar, outcome):
  if outcome.error:
    bar.write(f'failed: {outcome.job.path}: {outcome.error}')
  elif bar.disable:
    key, row = _last(outcome.job)
    print(f'{bar.n:>4}/{bar.total}  {outcome.job.path}  '
          f'{metrics.METRICS[key].show(row[key])}', flush=True)


def _last(run):
  """The metric that judges a run that has ended, and its last row."""
  row = metrics.read(run.path / workdirs.METRICS)[-1]
  return metrics.judged_by(row), row


def _choose(runs, tune):
  """Tells what each value gave, the mean over seeds, and which is best."""
  found = {(run.method, run.value, run.seed): _last(run)
           for run in runs if plan.ended(run)}
  if not found:
    raise ValueError(
        f'every run that tries a value of {tune.key} failed; see '
        f'{runs[0].path / LOG}')
  metric = metrics.METRICS[next(iter(found.values()))[0]]

  def mean(method, value):
    given = [found.get((method, value, seed)) for seed in tune.seeds]
    if None in given:  # Do not choose a value that fails on one seed.
      return math.nan
    return metric.scale * sum(row[key] for key, row in given) / len(given)

  tried = {method: [[value, mean(method, value)] for value in tune['values']]
           for method in dict.fromkeys(run.method for run in runs)}
  return tables.Tuned(tune.key, tune.target, list(tune.seeds), tried,
                      tables.choose(tried, metric))


def _write(path, planned, config, **context):
  """Writes the results and tables of the runs that have ended."""
  with owner.hold(path, name=LOCK, wait=True):
    return _write_alone(path, planned, config, **context)


def _write_alone(path, planned, config, *, tuned, not_built, command):
  done = [run for run in planned if plan.ended(run)]
  runs = [tables.Run(run.method, run.target, run.seed,
                     metrics.read(run.path / workdirs.METRICS))
          for run in done]
  lines = [_line(run, measured.rows, path, config)
           for run, measured in zip(done, runs)]
  workdirs.write(path / results.FILE, results.text(results.Results(
      config, lines, tuned, not_built, [command] if command else [])))
  if done:  # The table is made of the file, as `experiments.render` makes it.
    workdirs.write(path / TABLE, document.table_md(
        results.read([path / results.FILE])))
  return runs


def _line(run, rows, path, config):
  """What `results.jsonl` says about a run that measured these rows."""
  return {
      'method': run.method, 'target': run.target, 'n': run.config.get('n'),
      'm': run.config.get('m'), 'seed': run.seed,
      'config': plan.differences(run.config, config.base),
      'row': rows[-1], 'curves': results.curves(rows),
      **{name: found for name, found in workdirs.sources(run.path).items()
         if found},
      'environment': environment.brief(run.path),
      'path': str(run.path.relative_to(path))}


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=launch.parse)
